//! Calls that carry `Message`s.

use prost::Message as _;
use starling::auth::Claims;
use starling::config::AckLevel;
use starling::proto::protobuf::schema::{Message, SendMessageResponse};

use crate::calls::{Caller, request, said, sent, status};
use crate::cores::{Client, Cores, programs};
use crate::tokens::{self, claims, token};

const STREAM: &str = "/chat.ChatService/StreamMessages";
const SEND: &str = "/chat.ChatService/SendMessage";

fn private(user_id: &str, target: &str, content: &str) -> Message {
    Message { target: target.into(), ..said(user_id, "", content) }
}

/// Who says what where, in what a call has heard.
fn heard(caller: &mut Caller, cores: &mut Cores, call: usize) -> Vec<String> {
    let messages = caller.heard::<Message>(cores, call);
    let of = |it: &Message| {
        let place = if it.room.is_empty() { &it.target } else { &it.room };
        format!("{} {place} {}: {}", it.r#type, it.user_id, it.content)
    };
    messages.iter().map(of).collect()
}

/// The messages that a client of another kind has heard.
fn told(cores: &mut Cores, client: Client) -> Vec<String> {
    let events = cores.events(client).into_iter().filter(|event| event["type"] == "message");
    events
        .map(|event| format!("{} {}", event["sender"].as_str().unwrap(), event["content"].as_str().unwrap()))
        .collect()
}

#[test]
fn who_is_named_by_the_metadata_is_in_a_room_at_once() {
    let mut cores = Cores::made(1, |_| {}, tokens::arrange);
    let alice = cores.enter(0, "alice", &["lobby", "den"]);
    let mut caller = Caller::new(&mut cores, 0);
    let dora = format!("Bearer {}", token(&claims("dora")));
    let metadata = [
        (&[("nickname", "bob")][..], "lobby", "bob"),
        (&[("nickname", "carol"), ("room", "den")], "den", "carol"),
        (&[("authorization", &dora), ("room", "den")], "den", "dora"),
        (&[("authorization", &dora), ("nickname", "Dora")], "lobby", "dora"),
    ];
    for (metadata, room, name) in metadata {
        let call = caller.call(&mut cores, STREAM, metadata, &[], false);
        let events = cores.events(alice);
        let come = |event: &serde_json::Value| (event["event"] == "join").then(|| event["nickname"].clone());
        let (joined, place) =
            (events.iter().find_map(come), events.first().map(|event| event["room"].clone()));
        assert_eq!((joined, place), (Some(name.into()), Some(room.into())), "{events:?}");
        cores.speak(alice, room, "hi");
        assert_eq!(heard(&mut caller, &mut cores, call), [format!("message {room} alice: hi")]);
        caller.say(&mut cores, call, &said("", room, "ho"));
        assert_eq!(told(&mut cores, alice), ["alice hi", &format!("{name} ho")]);
        caller.end(&mut cores, call);
        assert_eq!(heard(&mut caller, &mut cores, call), [format!("message {room} {name}: ho")]);
        assert_eq!(caller.status(&mut cores, call), status(0, ""));
        cores.events(alice);
    }
    let other = format!("Bearer {}", token(&claims("dora")));
    let call = caller.call(&mut cores, STREAM, &[("authorization", &other), ("nickname", "eve")], &[], false);
    assert_eq!(caller.status(&mut cores, call), status(16, "bad_token"));
    let call = caller.call(&mut cores, STREAM, &[("nickname", "a b")], &[], false);
    assert_eq!(caller.status(&mut cores, call), status(3, "bad_name"));
    assert_eq!(cores.shards[0].inventory().sessions, 1, "nothing is left of any of them");
}

#[test]
fn the_first_message_tells_who_comes_and_where() {
    let mut cores = Cores::new(|_| {});
    let alice = cores.enter(0, "alice", &["lobby", "den"]);
    let mut caller = Caller::new(&mut cores, 0);
    let silent = caller.call(&mut cores, STREAM, &[], &[], false);
    assert_eq!(cores.shards[0].inventory().sessions, 1, "nobody knows who that is");
    caller.say(&mut cores, silent, &said("bob", "den", ""));
    assert_eq!(cores.told(alice, "presence", "nickname"), ["bob"]);
    caller.say(&mut cores, silent, &said("BOB", "den", "one"));
    // To another room one goes first.
    caller.say(&mut cores, silent, &said("", "", "two"));
    caller.say(&mut cores, silent, &said("bob", "hall", "three"));
    assert_eq!(told(&mut cores, alice), ["bob one", "bob two"]);
    let own = ["message den bob: one", "message lobby bob: two", "message hall bob: three"];
    assert_eq!(heard(&mut caller, &mut cores, silent), own);
    caller.say(&mut cores, silent, &said("", "den", ""));
    assert_eq!(caller.status(&mut cores, silent), status(3, "bad_request"), "it says nothing");

    let all = [said("carol", "den", "one"), said("", "hall", "two"), said("", "", "three")];
    let all = all.map(|message| message.encode_to_vec());
    let at_once = caller.call(&mut cores, STREAM, &[], &all, true);
    let own = ["message den carol: one", "message hall carol: two", "message lobby carol: three"];
    assert_eq!(heard(&mut caller, &mut cores, at_once), own);
    assert_eq!(caller.status(&mut cores, at_once), status(0, ""));
    assert_eq!(told(&mut cores, alice), ["carol one", "carol three"]);

    let first = said("eve", "den", "").encode_to_vec();
    for (later, reason) in [(said("alice", "den", "x"), "bad_request"), (said("", "a b", "x"), "bad_name")] {
        let call = caller.call(&mut cores, STREAM, &[], std::slice::from_ref(&first), false);
        assert_eq!(caller.status(&mut cores, call), None);
        caller.say(&mut cores, call, &later);
        assert_eq!(caller.status(&mut cores, call), status(3, reason), "{later:?}");
    }
    for (metadata, first) in
        [(&[][..], said("", "den", "x")), (&[("nickname", "eve")], said("bob", "den", "x"))]
    {
        let call = caller.call(&mut cores, STREAM, metadata, &[first.encode_to_vec()], false);
        assert_eq!(caller.status(&mut cores, call), status(3, "bad_request"));
    }
    let call = caller.call(
        &mut cores,
        STREAM,
        &[("nickname", "eve")],
        &[said("EVE", "", "x").encode_to_vec()],
        true,
    );
    assert_eq!(caller.status(&mut cores, call), status(0, ""));
    let call = caller.call(&mut cores, STREAM, &[], &[said("alice", "den", "x").encode_to_vec()], false);
    assert_eq!(caller.status(&mut cores, call), status(6, "nickname_in_use"));
    let call = caller.call(&mut cores, STREAM, &[], &[vec![0xff]], false);
    assert_eq!(caller.status(&mut cores, call), status(3, "bad_request"));
    assert_eq!(told(&mut cores, alice), ["eve x"]);
}

#[test]
fn what_is_said_to_one_is_heard_by_one() {
    let mut cores = Cores::new(|_| {});
    let alice = cores.enter(0, "alice", &["lobby"]);
    let mut caller = Caller::new(&mut cores, 0);
    let bob = caller.call(&mut cores, STREAM, &[("nickname", "bob")], &[], false);
    caller.say(&mut cores, bob, &said("", "", ""));
    caller.say(&mut cores, bob, &private("", "alice", "psst"));
    caller.say(&mut cores, bob, &Message { r#type: "private".into(), ..private("bob", "alice", "again") });
    caller.say(
        &mut cores,
        bob,
        &Message { r#type: "message".into(), ..private("bob", "alice", "once more") },
    );
    caller.say(&mut cores, bob, &Message { r#type: "message".into(), ..said("bob", "", "to all") });
    let events = cores.events(alice).into_iter().filter(|event| event["type"] != "presence");
    let heard_by_alice: Vec<String> =
        events.map(|event| format!("{} {}", event["type"].as_str().unwrap(), event["content"])).collect();
    let expected = ["private \"psst\"", "private \"again\"", "private \"once more\"", "message \"to all\""];
    assert_eq!(heard_by_alice, expected);
    cores.say(alice, r#"{"type":"private","target":"bob","content":"yes?"}"#);
    assert_eq!(heard(&mut caller, &mut cores, bob), ["message lobby bob: to all", "private bob alice: yes?"]);
    // Without a target, what is private is for nobody.
    for (wrong, code, reason) in [
        (Message { r#type: "system".into(), ..said("", "", "x") }, 3, "bad_request"),
        (Message { r#type: "private".into(), ..said("", "", "x") }, 3, "bad_name"),
        (private("", "nobody", "x"), 5, "no_such_user"),
    ] {
        let metadata = [("nickname", "carol")];
        let messages = [said("", "", "").encode_to_vec(), wrong.encode_to_vec()];
        let call = caller.call(&mut cores, STREAM, &metadata, &messages, false);
        assert_eq!(caller.status(&mut cores, call), status(code, reason), "{wrong:?}");
    }
}

#[test]
fn one_message_is_sent_by_whoever_the_credentials_say() {
    let mut cores = Cores::made(1, |config| config.auth.api_keys = programs(&["ci"]), tokens::arrange);
    let alice = cores.enter(0, "alice", &["lobby", "den"]);
    let mut caller = Caller::new(&mut cores, 0);
    let rooms = Some(vec!["den".to_owned()]);
    let dora = format!("bearer  {}", token(&Claims { rooms, ..claims("dora") }));
    let mut send = |cores: &mut Cores, metadata: &[(&str, &str)], message: Message| {
        let call = caller.call(cores, SEND, metadata, &[sent(message)], true);
        let answers = caller.heard::<SendMessageResponse>(cores, call);
        let answer = answers.first().map(|answer| {
            assert!(answer.success && answers.len() == 1);
            let place = format!("{}:{}", answer.epoch, answer.offset);
            assert_eq!(answer.message_id, if answer.offset == 0 { "" } else { &place });
            assert_eq!(answer.epoch.is_empty(), answer.offset == 0);
            answer.offset
        });
        (answer, caller.status(cores, call))
    };
    let done = |offset: u64| (Some(offset), status(0, ""));
    let refused = |code: u16, reason: &str| (None, status(code, reason));
    let by_token = [("authorization", dora.as_str()), ("x-api-key", "wrong")];
    let by_key = [("x-api-key", "ci")];
    assert_eq!(send(&mut cores, &by_token, said("", "den", "one")), done(1));
    assert_eq!(send(&mut cores, &by_key, said("CI", "den", "two")), done(2));
    assert_eq!(send(&mut cores, &by_key, said("", "", "three")), done(1));
    assert_eq!(send(&mut cores, &[], said("eve", "den", "four")), done(3));
    assert_eq!(send(&mut cores, &[("nickname", "Eve")], said("eve", "den", "five")), done(4));
    assert_eq!(send(&mut cores, &[("nickname", "eve")], said("", "den", "six")), done(5));
    let all = ["dora one", "ci two", "ci three", "eve four", "Eve five", "eve six"];
    assert_eq!(told(&mut cores, alice), all);
    for (metadata, message, code, reason) in [
        (&by_token[..], said("", "hall", "x"), 7, "forbidden"),
        (&by_token, said("ci", "den", "x"), 3, "bad_request"),
        (&[("authorization", "Bearer nonsense")], said("", "den", "x"), 16, "bad_token"),
        (&[("authorization", "Basic nonsense")], said("", "den", "x"), 3, "bad_request"),
        (&[("x-api-key", "wrong")], said("", "den", "x"), 16, "bad_credentials"),
        (&[], said("", "den", "x"), 3, "bad_request"),
        (&[("nickname", "eve")], said("bob", "den", "x"), 3, "bad_request"),
        (&[], said("alice", "den", "x"), 6, "nickname_in_use"),
        (&by_key, said("", "den", ""), 3, "bad_request"),
        (&by_key, said("", "a b", "x"), 3, "bad_name"),
        (&by_key, Message { r#type: "system".into(), ..said("", "den", "x") }, 3, "bad_request"),
    ] {
        assert_eq!(
            send(&mut cores, metadata, message.clone()),
            refused(code, reason),
            "{metadata:?} {message:?}"
        );
    }
    assert_eq!(told(&mut cores, alice), [""; 0]);
    // What is for one is from a session, which lasts as long as the call.
    assert_eq!(send(&mut cores, &[], private("eve", "alice", "psst")), done(0));
    assert_eq!(cores.told(alice, "private", "sender"), ["eve"]);
    assert_eq!(send(&mut cores, &[], private("eve", "nobody", "psst")), refused(5, "no_such_user"));
    assert_eq!(cores.shards[0].inventory().sessions, 1);
    assert_eq!(cores.total(|counters| &counters.calls_open), 0);
}

#[test]
fn a_message_with_the_same_key_is_the_same() {
    let mut cores = Cores::new(|config| config.auth.api_keys = programs(&["ci"]));
    let mut caller = Caller::new(&mut cores, 0);
    let mut send = |key: &[u8]| {
        let mut request = request(SEND, &[("x-api-key", "ci")]);
        let key = http::HeaderValue::from_bytes(key).expect("a value");
        request.headers_mut().insert("idempotency-key", key);
        let call = caller.begin(request, &[sent(said("", "den", "x"))], true);
        let answers = caller.heard::<SendMessageResponse>(&mut cores, call);
        (answers.first().map(|answer| answer.offset), caller.status(&mut cores, call))
    };
    let longest = [b'k'; 64];
    let done = |offset: u64| (Some(offset), status(0, ""));
    assert_eq!([send(b"k"), send(b"k"), send(b"l")], [done(1), done(1), done(2)]);
    assert_eq!([send(&longest), send(&longest)], [done(3), done(3)]);
    assert_eq!([send(b""), send(b"")], [done(4), done(5)], "an empty one is none");
    for bad in [&[b'k'; 65][..], &[0xff]] {
        assert_eq!(send(bad), (None, status(3, "bad_request")));
    }
}

#[test]
fn calls_of_one_connection_may_speak_under_one_name() {
    for cores in 1..=3 {
        let mut cores = Cores::of(cores, |_| {});
        let home = cores.shards.len() as u16 - 1;
        let (name, room) = (cores.name_at(home, "bob"), cores.name_at(home, "den"));
        let alice = cores.enter(0, "alice", &[&room]);
        let mut caller = Caller::new(&mut cores, 0);
        let mut other = Caller::new(&mut cores, 0);
        let one = || sent(said(&name, &room, "x"));
        // While nobody has the name, the first of them gets it, and the others speak by that.
        let calls: Vec<usize> = (0..4).map(|_| caller.begin(request(SEND, &[]), &[one()], true)).collect();
        caller.exchange(&mut cores);
        for call in calls {
            assert_eq!(caller.status(&mut cores, call), status(0, ""));
        }
        assert_eq!(told(&mut cores, alice).len(), 4);
        let stream = caller.call(&mut cores, STREAM, &[("nickname", &name), ("room", &room)], &[], false);
        let call = caller.call(&mut cores, SEND, &[], &[one()], true);
        assert_eq!(caller.status(&mut cores, call), status(0, ""));
        assert_eq!(heard(&mut caller, &mut cores, stream), [format!("message {room} {name}: x")]);
        // On another connection it is somebody else's.
        let call = other.call(&mut cores, SEND, &[], &[one()], true);
        assert_eq!(other.status(&mut cores, call), status(6, "nickname_in_use"));
        caller.end(&mut cores, stream);
        let call = other.call(&mut cores, SEND, &[], &[one()], true);
        assert_eq!(other.status(&mut cores, call), status(0, ""));
        assert_eq!(told(&mut cores, alice).len(), 2);
        assert_eq!(cores.total(|counters| &counters.nicknames), 1);
    }
}

#[test]
fn a_message_is_answered_when_it_is_stored_also_while_the_server_leaves() {
    let mut cores = Cores::stored(1, |config| {
        config.auth.api_keys = programs(&["ci"]);
        config.store.ack = AckLevel::Stored;
        config.limits.peer_window = 1;
    });
    cores.slow_store(true);
    let mut caller = Caller::new(&mut cores, 0);
    let mut send = |cores: &mut Cores, content: &str| {
        caller.call(cores, SEND, &[("x-api-key", "ci")], &[sent(said("", "den", content))], true)
    };
    let (first, second) = (send(&mut cores, "one"), send(&mut cores, "two"));
    assert_eq!(cores.shards[0].inventory().under_way, 1);
    assert_eq!(cores.total(|counters| &counters.window_waits), 1, "there is place for one at a time");
    assert_eq!([first, second].map(|call| caller.status(&mut cores, call)), [None, None]);
    cores.write();
    cores.settle();
    assert_eq!([first, second].map(|call| caller.status(&mut cores, call)), [status(0, ""), None]);
    cores.shards[0].drain();
    cores.settle();
    assert_eq!(caller.status(&mut cores, second), None, "it is not told to go before it knows");
    cores.write();
    cores.settle();
    assert_eq!(caller.status(&mut cores, second), status(0, ""));
    let offsets = [first, second].map(|call| caller.heard::<SendMessageResponse>(&mut cores, call)[0].offset);
    assert_eq!(offsets, [1, 2]);
    assert_eq!(cores.shards[0].inventory().under_way, 0);
}
