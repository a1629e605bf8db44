//! Compression of WebSocket messages (permessage-deflate): who has which kind, and what it is done with.
//!
//! A connection without context refers to nothing but the message itself. So one deflater a core does for all of them, what goes
//! to a room is compressed once, at its home, as an [`Encoding`] of its own, and one inflater a core reads what they say. A
//! connection that keeps its context has a deflater of its own, is sent what was compressed for it alone, and has a place among
//! a bounded number.

use std::ops::Range;

use hashbrown::HashMap;

use super::Shard;
use super::connection::{Pause, Stage};
use super::encode::Encoding;
use super::queue::{Frames, SendPool, SendQueue};
use crate::base::slots::Id;
use crate::config::Config;
use crate::proto::websocket::extension::{Agreement, Offer};
use crate::proto::websocket::{self, Deflater, Inflater, Item, Opcode, Violation, Window};

/// The longest window (RFC 7692, 7.1.2).
const WIDE_BITS: u8 = 15;

/// The shortest: one that any bound on the window allows.
const NARROW_BITS: u8 = 8;

/// How much memory the buffer may keep after a large message.
const KEPT_BYTES: usize = 64 * 1024;

/// How long a connection waits when its messages have become more bytes than may be read from it in a turn, in milliseconds: the
/// shortest time that there is.
const INFLATE_PAUSE_MS: u64 = 1;

/// What a connection keeps from one message to the next.
#[derive(Debug)]
struct Contexts {
    /// Compresses what it is sent, if that may refer to what it was sent before.
    outbound: Option<Deflater>,
    /// What its messages may refer to, if they do.
    inbound: Option<Window>,
}

/// The deflaters of one core: those that serve many connections, made when they are first needed, and those of the few
/// connections that keep their context.
#[derive(Debug)]
pub struct Deflaters {
    level: u32,
    min_bytes: usize,
    wide: Option<Box<Deflater>>,
    narrow: Option<Box<Deflater>>,
    buffer: Vec<u8>,
    /// The connections that keep their context. A table of its own, because most connections would have nothing here.
    contexts: HashMap<Id, Contexts>,
    /// Whether anybody has ever agreed on compression.
    is_used: bool,
    // What has been compressed so far.
    messages: u64,
    bytes_before: u64,
    bytes_after: u64,
}

impl Deflaters {
    pub(super) fn new(config: &Config) -> Self {
        Deflaters {
            level: config.web.deflate_level as u32,
            min_bytes: config.limits.deflate_min_bytes,
            wide: None,
            narrow: None,
            buffer: Vec::new(),
            contexts: HashMap::new(),
            is_used: false,
            messages: 0,
            bytes_before: 0,
            bytes_after: 0,
        }
    }

    /// Compresses the message that is the last thing in `out`, from `at` on, for everybody with this encoding, if that pays.
    pub(super) fn compress_last(&mut self, encoding: Encoding, out: &mut Vec<u8>, at: usize) {
        let (deflater, bits) = match encoding {
            Encoding::JsonDeflated | Encoding::ProtobufDeflated => (&mut self.wide, WIDE_BITS),
            Encoding::JsonDeflatedNarrow | Encoding::ProtobufDeflatedNarrow => {
                (&mut self.narrow, NARROW_BITS)
            }
            _ => return,
        };
        let deflater = deflater.get_or_insert_with(|| Box::new(Deflater::new(self.level, bits, false)));
        let compressed = deflater.compress_last(out, at, self.min_bytes, &mut self.buffer);
        self.note(compressed);
    }

    /// The same for one connection, which may have a deflater for itself.
    pub(super) fn compress_last_for(&mut self, whom: Whom, out: &mut Vec<u8>, at: usize) {
        let own = if whom.keeps_context { self.contexts.get_mut(&whom.id) } else { None };
        match own.and_then(|contexts| contexts.outbound.as_mut()) {
            Some(own) => {
                let compressed = own.compress_last(out, at, self.min_bytes, &mut self.buffer);
                self.note(compressed);
            }
            None => self.compress_last(whom.encoding, out, at),
        }
    }

    /// Queues a part of a batch that is not compressed, compressed for one connection and so copied.
    pub(super) fn push(
        &mut self,
        pool: &mut SendPool,
        queue: &mut SendQueue,
        whom: Whom,
        frames: &Frames,
        range: Range<u32>,
    ) {
        for frame in frames.within(range) {
            pool.push_frame(queue, |out| {
                let at = out.len();
                out.extend_from_slice(&frames.bytes[frame.start as usize..frame.end as usize]);
                self.compress_last_for(whom, out, at);
            });
        }
    }

    /// For whom something is compressed, in that encoding.
    pub(super) fn whom(&self, id: Id, encoding: Encoding) -> Whom {
        let keeps_context = !self.contexts.is_empty()
            && self.contexts.get(&id).is_some_and(|contexts| contexts.outbound.is_some());
        Whom { id, encoding, keeps_context }
    }

    /// What a connection was sent has not all arrived: nothing refers to it any more.
    pub(super) fn forget_sent(&mut self, id: Id) {
        if let Some(contexts) = self.contexts.get_mut(&id) {
            contexts.outbound = None;
        }
    }

    /// Takes back what a connection kept.
    pub(super) fn forget(&mut self, id: Id) {
        if !self.contexts.is_empty() {
            self.contexts.remove(&id);
        }
    }

    fn note(&mut self, compressed: Option<(usize, usize)>) {
        if let Some((before, after)) = compressed {
            self.messages += 1;
            self.bytes_before += before as u64;
            self.bytes_after += after as u64;
        }
        if self.buffer.capacity() > KEPT_BYTES {
            self.buffer = Vec::new();
        }
    }
}

/// For whom something is compressed.
#[derive(Debug, Clone, Copy)]
pub struct Whom {
    id: Id,
    encoding: Encoding,
    keeps_context: bool,
}

impl Whom {
    /// Whether it has a deflater for itself.
    pub(super) fn keeps_context(self) -> bool {
        self.keeps_context
    }

    /// Whether what it is sent is compressed at all.
    pub(super) fn is_compressed(self) -> bool {
        self.keeps_context || self.encoding != self.encoding.uncompressed()
    }
}

/// How a WebSocket's events are written, `encoding` being how they are without compression.
pub(super) fn encoding_of(agreement: Option<&Agreement>, encoding: Encoding) -> Encoding {
    match agreement {
        Some(agreement) if !agreement.server_keeps_context => {
            encoding.deflated(agreement.server_bits < WIDE_BITS)
        }
        _ => encoding,
    }
}

impl Shard {
    /// Decides how messages of a connection will be compressed that is to become a WebSocket, and gives it what it needs for
    /// that.
    pub(super) fn agree_on_deflate(&mut self, id: Id, offer: Option<Offer>) -> Option<Agreement> {
        let offer = offer?;
        let contexts_max = self.limits.deflate_contexts;
        let deflaters = &mut self.scratch.deflaters;
        let may_keep_context = deflaters.contexts.len() < contexts_max;
        if !may_keep_context && contexts_max > 0 && offer.wants_context() {
            self.counters.deflate_contexts_refused.add(1);
        }
        deflaters.is_used = true;
        let agreement = offer.agree(may_keep_context);
        if agreement.server_keeps_context || agreement.client_keeps_context {
            let deflater = || Deflater::new(deflaters.level, agreement.server_bits, true);
            let outbound = agreement.server_keeps_context.then(deflater);
            let inbound = agreement.client_keeps_context.then(|| Window::new(agreement.client_bits));
            deflaters.contexts.insert(id, Contexts { outbound, inbound });
        }
        Some(agreement)
    }

    /// Tells how much has been compressed.
    pub(super) fn count_deflated(&self) {
        let Deflaters { messages, bytes_before, bytes_after, contexts, is_used, .. } =
            &self.scratch.deflaters;
        if !is_used {
            return;
        }
        self.counters.deflate_contexts.set(contexts.len() as u64);
        self.counters.deflated.set(*messages);
        self.counters.deflated_bytes_before.set(*bytes_before);
        self.counters.deflated_bytes_after.set(*bytes_after);
    }

    /// Sends a WebSocket message to one connection, compressed if that is agreed and pays.
    pub(super) fn say_websocket(&mut self, id: Id, opcode: Opcode, payload: &[u8]) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.stage != Stage::Open {
            return;
        }
        let deflaters = &mut self.scratch.deflaters;
        let whom = deflaters.whom(id, connection.encoding);
        self.pool.push_frame(&mut connection.queue, |out| {
            let at = out.len();
            websocket::put_frame(out, opcode, payload);
            if whom.is_compressed() {
                deflaters.compress_last_for(whom, out, at);
            }
        });
        self.touch(id);
    }

    /// Inflates a client's message and hears it; says how many bytes it has and whether the next one may be looked at.
    pub(super) fn hear_deflated(
        &mut self,
        id: Id,
        is_text: bool,
        payload: &[u8],
        bytes_max: usize,
        hear: fn(&mut Self, Id, Item) -> bool,
    ) -> Result<(usize, bool), Violation> {
        let contexts = self.scratch.deflaters.contexts.get_mut(&id);
        let window = contexts.and_then(|contexts| contexts.inbound.as_mut());
        // Taken out of the shard, so that what it holds can be heard.
        let mut inflater: Box<Inflater> = self.inflater.take().unwrap_or_default();
        let outcome = match inflater.inflate(is_text, payload, window, bytes_max) {
            Ok(item) => {
                let bytes = match item {
                    Item::Text(text) => text.len(),
                    Item::Binary(bytes) => bytes.len(),
                    _ => unreachable!("what is inflated is data"),
                };
                self.counters.inflated.add(1);
                self.counters.inflated_bytes.add(bytes as u64);
                Ok((bytes, hear(self, id, item)))
            }
            Err(violation) => {
                self.counters.inflated_too_large.add(u64::from(violation.code == 1009));
                Err(violation)
            }
        };
        inflater.release();
        self.inflater = Some(inflater);
        outcome
    }

    /// Lets a connection wait for a moment that has sent few bytes and said much with them: what is read of one connection in a
    /// turn is bounded, and what becomes of it should be too.
    pub(super) fn pause_after_inflating(&mut self, id: Id) {
        let until = self.now.tick + INFLATE_PAUSE_MS;
        let Some(connection) = self.connections.get_mut(id).filter(|c| c.stage == Stage::Open) else {
            return;
        };
        if connection.pause.is_none() {
            connection.pause = Some(Pause::Limited(until));
            self.counters.inflate_pauses.add(1);
            self.arm(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::census::Census;
    use crate::base::time::Now;
    use crate::config::ListenKind;
    use crate::shard::Flock;

    const SHARED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    const NARROW: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                          server_max_window_bits=10";
    const KEEPING: &str = "permessage-deflate";

    /// The first byte of each frame that waits to be sent, and its payload.
    fn queued(shard: &Shard, id: Id) -> Vec<(u8, Vec<u8>)> {
        let mut slices = [std::io::IoSlice::new(&[]); 64];
        let count = shard.gather(id, &mut slices);
        let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
        let mut frames = Vec::new();
        let mut rest = &bytes[..];
        while let &[first, short, ..] = rest {
            let (header, length) = match short {
                126 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
                _ => (2, usize::from(short)),
            };
            frames.push((first, rest[header..header + length].to_vec()));
            rest = &rest[header + length..];
        }
        frames
    }

    fn shard(contexts: usize) -> Shard {
        let mut config = Config::default();
        config.web.deflate = true;
        config.limits.deflate_contexts = contexts;
        config.limits.deflate_min_bytes = 1000;
        config.limits.send_queue_bytes = 2000;
        let flock = Flock::of_one(Arc::new(config), Arc::new(Census::new(0, 0)));
        Shard::new(0, &flock, Arc::default(), 1, Now::default())
    }

    fn open(shard: &mut Shard, path: &str, offer: &str) -> Id {
        let id = shard.open([127, 0, 0, 1].into(), ListenKind::Web);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Extensions: {offer}\r\n\r\n"
        );
        shard.receive(id, &mut request.into_bytes());
        shard.send_gathered_events();
        id
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        websocket::put_frame(&mut out, Opcode::Text, payload);
        let header = websocket::header_bytes(payload.len());
        out[0] = first;
        out[1] |= 0x80;
        out.splice(header..header, [0; 4]);
        out
    }

    fn say(shard: &mut Shard, id: Id, content: &str) {
        let command = format!(r#"{{"type":"message","room":"lobby","content":"{content}"}}"#);
        shard.receive(id, &mut frame(0x81, command.as_bytes()));
        shard.send_gathered_events();
    }

    #[test]
    fn a_message_is_compressed_once_for_all_that_share_it() {
        let mut shard = shard(1);
        let speaker = open(&mut shard, "/ws?nickname=speaker&room=lobby", "");
        for (number, offer) in [SHARED, SHARED, SHARED, NARROW, NARROW].into_iter().enumerate() {
            open(&mut shard, &format!("/ws?nickname=user{number}&room=lobby"), offer);
        }
        assert_eq!(shard.counters.deflated.value(), 0, "what is short is not compressed");
        say(&mut shard, speaker, &"so it goes, ".repeat(200));
        assert_eq!(shard.counters.deflated.value(), 2, "once for each window");
        open(&mut shard, "/ws?nickname=alone&room=lobby", KEEPING);
        assert_eq!(shard.counters.deflate_contexts.value(), 1);
        say(&mut shard, speaker, &"so it goes, ".repeat(200));
        assert_eq!(shard.counters.deflated.value(), 5, "and for each that keeps its context");
        let counters = &shard.counters;
        assert!(10 * counters.deflated_bytes_after.value() < counters.deflated_bytes_before.value());
    }

    #[test]
    fn contexts_are_bounded_and_given_back() {
        let mut shard = shard(1);
        let first = open(&mut shard, "/echo", KEEPING);
        open(&mut shard, "/echo", SHARED);
        assert_eq!(shard.counters.deflate_contexts_refused.value(), 0);
        open(&mut shard, "/ws", KEEPING);
        assert_eq!(shard.counters.deflate_contexts_refused.value(), 1);
        assert_eq!(shard.scratch.deflaters.contexts.len(), 1);
        shard.broken(first);
        shard.take_closed(|_, _| {});
        assert_eq!(shard.scratch.deflaters.contexts.len(), 0);
    }

    #[test]
    fn last_words_do_not_refer_to_what_was_thrown_away() {
        let mut shard = shard(1);
        shard.scratch.deflaters.min_bytes = 0;
        let speaker = open(&mut shard, "/ws?nickname=speaker&room=lobby", "");
        let slow = open(&mut shard, "/ws?nickname=slow&room=lobby", KEEPING);
        let before = shard.connections[slow].queue.bytes();
        shard.sent(slow, before);
        let mut content = String::new();
        let mut rng = crate::base::rng::Rng::new(1);
        while shard.connections[slow].stage == Stage::Open {
            content.clear();
            content.extend((0..300).map(|_| char::from(b'a' + rng.below(26) as u8)));
            say(&mut shard, speaker, &content);
            shard.sent(speaker, shard.connections[speaker].queue.bytes());
            assert!(!shard.flushed(slow));
        }
        let last: Vec<u8> = queued(&shard, slow).iter().map(|(first, _)| *first).collect();
        assert_eq!(last, [0x81, 0x88], "the farewell and the close frame, neither of them compressed");
    }

    #[test]
    fn who_says_much_in_few_bytes_waits_its_turn() {
        let mut shard = shard(0);
        let id = open(&mut shard, "/ws", SHARED);
        let message = [&br#"{"type":"ping"}"#[..], &[b' '; 100_000]].concat();
        let mut out = Vec::new();
        websocket::put_frame(&mut out, Opcode::Text, &message);
        Deflater::new(9, 15, false).compress_last(&mut out, 0, 0, &mut Vec::new()).unwrap();
        let header = if out[1] == 126 { 4 } else { 2 };
        let flood = frame(0xC1, &out[header..]).repeat(20);
        assert!(flood.len() < 5000);
        shard.receive(id, &mut flood.clone());
        let most = shard.limits.read_bytes_per_turn + message.len();
        assert!((1..=most as u64).contains(&shard.counters.inflated_bytes.value()));
        assert!(!shard.wants_input(id));
        let mut now = Now::default();
        for turn in 1..20 {
            now.tick = now.tick + INFLATE_PAUSE_MS;
            shard.tick(now);
            while shard.expire() {}
            assert!(shard.counters.inflated_bytes.value() <= (turn + 1) * most as u64);
        }
        assert_eq!(shard.counters.inflated.value(), 20, "all of them are heard in the end");
        assert!(shard.wants_input(id));
        assert_eq!(shard.take_resumed().next(), Some(id));
    }
}
