//! Commands in JSON and Protobuf, and events in all encodings.

use starling::proto::json::{self, Envelope, ID_BYTES_MAX};
use starling::proto::wire::{COMMANDS, Command, Event};
use starling::proto::{protobuf, text};
use starling_client::wire::{Incoming, parse};

use super::codec::dice;

/// The same bytes as JSON, as Protobuf, and as a text that somebody says. A command is the same without the white space in it, under
/// its kind instead of its `type`, and as a field of a whole message; and what it says comes back in the events that repeat it.
pub fn run(input: &[u8]) {
    as_json(input);
    as_protobuf(input);
    if let Ok(content) = std::str::from_utf8(input) {
        comes_back(content);
    }
}

fn check<'a>(envelope: &'a Envelope<'_>) -> &'a Command<'a> {
    assert!(envelope.id.as_ref().is_none_or(|id| id.len() <= ID_BYTES_MAX), "a long id");
    assert!(COMMANDS.contains(&envelope.command.name()));
    &envelope.command
}

fn as_json(input: &[u8]) {
    let read = match json::parse(input) {
        Ok(read) => read,
        Err(malformed) => {
            assert!(malformed.id.is_none_or(|id| id.len() <= ID_BYTES_MAX), "a long id");
            assert!(malformed.message.len() < 512, "a fault is told at length: {}", malformed.message);
            // Whatever is said to be of another kind is looked at with the same care.
            let kind = COMMANDS[dice(input).below(COMMANDS.len() as u64) as usize];
            if let Ok(read) = json::parse_as(kind, input) {
                check(&read);
            }
            return;
        }
    };
    let command = check(&read);
    let text = std::str::from_utf8(input).expect("a command is text");
    // In a field that nobody knows an escape may stand for half a surrogate pair: that is the grammar's, and passed over.
    assert!(serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok(), "a command that is no JSON: {text}");
    if let Command::State { value: Some(value), .. } = &command {
        assert!(
            serde_json::from_str::<serde_json::Value>(value).is_ok(),
            "a value that others cannot read: {value}"
        );
    }
    assert_eq!(json::parse_as(command.name(), input), Ok(read.clone()), "a kind is its type");
    let compact = json::compact(text);
    assert!(compact.len() <= text.len() && !compact.contains(['\n', '\r']), "{compact:?} is not one line");
    let again = json::parse(compact.as_bytes()).expect("a command without white space is one");
    match (&read.command, &again.command) {
        (Command::State { value: Some(value), .. }, Command::State { value: Some(other), .. }) => {
            assert_eq!(json::compact(value), json::compact(other));
        }
        (command, other) => assert_eq!(command, other, "white space says something"),
    }
    assert_eq!(read.id, again.id);
}

fn as_protobuf(input: &[u8]) {
    if let Ok(read) = protobuf::parse(input) {
        check(&read);
    }
    let Some((kind, body)) = input.split_first() else { return };
    let Ok(read) = protobuf::parse_as(*kind, body) else { return };
    let command = check(&read);
    assert_eq!(COMMANDS[usize::from(*kind) - 1], command.name());
    let mut whole = Vec::new();
    put_varint(&mut whole, u64::from(*kind) << 3 | 2);
    put_varint(&mut whole, body.len() as u64);
    whole.extend_from_slice(body);
    let whole = protobuf::parse(&whole).expect("a command that is a field of its kind");
    assert_eq!(whole.command, *command);
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn comes_back(content: &str) {
    let (offset, timestamp) = (dice(content.as_bytes()).next_u64() >> 1, 1);
    let event = Event::Message { room: content, sender: content, content, offset, timestamp };
    let mut out = Vec::new();
    json::write(&event, &mut out);
    let line = std::str::from_utf8(&out).expect("JSON is text");
    assert!(!line.bytes().any(|byte| byte < b' '), "{line:?} is not one line");
    let (_, Incoming::Message(heard)) = parse(line) else { panic!("no message is heard in {line}") };
    assert_eq!((&*heard.room, &*heard.sender, &*heard.content), (content, content, content));
    assert_eq!((heard.offset, heard.timestamp), (offset, timestamp));

    let private = Event::Private { sender: content, target: content, content, timestamp, offset: None };
    out.clear();
    json::write(&private, &mut out);
    let line = std::str::from_utf8(&out).expect("JSON is text");
    let (_, Incoming::Private(heard)) = parse(line) else { panic!("nothing private is heard in {line}") };
    assert_eq!(heard.content, content);

    out.clear();
    text::write(&event, &mut out);
    let line = String::from_utf8(out).expect("text is text");
    let line = line.strip_suffix('\n').expect("a line ends");
    assert!(!line.chars().any(char::is_control), "{line:?} does something to a terminal");

    // In Protobuf it is its fields, one after the other; the bare message is the end of the whole one.
    let (mut whole, mut bare) = (Vec::new(), Vec::new());
    protobuf::write(&event, &mut whole);
    protobuf::write_as(&event, &mut bare);
    assert!(whole.ends_with(&bare), "a bare message is another one");
}
