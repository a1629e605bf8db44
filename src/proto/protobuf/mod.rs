//! Commands and events in Protobuf, as `starling.proto` has them (proto3).
//!
//! A WebSocket message carries a whole `Command` or `Event` ([`parse`], [`write()`]). A binary frame names the kind in its
//! header, and so its payload is the bare message of that kind ([`parse_as`], [`write_as`]): a `Join`, not a `Command`
//! with a `Join` in it. The `id` has no place in such a message of its own; it stands in it as the additional field 100,
//! a string, with the number that it has in `Command` and `Event`, and readers that do not know it skip it as every
//! unknown field. No message of the schema uses that number for anything else.
//!
//! What proto3 cannot tell from a field's default is absent: an empty string or a 0 where the field may be left out.
//! A field that must be there and is not is an empty string, which no name and no content may be. A field that stands
//! twice counts as it stood last, as Protobuf has it.

mod command;
mod event;

/// What the schema says, as Rust: made from `starling.proto` when the server is built.
#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
pub mod schema {
    include!(concat!(env!("OUT_DIR"), "/chat.rs"));
}

pub use command::{parse, parse_as};
pub use event::{write, write_as};

/// The field `id` in `Command` and `Event`, and in the bare messages of frames.
const ID_FIELD: u32 = 100;

/// The schema itself, for clients that want it.
pub const SCHEMA: &str = include_str!("../starling.proto");
