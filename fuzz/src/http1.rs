//! Requests of HTTP/1: heads, bodies, targets, and the handshake of WebSocket with its extensions.

use starling::proto::http1::{self, BodyDecoder, HeadDecoder, Piece, Reply};
use starling::proto::websocket::handshake;

use super::codec::{Codec, told_alike};

const TARGET_LIMIT: usize = 256;
const HEAD_LIMIT: usize = 2048;
const CONTENT_LIMIT: u64 = 1024;
const KEPT_MAX: usize = 4 * HEAD_LIMIT;

/// Requests one after the other, as a server reads them.
struct Requests {
    heads: HeadDecoder,
    /// The body under way, behind the head it belongs to.
    body: Option<(String, BodyDecoder, Vec<u8>)>,
}

impl Codec for Requests {
    fn step(&mut self, input: &mut [u8]) -> Result<(usize, Option<String>), String> {
        let mut at = 0;
        loop {
            let Some((head, body, content)) = &mut self.body else {
                let (taken, head) = self.heads.decode(&input[at..]).map_err(|error| {
                    assert!((400..600).contains(&error.status));
                    format!("{error:?}")
                })?;
                at += taken;
                let Some(head) = head else { return Ok((at, None)) };
                check(&head);
                let body = BodyDecoder::new(head.body, CONTENT_LIMIT);
                self.body = Some((format!("{head:?}"), body, Vec::new()));
                continue;
            };
            let (taken, piece) = body.decode(&input[at..]).map_err(|error| format!("{error:?}"))?;
            at += taken;
            match piece {
                Some(Piece::Data(data)) => content.extend_from_slice(data),
                Some(Piece::End) => {
                    assert!(content.len() as u64 <= CONTENT_LIMIT, "a body of {} bytes", content.len());
                    let request = format!("{head} {content:?}");
                    self.body = None;
                    return Ok((at, Some(request)));
                }
                None => return Ok((at, None)),
            }
        }
    }

    fn release(&mut self) {
        self.heads.release();
    }

    fn kept_bytes(&self) -> usize {
        self.heads.kept_bytes()
    }
}

/// What is told of a head is within bounds, and what would be answered to it is a head too.
fn check(head: &http1::Head<'_>) {
    assert!(head.target.len() <= TARGET_LIMIT);
    assert!(head.target.contains(head.path) || head.path == "/", "{} is not of {}", head.path, head.target);
    assert!(head.headers().count() <= 64);
    for (name, value) in head.headers() {
        assert!(!name.is_empty() && !value.contains(&b'\n') && !value.contains(&0));
    }
    if let Some(query) = head.query {
        let _ = http1::query_pairs(query);
    }
    let _ = http1::percent_decode(head.path);
    head.names_accepted("text/event-stream");

    let mut out = Vec::new();
    match handshake::upgrade(head) {
        Ok(upgrade) => {
            let protocol = upgrade.protocols().next();
            let offer = upgrade.deflate();
            let agreement = offer.ok().flatten().map(|offer| offer.agree(true));
            if let Some(agreement) = &agreement {
                assert!(
                    (8..=15).contains(&agreement.server_bits) && (8..=15).contains(&agreement.client_bits)
                );
            }
            // What is answered is one of ours, and not what somebody says.
            let is_known = protocol.is_some_and(|protocol| protocol == "starling.json");
            handshake::put_response(
                &mut out,
                upgrade.key,
                protocol.filter(|_| is_known),
                agreement.as_ref(),
                head.request_id,
            );
        }
        Err(refusal) => {
            assert!(matches!(refusal.status, 400 | 405 | 426));
            http1::put(&mut out, &Reply { headers: refusal.headers, ..Reply::to(head, refusal.status) });
        }
    }
    let out = std::str::from_utf8(&out).expect("an answer is text");
    let (head, _) = out.split_once("\r\n\r\n").expect("an answer has a head");
    assert!(head.starts_with("HTTP/1.1 ") && head.split("\r\n").skip(1).all(|line| line.contains(": ")));
}

/// Requests are told alike however they are cut, within the limits, and each of them can be answered.
pub fn run(input: &[u8]) {
    let requests = || Requests { heads: HeadDecoder::new(TARGET_LIMIT, HEAD_LIMIT), body: None };
    told_alike(requests, input, KEPT_MAX);
}
