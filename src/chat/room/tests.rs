//! A room against a plain model of one.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::base::slots::Id;

const BOUNDS: RoomBounds = RoomBounds {
    history: history::Bounds { count: 10, bytes: 0, age_ms: 0 },
    state_keys: 3,
    state_key_bytes: 8,
    state_value_bytes: 16,
    restrictions: 4,
};

fn session(index: u32) -> SessionRef {
    SessionRef { core: 0, session: Id { index, generation: 0 } }
}

fn name(n: u32) -> Nickname {
    Nickname::parse(&format!("user{n}")).unwrap()
}

fn room(name: &str) -> Room {
    Room::new(RoomName::parse(name).unwrap(), "e1".into(), BOUNDS)
}

fn enter(room: &mut Room, n: u32) -> Result<Entered, Refusal> {
    room.join(Entrant { session: session(n), nickname: name(n), is_admin: false }, 0)
}

fn reason<T: std::fmt::Debug>(result: Result<T, Refusal>) -> Reason {
    result.unwrap_err().reason
}

#[test]
fn the_first_member_is_host_but_in_the_lobby() {
    let mut den = room("den");
    assert_eq!(enter(&mut den, 1).unwrap().role, Role::Host);
    assert_eq!(enter(&mut den, 2).unwrap().role, Role::Member);
    assert_eq!(enter(&mut room("Lobby"), 1).unwrap().role, Role::Member);
}

#[test]
fn the_eldest_who_is_there_becomes_host() {
    let mut den = room("den");
    for n in 1..=4 {
        enter(&mut den, n).unwrap();
    }
    den.set_role(session(1), &name(2), Role::Guest, 0).unwrap();
    assert_eq!(den.detach(session(3)), Some(true));
    let left = den.leave(session(1)).unwrap();
    assert_eq!(left.heir, Some(name(4)), "2 only reads, 3 is away");
    assert_eq!(den.attach(session(3), session(33)), Some(true));
    assert_eq!(den.leave(session(4)).unwrap().heir, Some(name(3)));
    assert_eq!(den.leave(session(33)).unwrap().heir, None, "nobody is left who may speak");
    assert_eq!(den.leave(session(2)).unwrap(), Departure { nickname: name(2), is_gone: true, heir: None });
}

#[test]
fn a_user_has_several_sessions_and_is_one_member() {
    let mut den = room("den");
    let join = |den: &mut Room, index| {
        den.join(Entrant { session: session(index), nickname: name(1), is_admin: true }, 0).unwrap()
    };
    assert!(join(&mut den, 1).is_new_user);
    let second = join(&mut den, 2);
    assert!(!second.is_new_user && !second.was_away);
    assert_eq!(den.len(), 1);
    assert_eq!(den.detach(session(1)), Some(false), "the other one is there");
    assert_eq!(den.detach(session(2)), Some(true));
    assert_eq!(den.detach(session(2)), Some(false), "away already");
    assert!(join(&mut den, 2).was_away, "the same session again");
    assert!(!den.leave(session(1)).unwrap().is_gone);
    assert!(den.leave(session(2)).unwrap().is_gone);
    assert!(den.is_empty());
}

#[test]
fn bans_and_mutes_end_by_themselves_and_outlive_leaving() {
    let mut den = room("den");
    for n in 1..=2 {
        enter(&mut den, n).unwrap();
    }
    let why = || Some("noise".into());
    den.moderate(session(1), Action::Mute, &name(2), why(), Some(1000), 0).unwrap();
    let refusal = den.speaker(session(2), 400).unwrap_err();
    assert_eq!((refusal.reason, refusal.retry_after_ms), (Reason::Muted, Some(600)));
    assert!(refusal.message.ends_with(": noise"), "{}", refusal.message);
    den.leave(session(2)).unwrap();
    enter(&mut den, 2).unwrap();
    assert_eq!(reason(den.speaker(session(2), 999)), Reason::Muted);
    den.speaker(session(2), 1000).unwrap();

    let verdict = den.moderate(session(1), Action::Ban, &name(2), None, Some(5000), 2000).unwrap();
    assert_eq!(verdict.expelled.unwrap().sessions, [session(2)]);
    let again = Entrant { session: session(2), nickname: name(2), is_admin: false };
    assert_eq!(reason(den.join(again, 4999)), Reason::Banned);
    let again = Entrant { session: session(2), nickname: name(2), is_admin: false };
    den.join(again, 5000).unwrap();
    den.moderate(session(1), Action::Ban, &name(9), None, None, 0).unwrap();
    assert_eq!(reason(enter(&mut den, 9)), Reason::Banned, "banned while absent, for good");
    den.moderate(session(1), Action::Unban, &name(9), None, None, 0).unwrap();
    enter(&mut den, 9).unwrap();
    assert_eq!(reason(den.moderate(session(1), Action::Unban, &name(9), None, None, 0)), Reason::NoSuchUser);
}

#[test]
fn a_new_nickname_is_no_way_out() {
    let mut den = room("den");
    for n in 1..=3 {
        enter(&mut den, n).unwrap();
    }
    den.moderate(session(1), Action::Mute, &name(2), None, None, 0).unwrap();
    den.set_role(session(1), &name(3), Role::Guest, 0).unwrap();
    assert_eq!(den.rename(session(2), name(20), 0).unwrap().old, name(2));
    assert_eq!(reason(den.speaker(session(2), 0)), Reason::Muted);
    den.rename(session(3), name(30), 0).unwrap();
    den.leave(session(3)).unwrap();
    den.join(Entrant { session: session(3), nickname: name(30), is_admin: false }, 0).unwrap();
    assert_eq!(reason(den.speaker(session(3), 0)), Reason::Forbidden, "who only read still does");
    den.moderate(session(1), Action::Unmute, &name(20), None, None, 0).unwrap();
    den.moderate(session(1), Action::Unmute, &name(2), None, None, 0).unwrap();
    den.moderate(session(1), Action::Ban, &name(40), None, None, 0).unwrap();
    let renamed = den.rename(session(2), name(40), 0).unwrap();
    assert_eq!(renamed.expelled.unwrap().sessions, [session(2)], "into a banned one");
}

#[test]
fn only_hosts_and_admins_moderate() {
    let mut den = room("den");
    for n in 1..=2 {
        enter(&mut den, n).unwrap();
    }
    den.join(Entrant { session: session(3), nickname: name(3), is_admin: true }, 0).unwrap();
    let kick = |den: &mut Room, by, whom| den.moderate(session(by), Action::Kick, &name(whom), None, None, 0);
    assert_eq!(reason(kick(&mut den, 2, 1)), Reason::Forbidden);
    assert_eq!(reason(kick(&mut den, 8, 1)), Reason::NotAMember);
    assert_eq!(reason(kick(&mut den, 1, 8)), Reason::NoSuchUser);
    assert_eq!(reason(kick(&mut den, 1, 1)), Reason::BadRequest);
    assert_eq!(reason(kick(&mut den, 1, 3)), Reason::Forbidden, "an admin is nobody's to kick");
    assert_eq!(
        reason(den.set_role(session(1), &name(1), Role::Member, 0)),
        Reason::Forbidden,
        "the last host"
    );
    kick(&mut den, 3, 1).unwrap();
    let mut lobby = room("lobby");
    for n in 1..=2 {
        enter(&mut lobby, n).unwrap();
    }
    assert_eq!(reason(kick(&mut lobby, 1, 2)), Reason::Forbidden);
}

#[test]
fn what_is_held_against_nicknames_is_bounded() {
    let mut den = room("den");
    enter(&mut den, 1).unwrap();
    for n in 10..14 {
        den.moderate(session(1), Action::Ban, &name(n), None, Some(100), 0).unwrap();
    }
    assert_eq!(reason(den.moderate(session(1), Action::Ban, &name(14), None, None, 99)), Reason::Forbidden);
    den.moderate(session(1), Action::Ban, &name(14), None, None, 100).unwrap();
}

#[test]
fn state_has_bounds_and_one_counter() {
    let mut den = room("den");
    enter(&mut den, 1).unwrap();
    let mut set = |key: &str, value: Option<&str>| den.set_state(session(1), key, value.map(Arc::from), 0);
    assert_eq!(set("a", Some("1")).unwrap().version, 1);
    assert_eq!(set("b", Some("2")).unwrap().version, 2);
    let nothing = set("c", None).unwrap();
    assert!(nothing.version == 2 && !nothing.is_changed);
    assert_eq!(set("c", Some("3")).unwrap().version, 3);
    assert_eq!(reason(set("d", Some("4"))), Reason::Forbidden);
    assert_eq!(set("a", None).unwrap().version, 4);
    assert_eq!(set("d", Some("4")).unwrap().version, 5);
    assert_eq!(reason(set("", Some("4"))), Reason::BadRequest);
    assert_eq!(reason(set("a\nb", Some("4"))), Reason::BadRequest);
    assert_eq!(reason(set("123456789", Some("4"))), Reason::BadRequest);
    assert_eq!(reason(set("b", Some("12345678901234567"))), Reason::TooLarge);
    assert_eq!(reason(den.set_state(session(2), "a", None, 0)), Reason::NotAMember);
    let keys: Vec<_> = den.state().map(|(key, _, version)| (key, version)).collect();
    assert_eq!(keys, [("b", 2), ("c", 3), ("d", 5)]);
}

#[derive(Debug, Clone)]
enum Op {
    Join(u32, u32),
    Leave(u32),
    Detach(u32),
    Attach(u32, u32),
    Rename(u32, u32),
    SetRole(u32, u32, Role),
    Moderate(u32, Action, u32),
    Publish(u32),
}

fn op() -> impl Strategy<Value = Op> {
    let (s, n) = (0u32..12, 0u32..6);
    let role = prop_oneof![Just(Role::Host), Just(Role::Member), Just(Role::Guest)];
    let action = prop_oneof![
        Just(Action::Kick),
        Just(Action::Ban),
        Just(Action::Unban),
        Just(Action::Mute),
        Just(Action::Unmute)
    ];
    prop_oneof![
        6 => (s.clone(), n.clone()).prop_map(|(s, n)| Op::Join(s, n)),
        2 => s.clone().prop_map(Op::Leave),
        2 => s.clone().prop_map(Op::Detach),
        2 => (s.clone(), s.clone()).prop_map(|(a, b)| Op::Attach(a, b)),
        1 => (s.clone(), 6u32..9).prop_map(|(s, n)| Op::Rename(s, n)),
        2 => (s.clone(), n.clone(), role).prop_map(|(s, n, r)| Op::SetRole(s, n, r)),
        3 => (s.clone(), action, n).prop_map(|(s, a, n)| Op::Moderate(s, a, n)),
        2 => s.prop_map(Op::Publish),
    ]
}

proptest! {
    #[test]
    fn a_room_behaves_like_its_model(ops in prop::collection::vec(op(), 1..120), is_lobby in any::<bool>()) {
        let mut room = room(if is_lobby { "lobby" } else { "den" });
        // Who each session is, and whether it has a connection.
        let mut model: BTreeMap<u32, (Nickname, bool)> = BTreeMap::new();
        let mut offset = 0;
        for op in ops {
            match op {
                // A session has one user, and a user whose nickname another one took cannot come.
                Op::Join(s, n) if model.get(&s).is_none_or(|(nickname, _)| *nickname == name(n)) => {
                    let is_banned = room.is_banned(name(n).folded(), 0);
                    let was_empty = room.is_empty();
                    let known = model.values().any(|(nickname, _)| *nickname == name(n));
                    let was_away = known && !model.values().any(|(nickname, there)| *nickname == name(n) && *there);
                    let joined = room.join(Entrant { session: session(s), nickname: name(n), is_admin: false }, 0);
                    prop_assert_eq!(joined.is_err(), is_banned);
                    if let Ok(entered) = joined {
                        prop_assert_eq!((entered.is_new_user, entered.was_away), (!known, was_away));
                        prop_assert!(entered.role == Role::Host || !was_empty || is_lobby || entered.role == Role::Guest);
                        model.insert(s, (name(n), true));
                    }
                }
                Op::Leave(s) => {
                    let left = room.leave(session(s));
                    let was = model.remove(&s);
                    prop_assert_eq!(left.is_some(), was.is_some());
                    if let (Some(left), Some((nickname, _))) = (left, was) {
                        prop_assert_eq!(left.is_gone, !model.values().any(|(n, _)| *n == nickname));
                    }
                }
                Op::Detach(s) => {
                    prop_assert_eq!(room.detach(session(s)).is_some(), model.contains_key(&s));
                    if let Some((_, there)) = model.get_mut(&s) { *there = false; }
                }
                Op::Attach(old, new) if !model.contains_key(&new) || old == new => {
                    prop_assert_eq!(room.attach(session(old), session(new)).is_some(), model.contains_key(&old));
                    if let Some((nickname, _)) = model.remove(&old) { model.insert(new, (nickname, true)); }
                }
                // Only users with one session are renamed, to nicknames that nobody has.
                Op::Rename(s, n) if !model.values().any(|(nickname, _)| *nickname == name(n)) => {
                    let Some((nickname, _)) = model.get(&s).cloned() else { continue };
                    if model.values().filter(|(other, _)| *other == nickname).count() > 1 { continue; }
                    prop_assert_eq!(room.rename(session(s), name(n), 0).unwrap().old, nickname);
                    model.get_mut(&s).unwrap().0 = name(n);
                }
                Op::SetRole(s, n, role) => {
                    if room.set_role(session(s), &name(n), role, 0).is_ok() {
                        prop_assert_eq!(room.member_named(name(n).folded()).unwrap().role, role);
                    }
                }
                Op::Moderate(s, action, n) => {
                    if let Ok(verdict) = room.moderate(session(s), action, &name(n), None, None, 0) {
                        prop_assert!(!is_lobby);
                        if let Some(expelled) = verdict.expelled {
                            let gone: Vec<_> = model.iter().filter(|(_, (nickname, _))| *nickname == name(n)).map(|(s, _)| session(*s)).collect();
                            let mut sessions = expelled.sessions;
                            sessions.sort();
                            prop_assert_eq!(sessions, gone);
                            model.retain(|_, (nickname, _)| *nickname != name(n));
                        }
                        if action == Action::Ban { prop_assert!(room.is_banned(name(n).folded(), 0)); }
                    }
                }
                Op::Publish(s) => {
                    if let Ok(sender) = room.speaker(session(s), 0) {
                        prop_assert_eq!(&sender, &model[&s].0);
                        offset += 1;
                        prop_assert_eq!(room.publish(sender, "hi".into(), 0).offset, offset);
                    }
                }
                _ => {}
            }
            let users: std::collections::BTreeSet<String> = model.values().map(|(n, _)| n.folded().to_owned()).collect();
            prop_assert_eq!(room.len(), users.len());
            let listed: Vec<_> = room.list(None, 100).collect();
            prop_assert_eq!(listed.iter().map(|m| m.nickname.folded().to_owned()).collect::<Vec<_>>(), users.into_iter().collect::<Vec<_>>());
            for member in &listed {
                let there = model.values().any(|(n, there)| *n == member.nickname && *there);
                prop_assert_eq!(member.is_connected(), there);
                for session in member.sessions() {
                    prop_assert_eq!(&room.member(session).unwrap().nickname, &member.nickname);
                }
            }
            let has_host = listed.iter().any(|m| m.role == Role::Host);
            let may_lead = listed.iter().any(|m| m.role == Role::Member);
            prop_assert!(has_host || is_lobby || !may_lead, "nobody leads");
            prop_assert_eq!(room.history().len(), (offset as usize).min(10));
        }
    }
}
