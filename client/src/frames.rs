//! Binary frames with JSON in them, over any stream.
//!
//! ```text
//! magic CA FE BA BE | version 1 | payload length (32) | encoding (8) | kind (8) | payload
//! ```

use std::io::{ErrorKind, Read, Write};

use crate::socket::{End, Heard};
use crate::wire::Frame;

const MAGIC: [u8; 4] = [0xCA, 0xFE, 0xBA, 0xBE];
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 11;
const ENCODING_JSON: u8 = 0;
const PAYLOAD_BYTES_MAX: usize = 64 << 20;
const EVENT_KIND_BASE: u8 = 129;

/// How much is read at a time.
const READ_BYTES: usize = 64 << 10;

/// Kinds of commands, from 1.
const COMMANDS: [&str; 23] = [
    "hello",
    "join",
    "leave",
    "switch",
    "message",
    "private",
    "received",
    "broadcast",
    "members",
    "rooms",
    "history",
    "state",
    "role",
    "kick",
    "ban",
    "unban",
    "mute",
    "unmute",
    "typing",
    "ping",
    "quit",
    "pong",
    "nick",
];

/// Kinds of events, from [`EVENT_KIND_BASE`].
const EVENTS: [&str; 18] = [
    "welcome", "joined", "left", "presence", "message", "ack", "private", "system", "members", "rooms",
    "history", "state", "typing", "pong", "bye", "error", "ping", "gap",
];

/// A connection that speaks frames.
#[derive(Debug)]
pub(crate) struct Frames<S> {
    stream: S,
    /// What has come and is not yet a frame.
    input: Vec<u8>,
    /// Up to where the input has been taken.
    taken: usize,
    output: Vec<u8>,
    /// Up to where the output has been written.
    written: usize,
}

impl<S: Read + Write> Frames<S> {
    pub(crate) fn new(stream: S) -> Self {
        Frames { stream, input: Vec::new(), taken: 0, output: Vec::new(), written: 0 }
    }

    pub(crate) fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    pub(crate) fn push(&mut self, frame: &Frame) -> Result<(), End> {
        let kind = COMMANDS.iter().position(|name| *name == frame.kind).expect("each command has a kind");
        let length = u32::try_from(frame.text.len()).map_err(|error| End::because(&error))?;
        self.output.extend_from_slice(&MAGIC);
        self.output.push(VERSION);
        self.output.extend_from_slice(&length.to_be_bytes());
        self.output.push(ENCODING_JSON);
        self.output.push(u8::try_from(kind + 1).expect("there are few"));
        self.output.extend_from_slice(frame.text.as_bytes());
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> Result<(), End> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(0) => return Err(End::because(&"nothing more can be written")),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(End::because(&error)),
            }
        }
        self.output.clear();
        self.written = 0;
        match self.stream.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(End::because(&error)),
            _ => Ok(()),
        }
    }

    pub(crate) fn read(&mut self) -> Result<Heard, End> {
        loop {
            if let Some(text) = self.take()? {
                return Ok(Heard::Text(text));
            }
            self.input.drain(..self.taken);
            self.taken = 0;
            let length = self.input.len();
            self.input.resize(length + READ_BYTES, 0);
            let result = self.stream.read(&mut self.input[length..]);
            self.input.truncate(length + *result.as_ref().unwrap_or(&0));
            match result {
                Ok(0) => return Err(End::because(&"the server has ended it")),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Heard::Nothing),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(End::because(&error)),
            }
        }
    }

    /// The next whole frame of the input.
    fn take(&mut self) -> Result<Option<String>, End> {
        let input = &self.input[self.taken..];
        // As soon as it can be told: what speaks something else may say less than a header.
        if input.iter().zip(MAGIC.iter().chain([&VERSION])).any(|(byte, expected)| byte != expected) {
            return Err(End { is_foreign: true, ..End::because(&"what comes is no frame") });
        }
        if input.len() < HEADER_BYTES {
            return Ok(None);
        }
        let length = u32::from_be_bytes([input[5], input[6], input[7], input[8]]) as usize;
        if length > PAYLOAD_BYTES_MAX {
            return Err(End::because(&"a frame is too long"));
        }
        let Some(payload) = input.get(HEADER_BYTES..HEADER_BYTES + length) else { return Ok(None) };
        let (encoding, kind) = (input[9], input[10]);
        if encoding != ENCODING_JSON {
            return Err(End::because(&"a frame has an encoding that was not asked for"));
        }
        let text = std::str::from_utf8(payload).map_err(|error| End::because(&error))?;
        let text = with_type(text, kind);
        self.taken += HEADER_BYTES + length;
        Ok(Some(text))
    }
}

/// The object with its `type`, which a frame may leave to the kind.
fn with_type(text: &str, kind: u8) -> String {
    let name = kind.checked_sub(EVENT_KIND_BASE).and_then(|at| EVENTS.get(usize::from(at)));
    let (Some(name), Some(fields)) = (name, text.trim_start().strip_prefix('{')) else {
        return text.to_owned();
    };
    if fields.trim_start().starts_with("\"type\"") {
        return text.to_owned();
    }
    let comma = if fields.trim_start().starts_with('}') { "" } else { "," };
    format!("{{\"type\":\"{name}\"{comma}{fields}")
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io;

    use super::*;
    use crate::wire::Command;

    /// Gives and takes a few bytes at a time.
    #[derive(Default)]
    struct Pipe {
        input: VecDeque<u8>,
        output: Vec<u8>,
        step: usize,
        turn: usize,
    }

    impl Pipe {
        /// Every other time it would block.
        fn blocks(&mut self) -> bool {
            self.turn += 1;
            self.turn.is_multiple_of(2)
        }
    }

    impl Read for Pipe {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.input.is_empty() || self.blocks() {
                return Err(ErrorKind::WouldBlock.into());
            }
            let count = self.step.min(buffer.len()).min(self.input.len());
            for (place, byte) in buffer.iter_mut().zip(self.input.drain(..count)) {
                *place = byte;
            }
            Ok(count)
        }
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.blocks() {
                return Err(ErrorKind::WouldBlock.into());
            }
            let count = self.step.min(bytes.len());
            self.output.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn framed(kind: u8, payload: &str) -> Vec<u8> {
        let mut bytes = vec![0xCA, 0xFE, 0xBA, 0xBE, 1];
        bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(&[0, kind]);
        bytes.extend_from_slice(payload.as_bytes());
        bytes
    }

    fn drain(frames: &mut Frames<Pipe>) -> Vec<String> {
        let mut texts = Vec::new();
        loop {
            match frames.read().unwrap() {
                Heard::Text(text) => texts.push(text),
                Heard::Life => {}
                Heard::Nothing if frames.stream.input.is_empty() => return texts,
                Heard::Nothing => {}
            }
        }
    }

    #[test]
    fn frames_come_whole_however_they_are_cut() {
        for step in [1, 2, 7, 11, 13, 1000] {
            let mut frames = Frames::new(Pipe { step, ..Pipe::default() });
            frames.stream.input.extend(framed(142, r#"{"timestamp":5}"#));
            frames.stream.input.extend(framed(145, "{}"));
            frames.stream.input.extend(framed(133, r#"{"type":"message","room":"é"}"#));
            frames.stream.input.extend(framed(200, r#"{"of":"later"}"#));
            let expected = [
                r#"{"type":"pong","timestamp":5}"#,
                r#"{"type":"ping"}"#,
                r#"{"type":"message","room":"é"}"#,
                r#"{"of":"later"}"#,
            ];
            assert_eq!(drain(&mut frames), expected, "{step} bytes at a time");
        }
    }

    #[test]
    fn kinds_are_those_of_the_contract() {
        let schema = include_str!("../../src/proto/starling.proto");
        let mut unions = schema.split("oneof kind {").skip(1).map(|rest| {
            let fields = rest.split('}').next().expect("a union ends");
            let fields = fields.split(';').filter_map(|field| field.trim().split_once(" = "));
            let mut fields: Vec<(usize, &str)> = fields
                .map(|(name, number)| (number.parse().unwrap(), name.split(' ').next_back().unwrap()))
                .collect();
            fields.sort_unstable();
            fields
        });
        let numbered =
            |names: &[&'static str]| names.iter().copied().zip(1..).map(|(name, n)| (n, name)).collect();
        assert_eq!(unions.next(), Some(numbered(&COMMANDS)));
        assert_eq!(unions.next(), Some(numbered(&EVENTS)));
    }

    #[test]
    fn commands_have_their_kinds() {
        let mut frames = Frames::new(Pipe { step: 3, ..Pipe::default() });
        let leave = Command::Leave { room: "den".to_owned() }.to_frame(Some("1"));
        frames.push(&leave).unwrap();
        frames.push(&Command::Nick { nickname: "al".to_owned() }.to_frame(None)).unwrap();
        while !frames.output.is_empty() {
            frames.flush().unwrap();
        }
        let mut expected = framed(3, &leave.text);
        expected.extend(framed(23, r#"{"type":"nick","nickname":"al"}"#));
        assert_eq!(frames.stream.output, expected);
    }

    #[test]
    fn what_is_no_frame_is_the_end() {
        for bytes in [
            &b"HTTP/1.1 400"[..],
            b"\xCA\xFE\xBA\xBE\x02\0\0\0\0\0\x81",
            b"\xCA\xFE\xBA\xBE\x01\xFF\0\0\0\0\x81",
        ] {
            let mut frames = Frames::new(Pipe { step: 100, ..Pipe::default() });
            frames.stream.input.extend(bytes);
            assert!(frames.read().is_err());
        }
    }
}
