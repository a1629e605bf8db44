//! Bytes to frames and back, without input or output: every codec takes bytes that somebody read and yields what
//! they say, in whatever chunks they come. `wire` is the vocabulary that all encodings share.

pub mod frame;
pub mod grpc;
pub mod http1;
pub mod http2;
pub mod json;
pub mod line;
pub mod protobuf;
mod scan;
pub mod sse;
pub mod text;
pub mod value;
pub mod websocket;
pub mod wire;
