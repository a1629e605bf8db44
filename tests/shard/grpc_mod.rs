//! Connections of HTTP/2, and the calls on them.

use h2::Reason;
use prost::Message as _;
use starling::config::ListenKind;
use starling::proto::protobuf::schema::{self, Event, Message, command, event};

use crate::calls::{Caller, End, said, sent, status};
use crate::cores::Cores;
use crate::logs;

const STREAM: &str = "/chat.ChatService/StreamMessages";
const SEND: &str = "/chat.ChatService/SendMessage";
const CONNECT: &str = "/chat.ChatService/Connect";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

#[test]
fn a_connection_has_10_seconds_for_its_first_call() {
    let mut cores = Cores::new(|_| {});
    let silent = cores.connect(0, ListenKind::Grpc);
    let mut idle = Caller::new(&mut cores, 0);
    let mut busy = Caller::new(&mut cores, 0);
    let call = busy.call(&mut cores, CHECK, &[], &[Vec::new()], true);
    assert_eq!(busy.status(&mut cores, call), status(0, ""));
    cores.heard(silent);
    cores.pass(9_999);
    assert_eq!((cores.heard(silent).as_str(), cores.is_over(silent)), ("", false));
    idle.exchange(&mut cores);
    assert_eq!(idle.over, None);
    cores.pass(1);
    let words = cores.heard(silent);
    assert!(words.contains("no_hello") && cores.is_over(silent), "who has not even greeted: {words}");
    idle.exchange(&mut cores);
    cores.pass(1_000);
    idle.exchange(&mut cores);
    assert_eq!(idle.over, Some(None), "it is told to go, by no error");
    assert_eq!(cores.total(|counters| &counters.no_hello), 2);
    busy.exchange(&mut cores);
    assert_eq!(busy.over, None, "somebody who has called stays");
    // Until it gives no sign of life.
    cores.pass(40_000);
    busy.exchange(&mut cores);
    cores.pass(80_000);
    assert!(!cores.is_over(busy.client), "it has answered once");
    cores.pass(20_000);
    assert!(cores.is_over(busy.client));
    assert_eq!(cores.total(|counters| &counters.timeouts), 1);
}

#[test]
fn who_finds_no_place_is_told_so() {
    let mut cores = Cores::new(|config| config.limits.connections = 1);
    cores.connect(0, ListenKind::Grpc);
    let mut second = Caller::new(&mut cores, 0);
    second.exchange(&mut cores);
    assert_eq!(second.over, Some(Some(Reason::ENHANCE_YOUR_CALM)));
    let third = cores.connect(0, ListenKind::Grpc);
    assert!(cores.heard(third).contains("too_many_connections") && cores.is_over(third));
    assert_eq!(cores.total(|counters| &counters.refused_connections), 2);
}

#[test]
fn who_does_not_read_is_not_read_and_misses_nothing() {
    let mut cores = Cores::new(|config| config.limits.http2_output_bytes = 16_384);
    let alice = cores.enter(0, "alice", &["den"]);
    let mut caller = Caller::new(&mut cores, 0);
    let stream = caller.call(&mut cores, STREAM, &[("nickname", "bob"), ("room", "den")], &[], false);
    cores.stall(caller.client, true);
    for number in 0..300 {
        cores.speak(alice, "den", &format!("{number:01000}"));
    }
    let pings = |cores: &mut Cores| {
        let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], b"are you?"].concat();
        cores.receive(caller.client, &ping.repeat(2_000));
    };
    assert!(cores.shards[0].wants_input(caller.client.id));
    pings(&mut cores);
    assert!(!cores.shards[0].wants_input(caller.client.id), "each wants an answer");
    assert_eq!(cores.total(|counters| &counters.output_pauses), 1);
    cores.stall(caller.client, false);
    assert!(cores.shards[0].wants_input(caller.client.id));
    let messages = caller.heard::<Message>(&mut cores, stream);
    let numbers = messages.iter().map(|message| message.content.parse().expect("a number"));
    assert_eq!(numbers.collect::<Vec<u32>>(), (0..300).collect::<Vec<u32>>());
    assert_eq!(caller.status(&mut cores, stream), None);
}

#[test]
fn a_call_that_is_not_read_is_cut_off_and_the_others_go_on() {
    let mut cores = Cores::new(|config| config.limits.send_queue_bytes = 32_768);
    let alice = cores.enter(0, "alice", &["den"]);
    let mut caller = Caller::new(&mut cores, 0);
    let [deaf, fine] = ["bob", "carol"]
        .map(|name| caller.call(&mut cores, STREAM, &[("nickname", name), ("room", "den")], &[], false));
    caller.deafen(deaf, true);
    let mut heard = 0;
    for _ in 0..200 {
        cores.speak(alice, "den", &"x".repeat(1_000));
        heard += caller.heard::<Message>(&mut cores, fine).len();
    }
    assert_eq!((heard, cores.total(|counters| &counters.slow_consumers)), (200, 1));
    assert_eq!(cores.total(|counters| &counters.calls_open), 2, "it has its time to take the last words");
    cores.pass(5_000);
    assert_eq!(cores.total(|counters| &counters.calls_open), 1);
    caller.exchange(&mut cores);
    caller.deafen(deaf, false);
    assert_eq!(caller.end_of(&mut cores, deaf), Some(End::Reset(Some(Reason::CANCEL))));
    // By the call that is left its user is known, and by the one that is gone nobody.
    let send = |name: &str| vec![sent(said(name, "den", "y"))];
    let call = caller.call(&mut cores, SEND, &[], &send("carol"), true);
    assert_eq!(caller.status(&mut cores, call), status(0, ""));
    assert_eq!(caller.heard::<Message>(&mut cores, fine).len(), 1);
    caller.end(&mut cores, fine);
    assert_eq!(caller.status(&mut cores, fine), status(0, ""));
    assert_eq!(cores.total(|counters| &counters.calls_open), 0);
    assert_eq!(cores.total(|counters| &counters.connections), 2);
    assert_eq!(caller.over, None);
}

#[test]
fn a_client_that_only_listens_is_asked_for_a_sign_of_life() {
    let mut cores = Cores::new(|_| {});
    let alice = cores.enter(0, "alice", &["den"]);
    let mut caller = Caller::new(&mut cores, 0);
    let bob = caller.call(&mut cores, CONNECT, &[], &[], false);
    let command = |kind| schema::Command { id: String::new(), kind: Some(kind) };
    let hello = schema::Hello { nickname: "bob".into(), ..schema::Hello::default() };
    caller.say(&mut cores, bob, &command(command::Kind::Hello(hello)));
    caller.say(
        &mut cores,
        bob,
        &command(command::Kind::Join(schema::Join { room: "den".into(), ..schema::Join::default() })),
    );
    caller.heard::<Event>(&mut cores, bob);
    let mut pinged_at = Vec::new();
    for second in 1..=40 {
        cores.pass(1_000);
        cores.speak(alice, "den", "x");
        let events = caller.heard::<Event>(&mut cores, bob);
        if events.iter().any(|event| matches!(event.kind, Some(event::Kind::Ping(_)))) {
            pinged_at.push(second);
        }
    }
    assert!(pinged_at.len() == 1 && (30..=34).contains(&pinged_at[0]), "{pinged_at:?}");
    cores.pass(60_000);
    assert_eq!(caller.status(&mut cores, bob), status(14, "timeout"));
}

#[test]
fn the_calls_of_a_connection_end_with_it() {
    let mut cores = Cores::new(|_| {});
    let mut caller = Caller::new(&mut cores, 0);
    caller.call(&mut cores, WATCH, &[], &[Vec::new()], false);
    caller.call(&mut cores, STREAM, &[("nickname", "bob")], &[said("", "", "x").encode_to_vec()], false);
    assert_eq!(cores.total(|counters| &counters.calls_open), 2);
    cores.broken(caller.client);
    let inventory = cores.shards[0].inventory();
    assert_eq!((inventory.connections, inventory.sessions, inventory.nicknames), (0, 0, 0));
    assert_eq!(cores.total(|counters| &counters.calls_open), 0);
}

/// Why connections are closed, by the log.
fn reasons() -> Vec<String> {
    let lines = logs::logged("connection_log").into_iter();
    lines
        .filter_map(|line| line.strip_prefix("closing ")?.split("reason=").nth(1).map(str::to_owned))
        .map(|reason| reason.split(' ').next().unwrap().to_owned())
        .collect()
}

#[test]
fn who_does_not_answer_when_told_to_go_is_let_go_of_with_the_reason() {
    reasons();
    // Whether it takes what it is sent, whether it has called, whether the server drains; and why it ends then.
    for (takes, has_called, drains, reason) in [
        (true, false, false, "no_hello"),
        (true, false, true, "draining"),
        (true, true, true, "draining"),
        (false, false, false, "broken"),
        (false, true, true, "broken"),
    ] {
        let mut cores = Cores::new(|config| config.drain.delay_ms = 10);
        let mut caller = Caller::new(&mut cores, 0);
        if has_called {
            let call = caller.call(&mut cores, CHECK, &[], &[Vec::new()], true);
            assert_eq!(caller.status(&mut cores, call), status(0, ""));
        }
        reasons();
        cores.stall(caller.client, !takes);
        let told_ms = if drains { 10 } else { 10_000 };
        if drains {
            cores.shards[0].drain();
        }
        cores.pass(told_ms);
        assert_eq!((reasons(), cores.shards[0].connection_count()), (Vec::new(), 1));
        cores.pass(999);
        assert_eq!(reasons(), [""; 0]);
        cores.pass(1);
        assert_eq!(reasons(), [reason], "{takes} {has_called} {drains}");
        assert_eq!(cores.total(|counters| &counters.no_hello), u64::from(!drains));
    }
}

#[test]
fn a_connection_ends_with_the_input_of_its_client() {
    reasons();
    let mut cores = Cores::new(|_| {});
    let alice = cores.enter(0, "alice", &["lobby"]);
    // A call that goes on is cut off, and then its connection has nothing more to say.
    for (has_called, expected) in [(false, &["last_response"][..]), (true, &["broken", "last_response"])] {
        let mut caller = Caller::new(&mut cores, 0);
        if has_called {
            caller.call(&mut cores, STREAM, &[("nickname", "bob")], &[], false);
        }
        cores.events(alice);
        cores.ends(caller.client);
        assert!(cores.is_over(caller.client));
        assert_eq!(reasons(), expected);
        assert_eq!(cores.told(alice, "presence", "event").len(), usize::from(has_called));
    }
}

#[test]
fn what_a_client_has_said_before_it_ends_its_side_is_heard_when_it_has_taken_what_was_said_to_it() {
    let mut cores = Cores::new(|config| config.limits.http2_output_bytes = 16_384);
    let alice = cores.enter(0, "alice", &["den"]);
    let mut caller = Caller::new(&mut cores, 0);
    caller.call(&mut cores, STREAM, &[("nickname", "bob"), ("room", "den")], &[], false);
    cores.stall(caller.client, true);
    for number in 0..300 {
        cores.speak(alice, "den", &format!("{number:01000}"));
    }
    cores.events(alice);
    // Behind pings of which each wants an answer there is a message, on the first stream.
    let pings = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], b"are you?"].concat().repeat(2_000);
    let message = said("", "den", "last").encode_to_vec();
    let length = message.len() as u8;
    let data = [&[0, 0, length + 5, 0, 0, 0, 0, 0, 1][..], &[0, 0, 0, 0, length], &message].concat();
    cores.receive(caller.client, &[pings, data].concat());
    cores.ends(caller.client);
    assert!(!cores.is_over(caller.client));
    assert_eq!(cores.events(alice), [serde_json::Value::Null; 0]);
    cores.stall(caller.client, false);
    assert!(cores.is_over(caller.client));
    let told: Vec<_> = cores.events(alice).iter().map(|event| event["type"].clone()).collect();
    assert_eq!(told, ["message", "presence"], "what it says, and that it leaves");
}
