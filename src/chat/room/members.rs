//! Who is in a room.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::Room;
use super::moderation::Role;
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
    /// When the member last did something here, in milliseconds since the Unix epoch.
    pub last_active_ms: u64,
    /// Counts those who came: the least has been here longest.
    seniority: u64,
    /// Never empty.
    sessions: Vec<Place>,
}

/// What a room knows of one session of a member.
#[derive(Debug, Clone, Copy)]
struct Place {
    session: SessionRef,
    is_connected: bool,
    /// Of the session, not of its user: another token of the same user may say less.
    is_admin: bool,
}

impl Member {
    /// Whether the user has a connection.
    pub fn is_connected(&self) -> bool {
        self.sessions.iter().any(|place| place.is_connected)
    }

    /// Whether the user may do everything in one of the sessions.
    pub fn is_admin(&self) -> bool {
        self.sessions.iter().any(|place| place.is_admin)
    }

    /// Whether one of its sessions has a connection.
    pub fn is_connected_in(&self, session: SessionRef) -> bool {
        self.sessions.iter().any(|place| place.session == session && place.is_connected)
    }

    /// Whether it may in this one.
    pub(super) fn is_admin_in(&self, session: SessionRef) -> bool {
        self.sessions.iter().any(|place| place.session == session && place.is_admin)
    }

    /// The user's sessions in the room.
    pub fn sessions(&self) -> impl Iterator<Item = SessionRef> + '_ {
        self.sessions.iter().map(|place| place.session)
    }

    /// The same, each with whether it has a connection, and whether it may do everything.
    pub(super) fn places(&self) -> impl Iterator<Item = (SessionRef, bool, bool)> + '_ {
        self.sessions.iter().map(|place| (place.session, place.is_connected, place.is_admin))
    }

    pub(super) fn seniority(&self) -> u64 {
        self.seniority
    }

    /// A member that was one elsewhere.
    pub(super) fn from_parts(
        nickname: Nickname,
        role: Role,
        last_active_ms: u64,
        seniority: u64,
        sessions: impl Iterator<Item = (SessionRef, bool, bool)>,
    ) -> Self {
        let sessions =
            sessions.map(|(session, is_connected, is_admin)| Place { session, is_connected, is_admin });
        Member { nickname, role, last_active_ms, seniority, sessions: sessions.collect() }
    }

    /// Its place among those who may become host, the least first; none for those who only read and those who are.
    fn succession(&self) -> Option<(bool, u64)> {
        (self.role == Role::Member).then(|| (!self.is_connected(), self.seniority))
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
    /// Who becomes host next. Kept in order, because when many leave together, each of them may be the last host.
    heirs: BTreeMap<(bool, u64), Id>,
    arrivals: u64,
    hosts: BTreeSet<Id>,
    /// Counts the changes of who is host.
    pub changes: u64,
}

impl Members {
    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn hosts(&self) -> usize {
        self.hosts.len()
    }

    /// The folded nicknames of the hosts.
    pub fn host_names(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().filter_map(|id| self.members.get(*id)).map(|member| member.nickname.folded())
    }

    pub fn get(&self, session: SessionRef) -> Option<&Member> {
        self.members.get(*self.by_session.get(&session)?)
    }

    /// Notes that a member does something.
    pub fn touch(&mut self, session: SessionRef, now_ms: u64) -> Option<&Member> {
        let member = self.members.get_mut(*self.by_session.get(&session)?)?;
        member.last_active_ms = now_ms;
        Some(member)
    }

    pub fn named(&self, folded: &str) -> Option<&Member> {
        self.members.get(*self.by_name.get(folded)?)
    }

    pub fn set_role(&mut self, folded: &str, role: Role) {
        if let Some(id) = self.by_name.get(folded) {
            self.update(*id, |member| member.role = role);
        }
    }

    /// Changes a member, and with it what is counted and ordered of all.
    fn update<T>(&mut self, id: Id, change: impl FnOnce(&mut Member) -> T) -> T {
        let member = self.members.get_mut(id).expect("listed members exist");
        let before = (member.role, member.succession());
        let result = change(member);
        let after = (member.role, member.succession());
        if before != after {
            self.count(id, before, false);
            self.count(id, after, true);
        }
        result
    }

    fn count(&mut self, id: Id, (role, succession): (Role, Option<(bool, u64)>), is_there: bool) {
        if role == Role::Host {
            self.changes += 1;
            if is_there {
                self.hosts.insert(id)
            } else {
                self.hosts.remove(&id)
            };
        }
        match (succession, is_there) {
            (Some(place), true) => drop(self.heirs.insert(place, id)),
            (Some(place), false) => drop(self.heirs.remove(&place)),
            (None, _) => {}
        }
    }

    /// How many have come so far.
    pub fn arrivals(&self) -> u64 {
        self.arrivals
    }

    pub fn set_arrivals(&mut self, arrivals: u64) {
        self.arrivals = arrivals;
    }

    fn insert(&mut self, entrant: Entrant, role: Role, now_ms: u64) {
        self.arrivals += 1;
        self.insert_member(Member {
            nickname: entrant.nickname,
            role,
            last_active_ms: now_ms,
            seniority: self.arrivals,
            sessions: vec![Place {
                session: entrant.session,
                is_connected: true,
                is_admin: entrant.is_admin,
            }],
        });
    }

    /// Takes a member in that is not there.
    pub fn insert_member(&mut self, member: Member) {
        let folded: Arc<str> = member.nickname.folded().into();
        let counted = (member.role, member.succession());
        let sessions: SmallVec<[SessionRef; 1]> = member.sessions().collect();
        let id = self.members.insert(member);
        self.count(id, counted, true);
        self.by_session.extend(sessions.into_iter().map(|session| (session, id)));
        self.by_name.insert(folded, id);
    }

    /// Takes a user out, with all sessions.
    pub fn remove_user(&mut self, folded: &str) -> Option<Member> {
        let id = self.by_name.remove(folded)?;
        let member = self.members.remove(id).expect("listed members exist");
        self.count(id, (member.role, member.succession()), false);
        for session in member.sessions() {
            self.by_session.remove(&session);
        }
        Some(member)
    }

    /// The member that has been here longest, of those who speak; one with a connection if there is one.
    pub fn eldest(&self) -> Option<&Member> {
        let (_, id) = self.heirs.first_key_value()?;
        self.members.get(*id)
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

    /// Makes `session` a member, or its user one with another session. Who may speak in a room that has no host becomes its
    /// host, but in the lobby: the first one, or the first among those who only read. A session that is a member already only has a connection again.
    ///
    /// # Errors
    /// `banned`.
    pub fn join(&mut self, entrant: Entrant, now_ms: u64) -> Result<Entered, Refusal> {
        let folded = entrant.nickname.folded();
        // Not of a session that is here: a ban would have put it out. One that was over may be there again after the wall clock has
        // been set back.
        if !entrant.is_admin
            && !self.members.by_session.contains_key(&entrant.session)
            && let Some(refusal) = self.restrictions.refusal_to_enter(folded, now_ms)
        {
            return Err(refusal);
        }
        if let Some(&id) = self.members.by_name.get(folded) {
            let Entrant { session, is_admin, .. } = entrant;
            let (role, was_away) = self.members.update(id, |member| {
                let was_away = !member.is_connected();
                let place = Place { session, is_connected: true, is_admin };
                match member.sessions.iter_mut().find(|place| place.session == session) {
                    Some(known) => *known = place,
                    None => member.sessions.push(place),
                }
                (member.role, was_away)
            });
            self.members.by_session.insert(session, id);
            return Ok(Entered { role, is_new_user: false, was_away });
        }
        let role = if self.restrictions.only_reads(folded) {
            Role::Guest
        } else if self.members.hosts() == 0 && !self.is_lobby() {
            Role::Host
        } else {
            Role::Member
        };
        self.members.insert(entrant, role, now_ms);
        Ok(Entered { role, is_new_user: true, was_away: false })
    }

    /// Makes a session a member that was one before the server was started: without a connection, and with the role that its nickname
    /// had.
    pub fn restore_member(&mut self, entrant: Entrant, is_host: bool, now_ms: u64) {
        let (folded, session) = (entrant.nickname.folded(), entrant.session);
        if let Some(&id) = self.members.by_name.get(folded) {
            let place = Place { session, is_connected: false, is_admin: entrant.is_admin };
            self.members.update(id, |member| member.sessions.push(place));
            self.members.by_session.insert(session, id);
            return;
        }
        let role = match (self.restrictions.only_reads(folded), is_host) {
            (true, _) => Role::Guest,
            (false, true) => Role::Host,
            (false, false) => Role::Member,
        };
        self.members.insert(entrant, role, now_ms);
        self.detach(session);
    }

    /// Ends the membership of `session`, and with its last session that of its user.
    pub fn leave(&mut self, session: SessionRef) -> Option<Departure> {
        let mut departure = self.leave_without_heir(session)?;
        if departure.is_gone {
            departure.heir = self.find_heir();
        }
        Some(departure)
    }

    pub(super) fn leave_without_heir(&mut self, session: SessionRef) -> Option<Departure> {
        let id = *self.members.by_session.get(&session)?;
        let (nickname, is_gone) = self.members.update(id, |member| {
            let is_gone = member.sessions.len() == 1;
            if !is_gone {
                member.sessions.retain(|place| place.session != session);
            }
            (member.nickname.clone(), is_gone)
        });
        if !is_gone {
            self.members.by_session.remove(&session);
            return Some(Departure { nickname, is_gone, heir: None });
        }
        self.members.remove_user(nickname.folded());
        Some(Departure { heir: None, nickname, is_gone })
    }

    /// Notes that the session's connection is gone, and says whether its user has none now.
    pub fn detach(&mut self, session: SessionRef) -> Option<bool> {
        let id = *self.members.by_session.get(&session)?;
        Some(self.members.update(id, |member| {
            let was_connected = member.is_connected();
            for place in member.sessions.iter_mut().filter(|place| place.session == session) {
                place.is_connected = false;
            }
            was_connected && !member.is_connected()
        }))
    }

    /// Lets `session`, which has a connection and is nowhere else in the room, go on in the place of `old`, and says
    /// whether the user had none before.
    pub fn attach(&mut self, old: SessionRef, session: SessionRef) -> Option<bool> {
        let id = self.members.by_session.remove(&old)?;
        debug_assert!(!self.members.by_session.contains_key(&session), "in two places");
        self.members.by_session.insert(session, id);
        Some(self.members.update(id, |member| {
            let was_away = !member.is_connected();
            for place in member.sessions.iter_mut().filter(|place| place.session == old) {
                (place.session, place.is_connected) = (session, true);
            }
            was_away
        }))
    }

    /// Changes the nickname of the member that `session` is of, which nobody else here has.
    pub(super) fn change_name(&mut self, session: SessionRef, nickname: Nickname) -> Option<Nickname> {
        let id = *self.members.by_session.get(&session)?;
        let member = self.members.members.get_mut(id).expect("listed members exist");
        self.members.by_name.remove(member.nickname.folded());
        let before = self.members.by_name.insert(nickname.folded().into(), id);
        debug_assert!(before.is_none(), "two members with one nickname");
        self.members.changes += u64::from(member.role == Role::Host);
        Some(std::mem::replace(&mut member.nickname, nickname))
    }

    /// Up to `limit` members in folded order of their nicknames, those after the folded name `after`.
    pub fn list(&self, after: Option<&str>, limit: usize) -> impl Iterator<Item = &Member> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let names = self.members.by_name.range::<str, _>((from, Bound::Unbounded));
        names.map(|(_, id)| self.members.members.get(*id).expect("listed members exist")).take(limit)
    }
}
