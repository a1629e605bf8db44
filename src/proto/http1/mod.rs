//! HTTP/1.0 and HTTP/1.1 (RFC 9110, RFC 9112), the server's side.
//!
//! [`HeadDecoder`] yields a request's [`Head`], [`BodyDecoder`] the body that the head announces, and [`Reply`] writes
//! the answer. All three are strict: where two readers of the same bytes could see different requests, neither a
//! proxy's nor a client's reading is guessed at, the request is refused.

mod body;
mod date;
mod head;
mod request;
mod response;
mod target;

pub use body::{BodyDecoder, Piece};
pub use date::date;
pub use head::HeadDecoder;
pub(super) use request::list_has;
pub use request::{Body, Head, Headers, is_known_method};
pub(super) use response::put_field;
pub use response::{CONTINUE, Content, Reply, put};
pub use target::{form_decode, percent_decode, query_pairs};

/// A request refused. The connection cannot go on: where the next request begins is no longer certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpError {
    /// The status to answer with.
    pub status: u16,
    /// What was wrong, in a sentence for a person.
    pub message: &'static str,
}

/// What these modules hand each other: a decoder remembers it in one word.
type Refused = &'static HttpError;

/// Whether `byte` may stand in a token: a method, or a field's name (RFC 9110, 5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether `byte` must not stand in a line: every control character but the tab.
fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}
