//! What a session hears back from the homes it asked.

use super::Shard;
use super::connection::{Pause, Stage};
use super::encode::Encoding;
use super::mail::{Joined, MemberEntry, Overdue, Reply, ReplyTo, Request, RoomEntry, RoomKey};
use super::session::{JoinOptions, Membership, Receipt, Step, Then};
use super::upgrade::PendingUpgrade;
use crate::base::slots::Id;
use crate::chat::history::Entry;
use crate::chat::inbox::Kept;
use crate::chat::name::{Nickname, RoomName};
use crate::chat::refusal::{LeaveReason, Refusal};
use crate::config::AckLevel;
use crate::proto::wire::{Ack, Event, HistoryMessage, Json, Member, RoomInfo, State, StateEntry};
use crate::record::Record;

impl Shard {
    pub(super) fn handle_reply(&mut self, to: Id, home: u16, reply_to: ReplyTo, reply: Reply) {
        let times = if let Reply::Done { times } = &reply { *times } else { 1 };
        self.return_window(home, times as usize);
        let session = self.sessions.get_mut(to).expect("a session stays until all its requests are answered");
        if reply.is_background() {
            session.background -= 1;
            if session.is_ending() {
                return self.go_on_ending(to);
            }
            self.hear_background(to, home, reply);
            return self.surrender_if_quiet(to);
        }
        session.under_way -= times;
        if session.is_ending() {
            self.hear_while_ending(to, home, reply);
            return self.go_on_ending(to);
        }
        let connection = session.connection;
        let step = if session.under_way == 0 {
            std::mem::replace(&mut session.step, Step::Idle)
        } else if let Step::Rename { .. } = session.step {
            return; // one of the rooms has heard of it, or is the session's no more, of which that is told by itself
        } else {
            Step::Idle
        };
        match (step, reply) {
            (Step::Resume { has_token, is_put_out, .. }, Reply::Surrendered(estate)) => {
                self.adopt(to, &reply_to, *estate, has_token);
                if is_put_out {
                    self.counters.put_out.add(1);
                    return self.put_session_out(to);
                }
            }
            (Step::Resume { nickname, then, .. }, Reply::Ended) => {
                return self.hear_ended(to, reply_to, *nickname, *then);
            }
            // No backplane can say whether there is still a session to go on from.
            (Step::Resume { then, .. }, Reply::Refused(refusal)) => {
                // Whoever waits to go on from this one learns no more than that: the session may live on elsewhere.
                if let Some(successor) = self.sessions[to].successor.take() {
                    self.refuse_successor(*successor, &refusal);
                }
                return self.turn_away(to, &reply_to, *then, refusal);
            }
            (step, Reply::Returned { room, key, echo }) => {
                if let Some(key) = key {
                    self.return_to_room(to, room, RoomKey { home, key }, echo);
                }
                if let Step::Return { reply_to } = step {
                    self.finish_adoption(to, &reply_to);
                }
            }
            (Step::Return { reply_to }, Reply::Refused(_)) => self.finish_adoption(to, &reply_to),
            (Step::Hello { then }, Reply::Claimed { nickname, registered }) => {
                self.sessions[to].nickname = Some(nickname.clone());
                self.note_inbox(to, registered);
                self.welcome(to, &reply_to, nickname, *then)
            }
            (Step::Hello { then }, Reply::Refused(refusal)) => {
                return self.turn_away(to, &reply_to, *then, refusal);
            }
            (Step::Nick, Reply::Claimed { nickname, .. }) => self.change_nickname(to, reply_to, nickname),
            (Step::Rename { reply_to }, _) => self.finish_rename(to, reply_to),
            (Step::Join { options, leave, then }, Reply::Joined(joined)) => {
                self.enter_room(to, home, &reply_to, options, *joined, *then);
                if let Some(room) = leave {
                    self.leave_second_half(to, &room);
                }
            }
            (Step::Join { then, .. }, Reply::Refused(refusal)) => {
                self.refuse_hello(to, &reply_to, *then, refusal);
            }
            (Step::Leave { is_told }, Reply::Left { room, reason }) => {
                self.leave_membership(to, &room);
                if is_told {
                    let event =
                        Event::Left { id: reply_to.id(), room: room.as_str(), reason: reason.as_str() };
                    self.reply(connection, &reply_to, &event);
                }
            }
            // The second half of a switch, out of a room that the session has been put out of meanwhile.
            (Step::Leave { is_told: false }, Reply::Refused(_)) => {}
            (Step::Rooms { refusal: Some(refusal), .. }, Reply::Rooms { .. })
            | (Step::Broadcast { refusal: Some(refusal), .. }, Reply::Heard { .. }) => {
                if let Some(connection) = connection {
                    self.refuse_later(connection, &reply_to, &refusal);
                }
            }
            (Step::Rooms { mut found, limit, .. }, Reply::Rooms { rooms }) => {
                found.extend(rooms);
                self.say_rooms(connection, &reply_to, found, limit);
            }
            (_, Reply::Rooms { rooms }) => {
                if let Some(Step::Rooms { found, .. }) = self.sessions.get_mut(to).map(|s| &mut s.step) {
                    found.extend(rooms);
                }
            }
            (Step::Broadcast { sessions: before, refusal: None }, Reply::Heard { sessions }) => {
                let sessions = Some(before + sessions);
                self.acknowledge_later(connection, &reply_to, Ack { sessions, ..Ack::default() });
            }
            (_, Reply::Heard { sessions: heard }) => {
                if let Some(Step::Broadcast { sessions, .. }) = self.sessions.get_mut(to).map(|s| &mut s.step)
                {
                    *sessions += heard;
                }
            }
            // The other cores of this node have not answered yet: there is one answer for all.
            (_, Reply::Refused(refused))
                if matches!(self.sessions[to].step, Step::Broadcast { .. } | Step::Rooms { .. }) =>
            {
                if let Step::Broadcast { refusal, .. } | Step::Rooms { refusal, .. } =
                    &mut self.sessions[to].step
                {
                    *refusal = Some(Box::new(refused));
                }
            }
            (_, Reply::Published { room, epoch, stamp, level }) => {
                self.finish_remembered(to, reply_to, Receipt::Published { room, epoch, stamp, level });
            }
            (_, Reply::Overdue(overdue)) => {
                let Overdue { room, epoch, stamp, refusal } = *overdue;
                if let (Some(id), Some(remembered)) = (reply_to.id(), &mut self.sessions[to].remembered) {
                    let level = AckLevel::Sequenced;
                    remembered.finish(id, Receipt::Published { room, epoch, stamp, level });
                }
                if let Some(connection) = connection {
                    self.refuse_later(connection, &reply_to, &refusal);
                }
            }
            (_, Reply::Delivered { target, sessions, is_stored, timestamp_ms }) => {
                let receipt = Receipt::Delivered { target, sessions, is_stored, timestamp_ms };
                self.finish_remembered(to, reply_to, receipt);
            }
            (_, Reply::Done { .. }) => self.acknowledge_later(connection, &reply_to, Ack::default()),
            (_, Reply::StateSet { room, key, version }) => {
                let (room, key) = (Some(room.as_str()), Some(&*key));
                let ack = Ack { room, key, version: Some(version), ..Ack::default() };
                self.acknowledge_later(connection, &reply_to, ack);
            }
            (_, Reply::State { room, key, value }) => {
                if let Some(connection) = connection {
                    self.say_state(connection, &room, key, value.as_deref());
                }
            }
            (_, Reply::Members { room, total, members }) => {
                self.say_members(connection, &reply_to, &room, total, &members)
            }
            (_, Reply::History { room, epoch, messages }) => {
                let messages = history_messages(&messages);
                let event = Event::History {
                    id: reply_to.id(),
                    room: room.as_str(),
                    epoch: &epoch,
                    messages: &messages,
                };
                self.reply(connection, &reply_to, &event);
            }
            (_, Reply::Refused(refusal)) => {
                if let Some(id) = reply_to.id() {
                    self.sessions[to].forget_id(id); // errors are not remembered
                }
                if let Some(connection) = connection {
                    self.refuse_later(connection, &reply_to, &refusal);
                }
            }
            (_, Reply::Released) => {}
            (step, reply) => unreachable!("{reply:?} in answer to {step:?}"),
        }
        self.let_go_on_if_due(to);
        self.surrender_if_quiet(to);
    }

    /// A session that came from another node is a member of a room again.
    fn return_to_room(&mut self, id: Id, room: RoomName, key: RoomKey, echo: bool) {
        self.sessions[id].memberships.push(Membership { room, key, echo, position: None });
    }

    /// An answer to what the session asked by itself.
    fn hear_background(&mut self, id: Id, home: u16, reply: Reply) {
        match reply {
            Reply::Replayed { room, after, page } => {
                self.take_page(id, RoomKey { home, key: room }, after, page);
            }
            Reply::NotAttached { room, name, reason } => {
                self.hear_expelled(id, RoomKey { home, key: room }, &name, reason);
            }
            Reply::Reclaimed { registered } => self.note_inbox(id, registered),
            _ => {}
        }
    }

    /// A session is no longer in a room, by a host's decision.
    pub(super) fn hear_expelled(&mut self, id: Id, key: RoomKey, room: &RoomName, reason: LeaveReason) {
        let Some(session) = self.sessions.get(id) else { return };
        if !session.memberships.iter().any(|m| m.key == key) {
            return;
        }
        // If there is no place to keep it, the next join tells.
        self.tell_user(id, Kept::Expelled { room: room.clone(), reason });
        self.leave_membership(id, room);
    }

    /// The session that a hello wanted to resume has ended.
    fn hear_ended(&mut self, id: Id, reply_to: ReplyTo, nickname: Nickname, then: Then) {
        // Somebody else may have wanted to continue it after this session did, and hears the same.
        if self.sessions[id].connection.is_none() {
            return self.end_session(id, LeaveReason::Lost, None);
        }
        self.begin_anew(id, reply_to, nickname, then);
    }

    /// A hello is refused: there is no session.
    fn turn_away(&mut self, id: Id, reply_to: &ReplyTo, then: Then, refusal: Refusal) {
        let connection = self.sessions[id].connection.take();
        self.end_session(id, LeaveReason::Lost, None);
        let Some(connection) = connection else { return };
        let now = self.now.tick;
        let state = self.connections.get_mut(connection).expect("it says hello");
        state.session = None;
        // It may try again in the time that it had left: nothing has been read from it since the hello.
        state.awaited_since = state.awaited_since + now.since(state.last_seen);
        match then.upgrade {
            Some(upgrade) => self.refuse_upgrade(connection, &upgrade, &refusal),
            None => {
                self.refuse_later(connection, reply_to, &refusal);
                self.ask_for_nickname(connection);
            }
        }
        self.let_go_on(connection);
        self.arm(connection);
    }

    /// Requests that were under way when the session began to end may have changed something that has to be undone.
    fn hear_while_ending(&mut self, id: Id, home: u16, reply: Reply) {
        match reply {
            Reply::Joined(joined) => self.leave_unentered(id, RoomKey { home, key: joined.key }),
            Reply::Left { room, .. } => self.leave_membership(id, &room),
            Reply::Claimed { nickname, .. } => match &self.sessions[id].nickname {
                // The end of the session releases the nickname it has.
                None => self.sessions[id].nickname = Some(nickname),
                Some(held) if *held == nickname => {}
                Some(_) => self.release(id, nickname, 0),
            },
            Reply::Returned { key: Some(key), .. } => self.leave_unentered(id, RoomKey { home, key }),
            Reply::Surrendered(estate) => {
                self.take_estate(id, *estate, false);
                let rooms: Vec<RoomKey> = self.sessions[id].memberships.drain(..).map(|m| m.key).collect();
                for key in rooms {
                    self.leave_unentered(id, key);
                }
            }
            _ => {}
        }
    }

    fn leave_unentered(&mut self, id: Id, key: RoomKey) {
        let request = Request::Leave { room: key.key, reason: LeaveReason::Lost, is_listening: false };
        self.request(id, key.home, ReplyTo::default(), request);
    }

    pub(super) fn join_after_hello(
        &mut self,
        id: Id,
        reply_to: &ReplyTo,
        room: RoomName,
        upgrade: Option<Box<PendingUpgrade>>,
    ) {
        let echo = self.sessions[id].encoding != Encoding::Text;
        let options = JoinOptions { echo, skips: false };
        let refusal = self.refusal_to_enter(id, &room);
        let then = Then { room: None, upgrade };
        if let Some(refusal) = refusal {
            return self.refuse_hello(id, reply_to, then, refusal);
        }
        let request = self.plain_join(id, room);
        let reply_to = ReplyTo { id: None, encoding: reply_to.encoding };
        self.ask_to_join(id, reply_to, Step::Join { options, leave: None, then: Box::new(then) }, request);
    }

    fn refusal_to_enter(&self, id: Id, room: &RoomName) -> Option<Refusal> {
        let may_enter = self.sessions[id].may_enter(room);
        (!may_enter).then(super::commands::not_for_this_room)
    }

    fn enter_room(
        &mut self,
        id: Id,
        home: u16,
        reply_to: &ReplyTo,
        options: JoinOptions,
        joined: Joined,
        then: Then,
    ) {
        let key = RoomKey { home, key: joined.key };
        let room = joined.room.clone();
        let memberships = &mut self.sessions[id].memberships;
        // Whoever joins again after a resume has the room at the end of the list, as one just joined.
        memberships.retain(|m| m.key != key);
        memberships.push(Membership { room, key, echo: options.echo, position: None });
        self.write_session(id);
        let expelled = self.sessions[id].inbox.as_mut().and_then(|inbox| inbox.take_expelled(&joined.room));
        let Some(connection) = self.sessions[id].connection else {
            // The connection broke while the room was asked, which takes the member for connected.
            return self.ask(id, home, Request::Detach { room: joined.key });
        };
        if let Some(upgrade) = then.upgrade {
            self.finish_upgrade(connection, &upgrade);
            self.say_welcome(id, &ReplyTo::default(), false);
        }
        // It may wait behind much that is to be told, and comes before what follows here.
        if let Some(expelled) = expelled {
            self.say_kept(connection, &expelled);
            self.note_told(connection, expelled);
        }
        let messages = joined.messages.as_ref().map(|messages| history_messages(messages));
        let state: Vec<StateEntry> = joined
            .state
            .iter()
            .map(|(key, value, version)| StateEntry { key, value: Json(value), version: *version })
            .collect();
        let event = Event::Joined {
            id: reply_to.id(),
            room: joined.room.as_str(),
            epoch: &joined.epoch,
            offset: joined.offset,
            role: joined.role.as_str(),
            members: joined.members,
            state: State(&state),
            messages: messages.as_deref(),
            recovered: joined.recovered,
        };
        self.reply(Some(connection), reply_to, &event);
        self.go_on_telling(connection); // what came while its request was not answered yet
        self.listen_in(id, connection, key, &joined.epoch, options.skips, joined.replay);
    }

    /// A hello, or the join that came with it, was refused.
    fn refuse_hello(&mut self, id: Id, reply_to: &ReplyTo, then: Then, refusal: Refusal) {
        let Some(connection) = self.sessions[id].connection else { return };
        match then.upgrade {
            Some(upgrade) => self.refuse_upgrade_after_session(connection, upgrade, refusal),
            None => self.refuse_later(connection, reply_to, &refusal),
        }
    }

    fn leave_second_half(&mut self, id: Id, room: &RoomName) {
        let session = &mut self.sessions[id];
        let Some(key) = session.membership(room.as_str()).map(|m| m.key) else { return };
        session.step = Step::Leave { is_told: false };
        let is_listening = session.connection.is_some();
        let request = Request::Leave { room: key.key, reason: LeaveReason::Left, is_listening };
        self.request(id, key.home, ReplyTo::default(), request);
    }

    pub(super) fn leave_membership(&mut self, id: Id, room: &RoomName) {
        let session = &mut self.sessions[id];
        let Some(index) = session.memberships.iter().position(|m| m.room == *room) else { return };
        let membership = session.memberships.remove(index);
        self.write_session(id);
        if let Some(position) = membership.position {
            self.stop_listening(membership.key, position);
        }
    }

    fn change_nickname(&mut self, id: Id, reply_to: ReplyTo, nickname: Nickname) {
        let session = &mut self.sessions[id];
        let old = session.nickname.replace(nickname.clone()).expect("renamed after the hello");
        session.former = (old != nickname).then(|| Box::new(old));
        self.write_session(id);
        let session = &mut self.sessions[id];
        let rooms: Vec<RoomKey> = session.memberships.iter().map(|m| m.key).collect();
        session.step = Step::Rename { reply_to };
        for RoomKey { home, key } in rooms {
            let request = Request::Rename { room: key, nickname: nickname.clone() };
            self.request(id, home, ReplyTo::default(), request);
        }
        if self.sessions[id].under_way == 0
            && let Step::Rename { reply_to } = std::mem::replace(&mut self.sessions[id].step, Step::Idle)
        {
            self.finish_rename(id, reply_to);
        }
    }

    /// All rooms know the new nickname: the old one is released, and when that is done too, the user is told.
    fn finish_rename(&mut self, id: Id, reply_to: ReplyTo) {
        let session = &mut self.sessions[id];
        if let Some(former) = session.former.take() {
            session.step = Step::Rename { reply_to };
            self.release(id, *former, 0);
        } else {
            self.confirm_nickname(id, &reply_to);
        }
    }

    fn confirm_nickname(&mut self, id: Id, reply_to: &ReplyTo) {
        let session = &self.sessions[id];
        let connection = session.connection;
        match connection {
            Some(connection) if session.encoding == Encoding::Text => {
                let nickname = session.nickname.clone().expect("it has just been given");
                self.say_own_nickname(connection, nickname.as_str());
            }
            _ => self.acknowledge_later(connection, reply_to, Ack::default()),
        }
    }

    /// Answers a message, and remembers the answer by the command's id.
    fn finish_remembered(&mut self, id: Id, reply_to: ReplyTo, receipt: Receipt) {
        let Some(command) = reply_to.id() else { return };
        if let Receipt::Delivered { target, sessions, is_stored, timestamp_ms } = &receipt
            && self.sessions[id].is_durable()
            && !command.is_empty()
        {
            let session = self.sessions[id].number;
            let (timestamp_ms, target) = (*timestamp_ms, target.as_str());
            let (delivered, stored) = (*sessions, *is_stored);
            self.write_down(&Record::Receipt {
                session,
                id: command,
                timestamp_ms,
                target,
                delivered,
                stored,
            });
        }
        let session = &mut self.sessions[id];
        if let Some(remembered) = &mut session.remembered {
            remembered.finish(command, receipt.clone());
        }
        let connection = session.connection;
        self.say_receipt(connection, &reply_to, &receipt);
    }

    fn acknowledge_later(&mut self, connection: Option<Id>, reply_to: &ReplyTo, ack: Ack) {
        if let Some(id) = reply_to.id() {
            self.reply(connection, reply_to, &Event::Ack(Ack { id: Some(id), ..ack }));
        }
    }

    fn say_members(
        &mut self,
        connection: Option<Id>,
        reply_to: &ReplyTo,
        room: &RoomName,
        total: u64,
        members: &[MemberEntry],
    ) {
        let members = listed_members(members);
        let event = Event::Members { id: reply_to.id(), room: room.as_str(), total, members: &members };
        self.reply(connection, reply_to, &event);
    }

    fn say_rooms(
        &mut self,
        connection: Option<Id>,
        reply_to: &ReplyTo,
        mut found: Vec<RoomEntry>,
        limit: usize,
    ) {
        found.sort_by(|a, b| a.room.folded().cmp(b.room.folded()));
        found.truncate(limit);
        let rooms = listed_rooms(&found);
        self.reply(connection, reply_to, &Event::Rooms { id: reply_to.id(), rooms: &rooms });
    }

    /// Lets a connection that waits for replies go on, when enough of them have come.
    fn let_go_on_if_due(&mut self, session: Id) {
        let Some(session) = self.sessions.get(session) else { return };
        let half = self.limits.commands_in_flight as u32 / 2;
        if let Some(connection) = session.connection
            && (session.is_idle() || (session.under_way == half && matches!(session.step, Step::Idle)))
        {
            self.let_go_on(connection);
        }
    }

    pub(super) fn let_go_on(&mut self, id: Id) {
        if let Some(connection) = self.connections.get_mut(id)
            && connection.stage == Stage::Open
            && connection.pause == Some(Pause::Reply)
        {
            connection.pause = None;
            self.resumable.push_back(id);
        }
    }

    /// Commands to a core have been answered: lets those go on who waited for that.
    pub(super) fn return_window(&mut self, home: u16, times: usize) {
        let window = &mut self.window[usize::from(home)];
        let before = *window;
        *window -= times;
        let half = self.limits.peer_window / 2;
        if before > half && *window <= half && !self.window_waiters.is_empty() {
            let mut waiters = std::mem::take(&mut self.window_waiters);
            waiters.retain(|id| {
                let Some(connection) = self.connections.get_mut(*id) else { return false };
                match connection.pause {
                    Some(Pause::Window(core)) if core == home => {
                        connection.pause = None;
                        self.resumable.push_back(*id);
                        false
                    }
                    Some(Pause::Window(_)) => true,
                    _ => false,
                }
            });
            self.window_waiters = waiters;
        }
    }
}

pub(super) fn history_messages(entries: &[Entry]) -> Vec<HistoryMessage<'_>> {
    entries
        .iter()
        .map(|entry| HistoryMessage {
            sender: entry.sender.as_str(),
            content: &entry.content,
            offset: entry.offset,
            timestamp: entry.timestamp_ms,
        })
        .collect()
}

pub(super) fn listed_members(members: &[MemberEntry]) -> Vec<Member<'_>> {
    members
        .iter()
        .map(|member| Member {
            nickname: member.nickname.as_str(),
            role: member.role.as_str(),
            connected: member.is_connected,
            last_active: member.last_active_ms,
        })
        .collect()
}

pub(super) fn listed_rooms(rooms: &[RoomEntry]) -> Vec<RoomInfo<'_>> {
    rooms
        .iter()
        .map(|entry| RoomInfo { room: entry.room.as_str(), members: entry.members, offset: entry.offset })
        .collect()
}
