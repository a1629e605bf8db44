//! The language in which a client is answered.

use serde_json::json;
use starling::config::ListenKind;

use crate::carriers::{Carrier, frame};
use crate::cores::{Client, Cores};

/// The encodings and kinds of the frames that have come.
fn frames(cores: &mut Cores, client: Client) -> Vec<(u8, u8)> {
    let bytes = cores.bytes(client);
    let (mut rest, mut all) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        assert_eq!(rest[..5], [0xCA, 0xFE, 0xBA, 0xBE, 1]);
        let length = u32::from_be_bytes(rest[5..9].try_into().unwrap()) as usize;
        all.push((rest[9], rest[10] - 128));
        rest = &rest[11 + length..];
    }
    all
}

#[test]
fn frames_are_answered_as_they_were_asked_and_tell_what_happens_as_the_hello_was_said() {
    const JSON: u8 = 0;
    const PROTOBUF: u8 = 1;
    for (hello, other, own, others) in [
        (Carrier::ProtobufFrames, Carrier::JsonFrames, PROTOBUF, JSON),
        (Carrier::JsonFrames, Carrier::ProtobufFrames, JSON, PROTOBUF),
    ] {
        let mut cores = Cores::of(2, |_| {});
        let alice = hello.connect(&mut cores, 0);
        for (carrier, kind, fields) in [
            (hello, 1, r#"{"id":"1","nickname":"alice"}"#),
            (other, 2, r#"{"id":"2","room":"den"}"#),
            (hello, 9, r#"{"id":"3","room":"den"}"#),
            (other, 9, r#"{"id":"4","room":"den"}"#),
            (other, 5, r#"{"id":"5","room":"den","content":"one"}"#),
            (other, 6, r#"{"id":"6","target":"nobody","content":"one"}"#),
        ] {
            cores.receive(alice, &carrier.command(kind, fields));
        }
        let (welcome, joined, message, ack, members, error) = (1, 2, 5, 6, 9, 16);
        let mut told = frames(&mut cores, alice);
        told.retain(|frame| *frame != (own, message)); // it comes at the end of a turn
        assert_eq!(
            told,
            [
                (own, welcome),
                (others, joined),
                (own, members),
                (others, members),
                (others, ack),
                (others, error)
            ]
        );
    }
}

#[test]
fn an_answer_to_a_connection_that_is_gone_comes_in_the_language_of_the_next() {
    for first in [Carrier::JsonFrames, Carrier::ProtobufFrames, Carrier::WebSocket] {
        let mut cores = Cores::stored(1, |config| config.history.memory_count = 1);
        let speaker = cores.enter(0, "speaker", &["den"]);
        for number in 0..3 {
            cores.speak(speaker, "den", &number.to_string());
        }
        let alice = first.connect(&mut cores, 0);
        cores.receive(alice, &first.command(1, r#"{"nickname":"alice"}"#));
        let heard = String::from_utf8_lossy(&cores.bytes(alice)).into_owned();
        let at = heard.find("eyJ").expect("a token of three parts");
        let resume: String =
            heard[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
        cores.receive(alice, &first.command(2, r#"{"room":"den"}"#));
        cores.slow_store(true);
        cores.receive(alice, &first.command(11, r#"{"id":"h","room":"den"}"#));
        cores.broken(alice);
        let again = cores.connect(0, ListenKind::Line);
        cores.say(again, &json!({ "type": "hello", "nickname": "alice", "resume": resume }).to_string());
        cores.slow_store(false);
        let events = cores.events(again);
        assert_eq!(
            (&events[0]["type"], &events[0]["resumed"]),
            (&json!("welcome"), &json!(true)),
            "{events:?}"
        );
    }
}

#[test]
fn what_is_neither_is_answered_in_json() {
    let mut cores = Cores::new(|_| {});
    let client = cores.connect(0, ListenKind::Frame);
    cores.receive(client, &frame(9, 1, b"{}"));
    assert_eq!(frames(&mut cores, client), [(0, 16)]);
}
