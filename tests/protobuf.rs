//! Protobuf says the same as JSON: every command and every event, read and written in both.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use prost::Message;
use prost::encoding::{self, WireType};
use serde_json::{Value, json};
use starling::proto::protobuf::{self, schema};
use starling::proto::wire::{
    Ack, COMMANDS, EVENTS, Error, Event, HistoryMessage, Json, Member, Presence, RoomInfo, State, StateEntry,
};
use starling::proto::{frame, json};

use schema::{command, event};

/// How many commands or events of each kind are compared.
const CASES: u32 = 200;

/// Runs `check` on values of `strategy`, with a failure that names `kind`.
fn check_all<T: std::fmt::Debug>(
    kind: &str,
    strategy: impl Strategy<Value = T>,
    check: impl Fn(T) -> Result<(), TestCaseError>,
) {
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config).run(&strategy, check).unwrap_or_else(|error| panic!("{kind}: {error}"));
}

/// The number of the only field in `bytes`, and what is in it.
fn only_field(mut bytes: &[u8]) -> (u32, &[u8]) {
    let (field, wire_type) = encoding::decode_key(&mut bytes).expect("a key");
    assert_eq!(wire_type, WireType::LengthDelimited);
    let length = encoding::decode_varint(&mut bytes).expect("a length");
    assert_eq!(bytes.len() as u64, length, "something stands behind it");
    (field, bytes)
}

// Commands

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![1 => Just(String::new()), 4 => "\\PC{1,12}", 1 => any::<String>()]
}

/// What is absent, or not empty: what Protobuf can tell apart.
fn maybe() -> impl Strategy<Value = Option<String>> {
    option::of("\\PC{1,12}")
}

fn maybe_count() -> impl Strategy<Value = Option<u32>> {
    option::of(1..=u32::MAX)
}

/// One of `words`, by its number in the schema, from 1; 0 is absent.
fn word(words: &'static [&'static str]) -> impl Strategy<Value = (Option<&'static str>, i32)> {
    (0..=words.len()).prop_map(|number| (number.checked_sub(1).map(|at| words[at]), number as i32))
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((any::<String>(), inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A join in both encodings, its room being called `room` in JSON.
fn any_join(room_field: &'static str) -> impl Strategy<Value = (Value, schema::Join)> {
    let since = option::of((any_text(), any::<u64>()));
    (any_text(), maybe_count(), since, any::<bool>(), word(&["gap"])).prop_map(
        move |(room, history, since, no_echo, (gap, overflow))| {
            let position = since.as_ref().map(|(epoch, offset)| json!({"epoch": epoch, "offset": offset}));
            let echo = no_echo.then_some(false);
            let object =
                json!({room_field: room, "history": history, "since": position, "echo": echo, "overflow": gap});
            let since = since.map(|(epoch, offset)| schema::Position { epoch, offset });
            let history = history.unwrap_or_default();
            (object, schema::Join { room, history, since, no_echo, overflow })
        },
    )
}

fn any_moderate(kind: fn(schema::Moderate) -> command::Kind) -> BoxedStrategy<(Value, command::Kind)> {
    (any_text(), any_text(), maybe(), maybe_count())
        .prop_map(move |(room, target, reason, seconds)| {
            let object = json!({"room": room, "target": target, "reason": reason, "seconds": seconds});
            let (reason, seconds) = (reason.unwrap_or_default(), seconds.unwrap_or_default());
            (object, kind(schema::Moderate { room, target, reason, seconds }))
        })
        .boxed()
}

/// A command of type `name` in both encodings, in JSON without its type.
fn any_command(name: &str) -> BoxedStrategy<(Value, command::Kind)> {
    use command::Kind;
    match name {
        "hello" => (maybe(), maybe(), maybe())
            .prop_map(|(nickname, token, resume)| {
                let object = json!({"nickname": nickname, "token": token, "resume": resume});
                let hello = schema::Hello {
                    nickname: nickname.unwrap_or_default(),
                    token: token.unwrap_or_default(),
                    resume: resume.unwrap_or_default(),
                };
                (object, Kind::Hello(hello))
            })
            .boxed(),
        "nick" => any_text()
            .prop_map(|nickname| (json!({"nickname": nickname}), Kind::Nick(schema::Nick { nickname })))
            .boxed(),
        "join" => any_join("room").prop_map(|(object, join)| (object, Kind::Join(join))).boxed(),
        "leave" => {
            any_text().prop_map(|room| (json!({"room": room}), Kind::Leave(schema::Leave { room }))).boxed()
        }
        "switch" => (any_text(), any_join("to"))
            .prop_map(|(from, (mut object, to))| {
                object["from"] = json!(from);
                (object, Kind::Switch(schema::Switch { from, to: Some(to) }))
            })
            .boxed(),
        "message" => (any_text(), any_text(), word(&["sequenced", "stored", "synced"]))
            .prop_map(|(room, content, (level, ack))| {
                let object = json!({"room": room, "content": content, "ack": level});
                (object, Kind::Message(schema::Say { room, content, ack }))
            })
            .boxed(),
        "private" => (any_text(), any_text())
            .prop_map(|(target, content)| {
                let object = json!({"target": target, "content": content});
                (object, Kind::Private(schema::Private { target, content }))
            })
            .boxed(),
        "received" => any::<u64>()
            .prop_map(|offset| (json!({"offset": offset}), Kind::Received(schema::Received { offset })))
            .boxed(),
        "broadcast" => (any_text(), vec(any_text(), 0..3), vec(any_text(), 0..3))
            .prop_map(|(content, rooms, tags)| {
                // In Protobuf a list with nothing in it is absent; in JSON it is a mistake.
                let list = |list: &[String]| (!list.is_empty()).then(|| json!(list));
                let object = json!({"content": content, "rooms": list(&rooms), "tags": list(&tags)});
                (object, Kind::Broadcast(schema::Broadcast { content, rooms, tags }))
            })
            .boxed(),
        "members" => (any_text(), maybe_count(), maybe())
            .prop_map(|(room, limit, after)| {
                let object = json!({"room": room, "limit": limit, "after": after});
                let (limit, after) = (limit.unwrap_or_default(), after.unwrap_or_default());
                (object, Kind::Members(schema::Members { room, limit, after }))
            })
            .boxed(),
        "rooms" => (maybe_count(), maybe())
            .prop_map(|(limit, after)| {
                let object = json!({"limit": limit, "after": after});
                let (limit, after) = (limit.unwrap_or_default(), after.unwrap_or_default());
                (object, Kind::Rooms(schema::Rooms { limit, after }))
            })
            .boxed(),
        "history" => (any_text(), option::of(any::<u64>()), option::of(any::<u64>()), maybe_count())
            .prop_map(|(room, before, after, limit)| {
                let object = json!({"room": room, "before": before, "after": after, "limit": limit});
                let limit = limit.unwrap_or_default();
                (object, Kind::History(schema::History { room, before, after, limit }))
            })
            .boxed(),
        "state" => (any_text(), any_text(), option::of(any_json()), any::<bool>())
            .prop_map(|(room, key, value, is_pretty)| {
                let written = value.as_ref().map(|value| {
                    if is_pretty { serde_json::to_string_pretty(value).unwrap() } else { value.to_string() }
                });
                let object = json!({"room": room, "key": key, "value": value});
                let value_json = written.unwrap_or_default();
                (object, Kind::State(schema::State { room, key, value_json }))
            })
            .boxed(),
        "role" => (any_text(), any_text(), word(&["host", "member", "guest"]))
            .prop_map(|(room, target, (name, role))| {
                let object = json!({"room": room, "target": target, "role": name.unwrap_or_default()});
                (object, Kind::Role(schema::SetRole { room, target, role }))
            })
            .boxed(),
        "kick" => any_moderate(Kind::Kick),
        "ban" => any_moderate(Kind::Ban),
        "unban" => any_moderate(Kind::Unban),
        "mute" => any_moderate(Kind::Mute),
        "unmute" => any_moderate(Kind::Unmute),
        "typing" => {
            any_text().prop_map(|room| (json!({"room": room}), Kind::Typing(schema::Typing { room }))).boxed()
        }
        "ping" => Just((json!({}), Kind::Ping(schema::Ping {}))).boxed(),
        "pong" => Just((json!({}), Kind::Pong(schema::Pong {}))).boxed(),
        "quit" => Just((json!({}), Kind::Quit(schema::Quit {}))).boxed(),
        _ => panic!("no commands of type {name} are made"),
    }
}

#[test]
fn every_command_is_the_same_in_both_encodings() {
    for (index, name) in COMMANDS.into_iter().enumerate() {
        let number = index as u8 + 1;
        let id = option::of("\\PC{1,16}");
        check_all(name, (any_command(name), id), |((mut object, kind), id)| {
            object["id"] = json!(id);
            let bare_json = serde_json::to_vec(&object).unwrap();
            object["type"] = json!(name);
            let whole_json = serde_json::to_vec(&object).unwrap();
            let expected = json::parse(&whole_json).expect("a command");
            prop_assert_eq!(&json::parse_as(name, &bare_json).expect("a command"), &expected);

            let whole = schema::Command { id: String::new(), kind: Some(kind.clone()) }.encode_to_vec();
            let (field, bare) = only_field(&whole);
            prop_assert_eq!(field, u32::from(number));
            let mut bare = bare.to_vec();
            if let Some(id) = &id {
                encoding::string::encode(100, id, &mut bare);
            }
            prop_assert_eq!(&protobuf::parse_as(number, &bare).expect("a command"), &expected);
            let whole = schema::Command { id: id.unwrap_or_default(), kind: Some(kind) }.encode_to_vec();
            prop_assert_eq!(&protobuf::parse(&whole).expect("a command"), &expected);
            Ok(())
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_command_or_an_error(kind: u8, bytes in vec(any::<u8>(), 0..200)) {
        let _ = protobuf::parse(&bytes);
        let _ = protobuf::parse_as(kind, &bytes);
    }

    #[test]
    fn a_damaged_command_is_a_command_or_an_error(
        (_, kind) in prop::sample::select(&COMMANDS[..]).prop_flat_map(any_command),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = schema::Command { id: "x".into(), kind: Some(kind) }.encode_to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let is_readable = schema::Command::decode(&bytes[..]).is_ok();
        prop_assert!(is_readable || protobuf::parse(&bytes).is_err());
    }
}

// Events

/// What events are made of. Any of it may be empty or 0.
#[derive(Debug)]
struct Parts {
    texts: Vec<String>,
    /// Counts, which fit a uint32.
    counts: Vec<u32>,
    /// Offsets and times, which fit an int64.
    places: Vec<u64>,
    flags: Vec<bool>,
    role: &'static str,
    level: &'static str,
    names: Vec<String>,
    messages: Vec<(String, u64)>,
    state: Vec<(String, String, u64)>,
}

fn any_parts() -> impl Strategy<Value = Parts> {
    let place = || prop_oneof![Just(0), 0..1000u64, 0..=i64::MAX as u64];
    let count = prop_oneof![Just(0), 0..1000u32, any::<u32>()];
    let state = (any_text(), any_json().prop_map(|value| value.to_string()), place());
    (
        vec(any_text(), 8),
        vec(count, 3),
        vec(place(), 4),
        vec(any::<bool>(), 12),
        prop::sample::select(vec!["host", "member", "guest"]),
        prop::sample::select(vec!["sequenced", "stored", "synced"]),
        vec(any_text(), 0..4),
        vec((any_text(), place()), 0..4),
        vec(state, 1..4),
    )
        .prop_map(|(texts, counts, places, flags, role, level, names, messages, state)| Parts {
            texts,
            counts,
            places,
            flags,
            role,
            level,
            names,
            messages,
            state,
        })
}

/// Makes an event of type `name` of `parts` and hands it to `check`.
fn with_event(
    name: &str,
    parts: &Parts,
    check: impl FnOnce(&Event<'_>) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let [a, b, c, d, e, f, g, id] = [0, 1, 2, 3, 4, 5, 6, 7].map(|at| parts.texts[at].as_str());
    let [count, other_count, third_count] = [0, 1, 2].map(|at| u64::from(parts.counts[at]));
    let [offset, timestamp, version, _] = [0, 1, 2, 3].map(|at| parts.places[at]);
    let has = |at: usize| parts.flags[at];
    let flag = has(11);
    let id = has(0).then_some(id).filter(|id| !id.is_empty());
    let names: Vec<&str> = parts.names.iter().map(String::as_str).collect();
    let messages: Vec<HistoryMessage<'_>> = parts
        .messages
        .iter()
        .map(|(text, place)| HistoryMessage { sender: text, content: a, offset: *place, timestamp })
        .collect();
    let state: Vec<StateEntry<'_>> = parts
        .state
        .iter()
        .map(|(key, value, version)| StateEntry { key, value: Json(value), version: *version })
        .collect();
    let members: Vec<Member<'_>> = parts
        .messages
        .iter()
        .map(|(text, place)| Member {
            nickname: text,
            role: parts.role,
            connected: flag,
            last_active: *place,
        })
        .collect();
    let rooms: Vec<RoomInfo<'_>> = parts
        .messages
        .iter()
        .map(|(text, place)| RoomInfo { room: text, members: count, offset: *place })
        .collect();
    let code = count as u16;
    let event = match name {
        "welcome" => Event::Welcome {
            id,
            nickname: a,
            session: b,
            resume: c,
            resumed: flag,
            heartbeat_ms: count,
            timeout_ms: other_count,
            server: d,
        },
        "joined" => Event::Joined {
            id,
            room: a,
            epoch: b,
            offset,
            role: parts.role,
            members: count,
            state: State(&state),
            messages: has(1).then_some(&messages),
            recovered: has(2).then_some(flag),
        },
        "left" => Event::Left { id, room: a, reason: b },
        "presence" => Event::Presence(Presence {
            room: a,
            event: b,
            nickname: has(1).then_some(c),
            from: has(2).then_some(d),
            reason: has(3).then_some(e),
            timestamp: has(4).then_some(timestamp),
            role: has(5).then_some(parts.role),
            joined: has(6).then_some(&names),
            left: has(7).then_some(&names[names.len() / 2..]),
            members: has(8).then_some(count),
        }),
        "message" => Event::Message { room: a, sender: b, content: c, offset, timestamp },
        "ack" => Event::Ack(Ack {
            id,
            room: has(1).then_some(a),
            epoch: has(2).then_some(b),
            offset: has(3).then_some(offset),
            timestamp: has(4).then_some(timestamp),
            level: has(5).then_some(parts.level),
            target: has(6).then_some(c),
            delivered: has(7).then_some(count),
            stored: has(8).then_some(flag),
            sessions: has(9).then_some(other_count),
            key: has(10).then_some(d),
            version: has(3).then_some(version),
        }),
        "private" => {
            Event::Private { sender: a, target: b, content: c, timestamp, offset: has(1).then_some(offset) }
        }
        "system" => Event::System { content: a, sender: b, timestamp },
        "members" => Event::Members { id, room: a, total: count, members: &members },
        "rooms" => Event::Rooms { id, rooms: &rooms },
        "history" => Event::History { id, room: a, epoch: b, messages: &messages },
        "state" => Event::State { room: f, key: g, value: state[0].value, version, sender: e },
        "typing" => Event::Typing { room: a, nickname: b },
        "pong" => Event::Pong { id, timestamp },
        "bye" => Event::Bye { id, code, reason: a, resumable: flag, after_ms: other_count },
        "error" => Event::Error(Error {
            id,
            code,
            reason: a,
            message: b,
            retryable: flag,
            retry_after_ms: has(1).then_some(third_count),
        }),
        "ping" => Event::Ping,
        "gap" => Event::Gap { room: a, epoch: b, from: offset, to: version },
        _ => panic!("no events of type {name} are made"),
    };
    check(&event)
}

/// What prost read, as JSON names it.
fn object_of(kind: event::Kind) -> Value {
    use event::Kind;
    match kind {
        Kind::Welcome(m) => json!({"type": "welcome", "nickname": m.nickname, "session": m.session,
            "resume": m.resume, "resumed": m.resumed, "heartbeat_ms": m.heartbeat_ms,
            "timeout_ms": m.timeout_ms, "server": m.server}),
        Kind::Joined(m) => {
            let value = |value: schema::StateValue| json!({"value": json_of(&value.value_json), "version": value.version});
            let state: serde_json::Map<_, _> =
                m.state.into_iter().map(|(key, entry)| (key, value(entry))).collect();
            json!({"type": "joined", "room": m.room, "epoch": m.epoch, "offset": m.offset,
                "role": role_of(m.role), "members": m.members, "state": state,
                "messages": history_of(m.messages), "recovered": m.recovered})
        }
        Kind::Left(m) => json!({"type": "left", "room": m.room, "reason": m.reason}),
        Kind::Presence(m) => json!({"type": "presence", "room": m.room, "event": m.event,
            "nickname": m.nickname, "timestamp": m.timestamp, "reason": m.reason, "from": m.from,
            "role": role_of(m.role), "joined": m.joined, "left": m.left, "members": m.members}),
        Kind::Message(m) => json!({"type": "message", "room": m.room, "sender": m.sender,
            "content": m.content, "offset": m.offset, "timestamp": m.timestamp}),
        Kind::Ack(m) => json!({"type": "ack", "room": m.room, "epoch": m.epoch, "offset": m.offset,
            "timestamp": m.timestamp, "level": level_of(m.level), "target": m.target,
            "delivered": m.delivered, "stored": m.stored, "sessions": m.sessions, "key": m.key,
            "version": m.version}),
        Kind::Private(m) => json!({"type": "private", "sender": m.sender, "target": m.target,
            "content": m.content, "timestamp": m.timestamp, "offset": m.offset}),
        Kind::System(m) => json!({"type": "system", "content": m.content, "sender": m.sender,
            "timestamp": m.timestamp, "room": m.room}),
        Kind::Members(m) => {
            let member = |m: schema::Member| {
                json!({"nickname": m.nickname, "role": role_of(m.role), "connected": m.connected,
                    "last_active": m.last_active})
            };
            let members: Vec<Value> = m.members.into_iter().map(member).collect();
            json!({"type": "members", "room": m.room, "total": m.total, "members": members})
        }
        Kind::Rooms(m) => {
            let info =
                |m: schema::RoomInfo| json!({"room": m.room, "members": m.members, "offset": m.offset});
            json!({"type": "rooms", "rooms": m.rooms.into_iter().map(info).collect::<Vec<_>>()})
        }
        Kind::History(m) => json!({"type": "history", "room": m.room, "epoch": m.epoch,
            "messages": history_of(m.messages)}),
        Kind::State(m) => json!({"type": "state", "room": m.room, "key": m.key,
            "value": json_of(&m.value_json), "version": m.version, "sender": m.sender}),
        Kind::Typing(m) => json!({"type": "typing", "room": m.room, "nickname": m.nickname}),
        Kind::Pong(m) => json!({"type": "pong", "timestamp": m.timestamp}),
        Kind::Bye(m) => json!({"type": "bye", "code": m.code, "reason": m.reason,
            "resumable": m.resumable, "after_ms": m.after_ms}),
        Kind::Error(m) => json!({"type": "error", "code": m.code, "reason": m.reason,
            "message": m.message, "retryable": m.retryable, "retry_after_ms": m.retry_after_ms}),
        Kind::Ping(_) => json!({"type": "ping"}),
        Kind::Gap(m) => {
            json!({"type": "gap", "room": m.room, "epoch": m.epoch, "from": m.from, "to": m.to})
        }
    }
}

fn json_of(value: &str) -> Value {
    serde_json::from_str(value).expect("JSON")
}

fn role_of(role: i32) -> String {
    let name = schema::Role::try_from(role).expect("a role").as_str_name();
    name.strip_prefix("ROLE_").unwrap().replace("UNSPECIFIED", "").to_lowercase()
}

fn level_of(level: i32) -> String {
    let name = schema::AckLevel::try_from(level).expect("a level").as_str_name();
    name.strip_prefix("ACK_").unwrap().replace("DEFAULT", "").to_lowercase()
}

fn history_of(messages: Vec<schema::HistoryMessage>) -> Vec<Value> {
    let message = |m: schema::HistoryMessage| json!({"sender": m.sender, "content": m.content, "offset": m.offset, "timestamp": m.timestamp});
    messages.into_iter().map(message).collect()
}

/// Drops the fields of an event that proto3 cannot tell from absent ones: the defaults of all that is not `optional`.
fn normalise(event: &mut Value) {
    let optional: &[&str] = match event["type"].as_str() {
        Some("joined") => &["recovered"],
        Some("private") => &["offset"],
        Some("error") => &["retry_after_ms"],
        _ => &[],
    };
    let is_default = |value: &Value| *value == json!("") || *value == json!(0) || *value == json!(false);
    let is_empty = |value: &Value| *value == json!([]);
    event.as_object_mut().expect("an object").retain(|name, value| {
        // What people put into a room's state is compared as it is.
        name == "value"
            || !(value.is_null()
                || (!optional.contains(&name.as_str()) && (is_default(value) || is_empty(value))))
    });
}

#[test]
fn every_event_is_the_same_in_both_encodings() {
    for (index, name) in EVENTS.into_iter().enumerate() {
        let number = index as u8 + 1;
        check_all(name, any_parts(), |parts| {
            with_event(name, &parts, |event| {
                prop_assert_eq!(event.number(), number);
                let mut written = Vec::new();
                json::write(event, &mut written);
                let mut expected: Value = serde_json::from_slice(&written).expect("JSON");
                prop_assert_eq!(&expected["type"], name);
                let id = expected["id"].as_str().unwrap_or_default().to_owned();

                let mut whole = b"before".to_vec();
                protobuf::write(event, &mut whole);
                let whole = &whole[6..];
                let read = schema::Event::decode(whole).expect("an event");
                prop_assert_eq!(&read.encode_to_vec(), whole, "not as prost writes it");
                prop_assert_eq!(&read.id, &id);

                let mut bare = b"before".to_vec();
                protobuf::write_as(event, &mut bare);
                let read_without_id = schema::Event { id: String::new(), ..read.clone() }.encode_to_vec();
                let (field, expected_bare) = only_field(&read_without_id);
                prop_assert_eq!(field, u32::from(number));
                let mut expected_bare = expected_bare.to_vec();
                if !id.is_empty() {
                    encoding::string::encode(100, &id, &mut expected_bare);
                }
                prop_assert_eq!(&bare[6..], expected_bare);

                let mut told = object_of(read.kind.expect("a kind"));
                told["id"] = json!(id);
                normalise(&mut told);
                normalise(&mut expected);
                prop_assert_eq!(told, expected);
                Ok(())
            })
        });
    }
}

#[test]
fn the_kinds_of_frames_are_those_of_the_contract() {
    let command = |name| COMMANDS.iter().position(|known| *known == name).map(|index| index + 1);
    assert_eq!((command("hello"), command("message"), command("nick")), (Some(1), Some(5), Some(23)));
    let event = |name| {
        let index = EVENTS.iter().position(|known| *known == name).expect("an event");
        usize::from(frame::EVENT_KIND_BASE) + index + 1
    };
    assert_eq!((event("welcome"), event("message"), event("gap")), (129, 133, 146));
}
