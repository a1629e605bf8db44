//! A room against a plain model of one: everything that can happen, in any order, compared after each step.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::base::slots::Id;

/// Roomy where tests of their own look at the bounds.
const BOUNDS: RoomBounds = RoomBounds {
    history: history::Bounds { count: 5, bytes: 0, age_ms: 0 },
    state_keys: 2,
    state_key_bytes: 8,
    state_value_bytes: 8,
    restrictions: 100,
};

const SESSIONS: u32 = 9;
const NAMES: u32 = 6;
const KEYS: [&str; 4] = ["a", "b", "c", "no key\n"];

#[derive(Debug, Clone)]
enum Op {
    Join(u32),
    Leave(u32),
    Detach(u32),
    /// The session goes on as a new one.
    Attach(u32),
    Rename(u32, u32),
    SetRole(u32, u32, Role),
    Moderate(u32, Action, u32, Option<u64>),
    SetState(u32, usize, Option<usize>),
    Publish(u32),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    use prop::option::of;
    let (s, n) = (0..SESSIONS, 0..NAMES);
    let role = prop::sample::select(vec![Role::Host, Role::Member, Role::Guest]);
    let action = prop::sample::select(vec![
        Action::Kick,
        Action::Ban,
        Action::Unban,
        Action::Mute,
        Action::Mute,
        Action::Unmute,
    ]);
    prop_oneof![
        8 => s.clone().prop_map(Op::Join),
        3 => s.clone().prop_map(Op::Leave),
        2 => s.clone().prop_map(Op::Detach),
        2 => s.clone().prop_map(Op::Attach),
        2 => (s.clone(), n.clone()).prop_map(|(s, n)| Op::Rename(s, n)),
        4 => (s.clone(), n.clone(), role).prop_map(|(s, n, role)| Op::SetRole(s, n, role)),
        5 => (s.clone(), action, n, of(0u64..50)).prop_map(|(s, a, n, ms)| Op::Moderate(s, a, n, ms)),
        2 => (s.clone(), 0..KEYS.len(), of(1usize..11)).prop_map(|(s, k, v)| Op::SetState(s, k, v)),
        2 => s.prop_map(Op::Publish),
        2 => (0u64..40).prop_map(Op::Pass),
    ]
}

/// One user who is in the room.
#[derive(Debug, Clone)]
struct User {
    /// Each session, and whether it has a connection.
    sessions: BTreeMap<u32, bool>,
    role: Role,
    arrival: usize,
}

/// Until when something is held against a nickname: for good, if nothing is said.
type Until = Option<u64>;

#[derive(Debug, Default)]
struct Model {
    is_lobby: bool,
    now: u64,
    /// The nickname of each session, also of those who are not in the room.
    names: BTreeMap<u32, u32>,
    users: BTreeMap<u32, User>,
    bans: BTreeMap<u32, Until>,
    mutes: BTreeMap<u32, Until>,
    readers: BTreeSet<u32>,
    state: BTreeMap<&'static str, (usize, u64)>,
    version: u64,
    offset: u64,
    arrivals: usize,
}

/// One session in three may do everything, whoever its user is.
fn is_admin(session: u32) -> bool {
    session.is_multiple_of(3)
}

impl Model {
    fn pass(&mut self, ms: u64) {
        self.now += ms;
        let now = self.now;
        for held in [&mut self.bans, &mut self.mutes] {
            held.retain(|_, until| until.is_none_or(|until| until > now));
        }
    }

    fn user_of(&self, session: u32) -> Option<u32> {
        self.users.iter().find(|(_, user)| user.sessions.contains_key(&session)).map(|(name, _)| *name)
    }

    fn has_admin(&self, name: u32) -> bool {
        self.users.get(&name).is_some_and(|user| user.sessions.keys().any(|session| is_admin(*session)))
    }

    fn hosts(&self) -> usize {
        self.users.values().filter(|user| user.role == Role::Host).count()
    }

    fn succeed(&mut self) -> Option<u32> {
        if self.is_lobby || self.hosts() > 0 {
            return None;
        }
        let speaking = self.users.iter_mut().filter(|(_, user)| user.role == Role::Member);
        let is_away = |user: &User| !user.sessions.values().any(|is_connected| *is_connected);
        let (name, heir) = speaking.min_by_key(|(_, user)| (is_away(user), user.arrival))?;
        heir.role = Role::Host;
        Some(*name)
    }

    fn join(&mut self, session: u32) -> Result<(Role, bool, bool), Reason> {
        let name = self.names[&session];
        if self.bans.contains_key(&name) && !is_admin(session) {
            return Err(Reason::Banned);
        }
        if let Some(user) = self.users.get_mut(&name) {
            let was_away = !user.sessions.values().any(|is_connected| *is_connected);
            user.sessions.insert(session, true);
            return Ok((user.role, false, was_away));
        }
        let role = match self.hosts() {
            _ if self.readers.contains(&name) => Role::Guest,
            0 if !self.is_lobby => Role::Host,
            _ => Role::Member,
        };
        self.arrivals += 1;
        let user = User { sessions: [(session, true)].into(), role, arrival: self.arrivals };
        self.users.insert(name, user);
        Ok((role, true, false))
    }

    fn speak(&self, session: u32) -> Result<u32, Reason> {
        let name = self.user_of(session).ok_or(Reason::NotAMember)?;
        match self.users[&name].role {
            _ if is_admin(session) => Ok(name),
            Role::Guest => Err(Reason::Forbidden),
            _ if self.mutes.contains_key(&name) => Err(Reason::Muted),
            _ => Ok(name),
        }
    }

    fn check_moderator(&self, session: u32) -> Result<u32, Reason> {
        let name = self.user_of(session).ok_or(Reason::NotAMember)?;
        let is_host = self.users[&name].role == Role::Host && !self.is_lobby;
        if is_host || is_admin(session) { Ok(name) } else { Err(Reason::Forbidden) }
    }

    fn set_role(&mut self, actor: u32, target: u32, role: Role) -> Result<bool, Reason> {
        let by = self.check_moderator(actor)?;
        let before = self.users.get(&target).ok_or(Reason::NoSuchUser)?.role;
        if by != target && self.has_admin(target) && !is_admin(actor) {
            return Err(Reason::Forbidden);
        }
        if before == role {
            return Ok(false);
        }
        let hosts_after = self.hosts() - usize::from(before == Role::Host) + usize::from(role == Role::Host);
        let steps_down = before == Role::Host || role == Role::Member;
        if hosts_after == 0 && steps_down && !self.is_lobby {
            return Err(Reason::Forbidden);
        }
        self.users.get_mut(&target).unwrap().role = role;
        if role == Role::Guest {
            self.readers.insert(target)
        } else {
            self.readers.remove(&target)
        };
        Ok(true)
    }

    fn moderate(
        &mut self,
        actor: u32,
        action: Action,
        target: u32,
        until: Until,
    ) -> Result<Option<(User, Option<u32>)>, Reason> {
        let by = self.check_moderator(actor)?;
        let is_against = matches!(action, Action::Kick | Action::Ban | Action::Mute);
        if is_against && by == target {
            return Err(Reason::BadRequest);
        }
        if is_against && self.has_admin(target) && !is_admin(actor) {
            return Err(Reason::Forbidden);
        }
        let is_known = match action {
            Action::Kick => self.users.contains_key(&target),
            Action::Ban => {
                self.bans.insert(target, until);
                true
            }
            Action::Mute => {
                self.mutes.insert(target, until);
                true
            }
            Action::Unban => self.bans.remove(&target).is_some(),
            Action::Unmute => self.mutes.remove(&target).is_some(),
        };
        self.pass(0);
        if !is_known {
            return Err(Reason::NoSuchUser);
        }
        if !matches!(action, Action::Kick | Action::Ban) {
            return Ok(None);
        }
        let Some(user) = self.users.remove(&target) else { return Ok(None) };
        Ok(Some((user, self.succeed())))
    }

    fn rename(&mut self, session: u32, new: u32) -> Option<User> {
        let old = self.names.insert(session, new).unwrap();
        let user = self.users.remove(&old).unwrap();
        self.users.insert(new, user);
        if self.readers.contains(&old) {
            self.readers.insert(new);
        }
        let until = |name| self.mutes.get(&name).map(|until| until.unwrap_or(u64::MAX));
        if old != new && until(old) > until(new) {
            self.mutes.insert(new, self.mutes[&old]);
        }
        let is_expelled = self.bans.contains_key(&new) && !is_admin(session);
        is_expelled.then(|| self.users.remove(&new).unwrap())
    }
}

fn name(n: u32) -> Nickname {
    Nickname::parse(&format!("user{n}")).unwrap()
}

/// Each session goes by an index of the model, and by a key that changes when it goes on as another.
struct Keys(BTreeMap<u32, u32>);

impl Keys {
    fn of(&self, session: u32) -> SessionRef {
        SessionRef { node: 0, core: 1, session: Id { index: session, generation: self.0[&session] } }
    }

    fn of_all<'a>(&self, sessions: impl IntoIterator<Item = &'a u32>) -> Vec<SessionRef> {
        sessions.into_iter().map(|session| self.of(*session)).collect()
    }
}

fn sorted(sessions: impl IntoIterator<Item = SessionRef>) -> Vec<SessionRef> {
    let mut sessions: Vec<_> = sessions.into_iter().collect();
    sessions.sort();
    sessions
}

fn reason(refusal: Refusal) -> Reason {
    refusal.reason
}

fn compare(room: &mut Room, model: &Model, keys: &Keys) -> Result<(), TestCaseError> {
    prop_assert_eq!(room.len(), model.users.len());
    prop_assert_eq!(room.list(None, 100).count(), model.users.len());
    for (member, (n, user)) in room.list(None, 100).zip(&model.users) {
        prop_assert_eq!((&member.nickname, member.role), (&name(*n), user.role));
        prop_assert_eq!(member.is_connected(), user.sessions.values().any(|is_connected| *is_connected));
        prop_assert_eq!(member.is_admin(), model.has_admin(*n));
        prop_assert_eq!(sorted(member.sessions()), keys.of_all(user.sessions.keys()));
        for session in 0..SESSIONS {
            let is_connected = user.sessions.get(&session) == Some(&true);
            prop_assert_eq!(member.is_connected_in(keys.of(session)), is_connected);
        }
    }
    for session in 0..SESSIONS {
        let member = room.member(keys.of(session)).map(|member| member.nickname.clone());
        prop_assert_eq!(member, model.user_of(session).map(name));
        let spoken = room.speaker(keys.of(session), model.now).map_err(reason);
        prop_assert_eq!(spoken, model.speak(session).map(name));
    }
    for n in 0..NAMES {
        prop_assert_eq!(room.is_banned(name(n).folded(), model.now), model.bans.contains_key(&n));
        let is_in = room.member_named(name(n).folded()).is_some_and(|member| member.nickname == name(n));
        prop_assert_eq!(is_in, model.users.contains_key(&n));
        prop_assert!(!is_in || !model.bans.contains_key(&n) || model.has_admin(n), "a banned user is in");
    }
    let may_speak = room.list(None, 100).any(|member| member.role != Role::Guest);
    let has_host = room.list(None, 100).any(|member| member.role == Role::Host);
    prop_assert!(model.is_lobby || has_host || !may_speak, "nobody leads those who speak");
    let state: Vec<_> = room.state().map(|(key, value, version)| (key, (value.len(), version))).collect();
    prop_assert_eq!(state, model.state.iter().map(|(key, value)| (*key, *value)).collect::<Vec<_>>());
    prop_assert_eq!(room.offset(), model.offset);
    let kept = room.history().after(0).map(|entry| entry.offset);
    prop_assert!(kept.eq(model.offset.saturating_sub(4).max(1)..=model.offset));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn a_room_is_as_its_model(ops in prop::collection::vec(op(), 1..80), is_lobby in any::<bool>()) {
        let mut room = Room::new(RoomName::parse(if is_lobby { "Lobby" } else { "den" }).unwrap(), "e".into(), BOUNDS);
        let names = (0..SESSIONS).map(|session| (session, session / 2 % 4)).collect();
        let mut model = Model { is_lobby, now: 1000, names, ..Model::default() };
        let mut keys = Keys((0..SESSIONS).map(|session| (session, 0)).collect());
        for op in ops {
            let now = model.now;
            match op {
                Op::Pass(ms) => model.pass(ms),
                Op::Join(s) => {
                    let entrant =
                        Entrant { session: keys.of(s), nickname: name(model.names[&s]), is_admin: is_admin(s) };
                    let entered = room.join(entrant, now).map_err(reason);
                    prop_assert_eq!(entered.map(|e| (e.role, e.is_new_user, e.was_away)), model.join(s));
                }
                Op::Leave(s) => {
                    let expected = model.user_of(s).map(|n| {
                        let user = model.users.get_mut(&n).unwrap();
                        user.sessions.remove(&s);
                        let is_gone = user.sessions.is_empty();
                        if is_gone { model.users.remove(&n); }
                        let heir = model.succeed();
                        Departure { nickname: name(n), is_gone, heir: heir.map(name) }
                    });
                    prop_assert_eq!(room.leave(keys.of(s)), expected);
                }
                Op::Detach(s) => {
                    let expected = model.user_of(s).map(|n| {
                        let sessions = &mut model.users.get_mut(&n).unwrap().sessions;
                        let was_connected = sessions.insert(s, false) == Some(true);
                        was_connected && !sessions.values().any(|is_connected| *is_connected)
                    });
                    prop_assert_eq!(room.detach(keys.of(s)), expected);
                }
                Op::Attach(s) => {
                    let expected = model.user_of(s).map(|n| {
                        let sessions = &mut model.users.get_mut(&n).unwrap().sessions;
                        let was_away = !sessions.values().any(|is_connected| *is_connected);
                        sessions.insert(s, true);
                        was_away
                    });
                    let old = keys.of(s);
                    *keys.0.get_mut(&s).unwrap() += u32::from(!now.is_multiple_of(3)); // also as itself
                    prop_assert_eq!(room.attach(old, keys.of(s)), expected);
                }
                Op::Rename(s, n) => {
                    let Some(old) = model.user_of(s) else { continue };
                    // Only users with one session are renamed, and to nicknames that nobody has.
                    if model.users[&old].sessions.len() > 1 || (n != old && model.users.contains_key(&n)) { continue; }
                    let expelled = model.rename(s, n);
                    let heir = expelled.as_ref().and_then(|_| model.succeed());
                    let renamed = room.rename(keys.of(s), name(n), now).unwrap();
                    prop_assert_eq!(renamed.old, name(old));
                    let expected = expelled.map(|user| (name(n), keys.of_all(user.sessions.keys()), heir.map(name)));
                    let expelled = renamed.expelled.map(|e| (e.nickname, sorted(e.sessions), e.heir));
                    prop_assert_eq!(expelled, expected);
                }
                Op::SetRole(s, n, role) => {
                    let changed = room.set_role(keys.of(s), &name(n), role, now).map_err(reason);
                    prop_assert_eq!(changed.map(|change| change.is_changed), model.set_role(s, n, role));
                }
                Op::Moderate(s, action, n, ms) => {
                    let until = ms.map(|ms| now + ms);
                    let verdict = room.moderate(keys.of(s), action, &name(n), None, until, now).map_err(reason);
                    let expected = model.moderate(s, action, n, until).map(|expelled| {
                        expelled.map(|(user, heir)| (name(n), keys.of_all(user.sessions.keys()), heir.map(name)))
                    });
                    let expelled =
                        verdict.map(|v| v.expelled.map(|e| (e.nickname, sorted(e.sessions), e.heir)));
                    prop_assert_eq!(expelled, expected);
                }
                Op::SetState(s, key, bytes) => {
                    let (key, before) = (KEYS[key], model.version);
                    let value = bytes.map(|bytes| Arc::from("x".repeat(bytes)));
                    let change = room.set_state(keys.of(s), key, value, now).map_err(reason);
                    let is_there = model.state.contains_key(key);
                    let expected = match (model.speak(s), bytes) {
                        (Err(reason), _) => Err(reason),
                        _ if key.contains('\n') => Err(Reason::BadRequest),
                        (_, Some(9..)) => Err(Reason::TooLarge),
                        (_, Some(_)) if !is_there && model.state.len() == 2 => Err(Reason::Forbidden),
                        (_, Some(bytes)) => {
                            model.version += 1;
                            model.state.insert(key, (bytes, model.version));
                            Ok(true)
                        }
                        (_, None) => {
                            model.version += u64::from(is_there);
                            Ok(model.state.remove(key).is_some())
                        }
                    };
                    if let Ok(change) = &change {
                        prop_assert_eq!((change.version, change.version > before), (model.version, change.is_changed));
                    }
                    prop_assert_eq!(change.map(|change| change.is_changed), expected);
                }
                Op::Publish(s) => {
                    if let Ok(sender) = room.speaker(keys.of(s), now) {
                        model.offset += 1;
                        prop_assert_eq!(room.publish(sender, "hi".into(), now).offset, model.offset);
                    }
                }
            }
            compare(&mut room, &model, &keys)?;
        }
    }
}
