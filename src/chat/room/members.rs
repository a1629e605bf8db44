//! Who is in a room.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashMap;

use super::moderation::Role;
use super::{LOBBY, Room};
use crate::base::slots::{Id, Slots};
use crate::chat::name::Nickname;
use crate::chat::refusal::Refusal;
use crate::chat::user::SessionRef;

/// One member of a room: a user.
#[derive(Debug, Clone)]
pub struct Member {
    /// The nickname, as its owner spells it.
    pub nickname: Nickname,
    /// The role.
    pub role: Role,
    /// Whether the user may do everything, here too.
    pub is_admin: bool,
    /// When the member last did something here, in milliseconds since the Unix epoch.
    pub last_active_ms: u64,
    /// Counts those who came: the least has been here longest.
    seniority: u64,
    /// Its sessions, and whether each has a connection.
    sessions: Vec<(SessionRef, bool)>,
}

impl Member {
    /// Whether the user has a connection.
    pub fn is_connected(&self) -> bool {
        self.sessions.iter().any(|(_, is_connected)| *is_connected)
    }

    /// The user's sessions in the room.
    pub fn sessions(&self) -> impl Iterator<Item = SessionRef> + '_ {
        self.sessions.iter().map(|(session, _)| *session)
    }
}

/// Somebody at the door.
#[derive(Debug)]
pub struct Entrant {
    /// The session.
    pub session: SessionRef,
    /// The user.
    pub nickname: Nickname,
    /// Whether the user may do everything.
    pub is_admin: bool,
}

/// What came of a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    /// The member's role.
    pub role: Role,
    /// Whether the user was no member before.
    pub is_new_user: bool,
    /// Whether the user was a member, but without a connection.
    pub was_away: bool,
}

/// What came of a leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    /// Who left.
    pub nickname: Nickname,
    /// Whether it was the user's last session.
    pub is_gone: bool,
    /// Who has become host, if the last one left.
    pub heir: Option<Nickname>,
}

/// The members, by session and by nickname.
#[derive(Debug, Default)]
pub(super) struct Members {
    members: Slots<Member>,
    /// Nobody chooses these keys, so a fast hash will do.
    by_session: HashMap<SessionRef, Id>,
    /// In folded order, for lists that are read a page at a time.
    by_name: BTreeMap<Arc<str>, Id>,
    arrivals: u64,
    hosts: usize,
}

impl Members {
    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn hosts(&self) -> usize {
        self.hosts
    }

    pub fn get(&self, session: SessionRef) -> Option<&Member> {
        self.members.get(*self.by_session.get(&session)?)
    }

    pub fn get_mut(&mut self, session: SessionRef) -> Option<&mut Member> {
        self.members.get_mut(*self.by_session.get(&session)?)
    }

    pub fn named(&self, folded: &str) -> Option<&Member> {
        self.members.get(*self.by_name.get(folded)?)
    }

    pub fn set_role(&mut self, folded: &str, role: Role) {
        if let Some(member) = self.by_name.get(folded).and_then(|id| self.members.get_mut(*id)) {
            self.hosts -= usize::from(member.role == Role::Host);
            self.hosts += usize::from(role == Role::Host);
            member.role = role;
        }
    }

    fn insert(&mut self, entrant: Entrant, role: Role, now_ms: u64) {
        self.arrivals += 1;
        self.hosts += usize::from(role == Role::Host);
        let folded: Arc<str> = entrant.nickname.folded().into();
        let member = Member {
            nickname: entrant.nickname,
            role,
            is_admin: entrant.is_admin,
            last_active_ms: now_ms,
            seniority: self.arrivals,
            sessions: vec![(entrant.session, true)],
        };
        let id = self.members.insert(member);
        self.by_session.insert(entrant.session, id);
        self.by_name.insert(folded, id);
    }

    /// Takes a user out, with all sessions.
    pub fn remove_user(&mut self, folded: &str) -> Option<Member> {
        let member = self.members.remove(self.by_name.remove(folded)?).expect("listed members exist");
        self.hosts -= usize::from(member.role == Role::Host);
        for (session, _) in &member.sessions {
            self.by_session.remove(session);
        }
        Some(member)
    }

    /// The member that has been here longest, of those who speak; one with a connection if there is one.
    pub fn eldest(&self) -> Option<&Member> {
        let speaking = self.members.iter().map(|(_, member)| member).filter(|m| m.role == Role::Member);
        speaking.min_by_key(|member| (!member.is_connected(), member.seniority))
    }
}

impl Room {
    /// The member that `session` is of.
    pub fn member(&self, session: SessionRef) -> Option<&Member> {
        self.members.get(session)
    }

    /// The member of this folded nickname.
    pub fn member_named(&self, folded: &str) -> Option<&Member> {
        self.members.named(folded)
    }

    /// Makes `session` a member, or its user one with another session. The first member of an empty room is its host, but
    /// in the lobby. A session that is a member already only has a connection again.
    ///
    /// # Errors
    /// `banned`.
    pub fn join(&mut self, entrant: Entrant, now_ms: u64) -> Result<Entered, Refusal> {
        let folded = entrant.nickname.folded();
        if !entrant.is_admin
            && let Some(refusal) = self.restrictions.refusal_to_enter(folded, now_ms)
        {
            return Err(refusal);
        }
        if let Some(id) = self.members.by_name.get(folded) {
            let member = self.members.members.get_mut(*id).expect("listed members exist");
            let was_away = !member.is_connected();
            member.is_admin = entrant.is_admin;
            match member.sessions.iter_mut().find(|(session, _)| *session == entrant.session) {
                Some((_, is_connected)) => *is_connected = true,
                None => member.sessions.push((entrant.session, true)),
            }
            let role = member.role;
            self.members.by_session.insert(entrant.session, *id);
            return Ok(Entered { role, is_new_user: false, was_away });
        }
        let role = if self.restrictions.only_reads(folded) {
            Role::Guest
        } else if self.is_empty() && self.name.folded() != LOBBY {
            Role::Host
        } else {
            Role::Member
        };
        self.members.insert(entrant, role, now_ms);
        Ok(Entered { role, is_new_user: true, was_away: false })
    }

    /// Ends the membership of `session`, and with its last session that of its user.
    pub fn leave(&mut self, session: SessionRef) -> Option<Departure> {
        let member = self.members.get_mut(session)?;
        let nickname = member.nickname.clone();
        if member.sessions.len() > 1 {
            member.sessions.retain(|(s, _)| *s != session);
            self.members.by_session.remove(&session);
            return Some(Departure { nickname, is_gone: false, heir: None });
        }
        self.members.remove_user(nickname.folded());
        Some(Departure { heir: self.find_heir(), nickname, is_gone: true })
    }

    /// Notes that the session's connection is gone, and says whether its user has none now.
    pub fn detach(&mut self, session: SessionRef) -> Option<bool> {
        let member = self.members.get_mut(session)?;
        let was_connected = member.is_connected();
        member
            .sessions
            .iter_mut()
            .filter(|(s, _)| *s == session)
            .for_each(|(_, is_connected)| *is_connected = false);
        Some(was_connected && !member.is_connected())
    }

    /// Lets `session`, which has a connection, go on in the place of `old`, and says whether the user had none before.
    pub fn attach(&mut self, old: SessionRef, session: SessionRef) -> Option<bool> {
        let member = self.members.get_mut(old)?;
        let was_connected = member.is_connected();
        member.sessions.iter_mut().filter(|(s, _)| *s == old).for_each(|place| *place = (session, true));
        let id = self.members.by_session.remove(&old).expect("looked up above");
        self.members.by_session.insert(session, id);
        Some(!was_connected)
    }

    /// Changes the nickname of the member that `session` is of, which nobody else here has.
    pub(super) fn change_name(&mut self, session: SessionRef, nickname: Nickname) -> Option<Nickname> {
        let id = *self.members.by_session.get(&session)?;
        let member = self.members.members.get_mut(id).expect("listed members exist");
        self.members.by_name.remove(member.nickname.folded());
        self.members.by_name.insert(nickname.folded().into(), id);
        Some(std::mem::replace(&mut member.nickname, nickname))
    }

    /// Up to `limit` members in folded order of their nicknames, those after the folded name `after`.
    pub fn list(&self, after: Option<&str>, limit: usize) -> impl Iterator<Item = &Member> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let names = self.members.by_name.range::<str, _>((from, Bound::Unbounded));
        names.map(|(_, id)| self.members.members.get(*id).expect("listed members exist")).take(limit)
    }
}
