//! What a core asks of somebody who sees all of them: it has no other core's numbers, and reads no files.

use super::mail::ConnectionRef;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// The numbers of the whole server, as Prometheus reads them, or in the form of OpenMetrics.
    Metrics {
        /// Whether it is the latter.
        is_open_metrics: bool,
    },
}

/// What is answered: a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The value of its `Content-Type`.
    pub content_type: &'static str,
    /// Its bytes.
    pub body: Vec<u8>,
}

/// Whoever sees all cores.
pub trait Observer: std::fmt::Debug + Send + Sync {
    /// Asks something for a connection, whose core is told by [`super::mail::Mail::ApiReply`]. Says whether there was place for it; never
    /// waits.
    #[must_use]
    fn ask(&self, from: ConnectionRef, question: Question) -> bool;
}
