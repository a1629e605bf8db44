//! A whole core: any bytes, in any chunks, on any listener, through the loop and the shard.

use std::sync::Arc;

use starling::base::census::Census;
use starling::base::time::Now;
use starling::config::{Config, ListenKind, Networks};
use starling::proto::frame;
use starling::proto::websocket::{Inflater, Item, Window};
use starling::reactor::mailbox::Exchange;
use starling::reactor::{Door, Reactor};
use starling::shard::{Flock, Inventory, Shard};
use starling_client::wire::{Incoming, parse};

use super::codec::Cut;
use super::kernel::Kernel;

/// The listeners, by number; the last one is of lines behind a proxy.
const KINDS: [ListenKind; 5] =
    [ListenKind::Line, ListenKind::Web, ListenKind::Frame, ListenKind::Grpc, ListenKind::Line];
const LINE: usize = 0;
const WEB: usize = 1;
const FRAME: usize = 2;
const GRPC: usize = 3;

/// What ends a piece of what is said; the byte behind it says what happens next.
const MARK: [u8; 3] = [0xFF, 0x00, 0xFF];

/// Things that may happen in a run: it has to end.
const EVENTS_MAX: usize = 24;

/// More turns than anything here needs to come to rest.
const TURNS_MAX: usize = 10_000;

const GRACE_MS: u64 = 5000;

/// Longer than every close takes, and than a session is kept.
const LONG_MS: u64 = 300_000 + 2 * GRACE_MS;

struct Run {
    core: Reactor<Kernel>,
    /// Somebody who is there all the time.
    witness: usize,
    /// The listeners that the others have come to, by their number as clients.
    came_to: Vec<(usize, usize)>,
}

/// The first byte names the listener, and how what follows is cut. [`MARK`] and a byte let time pass, or have somebody else go on.
///
/// Whatever is said, the core goes on and another client is served; everything that is answered is what the protocol has, down to events that a
/// client understands; and when all have gone nothing is left of them.
pub fn run(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else { return };
    let cut = [Cut::Whole, Cut::Bytes, Cut::Anywhere][usize::from(first / 5 % 3)];
    let mut run = Run::new();
    let mut now = run.connect(usize::from(first % 5));
    let mut said: Vec<Vec<u8>> = vec![Vec::new(); 2];
    for (at, (piece, next)) in pieces(rest).into_iter().enumerate() {
        said.resize(run.core.os().peers.len(), Vec::new());
        said[now].extend_from_slice(piece);
        for chunk in cut.chunks(piece) {
            run.core.os().say(now, chunk);
            run.settle();
        }
        match next {
            _ if at == EVENTS_MAX => break,
            None => break,
            Some(event) => now = run.happens(event, now),
        }
    }
    said.resize(run.core.os().peers.len(), Vec::new());
    run.end(first & 0x80 != 0);
    for (peer, listener) in run.came_to.clone() {
        let output = std::mem::take(&mut run.core.os().peers[peer].output);
        check_output(listener, &said[peer], &output);
    }
}

/// What is said, and the byte behind each mark.
fn pieces(mut rest: &[u8]) -> Vec<(&[u8], Option<u8>)> {
    let mut pieces = Vec::new();
    while let Some(at) = rest.windows(3).position(|three| three == MARK) {
        let Some(next) = rest.get(at + 3) else { break };
        pieces.push((&rest[..at], Some(*next)));
        rest = &rest[at + 4..];
    }
    pieces.push((rest, None));
    pieces
}

impl Run {
    fn new() -> Run {
        let mut config = Config::default();
        config.rate.commands_per_second = 0; // what comes too fast is refused before it is looked at
        config.history.count = 16;
        config.web.deflate = true;
        config.limits.deflate_contexts = 4;
        config.session.grace_ms = GRACE_MS;
        let config = Arc::new(config);
        let flock =
            Flock { core_connections: 100, ..Flock::of_one(config.clone(), Arc::new(Census::new(0, 0))) };
        let mut doors = KINDS.map(Door::from);
        doors[4].proxies = Some(Networks::try_from(vec!["0.0.0.0/0".to_owned()]).expect("a network"));
        let now = Now::of_ms(1000, 1_700_000_001_000);
        let shard = Shard::new(0, &flock, Arc::default(), 1, now);
        let exchange = Arc::new(Exchange::new(1, config.limits.mailbox_parcels));
        let kernel = Kernel::new(KINDS.len());
        let core = Reactor::new(0, kernel, shard, &config.limits, false, doors, exchange);
        let mut run = Run { core, witness: 0, came_to: Vec::new() };
        run.witness = run.core.os().connect(LINE);
        run.settle();
        let hello =
            b"{\"type\":\"hello\",\"nickname\":\"witness\"}\n{\"type\":\"join\",\"room\":\"lobby\"}\n";
        run.core.os().say(run.witness, hello);
        run.settle();
        run
    }

    fn connect(&mut self, listener: usize) -> usize {
        let peer = self.core.os().connect(listener);
        self.came_to.push((peer, listener));
        self.settle();
        peer
    }

    /// Something happens, after which somebody goes on: the number of a client.
    fn happens(&mut self, event: u8, now: usize) -> usize {
        let which = usize::from(event >> 3);
        match event & 7 {
            0 => self.pass(10),
            1 => self.pass(31_000),
            2 => return self.connect(which % KINDS.len()),
            3 => self.core.os().end_input(now),
            4 => return self.came_to[which % self.came_to.len()].0,
            5 => self.core.os().reset(now),
            6 => self.pass(2 * GRACE_MS),
            _ => {}
        }
        self.settle();
        now
    }

    /// Turns until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            let before = self.work_done();
            self.core.turn();
            let has_events = self.core.os().has_events();
            if before == self.work_done() && !has_events && self.core.is_quiescent() {
                return;
            }
        }
        panic!("the core does not come to rest");
    }

    fn work_done(&mut self) -> u64 {
        let c = self.core.world().counters();
        c.events.value() + c.accepted.value() + c.received_bytes.value() + c.writes.value()
    }

    /// Time passes, with all that happens at its moments. The witness is heard of in time.
    fn pass(&mut self, ms: u64) {
        let mut left = ms;
        while left > 0 {
            let wait = self.core.plan_sleep().unwrap_or(left).clamp(1, left);
            self.core.os().pass(wait);
            left -= wait;
            self.settle();
        }
        if !self.core.os().peers[self.witness].output_ended {
            self.core.os().say(self.witness, b"{\"type\":\"pong\"}\n");
            self.settle();
        }
    }

    /// Everybody goes, and nothing is left.
    fn end(&mut self, breaks: bool) {
        self.core.os().say(self.witness, b"{\"type\":\"ping\",\"id\":\"still here\"}\n");
        self.settle();
        let heard =
            String::from_utf8(self.core.os().peers[self.witness].output.clone()).expect("JSON is text");
        let last = heard.lines().last().unwrap_or_default();
        assert!(last.contains("\"pong\"") && last.contains("still here"), "the witness hears {last:?}");
        for line in heard.lines() {
            check_event(line);
        }
        for (peer, _) in self.came_to.clone() {
            if breaks { self.core.os().reset(peer) } else { self.core.os().end_input(peer) }
        }
        self.settle();
        self.core.os().say(self.witness, b"{\"type\":\"quit\"}\n");
        self.core.os().end_input(self.witness);
        self.settle();
        self.pass(LONG_MS);
        let inventory = self.core.world().inventory();
        // What was said may be read by those who come later.
        let Inventory { rooms, idle_rooms, history_bytes, .. } = inventory;
        assert_eq!(rooms, idle_rooms, "a room is kept for nobody");
        let kept = Inventory { rooms, idle_rooms, history_bytes, ..Inventory::default() };
        assert_eq!(inventory, kept, "something is left of those who have gone");
        assert!(self.core.os().peers.iter().all(|peer| peer.is_closed), "a socket is left");
    }
}

fn check_event(line: &str) {
    let (_, event) = parse(line);
    assert!(!matches!(event, Incoming::Unknown(_)), "no event: {line}");
}

/// What is answered is what the protocol has.
fn check_output(listener: usize, input: &[u8], output: &[u8]) {
    match listener {
        WEB => check_http(input, output),
        FRAME => check_frames(output),
        GRPC => check_http2(output),
        _ => check_lines(output),
    }
}

fn check_lines(output: &[u8]) {
    let text = std::str::from_utf8(output).expect("lines are text");
    assert!(text.is_empty() || text.ends_with('\n'), "half a line is left: {text:?}");
    for line in text.lines() {
        // JSON has no control character but DEL and those of C1, which are data to whoever reads it.
        let is_json = line.starts_with('{');
        let acts = |c: char| c.is_control() && !(is_json && c >= '\x7f');
        assert!(!line.chars().any(acts), "{line:?} does something to a terminal");
        if is_json {
            check_event(line);
        }
    }
}

fn check_frames(output: &[u8]) {
    let mut decoder = frame::Decoder::new(1 << 24);
    let mut at = 0;
    while at < output.len() {
        let (taken, frame) = decoder.decode(&output[at..]).expect("frames are written");
        let frame = frame.expect("whole frames are written");
        at += taken;
        assert!((129..=146).contains(&frame.kind), "{frame:?} is no event");
        if frame.encoding == frame::ENCODING_JSON {
            let text = std::str::from_utf8(frame.payload).expect("JSON is text");
            assert!(
                serde_json::from_str::<serde_json::Value>(text).is_ok_and(|json| json.is_object()),
                "{text}"
            );
        } else {
            assert_eq!(frame.encoding, frame::ENCODING_PROTOBUF);
        }
    }
}

fn check_http2(mut output: &[u8]) {
    let mut is_first = true;
    while !output.is_empty() {
        assert!(output.len() >= 9, "half a frame's header");
        let length = u32::from_be_bytes([0, output[0], output[1], output[2]]) as usize;
        assert!(output.len() >= 9 + length, "half a frame");
        let kind = output[3];
        assert!(!is_first || matches!(kind, 4 | 7), "a connection begins with a frame of kind {kind}");
        assert!(kind <= 9, "a frame of kind {kind}");
        (is_first, output) = (false, &output[9 + length..]);
    }
}

fn check_http(input: &[u8], mut output: &[u8]) {
    while !output.is_empty() {
        let end = output.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
        let head = std::str::from_utf8(&output[..end]).expect("a head is text");
        output = &output[end + 4..];
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).expect("a status line");
        let fields: Vec<_> = lines.map(|line| line.split_once(": ").expect("a field")).collect();
        let field = |name: &str| fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| *v);
        match &status[..3] {
            "100" => continue,
            "101" => {
                assert!(field("sec-websocket-accept").is_some());
                let is_chat = input.windows(7).any(|seven| seven == b"GET /ws");
                let is_only = !input.windows(5).any(|five| five == b"/echo" || five == b"/api/");
                return check_websocket(
                    output,
                    is_chat && is_only && field("sec-websocket-protocol").is_none(),
                );
            }
            _ => {}
        }
        let Some(length) = field("content-length").map(|length| length.parse::<usize>().expect("a number"))
        else {
            return; // until it is closed
        };
        let is_next = |rest: &[u8]| rest.is_empty() || rest.starts_with(b"HTTP/1.1 ");
        match output.get(length..) {
            Some(rest) if is_next(rest) => output = rest,
            _ => assert!(is_next(output), "{length} bytes are announced, and {} come", output.len()), // to HEAD
        }
    }
}

/// A server's frames, whole, unmasked and unfragmented, and the last of them a close. `is_chat`: texts are events in JSON.
fn check_websocket(mut output: &[u8], is_chat: bool) {
    let (mut inflater, mut window) = (Inflater::default(), Window::new(15));
    let mut has_closed = false;
    while !output.is_empty() {
        assert!(!has_closed, "something behind a close");
        let (first, second) = (output[0], output[1]);
        assert_eq!((first & 0xB0, second & 0x80), (0x80, 0), "{first:02x} {second:02x}");
        let (header, length) = match second {
            126 => (4, usize::from(u16::from_be_bytes([output[2], output[3]]))),
            127 => (10, u64::from_be_bytes(output[2..10].try_into().expect("eight bytes")) as usize),
            short => (2, usize::from(short)),
        };
        assert!(output.len() >= header + length, "half a frame is left");
        let payload = &output[header..header + length];
        output = &output[header + length..];
        match (first & 0x0F, first & 0x40 != 0) {
            (1, is_compressed) => {
                let text = if is_compressed {
                    let told = inflater.inflate(true, payload, Some(&mut window), 1 << 24);
                    let Ok(Item::Text(text)) = told else { panic!("{told:?} is no text") };
                    text
                } else {
                    std::str::from_utf8(payload).expect("a text frame is text")
                };
                if is_chat {
                    check_event(text);
                }
            }
            (2, false) => {}
            (2, true) => assert!(inflater.inflate(false, payload, Some(&mut window), 1 << 24).is_ok()),
            (8, false) => {
                assert!(length != 1 && length <= 125);
                has_closed = true;
            }
            (9 | 10, false) => assert!(length <= 125),
            (opcode, _) => panic!("a frame with the opcode {opcode}"),
        }
    }
}
