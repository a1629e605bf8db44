//! Orders: what is to happen in a shared room, from the wish to the answer.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::slots::Id;
use crate::chat::history::Entry;
use crate::chat::name::RoomName;
use crate::chat::refusal::LeaveReason;
use crate::chat::room::{Entrant, Role};
use crate::chat::user::{NodeId, SessionRef};
use crate::shard::Shard;
use crate::shard::backplane::{
    Append, BackplaneRequest, Failed, KnownSession, LogEntry, Position, RoomAt, RoomOp,
};
use crate::shard::home::not_a_member;
use crate::shard::journal::Asker;
use crate::shard::mail::{Join, Mail, Reply, ReplyTo, RoomKey};
use crate::shard::takeover::rooms_of;
use crate::shard::timers::Timer;

use super::{HandedOn, Local, Shared};

/// Sessions that have gone on elsewhere and are remembered, a room.
const MOVED_MAX: usize = 256;

/// Changes of which it is remembered whose they were, a room: what has been lost and given anew is found by that.
const RECENT_MAX: usize = 64;

/// Orders that are appended together, as one change.
const ORDERS_TOGETHER: usize = 256;

/// Something that is to happen in a room.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) op: RoomOp,
    /// Who is answered when it has happened; nobody, if that has been done.
    pub(super) asker: Option<(SessionRef, ReplyTo)>,
    /// A join's wishes.
    pub(super) join: Option<Box<(Join, Vec<Entry>)>>,
    /// What an attaching session would be told if it is no member any more.
    pub(super) name: Option<RoomName>,
}

impl RoomOp {
    /// Whether it may forbid somebody to speak who can now.
    pub(in crate::shard) fn is_guard(&self) -> bool {
        match self {
            RoomOp::Leave { .. }
            | RoomOp::Rename { .. }
            | RoomOp::SetRole { .. }
            | RoomOp::Moderate { .. }
            | RoomOp::ForgetNode { .. } => true,
            RoomOp::Join { .. }
            | RoomOp::Detach { .. }
            | RoomOp::Attach { .. }
            | RoomOp::SetState { .. }
            | RoomOp::LoseNode { .. } => false,
        }
    }

    /// The session of a node that it lets in.
    fn joins_on(&self, node: NodeId) -> Option<SessionRef> {
        match self {
            RoomOp::Join { session, .. } if session.node == node => Some(*session),
            _ => None,
        }
    }

    /// Whether it cannot be refused: it has happened already, and the room only has to hear of it.
    pub(in crate::shard) fn has_happened(&self) -> bool {
        !matches!(
            self,
            RoomOp::Join { .. } | RoomOp::SetState { .. } | RoomOp::SetRole { .. } | RoomOp::Moderate { .. }
        )
    }
}

impl Shard {
    /// Lets those be members again who are here and of whom the others think that they are not.
    fn return_locals(&mut self, key: Id) {
        let Some(entry) = self.home.rooms.get(key) else { return };
        let Some(shared) = &entry.shared else { return };
        let mut orders = Vec::new();
        let is_here = |local: &Local| local.handed_on.is_none() && local.left.is_none();
        for (session, local) in shared.locals.iter().filter(|(_, local)| is_here(local)) {
            let is_connected = entry.room.member(*session).map(|member| member.is_connected_in(*session));
            if is_connected.is_none() || (local.is_connected && is_connected == Some(false)) {
                let (nickname, is_admin) = (local.nickname.clone(), local.is_admin);
                orders.push(RoomOp::Join { session: *session, nickname, is_admin });
                if !local.is_connected {
                    orders.push(RoomOp::Detach { session: *session });
                }
            }
        }
        for op in orders {
            self.order(key, op, None);
        }
    }

    /// Lets those be members again who are here, and those no more who are not: what has replaced them is lost.
    pub(in crate::shard) fn compare_locals(&mut self, key: Id) {
        self.return_locals(key);
        let Some(entry) = self.home.rooms.get(key) else { return };
        let Some(shared) = &entry.shared else { return };
        let under_way = shared.appending.iter().flat_map(|(_, orders)| orders).chain(&shared.orders);
        let comes_or_goes = |session| {
            under_way.clone().any(|order| match &order.op {
                RoomOp::Join { session: one, .. }
                | RoomOp::Attach { session: one, .. }
                | RoomOp::Leave { session: one, .. } => *one == session,
                _ => false,
            })
        };
        let gone = entry.room.sessions_on(self.node).into_iter();
        let gone = gone.filter(|session| !shared.locals.contains_key(session) && !comes_or_goes(*session));
        for session in gone.collect::<Vec<_>>() {
            self.order(key, RoomOp::Leave { session, reason: LeaveReason::Timeout }, None);
        }
    }

    pub(super) fn order_attach(
        &mut self,
        from: SessionRef,
        reply_to: ReplyTo,
        key: Id,
        name: RoomName,
        old: SessionRef,
    ) {
        let Some(entry) = self.home.rooms.get_mut(key) else {
            let reply = Reply::NotAttached { room: key, name, reason: LeaveReason::Timeout };
            return self.reply_to_asker(Asker::Session(from, reply_to), reply);
        };
        entry.unlisten(old);
        if let Some(shared) = &mut entry.shared
            && let Some(local) = shared.locals.remove(&old).or_else(|| shared.recall_moved(old))
        {
            shared.locals.insert(from, Local { is_connected: true, ..local });
        }
        let op = RoomOp::Attach { old, session: from };
        self.push_order(key, Order { op, asker: Some((from, reply_to)), join: None, name: Some(name) });
    }

    /// Takes a session in, in its turn.
    pub(in crate::shard) fn order_join(
        &mut self,
        from: SessionRef,
        reply_to: ReplyTo,
        join: Join,
        older: Vec<Entry>,
    ) {
        let Some(key) = self.home.by_name.get(join.room.folded()).copied() else {
            let refusal = self.backplane_down();
            return self.reply_to_asker(Asker::Session(from, reply_to), Reply::Refused(refusal));
        };
        let op = RoomOp::Join { session: from, nickname: join.nickname.clone(), is_admin: join.is_admin };
        let join = Some(Box::new((join, older)));
        self.push_order(key, Order { op, asker: Some((from, reply_to)), join, name: None });
    }

    pub(in crate::shard) fn order(&mut self, key: Id, op: RoomOp, asker: Option<(SessionRef, ReplyTo)>) {
        self.push_order(key, Order { op, asker, join: None, name: None });
    }

    pub(super) fn push_order(&mut self, key: Id, mut order: Order) {
        let now = self.now.tick;
        let is_down = self.nodes.down.is_some();
        let Some(entry) = self.home.rooms.get_mut(key) else {
            if let Some((from, reply_to)) = order.asker {
                let reply = done_without(&order.op, None).unwrap_or(Reply::Refused(not_a_member()));
                self.reply_to_asker(Asker::Session(from, reply_to), reply);
            }
            return;
        };
        let name = entry.room.name().clone();
        // Of a draft nobody is asked, and nobody waits for what happens in it.
        let Some(shared) = entry.shared.as_mut().filter(|shared| !shared.is_draft) else { return };
        shared.used = now;
        let is_away = shared.is_away;
        if (is_down || is_away) && order.asker.is_some() {
            let (from, reply_to) = order.asker.take().expect("looked at above");
            let reply = match done_without(&order.op, Some(&name)) {
                Some(reply) => {
                    shared.orders.push_back(order);
                    entry.unlisten_if_left(&reply, from);
                    reply
                }
                None => Reply::Refused(self.backplane_down()),
            };
            self.reply_to_asker(Asker::Session(from, reply_to), reply);
            return self.try_room_again(key);
        }
        shared.orders.push_back(order);
        self.append_orders(key);
    }

    /// Sends the orders that wait, unless some are under way.
    pub(super) fn append_orders(&mut self, key: Id) {
        if self.nodes.down.is_some() {
            return;
        }
        let Some(entry) = self.home.rooms.get_mut(key) else { return };
        let at = entry.at();
        let Some(shared) = &mut entry.shared else { return };
        if shared.appending.is_none() && !shared.orders.is_empty() {
            self.nodes.next_tag += 1;
            let count = shared.orders.len().min(ORDERS_TOGETHER);
            shared.appending = Some((self.nodes.next_tag, shared.orders.drain(..count).collect()));
        } else {
            return;
        }
        self.send_appending(key, at);
    }

    pub(super) fn send_appending(&mut self, key: Id, at: RoomAt) {
        let Some(shared) = self.home.rooms.get(key).and_then(|entry| entry.shared.as_ref()) else { return };
        let Some((tag, orders)) = &shared.appending else { return };
        let ops: Vec<RoomOp> = orders.iter().map(|order| order.op.clone()).collect();
        let is_guard = ops.iter().any(RoomOp::is_guard);
        let append = Append { at, ops, tag: *tag, is_guard };
        self.ask_backplane(BackplaneRequest::Append(Box::new(append)));
    }

    /// The backplane says what became of a change. If it has its place it comes back by itself.
    pub(in crate::shard) fn hear_appended(
        &mut self,
        folded: &str,
        epoch: &str,
        tag: u64,
        outcome: Result<Position, Failed>,
    ) {
        let Some(key) = self.home.by_name.get(folded).copied() else { return };
        let entry = &mut self.home.rooms[key];
        if **entry.room.epoch() != *epoch {
            return; // it is appended again to what the room is now
        }
        let Some(shared) = &mut entry.shared else { return };
        if let Ok(position) = outcome {
            shared.known = shared.known.max(position);
        }
        shared.is_away &= outcome == Err(Failed::Down);
        if shared.appending.as_ref().is_none_or(|(appending, _)| *appending != tag) {
            return;
        }
        match outcome {
            // It is in the copy already, which was made anew meanwhile.
            Ok(position) if position.change <= shared.change => self.settle_orders(key),
            Ok(position) => {
                let change = position.change;
                shared.promised = Some((change, tag));
                self.look_at_early(key, |entry| match entry {
                    LogEntry::Change { position, .. } => position.change == change,
                    LogEntry::Message { .. } => false,
                });
            }
            Err(Failed::Down) => self.note_room_away(key),
            Err(Failed::Lost | Failed::Behind) => self.bring_up_to_date(key),
        }
    }

    /// The orders that were under way have been carried out, and nobody here has seen how: those who wait hear what has come of it.
    pub(super) fn settle_orders(&mut self, key: Id) {
        let entry = &mut self.home.rooms[key];
        let name = entry.room.name().clone();
        let Some(shared) = &mut entry.shared else { return };
        let Some((_, orders)) = shared.appending.take() else { return };
        for Order { op, asker, join, .. } in orders {
            let Some((from, reply_to)) = asker else { continue };
            let role = self.home.rooms[key].room.member(from).map(|member| member.role);
            let reply = match (op, join, role) {
                (RoomOp::Join { nickname, is_admin, .. }, Some(join), Some(role)) => {
                    let (join, older) = *join;
                    if let Some(shared) = &mut self.home.rooms[key].shared {
                        shared.locals.insert(from, Local::new(nickname, is_admin));
                    }
                    Reply::Joined(Box::new(self.introduce(key, from, role, join, older)))
                }
                (op, ..) => match done_without(&op, Some(&name)) {
                    Some(reply) => reply,
                    // What was decided is not known.
                    None => Reply::Refused(self.backplane_down()),
                },
            };
            self.reply_to_asker(Asker::Session(from, reply_to), reply);
        }
        self.append_orders(key);
    }

    /// Answers those who wait while the backplane, or the server that has the room, is down. What is under way stays: nobody knows whether
    /// it has its place.
    pub(in crate::shard) fn answer_orders(&mut self, key: Id) {
        let refusal = self.backplane_down();
        let Some(entry) = self.home.rooms.get_mut(key) else { return };
        let name = entry.room.name().clone();
        let Some(shared) = &mut entry.shared else { return };
        let mut answers = Vec::new();
        let is_kept = |order: &Order| order.op.has_happened() || order.asker.is_none();
        let (kept, mut given_up) = shared.orders.drain(..).partition(is_kept);
        shared.orders = kept; // what nobody has asked for would not be asked for again
        let under_way = shared.appending.iter_mut().flat_map(|(_, orders)| orders);
        for order in under_way.chain(&mut shared.orders).chain(&mut given_up) {
            if let Some((from, reply_to)) = order.asker.take() {
                let reply = done_without(&order.op, Some(&name));
                answers.push((from, reply_to, reply.unwrap_or_else(|| Reply::Refused(refusal.clone()))));
            }
        }
        // Messages that wait to be looked at again have no place, and will have none.
        let mut unsaid = Vec::new();
        shared.publishing.retain_mut(|publishing| {
            let is_sent = publishing.sent.is_some();
            unsaid.extend(publishing.asker.take_if(|_| !is_sent));
            is_sent
        });
        for asker in unsaid {
            self.counters.backplane_refused.add(1);
            self.reply_to_asker(asker, Reply::Refused(refusal.clone()));
        }
        for (from, reply_to, reply) in answers {
            self.home.rooms[key].unlisten_if_left(&reply, from);
            self.reply_to_asker(Asker::Session(from, reply_to), reply);
        }
    }

    pub(super) fn apply_change(&mut self, key: Id, change: u64, node: NodeId, tag: u64, ops: Vec<RoomOp>) {
        let Some(shared) = &mut self.home.rooms[key].shared else { return };
        shared.change = change;
        shared.recent.push_back((node, tag));
        if shared.recent.len() > RECENT_MAX {
            shared.recent.pop_front();
        }
        if ops.iter().any(RoomOp::is_guard) {
            shared.guard = change;
        }
        let is_mine = node == self.node && shared.appending.as_ref().is_some_and(|(mine, _)| *mine == tag);
        shared.has_own_change |= is_mine;
        let is_news = shared.is_news();
        let mut orders = match is_mine {
            true => shared.appending.take().map(|(_, orders)| orders).unwrap_or_default().into_iter(),
            false => Vec::new().into_iter(),
        };
        let joined: BTreeSet<SessionRef> = ops.iter().filter_map(|op| op.joins_on(self.node)).collect();
        for op in ops {
            let order = orders.next();
            if let RoomOp::Leave { session, reason } = op
                && is_news
            {
                self.note_left_before(key, node, session, reason);
            }
            self.carry_out_op(key, op, order);
        }
        // Now, and not at each: the same session may be awaited further on in the same change.
        for session in joined {
            self.undo_join(key, session);
        }
    }

    /// A session has left, as the node it was on then says. If it has come here meanwhile, this is news to it.
    fn note_left_before(&mut self, key: Id, node: NodeId, session: SessionRef, reason: LeaveReason) {
        if session.node == self.node && node != self.node {
            self.tell_left_before(key, session, reason);
        }
        if !matches!(reason, LeaveReason::Left | LeaveReason::Quit) {
            return;
        }
        // What is heard here may be behind: it may have come again before it went on here.
        for attaching in self.attaching(key, session) {
            if let Some(local) = self.home.rooms[key].local_mut(attaching) {
                local.left = Some(reason);
            }
        }
    }

    /// A session of this node has left a room where it was before it came here, which the room hears only now.
    fn tell_left_before(&mut self, key: Id, session: SessionRef, reason: LeaveReason) {
        self.send_room(key);
        let entry = &mut self.home.rooms[key];
        entry.unlisten(session);
        let (to, name) = (session.session, entry.room.name().clone());
        let room = RoomKey { home: self.core, key };
        self.post(session.core, Mail::Expelled { to, room, name, reason });
    }

    /// Does what an order says, and answers it if it is of this node.
    pub(super) fn carry_out_op(&mut self, key: Id, op: RoomOp, order: Option<Order>) {
        let (asker, join, name) =
            order.map_or((None, None, None), |order| (order.asker, order.join, order.name));
        let reply = match op {
            RoomOp::Join { session, nickname, is_admin } => {
                self.carry_out_join(key, Entrant { session, nickname, is_admin }, join, asker.is_some())
            }
            RoomOp::Leave { session, reason } => {
                // Whoever has left before what is known here, and come again, is here.
                if self.is_news(key) {
                    self.forget_local(key, session);
                }
                let room = self.home.rooms[key].room.name().clone();
                match self.leave_room(session, key, reason) {
                    // The room had lost it already: it has left all the same.
                    Reply::Refused(_) => Reply::Left { room, reason },
                    reply => reply,
                }
            }
            RoomOp::Detach { session } => {
                let reply = self.note_detached(session, key);
                // It has come back since that was ordered.
                if self.home.rooms[key].local_mut(session).is_some_and(|local| local.is_connected) {
                    self.return_locals(key);
                }
                reply
            }
            RoomOp::Attach { old, session } => self.carry_out_attach(key, old, session, name),
            RoomOp::Rename { session, nickname } => {
                if let Some(local) = self.home.rooms[key].local_mut(session) {
                    local.nickname = nickname.clone();
                }
                self.rename_member(session, key, nickname)
            }
            RoomOp::SetState { session, key: name, value } => self.set_state(session, key, &name, value),
            RoomOp::SetRole { session, target, role } => self.set_role(session, key, &target, role),
            RoomOp::Moderate { session, action, target, reason, seconds } => {
                self.moderate(session, key, action, &target, reason, seconds)
            }
            RoomOp::LoseNode { node } => {
                for session in self.home.rooms[key].room.sessions_on(node) {
                    self.note_detached(session, key);
                }
                if node == self.node {
                    self.compare_locals(key);
                }
                Reply::Noted
            }
            RoomOp::ForgetNode { node } => {
                self.forget_node(key, node);
                Reply::Noted
            }
        };
        if let Some((from, reply_to)) = asker {
            self.reply_to_asker(Asker::Session(from, reply_to), reply);
        }
    }

    pub(super) fn carry_out_join(
        &mut self,
        key: Id,
        entrant: Entrant,
        join: Option<Box<(Join, Vec<Entry>)>>,
        is_awaited: bool,
    ) -> Reply {
        let session = entrant.session;
        let (nickname, is_admin) = (entrant.nickname.clone(), entrant.is_admin);
        let entered = match self.enter_member(key, entrant) {
            Ok(entered) => entered,
            Err(refusal) => {
                self.forget_local(key, session);
                return Reply::Refused(refusal);
            }
        };
        if session.node != self.node {
            return Reply::Noted;
        }
        if let Some(join) = join.filter(|_| is_awaited) {
            let (join, older) = *join;
            if let Some(shared) = &mut self.home.rooms[key].shared {
                shared.locals.insert(session, Local::new(nickname, is_admin));
            }
            return Reply::Joined(Box::new(self.introduce(key, session, entered.role, join, older)));
        }
        Reply::Noted
    }

    /// Undoes a join that nobody awaits any more: whoever wanted it has been told that it failed, or has ended. One of those who are
    /// here only returns.
    fn undo_join(&mut self, key: Id, session: SessionRef) {
        let Some(entry) = self.home.rooms.get(key) else { return };
        let Some(shared) = &entry.shared else { return };
        let is_kept = shared.locals.contains_key(&session) || shared.joins_again(session);
        if !is_kept && entry.room.member(session).is_some() {
            self.order(key, RoomOp::Leave { session, reason: LeaveReason::Lost }, None);
        }
    }

    pub(super) fn carry_out_attach(
        &mut self,
        key: Id,
        old: SessionRef,
        session: SessionRef,
        name: Option<RoomName>,
    ) -> Reply {
        let now_ms = self.now.unix_ms;
        let before = self.home.rooms[key].room.member(old).map(|member| member.nickname.clone());
        if old.node == self.node && session.node != self.node {
            self.note_moved(key, old);
        }
        self.forget_local(key, old);
        // However often it has gone on elsewhere before this node hears of it.
        let left = self.has_left(key, old).filter(|_| session.node != self.node);
        let entry = &mut self.home.rooms[key];
        entry.unlisten(old);
        if old != session && entry.room.member(session).is_some() {
            // It has joined by itself meanwhile.
            self.leave_room(old, key, LeaveReason::Lost);
            return Reply::Noted;
        }
        match entry.room.attach(old, session) {
            Some(was_away) => {
                let member = entry.room.member(session).expect("it was attached");
                let (nickname, is_admin) = (member.nickname.clone(), member.is_admin());
                // What is only told again may be of somebody who has gone from here since, of which the backplane has lost word.
                if session.node == self.node
                    && let Some(shared) = &mut entry.shared
                    && (shared.replaying.is_none() || name.is_some())
                {
                    let local = shared.locals.entry(session);
                    local.or_insert_with(|| Local::new(nickname.clone(), is_admin));
                }
                // By whatever way it has come, it is here.
                if let Some(local) = entry.local_mut(session) {
                    (local.places, local.left) = (None, None);
                }
                if was_away {
                    self.tell_back(key, &nickname);
                }
                if let Some(reason) = left {
                    self.order(key, RoomOp::Leave { session, reason }, None);
                }
                Reply::Noted
            }
            None if let Some(reason) = entry.local_mut(session).and_then(|local| local.left) => {
                self.forget_local(key, session);
                self.tell_left_before(key, session, reason);
                Reply::Noted
            }
            // The room has lost it, not put it out: of that this node would know.
            None if let Some(local) = entry.local_mut(session) => {
                let (nickname, is_admin) = (local.nickname.clone(), local.is_admin);
                // Whoever had it meanwhile may have said so before this node did.
                let places = local.places.take();
                let room = &self.home.rooms[key].room;
                let meanwhile = places.iter().flat_map(|places| places.iter());
                let meanwhile = meanwhile.copied().find(|place| room.member(*place).is_some());
                let op = match meanwhile {
                    Some(old) => RoomOp::Attach { old, session },
                    None => RoomOp::Join { session, nickname, is_admin },
                };
                self.order(key, op, None);
                Reply::Noted
            }
            None => {
                let Some(name) = name else { return Reply::Noted };
                let is_banned = before
                    .is_some_and(|nickname| self.home.rooms[key].room.is_banned(nickname.folded(), now_ms));
                let reason = if is_banned { LeaveReason::Banned } else { LeaveReason::Kicked };
                Reply::NotAttached { room: key, name, reason }
            }
        }
    }

    /// A session of this node goes on elsewhere. Whoever has it here may not have heard of that, and come back meanwhile.
    fn note_moved(&mut self, key: Id, session: SessionRef) {
        let Some(shared) = &mut self.home.rooms[key].shared else { return };
        if let Some(local) = shared.locals.get(&session) {
            shared.moved.push_back((session, local.clone()));
            if shared.moved.len() > MOVED_MAX {
                shared.moved.pop_front();
            }
        }
    }

    /// Whether a session wanted to leave, which it was told it has, and the room does not know yet.
    fn has_left(&self, key: Id, leaver: SessionRef) -> Option<LeaveReason> {
        let shared = self.home.rooms.get(key)?.shared.as_ref()?;
        let under_way = shared.appending.iter().flat_map(|(_, orders)| orders).chain(&shared.orders);
        let mut reasons = under_way.filter_map(|order| match order.op {
            RoomOp::Leave { session, reason } if session == leaver => Some(reason),
            _ => None,
        });
        reasons.find(|reason| matches!(reason, LeaveReason::Left | LeaveReason::Quit))
    }

    /// The members of a lost node have had their time.
    pub(super) fn forget_node(&mut self, key: Id, node: NodeId) {
        let sessions = self.home.rooms[key].room.sessions_on(node);
        if sessions.is_empty() {
            return;
        }
        self.tell_presence_batch(key);
        let (departures, heir) = self.home.rooms[key].room.leave_together(&sessions);
        let members = self.home.rooms[key].room.len();
        let is_exact = members <= self.presence.exact_members;
        for departure in departures.into_iter().filter(|departure| departure.is_gone) {
            self.tell_gone(key, &departure.nickname, LeaveReason::Timeout, None, is_exact);
        }
        if let Some(heir) = heir {
            self.tell_role(key, &heir, Role::Host);
        }
        if node == self.node {
            self.compare_locals(key);
        }
    }

    /// Whether something of no session's is on its way to happen in a room.
    pub(in crate::shard) fn is_ordered(&self, key: Id, op: &RoomOp) -> bool {
        let Some(shared) = self.home.rooms.get(key).and_then(|entry| entry.shared.as_ref()) else {
            return true;
        };
        let under_way = shared.appending.iter().flat_map(|(_, orders)| orders);
        under_way.chain(&shared.orders).any(|order| order.op == *op)
    }

    /// A session has been given up to another node. If it is not heard of there in time, it has ended; should it be heard of later, it joins
    /// again. One that has been taken already may be of a node that does not reach the backplane now: it is waited for as long as for others
    /// of such a node, as long as there is such a session.
    pub(in crate::shard) fn hand_on_in(&mut self, key: Id, session: SessionRef, number: u64, is_taken: bool) {
        let (grace_ms, lease_ms) = (self.config.session.grace_ms, self.config.cluster.lease_ms);
        let until = self.now.tick + grace_ms + if is_taken { lease_ms } else { 0 };
        if let Some(local) = self.home.rooms.get_mut(key).and_then(|entry| entry.local_mut(session)) {
            (local.is_connected, local.handed_on) = (false, Some(HandedOn { number, until }));
            let look_at = if is_taken { self.now.tick + lease_ms } else { until };
            self.wheel.insert(look_at, Timer::HandedOn(key, session.core, session.session));
        }
    }

    /// Ends the membership of a session that was given up and has not been heard of elsewhere for long enough, or looks whether it has ended
    /// there. Where nobody could have said so, because the backplane was away until a moment ago, that is waited for.
    pub(in crate::shard) fn expire_handed_on(&mut self, key: Id, core: u16, session: Id) {
        let (now, lease_ms) = (self.now.tick, self.config.cluster.lease_ms);
        let since = if self.nodes.down.is_some() { Some(now) } else { self.nodes.back_at };
        let all_are_back_at = since.map_or(now, |since| since + lease_ms);
        let member = SessionRef { node: self.node, core, session };
        let Some(entry) = self.home.rooms.get_mut(key) else { return };
        let Some(HandedOn { number, until }) = entry.local_mut(member).and_then(|local| local.handed_on)
        else {
            return;
        };
        let again = if all_are_back_at > now {
            all_are_back_at
        } else if now >= until {
            return self.end_handed_on(key, member);
        } else {
            if entry.room.member(member).is_some_and(|found| found.is_connected_in(member)) {
                self.order(key, RoomOp::Detach { session: member }, None);
            }
            self.ask_backplane(BackplaneRequest::LookForSession { number, room: key, session: member });
            until.min(now + lease_ms)
        };
        self.wheel.insert(again, Timer::HandedOn(key, core, session));
    }

    /// What is known of a session that was given up. Where the other node could not take it back into this room, because the backplane was
    /// away, it is no member of it there, or one that has joined anew and may have left since: nobody will say that this one has gone.
    pub(in crate::shard) fn hear_session_known(
        &mut self,
        key: Id,
        session: SessionRef,
        known: &KnownSession,
    ) {
        let is_over = match known {
            KnownSession::Ended => true,
            KnownSession::OnItsWay => false,
            KnownSession::Kept { body } => {
                let Some(entry) = self.home.rooms.get(key) else { return };
                let is_this = |room: &String| {
                    RoomName::parse(room).is_ok_and(|room| room.folded() == entry.room.name().folded())
                };
                rooms_of(body).is_some_and(|rooms| !rooms.iter().any(is_this))
            }
        };
        if is_over {
            self.end_handed_on(key, session);
        }
    }

    fn end_handed_on(&mut self, key: Id, session: SessionRef) {
        let local = self.home.rooms.get_mut(key).and_then(|entry| entry.local_mut(session));
        if local.is_some_and(|local| local.handed_on.is_some()) {
            self.forget_local(key, session);
            self.order(key, RoomOp::Leave { session, reason: LeaveReason::Timeout }, None);
        }
    }

    /// Makes a session a member in the place of one of another node.
    pub(in crate::shard) fn return_member(
        &mut self,
        from: SessionRef,
        reply_to: ReplyTo,
        key: Id,
        places: &Arc<[SessionRef]>,
        echo: bool,
    ) {
        let entry = &mut self.home.rooms[key];
        let room = entry.room.name().clone();
        let is_shared = entry.shared.is_some();
        let known = places.iter().find_map(|place| Some((*place, entry.room.member(*place)?)));
        let Some((old, member)) = known.filter(|_| is_shared) else {
            // Put out, or taken for lost, meanwhile: it may join again. Or what is known here is behind that.
            self.note_stray(room.clone(), places.clone());
            let reply = Reply::Returned { room, key: None, echo };
            return self.reply_to_asker(Asker::Session(from, reply_to), reply);
        };
        let (nickname, is_admin) = (member.nickname.clone(), member.is_admin());
        if let Some(shared) = &mut entry.shared {
            let local = Local { places: Some(places.clone()), ..Local::new(nickname, is_admin) };
            shared.locals.insert(from, local);
        }
        self.order(key, RoomOp::Attach { old, session: from }, None);
        // Where else it may be still, it is no more.
        for other in places.iter().copied().filter(|place| *place != old) {
            if self.home.rooms[key].room.member(other).is_some() {
                self.order(key, RoomOp::Leave { session: other, reason: LeaveReason::Timeout }, None);
            }
        }
        let reply = Reply::Returned { room, key: Some(key), echo };
        self.reply_to_asker(Asker::Session(from, reply_to), reply);
    }

    /// A session has been put out that may be about to go on as one of this node.
    pub(in crate::shard) fn forget_attaching(&mut self, key: Id, expelled: SessionRef) {
        for session in self.attaching(key, expelled) {
            self.forget_local(key, session);
        }
    }

    /// Those of this node that are about to go on in the place of a session, or of one that is about to.
    pub(super) fn attaching(&self, key: Id, before: SessionRef) -> Vec<SessionRef> {
        let Some(shared) = self.home.rooms.get(key).and_then(|entry| entry.shared.as_ref()) else {
            return Vec::new();
        };
        let under_way = shared.appending.iter().flat_map(|(_, orders)| orders).chain(&shared.orders);
        let mut attaching = Vec::new();
        for order in under_way {
            if let RoomOp::Attach { old, session } = order.op
                && (old == before || attaching.contains(&old))
            {
                attaching.push(session);
            }
        }
        attaching
    }

    /// A session of this node is no member any more.
    pub(in crate::shard) fn forget_local(&mut self, key: Id, session: SessionRef) {
        if let Some(shared) = self.home.rooms.get_mut(key).and_then(|entry| entry.shared.as_mut()) {
            shared.locals.remove(&session);
        }
    }
}

impl Shared {
    /// What is known of a session that has gone on elsewhere, if it comes back here all the same.
    fn recall_moved(&mut self, session: SessionRef) -> Option<Local> {
        let index = self.moved.iter().position(|(moved, _)| *moved == session)?;
        self.moved.remove(index).map(|(_, local)| local)
    }
}

/// What is answered to something that cannot be refused, before the room has heard of it.
pub(super) fn done_without(op: &RoomOp, room: Option<&RoomName>) -> Option<Reply> {
    match op {
        RoomOp::Leave { reason, .. } => room.map(|room| Reply::Left { room: room.clone(), reason: *reason }),
        RoomOp::Detach { .. } | RoomOp::Attach { .. } => Some(Reply::Noted),
        RoomOp::Rename { .. } => Some(Reply::Done { times: 1 }),
        _ => None,
    }
}
