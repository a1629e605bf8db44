//! starling's text lines, as people type them. One does not hear oneself, and starts in the lobby.

use super::{Heard, Joined, Persona, Protocol, Stage, Traits};
use crate::bench::marker::{Content, Marker, name_hash};

/// The protocol.
#[derive(Debug)]
pub struct Text;

impl Protocol for Text {
    fn traits(&self) -> Traits {
        Traits { has_rooms: true, ..Traits::default() }
    }

    fn enter(&self, me: &Persona<'_>, out: &mut Vec<u8>) -> bool {
        let room = if me.room.is_empty() { "idle" } else { me.room };
        out.extend_from_slice(format!("{}\n/leave\n/join {room}\n", me.nickname).as_bytes());
        false
    }

    fn publish(&self, me: &Persona<'_>, marker: Marker, bytes: usize, _ack: Option<&str>, out: &mut Vec<u8>) {
        if me.is_alone {
            out.extend_from_slice(b"/msg ");
            out.extend_from_slice(me.nickname.as_bytes());
            out.push(b' ');
        }
        marker.put_content(bytes, out);
        out.push(b'\n');
    }

    fn quit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"/quit\n");
    }

    fn decode(&self, _stage: &mut Stage, input: &[u8], heard: &mut Vec<Heard>) -> Result<usize, String> {
        let mut at = 0;
        while let Some(bytes) = memchr::memchr(b'\n', &input[at..]) {
            hear(&input[at..at + bytes], heard);
            at += bytes + 1;
        }
        Ok(at)
    }
}

fn hear(line: &[u8], heard: &mut Vec<Heard>) {
    match line {
        // What one has said oneself is confirmed, but not shown.
        [b'[', ..] => {
            // `[room] sender: content`
            let Some(end) = memchr::memmem::find(line, b": ") else { return };
            let begin = memchr::memmem::find(&line[..end], b"] ").map_or(0, |at| at + 2);
            let content = line[end + 2..].strip_suffix(b"\r").unwrap_or(&line[end + 2..]);
            let sender = name_hash(&line[begin..end]);
            let content = Content::read(content);
            heard.extend(content.map(|content| Heard::Message { content, offset: 0, sender }));
        }
        [b'*', ..] if line.starts_with(b"* joined ") && !line.starts_with(b"* joined lobby:") => {
            heard.push(Heard::Joined(Box::<Joined>::default()));
        }
        [b'!', b' ', why @ ..] => {
            let why = String::from_utf8_lossy(why);
            // The codes of errors have three digits, those of farewells four.
            let is_bye = why.as_bytes().get(3).is_some_and(u8::is_ascii_digit);
            let why = why.split(':').next().unwrap_or_default().into();
            heard.push(if is_bye { Heard::Bye(why) } else { Heard::Refused(why) });
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{content, heard};
    use super::*;

    proptest! {
        #[test]
        fn lines_are_heard_alike_in_any_pieces(pieces in prop::collection::vec(1usize..60, 1..10)) {
            let (text, told) = content(40);
            let content = String::from_utf8(text).unwrap();
            let input = format!(
                "* welcome to starling: what is your nickname?\n* joined lobby: 3 members\n* left lobby\n\
                 * joined r: 2 members\n[r] * bob joined\n[r] bob: {content}\n[private] m3: {content}\n\
                 ! 429 rate_limited: slow down\n! 4201 slow_consumer: x\n"
            );
            prop_assert_eq!(heard(&Text, 0, input.as_bytes(), &pieces), vec![
                Heard::Joined(Box::default()),
                Heard::Message { content: told, offset: 0, sender: name_hash(b"bob") },
                Heard::Message { content: told, offset: 0, sender: name_hash(b"m3") },
                Heard::Refused("429 rate_limited".into()),
                Heard::Bye("4201 slow_consumer".into()),
            ]);
        }
    }
}
