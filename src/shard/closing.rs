//! The end of a connection: one entry, which may be called any number of times, with a typed reason.

use super::connection::{Connection, Pause, Protocol, Stage};
use super::mail::{ReplyTo, Request, RoomKey};
use super::session::{AfterEnd, Step};
use super::timers::Timer;
use super::upgrade::PendingUpgrade;
use super::{Drain, LEAVE_MS, Shard};
use crate::base::slots::Id;
use crate::chat::name::Nickname;
use crate::chat::refusal::{Farewell, LeaveReason, Reason, Refusal};
use crate::proto::websocket;
use crate::proto::wire::Event;

/// Why a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closing {
    /// The server says `bye`.
    Bye(Farewell),
    /// The client said `quit`, perhaps with an id.
    Quit(ReplyTo),
    /// The peer closed its WebSocket, with this code if it gave one.
    PeerClosed(Option<u16>),
    /// The peer broke the rules of the WebSocket protocol.
    Violation(websocket::Violation),
    /// The last HTTP response of the connection has been queued.
    LastResponse,
    /// No request came on a kept-alive connection.
    Idle,
    /// A request did not become complete in time.
    RequestTimeout,
    /// The peer ended its side, and everything it asked for has been answered.
    InputEnded,
    /// The TLS handshake did not become complete in time.
    Handshake,
    /// What came is no TLS, or not that of this connection.
    Spoiled,
    /// The socket failed.
    Broken,
}

/// A [`Closing`] without what it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Farewell(Farewell),
    PeerClosed,
    Violation,
    LastResponse,
    Idle,
    RequestTimeout,
    InputEnded,
    Handshake,
    Spoiled,
    Broken,
}

impl Kind {
    /// The word for it in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Farewell(farewell) => farewell.as_str(),
            Kind::PeerClosed => "peer_closed",
            Kind::Violation => "violation",
            Kind::LastResponse => "last_response",
            Kind::Idle => "idle",
            Kind::RequestTimeout => "request_timeout",
            Kind::InputEnded => "input_ended",
            Kind::Handshake => "no_handshake",
            Kind::Spoiled => "spoiled",
            Kind::Broken => "broken",
        }
    }
}

impl Closing {
    /// What the other members of its rooms are told.
    pub(super) fn leave_reason(&self) -> LeaveReason {
        match self {
            Closing::Bye(Farewell::SlowConsumer) => LeaveReason::SlowConsumer,
            Closing::Bye(Farewell::Timeout) => LeaveReason::Timeout,
            Closing::Quit(_) => LeaveReason::Quit,
            _ => LeaveReason::Lost,
        }
    }

    /// What of it is kept until the connection is no more, for the log: two bytes of each connection.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Closing::Bye(farewell) => Kind::Farewell(*farewell),
            Closing::Quit(_) => Kind::Farewell(Farewell::Quit),
            Closing::PeerClosed(_) => Kind::PeerClosed,
            Closing::Violation(_) => Kind::Violation,
            Closing::LastResponse => Kind::LastResponse,
            Closing::Idle => Kind::Idle,
            Closing::RequestTimeout => Kind::RequestTimeout,
            Closing::InputEnded => Kind::InputEnded,
            Closing::Handshake => Kind::Handshake,
            Closing::Spoiled => Kind::Spoiled,
            Closing::Broken => Kind::Broken,
        }
    }

    /// Whether the session may go on without the connection: not if its user has said goodbye, or is to stay away.
    fn keeps_session(&self) -> bool {
        match self {
            Closing::Quit(_) => false,
            Closing::Bye(farewell) => !farewell.frees_nickname_at_once(),
            _ => true,
        }
    }
}

/// How long a refused client is read from, when more than half of the places for refused clients are taken: a round trip
/// in most networks. Others wait for those places.
const CROWDED_LINGER_MS: u64 = 20;

impl Shard {
    /// Ends a connection: says why if that is due, ends its session, and lets what is queued be written. Does nothing
    /// for a connection that is ending already, except that a broken socket ends it at once.
    pub(super) fn close(&mut self, id: Id, closing: Closing) {
        self.lose_samples(id);
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.stage != Stage::Open {
            if closing == Closing::Broken {
                self.end_without_trust(id);
            }
            return;
        }
        connection.ends_for = Some(closing.kind());
        self.log_closing(id, &closing);
        let connection = self.connections.get_mut(id).expect("looked at above");
        // A client whose answer to the upgrade goes with the queue would take a frame for a part of HTTP.
        let mut is_understood = true;
        if closing == Closing::Bye(Farewell::SlowConsumer) {
            self.counters.slow_consumers.add(1);
            self.pool.cut_at_frame(&mut connection.queue);
            // What follows must not refer to what it never gets.
            self.scratch.deflaters.forget_sent(id);
            if let Some(told) = &mut connection.told {
                told.cut(connection.queue.bytes());
            }
            is_understood = connection.http_bytes as usize <= connection.queue.bytes();
        }
        let is_call = connection.call.is_some();
        let is_without_trust =
            matches!(closing, Closing::Bye(Farewell::Timeout) | Closing::Spoiled | Closing::Broken);
        if let Some(told) = &mut connection.told
            && is_without_trust
        {
            told.unheard();
        }
        if is_understood {
            self.say_last_words(id, &closing);
        }
        self.end_watch(id);
        self.end_event_stream(id);
        if is_call {
            self.note_status(id, &closing);
        } else if self.is_http2(id) {
            self.close_calls(id);
        }
        let session = {
            let connection = self.connections.get_mut(id).expect("still open");
            connection.stage = Stage::Flushing(self.now.tick + self.limits.close_ms);
            connection.protocol = Protocol::Ended;
            connection.unread = Vec::new();
            connection.held = None;
            connection.pause = None;
            connection.session.take()
        };
        if let Some(session) = session {
            if closing.keeps_session() && self.may_go_away(session) {
                self.go_away(session);
                self.doubt(id, session);
            } else {
                self.end_session(session, closing.leave_reason(), None);
            }
        }
        if closing == Closing::Broken {
            self.end(id);
        } else {
            self.arm(id);
            self.touch(id);
            self.resumed.push(id); // what the peer still sends is read, to be thrown away
        }
    }

    /// Ends a connection after its session: when it hears of the end, the nickname is free.
    pub(super) fn close_after_session(&mut self, id: Id, closing: Closing) {
        let Some(connection) = self.connections.get_mut(id).filter(|c| c.stage == Stage::Open) else {
            return;
        };
        match connection.session {
            None => self.close(id, closing),
            Some(session) => {
                connection.pause = Some(Pause::Reply);
                self.end_session(session, closing.leave_reason(), Some(AfterEnd::Close(closing)));
            }
        }
    }

    /// Refuses the request that would have made a connection a WebSocket, after the session that it began has ended.
    pub(super) fn refuse_upgrade_after_session(
        &mut self,
        id: Id,
        upgrade: Box<PendingUpgrade>,
        refusal: Refusal,
    ) {
        match self.connections.get(id).and_then(|connection| connection.session) {
            None => self.refuse_upgrade(id, &upgrade, &refusal),
            Some(session) => {
                self.end_session(
                    session,
                    LeaveReason::Lost,
                    Some(AfterEnd::RefuseUpgrade(upgrade, Box::new(refusal))),
                );
            }
        }
    }

    /// Takes a session out of its rooms, then frees its nickname. What its connection
    /// waits for comes `then`; a connection that waits goes on hearing each room until it has been left.
    pub(super) fn end_session(&mut self, id: Id, reason: LeaveReason, then: Option<AfterEnd>) {
        self.end_grace(id);
        let Some(session) = self.sessions.get_mut(id) else { return };
        match (&mut session.step, then) {
            // The connection has not waited for the end.
            (Step::Ending { then }, None) => {
                (session.connection, *then) = (None, None);
                return self.stop_listening_to_all(id);
            }
            (Step::Ending { .. }, Some(_)) => return,
            (step, then) => {
                if then.is_none() {
                    session.connection = None;
                }
                *step = Step::Ending { then };
            }
        }
        let is_listening = session.connection.is_some();
        let rooms: Vec<RoomKey> = session.memberships.iter().map(|m| m.key).collect();
        if !is_listening {
            self.stop_listening_to_all(id);
            self.sessions[id].memberships.clear();
        }
        for RoomKey { home, key: room } in rooms {
            let request = Request::Leave { room, reason, is_listening };
            self.request(id, home, ReplyTo::default(), request);
        }
        self.go_on_ending(id);
    }

    /// The next step of an ending session: when its rooms have answered the nickname is released, and when that is
    /// done the session is gone.
    pub(super) fn go_on_ending(&mut self, id: Id) {
        let session = self.sessions.get_mut(id).expect("kept while it ends");
        if session.under_way > 0 || session.background > 0 {
            return;
        }
        // What its user has not received waits with the nickname, if that has been registered meanwhile.
        if session.identity.is_some()
            && !session.is_registered
            && let (Some(mut inbox), Some(nickname)) = (session.inbox.take(), session.nickname.clone())
            && self.journal.is_on
        {
            let items = inbox.take_private();
            if !items.is_empty() {
                return self.leave_to_user(id, nickname, items);
            }
        }
        let session = self.sessions.get_mut(id).expect("looked at above");
        let number = session.number;
        let nicknames = [session.nickname.take(), session.former.take().map(|former| *former)];
        for nickname in nicknames.into_iter().flatten() {
            self.release(id, nickname, number);
        }
        self.forget_number(id);
        // Whoever was to continue it begins anew only now: earlier it would be refused the nickname that this one still had.
        if let Some(successor) = self.sessions[id].successor.take() {
            self.tell_ended(*successor);
        }
        let session = &self.sessions[id];
        if session.under_way > 0 || session.background > 0 {
            return;
        }
        let session = self.sessions.remove(id).expect("looked at above");
        let (Some(connection), Step::Ending { then: Some(then) }) = (session.connection, session.step) else {
            return;
        };
        if let Some(connection) = self.connections.get_mut(connection) {
            connection.session = None;
        }
        match then {
            AfterEnd::Close(closing) => self.close(connection, closing),
            AfterEnd::RefuseUpgrade(upgrade, refusal) => self.refuse_upgrade(connection, &upgrade, &refusal),
        }
    }

    /// Asks the home of a nickname to free it, which the session of this number has had if it is ending.
    pub(super) fn release(&mut self, session: Id, nickname: Nickname, number: u64) {
        let home = self.home_of(nickname.folded());
        self.request(session, home, ReplyTo::default(), Request::Release { nickname, number });
    }

    /// Drops a connection: what could be said has been said.
    pub(super) fn end(&mut self, id: Id) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.stage == Stage::Closed {
            return;
        }
        connection.stage = Stage::Closed;
        connection.is_cut_off = !connection.queue.is_empty();
        if connection.told.is_some() {
            self.ask_kernel(id);
        }
        let connection = self.connections.get_mut(id).expect("looked at above");
        self.pool.clear(&mut connection.queue);
        if let Some((key, _)) = connection.timer.take() {
            self.wheel.cancel(key);
        }
        self.closed.push(id);
    }

    /// The same for a connection whose peer has not ended its side in order: its kernel may have taken what its program never reads.
    pub(super) fn end_without_trust(&mut self, id: Id) {
        if let Some(told) = self.connections.get_mut(id).and_then(|connection| connection.told.as_mut()) {
            told.unheard();
        }
        self.end(id);
    }

    /// Takes the connections that are to be closed, and frees their slots. `close` is also told whether the connection is
    /// cut off, with bytes that could not be written.
    pub fn take_closed(&mut self, mut close: impl FnMut(Id, bool)) {
        let mut closed = std::mem::take(&mut self.closed);
        for id in closed.drain(..) {
            let connection =
                self.connections.remove(id).expect("closed connections keep their slot until here");
            if connection.is_counted {
                self.census.leave(connection.peer);
            }
            self.scratch.deflaters.forget(id);
            self.counters.input_bytes.sub(connection.kept_input.into());
            self.log_closed(id, &connection);
            if let Some(call) = &connection.call {
                self.drop_call(id, call);
                continue;
            }
            self.connections_of(connection.kind).sub(1);
            close(id, connection.is_cut_off);
        }
        self.closed = closed;
        self.counters.connections.set(self.connections.len() as u64);
    }

    /// Goes on with a connection that is to end, after a flush, and says whether our side of it ends now.
    pub(super) fn ends_our_side(&mut self, id: Id) -> bool {
        let is_crowded =
            self.connections.len() >= self.core_connections.saturating_add(self.core_reserve / 2);
        let connection = &mut self.connections[id];
        match connection.stage {
            Stage::Flushing(_) if connection.queue.is_empty() && !connection.input_ended => {
                let ms = match connection.is_counted {
                    true => self.limits.linger_ms,
                    false if is_crowded => CROWDED_LINGER_MS.min(self.limits.refused_linger_ms),
                    false => self.limits.refused_linger_ms,
                };
                connection.stage = Stage::Lingering(self.now.tick + ms);
                self.arm(id);
                return true;
            }
            Stage::Flushing(_) if connection.queue.is_empty() => self.end(id),
            Stage::Lingering(_) if connection.input_ended => self.end(id),
            _ => {}
        }
        false
    }

    /// Looks at the output of an open connection after a flush: closes slow consumers, and lets those be read again
    /// that had been asked to read their answers first.
    #[inline]
    pub(super) fn check_output(&mut self, id: Id) {
        let Some(connection) = self.connections.get(id) else { return };
        match connection.queue.bytes() {
            0 if connection.waits_for_output() => self.output_has_gone(id),
            bytes if bytes > self.limits.send_queue_bytes => self.check_slowness(id),
            _ => {}
        }
    }

    /// Goes on with what has waited until nothing was left to write.
    #[inline(never)]
    fn output_has_gone(&mut self, id: Id) {
        let connection = &self.connections[id];
        let (is_telling, is_behind) = (connection.is_telling, connection.behind > 0);
        match connection.protocol {
            Protocol::EventStream(_) if is_behind => self.catch_up_event_stream(id),
            _ if is_behind => self.catch_up(id),
            _ => {}
        }
        if is_telling {
            self.go_on_telling(id);
        }
        self.continue_http2(id);
        if let Some(connection) = self.connections.get_mut(id)
            && connection.pause == Some(Pause::Output)
            && connection.queue.is_empty()
        {
            connection.pause = None;
            self.resumable.push_back(id);
        }
        self.settle();
    }

    /// Closes a connection whose peer reads too slowly for what it is sent.
    #[cold]
    fn check_slowness(&mut self, id: Id) {
        let connection = &self.connections[id];
        // Where messages are left out, what cannot be left out has as much place again.
        let bytes_max = self.limits.send_queue_bytes * if connection.skips { 2 } else { 1 };
        let may_be =
            !matches!(connection.protocol, Protocol::Http(_) | Protocol::Http2(_) | Protocol::Echo(_));
        if may_be && connection.queue.bytes() > bytes_max {
            self.close(id, Closing::Bye(Farewell::SlowConsumer));
            self.settle();
        }
    }

    /// Begins to drain: the clients are told to go, after the configured delay.
    pub fn drain(&mut self) {
        if self.drain.is_none() {
            self.drain = Some(Drain::default());
            self.wheel.insert(self.now.tick + self.config.drain.delay_ms, Timer::Drain);
        }
    }

    /// Part of the server has failed, and the rest leaves: clients are told so at once. Requests that wait for an answer are left a little
    /// later.
    pub fn leave(&mut self) {
        if !self.drain.get_or_insert_default().is_hasty {
            self.drain.get_or_insert_default().is_hasty = true;
            self.wheel.insert(self.now.tick, Timer::Drain);
        }
    }

    /// Whether draining has begun.
    pub fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// Whether the clients have been told to go.
    pub fn is_leaving(&self) -> bool {
        self.drain.is_some_and(|drain| drain.told_at.is_some())
    }

    /// Whether draining is over: everybody has been told and has gone.
    pub fn is_drained(&self) -> bool {
        self.is_leaving() && self.connections.is_empty()
    }

    /// Whether there need not be another turn.
    pub fn is_over(&self) -> bool {
        (self.is_drained() || self.has_cut_off()) && !self.has_to_give_up()
    }

    /// Whether the sessions of a node of a cluster are still to be given up: that is done last, when no connection can add to what they
    /// have.
    pub(super) fn has_to_give_up(&self) -> bool {
        self.is_clustered()
            && self.drain.is_some_and(|drain| !drain.has_given_up)
            && (self.is_drained() || self.has_cut_off())
    }

    /// Gives the sessions up, if it is time.
    pub(super) fn give_up_at_the_end(&mut self) {
        if self.has_to_give_up() {
            let has_given_up = self.give_all_up();
            if let Some(drain) = &mut self.drain {
                drain.has_given_up = has_given_up;
            }
        }
    }

    /// Whether those who did not go in time have been cut off.
    fn has_cut_off(&self) -> bool {
        self.drain.is_some_and(|drain| drain.cut_off.is_some())
    }

    /// The clients are told to go; those who come in between when the time for that is over, counted from when the others were told: a core
    /// that was held up owes them the whole time. Who is still there after that is cut off.
    pub(super) fn say_farewell(&mut self) {
        let now = self.now.tick;
        let mut is_patient = true;
        match &mut self.drain {
            None => {}
            Some(drain) if drain.told_at.is_none() => {
                drain.told_at = Some(now);
                let ms = if drain.is_hasty { LEAVE_MS } else { self.config.drain.timeout_ms };
                self.wheel.insert(now + ms, Timer::Drain);
            }
            Some(drain) if !drain.has_told_again => {
                drain.has_told_again = true;
                is_patient = !drain.is_hasty;
                self.wheel.insert(now + 1, Timer::Drain);
            }
            Some(_) => return self.leave_everybody(),
        }
        let everybody: Vec<Id> = self.connections.iter().map(|(id, _)| id).collect();
        for id in everybody {
            // A message may have been published: whoever sent it is told so first, and the connection closes with that.
            if is_patient && self.connections.get(id).is_some_and(Connection::is_asking) {
                continue;
            }
            // Where nothing can be said yet there is nobody to leave.
            let may_speak = self.connections.get(id).is_some_and(Connection::may_speak);
            if may_speak && self.is_http2(id) {
                self.leave_http2(id);
                continue;
            }
            self.tell_watcher(id);
            self.close(id, Closing::Bye(Farewell::Draining));
        }
    }

    /// The core ends with these connections. What their users may not have heard is kept for them, as if they had gone by themselves.
    fn leave_everybody(&mut self) {
        let everybody: Vec<Id> = self.connections.iter().map(|(id, _)| id).collect();
        if let Some(drain) = &mut self.drain {
            drain.cut_off = Some(everybody.len());
        }
        for id in everybody {
            if let Some(told) = self.connections.get_mut(id).and_then(|connection| connection.told.as_mut()) {
                told.unheard();
                self.ask_kernel(id);
            }
        }
    }

    fn say_last_words(&mut self, id: Id, closing: &Closing) {
        let connection = self.connections.get(id).expect("checked by the caller");
        match (&connection.protocol, closing) {
            (_, Closing::Broken | Closing::Spoiled | Closing::Handshake) => {}
            (_, Closing::InputEnded | Closing::LastResponse | Closing::Idle) => {}
            (Protocol::Http(_), Closing::RequestTimeout) => {
                let refusal = Refusal::new(Reason::BadRequest, "the request did not become complete in time");
                self.say_http_error(id, 408, &refusal);
            }
            (Protocol::Http(_) | Protocol::Http2(_), _) => {}
            (Protocol::EventStream(_), Closing::Bye(farewell)) => self.say_event_stream_ends(id, *farewell),
            (Protocol::EventStream(_), _) => {}
            (_, Closing::Violation(violation)) => {
                let (code, why) = (violation.code, violation.why);
                self.say_raw(id, |out| websocket::put_close(out, Some(code), why));
            }
            (_, Closing::PeerClosed(code)) => {
                let code = *code;
                self.say_raw(id, |out| websocket::put_close(out, code, ""));
            }
            (Protocol::Echo(_) | Protocol::Watch(_), Closing::Bye(farewell)) => {
                // No chat, so no `bye`: RFC 6455 section 7.4.1 has codes of its own for this.
                let code = if *farewell == Farewell::Draining { 1001 } else { farewell.code() };
                self.say_raw(id, |out| websocket::put_close(out, Some(code), farewell.as_str()));
            }
            (_, Closing::Bye(farewell)) => self.say_bye(id, &ReplyTo::default(), *farewell),
            (_, Closing::Quit(reply_to)) => self.say_bye(id, reply_to, Farewell::Quit),
            (_, Closing::RequestTimeout) => {}
        }
    }

    /// After how long one who is told to go comes back: spread over the clients, so that they do not all come at once.
    pub(super) fn drain_after_ms(&mut self) -> u64 {
        let spread_ms = self.config.drain.spread_ms;
        if spread_ms > 0 { self.rng.below(spread_ms) } else { 0 }
    }

    fn say_bye(&mut self, id: Id, reply_to: &ReplyTo, farewell: Farewell) {
        let after_ms = if farewell == Farewell::Draining { self.drain_after_ms() } else { 0 };
        let session = self.connections.get(id).and_then(|connection| connection.session);
        // What is in memory alone does not outlive this process.
        let resumable = farewell.is_resumable()
            && (farewell != Farewell::Draining || self.journal.is_on || self.is_clustered())
            && session.is_some_and(|session| self.may_go_away(session));
        let event = Event::Bye {
            id: reply_to.id(),
            code: farewell.code(),
            reason: farewell.as_str(),
            resumable,
            after_ms,
        };
        self.reply(Some(id), reply_to, &event);
        if self.connections.get(id).is_some_and(|c| c.encoding.is_websocket()) {
            self.say_raw(id, |out| websocket::put_close(out, Some(farewell.code()), farewell.as_str()));
        }
    }
}
