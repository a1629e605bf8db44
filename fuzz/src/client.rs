//! The client library: what a server says, in any order, between anything that its user and the network do.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use starling::proto::json;
use starling_client::machine::{Config, ConnectFailure, Machine, Output};
use starling_client::{Event, JoinOptions, Reason, Ticket, fuzzing};

use super::codec::{CUTS, Cut};

/// A line each: what begins with a letter is something that the world or the user does, if it can be done then; what begins as JSON is a frame of the server,
/// if there is a connection.
///
/// The machine writes on a connection that it has, and only commands that the server understands; a message is acknowledged or has failed
/// once; the messages of a room come in their order within one of its histories. And as binary frames the same is heard however they are cut.
pub fn run(input: &[u8]) {
    let heard = CUTS.map(|cut| fuzzing::frames(Stream::new(input, cut)));
    assert!(heard.iter().all(|other| *other == heard[0]), "frames are heard otherwise when they are cut");

    let mut world = World::new();
    let lines = input.split(|byte| *byte == b'\n').take(400);
    for line in lines.filter_map(|line| std::str::from_utf8(line).ok()) {
        world.happens(line);
        world.look();
    }
    world.machine.quit(world.now);
    world.look();
}

struct World {
    machine: Machine,
    now: Duration,
    /// Whether it has been asked for a connection, and what came of that.
    is_connecting: bool,
    is_connected: bool,
    /// Whether a message of the user's has been acknowledged, or has failed.
    sent: BTreeMap<Ticket, bool>,
    /// The history and the place that a room has come to.
    places: BTreeMap<String, (String, u64)>,
}

impl World {
    fn new() -> World {
        let mut config = Config::default();
        config.nickname = Some("alice".to_owned());
        config.queue_messages = 16;
        let mut world = World {
            machine: Machine::new(config, 1),
            now: Duration::ZERO,
            is_connecting: false,
            is_connected: false,
            sent: BTreeMap::new(),
            places: BTreeMap::new(),
        };
        world.machine.start(world.now);
        world.look();
        world
    }

    fn happens(&mut self, line: &str) {
        let (machine, now) = (&mut self.machine, self.now);
        let rest = line.get(1..).unwrap_or_default();
        let (word, words) = rest.split_once(' ').unwrap_or((rest, ""));
        match line.as_bytes().first() {
            Some(b'c') if self.is_connecting => {
                (self.is_connecting, self.is_connected) = (false, true);
                machine.connected(now);
            }
            Some(b'x') if self.is_connected => {
                self.is_connected = false;
                machine.closed(now, word.parse().ok(), words);
            }
            Some(b'f') if self.is_connecting => {
                self.is_connecting = false;
                let retry_after = word.parse().ok().map(Duration::from_millis);
                machine.connect_failed(
                    now,
                    ConnectFailure { reason: Reason::Unreachable(words.to_owned()), retry_after },
                );
            }
            Some(b't') => {
                self.now += Duration::from_millis(u64::from(word.parse::<u32>().unwrap_or(1000)));
                self.machine.tick(self.now);
            }
            Some(b's') => {
                if let Ok(ticket) = machine.send(now, word, words, None) {
                    assert!(self.sent.insert(ticket, false).is_none(), "a ticket is given twice");
                }
            }
            Some(b'p') => {
                if let Ok(ticket) = machine.private(now, word, words) {
                    assert!(self.sent.insert(ticket, false).is_none(), "a ticket is given twice");
                }
            }
            Some(b'j') => drop(machine.join(now, word, JoinOptions::default())),
            Some(b'l') => drop(machine.leave(now, word)),
            Some(b'n') => drop(machine.nick(now, word)),
            Some(b'y') => machine.typing(now, word),
            Some(b'g') => machine.start(now),
            Some(b'r') => machine.received(word.parse().unwrap_or(0)),
            Some(b'q') => machine.quit(now),
            Some(b'{' | b'[' | b'"') if self.is_connected => machine.frame(now, line),
            _ => {}
        }
    }

    /// Takes what the machine wants and tells.
    fn look(&mut self) {
        while let Some(output) = self.machine.poll() {
            match output {
                Output::Connect => {
                    assert!(!self.is_connected && !self.is_connecting, "a second connection");
                    self.is_connecting = true;
                }
                Output::Close => (self.is_connecting, self.is_connected) = (false, false),
                Output::Write(frame) => {
                    assert!(self.is_connected, "{} is written on no connection", frame.text);
                    let command = json::parse(frame.text.as_bytes());
                    assert!(command.is_ok(), "{} is no command: {command:?}", frame.text);
                }
                Output::Event(event) => self.hear(&event),
            }
        }
        assert!(self.machine.unanswered() <= 16, "more waits than has place");
    }

    fn hear(&mut self, event: &Event) {
        match event {
            Event::Delivery { ticket, delivery, .. } if delivery.is_final() => {
                let is_answered = self.sent.insert(*ticket, true);
                assert_ne!(is_answered, Some(true), "{ticket:?} is answered twice");
            }
            Event::Message(message) => {
                let before =
                    self.places.insert(message.room.clone(), (message.epoch.clone(), message.offset));
                if let Some((epoch, offset)) = before.filter(|(epoch, _)| *epoch == message.epoch) {
                    assert!(
                        offset < message.offset,
                        "{epoch} of {}: {} after {offset}",
                        message.room,
                        message.offset
                    );
                }
            }
            _ => {}
        }
    }
}

/// What comes in these chunks, with nothing in between.
struct Stream<'a> {
    chunks: Vec<&'a [u8]>,
    has_blocked: bool,
}

impl<'a> Stream<'a> {
    fn new(input: &'a [u8], cut: Cut) -> Stream<'a> {
        let mut chunks = cut.chunks(input);
        chunks.reverse();
        Stream { chunks, has_blocked: false }
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.has_blocked = !self.has_blocked;
        if self.has_blocked {
            return Err(ErrorKind::WouldBlock.into());
        }
        let Some(chunk) = self.chunks.pop() else { return Ok(0) };
        let bytes = chunk.len().min(buffer.len());
        buffer[..bytes].copy_from_slice(&chunk[..bytes]);
        if bytes < chunk.len() {
            self.chunks.push(&chunk[bytes..]);
        }
        Ok(bytes)
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
