//! What a core goes on with after a start.

use std::sync::Arc;

use serde_json::{Value, json};
use starling::auth::resume::{ResumeKey, Ticket};
use starling::base::census::Census;
use starling::chat::name::{Nickname, RoomName};
use starling::config::Config;
use starling::record::{Restored, RestoredMembership, RestoredRoom, RestoredSession, Retention, SessionBody};
use starling::shard::Flock;
use starling::shard::restore::share_out;

use crate::cores::{Client, Cores};

/// A core that goes on with this.
fn restored(restored: Restored) -> Cores {
    let mut shares = Vec::new();
    let mut cores = Cores::made(
        1,
        |_| {},
        |flock| {
            flock.has_store = true;
            shares = share_out(restored, flock);
        },
    );
    cores.slow_store(true);
    cores.shards[0].restore(shares.remove(0));
    cores.settle();
    cores
}

/// A guest's session that has been in these rooms.
fn session(number: u64, revision: u64, nickname: &str, rooms: &[&str]) -> RestoredSession {
    let rooms = rooms.iter().map(|room| RestoredMembership { room: (*room).to_owned(), echo: true });
    let body = SessionBody { nickname: nickname.to_owned(), claims: None, rooms: rooms.collect() };
    RestoredSession { number, revision, body, inbox: Default::default(), receipts: Vec::new() }
}

/// Somebody comes back to it.
fn come_back(cores: &mut Cores, number: u64, nickname: &str) -> Client {
    let nickname = Nickname::parse(nickname).expect("a nickname");
    let resume = ResumeKey::new([0; 32]).issue(&Ticket { session: number, nickname, claims: None });
    cores.come_back(0, &json!({ "resume": resume }))
}

/// A room with three messages.
fn room(number: u64, name: &str, rules: Option<String>) -> RestoredRoom {
    RestoredRoom {
        number,
        name: RoomName::parse(name).expect("a name"),
        epoch: "e".into(),
        offset: 3,
        timestamp_ms: 5,
        first_kept: 1,
        retention: Retention { count: 1000, bytes: 16 << 20, age_ms: 0 },
        rules,
        state_version: 0,
        state: Vec::new(),
    }
}

#[test]
fn each_core_gets_the_rooms_that_live_on_it() {
    let mut flock = Flock::of_one(Arc::new(Config::default()), Arc::new(Census::new(0, 0)));
    flock.cores = 3;
    let names: Vec<String> = (0..9).map(|number| format!("room-{number}")).collect();
    let rooms = (100..).zip(&names).map(|(number, name)| room(number, name, None)).collect();
    let shares = share_out(Restored { rooms, ..Restored::default() }, &flock);
    assert_eq!(shares.len(), 3);
    for (core, share) in shares.iter().enumerate() {
        let here = (100..).zip(&names).filter(|(_, name)| usize::from(flock.home_of(name)) == core);
        let here: Vec<u64> = here.map(|(number, _)| number).collect();
        assert!(!here.is_empty(), "one of nine lives here");
        assert_eq!(share.room_numbers().collect::<Vec<_>>(), here);
    }
}

#[test]
fn roles_and_bans_are_as_they_were() {
    let rules = json!({ "hosts": ["Alice", "alice"], "held": [{ "nickname": "bob", "ban": {} }] });
    let room = room(7, "den", Some(rules.to_string()));
    let sessions =
        [(1, "carol"), (2, "bob"), (3, "alice")].map(|(number, name)| session(number, 1, name, &["den"]));
    let mut cores =
        restored(Restored { rooms: vec![room], sessions: sessions.into(), ..Restored::default() });
    let alice = come_back(&mut cores, 3, "alice");
    // His session had not heard of it.
    let bob = come_back(&mut cores, 2, "bob");
    assert_eq!(cores.events(bob), [json!({ "type": "left", "room": "den", "reason": "banned" })]);
    let members = cores.call(alice, r#"{"type":"members","room":"den"}"#);
    let roles: Vec<(&Value, &Value)> =
        members["members"].as_array().into_iter().flatten().map(|m| (&m["nickname"], &m["role"])).collect();
    assert_eq!(roles, [(&json!("alice"), &json!("host")), (&json!("carol"), &json!("member"))]);
}

#[test]
fn of_strangers_with_one_nickname_one_goes_on_and_the_other_is_written_off() {
    let sessions = vec![session(1, 4, "gil", &[]), session(2, 5, "Gil", &[])];
    let mut cores = restored(Restored { sessions, ..Restored::default() });
    assert_eq!(cores.written, ["SessionEnded { number: 2, revision: 6 }"]);
    assert_eq!(cores.total(|counters| &counters.away), 1);
    come_back(&mut cores, 1, "gil");
    let gone = Ticket { session: 2, nickname: Nickname::parse("Gil").expect("a nickname"), claims: None };
    let resume = ResumeKey::new([0; 32]).issue(&gone);
    assert_eq!(cores.greet(0, &json!({ "resume": resume })).1["reason"], "nickname_in_use");
    // The other one waits for its user as long as any.
    cores.pass(119_999);
    assert_eq!(cores.total(|counters| &counters.grace_expired), 0);
}

#[test]
fn a_room_gets_the_bounds_of_the_new_configuration() {
    let mut cores = Cores::stored(1, |_| {});
    let alice = cores.enter(0, "alice", &["den"]);
    cores.speak(alice, "den", "hi");
    let rooms = |cores: &Cores| cores.written.iter().filter(|record| record.starts_with("Room {")).count();
    assert_eq!(rooms(&cores), 1);
    let cores = cores.restarted(1, |_| {}, |_| {});
    assert_eq!(rooms(&cores), 0, "nothing has changed");
    let cores = cores.restarted(1, |config| config.history.count = 5, |_| {});
    assert_eq!(rooms(&cores), 1);
}
