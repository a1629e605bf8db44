//! Commands and events as JSON objects, one a line, frame or message (RFC 8259).
//!
//! Reading takes one pass over the bytes: every field is first kept as the raw text of its value, and then read as
//! what its command expects. A derived `Deserialize` was turned down: it stops at the first wrong type, before it
//! has seen the `id` that the error is to carry, and it copies strings that could be borrowed.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::scan::plain_bytes;
use super::value;
use super::wire::{Ack, Command, Event, Join, Moderate, Moderation, Position};

/// Longest `id` of a command, in bytes: fits any UUID or ULID, and bounds what a session remembers.
pub const ID_BYTES_MAX: usize = 64;

/// How much of an unknown type an error repeats, in characters: enough to find a slip of the fingers.
const TYPE_SHOWN_CHARS_MAX: usize = 32;

/// A command and the `id` that its reply is to carry.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope<'a> {
    /// What the client calls this command, if it wants to recognise the reply.
    pub id: Option<Cow<'a, str>>,
    /// What the client wants.
    pub command: Command<'a>,
}

/// Bytes that are no command.
#[derive(Debug, Clone, PartialEq)]
pub struct Malformed<'a> {
    /// The `id` of what would have been the command, if that much could be read.
    pub id: Option<Cow<'a, str>>,
    /// What is wrong, for programs.
    pub reason: Reason,
    /// What is wrong, for people.
    pub message: Cow<'static, str>,
}

/// In what way bytes are no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The grammar of JSON is violated.
    BadJson,
    /// It is JSON, but a field is missing, doubled or of the wrong type.
    BadRequest,
    /// It is an object of a `type` that this server does not know.
    UnknownType,
    /// It is not UTF-8.
    BadUtf8,
}

/// Reads one command. Unknown fields, and those that belong to other commands, are ignored; null is absent.
pub fn parse(bytes: &[u8]) -> Result<Envelope<'_>, Malformed<'_>> {
    parse_fields(None, bytes)
}

/// Reads one command whose kind is known from elsewhere: `type` says nothing then, and may be left out.
pub fn parse_as<'a>(kind: &str, bytes: &'a [u8]) -> Result<Envelope<'a>, Malformed<'a>> {
    parse_fields(Some(kind), bytes)
}

fn parse_fields<'a>(kind: Option<&str>, bytes: &'a [u8]) -> Result<Envelope<'a>, Malformed<'a>> {
    let mut fields = Fields::default();
    if let Err(fault) = read_fields(&mut fields, bytes) {
        return Err(fault.answering(None));
    }
    let id = match id(&fields) {
        Ok(id) => id,
        Err(fault) => return Err(fault.answering(None)),
    };
    match command(kind, &fields) {
        Ok(command) => Ok(Envelope { id, command }),
        Err(fault) => Err(fault.answering(id)),
    }
}

/// Reads an object that has nothing but `content`, as it comes where a request's target says the rest. Unknown fields, and
/// those of commands, are ignored.
pub fn parse_content(bytes: &[u8]) -> Result<Cow<'_, str>, Malformed<'_>> {
    let content = || {
        let mut fields = Fields::default();
        read_fields(&mut fields, bytes)?;
        match fields.doubled {
            Some(name) => Err(doubled(name)),
            None => required("content", text("content", fields.content)?),
        }
    };
    content().map_err(|fault: Fault| fault.answering(None))
}

/// Appends one event, without a line end.
pub fn write(event: &Event<'_>, out: &mut Vec<u8>) {
    match event {
        // By hand, because these are what the server says most: to everybody in a room, and to whoever sent a command.
        &Event::Message { room, sender, content, offset, timestamp } => {
            out.extend_from_slice(br#"{"type":"message","room":"#);
            put_string(out, room);
            out.extend_from_slice(br#","sender":"#);
            put_string(out, sender);
            out.extend_from_slice(br#","content":"#);
            put_string(out, content);
            out.extend_from_slice(br#","offset":"#);
            put_number(out, offset);
            out.extend_from_slice(br#","timestamp":"#);
            put_number(out, timestamp);
            out.push(b'}');
        }
        Event::Ack(ack) => put_ack(out, ack),
        &Event::Pong { id, timestamp } => {
            out.extend_from_slice(br#"{"type":"pong""#);
            put_field(out, br#","id":"#, id, put_string);
            out.extend_from_slice(br#","timestamp":"#);
            put_number(out, timestamp);
            out.push(b'}');
        }
        _ => serde_json::to_writer(out, event)
            .expect("a vector takes every byte, and events have no keys but names"),
    }
}

fn put_ack(out: &mut Vec<u8>, ack: &Ack<'_>) {
    // Taken apart so that a field that is added cannot be forgotten here.
    let &Ack { id, room, epoch, offset, timestamp, level, target, delivered, stored, sessions, key, version } =
        ack;
    out.extend_from_slice(br#"{"type":"ack""#);
    put_field(out, br#","id":"#, id, put_string);
    put_field(out, br#","room":"#, room, put_string);
    put_field(out, br#","epoch":"#, epoch, put_string);
    put_field(out, br#","offset":"#, offset, put_number);
    put_field(out, br#","timestamp":"#, timestamp, put_number);
    put_field(out, br#","level":"#, level, put_string);
    put_field(out, br#","target":"#, target, put_string);
    put_field(out, br#","delivered":"#, delivered, put_number);
    put_field(out, br#","stored":"#, stored, put_flag);
    put_field(out, br#","sessions":"#, sessions, put_number);
    put_field(out, br#","key":"#, key, put_string);
    put_field(out, br#","version":"#, version, put_number);
    out.push(b'}');
}

/// Appends the place of a message, as an object of its own.
pub fn write_place(epoch: &str, offset: u64, timestamp_ms: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"epoch":"#);
    put_string(out, epoch);
    out.extend_from_slice(br#","offset":"#);
    put_number(out, offset);
    out.extend_from_slice(br#","timestamp":"#);
    put_number(out, timestamp_ms);
    out.push(b'}');
}

/// Appends a position in a room's history, as an object of its own.
pub fn write_position(epoch: &str, offset: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"epoch":"#);
    put_string(out, epoch);
    out.extend_from_slice(br#","offset":"#);
    put_number(out, offset);
    out.push(b'}');
}

/// Drops the whitespace between the tokens of a JSON value, so that it stands on one line: within strings, line ends
/// are always escaped (RFC 8259 section 7). The grammar must have been checked.
pub fn compact(value: &str) -> Cow<'_, str> {
    let is_space = |byte: u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let bytes = value.as_bytes();
    let mut compacted = String::new();
    // The value up to here has been looked at, and up to there it has been taken over.
    let (mut at, mut taken) = (0, 0);
    let mut is_string = false;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' if is_string => at += 1,
            b'"' => is_string = !is_string,
            _ if !is_string && is_space(byte) => {
                compacted.push_str(&value[taken..at]);
                taken = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    if taken == 0 {
        return Cow::Borrowed(value);
    }
    compacted.push_str(&value[taken..]);
    Cow::Owned(compacted)
}

/// Reads a JSON value that came as text in `field`: no value if it is null, otherwise the compact value.
pub(super) fn raw_value<'a>(field: &'static str, text: &'a str) -> Result<Option<Cow<'a, str>>, Fault> {
    let json: &RawValue = serde_json::from_str(text).map_err(|_| wrong(field, "a JSON value"))?;
    value(field, Some(json))
}

fn value<'a>(field: &'static str, raw: Raw<'a>) -> Result<Option<Cow<'a, str>>, Fault> {
    present(raw).map(|json| value::read(field, json)).transpose()
}

/// What is wrong, before it is known which command it answers.
pub(super) struct Fault {
    reason: Reason,
    message: Cow<'static, str>,
}

impl Fault {
    pub(super) fn new(reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, message: message.into() }
    }

    pub(super) fn answering(self, id: Option<Cow<'_, str>>) -> Malformed<'_> {
        Malformed { id, reason: self.reason, message: self.message }
    }
}

/// A field's value as it is written, if the field is there.
type Raw<'a> = Option<&'a RawValue>;

/// The fields of an object, those of all commands together.
#[derive(Default)]
struct Fields<'a> {
    kind: Raw<'a>,
    id: Raw<'a>,
    nickname: Raw<'a>,
    token: Raw<'a>,
    resume: Raw<'a>,
    room: Raw<'a>,
    from: Raw<'a>,
    to: Raw<'a>,
    content: Raw<'a>,
    ack: Raw<'a>,
    target: Raw<'a>,
    limit: Raw<'a>,
    after: Raw<'a>,
    history: Raw<'a>,
    since: Raw<'a>,
    epoch: Raw<'a>,
    offset: Raw<'a>,
    echo: Raw<'a>,
    overflow: Raw<'a>,
    rooms: Raw<'a>,
    tags: Raw<'a>,
    before: Raw<'a>,
    key: Raw<'a>,
    value: Raw<'a>,
    role: Raw<'a>,
    reason: Raw<'a>,
    seconds: Raw<'a>,
    /// A field that was there before: `id` if it is one of several, because then there is no telling which to answer.
    doubled: Option<&'static str>,
}

impl<'a> Fields<'a> {
    fn named(&mut self, name: &str) -> Option<(&'static str, &mut Raw<'a>)> {
        Some(match name {
            "type" => ("type", &mut self.kind),
            "id" => ("id", &mut self.id),
            "nickname" => ("nickname", &mut self.nickname),
            "token" => ("token", &mut self.token),
            "resume" => ("resume", &mut self.resume),
            "room" => ("room", &mut self.room),
            "from" => ("from", &mut self.from),
            "to" => ("to", &mut self.to),
            "content" => ("content", &mut self.content),
            "ack" => ("ack", &mut self.ack),
            "target" => ("target", &mut self.target),
            "limit" => ("limit", &mut self.limit),
            "after" => ("after", &mut self.after),
            "history" => ("history", &mut self.history),
            "since" => ("since", &mut self.since),
            "epoch" => ("epoch", &mut self.epoch),
            "offset" => ("offset", &mut self.offset),
            "echo" => ("echo", &mut self.echo),
            "overflow" => ("overflow", &mut self.overflow),
            "rooms" => ("rooms", &mut self.rooms),
            "tags" => ("tags", &mut self.tags),
            "before" => ("before", &mut self.before),
            "key" => ("key", &mut self.key),
            "value" => ("value", &mut self.value),
            "role" => ("role", &mut self.role),
            "reason" => ("reason", &mut self.reason),
            "seconds" => ("seconds", &mut self.seconds),
            _ => return None,
        })
    }

    /// Takes in a field if it has a known name; returns whether it has.
    fn put(&mut self, name: &str, value: &'a RawValue) -> bool {
        let Some((name, field)) = self.named(name) else { return false };
        if field.replace(value).is_some() && self.doubled != Some("id") {
            self.doubled = Some(name);
        }
        true
    }

    /// Reads the object that `text` is.
    fn read(&mut self, text: &'a str) -> serde_json::Result<()> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        deserializer.deserialize_map(self)?;
        deserializer.end()
    }
}

/// Into fields that are there already: they are many, and would be copied from each function to its caller.
impl<'de> Visitor<'de> for &mut Fields<'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        while let Some((name, value)) = object.next_entry::<&RawValue, &RawValue>()? {
            // As it is written first: no known name has a character in it that must be escaped.
            let name = name.get();
            let written = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
            let is_known = written.is_some_and(|name| self.put(name, value));
            // A name that cannot be decoded is none of ours, as every unknown one.
            if !is_known && let Some(Ok(Cow::Owned(name))) = string(name) {
                self.put(&name, value);
            }
        }
        Ok(())
    }
}

fn read_fields<'a>(fields: &mut Fields<'a>, bytes: &'a [u8]) -> Result<(), Fault> {
    let text = simdutf8::basic::from_utf8(bytes)
        .map_err(|_| Fault::new(Reason::BadUtf8, "JSON is written in UTF-8"))?;
    fields.read(text).map_err(|error| {
        // What is no object is given up at its first byte; whether it is JSON shows only in the rest.
        match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => Fault::new(Reason::BadRequest, "this is no JSON object"),
            Err(syntax) if error.is_data() => Fault::new(Reason::BadJson, syntax.to_string()),
            Err(_) => Fault::new(Reason::BadJson, error.to_string()),
        }
    })
}

fn id<'a>(fields: &Fields<'a>) -> Result<Option<Cow<'a, str>>, Fault> {
    if fields.doubled == Some("id") {
        return Err(doubled("id"));
    }
    let id = text("id", fields.id)?;
    if id.as_ref().is_some_and(|id| id.len() > ID_BYTES_MAX) {
        return Err(wrong("id", "a string of at most 64 bytes"));
    }
    Ok(id)
}

fn command<'a>(kind: Option<&str>, fields: &Fields<'a>) -> Result<Command<'a>, Fault> {
    if let Some(name) = fields.doubled {
        return Err(doubled(name));
    }
    let room = || required("room", text("room", fields.room)?);
    let kind = match kind {
        Some(kind) => Cow::Borrowed(kind),
        None => required("type", text("type", fields.kind)?)?,
    };
    Ok(match &*kind {
        "hello" => Command::Hello {
            nickname: text("nickname", fields.nickname)?,
            token: text("token", fields.token)?,
            resume: text("resume", fields.resume)?,
        },
        "nick" => Command::Nick { nickname: required("nickname", text("nickname", fields.nickname)?)? },
        "join" => Command::Join(join(room()?, fields)?),
        "leave" => Command::Leave { room: room()? },
        "switch" => Command::Switch {
            from: required("from", text("from", fields.from)?)?,
            to: join(required("to", text("to", fields.to)?)?, fields)?,
        },
        "message" => Command::Message {
            room: room()?,
            content: required("content", text("content", fields.content)?)?,
            ack: text("ack", fields.ack)?,
        },
        "private" => Command::Private {
            target: required("target", text("target", fields.target)?)?,
            content: required("content", text("content", fields.content)?)?,
        },
        "members" => Command::Members {
            room: room()?,
            limit: number("limit", fields.limit)?,
            after: text("after", fields.after)?,
        },
        "rooms" => {
            Command::Rooms { limit: number("limit", fields.limit)?, after: text("after", fields.after)? }
        }
        "typing" => Command::Typing { room: room()? },
        "ping" => Command::Ping,
        "pong" => Command::Pong,
        "quit" => Command::Quit,
        "received" => Command::Received { offset: required("offset", number("offset", fields.offset)?)? },
        "broadcast" => Command::Broadcast {
            content: required("content", text("content", fields.content)?)?,
            rooms: for_whom("rooms", fields.rooms)?,
            tags: for_whom("tags", fields.tags)?,
        },
        "history" => Command::History {
            room: room()?,
            before: number("before", fields.before)?,
            after: number("after", fields.after)?,
            limit: number("limit", fields.limit)?,
        },
        "state" => Command::State {
            room: room()?,
            key: required("key", text("key", fields.key)?)?,
            value: value("value", fields.value)?,
        },
        "role" => Command::Role {
            room: room()?,
            target: required("target", text("target", fields.target)?)?,
            role: required("role", text("role", fields.role)?)?,
        },
        "kick" => moderate(Moderation::Kick, room()?, fields)?,
        "ban" => moderate(Moderation::Ban, room()?, fields)?,
        "unban" => moderate(Moderation::Unban, room()?, fields)?,
        "mute" => moderate(Moderation::Mute, room()?, fields)?,
        "unmute" => moderate(Moderation::Unmute, room()?, fields)?,
        _ => {
            let shown: String = kind.chars().take(TYPE_SHOWN_CHARS_MAX).collect();
            return Err(Fault::new(Reason::UnknownType, format!("there is no type {shown:?}")));
        }
    })
}

fn moderate<'a>(action: Moderation, room: Cow<'a, str>, fields: &Fields<'a>) -> Result<Command<'a>, Fault> {
    let target = required("target", text("target", fields.target)?)?;
    let reason = text("reason", fields.reason)?;
    let seconds = number("seconds", fields.seconds)?;
    if seconds == Some(0) && matches!(action, Moderation::Ban | Moderation::Mute) {
        // It could mean for ever as well as for no time, and one of them is a surprise.
        let message = "`seconds` is at least 1: leave it out for no end";
        return Err(Fault::new(Reason::BadRequest, message));
    }
    Ok(Command::Moderate(Moderate { action, room, target, reason, seconds }))
}

fn join<'a>(room: Cow<'a, str>, fields: &Fields<'a>) -> Result<Join<'a>, Fault> {
    Ok(Join {
        room,
        history: number("history", fields.history)?,
        since: position("since", fields.since)?,
        echo: flag("echo", fields.echo)?,
        overflow: text("overflow", fields.overflow)?,
    })
}

/// The text of a value that is there and not null.
fn present(raw: Raw<'_>) -> Option<&str> {
    raw.map(RawValue::get).filter(|text| *text != "null")
}

/// What a JSON string says, or `None` if the value is no string. The grammar has been checked, so what can still fail
/// is an escape that stands for half a surrogate pair (RFC 8259 section 8.2).
fn string(raw: &str) -> Option<Result<Cow<'_, str>, serde_json::Error>> {
    let quoted = raw.strip_prefix('"')?.strip_suffix('"')?;
    Some(match memchr::memchr(b'\\', quoted.as_bytes()) {
        None => Ok(Cow::Borrowed(quoted)),
        Some(_) => serde_json::from_str(raw).map(Cow::Owned),
    })
}

fn text<'a>(name: &'static str, raw: Raw<'a>) -> Result<Option<Cow<'a, str>>, Fault> {
    let Some(raw) = present(raw) else { return Ok(None) };
    match string(raw) {
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(_)) => Err(wrong(name, "without half a surrogate pair")),
        None => Err(wrong(name, "a string")),
    }
}

fn texts<'a>(name: &'static str, raw: Raw<'a>) -> Result<Vec<Cow<'a, str>>, Fault> {
    let Some(raw) = present(raw) else { return Ok(Vec::new()) };
    let list: Vec<&'a RawValue> = serde_json::from_str(raw).map_err(|_| wrong(name, "a list of strings"))?;
    let item = |item: &'a RawValue| match string(item.get()) {
        Some(Ok(text)) => Ok(text),
        Some(Err(_)) => Err(wrong(name, "without half a surrogate pair")),
        None => Err(wrong(name, "a list of strings")),
    };
    list.into_iter().map(item).collect()
}

/// Whom a broadcast is for: everybody, where nothing is said. A list that came out empty was hardly meant so.
fn for_whom<'a>(name: &'static str, raw: Raw<'a>) -> Result<Vec<Cow<'a, str>>, Fault> {
    let list = texts(name, raw)?;
    if list.is_empty() && present(raw).is_some() {
        return Err(wrong(name, "a list of at least one string; leave it out for everybody"));
    }
    Ok(list)
}

fn number(name: &'static str, raw: Raw<'_>) -> Result<Option<u64>, Fault> {
    let Some(raw) = present(raw) else { return Ok(None) };
    raw.parse().map(Some).map_err(|_| wrong(name, "a non-negative integer"))
}

fn flag(name: &'static str, raw: Raw<'_>) -> Result<Option<bool>, Fault> {
    let Some(raw) = present(raw) else { return Ok(None) };
    raw.parse().map(Some).map_err(|_| wrong(name, "true or false"))
}

fn position<'a>(name: &'static str, raw: Raw<'a>) -> Result<Option<Position<'a>>, Fault> {
    let Some(raw) = present(raw) else { return Ok(None) };
    let mut fields = Fields::default();
    fields.read(raw).map_err(|_| wrong(name, "an object with `epoch` and `offset`"))?;
    if let Some(name) = fields.doubled {
        return Err(doubled(name));
    }
    let epoch = required("since.epoch", text("since.epoch", fields.epoch)?)?;
    let offset = required("since.offset", number("since.offset", fields.offset)?)?;
    Ok(Some(Position { epoch, offset }))
}

fn required<T>(name: &'static str, field: Option<T>) -> Result<T, Fault> {
    field.ok_or_else(|| Fault::new(Reason::BadRequest, format!("field `{name}` is missing")))
}

fn wrong(name: &'static str, expected: &'static str) -> Fault {
    Fault::new(Reason::BadRequest, format!("field `{name}` must be {expected}"))
}

fn doubled(name: &'static str) -> Fault {
    Fault::new(Reason::BadRequest, format!("field `{name}` stands there twice"))
}

/// Appends a field, if it is there; `name` comes with its comma, quotes and colon.
fn put_field<T>(out: &mut Vec<u8>, name: &[u8], value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    if let Some(value) = value {
        out.extend_from_slice(name);
        put(out, value);
    }
}

fn put_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn put_flag(out: &mut Vec<u8>, flag: bool) {
    out.extend_from_slice(if flag { b"true" } else { b"false" });
}

/// Appends a JSON string, quotes included.
fn put_string(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let plain = plain_bytes(rest, needs_escape);
        out.extend_from_slice(&rest[..plain]);
        let Some(&special) = rest.get(plain) else { break };
        put_escape(out, special);
        rest = &rest[plain + 1..];
    }
    out.push(b'"');
}

/// RFC 8259 section 7: quotation mark, reverse solidus and the control characters up to U+001F.
fn needs_escape(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == b'\\'
}

fn put_escape(out: &mut Vec<u8>, special: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match special {
        b'"' | b'\\' => special,
        0x08 => b'b',
        0x09 => b't',
        0x0A => b'n',
        0x0C => b'f',
        0x0D => b'r',
        _ => {
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[HEX[usize::from(special >> 4)], HEX[usize::from(special & 0xF)]]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::scan::CHUNK_BYTES;

    fn fault(text: &str) -> (Reason, String, Option<String>) {
        let malformed = parse(text.as_bytes()).unwrap_err();
        (malformed.reason, malformed.message.into_owned(), malformed.id.map(Cow::into_owned))
    }

    #[test]
    fn strings_without_escapes_are_borrowed() {
        let line =
            br#" {"id":"7","content":"na\u00efve","type":"message","room":"lobby","color":[1,{"room":2}]} "#;
        let envelope = parse(line).unwrap();
        assert!(matches!(envelope.id, Some(Cow::Borrowed("7"))));
        let Command::Message { room, content, ack } = envelope.command else { panic!("not a message") };
        assert!(matches!(room, Cow::Borrowed("lobby")));
        assert!(matches!(&content, Cow::Owned(content) if content == "naïve"));
        assert_eq!(ack, None);
    }

    #[test]
    fn names_of_fields_and_types_may_be_escaped() {
        let line = br#"{"t\u0079pe":"p\u0069ng","\ud800":1}"#;
        assert_eq!(parse(line).unwrap().command, Command::Ping);
    }

    #[test]
    fn switch_takes_the_options_of_join_beside_to() {
        let line = br#"{"type":"switch","from":"a","to":"b","history":3,"since":{"epoch":"e","offset":9},
            "echo":false,"overflow":"gap","room":"ignored"}"#;
        let to = Join {
            room: "b".into(),
            history: Some(3),
            since: Some(Position { epoch: "e".into(), offset: 9 }),
            echo: Some(false),
            overflow: Some("gap".into()),
        };
        assert_eq!(parse(line).unwrap().command, Command::Switch { from: "a".into(), to });
    }

    #[test]
    fn a_content_alone_is_read() {
        assert_eq!(parse_content(br#"{"content":"h\u00e9llo","type":7,"x":[]}"#).unwrap(), "héllo");
        for (reason, text) in [
            (Reason::BadRequest, r#"{"contents":"x"}"#),
            (Reason::BadRequest, r#"{"content":7}"#),
            (Reason::BadRequest, r#"{"content":"x","content":"x"}"#),
            (Reason::BadRequest, r#"["x"]"#),
            (Reason::BadJson, r#"{"content":"x""#),
        ] {
            assert_eq!(parse_content(text.as_bytes()).unwrap_err().reason, reason, "{text}");
        }
    }

    #[test]
    fn places_are_objects() {
        let mut out = Vec::new();
        write_place("e\"1", u64::MAX, 7, &mut out);
        assert_eq!(out, br#"{"epoch":"e\"1","offset":18446744073709551615,"timestamp":7}"#);
        out.clear();
        write_position("e", 3, &mut out);
        assert_eq!(out, br#"{"epoch":"e","offset":3}"#);
    }

    #[test]
    fn what_is_wrong_with_json_is_said_of_its_first_mistake() {
        // Not that it should have been an object, when it is not even a list.
        assert!(parse(b"[1, 2").unwrap_err().message.contains("EOF"));
        assert!(parse(b"[1 2]").unwrap_err().message.contains("column 4"));
    }

    #[test]
    fn null_is_absent() {
        let line =
            br#"{"type":"join","id":null,"room":"a","history":null,"since":null,"echo":null,"overflow":null}"#;
        let envelope = parse(line).unwrap();
        assert_eq!(envelope.id, None);
        assert_eq!(envelope.command, Command::Join(Join { room: "a".into(), ..Join::default() }));
        assert_eq!(fault(r#"{"type":"leave","room":null}"#).1, "field `room` is missing");
    }

    #[test]
    fn only_a_violated_grammar_is_bad_json() {
        for text in
            ["", "{", "nul", "{'type':1}", r#"{"type":"ping"} x"#, "[1,", r#"{"a":01}"#, "{\"a\":\"\n\"}"]
        {
            assert_eq!(fault(text).0, Reason::BadJson, "{text}");
        }
        for text in ["[]", "null", "17", r#""ping""#, "[1e999]", r#""\ud800""#] {
            let (reason, message, _) = fault(text);
            assert_eq!((reason, &*message), (Reason::BadRequest, "this is no JSON object"), "{text}");
        }
        assert_eq!(parse(b"{\"type\":\"\xff\"}").unwrap_err().reason, Reason::BadUtf8);
    }

    #[test]
    fn errors_name_the_field_and_carry_the_id() {
        let expect = |text: &str, reason: Reason, message: &str| {
            assert_eq!(fault(text), (reason, message.to_owned(), Some("x".to_owned())), "{text}");
        };
        expect(r#"{"id":"x"}"#, Reason::BadRequest, "field `type` is missing");
        expect(r#"{"type":1,"id":"x"}"#, Reason::BadRequest, "field `type` must be a string");
        expect(r#"{"type":"join","room":[],"id":"x"}"#, Reason::BadRequest, "field `room` must be a string");
        expect(r#"{"type":"nap","id":"x"}"#, Reason::UnknownType, r#"there is no type "nap""#);
        expect(r#"{"type":"kick","id":"x","room":"a"}"#, Reason::BadRequest, "field `target` is missing");
        expect(
            r#"{"type":"broadcast","id":"x","content":"a","rooms":["a",null]}"#,
            Reason::BadRequest,
            "field `rooms` must be a list of strings",
        );
        expect(
            r#"{"type":"broadcast","id":"x","content":"a","tags":[1]}"#,
            Reason::BadRequest,
            "field `tags` must be a list of strings",
        );
        expect(
            r#"{"type":"private","target":"b","content":"\udc00","id":"x"}"#,
            Reason::BadRequest,
            "field `content` must be without half a surrogate pair",
        );
        expect(
            r#"{"id":"x","type":"leave","room":"a","room":"a"}"#,
            Reason::BadRequest,
            "field `room` stands there twice",
        );
        expect(
            r#"{"id":"x","type":"join","room":"a","since":{"epoch":"e"}}"#,
            Reason::BadRequest,
            "field `since.offset` is missing",
        );
    }

    #[test]
    fn no_seconds_at_all_are_no_time() {
        for kind in ["ban", "mute"] {
            let text = format!(r#"{{"type":"{kind}","room":"a","target":"b","seconds":0}}"#);
            assert_eq!(fault(&text).1, "`seconds` is at least 1: leave it out for no end");
        }
        for kind in ["kick", "unban", "unmute"] {
            let text = format!(r#"{{"type":"{kind}","room":"a","target":"b","seconds":0}}"#);
            assert!(parse(text.as_bytes()).is_ok(), "{kind} takes no notice of them");
        }
    }

    #[test]
    fn an_unusable_id_is_not_repeated() {
        let long = format!(r#"{{"type":"ping","id":"{}"}}"#, "é".repeat(33));
        assert_eq!(
            fault(&long),
            (Reason::BadRequest, "field `id` must be a string of at most 64 bytes".into(), None)
        );
        assert_eq!(fault(r#"{"type":"ping","id":7}"#).2, None);
        assert_eq!(fault(r#"{"type":"ping","id":"a","id":"b"}"#).2, None);
        assert_eq!(fault(r#"{"type":"ping","id":"a","id":"b","to":1,"to":1}"#).2, None);
        let longest = format!(r#"{{"type":"ping","id":"{}"}}"#, "é".repeat(32));
        assert!(parse(longest.as_bytes()).is_ok());
    }

    #[test]
    fn a_long_unknown_type_is_cut_and_escaped() {
        let (_, message, _) = fault(&format!(r#"{{"type":"\u0007{}"}}"#, "x".repeat(1000)));
        assert_eq!(message, format!(r#"there is no type "\u{{7}}{}""#, "x".repeat(31)));
    }

    #[test]
    fn deep_nesting_costs_no_stack() {
        let depth = 100_000;
        assert_eq!(fault(&"[".repeat(depth)).0, Reason::BadJson);
        assert_eq!(fault(&r#"{"a":"#.repeat(depth)).0, Reason::BadJson);
        let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(fault(&nested).0, Reason::BadRequest);
        let ignored = format!(r#"{{"type":"ping","x":{nested}}}"#);
        assert_eq!(parse(ignored.as_bytes()).unwrap().command, Command::Ping);
        let wrong = format!(r#"{{"type":"leave","room":{nested}}}"#);
        assert_eq!(fault(&wrong).1, "field `room` must be a string");
        let since = format!(r#"{{"type":"join","room":"a","since":{nested}}}"#);
        assert_eq!(fault(&since).1, "field `since` must be an object with `epoch` and `offset`");
    }

    #[test]
    fn events_are_objects_with_their_type() {
        let mut out = Vec::new();
        write(&Event::Pong { id: Some("a\"b"), timestamp: 5 }, &mut out);
        assert_eq!(out, br#"{"type":"pong","id":"a\"b","timestamp":5}"#);
        out.clear();
        write(&Event::Ping, &mut out);
        assert_eq!(out, br#"{"type":"ping"}"#);
    }

    #[test]
    fn every_ascii_character_is_escaped_as_serde_does() {
        // At each place of a chunk, and after one.
        for at in 0..2 * CHUNK_BYTES {
            for c in '\0'..='\u{A0}' {
                let text = format!("{}{c}{}", "x".repeat(at), "é".repeat(20));
                let mut out = Vec::new();
                put_string(&mut out, &text);
                assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(&text).unwrap());
            }
        }
    }
}
