//! Redis pub/sub, in RESP3: there one connection may both listen and publish.

use std::sync::OnceLock;

use super::{Heard, Joined, Persona, Protocol, Stage, Traits};
use crate::bench::marker::{Content, MARKER_BYTES, Marker};

/// How deep values may be nested: what is heard here is flat.
const DEPTH_MAX: usize = 4;

/// The protocol.
#[derive(Debug, Default)]
pub struct Redis {
    version: OnceLock<String>,
}

impl Protocol for Redis {
    fn traits(&self) -> Traits {
        Traits { hears_itself: true, has_rooms: true, ..Traits::default() }
    }

    fn open(&self, _me: &Persona<'_>, out: &mut Vec<u8>) -> bool {
        put(&[b"HELLO", b"3"], out);
        true
    }

    fn enter(&self, me: &Persona<'_>, out: &mut Vec<u8>) -> bool {
        let room = if me.room.is_empty() { me.nickname } else { me.room };
        put(&[b"SUBSCRIBE", room.as_bytes()], out);
        false
    }

    fn publish(&self, me: &Persona<'_>, marker: Marker, bytes: usize, _ack: Option<&str>, out: &mut Vec<u8>) {
        let room = me.room;
        out.extend_from_slice(
            format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{room}\r\n${}\r\n", room.len(), bytes.max(MARKER_BYTES))
                .as_bytes(),
        );
        marker.put_content(bytes, out);
        out.extend_from_slice(b"\r\n");
    }

    fn quit(&self, out: &mut Vec<u8>) {
        put(&[b"QUIT"], out);
    }

    fn version(&self) -> Option<String> {
        self.version.get().filter(|version| !version.is_empty()).cloned()
    }

    fn decode(&self, _stage: &mut Stage, input: &[u8], heard: &mut Vec<Heard>) -> Result<usize, String> {
        let mut at = 0;
        while let Some(bytes) = value_bytes(&input[at..], DEPTH_MAX)? {
            let value = &input[at..at + bytes];
            match value[0] {
                // The answer to HELLO, and nothing else here, is a map.
                b'%' => drop(self.version.get_or_init(|| version_of(value)).len()),
                _ => hear(value, heard),
            }
            at += bytes;
        }
        Ok(at)
    }
}

fn hear(value: &[u8], heard: &mut Vec<Heard>) {
    match value[0] {
        b'>' | b'*' => {
            // `>3 $7 message` or `$9 subscribe`.
            let head = value.get(4..).unwrap_or_default();
            if head.starts_with(b"$7\r\nmessage\r\n") {
                // The last value of three, and the end of its line.
                let found = Content::find(value, |behind| behind.len().checked_sub(2));
                heard.extend(found.map(|(content, _)| Heard::content(content)));
            } else if head.starts_with(b"$9\r\nsubscribe\r\n") {
                heard.push(Heard::Joined(Box::<Joined>::default()));
            }
        }
        b'-' => heard.push(Heard::Refused(String::from_utf8_lossy(&value[1..]).trim_end().into())),
        _ => {}
    }
}

fn version_of(map: &[u8]) -> String {
    let mut lines = map.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    // Behind the name comes the length of the value, and then the value.
    let version = lines.find(|line| *line == b"version").and_then(|_| lines.nth(1));
    version.map(|version| format!("redis {}", String::from_utf8_lossy(version))).unwrap_or_default()
}

fn put(words: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// How long the value is that `input` begins with, once it is whole.
fn value_bytes(input: &[u8], depth: usize) -> Result<Option<usize>, String> {
    let Some(line) = memchr::memmem::find(input, b"\r\n") else { return Ok(None) };
    let head = line + 2;
    let number = || {
        std::str::from_utf8(&input[1..line])
            .ok()
            .and_then(|text| text.parse::<i64>().ok())
            .filter(|number| *number < 1 << 30)
            .map(|number| number.max(-1))
            .ok_or("a length that is none".to_owned())
    };
    let items = match input[0] {
        b'+' | b'-' | b':' | b',' | b'#' | b'(' | b'_' => return Ok(Some(head)),
        b'$' | b'!' | b'=' => {
            let whole = match number()? {
                -1 => head,
                bytes => head + bytes as usize + 2,
            };
            return Ok((input.len() >= whole).then_some(whole));
        }
        b'*' | b'>' | b'~' => number()?,
        b'%' | b'|' => number()? * 2,
        other => return Err(format!("{:?} begins no value of RESP", char::from(other))),
    };
    if depth == 0 {
        return Err("values nested too deep".to_owned());
    }
    let mut at = head;
    for _ in 0..items {
        match value_bytes(&input[at..], depth - 1)? {
            Some(bytes) => at += bytes,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{content, heard, marker, persona};
    use super::*;

    proptest! {
        #[test]
        fn pushes_are_heard_alike_in_any_pieces(pieces in prop::collection::vec(1usize..60, 1..10), bytes in 0usize..300) {
            let mut said = Vec::new();
            let redis = Redis::default();
            redis.publish(&persona(), marker(), bytes, None, &mut said);
            let (text, told) = content(bytes);
            prop_assert!(said.ends_with(&[&text[..], b"\r\n"].concat()));
            let mut input = b"%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.0.1\r\n$5\r\nproto\r\n:3\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\nr\r\n:1\r\n".to_vec();
            for _ in 0..2 {
                input.extend_from_slice(b">3\r\n$7\r\nmessage\r\n$1\r\nr\r\n");
                input.extend_from_slice(format!("${}\r\n", text.len()).as_bytes());
                input.extend_from_slice(&text);
                input.extend_from_slice(b"\r\n");
            }
            input.extend_from_slice(b":5\r\n-ERR no\r\n");
            let message = Heard::content(told);
            prop_assert_eq!(heard(&redis, 0, &input, &pieces), vec![
                Heard::Joined(Box::default()), message.clone(), message, Heard::Refused("ERR no".into()),
            ]);
            prop_assert_eq!(redis.version(), Some("redis 7.0.1".to_owned()));
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes in "[*$%>:0-9\r\n-]{0,60}") {
            let _ = Redis::default().decode(&mut 0, bytes.as_bytes(), &mut Vec::new());
        }
    }
}
