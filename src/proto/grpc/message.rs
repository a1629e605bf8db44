//! What the calls of the chat service carry, beside `Command` and `Event`.

use prost::Message;

use super::super::protobuf::schema;
use super::super::wire::{Ack, Event};

/// What somebody says by `StreamMessages` or `SendMessage`, unchecked. A text that is not there is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Said {
    pub user_id: String,
    pub content: String,
    pub room: String,
    pub target: String,
    /// The field `type`: "message", which an empty one means too, or "private".
    pub kind: String,
}

impl From<schema::Message> for Said {
    fn from(message: schema::Message) -> Self {
        let schema::Message { user_id, content, room, target, r#type: kind, .. } = message;
        Said { user_id, content, room, target, kind }
    }
}

/// Reads a `Message`.
///
/// # Errors
/// What is wrong with it, for people.
pub fn read_message(bytes: &[u8]) -> Result<Said, String> {
    schema::Message::decode(bytes).map(Said::from).map_err(|error| error.to_string())
}

/// Reads a `SendMessageRequest`; one without a message is one with an empty message.
///
/// # Errors
/// What is wrong with it, for people.
pub fn read_sent(bytes: &[u8]) -> Result<Said, String> {
    schema::SendMessageRequest::decode(bytes)
        .map(|request| request.message.unwrap_or_default().into())
        .map_err(|error| error.to_string())
}

/// Reads a `LoginRequest`: the username and the password.
///
/// # Errors
/// What is wrong with it, for people.
pub fn read_login(bytes: &[u8]) -> Result<(String, String), String> {
    // The library's own words could quote the password.
    schema::LoginRequest::decode(bytes)
        .map(|request| (request.username, request.password))
        .map_err(|_| "bad Protobuf: no LoginRequest".to_owned())
}

/// Appends a `LoginResponse`.
pub fn write_login(token: &str, expires_at_ms: u64, out: &mut Vec<u8>) {
    let response = schema::LoginResponse {
        success: true,
        token: token.to_owned(),
        expires_at: i64::try_from(expires_at_ms).unwrap_or(i64::MAX),
    };
    response.encode(out).expect("a vector takes every byte");
}

/// Appends a `SendMessageResponse`. Private messages have no place in a room, and so neither epoch nor offset.
pub fn write_sent(ack: &Ack<'_>, out: &mut Vec<u8>) {
    let (epoch, offset) = (ack.epoch.unwrap_or_default(), ack.offset.unwrap_or_default());
    let response = schema::SendMessageResponse {
        success: true,
        message_id: if epoch.is_empty() { String::new() } else { format!("{epoch}:{offset}") },
        offset,
        epoch: epoch.to_owned(),
    };
    response.encode(out).expect("a vector takes every byte");
}

/// Appends a `Message` for an event that one can be made of, and says whether it did: for messages, and for what a person is told
/// in words.
pub fn write_event(event: &Event<'_>, out: &mut Vec<u8>) -> bool {
    let time = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let message = match *event {
        Event::Message { room, sender, content, offset, timestamp } => schema::Message {
            user_id: sender.into(),
            content: content.into(),
            timestamp: time(timestamp),
            room: room.into(),
            r#type: "message".into(),
            offset,
            ..schema::Message::default()
        },
        Event::Private { sender, target, content, timestamp, offset } => schema::Message {
            user_id: sender.into(),
            content: content.into(),
            timestamp: time(timestamp),
            target: target.into(),
            r#type: "private".into(),
            offset: offset.unwrap_or_default(),
            ..schema::Message::default()
        },
        Event::System { content, sender, timestamp } => schema::Message {
            user_id: sender.into(),
            content: content.into(),
            timestamp: time(timestamp),
            r#type: "system".into(),
            ..schema::Message::default()
        },
        // Who is put out of a room would otherwise wonder why it has fallen silent.
        Event::Left { id: None, room, reason } => schema::Message {
            content: format!("you are no longer in {room} ({reason})"),
            room: room.into(),
            r#type: "system".into(),
            ..schema::Message::default()
        },
        _ => return false,
    };
    message.encode(out).expect("a vector takes every byte");
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_of_three_fields_is_understood() {
        #[derive(Clone, PartialEq, prost::Message)]
        struct Small {
            #[prost(string, tag = "1")]
            user_id: String,
            #[prost(string, tag = "2")]
            content: String,
            #[prost(int64, tag = "3")]
            timestamp: i64,
        }
        let small = Small { user_id: "alice".into(), content: "hi".into(), timestamp: 7 };
        let said = read_message(&small.encode_to_vec()).unwrap();
        assert_eq!(said, Said { user_id: "alice".into(), content: "hi".into(), ..Said::default() });
        let mut out = Vec::new();
        let event =
            Event::Message { room: "lobby", sender: "bob", content: "ho", offset: 3, timestamp: 1000 };
        assert!(write_event(&event, &mut out));
        let heard = Small::decode(&out[..]).unwrap();
        assert_eq!(heard, Small { user_id: "bob".into(), content: "ho".into(), timestamp: 1000 });
    }

    #[test]
    fn what_a_person_reads_is_a_message_of_its_type() {
        let heard = |event: &Event<'_>| {
            let mut out = Vec::new();
            write_event(event, &mut out).then(|| schema::Message::decode(&out[..]).expect("a message"))
        };
        let all = schema::Message {
            user_id: "bob".into(),
            content: "ho".into(),
            timestamp: 1000,
            room: "den".into(),
            r#type: "message".into(),
            offset: 3,
            ..schema::Message::default()
        };
        let event = Event::Message { room: "den", sender: "bob", content: "ho", offset: 3, timestamp: 1000 };
        assert_eq!(heard(&event), Some(all.clone()));
        let private = schema::Message {
            room: String::new(),
            target: "al".into(),
            r#type: "private".into(),
            ..all.clone()
        };
        let of =
            |offset| Event::Private { sender: "bob", target: "al", content: "ho", timestamp: 1000, offset };
        assert_eq!(heard(&of(Some(3))), Some(private.clone()));
        assert_eq!(heard(&of(None)), Some(schema::Message { offset: 0, ..private }));
        let system = schema::Message { room: String::new(), r#type: "system".into(), offset: 0, ..all };
        let event = Event::System { content: "ho", sender: "bob", timestamp: 1000 };
        assert_eq!(heard(&event), Some(system.clone()));
        let put_out = schema::Message {
            user_id: String::new(),
            content: "you are no longer in den (kicked)".into(),
            timestamp: 0,
            room: "den".into(),
            ..system
        };
        assert_eq!(heard(&Event::Left { id: None, room: "den", reason: "kicked" }), Some(put_out));
        assert_eq!(heard(&Event::Left { id: Some("1"), room: "den", reason: "left" }), None);
        assert_eq!(heard(&Event::Ping), None);
    }

    #[test]
    fn what_is_sent_is_a_message() {
        let message = schema::Message {
            user_id: "alice".into(),
            content: "hi".into(),
            room: "den".into(),
            target: "bob".into(),
            r#type: "private".into(),
            ..schema::Message::default()
        };
        let said = Said {
            user_id: "alice".into(),
            content: "hi".into(),
            room: "den".into(),
            target: "bob".into(),
            kind: "private".into(),
        };
        assert_eq!(read_message(&message.encode_to_vec()), Ok(said.clone()));
        let request = schema::SendMessageRequest { message: Some(message) };
        assert_eq!(read_sent(&request.encode_to_vec()), Ok(said));
        assert_eq!(read_sent(&[]), Ok(Said::default()));
        assert!(read_message(&[0xFF]).is_err() && read_sent(&[0xFF]).is_err());
    }

    #[test]
    fn a_login_is_read_and_answered() {
        let request = schema::LoginRequest { username: "al".into(), password: "secret".into() };
        assert_eq!(read_login(&request.encode_to_vec()), Ok(("al".into(), "secret".into())));
        let error = read_login(b"\x0a\x06secret\xff").unwrap_err();
        assert!(!error.contains("secret"), "{error}");
        let mut out = Vec::new();
        write_login("t", u64::MAX, &mut out);
        let response = schema::LoginResponse::decode(&out[..]).unwrap();
        assert_eq!((response.success, response.token.as_str()), (true, "t"));
        assert_eq!(response.expires_at, i64::MAX);
    }

    #[test]
    fn an_id_of_a_message_names_its_place() {
        let mut out = Vec::new();
        write_sent(&Ack { epoch: Some("e1"), offset: Some(9), ..Ack::default() }, &mut out);
        let response = schema::SendMessageResponse::decode(&out[..]).unwrap();
        assert_eq!((response.message_id.as_str(), response.offset), ("e1:9", 9));
        out.clear();
        write_sent(&Ack { target: Some("bob"), ..Ack::default() }, &mut out);
        let response = schema::SendMessageResponse::decode(&out[..]).unwrap();
        assert!(response.success && response.message_id.is_empty());
    }
}
