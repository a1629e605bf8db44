//! How fast may be called: a call is one command, whatever it takes to carry it out.

use prost::Message as _;
use starling::config::{Config, ListenKind};
use starling::proto::protobuf::schema::Message;

use crate::calls::{Caller, End, request, said, sent, status};
use crate::cores::Cores;
use crate::tokens::{self, claims, token};

const CONNECT: &str = "/chat.ChatService/Connect";
const STREAM: &str = "/chat.ChatService/StreamMessages";
const SEND: &str = "/chat.ChatService/SendMessage";

/// How often something is done in a row.
const TIMES: usize = 20;

type Fields<'a> = &'a [(&'a str, &'a str)];

/// Calls once, and has the call end; after how many milliseconds it may be tried again, if it was refused for its rate.
fn attempt(
    cores: &mut Cores,
    caller: &mut Caller,
    (path, fields, message): (&str, Fields, &[u8]),
) -> Option<u64> {
    let call = caller.call(cores, path, fields, &[message.to_vec()], true);
    let ended = caller.status(cores, call);
    if ended == status(0, "") {
        return None;
    }
    assert_eq!(ended, status(8, "rate_limited"));
    let told = caller.trailer(cores, call, "grpc-retry-pushback-ms").expect("it may be tried again");
    Some(told.parse().expect("milliseconds"))
}

#[test]
fn whoever_waits_as_it_was_told_passes() {
    type Set = fn(&mut Config);
    let limits: [(&str, Set); 9] = [
        ("a burst of 1", |config| (config.rate.commands_per_second, config.rate.burst) = (10, 1)),
        ("a burst of 2", |config| (config.rate.commands_per_second, config.rate.burst) = (10, 2)),
        ("a burst of 5", |config| (config.rate.commands_per_second, config.rate.burst) = (10, 5)),
        ("bytes", |config| (config.rate.bytes_per_second, config.rate.bytes_burst) = (100, 60)),
        ("more bytes than a burst", |config| {
            (config.rate.bytes_per_second, config.rate.bytes_burst) = (50, 1);
        }),
        ("one join", |config| (config.rate.joins_per_second, config.rate.joins_burst) = (10, 1)),
        ("two joins", |config| (config.rate.joins_per_second, config.rate.joins_burst) = (10, 2)),
        ("of a user", |config| (config.rate.user_commands_per_second, config.rate.user_burst) = (10, 1)),
        ("of an address", |config| {
            (config.rate.address_commands_per_second, config.rate.address_burst) = (10, 1);
        }),
    ];
    let dora = format!("Bearer {}", token(&claims("dora")));
    let den = said("", "den", "hi").encode_to_vec();
    let calls: [(&str, Fields, Vec<u8>); 7] = [
        (SEND, &[], sent(said("gus", "den", "hi"))),
        (SEND, &[("nickname", "gus")], sent(said("", "", "hi"))),
        (SEND, &[("authorization", &dora)], sent(said("", "den", "hi"))),
        (SEND, &[], sent(Message { target: "alice".into(), ..said("gus", "", "psst") })),
        (STREAM, &[], said("gus", "den", "hi").encode_to_vec()),
        (STREAM, &[("nickname", "gus"), ("room", "den")], den.clone()),
        (STREAM, &[("authorization", &dora)], den),
    ];
    for (name, set) in limits {
        for (path, fields, message) in &calls {
            let configure = |config: &mut Config| {
                config.rate.commands_per_second = 0;
                set(config);
            };
            let mut cores = Cores::made(1, configure, tokens::arrange);
            let alice = cores.connect_from(0, ListenKind::Line, [10, 0, 0, 9]);
            cores.say(alice, r#"{"type":"hello","nickname":"alice"}"#);
            let mut caller = Caller::new(&mut cores, 0);
            // In the last case two rooms are joined: the first, and the one that is spoken in, of which is told when it is asked for.
            let joins_two = *path == STREAM && fields.iter().any(|(name, _)| *name == "authorization");
            if name == "one join" && joins_two {
                continue;
            }
            let mut refused = 0;
            for _ in 0..TIMES {
                let what = (*path, *fields, &message[..]);
                if let Some(ms) = attempt(&mut cores, &mut caller, what) {
                    refused += 1;
                    cores.pass(ms);
                    let mut again = attempt(&mut cores, &mut caller, what);
                    if let (Some(ms), "two joins", true) = (again, name, joins_two) {
                        cores.pass(ms);
                        again = attempt(&mut cores, &mut caller, what);
                    }
                    assert_eq!(again, None, "{name}: {path} {fields:?} has waited {ms} ms");
                }
            }
            let joins = name.contains("join") && *path == SEND;
            assert_eq!(refused > TIMES / 3, !joins, "{name}: {path} {fields:?} was refused {refused} times");
        }
    }
}

#[test]
fn a_call_costs_one_command_and_each_message_after_its_first_another() {
    let mut cores = Cores::new(|config| (config.rate.commands_per_second, config.rate.burst) = (1, 3));
    let mut caller = Caller::new(&mut cores, 0);
    let call = caller.call(&mut cores, STREAM, &[("nickname", "gus")], &[], false);
    for _ in 0..3 {
        caller.say(&mut cores, call, &said("", "", "hi"));
        assert_eq!(caller.status(&mut cores, call), None);
    }
    caller.say(&mut cores, call, &said("", "", "hi"));
    assert_eq!(caller.status(&mut cores, call), status(8, "rate_limited"));
    assert_eq!(caller.trailer(&mut cores, call, "grpc-retry-pushback-ms"), Some("1000".into()));
    assert_eq!(cores.total(|counters| &counters.rate_limited_connections), 1);
}

#[test]
fn who_calls_on_and_on_is_sent_away_with_all_calls_of_its_connection() {
    for refused_at_once in [false, true] {
        let mut cores = Cores::new(|config| {
            (config.rate.commands_per_second, config.rate.burst) = (10, 1);
            (config.rate.bytes_per_second, config.rate.bytes_burst) = (10, 10);
            config.limits.rate_ignored_ms = 2000;
        });
        let mut caller = Caller::new(&mut cores, 0);
        let other = caller.call(&mut cores, CONNECT, &[], &[], false);
        // Refused by its request alone, or when its message has come.
        let content = if refused_at_once { "hi" } else { "a message of many bytes" };
        let message = sent(self::said("gus", "den", content));
        let mut ms = 0;
        while caller.end_of(&mut cores, other).is_none() {
            assert!(ms <= 2100, "it goes on");
            let call = caller.begin(request(SEND, &[]), std::slice::from_ref(&message), true);
            caller.exchange(&mut cores);
            assert!(matches!(caller.end_of(&mut cores, call), Some(End::Trailers(_))));
            cores.pass(20);
            ms += 20;
        }
        assert!(ms >= 2000, "it was sent away after {ms} ms");
        assert_eq!(caller.status(&mut cores, other), status(8, "rate_limited"));
        assert_eq!(cores.total(|counters| &counters.rate_limits_ignored), 1);
        caller.exchange(&mut cores);
        assert_eq!(caller.over, Some(None), "it was told to go");
        assert!(cores.is_over(caller.client));
    }
}

#[test]
fn only_who_is_refused_for_its_rate_is_told_when_to_call_again() {
    let mut cores = Cores::new(|config| {
        (config.rate.commands_per_second, config.rate.burst) = (1, 1);
        config.limits.rate_ignored_ms = 1;
    });
    let mut caller = Caller::new(&mut cores, 0);
    for _ in 0..3 {
        let call = caller.call(&mut cores, SEND, &[], &[sent(said("gus", "a b", "hi"))], true);
        assert_eq!(caller.status(&mut cores, call), status(3, "bad_name"));
        assert_eq!(caller.trailer(&mut cores, call, "grpc-retry-pushback-ms"), None);
        cores.pass(1000);
    }
    assert_eq!(cores.total(|counters| &counters.rate_limits_ignored), 0);
    assert_eq!(caller.over, None);
}

#[test]
fn what_is_refused_after_a_call_has_begun_is_told_when_all_of_a_new_one_passes() {
    for (by_room, content) in [(false, "x".repeat(30)), (true, "x".to_owned())] {
        let mut cores = Cores::new(|config| {
            (config.rate.joins_per_second, config.rate.joins_burst) = (1, 1);
            match by_room {
                true => (config.rate.room_messages_per_second, config.rate.room_burst) = (100, 1),
                false => (config.rate.bytes_per_second, config.rate.bytes_burst) = (1000, 40),
            }
        });
        let mut caller = Caller::new(&mut cores, 0);
        let call = caller.call(&mut cores, STREAM, &[("nickname", "gus")], &[], false);
        caller.say(&mut cores, call, &said("", "", &content));
        assert_eq!(caller.status(&mut cores, call), None);
        caller.say(&mut cores, call, &said("", "", &content));
        assert_eq!(caller.status(&mut cores, call), status(8, "rate_limited"));
        // A moment would do for what it said; the next call joins again.
        assert_eq!(caller.trailer(&mut cores, call, "grpc-retry-pushback-ms"), Some("1000".into()));
    }
}
