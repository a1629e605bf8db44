//! The requests of HTTP in the log, at level debug: one line when the head of one has come, one when it is answered. Both have the
//! request's id, which the client has given (`X-Request-Id`) or gets with the answer. The query is left out: it may have a token in it.

use std::fmt;

use super::Shard;
use crate::base::slots::Id;

/// Bytes of a method in the log: more than any has that is known.
const METHOD_BYTES: usize = 16;

/// A method, of which a peer may have made up any: as long as those that there are, and nothing that is not visible.
struct Method<'a>(&'a str);

impl fmt::Display for Method<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0.as_bytes()[..self.0.len().min(METHOD_BYTES)];
        write!(out, "{}", shown.escape_ascii())?;
        out.write_str(if shown.len() < self.0.len() { "..." } else { "" })
    }
}

impl Shard {
    /// The head of a request has come.
    pub(super) fn log_request(&self, id: Id, request: &str, method: &str, path: &str) {
        log::debug!(conn:% = self.name_of(id), request, method:% = Method(method), path; "request");
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

#[cfg(test)]
mod tests {
    use super::Method;

    #[test]
    fn a_method_is_cut_and_shown_as_it_can_be_seen() {
        let shown = |method: &str| Method(method).to_string();
        assert_eq!(shown("PROPFIND"), "PROPFIND");
        assert_eq!(shown("SIXTEEN-LETTERS-"), "SIXTEEN-LETTERS-");
        assert_eq!(shown(&"A".repeat(10_000)), "AAAAAAAAAAAAAAAA...");
        assert_eq!(shown("\u{1b}[2J\u{e9}"), "\\x1b[2J\\xc3\\xa9");
    }
}
