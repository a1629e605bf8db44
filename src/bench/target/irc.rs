//! IRC: channels are the rooms. One does not hear oneself, and a line has 512 bytes.

use super::{Heard, Joined, Persona, Protocol, Stage, Traits};
use crate::bench::marker::{Content, Marker, NO_NAME, name_hash};

/// A line has 512 bytes with its end (RFC 1459, section 2.3), and before the content the server puts whom it comes from and where
/// it is said.
const CONTENT_MAX: usize = 400;

/// The protocol.
#[derive(Debug)]
pub struct Irc;

impl Protocol for Irc {
    fn traits(&self) -> Traits {
        Traits { has_rooms: true, content_max: Some(CONTENT_MAX), ..Traits::default() }
    }

    fn open(&self, me: &Persona<'_>, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(format!("NICK {0}\r\nUSER {0} 0 * :{0}\r\n", me.nickname).as_bytes());
        false
    }

    fn enter(&self, me: &Persona<'_>, out: &mut Vec<u8>) -> bool {
        let room = if me.room.is_empty() { "idle" } else { me.room };
        out.extend_from_slice(format!("JOIN #{room}\r\n").as_bytes());
        false
    }

    fn publish(&self, me: &Persona<'_>, marker: Marker, bytes: usize, _ack: Option<&str>, out: &mut Vec<u8>) {
        if me.is_alone {
            out.extend_from_slice(format!("PRIVMSG {} :", me.nickname).as_bytes());
        } else {
            out.extend_from_slice(format!("PRIVMSG #{} :", me.room).as_bytes());
        }
        marker.put_content(bytes, out);
        out.extend_from_slice(b"\r\n");
    }

    fn quit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"QUIT\r\n");
    }

    fn pong(&self, payload: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"PONG ");
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
    }

    fn decode(&self, _stage: &mut Stage, input: &[u8], heard: &mut Vec<Heard>) -> Result<usize, String> {
        let mut at = 0;
        while let Some(bytes) = memchr::memchr(b'\n', &input[at..]) {
            hear(input[at..at + bytes].trim_ascii_end(), heard);
            at += bytes + 1;
        }
        Ok(at)
    }
}

fn hear(line: &[u8], heard: &mut Vec<Heard>) {
    let (source, rest) = match line.strip_prefix(b":") {
        Some(line) => line.split_at(memchr::memchr(b' ', line).map_or(line.len(), |at| at + 1)),
        None => (&[][..], line),
    };
    let (command, arguments) = match memchr::memchr(b' ', rest) {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => (rest, &[][..]),
    };
    let told = || String::from_utf8_lossy(rest).into();
    heard.push(match command {
        b"PRIVMSG" => match Content::find(arguments, |behind| Some(behind.len())) {
            Some((content, _)) => Heard::Message { content, offset: 0, sender: sender_of(source) },
            None => return,
        },
        b"PING" => Heard::Ping(arguments.into()),
        b"001" => Heard::Open,
        // The end of the list of who is there, which follows a join.
        b"366" => Heard::Joined(Box::<Joined>::default()),
        b"ERROR" => Heard::Bye(told()),
        // No message of the day is no refusal.
        b"422" => return,
        [b'4' | b'5', _, _] => Heard::Refused(told()),
        _ => return,
    });
}

/// Who it is that a line comes from: `nickname!user@host`.
fn sender_of(source: &[u8]) -> u64 {
    let end = source.iter().position(|byte| matches!(byte, b'!' | b' '));
    end.map_or(NO_NAME, |end| name_hash(&source[..end]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{content, heard};
    use super::*;

    proptest! {
        #[test]
        fn lines_are_heard_alike_in_any_pieces(pieces in prop::collection::vec(1usize..60, 1..10)) {
            let (text, told) = content(60);
            let content = String::from_utf8(text).unwrap();
            let input = format!(
                ":s 001 m3 :Welcome\r\n:s 422 m3 :no motd\r\nPING :abc\r\n:m3!u@h JOIN #r\r\n:s 366 m3 #r :End\r\n\
                 :m4!u@h PRIVMSG #r :{content}\r\n:s 433 * m3 :in use\r\nERROR :bye\r\n"
            );
            prop_assert_eq!(heard(&Irc, 0, input.as_bytes(), &pieces), vec![
                Heard::Open,
                Heard::Ping((*b":abc").into()),
                Heard::Joined(Box::default()),
                Heard::Message { content: told, offset: 0, sender: name_hash(b"m4") },
                Heard::Refused("433 * m3 :in use".into()),
                Heard::Bye("ERROR :bye".into()),
            ]);
        }
    }
}
