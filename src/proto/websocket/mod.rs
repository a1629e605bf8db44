//! WebSocket (RFC 6455), the server's side, and its compression (permessage-deflate, RFC 7692).
//!
//! [`Decoder`] turns a client's bytes into messages and control frames, the `put_` functions write the server's frames,
//! and [`handshake`] decides about the upgrade. What is compressed, [`extension`] negotiates, and [`Inflater`] and [`Deflater`]
//! read and write.

mod decoder;
mod deflate;
pub mod extension;
mod frame;
pub mod handshake;
mod utf8;

pub use decoder::{Decoder, Item};
pub use deflate::{Deflater, Inflater, Window};
pub use frame::{
    Opcode, header_bytes, put_binary, put_close, put_frame, put_header, put_ping, put_pong, put_text,
};

/// Why a connection must be closed: the peer broke the protocol, or a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// The status code to close with (RFC 6455, 7.4.1): 1002, 1007 or 1009.
    pub code: u16,
    /// What was wrong, fit to be a close frame's reason.
    pub why: &'static str,
}

/// Every way to break the protocol; a byte, where a [`Violation`] would take three words of each decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    ReservedBits,
    CompressedBit,
    ReservedOpcode,
    ControlFragmented,
    ControlLength,
    Unmasked,
    LengthForm,
    LengthSign,
    ContinuationOfNothing,
    MessageInterrupted,
    MessageLength,
    FragmentCount,
    Utf8,
    Deflate,
    FinalBlockCount,
    CloseLength,
    CloseCode,
    CloseReason,
}

impl Fault {
    fn violation(self) -> Violation {
        let (code, why) = match self {
            Fault::ReservedBits => (1002, "reserved bits are set and no extension is in use"),
            Fault::CompressedBit => (1002, "the bit for compression is set within a message"),
            Fault::ReservedOpcode => (1002, "the opcode is reserved"),
            Fault::ControlFragmented => (1002, "a control frame is fragmented"),
            Fault::ControlLength => (1002, "a control frame is longer than 125 bytes"),
            Fault::Unmasked => (1002, "a client's frame is not masked"),
            Fault::LengthForm => (1002, "a length is not in its shortest form"),
            Fault::LengthSign => (1002, "a length has its highest bit set"),
            Fault::ContinuationOfNothing => (1002, "a continuation frame continues nothing"),
            Fault::MessageInterrupted => (1002, "a message begins within another one"),
            Fault::MessageLength => (1009, "the message is too long"),
            Fault::FragmentCount => (1009, "the message has too many fragments"),
            Fault::Utf8 => (1007, "the text is not UTF-8"),
            Fault::Deflate => (1007, "the compressed data is not valid"),
            Fault::FinalBlockCount => (1009, "the compressed message has too many final blocks"),
            Fault::CloseLength => (1002, "a close frame has half a status code"),
            Fault::CloseCode => (1002, "the status code must not be sent"),
            Fault::CloseReason => (1007, "the reason is not UTF-8"),
        };
        Violation { code, why }
    }
}
