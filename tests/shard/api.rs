//! The HTTP API: in which order requests are asked and answered, and by whom.

use starling::auth::Claims;
use starling::config::{AckLevel, ListenKind};

use crate::answers::{Answer, ask, browser, request};
use crate::cores::{Client, Cores, programs};
use crate::tokens::{self, claims, token};

/// A request of a program to publish, with more fields.
fn publish(program: &str, room: &str, fields: &str) -> String {
    let body = r#"{"content":"x"}"#;
    let fields = format!("X-API-Key: {program}\r\nContent-Length: {}\r\n{fields}", body.len());
    request(&format!("POST /api/rooms/{room}/messages"), &fields) + body
}

/// All answers in what a client has heard, of which each has the length that it says.
fn answers(heard: &str) -> Vec<Answer> {
    let begins = heard.match_indices("HTTP/1.1 ").map(|(at, _)| at);
    let ends = begins.clone().skip(1).chain([heard.len()]);
    begins.zip(ends).map(|(begin, end)| Answer::of(&heard[begin..end])).collect()
}

fn statuses(heard: &str) -> Vec<u16> {
    answers(heard).iter().map(|answer| answer.status).collect()
}

fn answered(cores: &mut Cores) -> u64 {
    cores.shards[0].turn_ended(u64::MAX);
    cores.counters[0].http.answered().map(|(.., count)| count).sum()
}

#[test]
fn a_refusal_of_a_user_who_is_known_costs_the_connection_nothing() {
    let mut cores = Cores::new(|config| {
        config.auth.api_keys = programs(&["ci", "bot"]);
        (config.rate.commands_per_second, config.rate.burst) = (1, 3);
        (config.rate.user_commands_per_second, config.rate.user_burst) = (1, 1);
    });
    let limited = |cores: &Cores| {
        [&cores.counters[0].rate_limited_users, &cores.counters[0].rate_limited_connections]
            .map(|c| c.value())
    };
    let client = browser(&mut cores, 0, &publish("ci", "den", ""));
    assert_eq!(statuses(&cores.heard(client)), [200]);
    for _ in 0..5 {
        cores.receive(client, publish("ci", "den", "").as_bytes());
    }
    assert_eq!(statuses(&cores.heard(client)), [429; 5]);
    assert_eq!(limited(&cores), [5, 0]);
    // It has two left, of which another user's message takes one, and a wrong key the other.
    for program in ["bot", "nobody", "ci"] {
        cores.receive(client, publish(program, "den", "").as_bytes());
    }
    assert_eq!(statuses(&cores.heard(client)), [200, 401, 429]);
    assert_eq!(limited(&cores), [5, 1]);
}

#[test]
fn a_token_that_was_good_a_moment_ago_may_have_ended() {
    let mut cores = Cores::made(1, |_| {}, tokens::arrange);
    let expires_at_ms = Some(cores.unix_ms() + 2_000);
    let token = token(&Claims { expires_at_ms, ..claims("dora") });
    let said = request("GET /api/rooms", &format!("Authorization: Bearer {token}\r\n"));
    let client = browser(&mut cores, 0, &said);
    cores.pass(1_999);
    cores.receive(client, said.as_bytes());
    assert_eq!(statuses(&cores.heard(client)), [200, 200]);
    cores.pass(1);
    cores.receive(client, said.as_bytes());
    assert_eq!(Answer::of(&cores.heard(client)).error(), (401, "expired_token".to_owned()));
}

#[test]
fn requests_to_several_homes_are_answered_in_their_order() {
    let mut cores = Cores::of(3, |config| config.auth.api_keys = programs(&["ci"]));
    let rooms = [2, 0, 1, 0, 2, 2].map(|home| cores.name_at(home, "room"));
    let said: String = rooms.iter().map(|room| publish("ci", room, "")).collect();
    let client = browser(&mut cores, 0, &(said + &request("GET /health", "")));
    let answers = answers(&cores.heard(client));
    assert_eq!(answers.len(), rooms.len() + 1);
    for ((room, answer), offset) in rooms.iter().zip(&answers).zip([1, 1, 1, 2, 2, 3]) {
        let history = ask(&mut cores, 0, &format!("GET /api/rooms/{room}/history"), "").json();
        let place = answer.json();
        assert_eq!((&place["epoch"], &place["offset"]), (&history["epoch"], &offset.into()));
    }
}

#[test]
fn requests_go_on_when_half_of_those_under_way_are_answered() {
    let mut cores = Cores::of(2, |config| {
        config.auth.api_keys = programs(&["ci"]);
        config.limits.commands_in_flight = 4;
    });
    let client = cores.connect(0, ListenKind::Web);
    let one = publish("ci", &cores.name_at(1, "room"), "");
    cores.shards[0].receive(client.id, &mut one.repeat(9).into_bytes());
    let taken =
        |cores: &mut Cores, from: usize, to: usize| std::mem::take(&mut cores.shards[from].outboxes()[to]);
    let mut under_way = taken(&mut cores, 0, 1);
    assert_eq!(under_way.len(), 4);
    let mut asked = Vec::new();
    for _ in 0..4 {
        for mail in under_way.drain(..) {
            cores.shards[1].mail(mail);
        }
        for mail in taken(&mut cores, 1, 0) {
            cores.shards[0].mail(mail);
            let next = taken(&mut cores, 0, 1);
            asked.push(next.len());
            under_way.extend(next);
        }
    }
    assert_eq!(asked, [0, 2, 0, 2, 0, 1, 0, 0, 0]);
    cores.settle();
    assert_eq!(statuses(&cores.heard(client)), [200; 9]);
}

#[test]
fn a_connection_that_waits_for_an_answer_is_not_idle() {
    let mut cores = Cores::stored(1, |config| {
        config.auth.api_keys = programs(&["ci"]);
        config.store.ack = AckLevel::Stored;
        config.limits.http_idle_ms = 1_000;
    });
    cores.slow_store(true);
    let client = browser(&mut cores, 0, &publish("ci", "den", ""));
    let ends = |cores: &mut Cores, client: Client, ms: u64| {
        cores.pass(ms - 1);
        let before = cores.is_over(client);
        cores.pass(1);
        (before, cores.is_over(client))
    };
    assert_eq!(ends(&mut cores, client, 4_000), (false, false));
    cores.write();
    cores.settle();
    assert_eq!(statuses(&cores.heard(client)), [200]);
    assert_eq!(ends(&mut cores, client, 1_000), (false, true));
}

#[test]
fn nothing_that_follows_the_last_request_is_looked_at() {
    let mut cores = Cores::new(|config| config.auth.api_keys = programs(&["ci"]));
    let close = "Connection: close\r\n";
    let cases = [
        (request("GET /health", close), request("GET /health", "")),
        (publish("ci", "den", close), publish("ci", "den", "")),
        (request("GET /api/rooms/den/stream", ""), publish("ci", "den", "")),
    ];
    for (number, (last, more)) in cases.into_iter().enumerate() {
        let client = browser(&mut cores, 0, &(last + &more));
        let heard = cores.heard(client);
        let answers = answers(&heard);
        assert_eq!((answers.len(), answers[0].status), (1, 200), "{heard}");
        assert_eq!(answers[0].field("Connection"), Some("close"));
        assert_eq!(answered(&mut cores), number as u64 + 1);
        assert_eq!(cores.is_over(client), number < 2);
    }
    assert_eq!(cores.total(|counters| &counters.published), 1);
}

#[test]
fn who_does_not_read_the_answers_is_not_read_either() {
    let mut cores = Cores::new(|config| config.limits.output_pause_bytes = 4096);
    let health = request("GET /health", "");
    let one = cores.http(0, &health).len();
    let client = cores.connect(0, ListenKind::Web);
    cores.stall(client, true);
    cores.receive(client, health.repeat(100).as_bytes());
    let most = 4096 / one as u64 + 1;
    assert_eq!(answered(&mut cores), 1 + most);
    assert_eq!(cores.total(|counters| &counters.output_pauses), 1);
    cores.stall(client, false);
    assert_eq!(statuses(&cores.heard(client)), [200; 100]);
}

#[test]
fn a_turn_has_enough_when_its_answers_are_256_kibibytes() {
    let mut cores = Cores::new(|config| {
        config.limits.output_pause_bytes = 1 << 24;
        config.limits.send_queue_bytes = 1 << 24;
    });
    let alice = cores.enter(0, "alice", &["den"]);
    cores.speak(alice, "den", &"x".repeat(50_000));
    let history = request("GET /api/rooms/den/history", "");
    let one = cores.http(0, &history).len();
    let client = cores.connect(0, ListenKind::Web);
    let fit = (256 * 1024 - 1) / one;
    cores.shards[0].receive(client.id, &mut history.repeat(fit).into_bytes());
    assert!(!cores.shards[0].has_gathered_enough());
    cores.shards[0].receive(client.id, &mut history.into_bytes());
    assert!(cores.shards[0].has_gathered_enough());
    cores.settle();
    assert_eq!(statuses(&cores.heard(client)).len(), fit + 1);
    assert!(!cores.shards[0].has_gathered_enough());
}
