//! What a room decides, one rule after the other.

use serde::de::IntoDeserializer;

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
    SessionRef { node: 0, core: 0, session: Id { index, generation: 0 } }
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
fn what_is_held_against_a_nickname_holds_for_its_pushes_too() {
    let mut den = room("den");
    for n in 1..=4 {
        enter(&mut den, n).unwrap();
    }
    let until_ms = Some(100);
    den.moderate(session(1), Action::Mute, &name(2), None, until_ms, 0).unwrap();
    den.moderate(session(1), Action::Ban, &name(3), None, until_ms, 0).unwrap();
    den.set_role(session(1), &name(4), Role::Guest, 0).unwrap();
    assert_eq!(reason(den.check_push(&name(2), false, 99)), Reason::Muted);
    assert_eq!(reason(den.check_push(&name(3), false, 99)), Reason::Banned);
    assert_eq!(reason(den.check_push(&name(4), false, 99)), Reason::Forbidden);
    for (n, is_admin, now_ms) in
        [(2, false, 100), (3, false, 100), (2, true, 0), (3, true, 0), (4, true, 0), (9, false, 0)]
    {
        assert_eq!(den.check_push(&name(n), is_admin, now_ms), Ok(()), "{n}");
    }
    assert_eq!(den.len(), 3, "nobody has become a member for it");
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
    assert_eq!((den.state_of("b").map(|value| &**value), den.state_of("a")), (Some("2"), None));

    // Restored in any order it goes on counting where it was, also when the last change has deleted a key.
    let mut again = room("den");
    enter(&mut again, 1).unwrap();
    for (key, value, version) in den.state().collect::<Vec<_>>().into_iter().rev() {
        again.restore_state(key.into(), value.clone(), version);
    }
    assert!(again.state().eq(den.state()));
    assert_eq!(again.set_state(session(1), "d", None, 0).unwrap().version, 6);
    again.restore_state_version(9);
    again.restore_state_version(7);
    assert_eq!(again.set_state(session(1), "d", Some("5".into()), 0).unwrap().version, 10);
    // Bounds are for bytes, and what is just within them is.
    assert!(
        again.set_state(session(1), "12345678", Some("1234567890123456".into()), 0).is_err(),
        "one key too many"
    );
    again.set_state(session(1), "d", None, 0).unwrap();
    again.set_state(session(1), "12345678", Some("1234567890123456".into()), 0).unwrap();
}

#[test]
fn who_may_speak_leads_those_who_only_read() {
    let mut den = room("den");
    for n in 1..=2 {
        enter(&mut den, n).unwrap();
    }
    den.set_role(session(1), &name(2), Role::Guest, 0).unwrap();
    assert_eq!(den.leave(session(1)).unwrap().heir, None);
    assert_eq!(enter(&mut den, 3).unwrap().role, Role::Host, "a room with speakers has a host");
    assert_eq!(enter(&mut den, 4).unwrap().role, Role::Member);
    for n in 3..=4 {
        den.leave(session(n)).unwrap();
    }
    den.join(Entrant { session: session(5), nickname: name(2), is_admin: true }, 0).unwrap();
    let set = |den: &mut Room, role| den.set_role(session(5), &name(2), role, 0);
    assert_eq!(reason(set(&mut den, Role::Member)), Reason::Forbidden, "who speaks there has to be host");
    assert!(set(&mut den, Role::Host).unwrap().is_changed);
    assert_eq!(reason(set(&mut den, Role::Guest)), Reason::Forbidden, "the last host");
}

#[test]
fn a_new_nickname_shortens_no_mute() {
    let mut den = room("den");
    for n in 1..=3 {
        enter(&mut den, n).unwrap();
    }
    let mute = |den: &mut Room, whom, until| {
        den.moderate(session(1), Action::Mute, &name(whom), None, until, 0).unwrap();
    };
    mute(&mut den, 2, Some(10));
    mute(&mut den, 20, None);
    mute(&mut den, 3, Some(10));
    mute(&mut den, 30, Some(500));
    den.rename(session(2), name(20), 5).unwrap();
    assert_eq!(reason(den.speaker(session(2), 1_000_000)), Reason::Muted, "for good");
    den.rename(session(3), name(30), 20).unwrap();
    assert_eq!(reason(den.speaker(session(3), 499)), Reason::Muted, "one that is over ends no other");
    den.speaker(session(3), 500).unwrap();
    for (before, own, expected) in [
        (Some(500), Some(10), "for before, 500"),
        (None, Some(10), "for before, never"),
        (Some(500), Some(500), "for own, 500"),
        (Some(500), Some(900), "for own, 900"),
    ] {
        let mut den = room("den");
        for n in 1..=2 {
            enter(&mut den, n).unwrap();
        }
        for (whom, why, until) in [(2, "for before", before), (20, "for own", own)] {
            den.moderate(session(1), Action::Mute, &name(whom), Some(why.into()), until, 0).unwrap();
        }
        den.rename(session(2), name(20), 0).unwrap();
        let refusal = den.speaker(session(2), 0).unwrap_err();
        let (_, why) = refusal.message.split_once(": ").unwrap();
        let end = refusal.retry_after_ms.map_or("never".to_owned(), |ms| ms.to_string());
        assert_eq!(format!("{why}, {end}"), expected, "the one that ends last");
    }

    let mut den = room("den");
    for n in 1..=2 {
        enter(&mut den, n).unwrap();
    }
    mute(&mut den, 2, Some(10));
    den.rename(session(2), name(20), 10).unwrap();
    assert_eq!(den.restrictions.len(), 1, "what is over is not held against another nickname");
}

#[test]
fn nobody_fills_the_table_with_nicknames() {
    let mut den = room("den");
    for n in 1..=2 {
        enter(&mut den, n).unwrap();
    }
    den.moderate(session(1), Action::Mute, &name(2), None, None, 0).unwrap();
    for n in 100..120 {
        den.rename(session(2), name(n), 0).unwrap();
        assert_eq!(reason(den.speaker(session(2), 0)), Reason::Muted);
        assert!(den.restrictions.len() <= BOUNDS.restrictions);
    }
    for n in [50, 51] {
        den.moderate(session(1), Action::Ban, &name(n), None, None, 0).unwrap();
    }
    assert_eq!(reason(den.speaker(session(2), 0)), Reason::Muted, "who is here stays muted");
    assert!(den.restrictions.len() <= BOUNDS.restrictions);
}

#[test]
fn powers_are_of_a_session_and_not_of_its_user() {
    let mut den = room("den");
    enter(&mut den, 1).unwrap();
    enter(&mut den, 2).unwrap();
    let join = |den: &mut Room, index, is_admin| {
        den.join(Entrant { session: session(index), nickname: name(3), is_admin }, 0).unwrap()
    };
    join(&mut den, 3, false);
    join(&mut den, 4, true);
    let kick = |den: &mut Room, by| den.moderate(session(by), Action::Kick, &name(2), None, None, 0);
    assert_eq!(reason(kick(&mut den, 3)), Reason::Forbidden, "another session's token says so");
    let kicked = den.moderate(session(1), Action::Kick, &name(3), None, None, 0);
    assert_eq!(reason(kicked), Reason::Forbidden, "one of its sessions is an admin's");
    kick(&mut den, 4).unwrap();
    den.leave(session(4)).unwrap();
    assert!(!den.member(session(3)).unwrap().is_admin());
    den.moderate(session(1), Action::Kick, &name(3), None, None, 0).unwrap();
}

#[test]
fn an_admin_speaks_whatever_is_held_against_its_nickname() {
    let mut den = room("den");
    for n in 1..=2 {
        enter(&mut den, n).unwrap();
    }
    den.set_role(session(1), &name(2), Role::Guest, 0).unwrap();
    den.moderate(session(1), Action::Mute, &name(2), None, None, 0).unwrap();
    den.leave(session(2)).unwrap();
    let join = |den: &mut Room, index, is_admin| {
        den.join(Entrant { session: session(index), nickname: name(2), is_admin }, 0).unwrap()
    };
    join(&mut den, 3, true);
    assert_eq!(den.speaker(session(3), 0), Ok(name(2)));
    join(&mut den, 4, false);
    assert_eq!(
        reason(den.speaker(session(4), 0)),
        Reason::Forbidden,
        "a session of the same user, without the powers"
    );
}

#[test]
fn only_admins_change_the_role_of_an_admin() {
    let mut den = room("den");
    for n in 1..=2 {
        enter(&mut den, n).unwrap();
    }
    for n in 3..=4 {
        den.join(Entrant { session: session(n), nickname: name(n), is_admin: true }, 0).unwrap();
    }
    for role in [Role::Guest, Role::Member, Role::Host] {
        assert_eq!(reason(den.set_role(session(1), &name(3), role, 0)), Reason::Forbidden);
    }
    assert!(den.set_role(session(4), &name(3), Role::Guest, 0).unwrap().is_changed);
    den.set_role(session(1), &name(2), Role::Host, 0).unwrap();
    // Another session of the same user may say less, and what it does to its own user it does to itself.
    den.join(Entrant { session: session(5), nickname: name(1), is_admin: true }, 0).unwrap();
    assert!(den.set_role(session(1), &name(1), Role::Member, 0).unwrap().is_changed);
}

#[test]
fn a_room_is_kept_for_its_members_and_its_history() {
    let bounds = RoomBounds { history: history::Bounds { count: 10, bytes: 0, age_ms: 100 }, ..BOUNDS };
    let mut den = Room::new(RoomName::parse("den").unwrap(), "e1".into(), bounds);
    assert!(!den.is_worth_keeping(0));
    enter(&mut den, 1).unwrap();
    den.detach(session(1)).unwrap();
    assert!(den.is_worth_keeping(0), "one who is away is a member");
    assert_eq!(den.publish(name(1), "a".into(), 50), Stamp { offset: 1, timestamp_ms: 50 });
    assert_eq!(den.publish(name(1), "b".into(), 40), Stamp { offset: 2, timestamp_ms: 50 }, "never earlier");
    den.leave(session(1)).unwrap();
    assert!(den.is_worth_keeping(149));
    assert!(!den.is_worth_keeping(150));
    assert_eq!(den.offset(), 2);
}

#[test]
fn members_are_listed_a_page_at_a_time() {
    let mut den = room("den");
    for n in [4, 2, 3, 1] {
        enter(&mut den, n).unwrap();
    }
    let names = |after: Option<&str>, limit| -> Vec<String> {
        den.list(after, limit).map(|member| member.nickname.folded().to_owned()).collect()
    };
    assert_eq!(names(None, 2), ["user1", "user2"]);
    assert_eq!(names(Some("user2"), 9), ["user3", "user4"]);
    assert_eq!(names(Some("user25"), 1), ["user3"], "after somebody who is not here");
    assert!(names(Some("user4"), 9).is_empty());
}

#[test]
fn what_is_held_is_written_down_and_holds_again() {
    let mut den = room("den");
    for n in 1..=3 {
        enter(&mut den, n).unwrap();
    }
    den.moderate(session(1), Action::Mute, &name(2), Some("noise".into()), Some(100), 0).unwrap();
    den.set_role(session(1), &name(3), Role::Guest, 0).unwrap();
    den.moderate(session(1), Action::Ban, &name(9), None, None, 0).unwrap();
    let rules = den.rules(99);
    assert_eq!(rules.hosts, ["user1"]);
    let nothing =
        Held { nickname: String::new(), ban: None, mute: None, only_reads: false, is_inherited: false };
    let mute = HeldSentence { until_ms: Some(100), reason: Some("noise".to_owned()) };
    let ban = HeldSentence { until_ms: None, reason: None };
    let expected = [
        Held { nickname: "user2".to_owned(), mute: Some(mute), ..nothing.clone() },
        Held { nickname: "user3".to_owned(), only_reads: true, ..nothing.clone() },
        Held { nickname: "user9".to_owned(), ban: Some(ban), ..nothing },
    ];
    assert_eq!(rules.held, expected);
    assert_eq!(den.rules(100).held, expected[1..], "what is over is not written down");

    let mut again = room("den");
    again.restore_restrictions(rules.held.clone());
    // The third of these is another session of the second's user.
    for (index, n, is_host) in [(1, 1, true), (2, 2, false), (4, 2, false), (3, 3, true)] {
        let entrant = Entrant { session: session(index), nickname: name(n), is_admin: false };
        again.restore_member(entrant, is_host, 0);
        assert!(!again.member(session(index)).unwrap().is_connected(), "{index} has yet to come back");
    }
    assert_eq!(again.rules(99), rules, "who only reads is no host");
    assert_eq!(again.len(), 3);
    assert_eq!(again.member(session(4)).unwrap().sessions().count(), 2);
    let refusal = again.speaker(session(2), 99).unwrap_err();
    assert_eq!((refusal.reason, refusal.retry_after_ms), (Reason::Muted, Some(1)));
    assert_eq!(refusal.message, "you are muted in this room: noise");
    again.speaker(session(2), 100).unwrap();
    assert_eq!(reason(again.speaker(session(3), 0)), Reason::Forbidden);
    assert_eq!(reason(enter(&mut again, 9)), Reason::Banned);
    assert_eq!(reason(again.check_reader(&name(9), 0)), Reason::Banned);
    assert_eq!(again.check_reader(&name(3), 0), Ok(()));
}

#[test]
fn a_restored_room_without_its_host_has_another() {
    let mut den = room("den");
    for n in [2, 3] {
        let entrant = Entrant { session: session(n), nickname: name(n), is_admin: false };
        den.restore_member(entrant, false, 0);
    }
    assert!(den.rules(0).hosts.is_empty());
    den.restore_host();
    assert_eq!(den.rules(0).hosts, ["user2"]);
    den.restore_host();
    assert_eq!(den.rules(0).hosts, ["user2"], "one is enough");
}

#[test]
fn rules_count_their_changes() {
    let mut den = room("den");
    let mut before = den.rules_version();
    let mut is_changed =
        |den: &Room| std::mem::replace(&mut before, den.rules_version()) < den.rules_version();
    enter(&mut den, 1).unwrap();
    assert!(is_changed(&den), "a host");
    enter(&mut den, 2).unwrap();
    den.publish(name(2), "hi".into(), 0);
    den.moderate(session(1), Action::Kick, &name(2), None, None, 0).unwrap();
    assert!(!is_changed(&den), "nothing to write down");
    for action in [Action::Ban, Action::Unban, Action::Mute, Action::Unmute] {
        den.moderate(session(1), action, &name(2), None, None, 0).unwrap();
        assert!(is_changed(&den), "{action:?}");
    }
    enter(&mut den, 2).unwrap();
    for role in [Role::Guest, Role::Member, Role::Host] {
        den.set_role(session(1), &name(2), role, 0).unwrap();
        assert!(is_changed(&den), "{role:?}");
    }
    den.rename(session(2), name(20), 0).unwrap();
    assert!(is_changed(&den), "a host of another nickname");
    den.leave(session(2)).unwrap();
    assert!(is_changed(&den), "one host less");
}

#[test]
fn roles_are_words() {
    let words = [(Role::Host, "host"), (Role::Member, "member"), (Role::Guest, "guest")];
    for (role, word) in words {
        assert_eq!((role.as_str(), Role::parse(word)), (word, Some(role)));
        let read: Result<Role, serde::de::value::Error> = Role::deserialize(word.into_deserializer());
        assert_eq!(read, Ok(role), "the same word where it is written down");
    }
    assert_eq!(Role::parse("admin"), None);
}

#[test]
fn other_bounds_hold_for_all_that_a_room_has() {
    let mut den = room("den");
    enter(&mut den, 1).unwrap();
    for _ in 0..5 {
        den.publish(name(1), "hi".into(), 0);
    }
    let history = history::Bounds { count: 2, bytes: 0, age_ms: 0 };
    den.set_bounds(RoomBounds { history, state_keys: 1, restrictions: 1, ..BOUNDS }, 0);
    assert_eq!(den.history().len(), 2);
    den.set_state(session(1), "a", Some("1".into()), 0).unwrap();
    assert_eq!(reason(den.set_state(session(1), "b", Some("1".into()), 0)), Reason::Forbidden);
    den.moderate(session(1), Action::Ban, &name(8), None, None, 0).unwrap();
    assert_eq!(reason(den.moderate(session(1), Action::Ban, &name(9), None, None, 0)), Reason::Forbidden);
}

#[test]
fn a_room_that_remembers_nothing_waits_for_no_store() {
    let bounds = RoomBounds { history: history::Bounds { count: 0, bytes: 0, age_ms: 0 }, ..BOUNDS };
    let mut den = Room::new(RoomName::parse("den").unwrap(), "e1".into(), bounds);
    den.history_mut().pin_after(0, 0);
    den.publish(name(1), "a".into(), 0);
    den.place(Stamp { offset: 2, timestamp_ms: 0 }, name(1), "b".into(), 0);
    assert_eq!((den.offset(), den.history().len()), (2, 0));
}

#[test]
fn who_speaks_is_active_and_who_is_only_asked_for_is_not() {
    let mut den = room("den");
    enter(&mut den, 1).unwrap();
    let active = |den: &Room| den.member(session(1)).unwrap().last_active_ms;
    den.check_speaker(session(1), 5).unwrap();
    assert_eq!(active(&den), 0);
    den.note_activity(session(1), 6);
    assert_eq!(active(&den), 6);
    den.speaker(session(1), 7).unwrap();
    assert_eq!(active(&den), 7);
}
