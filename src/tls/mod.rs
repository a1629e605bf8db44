//! TLS, as bytes in and bytes out: no socket, no file. The loop gives a [`Tls`] what it reads, and writes what it gives.
//!
//! | file | what |
//! |------|------|
//! | `stream` | one connection: ciphertext to plaintext and back |
//! | `settings` | from the contents of PEM files to what connections are made from |
//! | `certificate` | when a certificate ends |
//!
//! The protocol itself is rustls's. It takes time (how old is a ticket) and randomness from the system by itself: neither can be
//! seen from outside but in bytes that nobody can tell from others, and the lengths of those follow from what was said.

pub mod certificate;
pub mod settings;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;

pub use stream::{INPUT_OVERHEAD, Tls};

/// What the connections of a listener are made from. It may be replaced at any time: those that are there keep what they began
/// with.
pub type ServerSettings = Arc<ArcSwap<ServerConfig>>;

/// What connections to somebody else are made from, and the name that their certificate must have.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// Versions, roots and the rest.
    pub config: Arc<ClientConfig>,
    /// The name.
    pub name: ServerName<'static>,
}
