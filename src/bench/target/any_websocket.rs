//! Any WebSocket server that passes on what it is sent: what to say is a template, and what comes is looked through for markers.

use std::sync::OnceLock;

use super::http::server_of;
use super::{Heard, Persona, Protocol, Stage, Traits, websocket};
use crate::bench::marker::{Content, MARKER_BYTES, Marker};

/// The protocol.
#[derive(Debug)]
pub struct AnyWebSocket {
    /// Host and port, for the request.
    pub host: String,
    /// The path.
    pub path: String,
    /// What is said first; nothing if empty.
    pub hello: String,
    /// What is said to publish.
    pub publish: String,
    /// Whether whoever publishes hears it too.
    pub hears_itself: bool,
    /// Whether each connection gets back what it sent.
    pub is_echo: bool,
    /// What the first answer calls the server.
    pub version: OnceLock<String>,
}

impl Protocol for AnyWebSocket {
    fn traits(&self) -> Traits {
        Traits {
            hears_itself: self.hears_itself || self.is_echo,
            has_rooms: self.hello.contains("{room}") || self.publish.contains("{room}"),
            is_echo: self.is_echo,
            ..Traits::default()
        }
    }

    fn open(&self, _me: &Persona<'_>, out: &mut Vec<u8>) -> bool {
        websocket::put_request(&self.host, &self.path, None, false, out);
        false
    }

    fn enter(&self, me: &Persona<'_>, out: &mut Vec<u8>) -> bool {
        if !self.hello.is_empty() {
            for message in self.hello.lines() {
                websocket::put_frame(true, out, |out| fill(message, me, &[], out));
            }
        }
        true
    }

    fn publish(&self, me: &Persona<'_>, marker: Marker, bytes: usize, _ack: Option<&str>, out: &mut Vec<u8>) {
        let mut content = Vec::with_capacity(bytes.max(MARKER_BYTES));
        marker.put_content(bytes, &mut content);
        websocket::put_frame(true, out, |out| fill(&self.publish, me, &content, out));
    }

    fn quit(&self, out: &mut Vec<u8>) {
        websocket::put_close(out);
    }

    fn pong(&self, payload: &[u8], out: &mut Vec<u8>) {
        websocket::put_pong(payload, out);
    }

    fn version(&self) -> Option<String> {
        self.version.get().filter(|version| !version.is_empty()).cloned()
    }

    fn decode(&self, stage: &mut Stage, input: &[u8], heard: &mut Vec<Heard>) -> Result<usize, String> {
        let Some(mut at) = websocket::hear_answer(stage, false, input, heard)? else { return Ok(0) };
        if at > 0 {
            self.version.get_or_init(|| server_of(&input[..at]));
        }
        while let Some(frame) = websocket::read_frame(&input[at..])? {
            at += frame.bytes;
            if !frame.is_data(heard) {
                continue;
            }
            // Some servers put several messages into one frame.
            let mut rest = frame.payload;
            while let Some((content, place)) = Content::find_filled(rest) {
                heard.push(Heard::content(content));
                rest = &rest[place.end..];
            }
        }
        Ok(at)
    }
}

/// Appends a template with the values in their places.
fn fill(template: &str, me: &Persona<'_>, content: &[u8], out: &mut Vec<u8>) {
    let number = me.number.to_string();
    let places: [(&str, &[u8]); 4] = [
        ("{room}", me.room.as_bytes()),
        ("{nickname}", me.nickname.as_bytes()),
        ("{number}", number.as_bytes()),
        ("{content}", content),
    ];
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at..];
        match places.iter().find(|(name, _)| rest.starts_with(name)) {
            Some((name, value)) => {
                out.extend_from_slice(value);
                rest = &rest[name.len()..];
            }
            None => {
                out.push(b'{');
                rest = &rest[1..];
            }
        }
    }
    out.extend_from_slice(rest.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{content, heard, marker, persona};
    use super::*;

    #[test]
    fn templates_are_filled() {
        let mut out = Vec::new();
        fill(
            r#"{"to":"{room}","by":"{nickname}","n":{number},"text":"{content}"}"#,
            &persona(),
            b"hi",
            &mut out,
        );
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"to":"r","by":"m3","n":3,"text":"hi"}"#);
    }

    proptest! {
        #[test]
        fn messages_are_found_wherever_they_are(pieces in prop::collection::vec(1usize..60, 1..10)) {
            let target = AnyWebSocket {
                host: "h".into(), path: "/".into(), hello: String::new(), publish: "{content}".into(),
                hears_itself: true, is_echo: false, version: OnceLock::new(),
            };
            let mut text = br#"[{"~":1},""#.to_vec();
            marker().put_content(50, &mut text);
            text.extend_from_slice(br#"",""#);
            marker().put_content(50, &mut text);
            let mut input = b"HTTP/1.1 101 Switching\r\nServer: b\r\n\r\n".to_vec();
            crate::proto::websocket::put_text(&mut input, &text);
            crate::proto::websocket::put_ping(&mut input, b"p");
            let message = Heard::content(content(50).1);
            prop_assert_eq!(heard(&target, websocket::REQUESTED, &input, &pieces), vec![
                Heard::Open, message.clone(), message, Heard::Ping((*b"p").into()),
            ]);
            prop_assert_eq!(target.version(), Some("b".to_owned()));
        }
    }
}
