//! MQTT 3.1.1 with QoS 0: topics are the rooms.

use super::{Heard, Joined, Persona, Protocol, Stage, Traits};
use crate::bench::marker::{Content, MARKER_BYTES, Marker};

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const DISCONNECT: u8 = 0xe0;

/// What a SUBACK says of a topic that may not be listened to.
const REFUSED: u8 = 0x80;

/// The protocol.
#[derive(Debug)]
pub struct Mqtt;

impl Protocol for Mqtt {
    fn traits(&self) -> Traits {
        Traits { hears_itself: true, has_rooms: true, ..Traits::default() }
    }

    fn open(&self, me: &Persona<'_>, out: &mut Vec<u8>) -> bool {
        // Protocol level 4, a clean session, and no keepalive: silence is no sign of death here.
        let mut body = b"\x00\x04MQTT\x04\x02\x00\x00".to_vec();
        put_text(me.nickname, &mut body);
        put_header(CONNECT, body.len(), out);
        out.extend_from_slice(&body);
        false
    }

    fn enter(&self, me: &Persona<'_>, out: &mut Vec<u8>) -> bool {
        let mut body = b"\x00\x01".to_vec();
        put_text(if me.room.is_empty() { me.nickname } else { me.room }, &mut body);
        body.push(0);
        put_header(SUBSCRIBE, body.len(), out);
        out.extend_from_slice(&body);
        false
    }

    fn publish(&self, me: &Persona<'_>, marker: Marker, bytes: usize, _ack: Option<&str>, out: &mut Vec<u8>) {
        put_header(PUBLISH, 2 + me.room.len() + bytes.max(MARKER_BYTES), out);
        put_text(me.room, out);
        marker.put_content(bytes, out);
    }

    fn quit(&self, out: &mut Vec<u8>) {
        put_header(DISCONNECT, 0, out);
    }

    fn decode(&self, _stage: &mut Stage, input: &[u8], heard: &mut Vec<Heard>) -> Result<usize, String> {
        let mut at = 0;
        while let Some((kind, header_bytes, body_bytes)) = read_header(&input[at..])? {
            let begin = at + header_bytes;
            let Some(body) = input.get(begin..begin + body_bytes) else { break };
            match kind & 0xf0 {
                PUBLISH => {
                    let topic_bytes =
                        body.first_chunk().map_or(0, |two| usize::from(u16::from_be_bytes(*two)));
                    let content = body.get(2 + topic_bytes..).and_then(Content::read);
                    heard.extend(content.map(Heard::content));
                }
                CONNACK => heard.push(match body {
                    [_, 0] => Heard::Open,
                    _ => Heard::Refused(format!("connection refused with {body:?}").into()),
                }),
                SUBACK => heard.push(match body {
                    [_, _, REFUSED] => Heard::Refused("subscription refused".into()),
                    _ => Heard::Joined(Box::<Joined>::default()),
                }),
                _ => {}
            }
            at = begin + body_bytes;
        }
        Ok(at)
    }
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_header(kind: u8, mut body_bytes: usize, out: &mut Vec<u8>) {
    out.push(kind);
    while body_bytes > 127 {
        out.push(body_bytes as u8 | 0x80);
        body_bytes >>= 7;
    }
    out.push(body_bytes as u8);
}

/// The kind of packet, the length of its header and that of its body, once the header is whole.
fn read_header(input: &[u8]) -> Result<Option<(u8, usize, usize)>, String> {
    let Some((kind, rest)) = input.split_first() else { return Ok(None) };
    let mut body_bytes = 0;
    for (index, byte) in rest.iter().take(4).enumerate() {
        body_bytes |= usize::from(byte & 127) << (7 * index);
        if *byte < 128 {
            return Ok(Some((*kind, 2 + index, body_bytes)));
        }
    }
    if rest.len() >= 4 { Err("a length of over four bytes".to_owned()) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{content, heard, marker, persona};
    use super::*;

    proptest! {
        #[test]
        fn packets_are_heard_alike_in_any_pieces(pieces in prop::collection::vec(1usize..60, 1..10), bytes in 0usize..20_000) {
            let mut input = vec![CONNACK, 2, 0, 0, SUBACK, 3, 0, 1, 0];
            Mqtt.publish(&persona(), marker(), bytes, None, &mut input);
            input.extend_from_slice(&[0xd0, 0]);
            Mqtt.publish(&persona(), marker(), bytes, None, &mut input);
            let message = Heard::content(content(bytes).1);
            prop_assert_eq!(heard(&Mqtt, 0, &input, &pieces), vec![
                Heard::Open, Heard::Joined(Box::default()), message.clone(), message,
            ]);
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Mqtt.decode(&mut 0, &bytes, &mut Vec::new());
        }
    }
}
