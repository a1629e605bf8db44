//! Who may do what in a room: roles, and what hosts do to others.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Member, Room, not_a_member};
use crate::chat::name::Nickname;
use crate::chat::refusal::{Reason, Refusal};
use crate::chat::user::SessionRef;

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Moderates.
    Host,
    /// Speaks.
    Member,
    /// Only reads.
    Guest,
}

impl Role {
    /// The word of the protocol.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Host => "host",
            Role::Member => "member",
            Role::Guest => "guest",
        }
    }

    /// The role that a word names.
    pub fn parse(word: &str) -> Option<Self> {
        [Role::Host, Role::Member, Role::Guest].into_iter().find(|role| role.as_str() == word)
    }
}

/// What hosts do to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Action {
    Kick,
    Ban,
    Unban,
    Mute,
    Unmute,
}

/// What came of a change of role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleChange {
    /// Who has it.
    pub nickname: Nickname,
    /// Whether it is another one than before.
    pub is_changed: bool,
}

/// What came of a host's action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whom it concerns, as the room spells it.
    pub nickname: Nickname,
    /// The member that is one no longer.
    pub expelled: Option<Expelled>,
}

/// A member put out of the room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expelled {
    /// Who.
    pub nickname: Nickname,
    /// Its sessions.
    pub sessions: Vec<SessionRef>,
    /// Who has become host, if it was the last one.
    pub heir: Option<Nickname>,
}

/// What came of a change of nickname.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// The nickname before.
    pub old: Nickname,
    /// The member that is one no longer, because the new nickname is banned.
    pub expelled: Option<Expelled>,
}

/// A ban or mute.
#[derive(Debug, Clone)]
struct Sentence {
    /// When it ends, in milliseconds since the Unix epoch; `None`: when it is undone.
    until_ms: Option<u64>,
    /// Why, for people.
    reason: Option<Arc<str>>,
}

impl Sentence {
    fn is_over(&self, now_ms: u64) -> bool {
        self.until_ms.is_some_and(|until| until <= now_ms)
    }

    /// Whether it ends after another, or never.
    fn outlasts(&self, other: &Sentence) -> bool {
        other.until_ms.is_some_and(|end| self.until_ms.is_none_or(|until| until > end))
    }

    fn refusal(&self, reason: Reason, what: &str, now_ms: u64) -> Refusal {
        let message = match &self.reason {
            Some(why) => format!("{what}: {why}"),
            None => what.to_owned(),
        };
        match self.until_ms {
            Some(until) => Refusal::with_retry(reason, message, until - now_ms),
            None => Refusal::new(reason, message),
        }
    }
}

/// What is held against nicknames, whether they are members or not.
#[derive(Debug, Default)]
pub(super) struct Restrictions {
    /// Keyed by text that peers choose, so with the standard library's keyed hash.
    by_name: HashMap<Arc<str>, Restriction>,
    /// Counts the changes.
    pub changes: u64,
}

/// Who moderates a room, and what is held against whom: what outlives the members themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// The folded nicknames of the hosts.
    pub hosts: Vec<String>,
    /// What is held against nicknames.
    pub held: Vec<Held>,
}

/// What is held against a nickname.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The folded nickname.
    pub nickname: String,
    /// A ban.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ban: Option<HeldSentence>,
    /// A mute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mute: Option<HeldSentence>,
    /// Whether the nickname only reads.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_reads: bool,
    /// Whether no host has named it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_inherited: bool,
}

/// A ban or mute as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldSentence {
    /// When it ends, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl From<&Sentence> for HeldSentence {
    fn from(sentence: &Sentence) -> Self {
        HeldSentence { until_ms: sentence.until_ms, reason: sentence.reason.as_deref().map(str::to_owned) }
    }
}

impl From<HeldSentence> for Sentence {
    fn from(held: HeldSentence) -> Self {
        Sentence { until_ms: held.until_ms, reason: held.reason.map(Arc::from) }
    }
}

#[derive(Debug, Clone, Default)]
struct Restriction {
    ban: Option<Sentence>,
    mute: Option<Sentence>,
    only_reads: bool,
    /// Whether no host has named this nickname: its owner has taken it while something was held against another one.
    is_inherited: bool,
}

impl Restriction {
    fn clear(&mut self, now_ms: u64) {
        self.ban.take_if(|ban| ban.is_over(now_ms));
        self.mute.take_if(|mute| mute.is_over(now_ms));
    }

    fn is_none(&self) -> bool {
        self.ban.is_none() && self.mute.is_none() && !self.only_reads
    }
}

impl Restrictions {
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    pub fn refusal_to_enter(&self, folded: &str, now_ms: u64) -> Option<Refusal> {
        let ban = self.by_name.get(folded)?.ban.as_ref().filter(|ban| !ban.is_over(now_ms))?;
        Some(ban.refusal(Reason::Banned, "you are banned from this room", now_ms))
    }

    pub fn refusal_to_speak(&self, folded: &str, now_ms: u64) -> Option<Refusal> {
        let mute = self.by_name.get(folded)?.mute.as_ref().filter(|mute| !mute.is_over(now_ms))?;
        Some(mute.refusal(Reason::Muted, "you are muted in this room", now_ms))
    }

    pub fn only_reads(&self, folded: &str) -> bool {
        self.by_name.get(folded).is_some_and(|restriction| restriction.only_reads)
    }

    /// Makes place in a full table: what is over goes, and what was inherited by nicknames that nobody here has. Otherwise
    /// whoever is muted could fill the table with nicknames, and nobody else could be banned.
    fn make_place(&mut self, names_max: usize, now_ms: u64, is_here: impl Fn(&str) -> bool) {
        if self.by_name.len() >= names_max {
            self.by_name.retain(|folded, restriction| {
                restriction.clear(now_ms);
                !restriction.is_none() && (!restriction.is_inherited || is_here(folded))
            });
        }
    }

    /// Changes what is held against a nickname, unless the table is full. It counts as a change whatever comes of it.
    fn change(
        &mut self,
        folded: &str,
        names_max: usize,
        now_ms: u64,
        change: impl FnOnce(&mut Restriction),
    ) -> Result<(), Refusal> {
        self.changes += 1;
        let mut changed = self.by_name.get(folded).cloned().unwrap_or_default();
        changed.clear(now_ms);
        change(&mut changed);
        if changed.is_none() {
            self.by_name.remove(folded);
        } else if self.by_name.contains_key(folded) || self.by_name.len() < names_max {
            self.by_name.insert(folded.into(), changed);
        } else {
            let message =
                format!("this room holds something against {names_max} nicknames: undo some of it first");
            return Err(Refusal::new(Reason::Forbidden, message));
        }
        Ok(())
    }
}

impl Room {
    /// Counts the changes of [`Room::rules`].
    pub fn rules_version(&self) -> u64 {
        self.members.changes + self.restrictions.changes
    }

    /// Who moderates, and what is held against whom.
    pub fn rules(&self, now_ms: u64) -> Rules {
        let hosts = self.members.host_names().map(str::to_owned).collect();
        let lasting = |sentence: &&Sentence| !sentence.is_over(now_ms);
        let held = self.restrictions.by_name.iter().map(|(nickname, restriction)| Held {
            nickname: nickname.to_string(),
            ban: restriction.ban.as_ref().filter(lasting).map(HeldSentence::from),
            mute: restriction.mute.as_ref().filter(lasting).map(HeldSentence::from),
            only_reads: restriction.only_reads,
            is_inherited: restriction.is_inherited,
        });
        let mut held: Vec<Held> = held.collect();
        held.retain(|held| held.ban.is_some() || held.mute.is_some() || held.only_reads);
        held.sort_by(|a, b| a.nickname.cmp(&b.nickname));
        Rules { hosts, held }
    }

    /// Holds again what was held before the server was started. The hosts are named where their sessions come back.
    pub fn restore_restrictions(&mut self, held: Vec<Held>) {
        for Held { nickname, ban, mute, only_reads, is_inherited } in held {
            let (ban, mute) = (ban.map(Sentence::from), mute.map(Sentence::from));
            let restriction = Restriction { ban, mute, only_reads, is_inherited };
            self.restrictions.by_name.insert(nickname.into(), restriction);
        }
    }

    /// Makes somebody host, if the members that have come back have none among them.
    pub fn restore_host(&mut self) {
        self.find_heir();
    }

    /// Gives `target` a role.
    ///
    /// # Errors
    /// `not_a_member`, `forbidden`, `no_such_user`.
    pub fn set_role(
        &mut self,
        actor: SessionRef,
        target: &Nickname,
        role: Role,
        now_ms: u64,
    ) -> Result<RoleChange, Refusal> {
        let (actor_name, actor_is_admin) = self.check_moderator(actor, now_ms)?;
        let folded = target.folded();
        let Some(member) = self.members.named(folded) else { return Err(not_here()) };
        if actor_name != *target && !actor_is_admin && member.is_admin() {
            return Err(an_admin());
        }
        let (nickname, before) = (member.nickname.clone(), member.role);
        if before == role {
            return Ok(RoleChange { nickname, is_changed: false });
        }
        if before == Role::Host && self.members.hosts() == 1 && !self.is_lobby() {
            let message = "a room keeps a host: make somebody else one first";
            return Err(Refusal::new(Reason::Forbidden, message));
        }
        if role == Role::Member && self.members.hosts() == 0 && !self.is_lobby() {
            // An admin who only reads, among others who do.
            let message = "a room in which anybody speaks has a host: make somebody host first";
            return Err(Refusal::new(Reason::Forbidden, message));
        }
        let only_reads = role == Role::Guest;
        self.restrict(folded, now_ms, |restriction| restriction.only_reads = only_reads)?;
        self.members.set_role(folded, role);
        Ok(RoleChange { nickname, is_changed: true })
    }

    /// Kicks, bans or mutes `target`, or undoes it. A ban or mute ends by itself at `until_ms`, if that is given.
    ///
    /// # Errors
    /// `not_a_member`, `forbidden`, `no_such_user`, `bad_request` for doing it to oneself.
    pub fn moderate(
        &mut self,
        actor: SessionRef,
        action: Action,
        target: &Nickname,
        reason: Option<Box<str>>,
        until_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<Verdict, Refusal> {
        let (actor_name, actor_is_admin) = self.check_moderator(actor, now_ms)?;
        let folded = target.folded();
        let is_against = matches!(action, Action::Kick | Action::Ban | Action::Mute);
        if is_against && actor_name == *target {
            return Err(Refusal::new(Reason::BadRequest, "this is you"));
        }
        let member = self.members.named(folded);
        if is_against && !actor_is_admin && member.is_some_and(Member::is_admin) {
            return Err(an_admin());
        }
        let nickname = member.map_or_else(|| target.clone(), |member| member.nickname.clone());
        let sentence = Sentence { until_ms, reason: reason.map(Arc::from) };
        let expelled = match action {
            Action::Kick if member.is_none() => return Err(not_here()),
            Action::Kick => self.expel(folded),
            Action::Ban => {
                self.restrict(folded, now_ms, |restriction| restriction.ban = Some(sentence))?;
                self.expel(folded)
            }
            Action::Mute => {
                self.restrict(folded, now_ms, |restriction| restriction.mute = Some(sentence))?;
                None
            }
            Action::Unban if self.restrictions.refusal_to_enter(folded, now_ms).is_none() => {
                return Err(Refusal::new(Reason::NoSuchUser, "nobody of this nickname is banned here"));
            }
            Action::Unban => {
                self.restrict(folded, now_ms, |restriction| restriction.ban = None)?;
                None
            }
            Action::Unmute if self.restrictions.refusal_to_speak(folded, now_ms).is_none() => {
                return Err(Refusal::new(Reason::NoSuchUser, "nobody of this nickname is muted here"));
            }
            Action::Unmute => {
                self.restrict(folded, now_ms, |restriction| restriction.mute = None)?;
                None
            }
        };
        Ok(Verdict { nickname, expelled })
    }

    /// Changes a member's nickname. What is held against the old one is held against the new one too.
    pub fn rename(&mut self, session: SessionRef, nickname: Nickname, now_ms: u64) -> Option<Renamed> {
        let old = self.change_name(session, nickname.clone())?;
        if old != nickname
            && let Some(Restriction { mute, only_reads, .. }) =
                self.restrictions.by_name.get(old.folded()).cloned()
        {
            let mute = mute.filter(|mute| !mute.is_over(now_ms));
            let inherit = |restriction: &mut Restriction| {
                restriction.is_inherited |= restriction.is_none();
                restriction.only_reads |= only_reads;
                // What is held against the new nickname already does not end sooner for this.
                if mute.as_ref().is_some_and(|m| restriction.mute.as_ref().is_none_or(|own| m.outlasts(own)))
                {
                    restriction.mute.clone_from(&mute);
                }
            };
            // A full table is no way out: then the new nickname takes the place of the old one.
            let names_max = self.bounds.restrictions;
            self.make_place_for(nickname.folded(), now_ms);
            if self.restrictions.change(nickname.folded(), names_max, now_ms, inherit).is_err() {
                self.restrictions.by_name.remove(old.folded());
                let _ = self.restrictions.change(nickname.folded(), names_max, now_ms, inherit);
            }
        }
        let is_admin = self.members.get(session).is_some_and(Member::is_admin);
        let is_banned = !is_admin && self.is_banned(nickname.folded(), now_ms);
        let expelled = if is_banned { self.expel(nickname.folded()) } else { None };
        Some(Renamed { old, expelled })
    }

    /// Whether a folded nickname is banned.
    pub fn is_banned(&self, folded: &str, now_ms: u64) -> bool {
        self.restrictions.refusal_to_enter(folded, now_ms).is_some()
    }

    /// Makes the eldest member host, if the room has members but no host.
    pub(super) fn find_heir(&mut self) -> Option<Nickname> {
        if self.members.hosts() > 0 || self.is_lobby() {
            return None;
        }
        let heir = self.members.eldest()?.nickname.clone();
        self.members.set_role(heir.folded(), Role::Host);
        Some(heir)
    }

    /// Changes what a host holds against a nickname.
    fn restrict(
        &mut self,
        folded: &str,
        now_ms: u64,
        change: impl FnOnce(&mut Restriction),
    ) -> Result<(), Refusal> {
        self.make_place_for(folded, now_ms);
        self.restrictions.change(folded, self.bounds.restrictions, now_ms, |restriction| {
            restriction.is_inherited = false;
            change(restriction);
        })
    }

    fn make_place_for(&mut self, folded: &str, now_ms: u64) {
        if !self.restrictions.by_name.contains_key(folded) {
            let is_here = |folded: &str| self.members.named(folded).is_some();
            self.restrictions.make_place(self.bounds.restrictions, now_ms, is_here);
        }
    }

    fn expel(&mut self, folded: &str) -> Option<Expelled> {
        let member = self.members.remove_user(folded)?;
        let sessions = member.sessions().collect();
        Some(Expelled { nickname: member.nickname, sessions, heir: self.find_heir() })
    }

    fn check_moderator(&mut self, actor: SessionRef, now_ms: u64) -> Result<(Nickname, bool), Refusal> {
        let is_lobby = self.is_lobby();
        let Some(member) = self.members.touch(actor, now_ms) else { return Err(not_a_member()) };
        let is_admin = member.is_admin_in(actor);
        if is_admin || (member.role == Role::Host && !is_lobby) {
            return Ok((member.nickname.clone(), is_admin));
        }
        let message = if is_lobby { "only admins moderate the lobby" } else { "only hosts do this" };
        Err(Refusal::new(Reason::Forbidden, message))
    }
}

fn an_admin() -> Refusal {
    Refusal::new(Reason::Forbidden, "this is an admin")
}

fn not_here() -> Refusal {
    Refusal::new(Reason::NoSuchUser, "nobody in this room has this nickname")
}
