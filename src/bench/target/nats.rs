//! NATS core: subjects are the rooms.

use std::sync::OnceLock;

use super::{Heard, Joined, Persona, Protocol, Stage, Traits};
use crate::bench::marker::{Content, MARKER_BYTES, Marker};

/// The protocol.
#[derive(Debug, Default)]
pub struct Nats {
    version: OnceLock<String>,
}

impl Protocol for Nats {
    fn traits(&self) -> Traits {
        Traits { hears_itself: true, has_rooms: true, ..Traits::default() }
    }

    fn enter(&self, me: &Persona<'_>, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":true}\r\n");
        if !me.room.is_empty() {
            out.extend_from_slice(format!("SUB {} 1\r\n", me.room).as_bytes());
        }
        // A subscription is not answered, but what follows it is.
        out.extend_from_slice(b"PING\r\n");
        false
    }

    fn publish(&self, me: &Persona<'_>, marker: Marker, bytes: usize, _ack: Option<&str>, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("PUB {} {}\r\n", me.room, bytes.max(MARKER_BYTES)).as_bytes());
        marker.put_content(bytes, out);
        out.extend_from_slice(b"\r\n");
    }

    fn pong(&self, _payload: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"PONG\r\n");
    }

    fn version(&self) -> Option<String> {
        self.version.get().filter(|version| !version.is_empty()).cloned()
    }

    fn decode(&self, _stage: &mut Stage, input: &[u8], heard: &mut Vec<Heard>) -> Result<usize, String> {
        let mut at = 0;
        while let Some(line_bytes) = memchr::memmem::find(&input[at..], b"\r\n") {
            let line = &input[at..at + line_bytes];
            let mut next = at + line_bytes + 2;
            if line.starts_with(b"MSG ") {
                let size = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
                let bytes: usize = std::str::from_utf8(size)
                    .ok()
                    .and_then(|text| text.parse().ok())
                    .filter(|bytes| *bytes < 1 << 30)
                    .ok_or("a MSG without a size")?;
                if input.len() < next + bytes + 2 {
                    break;
                }
                heard.extend(Content::read(&input[next..next + bytes]).map(Heard::content));
                next += bytes + 2;
            } else if let Some(info) = line.strip_prefix(b"INFO ") {
                self.version.get_or_init(|| version_of(info));
            } else if line.starts_with(b"PING") {
                heard.push(Heard::Ping(Box::default()));
            } else if line.starts_with(b"PONG") {
                heard.push(Heard::Joined(Box::<Joined>::default()));
            } else if let Some(why) = line.strip_prefix(b"-ERR ") {
                heard.push(Heard::Refused(String::from_utf8_lossy(why).into()));
            }
            at = next;
        }
        Ok(at)
    }
}

fn version_of(info: &[u8]) -> String {
    let info = serde_json::from_slice::<serde_json::Value>(info).unwrap_or_default();
    info["version"].as_str().map(|version| format!("nats {version}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{content, heard};
    use super::*;

    proptest! {
        #[test]
        fn messages_are_heard_alike_in_any_pieces(pieces in prop::collection::vec(1usize..60, 1..10), bytes in 0usize..300) {
            let (text, told) = content(bytes);
            let mut input = b"INFO {\"server_id\":\"x\",\"version\":\"2.9\"}\r\nPONG\r\n".to_vec();
            for head in ["MSG r 1", "MSG r 1 _INBOX.1"] {
                input.extend_from_slice(format!("{head} {}\r\n", text.len()).as_bytes());
                input.extend_from_slice(&text);
                input.extend_from_slice(b"\r\n");
            }
            input.extend_from_slice(b"PING\r\n-ERR 'Slow Consumer'\r\n");
            let message = Heard::content(told);
            let nats = Nats::default();
            prop_assert_eq!(heard(&nats, 0, &input, &pieces), vec![
                Heard::Joined(Box::default()), message.clone(), message, Heard::Ping(Box::default()),
                Heard::Refused("'Slow Consumer'".into()),
            ]);
            prop_assert_eq!(nats.version(), Some("nats 2.9".to_owned()));
        }
    }
}
