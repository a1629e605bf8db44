//! Answers, written with straight appends: an answer to `/health` is some ten copies and no formatting.

use memchr::memchr2;

use super::Head;

/// The interim answer that a client with `Expect: 100-continue` waits for.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What of an answer's head does not depend on it, generously: it only spares the buffer a second growth.
const HEAD_BYTES_USUAL: usize = 256;

/// An answer to one request.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// The status.
    pub status: u16,
    /// The content's type, if there is content.
    pub content_type: Option<&'a str>,
    /// Further fields. A CR or LF in one of them is a bug of the caller's, and panics.
    pub headers: &'a [(&'a str, &'a str)],
    /// The content.
    pub content: Content<'a>,
    /// Whether another request may follow on the connection.
    pub is_keep_alive: bool,
    /// The request's version: to keep an HTTP/1.0 connection it must be told so.
    pub version_minor: u8,
    /// Whether HEAD was asked: everything is written but the content.
    pub is_head: bool,
    /// The request's id, to be echoed.
    pub request_id: Option<&'a str>,
    /// The time, in the form of RFC 9110, 5.6.7.
    pub date: Option<&'a str>,
}

/// What follows an answer's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// These bytes, perhaps none.
    Bytes(&'a [u8]),
    /// Whatever is written afterwards, until the connection is closed: a stream of events.
    UntilClose,
}

impl<'a> Reply<'a> {
    /// An empty answer to a request: it keeps the connection if the request does, and echoes its id.
    pub fn to(head: &Head<'a>, status: u16) -> Reply<'a> {
        Reply {
            is_keep_alive: head.is_keep_alive,
            version_minor: head.version_minor,
            is_head: head.method == "HEAD",
            request_id: head.request_id,
            ..Reply::last(status)
        }
    }

    /// An empty answer after which the connection closes: to bytes that are no request.
    pub fn last(status: u16) -> Reply<'a> {
        Reply {
            status,
            content_type: None,
            headers: &[],
            content: Content::Bytes(b""),
            is_keep_alive: false,
            version_minor: 1,
            is_head: false,
            request_id: None,
            date: None,
        }
    }
}

/// Writes an answer.
pub fn put(out: &mut Vec<u8>, reply: &Reply) {
    let (content, is_keep_alive) = match reply.content {
        Content::Bytes(bytes) => (bytes, reply.is_keep_alive),
        // Nothing but its end can end it: HTTP/1.0 has no chunks, and with them every event would be framed twice.
        Content::UntilClose => (&b""[..], false),
    };
    out.reserve(HEAD_BYTES_USUAL + content.len());
    put_status_line(out, reply.status);
    if let Some(date) = reply.date {
        put_field(out, "Date", date);
    }
    if let Some(content_type) = reply.content_type {
        put_field(out, "Content-Type", content_type);
    }
    // RFC 9110, 8.6; a 304 may carry one, but it would be that of the content it stands for, which is not known here.
    let has_content = !matches!(reply.status, 100..=199 | 204 | 304);
    assert!(has_content || content.is_empty(), "a {} has no content", reply.status);
    if has_content && reply.content != Content::UntilClose {
        put_field(out, "Content-Length", itoa::Buffer::new().format(content.len()));
    }
    if !is_keep_alive {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if reply.version_minor == 0 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    if let Some(request_id) = reply.request_id {
        put_field(out, "X-Request-Id", request_id);
    }
    for (name, value) in reply.headers {
        put_field(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
    if !reply.is_head {
        out.extend_from_slice(content);
    }
}

/// Writes a field's line.
pub(in crate::proto) fn put_field(out: &mut Vec<u8>, name: &str, value: &str) {
    // What a peer sent cannot have one, since no head or query with one is accepted unescaped; a caller that unescapes
    // and echoes must not get to write fields of the peer's choice.
    let is_one_line = |text: &str| memchr2(b'\r', b'\n', text.as_bytes()).is_none();
    assert!(is_one_line(name) && is_one_line(value), "a field is one line");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn put_status_line(out: &mut Vec<u8>, status: u16) {
    if status == 200 {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason_phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The words behind a status. No client reads them, so that one that is missing here does no harm.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(reply: &Reply) -> String {
        let mut out = Vec::new();
        put(&mut out, reply);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_health_answer_is_small() {
        let reply = Reply { content: Content::Bytes(b"OK"), is_keep_alive: true, ..Reply::last(200) };
        assert_eq!(written(&reply), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK");
    }

    #[test]
    fn every_field_has_its_place() {
        let reply = Reply {
            content_type: Some("text/plain"),
            headers: &[("Allow", "GET"), ("Retry-After", "1")],
            content: Content::Bytes(b"no"),
            request_id: Some("r-1"),
            date: Some("Sun, 06 Nov 1994 08:49:37 GMT"),
            ..Reply::last(405)
        };
        assert_eq!(
            written(&reply),
            "HTTP/1.1 405 Method Not Allowed\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: text/plain\r\n\
             Content-Length: 2\r\nConnection: close\r\nX-Request-Id: r-1\r\nAllow: GET\r\nRetry-After: 1\r\n\r\nno"
        );
        let unknown = Reply { is_keep_alive: true, ..Reply::last(299) };
        assert_eq!(written(&unknown), "HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n");
    }

    #[test]
    fn a_status_has_the_words_that_others_have_for_it() {
        let (mut known, mut missing) = (0, Vec::new());
        for status in 100..600 {
            let canonical = http::StatusCode::from_u16(status).unwrap().canonical_reason();
            match (reason_phrase(status), canonical) {
                ("", _) => missing.push(status),
                // RFC 9110 has renamed it.
                ("Content Too Large", Some("Payload Too Large")) => known += 1,
                (phrase, canonical) => {
                    assert_eq!(Some(phrase), canonical, "{status}");
                    known += 1;
                }
            }
        }
        assert!(known > 0);
        let answered = [
            100, 101, 200, 204, 304, 400, 401, 403, 404, 405, 408, 409, 411, 413, 414, 415, 417, 426, 429,
            431, 500, 501, 503, 505,
        ];
        assert!(answered.iter().all(|status| !missing.contains(status)));
    }

    #[test]
    fn an_answer_fits_its_request() {
        for (method, minor) in [("GET", 1), ("HEAD", 1), ("HEADS", 1), ("HEAD", 0)] {
            let text = format!("{method} / HTTP/1.{minor}\r\nHost: h\r\nX-Request-Id: r\r\n\r\n");
            let mut decoder = super::super::HeadDecoder::new(10, 100);
            let (_, head) = decoder.decode(text.as_bytes()).unwrap();
            let reply = Reply::to(&head.unwrap(), 200);
            assert_eq!(reply.is_head, method == "HEAD", "{method}");
            assert_eq!((reply.version_minor, reply.is_keep_alive), (minor, minor == 1));
            assert_eq!(reply.request_id, Some("r"));
        }
    }

    #[test]
    fn head_is_told_the_length_that_get_would_have() {
        let reply = Reply { content: Content::Bytes(b"12345"), is_head: true, ..Reply::last(200) };
        assert!(written(&reply).ends_with("Content-Length: 5\r\nConnection: close\r\n\r\n"));
    }

    #[test]
    fn answers_without_content_have_no_length() {
        for status in [101, 204, 304] {
            assert!(!written(&Reply::last(status)).contains("Content-Length"), "{status}");
        }
        let stream = Reply { content: Content::UntilClose, is_keep_alive: true, ..Reply::last(200) };
        assert_eq!(written(&stream), "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    }

    #[test]
    fn an_old_client_is_told_that_the_connection_stays() {
        let reply = Reply { is_keep_alive: true, version_minor: 0, ..Reply::last(204) };
        assert_eq!(written(&reply), "HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n");
    }

    #[test]
    #[should_panic(expected = "a field is one line")]
    fn a_field_cannot_carry_another_one() {
        put_field(&mut Vec::new(), "Location", "/\r\nSet-Cookie: a=b");
    }
}
