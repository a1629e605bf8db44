//! starling's own protocol: commands and events in JSON or Protobuf, over WebSocket, lines or binary frames. And its
//! WebSocket echo.

use std::sync::OnceLock;

use prost::Message as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Ack, Heard, Joined, Level, Persona, Protocol, Stage, Traits, http2, websocket};
use crate::bench::marker::{Content, MARKER_BYTES, Marker, name_hash};
use crate::proto::frame::{ENCODING_JSON, ENCODING_PROTOBUF, EVENT_KIND_BASE, HEADER_BYTES, MAGIC, VERSION};
use crate::proto::protobuf::schema::{self, command::Kind, event::Kind as EventKind};
use crate::proto::wire::EVENTS;

/// What carries the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// A WebSocket at a path.
    WebSocket,
    /// A line each.
    Lines,
    /// Binary frames.
    Frames,
    /// Messages of gRPC.
    Grpc,
}

/// Numbers of commands and events, the same in Protobuf and in frames.
mod number {
    pub const HELLO: u8 = 1;
    pub const JOIN: u8 = 2;
    pub const SWITCH: u8 = 4;
    pub const SAY: u8 = 5;
    pub const QUIT: u8 = 21;
    pub const PONG: u8 = 22;

    pub const WELCOME: u8 = 1;
    pub const JOINED: u8 = 2;
    pub const MESSAGE: u8 = 5;
    pub const ACK: u8 = 6;
    pub const BYE: u8 = 15;
    pub const ERROR: u8 = 16;
    pub const PING: u8 = 17;
}

/// What is called by gRPC.
const CONNECT: &str = "/chat.ChatService/Connect";

/// The field `id` of commands and events.
const ID_FIELD: u32 = 100;

/// The protocol.
#[derive(Debug)]
pub struct Starling {
    /// What carries it.
    pub framing: Framing,
    /// Whether it is Protobuf rather than JSON.
    pub is_protobuf: bool,
    /// Whether the target is to compress what it sends by WebSocket.
    pub deflates: bool,
    /// Host and port, for the request.
    pub host: String,
    /// The path of the WebSocket.
    pub path: String,
    /// Whether whatever is sent comes back as it is.
    pub is_echo: bool,
    /// What the first welcome says of the server's version.
    pub version: OnceLock<String>,
}

impl Protocol for Starling {
    fn traits(&self) -> Traits {
        Traits {
            hears_itself: true,
            has_offsets: !self.is_echo,
            has_rooms: !self.is_echo,
            can_move: !self.is_echo,
            can_resume: !self.is_echo,
            can_acknowledge: !self.is_echo,
            is_echo: self.is_echo,
            is_split: false,
            content_max: None,
        }
    }

    fn open(&self, _me: &Persona<'_>, out: &mut Vec<u8>) -> bool {
        match self.framing {
            Framing::WebSocket => {}
            Framing::Grpc => {
                http2::put_call(CONNECT, &self.host, out);
                return true;
            }
            Framing::Lines | Framing::Frames => return true,
        }
        let name = if self.is_protobuf { "starling.proto.v1" } else { "starling.json.v1" };
        websocket::put_request(&self.host, &self.path, (!self.is_echo).then_some(name), self.deflates, out);
        false
    }

    fn enter(&self, me: &Persona<'_>, out: &mut Vec<u8>) -> bool {
        if self.is_echo {
            return true;
        }
        let resume = me.comeback.map(|comeback| comeback.token);
        let nickname = if resume.is_none() { me.nickname } else { "" };
        self.put(
            number::HELLO,
            out,
            || match resume {
                Some(token) => json!({"type": "hello", "resume": token}),
                None => json!({"type": "hello", "nickname": nickname}),
            },
            || {
                Kind::Hello(schema::Hello {
                    nickname: nickname.into(),
                    resume: resume.unwrap_or_default().into(),
                    ..Default::default()
                })
            },
        );
        if !me.room.is_empty() {
            let since = me.comeback.map(|at| (at.epoch, at.offset));
            self.put(
                number::JOIN,
                out,
                || match since {
                    Some((epoch, offset)) => {
                        json!({"type": "join", "room": me.room, "since": {"epoch": epoch, "offset": offset}})
                    }
                    None => json!({"type": "join", "room": me.room}),
                },
                || Kind::Join(join(me.room, since)),
            );
        }
        false
    }

    fn publish(&self, me: &Persona<'_>, marker: Marker, bytes: usize, ack: Option<&str>, out: &mut Vec<u8>) {
        if self.is_echo {
            return websocket::put_frame(true, out, |out| marker.put_content(bytes, out));
        }
        self.frame(number::SAY, out, |out| {
            if self.is_protobuf {
                self.put_say(me, marker, bytes, ack, out)
            } else {
                put_json_say(me, marker, bytes, ack, out)
            }
        });
    }

    fn switch(&self, me: &Persona<'_>, to: &str, out: &mut Vec<u8>) {
        self.put(
            number::SWITCH,
            out,
            || json!({"type": "switch", "from": me.room, "to": to}),
            || Kind::Switch(schema::Switch { from: me.room.into(), to: Some(join(to, None)) }),
        );
    }

    fn quit(&self, out: &mut Vec<u8>) {
        if self.is_echo {
            return websocket::put_close(out);
        }
        self.put(number::QUIT, out, || json!({"type": "quit"}), || Kind::Quit(schema::Quit {}));
    }

    fn pong(&self, payload: &[u8], out: &mut Vec<u8>) {
        if self.framing == Framing::Grpc && !payload.is_empty() {
            return out.extend_from_slice(payload); // a frame of HTTP/2, which is the answer to another
        }
        if self.framing == Framing::WebSocket {
            return websocket::put_pong(payload, out);
        }
        self.put(number::PONG, out, || json!({"type": "pong"}), || Kind::Pong(schema::Pong {}));
    }

    fn version(&self) -> Option<String> {
        self.version.get().cloned()
    }

    fn decode(&self, stage: &mut Stage, input: &[u8], heard: &mut Vec<Heard>) -> Result<usize, String> {
        match self.framing {
            Framing::WebSocket => self.decode_websocket(stage, input, heard),
            Framing::Lines => Ok(self.decode_lines(input, heard)),
            Framing::Frames => self.decode_frames(input, heard),
            Framing::Grpc => http2::decode(input, heard, |event, heard| self.hear_protobuf(event, heard)),
        }
    }
}

impl Starling {
    /// Whether a message is a `Command` or `Event`, and not only that of a kind.
    fn has_whole_commands(&self) -> bool {
        matches!(self.framing, Framing::WebSocket | Framing::Grpc)
    }

    /// Appends a command that is not one of many.
    fn put(&self, kind: u8, out: &mut Vec<u8>, json: impl FnOnce() -> Value, proto: impl FnOnce() -> Kind) {
        self.frame(kind, out, |out| {
            if !self.is_protobuf {
                return serde_json::to_writer(out, &json()).expect("a vector takes every byte");
            }
            let kind = proto();
            if self.has_whole_commands() {
                return put_whole(&schema::Command { id: String::new(), kind: Some(kind) }, out);
            }
            match kind {
                Kind::Hello(hello) => put_whole(&hello, out),
                Kind::Join(join) => put_whole(&join, out),
                Kind::Switch(switch) => put_whole(&switch, out),
                // The others have no fields.
                _ => {}
            }
        });
    }

    fn frame(&self, kind: u8, out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
        match self.framing {
            Framing::WebSocket => websocket::put_frame(!self.is_protobuf, out, put),
            Framing::Grpc => http2::put_message(out, put),
            Framing::Lines => {
                put(out);
                out.push(b'\n');
            }
            Framing::Frames => {
                let begin = out.len();
                let encoding = if self.is_protobuf { ENCODING_PROTOBUF } else { ENCODING_JSON };
                out.extend_from_slice(&MAGIC);
                out.extend_from_slice(&[VERSION, 0, 0, 0, 0, encoding, kind]);
                put(out);
                let payload_bytes = (out.len() - begin - HEADER_BYTES) as u32;
                out[begin + 5..begin + 9].copy_from_slice(&payload_bytes.to_be_bytes());
            }
        }
    }

    fn put_say(&self, me: &Persona<'_>, marker: Marker, bytes: usize, ack: Option<&str>, out: &mut Vec<u8>) {
        let text = |bytes| {
            let mut text = Vec::with_capacity(bytes);
            marker.put_content(bytes, &mut text);
            String::from_utf8(text).expect("markers are ASCII")
        };
        let level = match ack {
            None => schema::AckLevel::AckDefault,
            Some("stored") => schema::AckLevel::AckStored,
            Some("synced") => schema::AckLevel::AckSynced,
            Some(_) => schema::AckLevel::AckSequenced,
        };
        let say = schema::Say { room: me.room.into(), content: text(bytes), ack: level as i32 };
        let id = ack.map(|_| text(MARKER_BYTES)).unwrap_or_default();
        if self.has_whole_commands() {
            return put_whole(&schema::Command { id, kind: Some(Kind::Message(say)) }, out);
        }
        put_whole(&say, out);
        if !id.is_empty() {
            prost::encoding::string::encode(ID_FIELD, &id, out);
        }
    }

    fn decode_websocket(
        &self,
        stage: &mut Stage,
        input: &[u8],
        heard: &mut Vec<Heard>,
    ) -> Result<usize, String> {
        let Some(mut at) = websocket::hear_answer(stage, self.deflates, input, heard)? else {
            return Ok(0);
        };
        while let Some(frame) = websocket::read_frame(&input[at..])? {
            at += frame.bytes;
            if !frame.is_data(heard) {
                continue;
            }
            frame.read(self.deflates, |message| {
                if self.is_echo {
                    let content = Content::read(message).ok_or("the echo is not what was sent")?;
                    heard.push(Heard::content(content));
                } else if self.is_protobuf {
                    self.hear_protobuf(message, heard)?;
                } else {
                    self.hear_json(message, heard);
                }
                Ok(())
            })?;
        }
        Ok(at)
    }

    fn decode_lines(&self, input: &[u8], heard: &mut Vec<Heard>) -> usize {
        let mut at = 0;
        while let Some(bytes) = memchr::memchr(b'\n', &input[at..]) {
            self.hear_json(&input[at..at + bytes], heard);
            at += bytes + 1;
        }
        at
    }

    fn decode_frames(&self, input: &[u8], heard: &mut Vec<Heard>) -> Result<usize, String> {
        let mut at = 0;
        while let Some(header) = input[at..].first_chunk::<HEADER_BYTES>() {
            if header[..4] != MAGIC || header[4] != VERSION {
                return Err("what came is no frame".to_owned());
            }
            let payload_bytes = u32::from_be_bytes([header[5], header[6], header[7], header[8]]) as usize;
            let begin = at + HEADER_BYTES;
            let Some(payload) = input.get(begin..begin + payload_bytes) else { break };
            let kind = header[10].wrapping_sub(EVENT_KIND_BASE);
            match header[9] {
                ENCODING_PROTOBUF => self.hear_bare(kind, payload, heard)?,
                _ if kind == number::MESSAGE => hear_json_message(payload, heard),
                _ => self.hear_json_other(kind, payload, heard),
            }
            at = begin + payload_bytes;
        }
        Ok(at)
    }

    #[inline]
    fn hear_json(&self, event: &[u8], heard: &mut Vec<Heard>) {
        if event.starts_with(br#"{"type":"message""#) {
            return hear_json_message(event, heard);
        }
        let name =
            event.strip_prefix(br#"{"type":""#).and_then(|rest| rest.split(|byte| *byte == b'"').next());
        let kind = name.and_then(|name| EVENTS.iter().position(|event| event.as_bytes() == name));
        self.hear_json_other(kind.map_or(0, |index| index as u8 + 1), event, heard);
    }

    fn hear_json_other(&self, kind: u8, event: &[u8], heard: &mut Vec<Heard>) {
        if !matches!(
            kind,
            number::WELCOME | number::JOINED | number::ACK | number::BYE | number::ERROR | number::PING
        ) {
            return;
        }
        if kind == number::ACK {
            heard.extend(json_ack(event));
            return;
        }
        let Ok(event) = serde_json::from_slice::<Value>(event) else { return };
        let text = |name: &str| event[name].as_str().unwrap_or_default();
        let number = |name: &str| event[name].as_u64().unwrap_or_default();
        heard.push(match kind {
            number::WELCOME => {
                self.note_version(text("server"));
                Heard::Welcome(text("resume").into())
            }
            number::JOINED => Heard::Joined(Box::new(Joined {
                offset: number("offset"),
                epoch: text("epoch").into(),
                recovered: event["recovered"].as_bool(),
            })),
            number::BYE => Heard::Bye(format!("{} {}", number("code"), text("reason")).into()),
            number::ERROR => Heard::Refused(format!("{} {}", number("code"), text("reason")).into()),
            _ => Heard::Ping(Box::default()),
        });
    }

    /// A whole `Event`.
    #[inline]
    fn hear_protobuf(&self, event: &[u8], heard: &mut Vec<Heard>) -> Result<(), String> {
        const MESSAGE_KEY: u8 = number::MESSAGE << 3 | 2;
        if event.first() == Some(&MESSAGE_KEY) {
            let mut rest = &event[1..];
            varint(&mut rest).ok_or("a message is cut short")?;
            return self.hear_bare(number::MESSAGE, rest, heard);
        }
        let event = schema::Event::decode(event).map_err(|why| why.to_string())?;
        if let Some(kind) = event.kind {
            self.hear_event(&event.id, kind, heard);
        }
        Ok(())
    }

    /// The message of one kind of event.
    #[inline]
    fn hear_bare(&self, kind: u8, payload: &[u8], heard: &mut Vec<Heard>) -> Result<(), String> {
        if kind == number::MESSAGE {
            let message = room_message(payload).ok_or("a message is malformed")?;
            heard.extend(message);
            return Ok(());
        }
        let why = |why: prost::DecodeError| why.to_string();
        let event = match kind {
            number::WELCOME => EventKind::Welcome(schema::Welcome::decode(payload).map_err(why)?),
            number::JOINED => EventKind::Joined(schema::Joined::decode(payload).map_err(why)?),
            number::BYE => EventKind::Bye(schema::Bye::decode(payload).map_err(why)?),
            number::ERROR => EventKind::Error(schema::Error::decode(payload).map_err(why)?),
            number::PING => EventKind::Ping(schema::Ping {}),
            number::ACK => {
                // The id is a field that all events may have, besides their own.
                if let Some((at, _)) = Marker::find(payload) {
                    let event = schema::Ack::decode(payload).map_err(why)?;
                    heard.extend(protobuf_ack(&payload[at..at + MARKER_BYTES], &event));
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.hear_event("", event, heard);
        Ok(())
    }

    fn hear_event(&self, id: &str, kind: EventKind, heard: &mut Vec<Heard>) {
        heard.push(match kind {
            EventKind::Welcome(welcome) => {
                self.note_version(&welcome.server);
                Heard::Welcome(welcome.resume.into())
            }
            EventKind::Joined(joined) => Heard::Joined(Box::new(Joined {
                offset: joined.offset,
                epoch: joined.epoch.into(),
                recovered: joined.recovered,
            })),
            EventKind::Ack(event) => match protobuf_ack(id.as_bytes(), &event) {
                Some(ack) => ack,
                None => return,
            },
            EventKind::Bye(bye) => Heard::Bye(format!("{} {}", bye.code, bye.reason).into()),
            EventKind::Error(error) => Heard::Refused(format!("{} {}", error.code, error.reason).into()),
            EventKind::Ping(_) => Heard::Ping(Box::default()),
            _ => return,
        });
    }

    fn note_version(&self, version: &str) {
        // All welcomes say the same.
        if self.version.get().is_none() && !version.is_empty() {
            let _ = self.version.set(version.to_owned());
        }
    }
}

fn join(room: &str, since: Option<(&str, u64)>) -> schema::Join {
    let since = since.map(|(epoch, offset)| schema::Position { epoch: epoch.into(), offset });
    schema::Join { room: room.into(), since, ..Default::default() }
}

fn put_whole(message: &impl prost::Message, out: &mut Vec<u8>) {
    message.encode(out).expect("a vector takes every byte");
}

fn put_json_say(me: &Persona<'_>, marker: Marker, bytes: usize, ack: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"type":"message","room":""#);
    out.extend_from_slice(me.room.as_bytes());
    out.extend_from_slice(br#"","content":""#);
    marker.put_content(bytes, out);
    if let Some(level) = ack {
        out.extend_from_slice(br#"","ack":""#);
        out.extend_from_slice(level.as_bytes());
        out.extend_from_slice(br#"","id":""#);
        marker.put(out);
    }
    out.extend_from_slice(br#""}"#);
}

/// A message is not parsed: the marker is found by its sign, and the offset by its name, behind the content.
#[inline]
fn hear_json_message(event: &[u8], heard: &mut Vec<Heard>) {
    const OFFSET: &[u8] = br#""offset":"#;
    let Some((content, place)) = Content::find(event, |behind| memchr::memchr(b'"', behind)) else { return };
    let sender = json_sender(&event[..place.start]);
    let tail = &event[place.end..];
    let digits = match tail.strip_prefix(br#"","offset":"#) {
        Some(digits) => digits,
        None => match memchr::memmem::find(tail, OFFSET) {
            Some(at) => &tail[at + OFFSET.len()..],
            None => return heard.push(Heard::Message { content, offset: 0, sender }),
        },
    };
    let offset = digits
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0_u64, |number, byte| number.wrapping_mul(10).wrapping_add(u64::from(byte - b'0')));
    heard.push(Heard::Message { content, offset, sender });
}

/// The sender that stands before a content, as the server writes it, or anywhere. Without one it is a name that nobody has.
#[inline]
fn json_sender(head: &[u8]) -> u64 {
    const SENDER: &[u8] = br#""sender":""#;
    if let Some(head) = head.strip_suffix(br#"","content":""#)
        && let Some(quote) = memchr::memrchr(b'"', head)
        && head[..=quote].ends_with(SENDER)
    {
        return name_hash(&head[quote + 1..]);
    }
    let found = memchr::memmem::find(head, SENDER).map(|at| &head[at + SENDER.len()..]);
    let name = found.and_then(|rest| rest.split(|byte| *byte == b'"').next());
    name_hash(name.unwrap_or_default())
}

/// The acknowledgement of a message of ours.
fn ack(id: &[u8], offset: u64, level: Level) -> Option<Heard> {
    let marker = Content::read(id).filter(|id| id.bytes.is_some())?.marker;
    Some(Heard::Acknowledged(Ack { marker, offset, level }))
}

fn json_ack(event: &[u8]) -> Option<Heard> {
    #[derive(Deserialize)]
    struct JsonAck<'a> {
        id: Option<&'a str>,
        offset: Option<u64>,
        level: Option<&'a str>,
    }
    // Those of commands without an id are not looked at.
    Marker::find(event)?;
    let event: JsonAck<'_> = serde_json::from_slice(event).ok()?;
    let level = event.level.map_or(Level::Unknown, Level::of);
    ack(event.id?.as_bytes(), event.offset.unwrap_or_default(), level)
}

fn protobuf_ack(id: &[u8], event: &schema::Ack) -> Option<Heard> {
    let level = match schema::AckLevel::try_from(event.level) {
        Ok(schema::AckLevel::AckSequenced) => Level::Sequenced,
        Ok(schema::AckLevel::AckStored) => Level::Stored,
        Ok(schema::AckLevel::AckSynced) => Level::Synced,
        _ => Level::Unknown,
    };
    ack(id, event.offset, level)
}

/// Reads a `RoomMessage` by hand: its content, its sender and its offset. `None`: malformed; `Some(None)`: not one of ours.
#[inline]
fn room_message(mut rest: &[u8]) -> Option<Option<Heard>> {
    let (mut content, mut offset, mut sender) = (None, 0, name_hash(b""));
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        match key & 7 {
            0 => {
                let number = varint(&mut rest)?;
                if key >> 3 == 4 {
                    offset = number;
                }
            }
            2 => {
                let bytes = usize::try_from(varint(&mut rest)?).ok()?;
                let (field, behind) = rest.split_at_checked(bytes)?;
                match key >> 3 {
                    2 => sender = name_hash(field),
                    3 => content = Content::read(field),
                    _ => {}
                }
                rest = behind;
            }
            _ => return None,
        }
    }
    Some(content.map(|content| Heard::Message { content, offset, sender }))
}

#[inline]
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, behind) = rest.split_first()?;
        *rest = behind;
        number |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{self, heard, marker, persona};
    use super::*;
    use crate::proto::wire::{self, Event};
    use crate::proto::{frame, json, protobuf};

    fn starling(framing: Framing, is_protobuf: bool) -> Starling {
        Starling {
            framing,
            is_protobuf,
            deflates: false,
            host: "h".into(),
            path: "/ws".into(),
            is_echo: false,
            version: OnceLock::new(),
        }
    }

    fn all() -> Vec<Starling> {
        use Framing::{Frames, Grpc, Lines, WebSocket};
        [(WebSocket, false), (WebSocket, true), (Lines, false), (Frames, false), (Frames, true), (Grpc, true)]
            .map(|(framing, is_protobuf)| starling(framing, is_protobuf))
            .into()
    }

    /// An event as the server writes it.
    fn put(target: &Starling, event: &Event<'_>, out: &mut Vec<u8>) {
        let mut payload = Vec::new();
        match (target.is_protobuf, target.framing) {
            (false, _) => json::write(event, &mut payload),
            (true, Framing::Frames) => protobuf::write_as(event, &mut payload),
            (true, _) => protobuf::write(event, &mut payload),
        }
        match target.framing {
            Framing::WebSocket => crate::proto::websocket::put_text(out, &payload),
            Framing::Lines => {
                out.extend_from_slice(&payload);
                out.push(b'\n');
            }
            Framing::Grpc => http2::put_message(out, |out| out.extend_from_slice(&payload)),
            Framing::Frames => {
                frame::put(out, u8::from(target.is_protobuf), EVENT_KIND_BASE + event.number(), &payload)
            }
        }
    }

    proptest! {
        #[test]
        fn events_are_heard_alike_in_any_pieces(pieces in prop::collection::vec(1usize..400, 1..10), bytes in 0usize..300) {
            let (text, content_told) = testing::content(bytes);
            let content = String::from_utf8(text).unwrap();
            let id = &content[..MARKER_BYTES];
            let sender = name_hash(b"m");
            let events = [
                Event::Message { room: "r", sender: "m", content: &content, offset: 12_345_678_901, timestamp: 5 },
                Event::Ack(wire::Ack { id: Some(id), offset: Some(8), level: Some("stored"), ..wire::Ack::default() }),
                Event::Typing { room: "r", nickname: "x" },
                Event::Ping,
                Event::Message { room: "r", sender: "m", content: "somebody else's", offset: 9, timestamp: 5 },
                Event::Message { room: "r", sender: "m", content: &content, offset: 1, timestamp: 5 },
                Event::Bye { id: None, code: 4201, reason: "slow_consumer", resumable: true, after_ms: 0 },
            ];
            for target in all() {
                let mut input = Vec::new();
                for event in &events {
                    put(&target, event, &mut input);
                }
                let told = heard(&target, websocket::OPEN, &input, &pieces);
                prop_assert_eq!(told, vec![
                    Heard::Message { content: content_told, offset: 12_345_678_901, sender },
                    Heard::Acknowledged(Ack { marker: marker(), offset: 8, level: Level::Stored }),
                    Heard::Ping(Box::default()),
                    Heard::Message { content: content_told, offset: 1, sender },
                    Heard::Bye("4201 slow_consumer".into()),
                ], "{:?}", target);
            }
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for target in all() {
                let mut stage = websocket::OPEN;
                if let Ok(taken) = target.decode(&mut stage, &bytes, &mut Vec::new()) {
                    prop_assert!(taken <= bytes.len());
                }
            }
        }
    }

    #[test]
    fn commands_are_what_the_server_reads() {
        for is_protobuf in [false, true] {
            let target = starling(Framing::Frames, is_protobuf);
            let mut out = Vec::new();
            assert!(target.open(&persona(), &mut out));
            target.enter(&persona(), &mut out);
            target.publish(&persona(), marker(), 100, Some("sequenced"), &mut out);
            target.switch(&persona(), "s", &mut out);
            target.quit(&mut out);
            let mut decoder = frame::Decoder::new(10_000);
            let (mut rest, mut told) = (&out[..], Vec::new());
            while !rest.is_empty() {
                let (taken, frame) = decoder.decode(rest).unwrap();
                let frame = frame.unwrap();
                let parsed = if is_protobuf {
                    protobuf::parse_as(frame.kind, frame.payload)
                } else {
                    json::parse_as(crate::proto::wire::COMMANDS[usize::from(frame.kind) - 1], frame.payload)
                };
                told.push(format!("{:?}", parsed.unwrap()));
                rest = &rest[taken..];
            }
            assert_eq!(told.len(), 5, "{told:?}");
            assert!(told[2].contains("~000007"), "{}", told[2]);
        }
    }
}
