//! gRPC over HTTP/2, as its protocol document has it ("gRPC over HTTP2"): what a call is, how its messages are framed, and how it
//! ends.
//!
//! A message is one byte that says whether it is compressed (none is, here), its length in four, big-endian, and the message.
//! They have nothing to do with the frames of HTTP/2, which cut them anywhere.

mod decoder;
mod message;
pub mod reflection;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

pub use decoder::{Decoder, Violation};
pub use message::{Said, read_login, read_message, read_sent, write_event, write_login, write_sent};

/// The schemas of health checking, as Rust.
#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}

/// The name of the service that chats.
pub const CHAT_SERVICE: &str = "chat.ChatService";

/// The bytes before each message.
pub const PREFIX_BYTES: usize = 5;

/// The largest value of `grpc-timeout`: eight digits.
const TIMEOUT_DIGITS_MAX: usize = 8;

/// A method that can be called here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Method {
    Login,
    SendMessage,
    StreamMessages,
    Connect,
    HealthCheck,
    HealthList,
    HealthWatch,
    Reflection,
}

impl Method {
    /// The method at the path of a request.
    pub fn at(path: &str) -> Option<Method> {
        Some(match path {
            "/chat.ChatService/Login" => Method::Login,
            "/chat.ChatService/SendMessage" => Method::SendMessage,
            "/chat.ChatService/StreamMessages" => Method::StreamMessages,
            "/chat.ChatService/Connect" => Method::Connect,
            "/grpc.health.v1.Health/Check" => Method::HealthCheck,
            "/grpc.health.v1.Health/List" => Method::HealthList,
            "/grpc.health.v1.Health/Watch" => Method::HealthWatch,
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => Method::Reflection,
            _ => return None,
        })
    }

    /// Whether it is called with one message.
    pub fn is_unary(self) -> bool {
        !matches!(self, Method::StreamMessages | Method::Connect | Method::Reflection)
    }
}

/// How a call ends, by the numbers of gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

impl Code {
    /// The code for a status of HTTP, as errors carry it.
    pub fn of_http(status: u16) -> Code {
        match status {
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            404 => Code::NotFound,
            409 => Code::AlreadyExists,
            413 | 429 => Code::ResourceExhausted,
            503 => Code::Unavailable,
            400..500 => Code::InvalidArgument,
            _ => Code::Internal,
        }
    }
}

/// The end of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// How it ends.
    pub code: Code,
    /// Why, as a word for programs; empty if all went well.
    pub reason: &'static str,
    /// Why, for people.
    pub message: String,
    /// After how many milliseconds it may go better.
    pub retry_after_ms: Option<u64>,
}

impl Status {
    /// All went well.
    pub const OK: Status =
        Status { code: Code::Ok, reason: "", message: String::new(), retry_after_ms: None };

    /// It did not.
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Status { code, reason, message: message.into(), retry_after_ms: None }
    }

    /// The trailers that tell it.
    pub fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        trailers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from(self.code as u16));
        if !self.message.is_empty() {
            trailers.insert(HeaderName::from_static("grpc-message"), escaped(&self.message));
        }
        if !self.reason.is_empty() {
            trailers.insert(HeaderName::from_static("reason"), HeaderValue::from_static(self.reason));
        }
        if let Some(ms) = self.retry_after_ms {
            trailers.insert(HeaderName::from_static("grpc-retry-pushback-ms"), HeaderValue::from(ms));
        }
        trailers
    }

    /// An answer that is nothing but this.
    pub fn answer(&self) -> Response<()> {
        let mut answer = head();
        answer.headers_mut().extend(self.trailers());
        answer
    }
}

/// The head that the answer to a call begins with.
pub fn head() -> Response<()> {
    let mut head = Response::new(());
    head.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    head.headers_mut()
        .insert(HeaderName::from_static("grpc-accept-encoding"), HeaderValue::from_static("identity"));
    head
}

/// The answer to a request that is no call: 415, as the protocol has it.
pub fn not_a_call() -> Response<()> {
    let mut answer = Status::new(Code::Internal, "bad_request", "this port speaks gRPC").answer();
    *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    answer
}

/// Whether the type of a request's content is that of a call with messages in Protobuf.
pub fn is_call(headers: &HeaderMap) -> bool {
    let Some(kind) = text(headers, "content-type") else { return false };
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/grpc") || kind.eq_ignore_ascii_case("application/grpc+proto")
}

/// The value of a header as text, if it is there and is one.
pub fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A header that does not say a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoTime;

/// How many milliseconds the client gives the call, by `grpc-timeout`; `None` if it gives it all the time.
///
/// # Errors
/// If the header does not say a time.
pub fn timeout_ms(headers: &HeaderMap) -> Result<Option<u64>, NoTime> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let value = value.to_str().map_err(|_| NoTime)?;
    let (unit_at, unit) = value.char_indices().next_back().ok_or(NoTime)?;
    let digits = &value[..unit_at];
    if digits.is_empty() || digits.len() > TIMEOUT_DIGITS_MAX || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(NoTime);
    }
    let number: u64 = digits.parse().map_err(|_| NoTime)?;
    Ok(Some(match unit {
        'H' => number * 3_600_000,
        'M' => number * 60_000,
        'S' => number * 1000,
        'm' => number,
        'u' => number.div_ceil(1000),
        'n' => number.div_ceil(1_000_000),
        _ => return Err(NoTime),
    }))
}

/// Text as `grpc-message` carries it: what is no printable ASCII, and the percent sign, in percent escapes of its UTF-8.
fn escaped(text: &str) -> HeaderValue {
    let mut out = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..b' ' | 0x7F.. => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                out.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
            }
            _ => out.push(byte),
        }
    }
    HeaderValue::from_maybe_shared(Bytes::from(out)).expect("all of it is printable")
}

/// Appends a message: what `write` appends, and before it the prefix.
pub fn put(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX_BYTES]);
    write(out);
    let length = (out.len() - start - PREFIX_BYTES) as u32;
    out[start + 1..start + PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    #[test]
    fn every_method_of_the_schemas_is_at_its_path() {
        let bytes = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
        let files = prost_types::FileDescriptorSet::decode(&bytes[..]).unwrap().file;
        let mut count = 0;
        for (file, service) in
            files.iter().flat_map(|file| file.service.iter().map(move |service| (file, service)))
        {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                let at = Method::at(&path).unwrap_or_else(|| panic!("{path} is not found"));
                assert_eq!(at.is_unary(), !method.client_streaming(), "{path}");
                assert_eq!(Method::at(&path[1..]), None);
                count += 1;
            }
        }
        assert_eq!(count, 9);
        assert_eq!(Method::at("/chat.ChatService/Nothing"), None);
    }

    #[test]
    fn a_status_of_http_has_a_code() {
        for (status, code) in [
            (400, Code::InvalidArgument),
            (401, Code::Unauthenticated),
            (403, Code::PermissionDenied),
            (404, Code::NotFound),
            (409, Code::AlreadyExists),
            (413, Code::ResourceExhausted),
            (422, Code::InvalidArgument),
            (429, Code::ResourceExhausted),
            (499, Code::InvalidArgument),
            (500, Code::Internal),
            (503, Code::Unavailable),
        ] {
            assert_eq!(Code::of_http(status), code, "{status}");
        }
    }

    #[test]
    fn a_call_ends_with_what_there_is_to_say() {
        let told = |headers: &HeaderMap| -> Vec<(String, String)> {
            let told =
                headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
            told.filter(|(name, _)| name != "content-type" && name != "grpc-accept-encoding").collect()
        };
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(told(&Status::OK.trailers()), pairs(&[("grpc-status", "0")]));
        let mut status = Status::new(Code::ResourceExhausted, "rate_limited", "50% of é");
        status.retry_after_ms = Some(1500);
        let expected = pairs(&[
            ("grpc-status", "8"),
            ("grpc-message", "50%25 of %C3%A9"),
            ("reason", "rate_limited"),
            ("grpc-retry-pushback-ms", "1500"),
        ]);
        assert_eq!(told(&status.trailers()), expected);
        let answer = status.answer();
        assert_eq!((answer.status(), told(answer.headers())), (StatusCode::OK, expected));
        assert_eq!(text(answer.headers(), "content-type"), Some("application/grpc"));
        assert_eq!(text(answer.headers(), "grpc-accept-encoding"), Some("identity"));
        assert_eq!(text(answer.headers(), "reason"), Some("rate_limited"));
        assert_eq!(text(answer.headers(), "nothing"), None);
        let answer = not_a_call();
        assert_eq!(
            (answer.status(), text(answer.headers(), "grpc-status")),
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, Some("13"))
        );
    }

    #[test]
    fn times_in_every_unit() {
        let of = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_static(value));
            timeout_ms(&headers)
        };
        assert_eq!(timeout_ms(&HeaderMap::new()), Ok(None));
        for (value, ms) in [
            ("2H", 7_200_000),
            ("3M", 180_000),
            ("10S", 10_000),
            ("250m", 250),
            ("1u", 1),
            ("99999999n", 100),
        ] {
            assert_eq!(of(value), Ok(Some(ms)), "{value}");
        }
        for value in ["", "S", "1", "1s", "-1S", "+1S", "123456789S", "1 S", "\u{a0}"] {
            let headers =
                HeaderMap::from_iter([(HeaderName::from_static("grpc-timeout"), escaped_raw(value))]);
            assert_eq!(timeout_ms(&headers), Err(NoTime), "{value:?}");
        }
    }

    fn escaped_raw(value: &str) -> HeaderValue {
        HeaderValue::from_bytes(value.as_bytes()).unwrap()
    }

    proptest! {
        #[test]
        fn any_message_is_a_header(text: String) {
            let value = escaped(&text);
            let mut bytes = Vec::new();
            let mut rest = value.as_bytes();
            while let Some((first, after)) = rest.split_first() {
                rest = after;
                if *first == b'%' {
                    let digits = std::str::from_utf8(&rest[..2]).unwrap();
                    bytes.push(u8::from_str_radix(digits, 16).unwrap());
                    rest = &rest[2..];
                } else {
                    prop_assert!((b' '..0x7F).contains(first));
                    bytes.push(*first);
                }
            }
            prop_assert_eq!(String::from_utf8(bytes).unwrap(), text);
        }
    }

    #[test]
    fn only_calls_in_protobuf_are_calls() {
        let of = |value: &'static str| {
            is_call(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]))
        };
        assert!(of("application/grpc") && of("application/grpc+proto") && of("Application/gRPC; charset=x"));
        assert!(!of("application/grpc+json") && !of("application/grpc-web") && !of("text/plain") && !of(""));
        assert!(!is_call(&HeaderMap::new()));
    }
}
