//! Properties of the words that cross the wire: commands in JSON, text on terminals, names.

use std::borrow::Cow;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use starling::chat::name::{NICKNAME_CHARS_MAX, Nickname, ROOM_NAME_CHARS_MAX, RoomName, fold};
use starling::chat::refusal::{Farewell, Reason as Refused};
use starling::proto::json::{self, Reason};
use starling::proto::text::{self, Line};
use starling::proto::wire::{
    Ack, COMMANDS, Command, Error, Event, Join, Json, Moderate, Moderation, Position, Presence,
};

/// A field's type, as the contract has it.
#[derive(Clone, Copy, PartialEq)]
enum Type {
    Text,
    Number,
    Flag,
    Position,
    Texts,
    Any,
}

use Type::{Any, Flag, Number, Position as Place, Text, Texts};

const JOIN_OPTIONS: [(&str, Type); 4] =
    [("history", Number), ("since", Place), ("echo", Flag), ("overflow", Text)];

/// A command's type, the fields it needs and those it may have.
type Row = (&'static str, Vec<(&'static str, Type)>, Vec<(&'static str, Type)>);

/// Every command.
fn table() -> Vec<Row> {
    let moderation =
        |name| (name, vec![("room", Text), ("target", Text)], vec![("reason", Text), ("seconds", Number)]);
    vec![
        ("hello", vec![], vec![("nickname", Text), ("token", Text), ("resume", Text)]),
        ("join", vec![("room", Text)], JOIN_OPTIONS.to_vec()),
        ("leave", vec![("room", Text)], vec![]),
        ("switch", vec![("from", Text), ("to", Text)], JOIN_OPTIONS.to_vec()),
        ("message", vec![("room", Text), ("content", Text)], vec![("ack", Text)]),
        ("private", vec![("target", Text), ("content", Text)], vec![]),
        ("received", vec![("offset", Number)], vec![]),
        ("broadcast", vec![("content", Text)], vec![("rooms", Texts), ("tags", Texts)]),
        ("members", vec![("room", Text)], vec![("limit", Number), ("after", Text)]),
        ("rooms", vec![], vec![("limit", Number), ("after", Text)]),
        ("history", vec![("room", Text)], vec![("before", Number), ("after", Number), ("limit", Number)]),
        ("state", vec![("room", Text), ("key", Text)], vec![("value", Any)]),
        ("role", vec![("room", Text), ("target", Text), ("role", Text)], vec![]),
        moderation("kick"),
        moderation("ban"),
        moderation("unban"),
        moderation("mute"),
        moderation("unmute"),
        ("typing", vec![("room", Text)], vec![]),
        ("ping", vec![], vec![]),
        ("quit", vec![], vec![]),
        ("pong", vec![], vec![]),
        ("nick", vec![("nickname", Text)], vec![]),
    ]
}

#[test]
fn the_table_has_every_command() {
    assert_eq!(table().iter().map(|(name, ..)| *name).collect::<Vec<_>>(), COMMANDS);
}

/// The command of type `name` with the fields it needs, and an id.
fn smallest(name: &str, needed: &[(&str, Type)]) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("type".into(), json!(name));
    object.insert("id".into(), json!("the id"));
    for (field, expected) in needed {
        object.insert((*field).to_owned(), if *expected == Number { json!(7) } else { json!("x") });
    }
    object
}

fn refused(object: &Map<String, Value>) -> (Reason, String) {
    refused_line(&serde_json::to_vec(object).unwrap())
}

fn refused_line(line: &[u8]) -> (Reason, String) {
    let malformed = json::parse(line).expect_err(&String::from_utf8_lossy(line));
    assert_eq!(malformed.id.as_deref(), Some("the id"), "{}", String::from_utf8_lossy(line));
    (malformed.reason, malformed.message.into_owned())
}

#[test]
fn every_command_needs_its_fields() {
    for (name, needed, _) in table() {
        let object = smallest(name, &needed);
        let bytes = serde_json::to_vec(&object).unwrap();
        assert_eq!(json::parse(&bytes).unwrap().id.as_deref(), Some("the id"));
        for (field, _) in needed {
            for absent in [None, Some(Value::Null)] {
                let mut object = object.clone();
                object.remove(field);
                object.extend(absent.map(|null| (field.to_owned(), null)));
                assert_eq!(refused(&object), (Reason::BadRequest, format!("field `{field}` is missing")));
            }
        }
    }
}

#[test]
fn no_command_takes_a_field_twice() {
    for (name, needed, optional) in table() {
        for (field, _) in needed.iter().chain(&optional) {
            let object = serde_json::to_string(&smallest(name, &needed)).unwrap();
            let rest = object.strip_prefix('{').unwrap();
            let twice = format!(r#"{{"{field}":null,"{field}":null,{rest}"#);
            let expected = (Reason::BadRequest, format!("field `{field}` stands there twice"));
            assert_eq!(refused_line(twice.as_bytes()), expected, "{name}");
        }
    }
}

#[test]
fn every_field_has_its_type() {
    let values = [
        json!("text"),
        json!(""),
        json!(7),
        json!(-7),
        json!(7.0),
        json!(1e300),
        json!(u64::MAX),
        json!(true),
        json!([]),
        json!(["a", "b"]),
        json!(["a", 1]),
        json!(["a", null]),
        json!({}),
        json!({"epoch": 5, "offset": 5}),
        json!({"epoch": "e", "offset": -5}),
        json!({"epoch": "e", "offset": 5}),
    ];
    let is_of = |value: &Value, expected: Type| match expected {
        Text => value.is_string(),
        Number => value.is_u64(),
        Flag => value.is_boolean(),
        Place => value.get("epoch").is_some_and(Value::is_string) && value["offset"].is_u64(),
        // Of a broadcast, which would be for nobody, or for everybody.
        Texts => {
            value.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(Value::is_string))
        }
        Any => true,
    };
    for (name, needed, optional) in table() {
        let fields = needed.iter().copied().chain(optional);
        for (field, expected) in fields {
            for value in &values {
                let mut object = smallest(name, &needed);
                object.insert(field.into(), value.clone());
                if is_of(value, expected) {
                    let bytes = serde_json::to_vec(&object).unwrap();
                    assert!(json::parse(&bytes).is_ok(), "{object:?}");
                } else {
                    let (reason, message) = refused(&object);
                    assert_eq!(reason, Reason::BadRequest, "{object:?}");
                    assert!(message.starts_with(&format!("field `{field}")), "{message}");
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_a_number_is_refused() {
    for written in ["18446744073709551616", "-0", "1e2", "1.0", "\"1\""] {
        let line = format!(r#"{{"type":"rooms","limit":{written}}}"#);
        let malformed = json::parse(line.as_bytes()).unwrap_err();
        assert_eq!(malformed.reason, Reason::BadRequest, "{written}");
        assert_eq!(malformed.message, "field `limit` must be a non-negative integer");
    }
}

/// A code, whether it is retryable, and its reasons with their words.
type RefusedRow = (u16, bool, &'static [(Refused, &'static str)]);

#[test]
fn every_refusal_has_the_code_and_word_of_the_contract() {
    use Refused::*;
    let rows: [RefusedRow; 10] = [
        (
            400,
            false,
            &[
                (BadJson, "bad_json"),
                (BadRequest, "bad_request"),
                (UnknownType, "unknown_type"),
                (BadName, "bad_name"),
                (BadUtf8, "bad_utf8"),
                (AckUnavailable, "ack_unavailable"),
            ],
        ),
        (
            401,
            false,
            &[
                (Unauthenticated, "unauthenticated"),
                (BadToken, "bad_token"),
                (ExpiredToken, "expired_token"),
                (BadCredentials, "bad_credentials"),
            ],
        ),
        (
            403,
            false,
            &[(Forbidden, "forbidden"), (Banned, "banned"), (Muted, "muted"), (NotAMember, "not_a_member")],
        ),
        (404, false, &[(NoSuchRoom, "no_such_room"), (NoSuchUser, "no_such_user"), (NotFound, "not_found")]),
        (
            409,
            false,
            &[
                (NicknameInUse, "nickname_in_use"),
                (AlreadyJoined, "already_joined"),
                (AlreadySaidHello, "already_said_hello"),
            ],
        ),
        (413, false, &[(TooLarge, "too_large")]),
        (429, true, &[(RateLimited, "rate_limited"), (TooManyConnections, "too_many_connections")]),
        (429, false, &[(TooManyRooms, "too_many_rooms")]),
        (500, true, &[(Internal, "internal")]),
        (
            503,
            true,
            &[
                (Unavailable, "unavailable"),
                (Draining, "draining"),
                (BackplaneDown, "backplane_down"),
                (StoreDown, "store_down"),
            ],
        ),
    ];
    for (code, retryable, reasons) in rows {
        for (reason, word) in reasons {
            assert_eq!((reason.code(), reason.is_retryable(), reason.as_str()), (code, retryable, *word));
        }
    }
}

#[test]
fn every_farewell_has_the_code_and_word_of_the_contract() {
    use Farewell::*;
    for (farewell, code, word) in [
        (Quit, 1000, "quit"),
        (BadProtocol, 4100, "bad_protocol"),
        (Unauthenticated, 4101, "unauthenticated"),
        (Banned, 4102, "banned"),
        (Replaced, 4103, "replaced"),
        (TooManyErrors, 4104, "too_many_errors"),
        (TooManyConnections, 4105, "too_many_connections"),
        (NoHello, 4106, "no_hello"),
        (Kicked, 4107, "kicked"),
        (Internal, 4200, "internal"),
        (SlowConsumer, 4201, "slow_consumer"),
        (RateLimited, 4202, "rate_limited"),
        (Timeout, 4203, "timeout"),
        (Overloaded, 4204, "overloaded"),
        (ExpiredToken, 4205, "expired_token"),
        (Draining, 4300, "draining"),
    ] {
        assert_eq!((farewell.code(), farewell.as_str()), (code, word));
    }
}

fn any_text() -> impl Strategy<Value = Cow<'static, str>> {
    any::<String>().prop_map(Cow::Owned)
}

fn any_join() -> impl Strategy<Value = Join<'static>> {
    let since = (any_text(), any::<u64>()).prop_map(|(epoch, offset)| Position { epoch, offset });
    (
        any_text(),
        option::of(any::<u64>()),
        option::of(since),
        option::of(any::<bool>()),
        option::of(any_text()),
    )
        .prop_map(|(room, history, since, echo, overflow)| Join { room, history, since, echo, overflow })
}

fn any_moderate() -> impl Strategy<Value = Moderate<'static>> {
    use Moderation::{Ban, Kick, Mute, Unban, Unmute};
    let action = prop::sample::select(vec![Kick, Ban, Unban, Mute, Unmute]);
    (action, any_text(), any_text(), option::of(any_text()), option::of(1..=u64::MAX)).prop_map(
        |(action, room, target, reason, seconds)| Moderate { action, room, target, reason, seconds },
    )
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Eighths, which every reader takes for the number that was written.
        any::<i32>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
        tricky_text().prop_map(Value::from),
        "[ \"\\\\\n]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((tricky_text(), inner), 0..4).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn any_command() -> impl Strategy<Value = Command<'static>> {
    let maybe = || option::of(any_text());
    prop_oneof![
        (maybe(), maybe(), maybe()).prop_map(|(nickname, token, resume)| Command::Hello {
            nickname,
            token,
            resume
        }),
        any_text().prop_map(|nickname| Command::Nick { nickname }),
        any_join().prop_map(Command::Join),
        any_text().prop_map(|room| Command::Leave { room }),
        (any_text(), any_join()).prop_map(|(from, to)| Command::Switch { from, to }),
        (any_text(), any_text(), maybe()).prop_map(|(room, content, ack)| Command::Message {
            room,
            content,
            ack
        }),
        (any_text(), any_text()).prop_map(|(target, content)| Command::Private { target, content }),
        (any_text(), option::of(any::<u64>()), maybe()).prop_map(|(room, limit, after)| Command::Members {
            room,
            limit,
            after
        }),
        (option::of(any::<u64>()), maybe()).prop_map(|(limit, after)| Command::Rooms { limit, after }),
        any_text().prop_map(|room| Command::Typing { room }),
        any::<u64>().prop_map(|offset| Command::Received { offset }),
        (any_text(), vec(any_text(), 0..3), vec(any_text(), 0..3))
            .prop_map(|(content, rooms, tags)| Command::Broadcast { content, rooms, tags }),
        (any_text(), option::of(any::<u64>()), option::of(any::<u64>()), option::of(any::<u64>()))
            .prop_map(|(room, before, after, limit)| Command::History { room, before, after, limit }),
        (any_text(), any_text(), option::of(any_json())).prop_map(|(room, key, value)| Command::State {
            room,
            key,
            value: value.filter(|value| !value.is_null()).map(|value| value.to_string().into()),
        }),
        (any_text(), any_text(), any_text()).prop_map(|(room, target, role)| Command::Role {
            room,
            target,
            role
        }),
        any_moderate().prop_map(Command::Moderate),
        Just(Command::Ping),
        Just(Command::Pong),
        Just(Command::Quit),
    ]
}

fn join_object(name: &str, join: &Join<'_>) -> Value {
    let since = join.since.as_ref().map(|since| json!({"epoch": since.epoch, "offset": since.offset}));
    json!({name: join.room, "history": join.history, "since": since, "echo": join.echo,
        "overflow": join.overflow})
}

fn object_of(command: &Command<'_>) -> Value {
    let (name, mut object) = match command {
        Command::Hello { nickname, token, resume } => {
            ("hello", json!({"nickname": nickname, "token": token, "resume": resume}))
        }
        Command::Nick { nickname } => ("nick", json!({"nickname": nickname})),
        Command::Join(join) => ("join", join_object("room", join)),
        Command::Leave { room } => ("leave", json!({"room": room})),
        Command::Switch { from, to } => {
            let mut object = join_object("to", to);
            object["from"] = json!(from);
            ("switch", object)
        }
        Command::Message { room, content, ack } => {
            ("message", json!({"room": room, "content": content, "ack": ack}))
        }
        Command::Private { target, content } => ("private", json!({"target": target, "content": content})),
        Command::Members { room, limit, after } => {
            ("members", json!({"room": room, "limit": limit, "after": after}))
        }
        Command::Rooms { limit, after } => ("rooms", json!({"limit": limit, "after": after})),
        Command::Typing { room } => ("typing", json!({"room": room})),
        Command::Received { offset } => ("received", json!({"offset": offset})),
        Command::Broadcast { content, rooms, tags } => {
            // A list with nothing in it is one that is left out.
            let list = |list: &[Cow<'_, str>]| (!list.is_empty()).then(|| json!(list));
            ("broadcast", json!({"content": content, "rooms": list(rooms), "tags": list(tags)}))
        }
        Command::History { room, before, after, limit } => {
            ("history", json!({"room": room, "before": before, "after": after, "limit": limit}))
        }
        Command::State { room, key, value } => {
            let value: Option<Value> = value.as_ref().map(|value| serde_json::from_str(value).unwrap());
            ("state", json!({"room": room, "key": key, "value": value}))
        }
        Command::Role { room, target, role } => {
            ("role", json!({"room": room, "target": target, "role": role}))
        }
        Command::Moderate(Moderate { action, room, target, reason, seconds }) => {
            let name = match action {
                Moderation::Kick => "kick",
                Moderation::Ban => "ban",
                Moderation::Unban => "unban",
                Moderation::Mute => "mute",
                Moderation::Unmute => "unmute",
            };
            (name, json!({"room": room, "target": target, "reason": reason, "seconds": seconds}))
        }
        Command::Ping => ("ping", json!({})),
        Command::Pong => ("pong", json!({})),
        Command::Quit => ("quit", json!({})),
    };
    object["type"] = json!(name);
    object
}

/// Text with many of the characters that need care.
fn tricky_text() -> impl Strategy<Value = String> {
    let c = prop_oneof![any::<char>(), prop::char::range('\0', '\u{A0}'), Just('\n'), Just('\r')];
    vec(c, 0..100).prop_map(String::from_iter)
}

/// What a terminal is to show, told in the plainest way.
fn shown_by_characters(written: &str) -> String {
    let mut shown = String::new();
    let mut characters = written.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\r' => {
                characters.next_if_eq(&'\n');
                shown.push('⏎');
            }
            '\n' => shown.push('⏎'),
            '\t' => shown.push(' '),
            c if c.is_control() => {}
            c => shown.push(c),
        }
    }
    shown
}

/// Characters of which most may stand in a name.
fn name_like() -> impl Strategy<Value = String> {
    let c = prop_oneof![
        prop::char::range('A', 'z'),
        prop::char::range('\u{370}', '\u{52F}'),
        prop::char::range('\u{1E00}', '\u{1FFF}'),
        any::<char>(),
        prop::sample::select(vec!['_', '-', '.', 'İ', 'ı', 'I', 'i', 'ß', 'ẞ', 'σ', 'ς', 'Σ']),
    ];
    vec(c, 0..6).prop_map(String::from_iter)
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_command_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
        let _ = json::parse(&bytes);
    }

    #[test]
    fn a_damaged_command_is_a_command_or_an_error(
        command in any_command(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = serde_json::to_vec(&object_of(&command)).unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Err(malformed) = json::parse(&bytes) {
            let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok();
            let is_text = std::str::from_utf8(&bytes).is_ok();
            let expected_json = !matches!(malformed.reason, Reason::BadJson | Reason::BadUtf8);
            prop_assert_eq!(is_json && is_text, expected_json, "{}", malformed.message);
            prop_assert_eq!(!is_text, malformed.reason == Reason::BadUtf8);
        }
    }

    #[test]
    fn commands_come_back_as_they_were_sent(command in any_command(), id in option::of("[ -~]{0,64}")) {
        let mut object = object_of(&command);
        object["id"] = json!(id);
        object["unknown"] = json!([{"type": 1}]);
        let bytes = serde_json::to_vec(&object).unwrap();
        let envelope = json::parse(&bytes).unwrap();
        prop_assert_eq!(envelope.command, command);
        prop_assert_eq!(envelope.id.as_deref(), id.as_deref());
    }

    #[test]
    fn a_compact_value_is_the_value_as_serde_writes_it(value in any_json()) {
        let pretty = serde_json::to_string_pretty(&value).unwrap().replace('\n', "\t\r\n");
        let written = value.to_string();
        prop_assert_eq!(&*json::compact(&pretty), &written);
        prop_assert!(matches!(json::compact(&written), Cow::Borrowed(_)));
        let line = format!(r#"{{"type":"state","room":"a","key":"b","value": {pretty} }}"#);
        let Command::State { value: read, .. } = json::parse(line.as_bytes()).unwrap().command else {
            panic!("not a state")
        };
        prop_assert_eq!(read, Some(written.into()).filter(|_| !value.is_null()));
    }

    #[test]
    fn a_message_is_written_as_serde_writes_it(
        room in tricky_text(),
        sender in any::<String>(),
        content in tricky_text(),
        offset: u64,
        timestamp: u64,
    ) {
        let event = Event::Message { room: &room, sender: &sender, content: &content, offset, timestamp };
        let mut out = b"before".to_vec();
        json::write(&event, &mut out);
        prop_assert_eq!(&out[6..], serde_json::to_vec(&event).unwrap());
        prop_assert!(!out.contains(&b'\n'), "an event is one line");
    }

    #[test]
    fn an_acknowledgement_is_written_as_serde_writes_it(
        texts in prop::array::uniform6(option::of(tricky_text())),
        numbers: [Option<u64>; 5],
        stored: Option<bool>,
    ) {
        let [id, room, epoch, level, target, key] = texts.each_ref().map(Option::as_deref);
        let [offset, timestamp, delivered, sessions, version] = numbers;
        let ack = Ack {
            id, room, epoch, offset, timestamp, level, target, delivered, stored, sessions, key, version,
        };
        let pong = Event::Pong { id, timestamp: timestamp.unwrap_or_default() };
        for event in [Event::Ack(ack), pong] {
            let mut out = b"before".to_vec();
            json::write(&event, &mut out);
            prop_assert_eq!(std::str::from_utf8(&out[6..]), Ok(&*serde_json::to_string(&event).unwrap()));
        }
    }

    #[test]
    fn text_is_shown_as_if_looked_at_character_by_character(written in tricky_text(), plain in "[ -~é°李]{0,100}") {
        for written in [format!("{written}{plain}"), format!("{plain}{written}{plain}")] {
            let mut out = b"before".to_vec();
            text::put_text(&mut out, &written);
            prop_assert_eq!(std::str::from_utf8(&out[6..]), Ok(&*shown_by_characters(&written)));
        }
    }

    #[test]
    fn text_has_no_control_characters_and_loses_nothing_else(written in tricky_text()) {
        let mut out = Vec::new();
        text::put_text(&mut out, &written);
        let shown = String::from_utf8(out).unwrap();
        prop_assert!(!shown.contains(char::is_control));
        let kept: String = shown.chars().filter(|c| !matches!(c, '⏎' | ' ')).collect();
        let sent: String = written.chars().filter(|c| !c.is_control() && !matches!(c, '⏎' | ' ')).collect();
        prop_assert_eq!(kept, sent);
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it(a in tricky_text(), b in tricky_text(), c in tricky_text()) {
        let error = Error {
            id: None, code: 400, reason: &a, message: &b, retryable: false, retry_after_ms: None,
        };
        let leave = Presence {
            room: &a, event: "leave", nickname: Some(&b), reason: Some(&c), ..Presence::default()
        };
        let batch = Presence { room: &a, event: "batch", joined: Some(&[&b, &c]), ..Presence::default() };
        let topic = json!(b).to_string();
        for event in [
            Event::Message { room: &a, sender: &b, content: &c, offset: 1, timestamp: 1 },
            Event::Private { sender: &a, target: &b, content: &c, timestamp: 1, offset: None },
            Event::Left { id: None, room: &a, reason: &b },
            Event::Presence(leave),
            Event::Presence(batch),
            Event::Presence(Presence { event: "mute", ..leave }),
            Event::Presence(Presence { event: "role", role: Some(&c), ..leave }),
            Event::State { room: &a, key: "topic", value: Json(&topic), version: 1, sender: &c },
            Event::Gap { room: &a, epoch: &b, from: 1, to: 2 },
            Event::Error(error),
        ] {
            let mut out = Vec::new();
            text::write(&event, &mut out);
            let line = String::from_utf8(out).unwrap();
            let line = line.strip_suffix('\n').expect("a line end");
            prop_assert!(!line.contains(char::is_control), "{:?}", line);
        }
    }

    #[test]
    fn a_typed_line_is_said_or_obeyed(line in "(/[a-zA-Z]{0,7})?[ -~é\u{2003}]{0,30}") {
        match text::parse(&line) {
            Line::Say(said) => {
                prop_assert_eq!(said, line.strip_prefix('/').unwrap_or(&line));
                prop_assert!(line.starts_with("//") || !line.starts_with('/'));
            }
            Line::Empty => prop_assert!(line.trim().is_empty()),
            Line::Nick(word) | Line::Join(word) | Line::Kick(word) | Line::Token(word) => {
                prop_assert!(!word.is_empty() && !word.contains(char::is_whitespace));
            }
            _ => prop_assert!(line.starts_with('/')),
        }
    }

    #[test]
    fn any_line_after_a_slash_can_be_said(said in any::<String>()) {
        let line = format!("//{said}");
        prop_assert_eq!(text::parse(&line), Line::Say(&line[1..]));
    }

    #[test]
    fn folding_twice_is_folding_once(written in any::<String>()) {
        let once = fold(&written).into_owned();
        prop_assert_eq!(&*fold(&once), &once);
        prop_assert_eq!(once.chars().count(), written.chars().count());
    }

    #[test]
    fn names_are_equal_exactly_when_they_fold_alike(a in name_like(), b in name_like(), upper: bool) {
        let b = if upper { a.to_uppercase() } else { b };
        if let (Ok(first), Ok(second)) = (Nickname::parse(&a), Nickname::parse(&b)) {
            prop_assert_eq!(first == second, fold(&a) == fold(&b));
            prop_assert_eq!(first.cmp(&second), fold(&a).cmp(&fold(&b)));
            if first == second {
                prop_assert_eq!(hash_of(&first), hash_of(&second));
            }
            prop_assert_eq!(first.as_str(), &a);
            prop_assert_eq!(first.folded(), fold(&a));
            prop_assert_eq!(first.same_spelling(&b), a == b);
        }
    }

    #[test]
    fn nicknames_and_rooms_differ_only_in_length(written in "[a-zé李\u{301}._-]{0,70}") {
        let length = written.chars().count();
        let room = RoomName::parse(&written);
        prop_assert!(room.is_err() || (1..=ROOM_NAME_CHARS_MAX).contains(&length));
        let expected = room.is_ok() && length <= NICKNAME_CHARS_MAX;
        prop_assert_eq!(Nickname::parse(&written).is_ok(), expected);
    }
}

#[test]
fn the_client_compares_names_as_the_server_does() {
    for c in '\0'..=char::MAX {
        let name = c.to_string();
        assert_eq!(starling_client::name::fold(&name), fold(&name), "{c:?}");
    }
}
