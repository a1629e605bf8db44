//! Private messages between nodes: where the sessions of a nickname are, and what became of a message there.
//!
//! The home of the nickname on the sender's node asks the backplane which nodes have the sessions, and tells each of them. While a session
//! goes from one node to another the backplane names the node that has just given it up: then nobody has got the message although somebody
//! has the nickname, and it is looked for again, a few times.

use std::collections::BTreeSet;

use super::super::backplane::{Ask, BackplaneRequest, Failed, NodeMessage};
use super::super::home::{MOVING_RETRY_MS, no_such_user};
use super::super::mail::{Handover, Mail, Private, Reply, ReplyTo, Request};
use super::super::reading::Awaited;
use super::super::timers::Timer;
use super::Shard;
use crate::base::slots::Id;
use crate::chat::idempotency::Seen;
use crate::chat::inbox::Kept;
use crate::chat::name::Nickname;
use crate::chat::refusal::{Reason, Refusal};
use crate::chat::user::{NodeId, SessionRef};

/// How often the sessions of a nickname are looked for that somebody has, and nobody who was asked. Each time is waited for twice as long as
/// the time before, from a millisecond on: a quarter of a second in all, and a session is seldom on its way for a tenth of that.
const FINDS_MAX: u8 = 9;

/// What became of a private message here, on a node of a cluster: it may come by several ways.
#[derive(Debug, Default)]
pub struct PrivateDone {
    /// How many sessions have got it.
    pub delivered: u64,
    /// Whether it is kept for one that is away.
    pub is_stored: bool,
    /// The numbers of those that were asked to take it.
    pub asked: Vec<u64>,
}

/// A private message on its way to several nodes.
#[derive(Debug)]
pub(in crate::shard) struct Spread {
    from: SessionRef,
    reply_to: ReplyTo,
    handover: Handover,
    /// Nodes that have not answered.
    pub(super) open: Vec<NodeId>,
    /// Whether one of them did not get it in time, and whether that is because the backplane did not take it.
    pub(in crate::shard) is_late: bool,
    pub(super) is_refused: bool,
}

impl Shard {
    /// Finds out where the sessions are that a private message is for.
    fn find_for_private(&mut self, from: SessionRef, reply_to: ReplyTo, private: Private) {
        let Private { target, sender, content, key, finds, .. } = private;
        if self.nodes.down.is_some() {
            let refusal = self.backplane_down();
            return self.answer_private(from, reply_to, self.core, Reply::Refused(refusal));
        }
        let mut handover = Box::new(self.new_handover(target, sender, content, 1));
        (handover.key, handover.finds) = (key, finds + 1);
        let wait = self.wait_for_store(Awaited::Found { from, reply_to, handover });
        match finds.checked_sub(1) {
            None => self.find_now(wait),
            Some(before) => {
                self.wheel.insert(self.now.tick + (1 << before), Timer::Find(wait));
            }
        }
    }

    /// Asks the backplane where the sessions are, if somebody still waits for that.
    pub(in crate::shard) fn find_now(&mut self, wait: Id) {
        if let Some(Awaited::Found { handover, .. }) = self.awaited_mut(wait) {
            let nickname = handover.target.clone();
            self.ask_backplane(BackplaneRequest::Find { wait, nickname });
        }
    }

    /// Looks for whom a private message is for: at first, and again where nobody has got it of those who were asked. The nickname's session
    /// has gone on elsewhere then, or is about to, or ends.
    pub(super) fn look_for_private(&mut self, from: SessionRef, reply_to: ReplyTo, private: Private) {
        if from.node != self.node {
            // That node looks again.
            return self.answer_private(from, reply_to, self.core, Reply::Refused(no_such_user()));
        }
        if private.finds < FINDS_MAX {
            return self.find_for_private(from, reply_to, private);
        }
        let message = "this user's session is on its way from one node to another";
        let refusal = Refusal::with_retry(Reason::Unavailable, message, MOVING_RETRY_MS);
        self.answer_private(from, reply_to, self.core, Reply::Refused(refusal));
    }

    pub(super) fn hear_found(
        &mut self,
        from: SessionRef,
        reply_to: ReplyTo,
        mut handover: Handover,
        outcome: Result<Option<(Nickname, Vec<SessionRef>)>, Failed>,
    ) {
        let (target, sessions) = match outcome {
            Ok(Some(found)) => found,
            Ok(None) => {
                return self.answer_private(from, reply_to, self.core, Reply::Refused(no_such_user()));
            }
            Err(_) => {
                let refusal = self.backplane_down();
                return self.answer_private(from, reply_to, self.core, Reply::Refused(refusal));
            }
        };
        handover.target = target;
        let nodes: BTreeSet<NodeId> = sessions.iter().map(|session| session.node).collect();
        // Of one that is not known yet it is not known that it is lost.
        let is_lost = |node: &NodeId| self.nodes.lost.iter().any(|(lost, _)| lost == node);
        let others = nodes.iter().copied().filter(|node| *node != self.node && !is_lost(node));
        let others: Vec<NodeId> = others.collect();
        if others.is_empty() {
            if !nodes.contains(&self.node) {
                let message = "the node that this user was on is gone: the user has not come back yet";
                let refusal = Refusal::with_retry(Reason::Unavailable, message, 1000);
                return self.answer_private(from, reply_to, self.core, Reply::Refused(refusal));
            }
            return self.hand_over_here(from, reply_to, handover);
        }
        let (target, sender, content) =
            (handover.target.clone(), handover.sender.clone(), handover.content.clone());
        let key = handover.key.clone();
        let timestamp_ms = handover.timestamp_ms;
        let spread =
            Spread { from, reply_to, handover, open: others.clone(), is_late: false, is_refused: false };
        if others.iter().all(|node| self.is_silent(*node)) {
            // Whoever writes to many of its sessions would wait for each of them.
            return self.finish_spread(spread);
        }
        let wait = self.wait_for_store(Awaited::Private(Box::new(spread)));
        let ask = Ask { core: self.core, wait };
        for node in others {
            let (sender, target, content, key) =
                (sender.clone(), target.clone(), content.clone(), key.clone());
            let message = Box::new(NodeMessage::Private { ask, sender, target, content, key, timestamp_ms });
            self.ask_backplane(BackplaneRequest::Tell { node, message });
        }
    }

    /// Whether a node has let somebody wait in vain lately, and has said nothing since. It may be asked again after a lease: it lives then, or
    /// is known to be lost.
    fn is_silent(&self, node: NodeId) -> bool {
        let since = self.nodes.silent.get(&node);
        since.is_some_and(|since| self.now.tick.since(*since) < self.config.cluster.lease_ms)
    }

    /// Has all cores know that a node lets whoever asks it wait in vain, or does so no more.
    pub(super) fn tell_silent(&mut self, node: NodeId, is_silent: bool) {
        self.note_silent(node, is_silent);
        let own = self.core;
        for core in (0..self.cores() as u16).filter(|core| *core != own) {
            self.post(core, Mail::Silent { node, is_silent });
        }
    }

    pub(in crate::shard) fn note_silent(&mut self, node: NodeId, is_silent: bool) {
        let (now, lease_ms) = (self.now.tick, self.config.cluster.lease_ms);
        // Those of old are not asked for any more, and may never come back under this number.
        self.nodes.silent.retain(|other, since| *other != node && now.since(*since) < lease_ms);
        if is_silent {
            self.nodes.silent.insert(node, now);
        }
    }

    /// Passes a private message on to the sessions of this node.
    fn hand_over_here(&mut self, from: SessionRef, reply_to: ReplyTo, mut handover: Handover) {
        // Somebody has been told that the node of a session does not answer, and says it again. That node may have left it for the session.
        if let Some(key) = &handover.key
            && let Seen::Done(done) =
                self.home.told_private.look(key, self.now.tick, self.limits.idempotency_ms)
        {
            handover.delivered += done.delivered;
            handover.is_stored |= done.is_stored;
            handover.asked.extend_from_slice(&done.asked);
        }
        let sessions = self.home.nicknames.find(&handover.target).map(|(sessions, _)| sessions.to_vec());
        handover.to = sessions.unwrap_or_default();
        match handover.to.first().map(|first| first.core) {
            Some(core) => {
                let request = Request::Handover(Box::new(handover));
                self.post(core, Mail::Request { from, reply_to, request });
            }
            None => self.finish_handover(from, reply_to, Box::new(handover)),
        }
    }

    /// Another node says what became of a private message there.
    pub(super) fn hear_private_done(
        &mut self,
        wait: Id,
        node: NodeId,
        delivered: u64,
        is_stored: bool,
        is_full: bool,
    ) {
        let Some(Awaited::Private(spread)) = self.awaited_mut(wait) else { return };
        if !spread.open.contains(&node) {
            return; // it has said so already
        }
        spread.open.retain(|open| *open != node);
        spread.handover.delivered += delivered;
        spread.handover.is_stored |= is_stored;
        spread.handover.is_full |= is_full;
        if spread.open.is_empty()
            && let Some(Awaited::Private(spread)) = self.end_wait(wait)
        {
            self.finish_spread(*spread);
        }
    }

    /// All other nodes have answered, or their time is over: the sessions here are last.
    pub(in crate::shard) fn finish_spread(&mut self, spread: Spread) {
        let Spread { from, reply_to, handover, open, is_late, is_refused } = spread;
        let has_missed = !open.is_empty() || is_late;
        for node in open.into_iter().filter(|node| !self.is_silent(*node)).collect::<Vec<_>>() {
            self.tell_silent(node, true);
        }
        let is_here = self.home.nicknames.find(&handover.target).is_some_and(|(here, _)| !here.is_empty());
        if has_missed && !is_here && handover.delivered == 0 && !handover.is_stored {
            let message = "the node that this user is on does not answer";
            let refusal = match is_refused {
                true => self.backplane_down(),
                false => Refusal::with_retry(Reason::Unavailable, message, 1000),
            };
            return self.answer_private(from, reply_to, self.core, Reply::Refused(refusal));
        }
        self.hand_over_here(from, reply_to, handover);
    }

    /// Tells whoever sent a private message what became of it, here or on another node.
    pub(in crate::shard) fn answer_private(
        &mut self,
        from: SessionRef,
        reply_to: ReplyTo,
        home: u16,
        reply: Reply,
    ) {
        if from.node == self.node {
            return self.post(from.core, Mail::Reply { to: from.session, home, reply_to, reply });
        }
        if home != self.core {
            return self.post(home, Mail::PrivateDone { from, reply_to, reply: Box::new(reply) });
        }
        let ask = Ask { core: from.core, wait: from.session };
        let (delivered, is_stored, is_full) = match reply {
            Reply::Delivered { sessions, is_stored, .. } => (sessions, is_stored, false),
            Reply::Refused(refusal) => (0, false, refusal.reason == Reason::Unavailable),
            _ => (0, false, false),
        };
        let message = Box::new(NodeMessage::PrivateDone { ask, delivered, is_stored, is_full });
        self.ask_backplane(BackplaneRequest::Tell { node: from.node, message });
    }

    /// Another node has a private message for sessions of this one.
    pub(super) fn hear_private(&mut self, node: NodeId, message: NodeMessage) {
        let NodeMessage::Private { ask, sender, target, content, key, timestamp_ms } = message else {
            return;
        };
        if let Some(key) = &key
            && let Seen::Done(done) =
                self.home.told_private.look(key, self.now.tick, self.limits.idempotency_ms)
        {
            let (delivered, is_stored) = (done.delivered, done.is_stored);
            self.counters.repeated_commands.add(1);
            let message = Box::new(NodeMessage::PrivateDone { ask, delivered, is_stored, is_full: false });
            return self.ask_backplane(BackplaneRequest::Tell { node, message });
        }
        let mut handover = self.new_handover(target, sender, content, 1);
        (handover.timestamp_ms, handover.key) = (timestamp_ms, key);
        // The other node's wait stands for the sender, as long as the message is on its way here.
        let from = SessionRef { node, core: ask.core, session: ask.wait };
        self.hand_over_here(from, ReplyTo::default(), handover);
    }

    /// Notes what became of a private message here.
    pub(in crate::shard) fn note_private(&mut self, key: &str, mut done: PrivateDone) {
        let window = &mut self.home.told_private;
        if let Seen::Done(before) = window.look(key, self.now.tick, self.limits.idempotency_ms) {
            done.asked.extend_from_slice(&before.asked);
        }
        window.begin(key, self.now.tick, self.limits.idempotency_keys);
        window.finish(key, done);
    }

    /// A session has gone on on another node, while this one was taken for lost: what it had of private messages is told on there.
    pub(in crate::shard) fn leave_private(&mut self, session: Id) {
        let number = self.sessions[session].number;
        let kept = self.sessions[session].inbox.as_mut().map(|inbox| inbox.take_private());
        for kept in kept.unwrap_or_default() {
            let Kept::Private { sender, target, content, timestamp_ms, key, .. } = kept else { continue };
            // Who has sent it has been answered: nobody waits under this key any more.
            let wait = self.wait_for_store(Awaited::GivingUp { session, is_taken_back: false });
            self.end_wait(wait);
            let ask = Ask { core: self.core, wait };
            let message =
                Box::new(NodeMessage::Left { ask, number, sender, target, content, key, timestamp_ms });
            self.ask_backplane(BackplaneRequest::TellAll { message });
        }
    }

    /// Another node has left a private message for a session, which is perhaps here.
    pub(super) fn hear_left(&mut self, node: NodeId, message: NodeMessage) {
        let NodeMessage::Left { ask, number, sender, target, content, key, timestamp_ms } = message else {
            return;
        };
        let session = self.directory.get(&number).copied();
        let Some(session) = session.filter(|session| session.node == self.node) else { return };
        // The home of the nickname knows whether the session has it already.
        let home = self.home_of(target.folded());
        let mut handover = self.new_handover(target, sender, content, 1);
        (handover.timestamp_ms, handover.key, handover.to) = (timestamp_ms, key, vec![session]);
        let from = SessionRef { node, core: ask.core, session: ask.wait };
        handover.left_for = number;
        let request = Request::Left(Box::new(handover));
        self.post(home, Mail::Request { from, reply_to: ReplyTo::default(), request });
    }

    /// Passes on to a session what another node has left for it, if it has not been told it by another way: its sender was told that the node
    /// did not answer, and has said it again.
    pub(in crate::shard) fn take_left(&mut self, from: SessionRef, mut handover: Box<Handover>) {
        let (now, keep_ms) = (self.now.tick, self.limits.idempotency_ms);
        if let Some(key) = &handover.key
            && let Seen::Done(done) = self.home.told_private.look(key, now, keep_ms)
        {
            if done.asked.contains(&handover.left_for) {
                return self.counters.repeated_commands.add(1);
            }
            (handover.delivered, handover.is_stored) = (done.delivered, done.is_stored);
        }
        handover.home = self.core;
        let core = handover.to[0].core;
        let request = Request::Handover(handover);
        self.post(core, Mail::Request { from, reply_to: ReplyTo::default(), request });
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;
    use crate::base::time::Now;
    use crate::config::{Config, ListenKind};
    use crate::shard::backplane::{BackplaneNews, ClaimOutcome};
    use crate::shard::nodes::alone::{core_of_a_node, next_requests};

    /// A core of node 7, on which bob writes to alice. Where she is, and what other nodes do for her, the test says.
    struct Alone {
        shard: Shard,
        bob: Id,
        now_ms: u64,
        /// Where alice is, by the backplane.
        place: NodeId,
        /// The node that she is on, if some node has her.
        has_her: Option<NodeId>,
        /// Nodes that do not answer.
        silent: Vec<NodeId>,
        finds: usize,
        told: Vec<NodeId>,
    }

    impl Alone {
        fn new() -> Self {
            let mut shard = core_of_a_node(Config::default());
            let bob = shard.open([127, 0, 0, 1].into(), ListenKind::Line);
            let (silent, told) = (Vec::new(), Vec::new());
            let mut alone = Alone { shard, bob, now_ms: 0, place: 9, has_her: None, silent, finds: 0, told };
            alone.say("{\"type\":\"hello\",\"nickname\":\"bob\"}\n");
            alone
        }

        fn say(&mut self, line: &str) {
            self.shard.receive(self.bob, &mut line.as_bytes().to_vec());
            self.settle();
        }

        fn write(&mut self, id: &str) {
            self.say(&format!(
                "{{\"type\":\"private\",\"target\":\"alice\",\"content\":\"psst\",\"id\":\"{id}\"}}\n"
            ));
        }

        fn settle(&mut self) {
            while let Some(requests) = next_requests(&mut self.shard) {
                requests.into_iter().for_each(|request| self.answer(request));
            }
        }

        fn answer(&mut self, request: BackplaneRequest) {
            let news = match request {
                BackplaneRequest::Claim { wait, nickname, session, .. } => {
                    BackplaneNews::Claimed { wait, nickname, session, outcome: Ok(ClaimOutcome::Granted) }
                }
                BackplaneRequest::Find { wait, nickname } => {
                    self.finds += 1;
                    let session = Id { index: 1, generation: 1 };
                    let session = SessionRef { node: self.place, core: 0, session };
                    BackplaneNews::Found { wait, outcome: Ok(Some((nickname, vec![session]))) }
                }
                BackplaneRequest::Tell { node, message } => {
                    let NodeMessage::Private { ask, .. } = *message else { return };
                    self.told.push(node);
                    if self.silent.contains(&node) {
                        return;
                    }
                    let delivered = u64::from(self.has_her == Some(node));
                    let message = Box::new(NodeMessage::PrivateDone {
                        ask,
                        delivered,
                        is_stored: false,
                        is_full: false,
                    });
                    BackplaneNews::Told { from: node, message }
                }
                _ => return,
            };
            self.shard.mail(Mail::Backplane(news));
        }

        fn pass(&mut self, ms: u64) {
            self.now_ms += ms;
            self.shard.tick(Now::new(self.now_ms * 1_000_000, self.now_ms));
            while self.shard.expire() {}
            self.settle();
        }

        fn heard(&self) -> String {
            let mut slices = [IoSlice::new(&[]); 16];
            let filled = self.shard.gather(self.bob, &mut slices);
            let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
            String::from_utf8(bytes).unwrap()
        }
    }

    #[test]
    fn a_session_that_goes_from_node_to_node_is_looked_for_again() {
        let mut alone = Alone::new();
        alone.write("1");
        for _ in 0..3 {
            assert!(!alone.heard().contains("\"id\":\"1\""), "{}", alone.heard());
            alone.pass(4);
        }
        (alone.place, alone.has_her) = (12, Some(12));
        alone.pass(16);
        assert!(alone.heard().contains("\"delivered\":1"), "{}", alone.heard());
        assert!(alone.told.len() >= 3 && alone.told.ends_with(&[9, 12]), "{:?}", alone.told);
    }

    #[test]
    fn whoever_is_always_on_the_way_between_nodes_may_be_written_to_later() {
        let mut alone = Alone::new();
        // Another node, or this one itself.
        for (id, place) in [("1", 9), ("2", 7)] {
            (alone.place, alone.finds) = (place, 0);
            alone.write(id);
            for _ in 0..300 {
                alone.pass(1);
            }
            let heard = alone.heard();
            let answer =
                heard.lines().find(|line| line.contains(&format!("\"id\":\"{id}\""))).expect("an answer");
            assert!(answer.contains("\"reason\":\"unavailable\""), "{answer}");
            assert!(answer.contains("\"retry_after_ms\":250"), "{answer}");
            assert_eq!(alone.finds, usize::from(FINDS_MAX));
        }
    }

    #[test]
    fn a_node_that_does_not_answer_is_waited_for_once() {
        let mut alone = Alone::new();
        (alone.has_her, alone.silent) = (Some(9), vec![9]);
        let answer = |alone: &Alone, id: &str| {
            alone.heard().lines().find(|line| line.contains(&format!("\"id\":\"{id}\""))).map(str::to_owned)
        };
        alone.write("1");
        alone.pass(3999);
        assert_eq!(answer(&alone, "1"), None);
        alone.pass(101);
        for id in ["1", "2", "3"] {
            if id != "1" {
                alone.write(id);
            }
            let answer = answer(&alone, id).expect("an answer");
            assert!(answer.contains("\"reason\":\"unavailable\""), "{answer}");
        }
        assert_eq!(alone.told, [9]);
        // It answers after all.
        alone.silent.clear();
        let ask = Ask { core: 0, wait: Id { index: 99, generation: 1 } };
        let message = NodeMessage::PrivateDone { ask, delivered: 1, is_stored: false, is_full: false };
        alone.shard.mail(Mail::Backplane(BackplaneNews::Told { from: 9, message: Box::new(message) }));
        alone.write("4");
        assert!(answer(&alone, "4").is_some_and(|answer| answer.contains("\"delivered\":1")));
        // Or nobody has asked it for the time of a lease.
        alone.silent = vec![9];
        alone.write("5");
        alone.pass(4100);
        alone.silent.clear();
        alone.pass(Config::default().cluster.lease_ms);
        alone.write("6");
        assert!(answer(&alone, "6").is_some_and(|answer| answer.contains("\"delivered\":1")));
    }
}
