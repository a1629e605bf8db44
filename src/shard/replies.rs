//! What a session hears back from the homes it asked.

use super::Shard;
use super::connection::{Pause, Stage};
use super::encode::Encoding;
use super::mail::{CommandId, Joined, MemberEntry, Reply, Request, RoomEntry};
use super::session::{Membership, Step, Then};
use crate::base::slots::Id;
use crate::chat::name::{Nickname, RoomName};
use crate::chat::refusal::{LeaveReason, Refusal};
use crate::proto::wire::{Ack, Event, Member, RoomInfo, State};

impl Shard {
    pub(super) fn handle_reply(&mut self, to: Id, home: u16, id: CommandId, reply: Reply) {
        let times = if let Reply::Done { times } = &reply { *times } else { 1 };
        self.return_window(home, times as usize);
        let session = self.sessions.get_mut(to).expect("a session stays until all its requests are answered");
        session.under_way -= times;
        if session.is_ending() {
            self.hear_while_ending(to, home, reply);
            return self.go_on_ending(to);
        }
        let Some(connection) = session.connection else { return };
        let step = if session.under_way == 0 {
            std::mem::replace(&mut session.step, Step::Idle)
        } else {
            Step::Idle
        };
        let command = id.as_deref();
        match (step, reply) {
            (Step::Hello { id, then }, Reply::Claimed { nickname }) => {
                self.welcome(to, connection, id, nickname, then)
            }
            (Step::Hello { id, then }, Reply::Refused(refusal)) => {
                self.sessions.remove(to);
                self.connections.get_mut(connection).expect("it says hello").session = None;
                self.refuse_hello(connection, id.as_deref(), then, refusal);
                self.let_go_on(connection);
                return;
            }
            (Step::Nick { id }, Reply::Claimed { nickname }) => {
                self.change_nickname(to, connection, id, nickname)
            }
            (Step::Nick { id }, Reply::Refused(refusal)) => self.refuse(connection, id.as_deref(), &refusal),
            (Step::Rename { id }, _) => self.finish_rename(to, connection, id),
            (Step::Join { echo, leave, then }, Reply::Joined(joined)) => {
                self.enter_room(to, connection, home, command, echo, *joined, then);
                if let Some(room) = leave {
                    self.leave_second_half(to, &room);
                }
            }
            (Step::Join { then, .. }, Reply::Refused(refusal)) => {
                self.refuse_hello(connection, command, then, refusal);
            }
            (Step::Leave { is_told }, Reply::Left { room, reason }) => {
                self.leave_membership(to, &room);
                if is_told {
                    let event = Event::Left { id: command, room: room.as_str(), reason: reason.as_str() };
                    self.say(connection, &event);
                }
            }
            (Step::Rooms { awaited, limit, mut found }, Reply::Rooms { rooms }) => {
                found.extend(rooms);
                debug_assert_eq!(awaited, self.cores() as u16);
                self.say_rooms(connection, command, found, limit);
            }
            (_, Reply::Rooms { rooms }) => {
                if let Some(Step::Rooms { found, .. }) = self.sessions.get_mut(to).map(|s| &mut s.step) {
                    found.extend(rooms);
                }
            }
            (_, Reply::Published { room, epoch, stamp }) if command.is_some() => self.acknowledge(
                connection,
                Ack {
                    id: command,
                    room: Some(room.as_str()),
                    epoch: Some(&epoch),
                    offset: Some(stamp.offset),
                    timestamp: Some(stamp.timestamp_ms),
                    level: Some("sequenced"),
                    ..Ack::default()
                },
            ),
            (_, Reply::Delivered { target, sessions, timestamp_ms }) if command.is_some() => self
                .acknowledge(
                    connection,
                    Ack {
                        id: command,
                        target: Some(target.as_str()),
                        delivered: Some(sessions),
                        stored: Some(false),
                        timestamp: Some(timestamp_ms),
                        ..Ack::default()
                    },
                ),
            (_, Reply::Done { .. }) if command.is_some() => {
                self.acknowledge(connection, Ack { id: command, ..Ack::default() });
            }
            (_, Reply::Members { room, total, members }) => {
                self.say_members(connection, command, &room, total, &members)
            }
            (_, Reply::Refused(refusal)) => self.refuse(connection, command, &refusal),
            (_, Reply::Published { .. } | Reply::Delivered { .. } | Reply::Done { .. } | Reply::Released) => {
            }
            (step, reply) => unreachable!("{reply:?} in answer to {step:?}"),
        }
        self.let_go_on_if_due(to, connection);
    }

    /// Requests that were under way when the session began to end may have changed something that has to be undone.
    fn hear_while_ending(&mut self, id: Id, home: u16, reply: Reply) {
        match reply {
            Reply::Joined(joined) => {
                let encoding = self.sessions[id].encoding;
                let (room, reason) = (joined.key, LeaveReason::Lost);
                let request = Request::Leave { room, encoding, reason, is_listening: false };
                self.request(id, home, None, request);
            }
            Reply::Left { room, .. } => self.leave_membership(id, &room),
            Reply::Claimed { nickname } => match &self.sessions[id].nickname {
                // The end of the session releases the nickname it has.
                None => self.sessions[id].nickname = Some(nickname),
                Some(held) if *held == nickname => {}
                Some(_) => self.release(id, nickname),
            },
            _ => {}
        }
    }

    fn welcome(&mut self, id: Id, connection: Id, command: CommandId, nickname: Nickname, then: Then) {
        let session = &mut self.sessions[id];
        session.nickname = Some(nickname);
        if let Some(room) = then.room.clone() {
            // A WebSocket request is answered when all that it asks for has been decided.
            if then.upgrade.is_none() {
                self.say_welcome(id, connection, command.as_deref());
            }
            let echo = self.sessions[id].encoding != Encoding::Text;
            let step = Step::Join { echo, leave: None, then };
            self.ask_to_join(id, None, room, step, None, false);
        } else {
            if let Some(upgrade) = then.upgrade {
                self.finish_upgrade(connection, &upgrade);
            }
            self.say_welcome(id, connection, command.as_deref());
        }
        self.arm(connection);
    }

    fn say_welcome(&mut self, id: Id, connection: Id, command: Option<&str>) {
        let nickname = self.sessions[id].nickname.clone().expect("welcomed by name");
        let session = format!("{:016x}", self.rng.next_u64());
        let event = Event::Welcome {
            id: command,
            nickname: nickname.as_str(),
            session: &session,
            resume: "",
            resumed: false,
            heartbeat_ms: self.config.heartbeat.probe_ms,
            timeout_ms: self.config.heartbeat.timeout_ms,
            server: super::SERVER,
        };
        self.say(connection, &event);
    }

    #[allow(clippy::too_many_arguments)]
    fn enter_room(
        &mut self,
        id: Id,
        connection: Id,
        home: u16,
        command: Option<&str>,
        echo: bool,
        joined: Joined,
        then: Then,
    ) {
        let position = self.listen_in((home, joined.key), connection, id);
        let room = joined.room.clone();
        self.sessions[id].memberships.push(Membership { room, home, key: joined.key, echo, position });
        if let Some(upgrade) = then.upgrade {
            self.finish_upgrade(connection, &upgrade);
            self.say_welcome(id, connection, None);
        }
        let event = Event::Joined {
            id: command,
            room: joined.room.as_str(),
            epoch: &joined.epoch,
            offset: joined.offset,
            role: joined.role.as_str(),
            members: joined.members,
            state: State::default(),
            messages: joined.wants_history.then_some(&[]),
            recovered: joined.recovered,
        };
        self.say(connection, &event);
    }

    /// A hello, or the join that came with it, was refused.
    fn refuse_hello(&mut self, connection: Id, command: Option<&str>, then: Then, refusal: Refusal) {
        match then.upgrade {
            Some(upgrade) => self.refuse_upgrade_after_session(connection, upgrade, refusal),
            None => self.refuse(connection, command, &refusal),
        }
    }

    fn leave_second_half(&mut self, id: Id, room: &RoomName) {
        let session = &mut self.sessions[id];
        let Some(membership) = session.membership(room.as_str()).cloned() else { return };
        let encoding = session.encoding;
        session.step = Step::Leave { is_told: false };
        let (room, reason) = (membership.key, LeaveReason::Left);
        let request = Request::Leave { room, encoding, reason, is_listening: true };
        self.request(id, membership.home, None, request);
    }

    fn leave_membership(&mut self, id: Id, room: &RoomName) {
        let session = &mut self.sessions[id];
        let Some(index) = session.memberships.iter().position(|m| m.room == *room) else { return };
        let membership = session.memberships.remove(index);
        self.stop_listening((membership.home, membership.key), membership.position);
    }

    fn change_nickname(&mut self, id: Id, connection: Id, command: CommandId, nickname: Nickname) {
        let session = &mut self.sessions[id];
        let old = session.nickname.replace(nickname.clone()).expect("renamed after the hello");
        session.former = (old != nickname).then_some(old);
        let memberships: Vec<(u16, Id)> = session.memberships.iter().map(|m| (m.home, m.key)).collect();
        session.step = Step::Rename { id: command };
        for (home, room) in memberships {
            self.request(id, home, None, Request::Rename { room, nickname: nickname.clone() });
        }
        if self.sessions[id].under_way == 0
            && let Step::Rename { id: command } = std::mem::replace(&mut self.sessions[id].step, Step::Idle)
        {
            self.finish_rename(id, connection, command);
        }
    }

    /// All rooms know the new nickname: the old one is released, and when that is done too, the user is told.
    fn finish_rename(&mut self, id: Id, connection: Id, command: CommandId) {
        let session = &mut self.sessions[id];
        if let Some(former) = session.former.take() {
            session.step = Step::Rename { id: command };
            self.release(id, former);
        } else {
            self.confirm_nickname(id, connection, command);
        }
    }

    fn confirm_nickname(&mut self, id: Id, connection: Id, command: CommandId) {
        if self.sessions[id].encoding == Encoding::Text {
            let nickname = self.sessions[id].nickname.clone().expect("it has just been given");
            self.say_own_nickname(connection, nickname.as_str());
        } else if command.is_some() {
            self.acknowledge(connection, Ack { id: command.as_deref(), ..Ack::default() });
        }
    }

    fn say_members(
        &mut self,
        id: Id,
        command: Option<&str>,
        room: &RoomName,
        total: u64,
        members: &[MemberEntry],
    ) {
        let members: Vec<Member> = members
            .iter()
            .map(|member| Member {
                nickname: member.nickname.as_str(),
                role: member.role.as_str(),
                connected: true,
                last_active: member.last_active_ms,
            })
            .collect();
        self.say(id, &Event::Members { id: command, room: room.as_str(), total, members: &members });
    }

    fn say_rooms(&mut self, id: Id, command: Option<&str>, mut found: Vec<RoomEntry>, limit: usize) {
        found.sort_by(|a, b| a.room.folded().cmp(b.room.folded()));
        found.truncate(limit);
        let rooms: Vec<RoomInfo> = found
            .iter()
            .map(|entry| RoomInfo { room: entry.room.as_str(), members: entry.members, offset: entry.offset })
            .collect();
        self.say(id, &Event::Rooms { id: command, rooms: &rooms });
    }

    /// Lets a connection that waits for replies go on, when enough of them have come.
    fn let_go_on_if_due(&mut self, session: Id, connection: Id) {
        let Some(session) = self.sessions.get(session) else { return };
        let half = self.limits.commands_in_flight as u32 / 2;
        if session.is_idle() || (session.under_way == half && matches!(session.step, Step::Idle)) {
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
    fn return_window(&mut self, home: u16, times: usize) {
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
