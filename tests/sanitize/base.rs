#[path = "../../src/base/tcp.rs"]
pub mod tcp;
