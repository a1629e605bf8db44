//! A client of starling, the chat server, for terminals and pipes: `starling chat`.
//!
//! [`App`](app::App) is all of the client but its input and output: keys and events go in, what is asked and shown comes out. [`view`] draws it, [`run`](mod@run)
//! owns the terminal and the connection, and [`plain`] is the client for pipes. The connection is that of [`starling_client`].

pub mod app;
pub mod buffer;
pub mod clock;
pub mod commands;
pub mod complete;
pub mod editor;
mod flags;
pub mod plain;
pub mod run;
pub mod terminal;
pub mod text;
pub mod theme;
pub mod view;

pub use flags::{EXAMPLES, Flags, Outcome, run};
