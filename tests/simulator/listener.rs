//! Those who hear a room by HTTP: a connection after the other, each going on after the last event of the one before. They know but one
//! thing for sure: the next message is the next one, whatever happens, unless they are told that it is not.

use serde_json::Value;

use crate::faults::happens;
use crate::kernel::{Kernel, Received};
use crate::model::{Entry, Model};

/// What they listen to: those of the clients' rooms that need no escapes.
const ROOMS: &[&str] = &["lobby", "den", "ops", "x-1"];

/// Somebody who listens.
pub struct Listener {
    room: &'static str,
    conn: usize,
    /// The connections that it has left: what it said last on them is still on its way, and what comes is thrown away.
    left: Vec<usize>,
    input: Vec<u8>,
    /// The status of the answer, when it has come.
    status: Option<u16>,
    is_over: bool,
    is_stalled: bool,
    /// The place that it has reached.
    last: Option<(String, u64)>,
    /// The place that it has said on this connection.
    asked: Option<(String, u64)>,
    /// Whether this connection has been told `reset`, or has been told a message: neither comes after the other.
    has_begun: bool,
}

impl Listener {
    /// Asks for a room on a new connection.
    pub fn begin(kernel: &mut Kernel, conn: usize) -> Listener {
        let room = ROOMS[kernel.rng.below(ROOMS.len() as u64) as usize];
        let mut listener = Listener {
            room,
            conn,
            left: Vec::new(),
            input: Vec::new(),
            status: None,
            is_over: true,
            is_stalled: false,
            last: None,
            asked: None,
            has_begun: false,
        };
        listener.ask(kernel, conn);
        listener
    }

    /// Comes back on another connection.
    pub fn ask(&mut self, kernel: &mut Kernel, conn: usize) {
        assert!(self.is_over, "one at a time");
        (self.conn, self.status, self.is_over, self.has_begun) = (conn, None, false, false);
        (self.is_stalled, self.asked) = (false, self.last.clone());
        self.input.clear();
        let field = match &self.last {
            Some((epoch, offset)) => format!("Last-Event-ID: {epoch}:{offset}\r\n"),
            None => String::new(),
        };
        let request = format!("GET /api/rooms/{}/stream HTTP/1.1\r\nHost: sim\r\n{field}\r\n", self.room);
        kernel.send(conn, request.as_bytes());
    }

    /// Whether it could come back.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Does what somebody does who listens: hears, or not, or goes.
    pub fn act(&mut self, kernel: &mut Kernel, model: &mut Model, chunk_bytes: usize) {
        if happens(&mut kernel.rng, kernel.faults.stall) {
            self.is_stalled = !self.is_stalled;
        }
        if happens(&mut kernel.rng, kernel.faults.network_reset) && !self.is_over {
            kernel.reset(self.conn);
        }
        if kernel.rng.chance(1) {
            self.leave(kernel);
        }
        let most = 1 + kernel.rng.below(chunk_bytes as u64) as usize;
        self.deliver(kernel, most);
        if !self.is_stalled {
            let most = 1 + kernel.rng.below(4096) as usize;
            self.listen(kernel, model, most);
        }
    }

    /// Lets everything through. Returns whether anything happened.
    pub fn pump(&mut self, kernel: &mut Kernel, model: &mut Model) -> bool {
        self.is_stalled = false;
        let arrived = self.deliver(kernel, usize::MAX);
        self.listen(kernel, model, usize::MAX) || arrived
    }

    /// Ends its side, or the whole connection.
    pub fn leave(&mut self, kernel: &mut Kernel) {
        if self.is_over {
            return;
        }
        match kernel.rng.chance(50) {
            true => kernel.reset(self.conn),
            false => kernel.end_input(self.conn),
        }
        self.is_over = true;
        self.left.push(self.conn);
    }

    fn deliver(&mut self, kernel: &mut Kernel, most: usize) -> bool {
        let mut has_arrived = kernel.deliver(self.conn, most);
        for conn in &self.left {
            has_arrived |= kernel.deliver(*conn, most);
            has_arrived |= matches!(kernel.receive(*conn, most), Received::Bytes(_));
        }
        has_arrived
    }

    fn listen(&mut self, kernel: &mut Kernel, model: &mut Model, most: usize) -> bool {
        if self.is_over {
            return false;
        }
        match kernel.receive(self.conn, most) {
            Received::Nothing => false,
            Received::Bytes(bytes) => {
                self.input.extend(bytes);
                self.understand(model);
                true
            }
            Received::End => {
                kernel.end_input(self.conn);
                self.is_over = true;
                self.left.push(self.conn);
                true
            }
            Received::Reset => {
                self.is_over = true;
                true
            }
        }
    }

    fn understand(&mut self, model: &mut Model) {
        if self.status.is_none() {
            let Some(end) = self.input.windows(4).position(|four| four == b"\r\n\r\n") else { return };
            let head: Vec<u8> = self.input.drain(..end + 4).collect();
            let head = String::from_utf8(head).expect("a head is text");
            let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
            self.status = status;
            assert!(matches!(status, Some(200 | 408 | 429 | 503)), "{head}");
        }
        if self.status != Some(200) {
            return self.input.clear();
        }
        while let Some(end) = self.input.windows(2).position(|two| two == b"\n\n") {
            let block: Vec<u8> = self.input.drain(..end + 2).collect();
            self.hear(std::str::from_utf8(&block).expect("a stream is text"), model);
        }
    }

    fn hear(&mut self, block: &str, model: &mut Model) {
        let (mut event, mut data, mut place) = ("", None, None);
        for line in block.lines() {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "event" => event = value,
                "data" => data = Some(serde_json::from_str::<Value>(value).expect("JSON")),
                "id" => {
                    let (epoch, offset) = value.rsplit_once(':').expect("a place");
                    place = Some((epoch.to_owned(), offset.parse::<u64>().expect("an offset")));
                }
                "" | "retry" => {}
                other => panic!("{other:?} in {block:?}"),
            }
        }
        let Some(data) = data else {
            // The beginning of the first one, a comment, or the end.
            if let Some(place) = place {
                assert!(self.asked.is_none() && !self.has_begun, "it knows its place: {block:?}");
                model.check_epoch(&place.0);
                self.last = Some(place);
            }
            return;
        };
        let (epoch, offset) = place.expect("each event has a place");
        model.check_epoch(&epoch);
        match event {
            "reset" => {
                let (known, last) = self.asked.clone().expect("who asks for nothing is refused nothing");
                assert!(!self.has_begun, "too late: {block:?}");
                assert_eq!((data["epoch"].as_str(), data["offset"].as_u64()), (Some(&*epoch), Some(offset)));
                assert!(known != epoch || last != offset, "nothing has been said since: {block:?}");
                model.count("stream_resets_heard");
            }
            "message" => {
                let (known, last) = self.last.as_ref().expect("it begins somewhere");
                assert_eq!((known, last + 1), (&epoch, offset), "the next message of {}", self.room);
                let text = |name: &str| data[name].as_str().expect("text").to_owned();
                let timestamp = data["timestamp"].as_u64().expect("a time");
                let entry = Entry { sender: text("sender"), content: text("content"), timestamp };
                assert_eq!(data["offset"].as_u64(), Some(offset));
                model.place(self.room, &epoch, offset, entry);
                let is_replayed = self.asked.is_some() && !self.has_begun;
                model.count(if is_replayed { "streams_resumed" } else { "streamed" });
            }
            other => panic!("{other:?} in a stream"),
        }
        self.has_begun = true;
        self.last = Some((epoch, offset));
    }

    /// What must be true when nothing is under way: it has heard all that anybody knows.
    pub fn check_rest(&self, model: &Model) {
        let Some((epoch, offset)) = self.last.as_ref().filter(|_| !self.is_over) else { return };
        let log = model.logs.get(&(self.room.to_owned(), epoch.clone()));
        let head = log.and_then(|log| log.keys().next_back()).copied().unwrap_or(0);
        assert!(head <= *offset, "{} has got to {head}, of which a listener has heard {offset}", self.room);
    }
}
