//! Sessions that come back on another node than the one that has them.
//!
//! Such a session is taken over in two steps: the node that has it gives it up, with all that it has, into the backplane, and the other
//! takes it from there. If its node is lost, it is taken at once, as it was kept last. A node that drains gives up all that it has, wanted
//! or not.

use serde::{Deserialize, Serialize};

use super::Shard;
use super::backplane::{Ask, BackplaneRequest, Failed, NodeMessage, TakeOutcome};
use super::journal::Asker;
use super::mail::{Mail, Reply, ReplyTo, Request};
use super::reading::Awaited;
use super::session::{Estate, Receipt, Step, Successor};
use super::timers::Timer;
use crate::base::slots::Id;
use crate::chat::idempotency::Window;
use crate::chat::inbox::{Inbox, Kept};
use crate::chat::name::Nickname;
use crate::chat::refusal::{Reason, Refusal};
use crate::chat::user::{NodeId, SessionRef};
use crate::record::{RestoredMembership, SessionBody};

/// How often a session is asked for again that its node has just given up or is giving up to somebody else.
const TAKES_MAX: u8 = 8;

/// How soon a session is taken back of which nobody knows whether it has been given up, in milliseconds.
const TAKE_BACK_MS: u64 = 500;

/// A session, with all that it leaves to another node, as it is given up.
#[derive(Debug, Serialize, Deserialize)]
struct GivenUp {
    #[serde(flatten)]
    body: SessionBody,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    receipts: Vec<(String, Receipt)>,
    /// The last place given in its inbox, and what is kept there.
    #[serde(default)]
    inbox_offset: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    inbox: Vec<Kept>,
}

impl Shard {
    /// Asks for a session of another node, for one of this node that continues it.
    pub(super) fn take_session(&mut self, from: SessionRef, reply_to: ReplyTo, number: u64) {
        // Whoever wants it too waits for this one.
        self.directory.insert(number, from);
        self.take_session_again(from, reply_to, number, 0, Some(self.node));
    }

    /// Somebody of this node wants to go on from a session that this node is just giving up to `old`, of another: it waits for that to come
    /// to its end. There is one at a time, which the directory knows for all who come after it.
    pub(super) fn await_parting(
        &mut self,
        from: SessionRef,
        reply_to: ReplyTo,
        number: u64,
        old: SessionRef,
    ) {
        let wait = self.wait_for_store(Awaited::Parting { from, reply_to, number, old });
        self.nodes.partings.insert(number, wait);
    }

    /// A session that was to be given up stays here.
    pub(super) fn note_stays(&mut self, number: u64, at: SessionRef) {
        if let Some(wait) = self.nodes.partings.remove(&number)
            && let Some(Awaited::Parting { from, reply_to, .. }) = self.end_wait(wait)
        {
            let request = Request::Surrender { to: at.session, number, home: self.core };
            return self.post(at.core, Mail::Request { from, reply_to, request });
        }
        self.directory.insert(number, at);
    }

    /// A session has been given up to `to`, or is gone.
    pub(super) fn note_parted(&mut self, number: u64, to: SessionRef) {
        self.forget_session(to, number);
        let Some(wait) = self.nodes.partings.get(&number).copied() else { return };
        if !matches!(self.awaited_mut(wait), Some(Awaited::Parting { old, .. }) if *old == to) {
            return;
        }
        self.nodes.partings.remove(&number);
        if let Some(Awaited::Parting { from, reply_to, .. }) = self.end_wait(wait) {
            self.take_session_again(from, reply_to, number, 1, None);
        }
    }

    /// Nobody has learned in time whether a session goes or stays: it is still on its way to `old`.
    pub(super) fn end_parting(&mut self, number: u64, old: SessionRef) {
        self.nodes.partings.remove(&number);
        self.directory.insert(number, old);
    }

    /// The same once more, after its node has given it up, or says that it does not have it.
    pub(super) fn take_session_again(
        &mut self,
        from: SessionRef,
        reply_to: ReplyTo,
        number: u64,
        tries: u8,
        gone_from: Option<NodeId>,
    ) {
        if self.nodes.down.is_some() {
            return self.refuse_take(from, reply_to, number);
        }
        if tries >= TAKES_MAX {
            // Others want it as well, again and again.
            self.forget_session(from, number);
            return self.reply_to_asker(Asker::Session(from, reply_to), Reply::Refused(is_on_its_way()));
        }
        let wait = self.wait_for_store(Awaited::Taken { from, reply_to, number, tries });
        self.ask_backplane(BackplaneRequest::TakeSession { wait, number, session: from, gone_from });
    }

    /// Nobody knows now whether there is such a session.
    pub(super) fn refuse_take(&mut self, from: SessionRef, reply_to: ReplyTo, number: u64) {
        self.forget_session(from, number);
        let refusal = self.backplane_down();
        self.reply_to_asker(Asker::Session(from, reply_to), Reply::Refused(refusal));
    }

    /// Tells somebody who wants to continue a session that it cannot be had now.
    pub(super) fn refuse_successor(&mut self, successor: Successor, refusal: &Refusal) {
        if successor.session.node != self.node {
            return self.tell_given_up(&successor, false);
        }
        let Successor { session: to, home, reply_to, .. } = successor;
        let reply = Reply::Refused(refusal.clone());
        self.post(to.core, Mail::Reply { to: to.session, home, reply_to, reply });
    }

    pub(super) fn hear_taken(
        &mut self,
        from: SessionRef,
        reply_to: ReplyTo,
        number: u64,
        tries: u8,
        outcome: Result<TakeOutcome, Failed>,
    ) {
        let estate = match outcome {
            Ok(TakeOutcome::Taken { old, places, revision, body }) => {
                self.estate_of(number, old, places, revision, &body)
            }
            // Another one of this node has taken it meanwhile.
            Ok(TakeOutcome::Held { node }) if node == self.node => {
                self.forget_session(from, number);
                let refusal = is_on_its_way();
                return self.reply_to_asker(Asker::Session(from, reply_to), Reply::Refused(refusal));
            }
            Ok(TakeOutcome::Held { node }) => {
                let tries = tries + 1;
                let wait = self.wait_for_store(Awaited::GivenUp { from, reply_to, number, tries, node });
                let ask = Ask { core: self.core, wait };
                let message = Box::new(NodeMessage::GiveUp { number, ask });
                return self.ask_backplane(BackplaneRequest::Tell { node, message });
            }
            Ok(TakeOutcome::Gone) => None,
            Err(_) => return self.refuse_take(from, reply_to, number),
        };
        let reply = match estate {
            Some(estate) => Reply::Surrendered(Box::new(estate)),
            None => {
                self.forget_session(from, number);
                Reply::Ended
            }
        };
        self.reply_to_asker(Asker::Session(from, reply_to), reply);
    }

    /// What a session of another node leaves to one of this node.
    fn estate_of(
        &self,
        number: u64,
        old: SessionRef,
        places: Vec<SessionRef>,
        revision: u64,
        body: &str,
    ) -> Option<Estate> {
        let given_up = serde_json::from_str::<GivenUp>(body);
        let given_up = given_up
            .inspect_err(|error| log::error!("session {number:016x} cannot be read: {error}"))
            .ok()?;
        let GivenUp { body, receipts, inbox_offset, inbox } = given_up;
        let nickname = Nickname::parse(&body.nickname).ok()?;
        let identity = match body.claims {
            Some(claims) => Some(super::restore::identity_of(&nickname, claims)?),
            None => None,
        };
        let mut remembered: Option<Box<Window<Receipt>>> = None;
        for (id, receipt) in receipts {
            let window = remembered.get_or_insert_default();
            window.begin(&id, self.now.tick, self.limits.idempotency_ids);
            window.finish(&id, receipt);
        }
        let has_inbox = inbox_offset > 0 || !inbox.is_empty();
        let inbox = has_inbox.then(|| Box::new(Inbox::restored(inbox_offset, inbox)));
        Some(Estate {
            old,
            places,
            number,
            revision: revision as u32,
            nickname,
            identity,
            memberships: Vec::new(),
            rooms: body.rooms,
            remembered,
            inbox,
        })
    }

    /// Gives a session up to another node: it is kept with all that it has, and when that is known the other is told.
    pub(super) fn give_up(&mut self, id: Id) {
        self.sessions[id].step = Step::GivingUp;
        self.keep_given_up(id, true);
    }

    /// The node is about to end: its sessions are given up to whichever other one they come back on. Says whether all of them are: one
    /// for which something is under way is given up with what comes of that.
    pub(super) fn give_all_up(&mut self) -> bool {
        let may_go_on = |(_, session): &(Id, &super::session::Session)| {
            session.nickname.is_some()
                && session.number != 0
                && session.encoding.can_resume()
                && !session.is_ending()
                && !session.is_given_up()
        };
        let (ready, busy): (Vec<_>, Vec<_>) =
            self.sessions.iter().filter(may_go_on).partition(|(_, session)| session.is_quiet());
        let is_done = busy.is_empty();
        for id in ready.into_iter().map(|(id, _)| id).collect::<Vec<Id>>() {
            self.give_up(id);
        }
        is_done
    }

    /// Tries again to take a session back.
    pub(super) fn take_back(&mut self, id: Id) {
        self.keep_given_up(id, false);
    }

    fn keep_given_up(&mut self, id: Id, is_given_up: bool) {
        let session = &mut self.sessions[id];
        // What is taken back follows what was given up, however often it is tried: so it is known whether that has been written.
        session.revision += u32::from(is_given_up);
        let (number, revision) = (session.number, u64::from(session.revision) + u64::from(!is_given_up));
        let nickname = session.nickname.clone().expect("a session that is given up has been welcomed");
        let rooms = session.memberships.iter();
        let rooms = rooms.map(|m| RestoredMembership { room: m.room.as_str().to_owned(), echo: m.echo });
        let claims = session.identity.as_ref().map(|identity| super::resume::written_claims(identity));
        let body = SessionBody { nickname: nickname.as_str().to_owned(), claims, rooms: rooms.collect() };
        let inbox_offset = session.inbox.as_ref().map_or(0, |inbox| inbox.last_offset());
        let inbox = session.inbox.iter().flat_map(|inbox| inbox.items()).cloned().collect();
        let receipts = session.remembered.iter().flat_map(|window| window.answered());
        let receipts = receipts.map(|(id, receipt)| (id.to_owned(), receipt.clone())).collect();
        let given_up = GivenUp { body, receipts, inbox_offset, inbox };
        let body = serde_json::to_string(&given_up).expect("plain values become JSON");
        let session = self.session_ref(id);
        let wait = Awaited::GivingUp { session: id, is_taken_back: !is_given_up };
        // Where nobody wants it yet, nobody is told.
        let is_wanted = self.sessions[id].successor.is_some();
        let wait = (is_wanted || !is_given_up).then(|| self.wait_for_store(wait));
        self.ask_backplane(BackplaneRequest::KeepSession {
            number,
            session,
            nickname,
            revision,
            body,
            wait,
            is_given_up,
        });
    }

    /// A session that was given up is kept, and is no more here. Where nobody knows whether it is, it is taken back, and stays if no other
    /// node has it by then.
    pub(super) fn hear_kept_session(&mut self, id: Id, is_taken_back: bool, outcome: Result<bool, Failed>) {
        let at = self.session_ref(id);
        let Some(session) = self.sessions.get_mut(id).filter(|session| session.is_given_up()) else { return };
        match outcome {
            Err(_) => {
                self.end_grace(id);
                let deadline = self.now.tick + TAKE_BACK_MS;
                self.sessions[id].grace = Some(self.wheel.insert(deadline, Timer::Grace(id)));
                self.away += 1;
                return;
            }
            Ok(true) if is_taken_back => {
                (session.step, session.successor) = (Step::Idle, None);
                session.revision += 1;
                let number = session.number;
                self.post(self.birth_core(number), Mail::Stays { number, session: at });
                return self.go_away(id);
            }
            // It had gone on there before this node could give it up, so that nothing of it has gone along.
            Ok(false) if !is_taken_back => self.leave_private(id),
            Ok(_) => {}
        }
        self.end_grace(id);
        let session = self.sessions.remove(id).expect("looked at above");
        // Another node has it, or is about to: it says so in the rooms.
        let is_taken = is_taken_back || session.successor.is_some();
        for key in session.memberships.iter().map(|membership| membership.key) {
            let number = session.number;
            self.post(key.home, Mail::HandedOnIn { room: key.key, session: at, number, is_taken });
        }
        // Here it has the nickname no more; in the backplane it keeps it until the other node has it.
        if let Some(nickname) = session.nickname {
            let home = self.home_of(nickname.folded());
            self.post(home, Mail::HandedOn { nickname, session: at });
        }
        if let Some(successor) = session.successor {
            self.tell_given_up(&successor, false);
        }
    }

    /// Tells another node that a session can be taken, or is gone.
    pub(super) fn tell_given_up(&mut self, successor: &Successor, is_gone: bool) {
        let SessionRef { node, core, session: wait } = successor.session;
        let (number, session) = (successor.number, successor.session);
        self.post(self.birth_core(number), Mail::HandedOnNumber { number, session });
        let message = Box::new(NodeMessage::GivenUp { ask: Ask { core, wait }, is_gone });
        self.ask_backplane(BackplaneRequest::Tell { node, message });
    }
}

/// The rooms that a session is in, of what was kept of it; `None` if that cannot be read.
pub(super) fn rooms_of(body: &str) -> Option<Vec<String>> {
    let body: SessionBody = serde_json::from_str(body).ok()?;
    Some(body.rooms.into_iter().map(|membership| membership.room).collect())
}

pub(super) fn is_on_its_way() -> Refusal {
    let message = "this session is on its way from one node to another";
    Refusal::with_retry(Reason::Unavailable, message, TAKE_BACK_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Now;
    use crate::chat::refusal::LeaveReason;
    use crate::config::{Config, ListenKind};
    use crate::shard::backplane::{
        BackplaneNews, ClaimOutcome, KnownSession, LogEntry, OpenedRoom, Position, RoomOp,
    };
    use crate::shard::nodes::alone::{core_of_a_node, next_requests};

    const LEASE_MS: u64 = 1000;
    const GRACE_MS: u64 = 20_000;

    /// A core, and a backplane that does what it is asked at once.
    struct Alone {
        shard: Shard,
        now_ms: u64,
        /// How far the room has got.
        change: u64,
        /// The number of the session, when it is known.
        number: u64,
        /// As the session was kept last.
        body: String,
        /// What has happened in the room.
        ops: Vec<RoomOp>,
        /// Whether the other node has, or has ended, the session that it was given.
        known: KnownSession,
    }

    impl Alone {
        fn new() -> Self {
            let mut config = Config::default();
            (config.cluster.lease_ms, config.session.grace_ms) = (LEASE_MS, GRACE_MS);
            Alone {
                shard: core_of_a_node(config),
                now_ms: 0,
                change: 0,
                number: 0,
                body: String::new(),
                ops: Vec::new(),
                known: KnownSession::OnItsWay,
            }
        }

        fn tell(&mut self, news: BackplaneNews) {
            self.shard.mail(Mail::Backplane(news));
        }

        /// Whatever the core asks is done, and what follows from that.
        fn settle(&mut self) {
            while let Some(requests) = next_requests(&mut self.shard) {
                requests.into_iter().for_each(|request| self.answer(request));
            }
        }

        fn answer(&mut self, request: BackplaneRequest) {
            let news = match request {
                BackplaneRequest::Claim { wait, nickname, session, .. } => {
                    let outcome = Ok(ClaimOutcome::Granted);
                    BackplaneNews::Claimed { wait, nickname, session, outcome }
                }
                BackplaneRequest::Open { room, make } => {
                    let epoch = make.unwrap_or_else(|| "e".into());
                    let (position, folded) = (Position::default(), room.folded().into());
                    let opened = OpenedRoom {
                        room,
                        epoch,
                        position,
                        timestamp_ms: 0,
                        first_kept: 1,
                        snapshot: None,
                        entries: Vec::new(),
                        is_doubtful: false,
                    };
                    let outcome = Ok(Some(Box::new(opened)));
                    BackplaneNews::Opened { room: folded, outcome, is_catch_up: false }
                }
                BackplaneRequest::Append(append) => {
                    self.change += 1;
                    let position = Position { change: self.change, offset: 0 };
                    let (room, epoch, tag) = (append.at.room, append.at.epoch, append.tag);
                    self.ops.extend(append.ops.iter().cloned());
                    let entry = LogEntry::Change { position, timestamp_ms: 0, node: 7, tag, ops: append.ops };
                    let (heard, of) = (room.clone(), epoch.clone());
                    self.tell(BackplaneNews::Appended { room, epoch, tag, outcome: Ok(position) });
                    BackplaneNews::Entries { room: heard, epoch: of, entries: vec![entry] }
                }
                BackplaneRequest::KeepSession { number, body, wait, .. } => {
                    (self.number, self.body) = (number, body);
                    let Some(wait) = wait else { return };
                    BackplaneNews::Kept { wait, outcome: Ok(true) }
                }
                BackplaneRequest::LookForSession { room, session, .. } => {
                    BackplaneNews::SessionKnown { room, session, known: self.known.clone() }
                }
                _ => return,
            };
            self.tell(news);
        }

        fn pass(&mut self, ms: u64) {
            self.now_ms += ms;
            self.shard.tick(Now::new(self.now_ms * 1_000_000, self.now_ms));
            while self.shard.expire() {}
            self.settle();
        }

        fn has_left(&self) -> bool {
            let left =
                |op: &RoomOp| matches!(op, RoomOp::Leave { reason, .. } if *reason == LeaveReason::Timeout);
            self.ops.iter().any(left)
        }

        /// Somebody is in a room, loses the connection and comes back on another node, to which this one gives the session up.
        fn give_up_to_another() -> Self {
            let mut alone = Alone::new();
            let id = alone.shard.open([127, 0, 0, 1].into(), ListenKind::Line);
            for line in
                ["{\"type\":\"hello\",\"nickname\":\"ann\"}\n", "{\"type\":\"join\",\"room\":\"den\"}\n"]
            {
                alone.shard.receive(id, &mut line.as_bytes().to_vec());
                alone.settle();
            }
            assert!(matches!(alone.ops[..], [RoomOp::Join { .. }]), "{:?}", alone.ops);
            alone.shard.broken(id);
            alone.settle();
            let ask = Ask { core: 0, wait: Id { index: 1, generation: 1 } };
            let message = Box::new(NodeMessage::GiveUp { number: alone.number, ask });
            alone.tell(BackplaneNews::Told { from: 9, message });
            alone.settle();
            assert_eq!(alone.shard.inventory().sessions, 0, "it is given up");
            alone
        }
    }

    /// A fault: the answer to what was under way came to a session that had been given up, and the core ended with that.
    #[test]
    fn a_drain_gives_up_who_waits_for_an_answer_with_what_comes_of_it() {
        let mut alone = Alone::new();
        let id = alone.shard.open([127, 0, 0, 1].into(), ListenKind::Line);
        alone.shard.receive(id, &mut b"{\"type\":\"hello\",\"nickname\":\"ann\"}\n".to_vec());
        alone.settle();
        alone.shard.receive(id, &mut b"{\"type\":\"join\",\"room\":\"den\"}\n".to_vec());
        alone.shard.broken(id);
        alone.shard.take_closed(|_, _| {});
        alone.shard.drain();
        alone.shard.tick(Now::of_ms(1, 1));
        while alone.shard.expire() {}
        alone.shard.send_gathered_events();
        assert!(!alone.shard.is_over(), "the room has not answered");
        for _ in 0..2 {
            alone.settle();
            alone.shard.send_gathered_events();
        }
        assert!(alone.shard.is_over(), "all is given up");
        assert!(alone.body.contains("den"), "{}", alone.body);
    }

    #[test]
    fn who_goes_on_elsewhere_is_a_member_as_long_as_the_other_node_may_be_silent() {
        let mut alone = Alone::give_up_to_another();
        // The other node has it, and does not reach the backplane: it is not heard of in the room.
        for _ in 0..GRACE_MS / LEASE_MS {
            alone.pass(LEASE_MS);
        }
        assert!(!alone.has_left(), "{:?}", alone.ops);
        // It has been killed, perhaps.
        alone.pass(LEASE_MS + 1000);
        assert!(alone.has_left(), "{:?}", alone.ops);
    }

    #[test]
    fn who_goes_on_elsewhere_and_ends_there_is_not_waited_for() {
        let mut alone = Alone::give_up_to_another();
        alone.known = KnownSession::Ended;
        alone.pass(LEASE_MS - 100);
        assert!(!alone.has_left(), "{:?}", alone.ops);
        alone.pass(200);
        assert!(alone.has_left(), "{:?}", alone.ops);
    }

    /// A fault: the other node could not take it back into the room, and it was shown there, as one who is away, for the time of grace.
    #[test]
    fn who_goes_on_elsewhere_and_not_in_the_room_is_not_waited_for() {
        let mut alone = Alone::give_up_to_another();
        alone.known = kept("[{\"room\":\"Den\",\"echo\":true}]");
        alone.pass(2 * LEASE_MS);
        assert!(!alone.has_left(), "{:?}", alone.ops);
        alone.known = kept("[{\"room\":\"attic\",\"echo\":true}]");
        alone.pass(LEASE_MS);
        assert!(alone.has_left(), "{:?}", alone.ops);
    }

    fn kept(rooms: &str) -> KnownSession {
        KnownSession::Kept { body: format!("{{\"nickname\":\"ann\",\"rooms\":{rooms}}}") }
    }

    #[test]
    fn who_goes_on_elsewhere_is_waited_for_while_nobody_reaches_the_backplane() {
        let mut alone = Alone::give_up_to_another();
        alone.tell(BackplaneNews::Down(Some("it does not answer".into())));
        alone.pass(3 * GRACE_MS);
        alone.tell(BackplaneNews::Down(None));
        alone.settle();
        alone.pass(LEASE_MS - 100);
        assert!(!alone.has_left(), "{:?}", alone.ops);
        alone.pass(200);
        assert!(alone.has_left(), "{:?}", alone.ops);
    }
}
