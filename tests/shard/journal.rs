//! What is written down, and the answers that wait for that.

use serde_json::json;
use starling::shard::reading::StoreNews;

use crate::cores::{Client, Cores};

/// A message that is to be acknowledged at this level, under this id.
fn say(cores: &mut Cores, client: Client, ack: &str, id: &str) {
    let line = json!({ "type": "message", "room": "den", "content": "hi", "ack": ack, "id": id });
    cores.say(client, &line.to_string());
}

/// What has been answered: the ids, each with its level, or the reason why not.
fn answers(cores: &mut Cores, client: Client) -> Vec<(String, String)> {
    let events = cores.events(client);
    let answers = events.iter().filter(|event| event["type"] == "ack" || event["type"] == "error");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    answers
        .map(|event| {
            let what = if event["type"] == "ack" { &event["level"] } else { &event["reason"] };
            (text(&event["id"]), text(what))
        })
        .collect()
}

fn of(answers: &[(&str, &str)]) -> Vec<(String, String)> {
    answers.iter().map(|(id, what)| ((*id).to_owned(), (*what).to_owned())).collect()
}

/// A store that takes nothing, and somebody in a room.
fn stuck() -> (Cores, Client) {
    let mut cores = Cores::stored(1, |_| {});
    cores.slow_store(true);
    let alice = cores.enter(0, "alice", &["den"]);
    (cores, alice)
}

#[test]
fn an_answer_waits_for_the_store_as_long_as_it_may_and_no_longer() {
    let (mut cores, alice) = stuck();
    let timers = cores.shards[0].inventory().timers;
    say(&mut cores, alice, "stored", "a");
    assert_eq!(cores.shards[0].inventory().timers, timers + 1);
    cores.pass(1_000);
    say(&mut cores, alice, "synced", "b");
    assert_eq!(cores.shards[0].inventory().timers, timers + 1, "one for all that wait");
    cores.pass(3_999);
    assert_eq!(answers(&mut cores, alice), []);
    cores.pass(1);
    assert_eq!(answers(&mut cores, alice), of(&[("a", "store_down")]));
    // As nobody knows when the store is back, what is to be stored is refused from now on; other messages are not.
    say(&mut cores, alice, "stored", "c");
    say(&mut cores, alice, "synced", "d");
    say(&mut cores, alice, "sequenced", "e");
    let at_once = of(&[("c", "store_down"), ("d", "store_down"), ("e", "sequenced")]);
    assert_eq!(answers(&mut cores, alice), at_once);
    assert_eq!(cores.total(|counters| &counters.store_refused), 2);
    cores.pass(999);
    assert_eq!(answers(&mut cores, alice), []);
    cores.pass(1);
    assert_eq!(answers(&mut cores, alice), of(&[("b", "store_down")]));
    assert_eq!(cores.total(|counters| &counters.store_overdue), 2);
    assert_eq!(cores.shards[0].inventory().store_waits, 0);
    // They have their places all the same.
    cores.slow_store(false);
    for (id, ack) in [("a", "stored"), ("b", "synced"), ("c", "stored")] {
        say(&mut cores, alice, ack, id);
    }
    let events = cores.events(alice);
    let acks = events.iter().filter(|event| event["type"] == "ack");
    let places: Vec<_> = acks.map(|event| (&event["id"], &event["offset"], &event["level"])).collect();
    let (a, b, c) = (json!("a"), json!("b"), json!("c"));
    let (stored, synced) = (json!("stored"), json!("synced"));
    assert_eq!(places, [(&a, &json!(1), &stored), (&b, &json!(2), &synced), (&c, &json!(4), &stored)]);
}

#[test]
fn the_store_is_trusted_again_when_it_has_got_on() {
    let (mut cores, alice) = stuck();
    let is_refused = |cores: &mut Cores, progress: Option<(u64, u64)>| {
        if let Some((stored, synced)) = progress {
            cores.tell(0, StoreNews::Progress { stored, synced });
        }
        say(cores, alice, "stored", "");
        let is_refused = answers(cores, alice) == of(&[("", "store_down")]);
        cores.pass(5_000);
        answers(cores, alice);
        is_refused
    };
    assert!(!is_refused(&mut cores, None));
    assert!(is_refused(&mut cores, None));
    assert!(is_refused(&mut cores, Some((0, 0))), "where it was is no progress");
    assert!(!is_refused(&mut cores, Some((1, 0))), "it has stored something");
    assert!(is_refused(&mut cores, Some((0, 0))), "nor is less");
    assert!(!is_refused(&mut cores, Some((1, 1))), "it has synced something");
    assert!(is_refused(&mut cores, Some((1, 1))));
}

#[test]
fn while_the_store_says_that_it_is_down_only_what_need_not_be_stored_is_taken() {
    let (mut cores, alice) = stuck();
    cores.tell(0, StoreNews::Down(Some("the disk is full".into())));
    let line = r#"{"type":"message","room":"den","content":"hi","ack":"synced","id":"a"}"#;
    let refused = cores.call(alice, line);
    assert_eq!((&refused["code"], &refused["reason"]), (&json!(503), &json!("store_down")));
    assert_eq!((&refused["retryable"], &refused["retry_after_ms"]), (&json!(true), &json!(1000)));
    assert_eq!(refused["message"], "the store is down: the disk is full");
    say(&mut cores, alice, "sequenced", "b");
    assert_eq!(answers(&mut cores, alice), of(&[("b", "sequenced")]));
    assert_eq!(cores.total(|counters| &counters.store_refused), 1);
    cores.enter(0, "bob", &[]);
    cores.tell(0, StoreNews::Down(None));
    say(&mut cores, alice, "synced", "a");
    assert!(cores.write());
    cores.settle();
    assert_eq!(answers(&mut cores, alice), of(&[("a", "synced")]));
}

#[test]
fn what_waits_for_the_store_is_counted() {
    let (mut cores, alice) = stuck();
    let count = |cores: &Cores| {
        let inventory = cores.shards[0].inventory();
        (inventory.store_waits, inventory.unstored, inventory.unwritten)
    };
    say(&mut cores, alice, "stored", "a");
    say(&mut cores, alice, "synced", "b");
    assert_eq!(count(&cores), (2, 2, 0));
    // In the turn itself, before anything of it is in the journal.
    for id in ["c", "d"] {
        let line = json!({ "type": "message", "room": "den", "content": "hi", "ack": "stored", "id": id });
        cores.shards[0].receive(alice.id, &mut format!("{line}\n").into_bytes());
    }
    assert_eq!(count(&cores), (4, 3, 1));
    cores.settle();
    assert_eq!(count(&cores), (4, 3, 0));
    assert!(cores.write());
    cores.settle();
    assert_eq!(count(&cores), (0, 0, 0));
    assert_eq!(answers(&mut cores, alice).len(), 4);
}

#[test]
fn what_is_stored_may_go_from_memory() {
    let mut cores = Cores::stored(1, |config| config.history.memory_count = 2);
    let alice = cores.enter(0, "alice", &["den"]);
    cores.slow_store(true);
    for _ in 0..5 {
        cores.speak(alice, "den", "hi");
    }
    let bytes =
        |cores: &Cores| (cores.shards[0].inventory().history_bytes, cores.total(|c| &c.history_bytes));
    let (before, _) = bytes(&cores);
    assert!(before > 0 && before % 5 == 0);
    assert!(cores.write());
    cores.settle();
    assert_eq!(bytes(&cores).0, before / 5 * 2);
    assert_eq!(bytes(&cores).1, before as u64 / 5 * 2);
    cores.slow_store(false);
    cores.speak(alice, "den", "hi");
    assert_eq!(bytes(&cores).0, before / 5 * 2);
}
