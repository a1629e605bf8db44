//! What a whole head says, and everything for which it is refused.

use std::mem::MaybeUninit;

use memchr::memchr;

use super::target::{Target, check_host};
use super::{HttpError, Refused};

/// Fields in a head. Browsers send about 20.
const FIELDS_MAX: usize = 64;

/// The longest request id that is taken over, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

static SYNTAX: HttpError = HttpError { status: 400, message: "the request line is malformed" };
static FIELD_NAME: HttpError = HttpError { status: 400, message: "a field's name is not a token" };
static FIELD_VALUE: HttpError = HttpError { status: 400, message: "a character must not stand in a field" };
static FIELD_COUNT: HttpError = HttpError { status: 431, message: "the head has too many fields" };
static VERSION: HttpError = HttpError { status: 505, message: "only HTTP/1.0 and HTTP/1.1 are spoken here" };
static NO_HOST: HttpError = HttpError { status: 400, message: "the host is missing" };
static REPEATED: HttpError = HttpError { status: 400, message: "a field that may stand once is repeated" };
static LENGTH: HttpError = HttpError { status: 400, message: "the content's length is not a number" };
static TWO_LENGTHS: HttpError =
    HttpError { status: 400, message: "both a length and a transfer coding are given" };
static OLD_CODING: HttpError = HttpError { status: 400, message: "HTTP/1.0 has no transfer codings" };
static CODING: HttpError =
    HttpError { status: 501, message: "the only transfer coding known here is chunked" };
static EXPECTATION: HttpError =
    HttpError { status: 417, message: "the only expectation known here is 100-continue" };

/// A request's head. Everything in it has been checked but `method`, which may be any token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    /// The method, as it was written: methods are case-sensitive.
    pub method: &'a str,
    /// The target, as it was written.
    pub target: &'a str,
    /// The target's path, its escapes not decoded. `*` in `OPTIONS *`.
    pub path: &'a str,
    /// What follows the path behind a `?`, not decoded.
    pub query: Option<&'a str>,
    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub version_minor: u8,
    /// Whether another request may follow on the connection.
    pub is_keep_alive: bool,
    /// The body that follows.
    pub body: Body,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// The host and port asked for; `None` only in HTTP/1.0.
    pub host: Option<&'a str>,
    /// The `Origin` of a browser's request, `null` included.
    pub origin: Option<&'a str>,
    /// The `X-Request-Id`, if it is 1 to 128 visible characters.
    pub request_id: Option<&'a str>,
    /// The lines of the fields, each with its CRLF.
    fields: &'a [u8],
}

/// What follows a head, as its fields announce it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// Nothing: no body is announced, or an empty one.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks that tell their own lengths.
    Chunked,
}

impl<'a> Head<'a> {
    /// The fields in their order.
    pub fn headers(&self) -> Headers<'a> {
        Headers { rest: self.fields }
    }

    /// The values of all fields called `name`, whatever its case. One that is not UTF-8 is left out.
    pub fn headers_named<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.headers()
            .filter(move |(candidate, _)| candidate.eq_ignore_ascii_case(name.as_bytes()))
            .filter_map(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// Whether `Accept` names a media type, and does not name it to say that it is not wanted (RFC 9110, 12.4.2 and 12.5.1). Ranges with
    /// `*` name none, and of weights only 0 counts.
    pub fn names_accepted(&self, media_type: &str) -> bool {
        let mut ranges = self.headers_named("accept").flat_map(|value| value.split(','));
        ranges.any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_named = parts.next().is_some_and(|named| named.eq_ignore_ascii_case(media_type));
            let weight = parts.filter_map(|part| part.split_once('='));
            let mut weight = weight.filter(|(name, _)| name.trim_end().eq_ignore_ascii_case("q"));
            let weight = weight.next().and_then(|(_, weight)| weight.trim_start().parse::<f32>().ok());
            is_named && weight != Some(0.0)
        })
    }

    /// The value of the first field called `name`.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers_named(name).next()
    }
}

/// A head's fields: each its name, and its value without the white space around it.
///
/// They are looked up in the head itself: it is short, few are asked for, and a table of 64 would be copied with
/// every head.
#[derive(Debug, Clone)]
pub struct Headers<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (line, rest) = self.rest.split_at(memchr(b'\r', self.rest)?);
        self.rest = rest.strip_prefix(b"\r\n").unwrap_or_default();
        let (name, value) = line.split_at(memchr(b':', line)?);
        Some((name, value[1..].trim_ascii()))
    }
}

/// Whether `method` is one that HTTP defines (RFC 9110, 9.3, and PATCH and QUERY): where it does not fit it is a 405, any
/// other is a 501.
pub fn is_known_method(method: &str) -> bool {
    matches!(
        method,
        "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH" | "QUERY"
    )
}

/// Takes a whole head apart: from its request line to the empty line, its line ends known to be CRLF.
pub(super) fn parse(bytes: &[u8]) -> Result<Head<'_>, Refused> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let outcome = request.parse_with_uninit_headers(bytes, &mut fields);
    let line_bytes = memchr(b'\r', bytes).unwrap_or(bytes.len());
    match outcome {
        Ok(httparse::Status::Complete(head_bytes)) if head_bytes == bytes.len() => {}
        Ok(_) => return Err(&SYNTAX),
        Err(httparse::Error::TooManyHeaders) => return Err(&FIELD_COUNT),
        Err(httparse::Error::HeaderName) => return Err(&FIELD_NAME),
        Err(httparse::Error::HeaderValue) => return Err(&FIELD_VALUE),
        Err(httparse::Error::Version) if names_a_version(&bytes[..line_bytes]) => return Err(&VERSION),
        Err(_) => return Err(&SYNTAX),
    }
    let (Some(method), Some(target), Some(version_minor)) = (request.method, request.path, request.version)
    else {
        return Err(&SYNTAX);
    };
    let Target { path, query, host: target_host } = Target::parse(method, target)?;
    let known = KnownFields::collect(request.headers)?;
    let body = known.body(version_minor)?;
    if known.host.is_none() && version_minor == 1 {
        return Err(&NO_HOST);
    }
    Ok(Head {
        method,
        target,
        path,
        query,
        version_minor,
        is_keep_alive: !known.asks_to_close && (version_minor == 1 || known.asks_to_keep_alive),
        body,
        // HTTP/1.0 does not know the interim answer (RFC 9110, 10.1.1), and without a body there is nothing to wait for.
        expects_continue: known.expects_continue && version_minor == 1 && body != Body::None,
        // The absolute form overrides the field (RFC 9112, 3.2.2).
        host: target_host.or(known.host),
        origin: known.origin,
        request_id: known.request_id,
        fields: &bytes[line_bytes + 2..bytes.len() - 2],
    })
}

/// The fields that decide how a request is read, and those that every request is asked for.
#[derive(Default)]
struct KnownFields<'a> {
    host: Option<&'a str>,
    origin: Option<&'a str>,
    request_id: Option<&'a str>,
    length: Option<u64>,
    coding: Option<&'a [u8]>,
    asks_to_close: bool,
    asks_to_keep_alive: bool,
    expects_continue: bool,
}

impl<'a> KnownFields<'a> {
    fn collect(fields: &[httparse::Header<'a>]) -> Result<KnownFields<'a>, Refused> {
        let mut known = KnownFields::default();
        for field in fields {
            let value = field.value.trim_ascii();
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            if is("host") {
                put_once(&mut known.host, check_host(text(value)?)?)?;
            } else if is("content-length") {
                put_once(&mut known.length, length(value)?)?;
            } else if is("transfer-encoding") {
                put_once(&mut known.coding, value)?;
            } else if is("connection") {
                let list = text(value)?;
                known.asks_to_close |= list_has(list, "close");
                known.asks_to_keep_alive |= list_has(list, "keep-alive");
            } else if is("expect") {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(&EXPECTATION);
                }
                known.expects_continue = true;
            } else if is("origin") {
                put_once(&mut known.origin, text(value)?)?;
            } else if is("x-request-id") {
                known.request_id = known.request_id.or(request_id(value));
            }
        }
        Ok(known)
    }

    /// What follows the head (RFC 9112, 6.3), with everything refused on which two readers could disagree.
    fn body(&self, version_minor: u8) -> Result<Body, Refused> {
        match (self.coding, self.length) {
            (None, None | Some(0)) => Ok(Body::None),
            (None, Some(length)) => Ok(Body::Length(length)),
            (Some(_), Some(_)) => Err(&TWO_LENGTHS),
            (Some(_), None) if version_minor == 0 => Err(&OLD_CODING),
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Body::Chunked),
            (Some(_), None) => Err(&CODING),
        }
    }
}

fn put_once<T>(slot: &mut Option<T>, value: T) -> Result<(), Refused> {
    match slot.replace(value) {
        Some(_) => Err(&REPEATED),
        None => Ok(()),
    }
}

/// A value that is compared or handed on as text: ASCII, as all values defined today are.
fn text(value: &[u8]) -> Result<&str, Refused> {
    match std::str::from_utf8(value) {
        Ok(text) if text.is_ascii() => Ok(text),
        _ => Err(&FIELD_VALUE),
    }
}

/// A length: digits and nothing else, which rules out signs and lists (RFC 9112, 6.3).
fn length(value: &[u8]) -> Result<u64, Refused> {
    if !value.iter().all(u8::is_ascii_digit) {
        return Err(&LENGTH);
    }
    text(value)?.parse().map_err(|_| &LENGTH)
}

fn request_id(value: &[u8]) -> Option<&str> {
    let is_taken = value.len() <= REQUEST_ID_BYTES_MAX && value.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(value).ok().filter(|id| is_taken && !id.is_empty())
}

/// Whether `token` is in a list (RFC 9110, 5.6.1).
pub(in crate::proto) fn list_has(list: &str, token: &str) -> bool {
    list.split(',').any(|entry| entry.trim_ascii().eq_ignore_ascii_case(token))
}

/// Whether a request line ends with a version of HTTP, be it one that is not spoken here.
fn names_a_version(line: &[u8]) -> bool {
    let version = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Head<'_> {
        parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn who_accepts_a_type_names_it_and_does_not_refuse_it() {
        for (accepted, accept) in [
            (true, "a/b"),
            (true, "text/plain, A/B;version=1 ; q=0.5"),
            (true, "a/b;q=0.001"),
            (true, "a/b;q=0, a/b;version=1;q=1"),
            (true, "a/b;q=none"),
            (false, ""),
            (false, "*/*, a/*"),
            (false, "a/bc, xa/b, text/plain;of=a/b"),
            (false, "a/b;q=0"),
            (false, "text/plain, a/b;version=1; Q = 0.000"),
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: h\r\nAccept: {accept}\r\n\r\n");
            assert_eq!(head(&text).names_accepted("a/b"), accepted, "{accept}");
        }
    }

    #[test]
    fn a_head_is_taken_apart() {
        let text = "POST /a%20b?c=d HTTP/1.1\r\nHost: h:80\r\nX-Request-Id: r-1\r\nAccept:\t a \r\nOrigin: null\r\n\
                    accept: b\r\nEmpty:\r\nLatin: \u{e9}\r\nContent-Length: 007\r\nExpect: 100-Continue\r\n\r\n";
        let head = head(text);
        assert_eq!((head.method, head.target), ("POST", "/a%20b?c=d"));
        assert_eq!((head.path, head.query), ("/a%20b", Some("c=d")));
        assert_eq!((head.host, head.origin, head.request_id), (Some("h:80"), Some("null"), Some("r-1")));
        assert_eq!((head.version_minor, head.body), (1, Body::Length(7)));
        assert!(head.is_keep_alive && head.expects_continue);
        assert_eq!(head.header("ACCEPT"), Some("a"));
        assert_eq!(head.headers_named("accept").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(head.header("empty"), Some(""));
        assert_eq!(head.header("none"), None);
        assert_eq!(head.headers().count(), 9);
        assert_eq!(head.headers().nth(6), Some((&b"Latin"[..], "é".as_bytes())));
    }

    #[test]
    fn a_method_is_known_as_it_is_written() {
        let known = "GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH QUERY";
        assert!(known.split(' ').all(is_known_method));
        assert!(!["get", "BREW", "GETS", ""].into_iter().any(is_known_method));
    }

    #[test]
    fn nothing_stands_behind_the_end_of_a_head() {
        let one = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        assert_eq!(parse(one.repeat(2).as_bytes()), Err(&SYNTAX));
        assert_eq!(parse(&one.as_bytes()[..one.len() - 2]), Err(&SYNTAX));
    }

    #[test]
    fn what_is_compared_is_ascii() {
        for field in ["Origin: http://caf\u{e9}", "Connection: clos\u{e9}", "Content-Length: \u{661}"] {
            let text = format!("GET / HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n");
            assert_eq!(parse(text.as_bytes()).unwrap_err().status, 400, "{field}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_seen_only_by_those_who_ask_for_bytes() {
        let head = parse(b"GET / HTTP/1.1\r\nHost: h\r\nX: \xe9\r\nX: y\r\n\r\n").unwrap();
        assert_eq!(head.headers_named("x").collect::<Vec<_>>(), ["y"]);
        assert_eq!(head.headers().nth(1), Some((&b"X"[..], &b"\xe9"[..])));
    }

    #[test]
    fn connections_stay_by_the_rules_of_their_version() {
        for (version, connection, is_keep_alive) in [
            ("1.1", "", true),
            ("1.1", "Connection: upgrade, Close\r\n", false),
            ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let text = format!("GET / HTTP/{version}\r\nHost: h\r\n{connection}\r\n");
            assert_eq!(head(&text).is_keep_alive, is_keep_alive, "{version} {connection}");
        }
    }

    #[test]
    fn an_absolute_target_overrides_the_host() {
        let head = head("GET http://a:1/x HTTP/1.1\r\nHost: b\r\n\r\n");
        assert_eq!((head.host, head.path), (Some("a:1"), "/x"));
    }

    #[test]
    fn nothing_to_wait_for_is_not_waited_for() {
        for text in [
            "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n",
            "POST / HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n",
        ] {
            assert!(!head(text).expects_continue);
        }
    }

    #[test]
    fn only_a_short_visible_request_id_is_taken_over() {
        let long = "x".repeat(129);
        for (id, expected) in
            [("", None), ("a b", None), ("é", None), (&long[1..], Some(&long[1..])), (&long, None)]
        {
            let text = format!("GET / HTTP/1.0\r\nX-Request-Id: {id}\r\n\r\n");
            assert_eq!(head(&text).request_id, expected, "{id}");
        }
    }
}
