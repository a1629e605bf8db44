//! Writes events.

use prost::encoding::{self, encode_varint, encoded_len_varint};
use prost::{EncodeError, Message};

use super::super::wire::{self, Event, HistoryMessage, Json, StateEntry};
use super::ID_FIELD;
use super::schema::{self, AckLevel, Role, event::Kind};

/// The key of field 5 in `Event`, a `RoomMessage`.
const MESSAGE_KEY: u8 = key(5, LENGTH_DELIMITED);

const VARINT: u8 = 0;
const LENGTH_DELIMITED: u8 = 2;

/// Appends a whole `Event`.
pub fn write(event: &Event<'_>, out: &mut Vec<u8>) {
    if let Some(message) = RoomMessage::of(event) {
        let body_bytes = message.encoded_bytes();
        out.reserve(1 + encoded_len_varint(body_bytes as u64) + body_bytes);
        out.push(MESSAGE_KEY);
        encode_varint(body_bytes as u64, out);
        message.put(out);
        return;
    }
    let id = id(event).unwrap_or_default().to_owned();
    schema::Event { id, kind: Some(kind(event)) }.encode(out).expect("a vector takes every byte");
}

/// Appends the bare message of the event's kind, and the `id`, if there is one, as its field 100.
pub fn write_as(event: &Event<'_>, out: &mut Vec<u8>) {
    if let Some(message) = RoomMessage::of(event) {
        message.put(out);
        return;
    }
    put_bare(&kind(event), out).expect("a vector takes every byte");
    if let Some(id) = id(event).filter(|id| !id.is_empty()) {
        encoding::string::encode(ID_FIELD, &id.to_owned(), out);
    }
}

/// A message to a room, written by hand, because this is what the server does most, and without a copy of its texts.
struct RoomMessage<'a> {
    room: &'a str,
    sender: &'a str,
    content: &'a str,
    offset: u64,
    timestamp: u64,
}

impl<'a> RoomMessage<'a> {
    fn of(event: &Event<'a>) -> Option<RoomMessage<'a>> {
        let Event::Message { room, sender, content, offset, timestamp } = *event else { return None };
        // An int64 that is not negative is written as the same number without a sign.
        Some(RoomMessage { room, sender, content, offset, timestamp: time(timestamp) as u64 })
    }

    fn encoded_bytes(&self) -> usize {
        let texts = [self.room, self.sender, self.content].map(|text| match text.len() {
            0 => 0,
            length => 1 + encoded_len_varint(length as u64) + length,
        });
        let numbers = [self.offset, self.timestamp].map(|number| match number {
            0 => 0,
            number => 1 + encoded_len_varint(number),
        });
        texts.iter().chain(&numbers).sum()
    }

    fn put(&self, out: &mut Vec<u8>) {
        for (field, text) in [(1, self.room), (2, self.sender), (3, self.content)] {
            if !text.is_empty() {
                out.push(key(field, LENGTH_DELIMITED));
                encode_varint(text.len() as u64, out);
                out.extend_from_slice(text.as_bytes());
            }
        }
        for (field, number) in [(4, self.offset), (5, self.timestamp)] {
            if number > 0 {
                out.push(key(field, VARINT));
                encode_varint(number, out);
            }
        }
    }
}

/// The key of a field with a number below 16.
const fn key(field: u8, wire_type: u8) -> u8 {
    field << 3 | wire_type
}

/// That of the command which the event answers.
fn id<'a>(event: &Event<'a>) -> Option<&'a str> {
    match *event {
        Event::Welcome { id, .. }
        | Event::Joined { id, .. }
        | Event::Left { id, .. }
        | Event::Members { id, .. }
        | Event::Rooms { id, .. }
        | Event::History { id, .. }
        | Event::Pong { id, .. }
        | Event::Bye { id, .. }
        | Event::Ack(wire::Ack { id, .. })
        | Event::Error(wire::Error { id, .. }) => id,
        Event::Presence(_)
        | Event::Message { .. }
        | Event::Private { .. }
        | Event::System { .. }
        | Event::State { .. }
        | Event::Typing { .. }
        | Event::Ping
        | Event::Gap { .. } => None,
    }
}

fn kind(event: &Event<'_>) -> Kind {
    match *event {
        Event::Welcome { nickname, session, resume, resumed, heartbeat_ms, timeout_ms, server, .. } => {
            Kind::Welcome(schema::Welcome {
                nickname: nickname.into(),
                session: session.into(),
                resume: resume.into(),
                resumed,
                heartbeat_ms: count(heartbeat_ms),
                timeout_ms: count(timeout_ms),
                server: server.into(),
            })
        }
        Event::Joined { room, epoch, offset, role, members, state, messages, recovered, .. } => {
            let value = |entry: &StateEntry<'_>| {
                let value = schema::StateValue { value_json: json(entry.value), version: entry.version };
                (entry.key.to_owned(), value)
            };
            Kind::Joined(schema::Joined {
                room: room.into(),
                epoch: epoch.into(),
                offset,
                role: role_number(role),
                members: count(members),
                state: state.0.iter().map(value).collect(),
                messages: history(messages.unwrap_or_default()),
                recovered,
            })
        }
        Event::Left { room, reason, .. } => {
            Kind::Left(schema::Left { room: room.into(), reason: reason.into() })
        }
        Event::Presence(presence) => Kind::Presence(schema::Presence {
            room: presence.room.into(),
            event: presence.event.into(),
            nickname: text(presence.nickname),
            timestamp: time(presence.timestamp.unwrap_or_default()),
            reason: text(presence.reason),
            from: text(presence.from),
            role: role_number(presence.role.unwrap_or_default()),
            joined: names(presence.joined),
            left: names(presence.left),
            members: count(presence.members.unwrap_or_default()),
        }),
        Event::Message { room, sender, content, offset, timestamp } => Kind::Message(schema::RoomMessage {
            room: room.into(),
            sender: sender.into(),
            content: content.into(),
            offset,
            timestamp: time(timestamp),
        }),
        Event::Ack(ack) => Kind::Ack(schema::Ack {
            room: text(ack.room),
            epoch: text(ack.epoch),
            offset: ack.offset.unwrap_or_default(),
            timestamp: time(ack.timestamp.unwrap_or_default()),
            level: level_number(ack.level.unwrap_or_default()),
            target: text(ack.target),
            delivered: count(ack.delivered.unwrap_or_default()),
            stored: ack.stored.unwrap_or_default(),
            sessions: count(ack.sessions.unwrap_or_default()),
            key: text(ack.key),
            version: ack.version.unwrap_or_default(),
        }),
        Event::Private { sender, target, content, timestamp, offset } => {
            Kind::Private(schema::PrivateMessage {
                sender: sender.into(),
                target: target.into(),
                content: content.into(),
                timestamp: time(timestamp),
                offset,
            })
        }
        Event::System { content, sender, timestamp } => Kind::System(schema::System {
            content: content.into(),
            sender: sender.into(),
            timestamp: time(timestamp),
            room: String::new(),
        }),
        Event::Members { room, total, members, .. } => {
            let member = |member: &wire::Member<'_>| schema::Member {
                nickname: member.nickname.into(),
                role: role_number(member.role),
                connected: member.connected,
                last_active: time(member.last_active),
            };
            let members = members.iter().map(member).collect();
            Kind::Members(schema::MemberList { room: room.into(), total: count(total), members })
        }
        Event::Rooms { rooms, .. } => {
            let info = |room: &wire::RoomInfo<'_>| schema::RoomInfo {
                room: room.room.into(),
                members: count(room.members),
                offset: room.offset,
            };
            Kind::Rooms(schema::RoomList { rooms: rooms.iter().map(info).collect() })
        }
        Event::History { room, epoch, messages, .. } => Kind::History(schema::HistoryPage {
            room: room.into(),
            epoch: epoch.into(),
            messages: history(messages),
        }),
        Event::State { room, key, value, version, sender } => Kind::State(schema::StateChange {
            room: room.into(),
            key: key.into(),
            value_json: json(value),
            version,
            sender: sender.into(),
        }),
        Event::Typing { room, nickname } => {
            Kind::Typing(schema::TypingNotice { room: room.into(), nickname: nickname.into() })
        }
        Event::Pong { timestamp, .. } => Kind::Pong(schema::PongReply { timestamp: time(timestamp) }),
        Event::Bye { code, reason, resumable, after_ms, .. } => Kind::Bye(schema::Bye {
            code: code.into(),
            reason: reason.into(),
            resumable,
            after_ms: count(after_ms),
        }),
        Event::Error(error) => Kind::Error(schema::Error {
            code: error.code.into(),
            reason: error.reason.into(),
            message: error.message.into(),
            retryable: error.retryable,
            retry_after_ms: error.retry_after_ms.map(count),
        }),
        Event::Ping => Kind::Ping(schema::Ping {}),
        Event::Gap { room, epoch, from, to } => {
            Kind::Gap(schema::Gap { room: room.into(), epoch: epoch.into(), from, to })
        }
    }
}

/// Appends what is in a kind, without the key and length that it has in an event.
fn put_bare(kind: &Kind, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    match kind {
        Kind::Welcome(message) => message.encode(out),
        Kind::Joined(message) => message.encode(out),
        Kind::Left(message) => message.encode(out),
        Kind::Presence(message) => message.encode(out),
        Kind::Message(message) => message.encode(out),
        Kind::Ack(message) => message.encode(out),
        Kind::Private(message) => message.encode(out),
        Kind::System(message) => message.encode(out),
        Kind::Members(message) => message.encode(out),
        Kind::Rooms(message) => message.encode(out),
        Kind::History(message) => message.encode(out),
        Kind::State(message) => message.encode(out),
        Kind::Typing(message) => message.encode(out),
        Kind::Pong(message) => message.encode(out),
        Kind::Bye(message) => message.encode(out),
        Kind::Error(message) => message.encode(out),
        Kind::Ping(message) => message.encode(out),
        Kind::Gap(message) => message.encode(out),
    }
}

fn history(messages: &[HistoryMessage<'_>]) -> Vec<schema::HistoryMessage> {
    let message = |message: &HistoryMessage<'_>| schema::HistoryMessage {
        sender: message.sender.into(),
        content: message.content.into(),
        offset: message.offset,
        timestamp: time(message.timestamp),
    };
    messages.iter().map(message).collect()
}

fn json(value: Json<'_>) -> String {
    value.0.to_owned()
}

fn names(names: Option<&[&str]>) -> Vec<String> {
    names.unwrap_or_default().iter().map(|&name| name.to_owned()).collect()
}

fn text(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

/// As a uint32; what does not fit is the largest.
fn count(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// As an int64; what does not fit is the largest.
fn time(milliseconds: u64) -> i64 {
    i64::try_from(milliseconds).unwrap_or(i64::MAX)
}

fn role_number(role: &str) -> i32 {
    let role = match role {
        "host" => Role::Host,
        "member" => Role::Member,
        "guest" => Role::Guest,
        _ => Role::Unspecified,
    };
    role.into()
}

fn level_number(level: &str) -> i32 {
    let level = match level {
        "sequenced" => AckLevel::AckSequenced,
        "stored" => AckLevel::AckStored,
        "synced" => AckLevel::AckSynced,
        _ => AckLevel::AckDefault,
    };
    level.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(event: Event<'_>) -> Kind {
        let mut out = Vec::new();
        write(&event, &mut out);
        schema::Event::decode(&out[..]).unwrap().kind.unwrap()
    }

    #[test]
    fn numbers_that_do_not_fit_saturate() {
        let bye = Event::Bye { id: None, code: 4300, reason: "draining", resumable: true, after_ms: 1 << 40 };
        assert!(matches!(decoded(bye), Kind::Bye(bye) if bye.after_ms == u32::MAX));
        let pong = Event::Pong { id: None, timestamp: u64::MAX };
        assert!(matches!(decoded(pong), Kind::Pong(pong) if pong.timestamp == i64::MAX));
        let message =
            Event::Message { room: "a", sender: "b", content: "c", offset: u64::MAX, timestamp: u64::MAX };
        let Kind::Message(message) = decoded(message) else { panic!("not a message") };
        assert_eq!((message.offset, message.timestamp), (u64::MAX, i64::MAX));
    }

    #[test]
    fn an_empty_id_is_none() {
        let mut out = Vec::new();
        write_as(&Event::Pong { id: Some(""), timestamp: 0 }, &mut out);
        assert_eq!(out, b"");
        write_as(&Event::Pong { id: Some("x"), timestamp: 0 }, &mut out);
        assert_eq!(out, b"\xA2\x06\x01x");
    }
}
