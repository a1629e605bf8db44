//! HTTP/1.1: round trips of GET. Answers come in the order of the requests, by which each is known; `--in-flight` is how
//! many are pipelined.

use std::sync::OnceLock;

use super::{Heard, Persona, Protocol, Stage, Traits};
use crate::bench::marker::Marker;

/// The protocol.
#[derive(Debug)]
pub struct Http {
    /// The whole request.
    request: Vec<u8>,
    /// What the first answer calls the server.
    version: OnceLock<String>,
}

impl Http {
    /// Requests of a path.
    pub fn new(host: &str, path: &str) -> Http {
        Http {
            request: format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into(),
            version: OnceLock::new(),
        }
    }
}

impl Protocol for Http {
    fn traits(&self) -> Traits {
        Traits { hears_itself: true, is_echo: true, ..Traits::default() }
    }

    fn publish(
        &self,
        _me: &Persona<'_>,
        _marker: Marker,
        _bytes: usize,
        _ack: Option<&str>,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(&self.request);
    }

    fn version(&self) -> Option<String> {
        self.version.get().filter(|version| !version.is_empty()).cloned()
    }

    fn decode(&self, _stage: &mut Stage, input: &[u8], heard: &mut Vec<Heard>) -> Result<usize, String> {
        let mut at = 0;
        while let Some(head_bytes) = memchr::memmem::find(&input[at..], b"\r\n\r\n") {
            let head = &input[at..at + head_bytes + 2];
            let begin = at + head_bytes + 4;
            let Some(body_bytes) = body_bytes(head, &input[begin..])? else { break };
            if input.len() < begin + body_bytes {
                break;
            }
            self.version.get_or_init(|| server_of(head));
            let status = head.get(9..12).unwrap_or_default();
            if !status.starts_with(b"2") {
                heard.push(Heard::Refused(String::from_utf8_lossy(status).into()));
            }
            heard.push(Heard::Answered);
            at = begin + body_bytes;
        }
        Ok(at)
    }
}

/// What the header `Server` says; empty without one.
pub fn server_of(head: &[u8]) -> String {
    let mut fields = head.split(|byte| *byte == b'\n').filter_map(|line| {
        let (name, value) = line.split_at(memchr::memchr(b':', line)?);
        Some((name, value[1..].trim_ascii()))
    });
    let server = fields.find(|(name, _)| name.eq_ignore_ascii_case(b"server"));
    server.map(|(_, name)| String::from_utf8_lossy(name).into()).unwrap_or_default()
}

/// How long the body is, once that is known.
fn body_bytes(head: &[u8], body: &[u8]) -> Result<Option<usize>, String> {
    let mut length = None;
    let lines = head.split(|byte| *byte == b'\n');
    for line in lines {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let text = std::str::from_utf8(value).unwrap_or_default();
            length = Some(text.parse::<u32>().map_err(|_| "a Content-Length that is no number")? as usize);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") && value.eq_ignore_ascii_case(b"chunked") {
            return chunked_bytes(body);
        }
    }
    // Without either, only answers that have no body go on: 204 and 304.
    match length {
        None if !matches!(head.get(9..12), Some(b"204" | b"304")) => {
            Err("an answer without a length: a connection carries only one of those".to_owned())
        }
        length => Ok(Some(length.unwrap_or(0))),
    }
}

fn chunked_bytes(body: &[u8]) -> Result<Option<usize>, String> {
    let mut at = 0;
    while let Some(line_bytes) = memchr::memmem::find(&body[at..], b"\r\n") {
        let line = &body[at..at + line_bytes];
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let text = std::str::from_utf8(digits).unwrap_or_default();
        let bytes = u32::from_str_radix(text, 16).map_err(|_| "a chunk without a size")? as usize;
        at += line_bytes + 2 + bytes + 2;
        if bytes == 0 {
            // Trailers are not looked for: nobody sends them to those who have not asked.
            return Ok((body.len() >= at).then_some(at));
        }
        if at > body.len() {
            return Ok(None);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::heard;
    use super::*;

    proptest! {
        #[test]
        fn answers_are_counted_alike_in_any_pieces(pieces in prop::collection::vec(1usize..60, 1..10)) {
            let input = b"HTTP/1.1 200 OK\r\nserver: x/1\r\nContent-Length: 2\r\n\r\nOKHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                3\r\nabc\r\n0\r\n\r\nHTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
            let http = Http::new("h", "/");
            prop_assert_eq!(heard(&http, 0, input, &pieces), vec![
                Heard::Answered, Heard::Answered, Heard::Answered, Heard::Refused("503".into()), Heard::Answered,
            ]);
            prop_assert_eq!(http.version(), Some("x/1".to_owned()));
        }
    }
}
