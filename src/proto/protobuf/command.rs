//! Reads commands. Strings are copied: prost's messages own what they hold.

use std::borrow::Cow;

use prost::bytes::Buf;
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};

use super::super::json::{Envelope, Fault, ID_BYTES_MAX, Malformed, Reason, raw_value};
use super::super::wire::{COMMANDS, Command, Join, Moderate, Moderation, Position};
use super::ID_FIELD;
use super::schema::{self, AckLevel, Overflow, Role, command::Kind};

/// The longest start of a length-delimited field: a key of two bytes and a length of at most ten.
const FIELD_START_BYTES_MAX: usize = 12;

/// Reads a whole `Command`. Unknown fields are ignored, and so a kind that this server does not know is none.
pub fn parse(bytes: &[u8]) -> Result<Envelope<'static>, Malformed<'static>> {
    answering(bytes, || decode(bytes))
}

/// Reads the bare message of a kind, that is its number in [`COMMANDS`], with the `id` as its field 100.
pub fn parse_as(kind: u8, bytes: &[u8]) -> Result<Envelope<'static>, Malformed<'static>> {
    answering(bytes, || {
        if !(1..=COMMANDS.len()).contains(&usize::from(kind)) {
            return Err(Fault::new(Reason::UnknownType, format!("there is no command of kind {kind}")));
        }
        // The bare message becomes the field of its kind in a command, without a copy: only its start is added.
        let mut start = [0; FIELD_START_BYTES_MAX];
        let mut unused = &mut start[..];
        encoding::encode_key(u32::from(kind), WireType::LengthDelimited, &mut unused);
        encoding::encode_varint(bytes.len() as u64, &mut unused);
        let start_bytes = FIELD_START_BYTES_MAX - unused.len();
        decode(start[..start_bytes].chain(bytes))
    })
}

/// Reads the `id` before anything else, so that an error can carry it.
fn answering(
    bytes: &[u8],
    command: impl FnOnce() -> Result<Command<'static>, Fault>,
) -> Result<Envelope<'static>, Malformed<'static>> {
    let id = match id(bytes) {
        Ok(id) => id.map(Cow::Owned),
        Err(fault) => return Err(fault.answering(None)),
    };
    match command() {
        Ok(command) => Ok(Envelope { id, command }),
        Err(fault) => Err(fault.answering(id)),
    }
}

/// The last `id` among the fields of a message; an empty one is absent.
fn id(mut bytes: &[u8]) -> Result<Option<String>, Fault> {
    let mut id = String::new();
    while !bytes.is_empty() {
        let (field, wire_type) = encoding::decode_key(&mut bytes).map_err(malformed)?;
        if field == ID_FIELD {
            encoding::string::merge(wire_type, &mut id, &mut bytes, DecodeContext::default())
                .map_err(malformed)?;
        } else {
            encoding::skip_field(wire_type, field, &mut bytes, DecodeContext::default())
                .map_err(malformed)?;
        }
    }
    if id.len() > ID_BYTES_MAX {
        return Err(Fault::new(Reason::BadRequest, "field `id` must be a string of at most 64 bytes"));
    }
    Ok(optional(id).map(Cow::into_owned))
}

fn decode(bytes: impl Buf) -> Result<Command<'static>, Fault> {
    let command = schema::Command::decode(bytes).map_err(malformed)?;
    let kind = command
        .kind
        .ok_or_else(|| Fault::new(Reason::UnknownType, "there is no kind of command that is known here"))?;
    read(kind)
}

fn malformed(error: DecodeError) -> Fault {
    // prost tells the cause only to people.
    let message = error.to_string();
    let reason = if message.contains("UTF-8") { Reason::BadUtf8 } else { Reason::BadRequest };
    Fault::new(reason, message)
}

fn read(kind: Kind) -> Result<Command<'static>, Fault> {
    Ok(match kind {
        Kind::Hello(hello) => Command::Hello {
            nickname: optional(hello.nickname),
            token: optional(hello.token),
            resume: optional(hello.resume),
        },
        Kind::Join(to) => Command::Join(join(to)?),
        Kind::Leave(leave) => Command::Leave { room: leave.room.into() },
        Kind::Switch(switch) => {
            Command::Switch { from: switch.from.into(), to: join(switch.to.unwrap_or_default())? }
        }
        Kind::Message(say) => {
            Command::Message { ack: ack(say.ack)?, room: say.room.into(), content: say.content.into() }
        }
        Kind::Private(private) => {
            Command::Private { target: private.target.into(), content: private.content.into() }
        }
        Kind::Received(received) => Command::Received { offset: received.offset },
        Kind::Broadcast(broadcast) => Command::Broadcast {
            content: broadcast.content.into(),
            rooms: list(broadcast.rooms),
            tags: list(broadcast.tags),
        },
        Kind::Members(members) => Command::Members {
            room: members.room.into(),
            limit: number(members.limit),
            after: optional(members.after),
        },
        Kind::Rooms(rooms) => Command::Rooms { limit: number(rooms.limit), after: optional(rooms.after) },
        Kind::History(history) => Command::History {
            room: history.room.into(),
            before: history.before,
            after: history.after,
            limit: number(history.limit),
        },
        Kind::State(state) => Command::State {
            value: value(&state.value_json)?,
            room: state.room.into(),
            key: state.key.into(),
        },
        Kind::Role(set) => {
            Command::Role { role: role(set.role)?, room: set.room.into(), target: set.target.into() }
        }
        Kind::Kick(order) => moderate(Moderation::Kick, order),
        Kind::Ban(order) => moderate(Moderation::Ban, order),
        Kind::Unban(order) => moderate(Moderation::Unban, order),
        Kind::Mute(order) => moderate(Moderation::Mute, order),
        Kind::Unmute(order) => moderate(Moderation::Unmute, order),
        Kind::Typing(typing) => Command::Typing { room: typing.room.into() },
        Kind::Ping(_) => Command::Ping,
        Kind::Quit(_) => Command::Quit,
        Kind::Pong(_) => Command::Pong,
        Kind::Nick(nick) => Command::Nick { nickname: nick.nickname.into() },
    })
}

fn join(join: schema::Join) -> Result<Join<'static>, Fault> {
    let since = join.since.map(|since| Position { epoch: since.epoch.into(), offset: since.offset });
    let overflow = match Overflow::try_from(join.overflow) {
        Ok(Overflow::Close) => None,
        Ok(Overflow::Gap) => Some("gap".into()),
        Err(_) => return Err(unknown_number("overflow")),
    };
    let echo = join.no_echo.then_some(false);
    Ok(Join { room: join.room.into(), history: number(join.history), since, echo, overflow })
}

fn moderate(action: Moderation, order: schema::Moderate) -> Command<'static> {
    Command::Moderate(Moderate {
        action,
        room: order.room.into(),
        target: order.target.into(),
        reason: optional(order.reason),
        seconds: number(order.seconds),
    })
}

fn ack(level: i32) -> Result<Option<Cow<'static, str>>, Fault> {
    Ok(match AckLevel::try_from(level) {
        Ok(AckLevel::AckDefault) => None,
        Ok(AckLevel::AckSequenced) => Some("sequenced".into()),
        Ok(AckLevel::AckStored) => Some("stored".into()),
        Ok(AckLevel::AckSynced) => Some("synced".into()),
        Err(_) => return Err(unknown_number("ack")),
    })
}

fn role(role: i32) -> Result<Cow<'static, str>, Fault> {
    Ok(match Role::try_from(role) {
        Ok(Role::Unspecified) => "".into(),
        Ok(Role::Host) => "host".into(),
        Ok(Role::Member) => "member".into(),
        Ok(Role::Guest) => "guest".into(),
        Err(_) => return Err(unknown_number("role")),
    })
}

fn value(written: &str) -> Result<Option<Cow<'static, str>>, Fault> {
    if written.is_empty() {
        return Ok(None);
    }
    let value = raw_value("value_json", written)?;
    Ok(value.map(|value| Cow::Owned(value.into_owned())))
}

fn optional(text: String) -> Option<Cow<'static, str>> {
    (!text.is_empty()).then_some(Cow::Owned(text))
}

fn number(number: u32) -> Option<u64> {
    (number > 0).then_some(u64::from(number))
}

fn list(texts: Vec<String>) -> Vec<Cow<'static, str>> {
    texts.into_iter().map(Cow::Owned).collect()
}

fn unknown_number(field: &'static str) -> Fault {
    Fault::new(Reason::BadRequest, format!("field `{field}` has a number without a meaning"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(kind: Kind) -> Vec<u8> {
        schema::Command { id: "x".into(), kind: Some(kind) }.encode_to_vec()
    }

    #[track_caller]
    fn assert_refused(bytes: &[u8], reason: Reason, id: Option<&str>, message: &str) {
        let malformed = parse(bytes).unwrap_err();
        assert_eq!((malformed.reason, malformed.id.as_deref()), (reason, id));
        assert!(malformed.message.contains(message), "{}", malformed.message);
    }

    #[test]
    fn errors_name_the_field_and_carry_the_id() {
        let say = schema::Say { ack: 4, ..Default::default() };
        assert_refused(&bytes(Kind::Message(say)), Reason::BadRequest, Some("x"), "`ack`");
        let set = schema::SetRole { role: -1, ..Default::default() };
        assert_refused(&bytes(Kind::Role(set)), Reason::BadRequest, Some("x"), "`role`");
        let join = schema::Join { overflow: 2, ..Default::default() };
        assert_refused(&bytes(Kind::Join(join.clone())), Reason::BadRequest, Some("x"), "`overflow`");
        let switch = schema::Switch { from: "a".into(), to: Some(join) };
        assert_refused(&bytes(Kind::Switch(switch)), Reason::BadRequest, Some("x"), "`overflow`");
        for value in ["{", "1e999", &"[".repeat(33), &format!("{}{}", "[".repeat(33), "]".repeat(33))] {
            let state = schema::State { value_json: value.into(), ..Default::default() };
            assert_refused(&bytes(Kind::State(state)), Reason::BadRequest, Some("x"), "`value_json`");
        }
    }

    #[test]
    fn a_command_without_a_known_kind_is_of_an_unknown_type() {
        assert_refused(b"", Reason::UnknownType, None, "kind");
        let mut later = schema::Command { id: "x".into(), kind: None }.encode_to_vec();
        encoding::string::encode(24, &"of another version".to_owned(), &mut later);
        assert_refused(&later, Reason::UnknownType, Some("x"), "kind");
        for kind in [0, 24, 100, 133] {
            let malformed = parse_as(kind, b"\xA2\x06\x01x").unwrap_err();
            assert_eq!((malformed.reason, malformed.id.as_deref()), (Reason::UnknownType, Some("x")));
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_told_from_other_damage() {
        assert_refused(b"\x1A\x03\x0A\x01\xFF\xA2\x06\x01x", Reason::BadUtf8, Some("x"), "UTF-8");
        assert_refused(b"\xA2\x06\x01\xFF", Reason::BadUtf8, None, "UTF-8");
        assert_refused(b"\x1A\x03\x0A\x05a", Reason::BadRequest, None, "");
        assert_refused(b"\x1A\x02\x08\x05\xA2\x06\x01x", Reason::BadRequest, Some("x"), "");
        assert_refused(b"\xA0\x06\x01", Reason::BadRequest, None, "");
    }

    #[test]
    fn an_id_is_at_most_64_bytes_and_stands_in_bare_messages_too() {
        let of_length =
            |length| schema::Command { id: "x".repeat(length), kind: Some(Kind::Ping(schema::Ping {})) };
        assert_eq!(parse(&of_length(64).encode_to_vec()).unwrap().id, Some("x".repeat(64).into()));
        assert_refused(&of_length(65).encode_to_vec(), Reason::BadRequest, None, "`id`");
        let mut bare = schema::Leave { room: "lobby".into() }.encode_to_vec();
        encoding::string::encode(ID_FIELD, &"7".to_owned(), &mut bare);
        let expected = Envelope { id: Some("7".into()), command: Command::Leave { room: "lobby".into() } };
        assert_eq!(parse_as(3, &bare), Ok(expected));
    }

    #[test]
    fn what_stands_last_counts() {
        let leave = |room: &str| bytes(Kind::Leave(schema::Leave { room: room.into() }));
        let twice = [leave("a"), bytes(Kind::Ping(schema::Ping {})), leave("b")].concat();
        assert_eq!(parse(&twice).unwrap().command, Command::Leave { room: "b".into() });
    }

    #[test]
    fn a_value_is_compact_and_null_deletes() {
        let of = |value: &str| {
            let state = schema::State { value_json: value.into(), ..Default::default() };
            let Command::State { value, .. } = parse(&bytes(Kind::State(state))).unwrap().command else {
                panic!("not a state")
            };
            value
        };
        assert_eq!(of(""), None);
        assert_eq!(of(" null\n"), None);
        assert_eq!(of("{\n \"a b\": [1,\t2] }").as_deref(), Some(r#"{"a b":[1,2]}"#));
    }

    #[test]
    fn deep_groups_cost_no_stack() {
        assert_refused(&[0x1B; 100_000], Reason::BadRequest, None, "recursion");
    }
}
