//! The requests of HTTP in the log, at level debug: one line when the head of one has come, one when it is answered. Both have the
//! request's id, which the client has given (`X-Request-Id`) or gets with the answer. The query is left out: it may have a token in it.

use super::Shard;
use crate::base::slots::Id;

impl Shard {
    /// The head of a request has come.
    pub(super) fn log_request(&self, id: Id, request: &str, method: &str, path: &str) {
        log::debug!(conn:% = self.name_of(id), request, method, path; "request");
    }

    /// A request is answered, or what is no request.
    pub(super) fn log_answered(&self, id: Id, request: Option<&str>, status: u16, began_ns: u64) {
        let (conn, us) = (self.name_of(id), self.now.ns.saturating_sub(began_ns) / 1000);
        match request {
            Some(request) => log::debug!(conn:%, request, status, us; "answered"),
            None => log::debug!(conn:%, status, us; "answered"),
        }
    }
}
