//! What happens when nothing does: each connection has one timer, which looks at the connection when it fires and moves
//! on to the next moment that matters. Traffic never touches it.

use super::Shard;
use super::closing::Closing;
use super::connection::{Connection, Pause, Protocol, Security, Stage};
use super::encode::Encoding;
use crate::base::slots::Id;
use crate::base::time::Tick;
use crate::chat::refusal::Farewell;
use crate::config::ListenKind;
use crate::proto::wire::Event;
use crate::proto::{text, websocket};

/// A probe is put off by up to this part of its period, by the connection's place, so that connections that
/// came together are not all probed in the same turn.
const PROBE_SPREAD: u64 = 8;

/// A token's end is looked at again after at most so long, because the wall clock may be set meanwhile.
pub(super) const EXPIRY_MS_MAX: u64 = 3_600_000;

/// What a timer is for.
#[derive(Debug, Clone, Copy)]
pub enum Timer {
    /// Some deadline of a connection.
    Connection(Id),
    /// A large room tells who came and went. The key is that of the room at its home, which is this core.
    Presence(Id),
    /// A room without members may have nothing to remember any more. The key is as above.
    Room(Id),
    /// A session has been away for as long as it may.
    Grace(Id),
    /// Somebody has waited for an acknowledgement of the store for as long as one may.
    Store,
    /// Messages wait for place in the journal.
    Place,
    /// Somebody has waited for an answer of the storage threads for as long.
    Read,
    /// A session that was given up to another node may not have been heard of there. The room's key at its home, and where the session was.
    HandedOn(Id, u16, Id),
    /// Rooms to which a session could not be taken back are looked at once more.
    Strays,
    /// The sessions of a nickname are looked for once more.
    Find(Id),
    /// The time of grace of a lost node's sessions may be over, in a room at home here.
    LostNodes(Id),
    /// Rooms are to get the bounds of another configuration.
    Bounds,
    /// The clients are told to go.
    Drain,
}

/// How late a timer is when its core was held up, and not only busy.
const HELD_UP_MS: u64 = 1000;

impl Shard {
    /// Whether a timer is due now.
    pub fn has_due_timer(&mut self) -> bool {
        self.wheel.is_due(self.now.tick)
    }

    /// Sets the connection's timer to its next deadline, if that comes before the one that is set.
    pub(super) fn arm(&mut self, id: Id) {
        let Some(connection) = self.connections.get(id) else { return };
        let deadline = self.deadline(id, connection);
        match (connection.timer, deadline) {
            (_, None) => return,
            (Some((_, set)), Some(deadline)) if set <= deadline => return,
            (Some((key, _)), Some(_)) => {
                self.wheel.cancel(key);
            }
            (None, Some(_)) => {}
        }
        let deadline = deadline.expect("matched above");
        let key = self.wheel.insert(deadline, Timer::Connection(id));
        self.connections.get_mut(id).expect("looked at above").timer = Some((key, deadline));
    }

    pub(super) fn handle_timer(&mut self, timer: Timer) {
        match timer {
            Timer::Connection(id) => {
                self.connections.get_mut(id).expect("a connection's timer goes with it").timer = None;
                self.look_at(id);
                self.arm(id);
            }
            Timer::Store => self.expire_store_waits(),
            Timer::Place => self.let_messages_in(),
            Timer::Read => self.expire_reads(),
            Timer::Presence(room) => self.tell_presence_batch(room),
            Timer::Room(room) => self.look_at_room(room),
            Timer::Grace(session) => self.expire_grace(session),
            Timer::HandedOn(room, core, session) => self.expire_handed_on(room, core, session),
            Timer::Strays => self.look_for_strays(),
            Timer::Find(wait) => self.find_now(wait),
            Timer::LostNodes(room) => self.look_for_lost_nodes(room),
            Timer::Bounds => self.bound_rooms_anew(),
            Timer::Drain => self.say_farewell(),
        }
    }

    /// The next moment at which something may have to be done about a connection.
    fn deadline(&self, id: Id, connection: &Connection) -> Option<Tick> {
        let deadline = self.deadline_of_peer(id, connection);
        match connection.pause {
            Some(Pause::Limited(until)) => Some(deadline.map_or(until, |deadline| deadline.min(until))),
            Some(Pause::Output) if connection.stage == Stage::Open => {
                let until = self.takes_nothing_until(connection);
                Some(deadline.map_or(until, |deadline| deadline.min(until)))
            }
            _ => deadline,
        }
    }

    /// Whether this core has been held up, so that a deadline has passed without the peer's having had its time: it comes late, or
    /// has not yet tried to write what was queued at the end of the last turn.
    fn was_held_up(&self, id: Id, deadline: Tick) -> bool {
        self.now.tick.since(deadline) >= HELD_UP_MS
            || self.touched.iter().take(self.untried).any(|other| *other == id)
    }

    /// When a peer that is not read from will have taken none of its answers for too long.
    fn takes_nothing_until(&self, connection: &Connection) -> Tick {
        connection.last_seen + self.config.heartbeat.timeout_ms
    }

    /// When the peer will have been silent, or nameless, for too long.
    fn deadline_of_peer(&self, id: Id, connection: &Connection) -> Option<Tick> {
        match connection.stage {
            Stage::Flushing(until) | Stage::Lingering(until) => return Some(until),
            Stage::Closed => return None,
            Stage::Open => {}
        }
        if !connection.may_speak() {
            return Some(connection.awaited_since + self.limits.tls_handshake_ms);
        }
        if let Protocol::Detect = connection.protocol {
            return Some(connection.awaited_since + self.limits.detect_ms);
        }
        if let Protocol::Http(http) = &connection.protocol {
            return http.deadline(&self.limits);
        }
        if let Protocol::EventStream(stream) = &connection.protocol {
            return Some(self.event_stream_deadline(stream));
        }
        if let Protocol::Http2(http2) = &connection.protocol {
            return Some(match (http2.leaves_by, http2.has_called()) {
                (None, true) => self.silence_ends(id, connection),
                (None, false) => connection.awaited_since + self.limits.hello_ms,
                (Some(leaves_by), true) => leaves_by.min(self.silence_ends(id, connection)),
                (Some(leaves_by), false) => leaves_by,
            });
        }
        let Some(call) = &connection.call else { return self.deadline_of_chat(id, connection) };
        let of_call = self.call_deadline(connection, call);
        if !Self::is_chat(call) {
            return of_call;
        }
        [self.deadline_of_chat(id, connection), of_call].into_iter().flatten().min()
    }

    /// When a peer that chats will have been silent, or nameless, for too long.
    fn deadline_of_chat(&self, id: Id, connection: &Connection) -> Option<Tick> {
        // Neither of these says hello.
        let is_nameless = matches!(connection.protocol, Protocol::Echo(_) | Protocol::Watch(_));
        if !is_nameless && !self.has_said_hello(connection) {
            // What the answer to a hello takes is not the client's time.
            connection.session.is_none().then_some(())?;
            let ms = if connection.encoding == Encoding::Text {
                self.limits.hello_line_ms
            } else {
                self.limits.hello_ms
            };
            return Some(connection.awaited_since + ms);
        }
        let expiry = self.token_expiry(connection);
        if !connection.encoding.can_resume() {
            return expiry; // TCP keepalive, or HTTP/2's, looks after people who have nothing to say
        }
        let silence = self.silence_ends(id, connection);
        Some(expiry.map_or(silence, |expiry| expiry.min(silence)))
    }

    /// When a silent peer is asked for a sign of life, or given up.
    fn silence_ends(&self, id: Id, connection: &Connection) -> Tick {
        match connection.probed_at {
            Some(probed_at) => self.give_up_at(connection, probed_at),
            None => self.probe_at(id, connection),
        }
    }

    /// When the token of the connection's user expires, by the clock of the loops.
    fn token_expiry(&self, connection: &Connection) -> Option<Tick> {
        let session = connection.session.and_then(|session| self.sessions.get(session))?;
        let at_ms = session.identity.as_ref()?.claims.expires_at_ms?;
        Some(self.now.tick + at_ms.saturating_sub(self.now.unix_ms).min(EXPIRY_MS_MAX))
    }

    fn look_at(&mut self, id: Id) {
        let now = self.now.tick;
        let connection = self.connections.get(id).expect("checked by the caller");
        if self.deadline(id, connection).is_none_or(|deadline| deadline > now) {
            self.review_told(id);
            return; // something has come in since the timer was set
        }
        match connection.stage {
            Stage::Flushing(until) if self.was_held_up(id, until) => {
                let until = now + self.limits.close_ms;
                self.connections.get_mut(id).expect("looked at above").stage = Stage::Flushing(until);
                return;
            }
            Stage::Flushing(_) | Stage::Lingering(_) => return self.end_without_trust(id),
            Stage::Closed => return,
            Stage::Open => {}
        }
        if let Some(Pause::Limited(until)) = connection.pause
            && until <= now
        {
            let connection = self.connections.get_mut(id).expect("looked at above");
            connection.pause = None;
            self.resumable.push_back(id);
        }
        let connection = self.connections.get(id).expect("looked at above");
        if connection.pause == Some(Pause::Output) && self.takes_nothing_until(connection) <= now {
            if self.was_held_up(id, self.takes_nothing_until(connection)) {
                self.connections.get_mut(id).expect("looked at above").last_seen = now;
                return;
            }
            return self.close(id, Closing::Bye(Farewell::SlowConsumer));
        }
        if self.deadline_of_peer(id, connection).is_none_or(|deadline| deadline > now) {
            return;
        }
        if let Some(call) = &connection.call
            && self.call_deadline(connection, call).is_some_and(|deadline| deadline <= now)
        {
            self.counters.call_deadlines.add(1);
            return self.close(id, Closing::RequestTimeout);
        }
        match &connection.protocol {
            _ if connection.security == Security::Announced => {
                self.counters.proxy_violations.add(1);
                self.close(id, Closing::Handshake);
            }
            _ if connection.security == Security::Handshaking => {
                self.counters.tls_unfinished.add(1);
                self.close(id, Closing::Handshake);
            }
            Protocol::Detect => self.greet(id),
            Protocol::Http2(http2) if http2.leaves_by.is_some_and(|leaves_by| leaves_by <= now) => {
                // It has had its time for the last words; if it has taken them it gets that for ending its side.
                let has_taken_all = connection.queue.is_empty();
                let is_known = http2.has_called() || self.drain.is_some();
                let why = if is_known { Farewell::Draining } else { Farewell::NoHello };
                let closing = if has_taken_all { Closing::Bye(why) } else { Closing::Broken };
                self.close(id, closing);
            }
            Protocol::Http2(http2) if !http2.is_greeted() => {
                self.counters.no_hello.add(1);
                self.refuse_http2(id, Farewell::NoHello.as_str());
            }
            // A library whose program has not called yet connects again when it does.
            Protocol::Http2(http2) if !http2.has_called() => {
                self.counters.no_hello.add(1);
                self.leave_http2(id);
            }
            Protocol::Http2(_) if connection.probed_at.is_some() => {
                self.counters.timeouts.add(1);
                self.close(id, Closing::Bye(Farewell::Timeout));
            }
            Protocol::Http2(_) => self.probe(id),
            Protocol::Http(http) => {
                let closing =
                    if http.is_between_requests() { Closing::Idle } else { Closing::RequestTimeout };
                self.counters.no_hello.add(u64::from(closing == Closing::RequestTimeout));
                self.close(id, closing);
            }
            Protocol::EventStream(_) => self.look_at_event_stream(id),
            protocol => {
                let is_nameless = matches!(protocol, Protocol::Echo(_) | Protocol::Watch(_));
                if !is_nameless && !self.has_said_hello(connection) {
                    self.counters.no_hello.add(1);
                    self.close(id, Closing::Bye(Farewell::NoHello));
                } else if self.token_expiry(connection).is_some_and(|expiry| expiry <= now) {
                    self.counters.expired_tokens.add(1);
                    self.close(id, Closing::Bye(Farewell::ExpiredToken));
                } else if !connection.encoding.can_resume() {
                    // Woken for a token that has not expired yet, by a clock that was set.
                } else if connection.probed_at.is_some() {
                    self.counters.timeouts.add(1);
                    self.close(id, Closing::Bye(Farewell::Timeout));
                } else {
                    self.probe(id);
                }
            }
        }
    }

    /// When a probe has gone unanswered for too long. A core that was held up probes late and has not looked at what
    /// came meanwhile: its clients have as much time for their answer as any.
    fn give_up_at(&self, connection: &Connection, probed_at: Tick) -> Tick {
        let heartbeat = &self.config.heartbeat;
        let answer_ms = (heartbeat.timeout_ms - heartbeat.probe_ms) / 2;
        (connection.last_seen + heartbeat.timeout_ms).max(probed_at + answer_ms)
    }

    fn probe_at(&self, id: Id, connection: &Connection) -> Tick {
        let period = self.config.heartbeat.probe_ms;
        // Fibonacci hashing: neighbouring places land far apart. Never past half of the time there is to answer in.
        let spread_ms = (period / PROBE_SPREAD).min((self.config.heartbeat.timeout_ms - period) / 2).max(1);
        let spread = (u64::from(id.index).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % spread_ms;
        connection.last_seen + period + spread
    }

    pub(super) fn probe(&mut self, id: Id) {
        let connection = self.connections.get_mut(id).expect("checked by the caller");
        connection.probed_at = Some(self.now.tick);
        if self.is_http2(id) {
            return self.ping_http2(id);
        }
        let connection = self.connections.get(id).expect("looked at above");
        let encoding = connection.encoding;
        let marker = self.note_ping(id);
        match encoding.is_websocket() {
            true => self.say_raw(id, |out| websocket::put_ping(out, marker.as_ref().map_or(b"", |it| it))),
            false => self.say(id, &Event::Ping),
        }
    }

    fn has_said_hello(&self, connection: &Connection) -> bool {
        let session = connection.session.and_then(|session| self.sessions.get(session));
        // An ending session gives its nickname back before its connection hears of the end.
        session.is_some_and(|session| session.nickname.is_some() || session.is_ending())
    }

    /// Asks a person for a nickname, or tells one who may not stay to go.
    pub(super) fn greet(&mut self, id: Id) {
        let connection = self.connections.get_mut(id).expect("checked by the caller");
        debug_assert_eq!(connection.kind, ListenKind::Line);
        if let Some(farewell) = connection.turned_away {
            return self.close(id, Closing::Bye(farewell));
        }
        connection.protocol = Protocol::Text(Box::new(super::connection::TextLines {
            has_heard: false,
            telnet: Default::default(),
            lines: crate::proto::line::Decoder::new(self.limits.inbound_bytes),
        }));
        self.log_protocol(id);
        self.say_raw(id, |out| out.extend_from_slice(text::GREETING.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::sync::Arc;

    use super::*;
    use crate::base::census::Census;
    use crate::base::time::Now;
    use crate::config::Config;
    use crate::shard::connection::Connection;
    use crate::shard::{Flock, LEAVE_MS};

    /// What a program on a line has been told so far.
    fn told(shard: &mut Shard, id: Id) -> String {
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = shard.gather(id, &mut slices);
        let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
        shard.sent(id, bytes.len());
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_core_that_was_held_up_asks_before_it_gives_up() {
        let config = Arc::new(Config::default());
        let (probe_ms, timeout_ms) = (config.heartbeat.probe_ms, config.heartbeat.timeout_ms);
        let census = Arc::new(Census::new(0, 0));
        let flock = Flock::of_one(config, census);
        let mut shard = Shard::new(0, &flock, Arc::default(), 1, Now::default());
        let id = shard.open([127, 0, 0, 1].into(), ListenKind::Line);
        shard.receive(id, &mut b"{\"type\":\"hello\",\"nickname\":\"alice\"}\n".to_vec());
        assert!(told(&mut shard, id).contains("welcome"));

        let at = |shard: &mut Shard, ms: u64| {
            shard.tick(Now::of_ms(ms, ms));
            while shard.expire() {}
        };
        at(&mut shard, 3 * timeout_ms);
        assert_eq!(told(&mut shard, id), "{\"type\":\"ping\"}\n", "silent for long, but never asked");
        at(&mut shard, 3 * timeout_ms + (timeout_ms - probe_ms) / 2 - 1);
        assert_eq!(told(&mut shard, id), "", "it still has time to answer");
        at(&mut shard, 3 * timeout_ms + (timeout_ms - probe_ms) / 2);
        assert!(told(&mut shard, id).contains("\"code\":4203"));
    }

    #[test]
    fn who_waits_for_a_core_that_has_failed_is_left_after_the_others_have_been_told() {
        let flock = Flock::of_one(Arc::new(Config::default()), Arc::new(Census::new(0, 0)));
        let flock = Flock { cores: 2, core_connections: 20, ..flock };
        let mut shard = Shard::new(0, &flock, Arc::default(), 1, Now::default());
        // The other core has failed: it says nothing of its rooms, nor who may have which nickname.
        let mut open = |kind, line: String| {
            let id = shard.open([127, 0, 0, 1].into(), kind);
            shard.receive(id, &mut line.into_bytes());
            (id, !told(&mut shard, id).is_empty())
        };
        let hello = |number| format!("{{\"type\":\"hello\",\"nickname\":\"guest{number}\"}}\n");
        let ask = |number| format!("GET /api/rooms/room{number}/members HTTP/1.1\r\nHost: x\r\n\r\n");
        let chat: Vec<(Id, bool)> = (0..8).map(|number| open(ListenKind::Line, hello(number))).collect();
        let http: Vec<(Id, bool)> = (0..8).map(|number| open(ListenKind::Web, ask(number))).collect();
        for clients in [&chat, &http] {
            assert!(clients.iter().any(|client| client.1) && clients.iter().any(|client| !client.1));
        }
        let at = |shard: &mut Shard, ms: u64| {
            shard.tick(Now::of_ms(ms, ms));
            while shard.expire() {}
        };
        shard.leave();
        at(&mut shard, 1);
        for (id, _) in &chat {
            assert!(told(&mut shard, *id).contains("\"code\":4300"));
        }
        let waits = |shard: &Shard| {
            let waits = |(id, _): &&(Id, bool)| shard.connections.get(*id).is_some_and(Connection::is_asking);
            http.iter().filter(waits).count()
        };
        let unanswered = http.iter().filter(|client| !client.1).count();
        at(&mut shard, LEAVE_MS);
        assert_eq!(waits(&shard), unanswered, "an answer may still come");
        at(&mut shard, LEAVE_MS + 1);
        assert_eq!(waits(&shard), 0);
        at(&mut shard, LEAVE_MS + 3);
        assert!(shard.is_over());
    }
}
