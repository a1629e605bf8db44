//! Messages that are not in memory any more.

use serde_json::{Value, json};
use starling::config::Config;
use starling::shard::mail::Mail;
use starling::shard::reading::StoreRequest;

use crate::cores::{Client, Cores};

const MESSAGES: u64 = 20;

/// A room in which these messages have been said, of which the last five are in memory and the last 13 can be had.
fn begin(is_stored: bool) -> (Cores, Client) {
    let set = |config: &mut Config| {
        config.history.count = 13;
        config.history.memory_count = if is_stored { 5 } else { 13 };
        config.limits.query_limit_max = 100;
    };
    let mut cores = if is_stored { Cores::stored(1, set) } else { Cores::new(set) };
    let alice = cores.enter(0, "alice", &["den"]);
    for number in 1..=MESSAGES {
        cores.speak(alice, "den", &format!("message {number}"));
    }
    cores.events(alice);
    (cores, alice)
}

fn offsets(messages: &Value) -> Vec<u64> {
    let messages = messages.as_array().unwrap_or_else(|| panic!("{messages}"));
    let offset = |message: &Value| {
        let offset = message["offset"].as_u64().unwrap();
        assert_eq!(message["content"], format!("message {offset}"));
        offset
    };
    messages.iter().map(offset).collect()
}

#[test]
fn a_page_is_the_same_wherever_it_is_and_the_store_is_asked_only_for_what_it_alone_has() {
    let (mut cores, alice) = begin(true);
    let (first, memory_first) = (MESSAGES - 12, MESSAGES - 4);
    let bounds: Vec<Option<u64>> = std::iter::once(None).chain((0..=MESSAGES + 2).map(Some)).collect();
    for before in &bounds {
        for after in &bounds {
            for limit in [1, 2, 4, 5, 6, 12, 13, 14, 50] {
                let mut query = json!({ "type": "history", "room": "den", "limit": limit });
                for (name, bound) in [("before", before), ("after", after)] {
                    if let Some(bound) = bound {
                        query[name] = json!(bound);
                    }
                }
                let matching: Vec<u64> = (first..=MESSAGES)
                    .filter(|offset| before.is_none_or(|before| *offset < before))
                    .filter(|offset| after.is_none_or(|after| *offset > after))
                    .collect();
                let expected: Vec<u64> = match after {
                    Some(_) => matching.iter().take(limit).copied().collect(),
                    None => matching.iter().rev().take(limit).rev().copied().collect(),
                };
                let asked = cores.total(|counters| &counters.store_requests);
                let page = cores.call(alice, &query.to_string());
                assert_eq!(offsets(&page["messages"]), expected, "{query}");
                let is_asked = cores.total(|counters| &counters.store_requests) - asked;
                let is_elsewhere = expected.first().is_some_and(|offset| *offset < memory_first);
                assert_eq!(is_asked, u64::from(is_elsewhere), "{query}");
            }
        }
    }
}

#[test]
fn a_joiner_is_told_the_last_messages_wherever_they_are() {
    let (mut cores, _) = begin(true);
    for limit in 1..=15 {
        let asked = cores.total(|counters| &counters.store_requests);
        let bob = cores.enter(0, "bob", &[]);
        let joined = cores.call(bob, &json!({ "type": "join", "room": "den", "history": limit }).to_string());
        let count = limit.min(13);
        assert_eq!(offsets(&joined["messages"]), (MESSAGES + 1 - count..=MESSAGES).collect::<Vec<_>>());
        assert_eq!(cores.total(|counters| &counters.store_requests) - asked, u64::from(limit > 5), "{limit}");
        cores.say(bob, r#"{"type":"quit"}"#);
    }
}

#[test]
fn what_is_said_while_the_store_is_read_is_in_its_place() {
    // So many messages that all that was in memory has gone from there meanwhile.
    for meanwhile in [1, 3, 8] {
        let (mut cores, alice) = begin(true);
        let (bob, carol) = (cores.enter(0, "bob", &[]), cores.enter(0, "carol", &["den"]));
        cores.slow_store(true);
        cores.say(bob, r#"{"type":"join","room":"den","history":8}"#);
        cores.say(alice, r#"{"type":"history","room":"den","limit":8}"#);
        for number in MESSAGES + 1..=MESSAGES + meanwhile {
            cores.speak(carol, "den", &format!("message {number}"));
            cores.write();
            cores.settle();
        }
        while cores.read() {
            cores.settle();
        }
        let joined = cores.events(bob).into_iter().find(|event| event["type"] == "joined").unwrap();
        let last = MESSAGES + meanwhile;
        assert_eq!(offsets(&joined["messages"]), (last - 7..=last).collect::<Vec<_>>(), "{meanwhile}");
        let history = cores.events(alice).into_iter().find(|event| event["type"] == "history").unwrap();
        assert_eq!(offsets(&history["messages"]), (MESSAGES - 7..=MESSAGES).collect::<Vec<_>>());
    }
}

#[test]
fn whoever_has_missed_messages_gets_them_all_or_is_told_that_they_are_gone() {
    for is_stored in [false, true] {
        let (mut cores, alice) = begin(is_stored);
        let epoch = cores.call(alice, r#"{"type":"history","room":"den"}"#)["epoch"].clone();
        for offset in 0..=MESSAGES + 1 {
            let bob = cores.enter(0, "bob", &[]);
            let since = json!({ "epoch": epoch, "offset": offset });
            cores.say(bob, &json!({ "type": "join", "room": "den", "since": since }).to_string());
            let events = cores.events(bob);
            let is_there = (MESSAGES - 13..=MESSAGES).contains(&offset);
            assert_eq!(events[0]["recovered"], is_there, "{offset}");
            let heard: Vec<u64> = events[1..].iter().map(|event| event["offset"].as_u64().unwrap()).collect();
            let expected: Vec<u64> = if is_there { (offset + 1..=MESSAGES).collect() } else { Vec::new() };
            assert_eq!(heard, expected, "{offset}");
            cores.say(bob, r#"{"type":"quit"}"#);
        }
    }
}

#[test]
fn a_page_has_as_much_as_it_may_and_one_message_at_least() {
    let one = {
        let (mut cores, alice) = begin(false);
        let bob = cores.enter(0, "bob", &["den"]);
        cores.heard(bob);
        cores.speak(alice, "den", "message 21");
        cores.heard(bob).len()
    };
    for (bytes, expected) in [(1, 1), (2 * one, 2), (2 * one - 1, 1), (2 * one + 1, 2), (3 * one, 3)] {
        let (mut cores, alice) = begin(false);
        cores.reconfigure(|config| config.limits.replay_page_bytes = bytes);
        let epoch = cores.call(alice, r#"{"type":"history","room":"den"}"#)["epoch"].clone();
        let bob = cores.enter(0, "bob", &[]);
        cores.stall(bob, true);
        let since = json!({ "epoch": epoch, "offset": 10 });
        cores.say(bob, &json!({ "type": "join", "room": "den", "since": since }).to_string());
        cores.take(bob);
        assert_eq!(cores.told(bob, "message", "offset").len(), expected, "{bytes}");
    }
}

#[test]
fn a_store_that_does_not_answer_is_not_waited_for_long() {
    let (mut cores, alice) = begin(true);
    cores.slow_store(true);
    cores.say(alice, r#"{"type":"history","room":"den","limit":8,"id":"h"}"#);
    cores.pass(4999);
    assert_eq!(cores.events(alice), [json!(null); 0]);
    cores.pass(1);
    assert_eq!(cores.told(alice, "error", "reason"), ["store_down"]);
    assert_eq!(cores.total(|counters| &counters.store_overdue), 1);
    // An answer that comes after all is of no use, and the next question is one of its own.
    cores.slow_store(false);
    assert_eq!(cores.events(alice), [json!(null); 0]);
    let page = cores.call(alice, r#"{"type":"history","room":"den","limit":8}"#);
    assert_eq!(offsets(&page["messages"]).len(), 8);
    // Whoever joins is let in without what cannot be read.
    let bob = cores.enter(0, "bob", &[]);
    cores.slow_store(true);
    cores.say(bob, r#"{"type":"join","room":"den","history":8}"#);
    cores.pass(5000);
    let joined = cores.events(bob).into_iter().find(|event| event["type"] == "joined").unwrap();
    assert_eq!(offsets(&joined["messages"]), [16, 17, 18, 19, 20]);
}

#[test]
fn a_page_that_is_full_is_answered_from_memory_although_more_could_be_read() {
    let mut cores = Cores::stored(1, |config| {
        config.history.memory_count = 5;
        config.limits.history_page_bytes = 250;
    });
    let alice = cores.enter(0, "alice", &["den"]);
    for _ in 0..10 {
        cores.speak(alice, "den", &"x".repeat(100));
    }
    let page = cores.call(alice, r#"{"type":"history","room":"den","limit":5}"#);
    let offsets: Vec<u64> = page["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["offset"].as_u64().unwrap())
        .collect();
    assert_eq!(offsets, [9, 10]);
    assert_eq!(cores.total(|counters| &counters.store_requests), 0);
}

/// What the store is asked for next: how many messages, before which one.
fn asked(cores: &Cores) -> Option<(usize, u64)> {
    match cores.asked.front()? {
        (_, Mail::StoreRequest { request: StoreRequest::Page { page, .. }, .. }) => {
            Some((page.limit, page.before))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn whoever_joins_is_read_what_is_missing_once_however_few_messages_are_in_memory() {
    for memory_bytes in [1, 1000] {
        let mut cores = Cores::stored(1, |config| {
            config.history.memory_count = 2;
            config.history.memory_bytes = memory_bytes;
        });
        let alice = cores.enter(0, "alice", &["den"]);
        for number in 1..=MESSAGES {
            cores.speak(alice, "den", &format!("message {number}"));
        }
        let is_empty = cores.total(|counters| &counters.history_bytes) == 0;
        assert_eq!(is_empty, memory_bytes == 1);
        let bob = cores.enter(0, "bob", &[]);
        cores.slow_store(true);
        cores.say(bob, r#"{"type":"join","room":"den","history":8}"#);
        assert_eq!(asked(&cores), Some(if is_empty { (8, MESSAGES + 1) } else { (6, MESSAGES - 1) }));
        cores.read();
        cores.settle();
        assert_eq!(asked(&cores), None);
        let joined = cores.events(bob).remove(0);
        assert_eq!(offsets(&joined["messages"]), (MESSAGES - 7..=MESSAGES).collect::<Vec<_>>());
    }
}

#[test]
fn whoever_joins_where_more_is_said_than_can_be_read_is_in_after_eight_times() {
    let mut cores = Cores::stored(1, |config| config.history.memory_count = 2);
    let (alice, bob) = (cores.enter(0, "alice", &["den"]), cores.enter(0, "bob", &[]));
    let mut said = 0;
    let mut speak = |cores: &mut Cores| {
        for _ in 0..3 {
            said += 1;
            cores.speak(alice, "den", &format!("message {said}"));
        }
        cores.write();
        cores.settle();
        said
    };
    cores.slow_store(true);
    speak(&mut cores);
    cores.say(bob, r#"{"type":"join","room":"den","history":3}"#);
    for _ in 0..8 {
        assert_eq!(cores.events(bob), [json!(null); 0]);
        speak(&mut cores);
        assert!(cores.read());
        cores.settle();
    }
    assert_eq!(asked(&cores), None);
    let joined = cores.events(bob).into_iter().find(|event| event["type"] == "joined").unwrap();
    assert_eq!(offsets(&joined["messages"]), [26, 27], "what is in memory");
}

#[test]
fn whoever_has_missed_messages_gets_them_where_none_is_in_memory() {
    let mut cores = Cores::stored(1, |config| config.history.memory_bytes = 1);
    let alice = cores.enter(0, "alice", &["den"]);
    for number in 1..=MESSAGES {
        cores.speak(alice, "den", &format!("message {number}"));
    }
    assert_eq!(cores.total(|counters| &counters.history_bytes), 0);
    let epoch = cores.call(alice, r#"{"type":"history","room":"den"}"#)["epoch"].clone();
    for offset in 0..=MESSAGES {
        let bob = cores.enter(0, "bob", &[]);
        let since = json!({ "epoch": epoch, "offset": offset });
        let before = cores.total(|counters| &counters.store_requests);
        cores.say(bob, &json!({ "type": "join", "room": "den", "since": since }).to_string());
        let heard = cores.told(bob, "message", "offset");
        assert_eq!(heard, (offset + 1..=MESSAGES).map(|offset| json!(offset)).collect::<Vec<_>>());
        let asked = cores.total(|counters| &counters.store_requests) - before;
        assert_eq!(asked, u64::from(offset < MESSAGES), "one page");
        cores.say(bob, r#"{"type":"quit"}"#);
    }
}
