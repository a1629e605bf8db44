//! What happens when nothing does.

use std::collections::BTreeSet;

use serde_json::json;
use starling::config::ListenKind;

use crate::cores::{Client, Cores, token};

/// After how many milliseconds something has come for a client, and what.
fn next(cores: &mut Cores, client: Client, longest_ms: u64) -> Option<(u64, String)> {
    (1..=longest_ms).find_map(|ms| {
        cores.pass(1);
        let heard = cores.heard(client);
        (!heard.is_empty()).then_some((ms, heard))
    })
}

#[test]
fn whoever_says_nothing_is_asked_and_then_sent_away() {
    let mut cores = Cores::new(|config| {
        config.limits.detect_ms = 300;
        config.limits.hello_line_ms = 5000;
        config.limits.hello_ms = 2000;
    });
    let person = cores.connect(0, ListenKind::Line);
    let (ms, greeting) = next(&mut cores, person, 10_000).unwrap();
    assert_eq!((ms, greeting.as_str()), (300, "* welcome to starling: what is your nickname?\n"));
    let (ms, bye) = next(&mut cores, person, 10_000).unwrap();
    assert_eq!((ms, bye.contains("no_hello")), (4700, true), "{bye}");
    assert!(cores.is_over(person));
    assert_eq!(cores.total(|counters| &counters.no_hello), 1);

    let program = cores.connect(0, ListenKind::Line);
    cores.receive(program, b"{");
    let (ms, bye) = next(&mut cores, program, 10_000).unwrap();
    assert_eq!((ms, bye.contains("no_hello")), (2000, true), "{bye}");
    let framed = cores.connect(0, ListenKind::Frame);
    assert_eq!(next(&mut cores, framed, 10_000).unwrap().0, 2000);
    assert_eq!(cores.total(|counters| &counters.no_hello), 3);
    // A request that does not become complete is told; a connection without one is closed in silence.
    let half = cores.connect(0, ListenKind::Web);
    cores.receive(half, b"GET / HTTP/1.1\r\n");
    let (_, answer) = next(&mut cores, half, 100_000).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(cores.total(|counters| &counters.no_hello), 4);
    cores.http(0, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    let kept = cores.connect(0, ListenKind::Web);
    cores.receive(kept, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    cores.heard(kept);
    assert_eq!(next(&mut cores, kept, 200_000), None);
    assert!(cores.is_over(kept));
    assert_eq!(cores.total(|counters| &counters.no_hello), 4);
}

#[test]
fn silent_clients_are_asked_at_different_times_and_given_up_in_time() {
    for (probe_ms, timeout_ms) in [(1000, 3000), (1000, 1010)] {
        let mut cores = Cores::new(|config| {
            (config.heartbeat.probe_ms, config.heartbeat.timeout_ms) = (probe_ms, timeout_ms);
        });
        let clients: Vec<Client> =
            (0..20).map(|number| cores.enter(0, &format!("user{number}"), &[])).collect();
        let mut asked = Vec::new();
        for ms in 1..timeout_ms {
            cores.pass(1);
            for client in &clients {
                for event in cores.events(*client) {
                    assert_eq!(event["type"], "ping");
                    asked.push(ms);
                }
            }
        }
        let latest = (probe_ms / 8).min((timeout_ms - probe_ms) / 2);
        assert_eq!(asked.len(), 20);
        assert!(asked.iter().all(|ms| (probe_ms..probe_ms + latest).contains(ms)), "{asked:?}");
        let different: BTreeSet<u64> = asked.iter().copied().collect();
        assert!(different.len() as u64 >= latest.min(20) * 2 / 3, "{different:?}");
        assert_eq!(cores.total(|counters| &counters.timeouts), 0);
        // A word in time is enough.
        cores.say(clients[0], r#"{"type":"pong"}"#);
        cores.pass(1);
        assert_eq!(cores.total(|counters| &counters.timeouts), 19);
        assert!(!cores.is_over(clients[0]));
        assert_eq!(cores.told(clients[1], "bye", "code"), [4203]);
    }
}

#[test]
fn a_token_ends_its_session_to_the_millisecond() {
    let mut cores = Cores::new(|_| {});
    for kind in [ListenKind::Line, ListenKind::Frame] {
        let client = cores.connect(0, kind);
        let expires = cores.unix_ms() + 5000;
        let hello = json!({ "type": "hello", "token": token("alice", |claims| claims.expires_at_ms = Some(expires)) });
        match kind {
            ListenKind::Line => cores.say(client, &hello.to_string()),
            _ => {
                let payload = hello.to_string();
                let mut frame = vec![0xCA, 0xFE, 0xBA, 0xBE, 1];
                frame.extend((payload.len() as u32).to_be_bytes());
                frame.extend([0, 1]);
                frame.extend(payload.as_bytes());
                cores.receive(client, &frame);
            }
        }
        assert!(cores.heard(client).contains("welcome"));
        let (ms, bye) = next(&mut cores, client, 10_000).unwrap();
        assert_eq!((ms, bye.contains("expired_token")), (5000, true), "{bye}");
    }
    assert_eq!(cores.total(|counters| &counters.expired_tokens), 2);
    // People on text lines are not asked for a sign of life, but their tokens end as well.
    let person = cores.connect(0, ListenKind::Line);
    let expires = cores.unix_ms() + 200_000;
    cores.say(person, &format!("/token {}", token("bob", |claims| claims.expires_at_ms = Some(expires))));
    cores.heard(person);
    let (ms, bye) = next(&mut cores, person, 300_000).unwrap();
    assert_eq!((ms, bye.contains("expired_token")), (200_000, true), "{bye}");
}

#[test]
fn whoever_takes_none_of_its_answers_is_sent_away() {
    let mut cores = Cores::new(|config| {
        config.limits.output_pause_bytes = 1000;
        (config.heartbeat.probe_ms, config.heartbeat.timeout_ms) = (1000, 3000);
    });
    let alice = cores.enter(0, "alice", &[]);
    cores.stall(alice, true);
    for _ in 0..30 {
        cores.say(alice, r#"{"type":"ping"}"#);
    }
    cores.pass(2999);
    cores.take(alice);
    assert!(!cores.heard(alice).contains("bye"), "in time");
    for _ in 0..30 {
        cores.say(alice, r#"{"type":"ping"}"#);
    }
    cores.pass(3000);
    cores.take(alice);
    assert!(cores.heard(alice).contains("slow_consumer"));
    assert_eq!(cores.total(|counters| &counters.slow_consumers), 1);
}

#[test]
fn a_core_that_was_held_up_gives_everybody_their_time() {
    let mut cores = Cores::new(|config| {
        config.limits.output_pause_bytes = 1000;
        config.limits.close_ms = 2000;
        (config.heartbeat.probe_ms, config.heartbeat.timeout_ms) = (1000, 3000);
    });
    let alice = cores.enter(0, "alice", &[]);
    cores.stall(alice, true);
    for _ in 0..30 {
        cores.say(alice, r#"{"type":"ping"}"#);
    }
    // So long that all deadlines have passed by more than a second.
    cores.held_up(4000);
    cores.pass(2999);
    cores.take(alice);
    assert!(!cores.heard(alice).contains("bye"));
    // The same while it is to be closed.
    cores.say(alice, r#"{"type":"quit"}"#);
    cores.held_up(4000);
    cores.pass(1999);
    assert!(!cores.is_over(alice));
    cores.pass(1);
    assert!(cores.is_over(alice));
    assert!(!cores.heard(alice).contains("bye"));
}
