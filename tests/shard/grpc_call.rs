//! The life of a call.

use h2::Reason;
use prost::Message as _;
use starling::config::Config;
use starling::proto::grpc::health::HealthCheckRequest;
use starling::proto::protobuf::schema::{self, Event, Message, SendMessageResponse, command, event};

use crate::answers::ask;
use crate::calls::{Caller, End, request, said, sent, status};
use crate::cores::{Cores, programs};
use crate::tokens::admin_key;

const STREAM: &str = "/chat.ChatService/StreamMessages";
const SEND: &str = "/chat.ChatService/SendMessage";
const CONNECT: &str = "/chat.ChatService/Connect";
const LOGIN: &str = "/chat.ChatService/Login";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

const KEY: (&str, &str) = ("x-api-key", "ci");

fn keys(config: &mut Config) {
    config.auth.api_keys = programs(&["ci"]);
    config.auth.api_keys.push(admin_key("ops"));
}

fn one() -> Vec<u8> {
    sent(said("", "den", "x"))
}

fn command(kind: command::Kind) -> schema::Command {
    schema::Command { id: String::new(), kind: Some(kind) }
}

fn hello(nickname: &str) -> schema::Command {
    command(command::Kind::Hello(schema::Hello { nickname: nickname.into(), ..schema::Hello::default() }))
}

#[test]
fn what_is_no_call_is_told_so() {
    let mut cores = Cores::new(keys);
    let mut caller = Caller::new(&mut cores, 0);
    let mut get = request(SEND, &[]);
    *get.method_mut() = http::Method::GET;
    let call = caller.begin(get, &[], true);
    assert_eq!(caller.http_status(&mut cores, call), Some(415));
    for (kind, expected) in [
        ("application/grpc", 200),
        ("application/grpc+proto", 200),
        ("application/grpc; charset=utf-8", 200),
        ("application/json", 415),
        ("application/grpc+json", 415),
    ] {
        let call = caller.call(&mut cores, CHECK, &[("content-type", kind)], &[Vec::new()], true);
        assert_eq!(caller.http_status(&mut cores, call), Some(expected), "{kind}");
    }
    let call = caller.call(&mut cores, SEND, &[("host", "another")], &[], true);
    assert_eq!(caller.end_of(&mut cores, call), Some(End::Reset(Some(Reason::PROTOCOL_ERROR))));
    for (path, metadata, code, reason) in [
        ("/chat.ChatService/Nothing", &[][..], 12, "not_found"),
        (SEND, &[("grpc-timeout", "soon")], 3, "bad_request"),
        (SEND, &[("grpc-encoding", "gzip")], 12, "bad_request"),
        (SEND, &[("grpc-encoding", "Identity"), KEY], 0, ""),
    ] {
        let call = caller.call(&mut cores, path, metadata, &[one()], true);
        assert_eq!(caller.status(&mut cores, call), status(code, reason), "{path} {metadata:?}");
    }
    assert_eq!(cores.total(|counters| &counters.calls), 4, "those that have begun");
    assert_eq!(cores.total(|counters| &counters.calls_open), 0);
}

#[test]
fn calls_cost_what_commands_cost_and_commands_cost_nothing_more() {
    let mut cores = Cores::new(|config| {
        keys(config);
        (config.rate.commands_per_second, config.rate.burst) = (1, 2);
    });
    let mut caller = Caller::new(&mut cores, 0);
    let connects = [(); 3].map(|()| caller.call(&mut cores, CONNECT, &[], &[], false));
    assert_eq!(connects.map(|call| caller.status(&mut cores, call)), [None, None, None]);
    let mut check = |cores: &mut Cores| {
        let call = caller.call(cores, CHECK, &[], &[Vec::new()], true);
        let status = caller.status(cores, call);
        (status, caller.trailer(cores, call, "grpc-retry-pushback-ms"))
    };
    let limited = |ms: &str| (status(8, "rate_limited"), Some(ms.to_owned()));
    let done = (status(0, ""), None);
    assert_eq!([check(&mut cores), check(&mut cores)], [done.clone(), done.clone()]);
    assert_eq!(check(&mut cores), limited("1000"));
    cores.pass(400);
    assert_eq!(check(&mut cores), limited("600"));
    cores.pass(600);
    assert_eq!(check(&mut cores), done);
    // What somebody says on a call is paid for by its connection.
    cores.pass(1_000);
    caller.say(&mut cores, connects[0], &hello("alice"));
    caller.say(&mut cores, connects[1], &hello("bob"));
    let kinds = |events: Vec<Event>| events.into_iter().map(|event| event.kind.unwrap()).collect::<Vec<_>>();
    let [alice, bob] = [0, 1].map(|n| kinds(caller.heard::<Event>(&mut cores, connects[n])));
    assert!(
        matches!(&alice[..], [event::Kind::Welcome(welcome)] if welcome.nickname == "alice"),
        "{alice:?}"
    );
    assert!(matches!(&bob[..], [event::Kind::Error(error)] if error.code == 429), "{bob:?}");
    assert_eq!(caller.status(&mut cores, connects[1]), None, "an event says it, and the call goes on");
}

#[test]
fn a_call_ends_when_its_time_is_over() {
    let mut cores = Cores::new(keys);
    // Until which moment, in milliseconds, a call goes on.
    let mut ends = |path: &str, timeout: &str, messages: &[Vec<u8>], ms: u64| {
        let mut caller = Caller::new(&mut cores, 0);
        let metadata = [("grpc-timeout", timeout)];
        let metadata = if timeout.is_empty() { &[][..] } else { &metadata };
        let call = caller.call(&mut cores, path, metadata, messages, false);
        let step = |caller: &mut Caller, cores: &mut Cores, ms: u64| {
            for _ in 0..ms / 20_000 {
                cores.pass(20_000);
                caller.exchange(cores); // its library gives signs of life
            }
            cores.pass(ms % 20_000);
            caller.status(cores, call)
        };
        let before = step(&mut caller, &mut cores, ms - 1);
        let deadlines = cores.total(|counters| &counters.call_deadlines);
        let after = step(&mut caller, &mut cores, 1);
        (before, after, cores.total(|counters| &counters.call_deadlines) - deadlines)
    };
    let deadline = (None, status(4, "deadline"), 1);
    let no_hello = (None, status(4, "no_hello"), 0);
    let service = HealthCheckRequest::default().encode_to_vec();
    let alice = hello("alice").encode_to_vec();
    let bob = said("bob", "", "").encode_to_vec();
    assert_eq!(ends(WATCH, "1500m", std::slice::from_ref(&service), 1_500), deadline);
    assert_eq!(ends(CONNECT, "2S", &[alice], 2_000), deadline);
    assert_eq!(ends(STREAM, "3S", &[bob], 3_000), deadline);
    assert_eq!(ends(CONNECT, "1S", &[], 1_000), deadline);
    for path in [CHECK, WATCH, SEND, LOGIN] {
        assert_eq!(ends(path, "", &[], 10_000), deadline, "{path}: nothing is asked");
    }
    for path in [CONNECT, STREAM] {
        assert_eq!(ends(path, "", &[], 10_000), no_hello, "{path}");
    }
    assert_eq!(ends(WATCH, "", &[service], 100_000), (None, None, 0));
    assert_eq!(ends(REFLECTION, "", &[], 100_000), (None, None, 0));
    assert_eq!(cores.total(|counters| &counters.no_hello), 2);
}

#[test]
fn who_says_no_more_is_answered_what_was_asked() {
    let mut cores = Cores::of(2, keys);
    let mut caller = Caller::new(&mut cores, 0);
    let bad = status(3, "bad_request");
    for path in [CHECK, WATCH, SEND, LOGIN] {
        let call = caller.call(&mut cores, path, &[], &[], true);
        assert_eq!(caller.status(&mut cores, call), bad, "{path}");
    }
    for path in [STREAM, CONNECT, REFLECTION] {
        let call = caller.call(&mut cores, path, &[], &[], true);
        assert_eq!(caller.status(&mut cores, call), status(0, ""), "{path}");
    }
    let watch = caller.call(&mut cores, WATCH, &[], &[Vec::new()], true);
    assert_eq!(caller.status(&mut cores, watch), None, "it is told what changes");
    for path in [SEND, STREAM, CONNECT, CHECK] {
        let torn = caller.call(&mut cores, path, &[], &[], false);
        caller.say_bytes(&mut cores, torn, &[0, 0, 0, 0, 9, 1]);
        assert_eq!(caller.status(&mut cores, torn), None);
        caller.end(&mut cores, torn);
        assert_eq!(caller.status(&mut cores, torn), bad, "{path}");
    }
    let call = caller.call(&mut cores, SEND, &[KEY], &[one(), one(), one()], true);
    assert_eq!(caller.heard::<SendMessageResponse>(&mut cores, call).len(), 1, "it asks for one");
    assert_eq!(caller.status(&mut cores, call), status(0, ""));
    assert_eq!(cores.total(|counters| &counters.published), 1);

    // What is refused of what was said last is told, though it is refused elsewhere and later.
    let room = cores.name_at(1, "den");
    let host = cores.enter(1, "host", &[&room]);
    cores.say(host, &format!(r#"{{"type":"mute","room":"{room}","target":"bob"}}"#));
    let metadata = [("nickname", "bob"), ("room", &room)];
    let call = caller.call(&mut cores, STREAM, &metadata, &[said("", &room, "x").encode_to_vec()], true);
    assert_eq!(caller.status(&mut cores, call), status(7, "muted"));
    let call = caller.call(&mut cores, STREAM, &metadata, &[], false);
    assert_eq!(caller.status(&mut cores, call), None);
    caller.end(&mut cores, call);
    assert_eq!(caller.status(&mut cores, call), status(0, ""));
    cores.say(host, &format!(r#"{{"type":"unmute","room":"{room}","target":"bob"}}"#));
    let all: Vec<Vec<u8>> = (0..5).map(|n| said("", &room, &n.to_string()).encode_to_vec()).collect();
    let call = caller.call(&mut cores, STREAM, &metadata, &all, true);
    let own = caller.heard::<Message>(&mut cores, call);
    assert_eq!(own.iter().map(|it| it.content.as_str()).collect::<Vec<_>>(), ["0", "1", "2", "3", "4"]);
    assert_eq!(caller.status(&mut cores, call), status(0, ""));
}

#[test]
fn messages_have_a_largest_size_and_are_not_compressed() {
    let mut cores = Cores::new(|config| {
        keys(config);
        config.limits.inbound_bytes = 64;
    });
    let mut caller = Caller::new(&mut cores, 0);
    let too_large = |cores: &Cores| cores.total(|counters| &counters.too_large);
    let padded = |bytes: usize| {
        let other = sent(said("", "", "")).len() + 2;
        sent(said("", "", &"x".repeat(bytes - other)))
    };
    for path in [SEND, STREAM] {
        let before = too_large(&cores);
        let call = caller.call(&mut cores, path, &[KEY], &[vec![0; 65]], false);
        assert_eq!(caller.status(&mut cores, call), status(8, "too_large"));
        assert_eq!(too_large(&cores), before + 1);
        let call = caller.call(&mut cores, path, &[KEY], &[], false);
        caller.say_bytes(&mut cores, call, &[1, 0, 0, 0, 0]);
        assert_eq!(caller.status(&mut cores, call), status(12, "bad_request"));
        assert_eq!(too_large(&cores), before + 1);
    }
    assert_eq!(padded(64).len(), 64);
    let call = caller.call(&mut cores, SEND, &[KEY], &[padded(64)], true);
    assert_eq!(caller.status(&mut cores, call), status(0, ""));
}

#[test]
fn a_call_ends_with_what_a_connection_would_be_told() {
    let mut cores = Cores::new(keys);
    let mut caller = Caller::new(&mut cores, 0);
    let alice = caller.call(&mut cores, STREAM, &[("nickname", "alice")], &[], false);
    let bob = caller.call(&mut cores, CONNECT, &[], &[hello("bob").encode_to_vec()], false);
    for name in ["alice", "bob"] {
        let answer = ask(&mut cores, 0, &format!("DELETE /api/sessions/{name}"), "X-API-Key: ops\r\n");
        assert_eq!(answer.status, 204);
    }
    for call in [alice, bob] {
        assert_eq!(caller.status(&mut cores, call), status(7, "kicked"));
    }
    let events = caller.heard::<Event>(&mut cores, bob);
    let last = events.last().and_then(|event| event.kind.as_ref());
    assert!(matches!(last, Some(event::Kind::Bye(bye)) if bye.code == 4107), "{events:?}");
    // A command that is refused is an event where there are events, and the end elsewhere.
    let typing = command(command::Kind::Typing(schema::Typing { room: "den".into() }));
    let call = caller.call(&mut cores, CONNECT, &[], &[typing.encode_to_vec()], false);
    let events = caller.heard::<Event>(&mut cores, call);
    assert!(matches!(&events[0].kind, Some(event::Kind::Error(error)) if error.code == 401), "{events:?}");
    assert_eq!(caller.status(&mut cores, call), None);
    let quit = command(command::Kind::Quit(schema::Quit {}));
    caller.say(&mut cores, call, &quit);
    assert_eq!(caller.status(&mut cores, call), status(0, ""));
}

#[test]
fn connect_takes_who_one_is_from_the_metadata_where_the_hello_does_not_say() {
    let mut cores = Cores::new(|_| {});
    let mut caller = Caller::new(&mut cores, 0);
    for (metadata, said, expected) in [("alice", "", "alice"), ("bob", "carol", "carol")] {
        let call = caller.call(&mut cores, CONNECT, &[("nickname", metadata)], &[], false);
        caller.say(&mut cores, call, &hello(said));
        let events = caller.heard::<Event>(&mut cores, call);
        let welcome = &events[0].kind;
        assert!(matches!(welcome, Some(event::Kind::Welcome(it)) if it.nickname == expected), "{events:?}");
    }
}

#[test]
fn there_is_place_for_so_many_calls_as_for_connections() {
    let mut cores = Cores::made(1, keys, |flock| flock.core_connections = 3);
    let mut caller = Caller::new(&mut cores, 0);
    let watches = [(); 3].map(|()| caller.call(&mut cores, WATCH, &[], &[Vec::new()], false));
    let full = status(8, "too_many_connections");
    assert_eq!(watches.map(|call| caller.status(&mut cores, call)), [None, None, full]);
    assert_eq!(cores.total(|counters| &counters.refused_connections), 1);
    assert_eq!(cores.total(|counters| &counters.calls_open), 2);
    assert_eq!(cores.total(|counters| &counters.connections), 3);
    caller.cancel(&mut cores, watches[0]);
    assert_eq!(cores.total(|counters| &counters.calls_cancelled), 1);
    assert_eq!(cores.total(|counters| &counters.calls_open), 1);
    let call = caller.call(&mut cores, WATCH, &[], &[Vec::new()], false);
    assert_eq!(caller.status(&mut cores, call), None);
}

#[test]
fn a_call_that_comes_just_when_the_server_leaves_is_told_so() {
    let mut cores = Cores::new(keys);
    let mut caller = Caller::new(&mut cores, 0);
    let open = caller.call(&mut cores, STREAM, &[("nickname", "alice")], &[], false);
    cores.shards[0].drain();
    cores.settle();
    // The client has not heard of it yet.
    let draining = status(14, "draining");
    let late = [SEND, STREAM, CONNECT, WATCH].map(|path| caller.begin(request(path, &[KEY]), &[one()], true));
    let check = caller.begin(request(CHECK, &[]), &[Vec::new()], true);
    for call in late {
        assert_eq!(caller.status(&mut cores, call), draining);
    }
    assert_eq!(caller.status(&mut cores, check), status(0, ""), "health is told to the end");
    assert_eq!(caller.status(&mut cores, open), draining);
    cores.pass(5_000);
    caller.exchange(&mut cores);
    assert_eq!(caller.over, Some(None));
}
