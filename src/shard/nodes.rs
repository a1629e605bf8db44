//! The other nodes of a cluster: who has a nickname, what is said to somebody elsewhere, and who is not heard of any more.
//!
//! The home of a nickname asks the backplane for it, and knows which of its own node's sessions have it. A private message goes to
//! the sessions here, and to each other node that has some; so does what an admin says to all.
//!
//! A node that is not heard of for `cluster.lease_ms` is lost: in every room of which somebody has a copy its members are away, and when
//! the time of grace has passed they have left.

use std::collections::HashMap;
use std::sync::Arc;

#[cfg(test)]
pub(super) mod alone;
pub(super) mod private;
pub(super) mod spoken;

use super::Shard;
use super::backplane::{
    BackplaneNews, BackplaneRequest, ClaimOutcome, Failed, LostNode, NodeMessage, RoomOp, TakeOutcome,
};
use super::home::SESSIONS_RETRY_MS;
use super::journal::Asker;
use super::mail::{Broadcast, Mail, Reply, ReplyTo, Request, RoomEntry};
use super::reading::Awaited;
use super::session::Successor;
use super::shared::Strays;
use super::timers::Timer;
use crate::base::slots::Id;
use crate::base::time::Tick;
use crate::chat::name::{Nickname, RoomName};
use crate::chat::pattern::Patterns;
use crate::chat::refusal::{Farewell, LeaveReason, Reason, Refusal};
use crate::chat::user::{Claim, NodeId, SessionRef};

/// Lost nodes that others are told of: as many as a cluster loses at once, and more.
const LOST_TOLD_MAX: usize = 64;

/// What a core knows of the cluster.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    /// Whether there is one.
    pub is_clustered: bool,
    /// Why the backplane is down, if it is.
    pub down: Option<Box<str>>,
    /// When it went down last.
    silent_at: Option<Tick>,
    /// When it was back last.
    pub back_at: Option<Tick>,
    /// Counts what this core has given to the backplane.
    pub next_tag: u64,
    /// The nodes that live.
    living: Arc<[NodeId]>,
    /// Those that are lost, and since when.
    lost: Vec<(NodeId, Tick)>,
    /// Those that have not answered in time when they were told a private message, and when that was: until they say something.
    silent: HashMap<NodeId, Tick>,
    /// What waits for a session that is being given up, by its number.
    pub(super) partings: HashMap<u64, Id>,
    /// Those that rooms have members of and that are neither, and since when that is known: they are new, or have long gone.
    unknown: HashMap<NodeId, Tick>,
    /// Members of rooms that nobody is any more.
    pub(super) strays: Strays,
}

impl Nodes {
    /// For a core of a node that is one of a cluster, or stands alone.
    pub fn new(is_clustered: bool) -> Self {
        Nodes { is_clustered, ..Nodes::default() }
    }
}

impl Shard {
    /// What a session asks that other nodes have a part in. Gives back what this node decides alone.
    pub(super) fn take_clustered(
        &mut self,
        from: SessionRef,
        reply_to: ReplyTo,
        request: Request,
    ) -> Option<(ReplyTo, Request)> {
        match request {
            Request::Claim { nickname, has_token } => {
                self.claim_shared(from, reply_to, nickname, has_token);
                None
            }
            Request::Release { ref nickname, number: _ } => {
                let (nickname, session) = (nickname.clone(), from);
                self.ask_backplane(BackplaneRequest::Release { nickname, session });
                Some((reply_to, request))
            }
            Request::Reclaim { nickname, old, has_token, number: _ } => {
                self.home.nicknames.replace(&nickname, old, from);
                self.home.nicknames.claim(&nickname, from, has_token, usize::MAX);
                self.counters.nicknames.set(self.home.nicknames.len() as u64);
                self.ask_backplane(BackplaneRequest::Replace { nickname, old, session: from, has_token });
                self.reply_to_asker(Asker::Session(from, reply_to), Reply::Reclaimed { registered: None });
                None
            }
            Request::Private(private) => {
                self.look_for_private(from, reply_to, *private);
                None
            }
            Request::Rooms { after, limit, allowed } => {
                // One of the homes answers for all.
                if self.core != 0 {
                    let rooms = Reply::Rooms { rooms: Vec::new() };
                    self.reply_to_asker(Asker::Session(from, reply_to), rooms);
                } else {
                    let asker = Asker::Session(from, reply_to);
                    self.ask_for_rooms(asker, after, limit, allowed, Vec::new());
                }
                None
            }
            Request::Broadcast(broadcast) if from.core == self.core => {
                let sessions = self.tell_everybody(&broadcast);
                self.speak_to_others(Asker::Session(from, reply_to), sessions, &broadcast);
                None
            }
            request => Some((reply_to, request)),
        }
    }

    /// The backplane says something.
    pub(super) fn hear_backplane(&mut self, news: BackplaneNews) {
        match news {
            BackplaneNews::Down(down) => self.note_backplane(down),
            BackplaneNews::Nodes { living, lost } => self.note_nodes(living, &lost),
            // Who is not known may have come since.
            BackplaneNews::NodesUnheard => self.nodes.unknown.clear(),
            BackplaneNews::Returned => {
                for key in self.home.by_name.values().copied().collect::<Vec<_>>() {
                    self.compare_locals(key);
                }
                self.keep_sessions();
            }
            BackplaneNews::Opened { room, outcome, is_catch_up } => {
                self.hear_opened(room, outcome, is_catch_up);
            }
            BackplaneNews::Published { room, tag, outcome } => self.hear_published(&room, tag, outcome),
            BackplaneNews::Appended { room, epoch, tag, outcome } => {
                self.hear_appended(&room, &epoch, tag, outcome);
            }
            BackplaneNews::Entries { room, epoch, entries } => self.hear_entries(&room, &epoch, entries),
            BackplaneNews::CaughtUp { room, epoch, outcome } => self.hear_caught_up(&room, &epoch, outcome),
            BackplaneNews::At { room, at, is_doubtful } => self.hear_at(&room, at, is_doubtful),
            BackplaneNews::Unseen { room } => self.hear_unseen(&room),
            BackplaneNews::Uttered { room, utterance } => self.hear_uttered(&room, utterance),
            BackplaneNews::Page { wait, entries } => {
                if let Some(Awaited::Page(then)) = self.end_wait(wait) {
                    self.hear_page(then, entries);
                }
            }
            BackplaneNews::Rooms { wait, rooms } => {
                if let Some(Awaited::Rooms { asker, limit, allowed, found }) = self.end_wait(wait) {
                    self.hear_rooms(asker, limit, allowed, found, rooms);
                }
            }
            BackplaneNews::Claimed { wait, nickname, session, outcome } => match self.end_wait(wait) {
                Some(Awaited::Claim { from, reply_to, nickname, has_token }) => {
                    self.hear_claimed(from, reply_to, nickname, has_token, outcome);
                }
                // Nobody waits for it any more. Its session may have it all the same, or wait for it, as it has asked again.
                _ if outcome == Ok(ClaimOutcome::Granted) && !self.has_or_claims(&nickname, session) => {
                    self.ask_backplane(BackplaneRequest::Release { nickname, session });
                }
                _ => {}
            },
            BackplaneNews::Found { wait, outcome } => {
                if let Some(Awaited::Found { from, reply_to, handover }) = self.end_wait(wait) {
                    self.hear_found(from, reply_to, *handover, outcome);
                }
            }
            BackplaneNews::Kept { wait, outcome } => {
                if let Some(Awaited::GivingUp { session, is_taken_back }) = self.end_wait(wait) {
                    self.hear_kept_session(session, is_taken_back, outcome);
                }
            }
            BackplaneNews::Unkept { session } => {
                if session.core == self.core {
                    self.write_session(session.session);
                }
            }
            BackplaneNews::SessionMoved { number, session } => self.lose_session(number, session),
            BackplaneNews::SessionKnown { room, session, known } => {
                self.hear_session_known(room, session, &known);
            }
            BackplaneNews::NicknameLost { session, nickname, is_put_out } => {
                self.lose_nickname(session, &nickname, is_put_out);
            }
            BackplaneNews::PutOut { wait, outcome } => {
                if let Some(Awaited::PutOut { asker, ended }) = self.end_wait(wait) {
                    self.hear_put_out(asker, ended, outcome);
                }
            }
            BackplaneNews::Taken { wait, number, session, outcome } => match (self.end_wait(wait), outcome) {
                (Some(Awaited::Taken { from, reply_to, number, tries }), outcome) => {
                    self.hear_taken(from, reply_to, number, tries, outcome);
                }
                // Nobody waits for it any more: it can be taken again.
                (_, Ok(TakeOutcome::Taken { .. })) => {
                    self.ask_backplane(BackplaneRequest::FreeSession { number, session });
                }
                _ => {}
            },
            BackplaneNews::NotTold { node, wait } => self.hear_not_told(node, wait),
            BackplaneNews::Told { from, message } => self.hear_node(from, *message),
        }
    }

    /// The backplane fails, or is back.
    fn note_backplane(&mut self, down: Option<Box<str>>) {
        if down.is_some() && self.nodes.down.is_none() {
            self.nodes.silent_at = Some(self.now.tick);
        }
        if down.is_none() && self.nodes.down.is_some() {
            self.nodes.back_at = Some(self.now.tick);
        }
        self.nodes.down = down;
        // All cores are told the same: one tells it on.
        if self.core == 0 {
            self.counters.backplane_up.set(u64::from(self.nodes.down.is_none()));
        }
        let keys: Vec<Id> = self.home.by_name.values().copied().collect();
        if self.nodes.down.is_some() {
            for key in keys {
                self.answer_orders(key);
            }
            let spoken =
                |(id, awaited): (Id, &mut Awaited)| matches!(awaited, Awaited::Spoken(_)).then_some(id);
            for id in self.awaited().filter_map(spoken).collect::<Vec<_>>() {
                if let Some(Awaited::Spoken(spoken)) = self.end_wait(id) {
                    self.finish_spoken(*spoken);
                }
            }
        }
        // When it is back the link tells where each room is, and whatever waits goes on from there.
        if self.nodes.down.is_none() {
            // Who is not known may have been away as this node was.
            self.nodes.unknown.clear();
            self.forget_rooms_away();
            self.keep_sessions();
        }
    }

    /// Whether the backplane has been down for so long that other nodes, if they reach it, take this one for lost.
    pub(super) fn is_cut_off(&self) -> bool {
        let silent_at = self.nodes.silent_at.filter(|_| self.nodes.down.is_some());
        silent_at.is_some_and(|at| self.now.tick.since(at) >= self.config.cluster.lease_ms)
    }

    /// Keeps all sessions of this core once more: what was to be kept lately may have been lost.
    fn keep_sessions(&mut self) {
        let ids: Vec<Id> = self.sessions.iter().map(|(id, _)| id).collect();
        for id in ids {
            self.write_session(id);
        }
    }

    fn claim_shared(&mut self, from: SessionRef, reply_to: ReplyTo, nickname: Nickname, has_token: bool) {
        let refusal = if self.nodes.down.is_some() {
            Some(self.backplane_down())
        } else {
            self.check_registered(&nickname, has_token).err()
        };
        if let Some(refusal) = refusal {
            return self.reply_to_asker(Asker::Session(from, reply_to), Reply::Refused(refusal));
        }
        let (sessions_max, session) = (self.limits.sessions_per_user, from);
        let awaited = Awaited::Claim { from, reply_to, nickname: nickname.clone(), has_token };
        let wait = self.wait_for_store(awaited);
        self.ask_backplane(BackplaneRequest::Claim { wait, nickname, session, has_token, sessions_max });
    }

    fn hear_claimed(
        &mut self,
        from: SessionRef,
        reply_to: ReplyTo,
        nickname: Nickname,
        has_token: bool,
        outcome: Result<ClaimOutcome, Failed>,
    ) {
        let reply = match outcome {
            Ok(ClaimOutcome::Granted) => {
                match self.home.nicknames.claim(&nickname, from, has_token, usize::MAX) {
                    Claim::Granted => Reply::Claimed { nickname, registered: None },
                    // The backplane has forgotten that somebody here has it, and will be told.
                    Claim::Taken | Claim::Full => {
                        self.ask_backplane(BackplaneRequest::Release { nickname, session: from });
                        Reply::Refused(super::home::nickname_in_use())
                    }
                }
            }
            Ok(ClaimOutcome::Taken | ClaimOutcome::PutOut) => Reply::Refused(super::home::nickname_in_use()),
            Ok(ClaimOutcome::Full) => {
                self.counters.too_many_sessions.add(1);
                let message = "you have as many sessions as a user may have";
                Reply::Refused(Refusal::with_retry(Reason::TooManyConnections, message, SESSIONS_RETRY_MS))
            }
            Err(_) => {
                // It may have got it, by this claim or one before that nobody has waited for.
                if !self.has_or_claims(&nickname, from) {
                    self.ask_backplane(BackplaneRequest::Release { nickname, session: from });
                }
                Reply::Refused(self.backplane_down())
            }
        };
        self.counters.nicknames.set(self.home.nicknames.len() as u64);
        self.reply_to_asker(Asker::Session(from, reply_to), reply);
    }

    /// Whether a session has a nickname, or waits for it.
    fn has_or_claims(&mut self, nickname: &Nickname, session: SessionRef) -> bool {
        let held = self.home.nicknames.find(nickname);
        let is_it = |awaited: &Awaited| {
            matches!(awaited, Awaited::Claim { from, nickname: claimed, .. }
                if *from == session && claimed.folded() == nickname.folded())
        };
        held.is_some_and(|(sessions, _)| sessions.contains(&session))
            || self.awaited().any(|(_, awaited)| is_it(awaited))
    }

    /// A nickname of this node was given to somebody else while this node was taken for lost, or its user has been put out.
    fn lose_nickname(&mut self, session: SessionRef, nickname: &Nickname, is_put_out: bool) {
        if session.core != self.core || session.node != self.node {
            return;
        }
        let Some(state) = self.sessions.get(session.session).filter(|state| !state.is_ending()) else {
            return;
        };
        if state.nickname.as_ref() != Some(nickname) {
            return;
        }
        if is_put_out {
            self.counters.put_out.add(1);
            return self.end_lost(session.session, Farewell::Kicked);
        }
        log::warn!("{} has been given to somebody else while this node was not heard of", nickname.as_str());
        self.leave_private(session.session); // it may be the same session, which has gone on there
        self.end_lost(session.session, Farewell::Internal);
    }

    /// A session of this node was taken by another one, while this node was taken for lost. Who was connected here before that has been
    /// replaced by who went on there; who came later comes back, and goes on from there.
    fn lose_session(&mut self, number: u64, session: SessionRef) {
        if session.core != self.core || session.node != self.node {
            return;
        }
        let state = self.sessions.get(session.session);
        if state.is_some_and(|state| state.number == number && !state.is_ending() && !state.is_given_up()) {
            log::warn!(
                "session {number:016x} has gone on on another node, without this one's having given it up"
            );
            let connection = state.and_then(|state| self.connections.get(state.connection?));
            let was_before = connection
                .is_some_and(|c| self.nodes.silent_at.is_some_and(|silent_at| c.awaited_since < silent_at));
            let farewell = if was_before { Farewell::Replaced } else { Farewell::Internal };
            self.leave_private(session.session);
            self.end_lost(session.session, farewell);
        }
    }

    fn end_lost(&mut self, session: Id, farewell: Farewell) {
        let connection = self.sessions[session].connection;
        self.end_session(session, LeaveReason::Lost, None);
        if let Some(connection) = connection {
            if let Some(connection) = self.connections.get_mut(connection) {
                connection.session = None;
            }
            self.close(connection, super::closing::Closing::Bye(farewell));
        }
    }

    /// The backplane has not taken what was to be told to another node.
    fn hear_not_told(&mut self, node: NodeId, wait: Id) {
        let is_over = match self.awaited_mut(wait) {
            Some(Awaited::Private(spread)) => {
                spread.open.retain(|open| *open != node);
                (spread.is_late, spread.is_refused) = (true, true);
                spread.open.is_empty()
            }
            Some(Awaited::Spoken(spoken)) => {
                spoken.open.retain(|(open, _)| *open != node);
                spoken.is_refused = true;
                spoken.open.is_empty()
            }
            Some(Awaited::GivenUp { .. }) => true,
            _ => false,
        };
        if !is_over {
            return;
        }
        match self.end_wait(wait) {
            Some(Awaited::Private(spread)) => self.finish_spread(*spread),
            Some(Awaited::Spoken(spoken)) => self.finish_spoken(*spoken),
            Some(Awaited::GivenUp { from, reply_to, number, .. }) => self.refuse_take(from, reply_to, number),
            _ => {}
        }
    }

    pub(super) fn ask_for_rooms(
        &mut self,
        asker: Asker,
        after: Option<Box<str>>,
        limit: usize,
        allowed: Option<Patterns>,
        found: Vec<RoomEntry>,
    ) {
        if self.nodes.down.is_some() {
            let refusal = self.backplane_down();
            return self.reply_to_asker(asker, Reply::Refused(refusal));
        }
        let wait = self.wait_for_store(Awaited::Rooms { asker, limit, allowed, found });
        self.ask_backplane(BackplaneRequest::Rooms { wait, after, limit });
    }

    fn hear_rooms(
        &mut self,
        asker: Asker,
        limit: usize,
        allowed: Option<Patterns>,
        mut found: Vec<RoomEntry>,
        rooms: Option<Vec<(RoomName, u64, u64)>>,
    ) {
        let Some(rooms) = rooms else {
            let refusal = self.backplane_down();
            return self.reply_to_asker(asker, Reply::Refused(refusal));
        };
        let is_last = rooms.len() < limit;
        let last = rooms.last().map(|(room, ..)| room.folded().into());
        let rooms = rooms.into_iter().map(|(room, members, offset)| RoomEntry { room, members, offset });
        found.extend(
            rooms.filter(|entry| allowed.as_ref().is_none_or(|allowed| allowed.matches(&entry.room))),
        );
        found.truncate(limit);
        if is_last || found.len() == limit {
            return self.reply_to_asker(asker, Reply::Rooms { rooms: found });
        }
        self.ask_for_rooms(asker, last, limit, allowed, found);
    }

    /// Another node says something to this core.
    fn hear_node(&mut self, node: NodeId, message: NodeMessage) {
        if node == self.node {
            return; // the link says nothing to itself: whoever was answered would be somebody here, who has asked nothing
        }
        if self.nodes.silent.contains_key(&node) {
            self.tell_silent(node, false);
        }
        match message {
            NodeMessage::Private { .. } => self.hear_private(node, message),
            NodeMessage::Left { .. } => self.hear_left(node, message),
            NodeMessage::PrivateDone { ask, delivered, is_stored, is_full } => {
                self.hear_private_done(ask.wait, node, delivered, is_stored, is_full);
            }
            NodeMessage::Broadcast { ask, sender, content, rooms, tags, timestamp_ms } => {
                let patterns = (!rooms.is_empty()).then(|| Patterns::parse(&rooms)).and_then(Result::ok);
                let broadcast = Broadcast { sender, content, rooms: patterns, tags, timestamp_ms };
                // Patterns that this node cannot read are not for everybody.
                let is_readable = rooms.is_empty() || broadcast.rooms.is_some();
                let sessions = if is_readable { self.tell_everybody(&broadcast) } else { 0 };
                let cores = self.cores() as u16;
                let message = Box::new(NodeMessage::BroadcastDone { ask, sessions, cores });
                self.ask_backplane(BackplaneRequest::Tell { node, message });
            }
            NodeMessage::PutOut { ask, nickname, lost } => {
                let (sessions, cores) = (self.put_out_all(&nickname, &lost), self.cores() as u16);
                let message = Box::new(NodeMessage::BroadcastDone { ask, sessions, cores });
                self.ask_backplane(BackplaneRequest::Tell { node, message });
            }
            NodeMessage::BroadcastDone { ask, sessions, cores } => {
                self.hear_broadcast_done(node, ask.wait, sessions, cores);
            }
            NodeMessage::GiveUp { number, ask } => {
                let (session, home) = (SessionRef { node, core: ask.core, session: ask.wait }, self.core);
                let successor = Successor { session, number, home, reply_to: ReplyTo::default() };
                match self.directory.get(&number).copied() {
                    Some(old) if old.node == self.node && !self.nodes.partings.contains_key(&number) => {
                        self.directory.insert(number, session);
                        let request = Request::Surrender { to: old.session, number, home };
                        let (from, reply_to) = (session, ReplyTo::default());
                        self.post(old.core, Mail::Request { from, reply_to, request });
                    }
                    // Somebody wants it too, and was first.
                    Some(_) => self.tell_given_up(&successor, false),
                    None => self.tell_given_up(&successor, true),
                }
            }
            NodeMessage::GivenUp { ask, is_gone } => {
                if let Some(Awaited::GivenUp { from, reply_to, number, tries, .. }) = self.end_wait(ask.wait)
                {
                    let gone_from = is_gone.then_some(node);
                    self.take_session_again(from, reply_to, number, tries, gone_from);
                }
            }
        }
    }

    /// Tells which nodes live and which are lost.
    fn note_nodes(&mut self, living: Arc<[NodeId]>, lost: &[LostNode]) {
        let now = self.now.tick;
        self.nodes.unknown.retain(|node, _| !living.contains(node));
        self.nodes.silent.retain(|node, _| living.contains(node));
        self.nodes.living = living;
        self.nodes.lost =
            lost.iter().map(|lost| (lost.node, Tick(now.0.saturating_sub(lost.lost_ms)))).collect();
        self.look_for_lost_nodes_everywhere();
        self.end_waits_for_lost_nodes();
    }

    /// The nodes that have been lost last.
    fn lost_lately(&self) -> Vec<NodeId> {
        self.nodes.lost.iter().rev().take(LOST_TOLD_MAX).map(|(node, _)| *node).collect()
    }

    /// Goes on with what waits for nodes that are lost: they will not answer.
    fn end_waits_for_lost_nodes(&mut self) {
        let lost: Vec<NodeId> = self.nodes.lost.iter().map(|(node, _)| *node).collect();
        let mut over = Vec::new();
        for (id, awaited) in self.awaited() {
            let is_over = match awaited {
                Awaited::GivenUp { node, .. } => lost.contains(node),
                Awaited::Private(spread) => {
                    let open = spread.open.len();
                    spread.open.retain(|node| !lost.contains(node));
                    spread.is_late |= spread.open.len() < open;
                    spread.open.is_empty()
                }
                Awaited::Spoken(spoken) => {
                    spoken.open.retain(|(node, _)| !lost.contains(node));
                    spoken.open.is_empty()
                }
                _ => false,
            };
            if is_over {
                over.push(id);
            }
        }
        for id in over {
            match self.end_wait(id) {
                Some(Awaited::GivenUp { from, reply_to, number, tries, .. }) => {
                    self.take_session_again(from, reply_to, number, tries, None);
                }
                Some(Awaited::Private(spread)) => self.finish_spread(*spread),
                Some(Awaited::Spoken(spoken)) => self.finish_spoken(*spoken),
                _ => {}
            }
        }
    }

    /// Looks for members of lost nodes in all rooms, now and when something is over for some.
    pub(super) fn look_for_lost_nodes_everywhere(&mut self) {
        for key in self.home.by_name.values().copied().collect::<Vec<_>>() {
            self.look_for_lost_nodes(key);
        }
        let (now, grace_ms) = (self.now.tick, self.config.session.grace_ms);
        // Whoever has been unknown for so long is in no room any more, or will be noticed anew.
        self.nodes.unknown.retain(|_, since| now.since(*since) <= self.config.cluster.lease_ms + grace_ms);
    }

    /// Has the members of lost nodes be away in a room, or leave it when they have had their time.
    pub(super) fn look_for_lost_nodes(&mut self, key: Id) {
        if self.nodes.living.is_empty() {
            return; // nothing is known yet
        }
        let (now, grace_ms, lease_ms) =
            (self.now.tick, self.config.session.grace_ms, self.config.cluster.lease_ms);
        let Some(entry) = self.home.rooms.get(key) else { return };
        let (mut orders, mut again) = (Vec::new(), None::<Tick>);
        for (node, is_connected) in entry.room.nodes() {
            if node == self.node || self.nodes.living.contains(&node) {
                continue;
            }
            let since = self.nodes.lost.iter().find(|(lost, _)| *lost == node).map(|(_, since)| *since);
            let since = since.unwrap_or_else(|| *self.nodes.unknown.entry(node).or_insert(now) + lease_ms);
            let next = if now < since {
                since
            } else if now.since(since) < grace_ms {
                if is_connected {
                    orders.push(RoomOp::LoseNode { node });
                }
                since + grace_ms
            } else {
                orders.push(RoomOp::ForgetNode { node });
                continue;
            };
            again = Some(again.map_or(next, |again| again.min(next)));
        }
        for op in orders {
            if !self.is_ordered(key, &op) {
                self.order(key, op, None);
            }
        }
        if let Some(again) = again {
            self.wheel.insert(again + 1, Timer::LostNodes(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Now;
    use crate::config::{Config, ListenKind};
    use crate::shard::Shard;

    /// What the backplane is asked about nicknames: claims, by their waits, and what is let go of.
    fn asked(shard: &mut Shard) -> (Vec<Id>, usize) {
        let mail: Vec<Mail> = shard.outboxes().iter_mut().flat_map(std::mem::take).collect();
        let (mut claims, mut released) = (Vec::new(), 0);
        for mail in mail {
            match mail {
                Mail::BackplaneRequest { request: BackplaneRequest::Claim { wait, .. }, .. } => {
                    claims.push(wait);
                }
                Mail::BackplaneRequest { request: BackplaneRequest::Release { .. }, .. } => released += 1,
                _ => {}
            }
        }
        (claims, released)
    }

    #[test]
    fn a_claim_that_is_granted_late_takes_no_nickname_from_whoever_has_asked_again() {
        let wait_ms = 2 * Config::default().cluster.deadline_ms;
        for order in [[0, 1], [1, 0]] {
            let mut shard = alone::core_of_a_node(Config::default());
            let id = shard.open([127, 0, 0, 1].into(), ListenKind::Line);
            let hello = b"{\"type\":\"hello\",\"nickname\":\"ann\"}\n";
            shard.receive(id, &mut hello.to_vec());
            let (first, _) = asked(&mut shard);
            // It takes too long: the client is told so, and asks once more.
            let now_ms = wait_ms + 100;
            shard.tick(Now::new(now_ms * 1_000_000, now_ms));
            while shard.expire() {}
            shard.receive(id, &mut hello.to_vec());
            let (second, released) = asked(&mut shard);
            assert_eq!((first.len(), second.len(), released), (1, 1, 0));
            let session = shard.sessions.iter().next().expect("there is one").0;
            let session = SessionRef { node: 7, core: 0, session };
            let waits = [first[0], second[0]];
            for wait in order.map(|place| waits[place]) {
                let nickname = Nickname::parse("ann").unwrap();
                let outcome = Ok(ClaimOutcome::Granted);
                shard.mail(Mail::Backplane(BackplaneNews::Claimed { wait, nickname, session, outcome }));
                assert_eq!(asked(&mut shard).1, 0, "{order:?}");
            }
            assert_eq!(shard.inventory().nicknames, 1);
            // Where it has neither, it is let go of.
            let nickname = Nickname::parse("bob").unwrap();
            let outcome = Ok(ClaimOutcome::Granted);
            let wait = waits[0];
            shard.mail(Mail::Backplane(BackplaneNews::Claimed { wait, nickname, session, outcome }));
            assert_eq!(asked(&mut shard).1, 1);
        }
    }
}
