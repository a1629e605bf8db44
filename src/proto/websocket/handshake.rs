//! The upgrade from HTTP (RFC 6455, 4.2).

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sha1_smol::Sha1;

use super::extension::{Agreement, Malformed, Offer};
use crate::proto::http1::{Body, Head, list_has, put_field};

/// What is hashed together with the key (1.3).
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Bytes of a key once decoded (4.1).
const KEY_BYTES: usize = 16;

/// Base64 with padding. The bits that a key's last character has left over may be anything: the RFC's own example
/// (4.1, item 7) leaves them set.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// A request that may be answered with [`put_response`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upgrade<'a> {
    /// The client's key, which the answer proves to have seen.
    pub key: &'a str,
    head: Head<'a>,
}

impl<'a> Upgrade<'a> {
    /// The subprotocols offered, the client's favourite first.
    pub fn protocols(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.head
            .headers_named("sec-websocket-protocol")
            .flat_map(|list| list.split(','))
            .map(str::trim_ascii)
            .filter(|protocol| !protocol.is_empty())
    }

    /// The compression offered, if there is an offer that can be accepted. A field that is not of its form means that the
    /// handshake has failed (RFC 6455, 9.1).
    pub fn deflate(&self) -> Result<Option<Offer>, Refusal> {
        Offer::first(self.head.headers_named("sec-websocket-extensions"))
            .map_err(|Malformed| Refusal::bad_request("the list of extensions is not well formed"))
    }
}

/// A request that cannot be upgraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The status to answer with: 400, 405 or 426.
    pub status: u16,
    /// What was wrong, in a sentence for a person.
    pub message: &'static str,
    /// Fields that the answer must have.
    pub headers: &'static [(&'static str, &'static str)],
}

impl Refusal {
    const fn bad_request(message: &'static str) -> Refusal {
        Refusal { status: 400, message, headers: &[] }
    }
}

/// Whether a request is a WebSocket handshake, and if not, the answer to it.
pub fn upgrade<'a>(head: &Head<'a>) -> Result<Upgrade<'a>, Refusal> {
    if head.method != "GET" {
        let headers = &[("Allow", "GET")];
        return Err(Refusal { status: 405, message: "a WebSocket begins with GET", headers });
    }
    let fields = Fields::collect(head);
    if !fields.names_websocket {
        // RFC 9110, 15.5.22: a 426 names the protocol. With a length and not with an upgrade, it is still an answer.
        let headers = &[("Upgrade", "websocket"), ("Connection", "Upgrade")];
        return Err(Refusal { status: 426, message: "only WebSocket is spoken here", headers });
    }
    if head.version_minor == 0 {
        return Err(Refusal::bad_request("HTTP/1.0 cannot be upgraded"));
    }
    if !fields.names_upgrade {
        return Err(Refusal::bad_request("the connection's options lack the upgrade"));
    }
    if head.body != Body::None {
        return Err(Refusal::bad_request("a WebSocket's handshake has no body"));
    }
    if fields.version != Only::Once("13") {
        let headers = &[("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket"), ("Connection", "Upgrade")];
        return Err(Refusal { status: 426, message: "only version 13 of WebSocket is spoken here", headers });
    }
    match fields.key {
        Only::Once(key) if is_key(key) => Ok(Upgrade { key, head: *head }),
        _ => Err(Refusal::bad_request("the key is not one of 16 bytes in base64")),
    }
}

/// What a client expects to hear for its key (4.2.2, item 5).
pub fn accept_key(key: &str) -> String {
    let mut hash = Sha1::from(key);
    hash.update(ACCEPT_SUFFIX.as_bytes());
    BASE64.encode(hash.digest().bytes())
}

/// Writes the answer that makes the connection a WebSocket.
pub fn put_response(
    out: &mut Vec<u8>,
    key: &str,
    protocol: Option<&str>,
    deflate: Option<&Agreement>,
    request_id: Option<&str>,
) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
    );
    put_field(out, "Sec-WebSocket-Accept", &accept_key(key));
    if let Some(protocol) = protocol {
        put_field(out, "Sec-WebSocket-Protocol", protocol);
    }
    if let Some(deflate) = deflate {
        out.extend_from_slice(b"Sec-WebSocket-Extensions: ");
        deflate.put(out);
        out.extend_from_slice(b"\r\n");
    }
    if let Some(request_id) = request_id {
        put_field(out, "X-Request-Id", request_id);
    }
    out.extend_from_slice(b"\r\n");
}

/// The fields that make a request a handshake, found in one pass. A value that is not UTF-8 is left out.
#[derive(Default)]
struct Fields<'a> {
    names_websocket: bool,
    names_upgrade: bool,
    version: Only<'a>,
    key: Only<'a>,
}

impl<'a> Fields<'a> {
    fn collect(head: &Head<'a>) -> Fields<'a> {
        let mut fields = Fields::default();
        for (name, value) in head.headers() {
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            let text = || std::str::from_utf8(value).ok();
            if is("upgrade") {
                fields.names_websocket |= text().is_some_and(|list| list_has(list, "websocket"));
            } else if is("connection") {
                fields.names_upgrade |= text().is_some_and(|list| list_has(list, "upgrade"));
            } else if is("sec-websocket-version") {
                fields.version.add(text());
            } else if is("sec-websocket-key") {
                fields.key.add(text());
            }
        }
        fields
    }
}

/// The value of a field that must stand once.
#[derive(Default, PartialEq)]
enum Only<'a> {
    #[default]
    Absent,
    Once(&'a str),
    Repeated,
}

impl<'a> Only<'a> {
    fn add(&mut self, value: Option<&'a str>) {
        if let Some(value) = value {
            *self = if *self == Only::Absent { Only::Once(value) } else { Only::Repeated };
        }
    }
}

fn is_key(key: &str) -> bool {
    // The engine wants room for an estimate, and no key as long as that decodes to 16 bytes.
    let mut bytes = [0; KEY_BYTES + 2];
    BASE64.decode_slice(key, &mut bytes) == Ok(KEY_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http1::HeadDecoder;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    /// The status a handshake is refused with, or the protocols that it offers.
    fn outcome(request_line: &str, fields: &[&str]) -> Result<Vec<String>, u16> {
        let text = format!("{request_line}\r\nHost: h\r\n{}\r\n\r\n", fields.join("\r\n"));
        let mut decoder = HeadDecoder::new(100, 1000);
        let (_, head) = decoder.decode(text.as_bytes()).unwrap();
        let outcome = upgrade(&head.unwrap());
        outcome
            .map(|upgrade| upgrade.protocols().map(str::to_owned).collect())
            .map_err(|refusal| refusal.status)
    }

    #[test]
    fn the_key_of_the_rfc_is_answered_as_the_rfc_does() {
        assert_eq!(accept_key(KEY), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let mut out = Vec::new();
        let offer =
            Offer::first(["permessage-deflate; server_no_context_takeover"].into_iter()).unwrap().unwrap();
        put_response(&mut out, KEY, Some("starling.json.v1"), Some(&offer.agree(true)), Some("r-1"));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: starling.json.v1\r\n\
             Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n\
             X-Request-Id: r-1\r\n\r\n"
        );
    }

    #[test]
    fn a_handshake_is_read_whatever_its_case_and_lists() {
        let key = format!("Sec-WebSocket-Key: {KEY}");
        let fields = [
            "upgrade: h2c, WebSocket",
            "Connection: keep-alive",
            "Connection: foo,UPGRADE",
            "Sec-WebSocket-Version: 13",
            &key,
            "Sec-WebSocket-Protocol: a,, b",
            "Sec-WebSocket-Protocol: c",
            "Content-Length: 0",
        ];
        let offered = ["a", "b", "c"].map(str::to_owned).to_vec();
        assert_eq!(outcome("GET /ws HTTP/1.1", &fields), Ok(offered));
        assert_eq!(outcome("POST /ws HTTP/1.1", &fields), Err(405));
        assert_eq!(outcome("GET /ws HTTP/1.0", &fields), Err(400));
    }

    #[test]
    fn compression_is_offered_by_a_field_of_its_form() {
        let offered = |extensions: &str| {
            let text = format!(
                "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Extensions: {extensions}\r\n\r\n"
            );
            let mut decoder = HeadDecoder::new(100, 1000);
            let (_, head) = decoder.decode(text.as_bytes()).unwrap();
            upgrade(&head.unwrap()).unwrap().deflate().map_err(|refusal| refusal.status)
        };
        let offer = "permessage-deflate; client_no_context_takeover";
        assert_eq!(offered(offer), Ok(Offer::first([offer].into_iter()).unwrap()));
        assert_eq!(offered("foo"), Ok(None));
        assert_eq!(offered("permessage-deflate;"), Err(400));
    }

    #[test]
    fn anything_missing_repeated_or_wrong_is_refused() {
        let right = [
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            &format!("Sec-WebSocket-Key: {KEY}"),
        ];
        assert_eq!(outcome("GET / HTTP/1.1", &right), Ok(vec![]));
        for (at, field, status) in [
            (0, "Upgrade: websockets", 426),
            (0, "X: websocket", 426),
            (1, "Connection: close", 400),
            (1, "X: upgrade", 400),
            (2, "Sec-WebSocket-Version: 12", 426),
            (2, "Sec-WebSocket-Version: 13, 8", 426),
            (2, "X: 13", 426),
            (3, "X: dGhlIHNhbXBsZSBub25jZQ==", 400),
            (3, "Sec-WebSocket-Key: ", 400),
            (3, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ", 400),
            (3, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j", 400),
            (3, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==dGhlIHNhbXBsZSBub25jZQ==", 400),
            (3, "Sec-WebSocket-Key: !!!!IHNhbXBsZSBub25jZQ==", 400),
        ] {
            let mut fields = right;
            fields[at] = field;
            assert_eq!(outcome("GET / HTTP/1.1", &fields), Err(status), "{field}");
        }
        let [upgrade, connection, version, key] = right;
        assert_eq!(outcome("GET / HTTP/1.1", &[upgrade, connection, version, key, key]), Err(400));
        assert_eq!(outcome("GET / HTTP/1.1", &[upgrade, connection, version, version, key]), Err(426));
        assert_eq!(
            outcome("GET / HTTP/1.1", &[upgrade, connection, version, key, "Content-Length: 1"]),
            Err(400)
        );
    }

    #[test]
    fn the_example_key_of_the_rfc_is_accepted_with_its_loose_bits() {
        assert!(is_key("AQIDBAUGBwgJCgsMDQ4PEC=="));
    }
}
