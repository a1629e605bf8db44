//! The chat and the echo over WebSocket, with a client that others wrote: tungstenite.

mod common;

use std::net::TcpStream;

use common::{DEADLINE, Server};
use serde_json::{Value, json};
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::{Message, WebSocket, client};

struct Bird(WebSocket<TcpStream>);

impl Bird {
    fn at(server: &Server, path: &str) -> Self {
        let stream = TcpStream::connect(server.web).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let (socket, _) = client(format!("ws://{}{path}", server.web), stream).unwrap();
        Bird(socket)
    }

    fn named(server: &Server, nickname: &str, room: &str) -> Self {
        let mut bird = Bird::at(server, &format!("/ws?nickname={nickname}&room={room}"));
        assert_eq!(bird.next("welcome")["nickname"], nickname);
        assert_eq!(bird.next("joined")["room"], room);
        bird
    }

    fn say(&mut self, command: Value) {
        self.0.send(Message::text(command.to_string())).unwrap();
    }

    /// The next event of this kind; presence of others may come in between.
    fn next(&mut self, kind: &str) -> Value {
        loop {
            let event: Value = match self.0.read().unwrap() {
                Message::Text(text) => serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => continue,
                other => panic!("{other:?} instead of {kind}"),
            };
            if event["type"] == kind {
                return event;
            }
            assert_eq!(event["type"], "presence", "{event} instead of {kind}");
        }
    }

    fn closed_with(&mut self) -> Option<CloseFrame> {
        loop {
            match self.0.read() {
                Ok(Message::Close(frame)) => return frame,
                Ok(_) => {}
                Err(error) => panic!("ended without a close frame: {error}"),
            }
        }
    }
}

fn on(cores: &str) -> Server {
    Server::start(&["--cores", cores])
}

#[test]
fn two_clients_chat_on_one_core_and_on_four() {
    for cores in ["1", "4"] {
        let server = on(cores);
        let mut alice = Bird::named(&server, "alice", "den");
        let mut bob = Bird::named(&server, "bob", "den");
        for n in 1..=200 {
            let content = format!("{n}: 你好 \u{1F469}\u{200D}\u{1F4BB}\n\"quoted\\\"");
            alice.say(json!({"type": "message", "room": "den", "content": content, "id": n.to_string()}));
            for reader in [&mut alice, &mut bob] {
                let mut ack_or_message = vec![reader.next_of(&["ack", "message"])];
                if ack_or_message[0]["type"] == "ack" {
                    ack_or_message.push(reader.next("message"));
                }
                let message = ack_or_message.pop().unwrap();
                assert_eq!((&message["content"], &message["offset"]), (&json!(content), &json!(n)));
                if let Some(ack) = ack_or_message.pop() {
                    assert_eq!((&ack["id"], &ack["offset"]), (&json!(n.to_string()), &json!(n)));
                }
            }
        }
        bob.say(json!({"type": "quit"}));
        assert_eq!(bob.next("bye")["code"], 1000);
        assert_eq!(bob.closed_with().unwrap().code, CloseCode::Normal);
        drop((alice, bob));
        assert_eq!(server.stop().code(), Some(0));
    }
}

#[test]
fn a_fragmented_message_with_a_ping_in_it_is_one_message() {
    let server = on("1");
    let mut bird = Bird::named(&server, "alice", "den");
    let whole = json!({"type": "message", "room": "den", "content": "in pieces"}).to_string();
    let (first, rest) = whole.as_bytes().split_at(10);
    bird.0.send(Message::Frame(Frame::message(first.to_vec(), OpCode::Data(Data::Text), false))).unwrap();
    bird.0.send(Message::Ping(b"still there?".to_vec().into())).unwrap();
    bird.0.send(Message::Frame(Frame::message(rest.to_vec(), OpCode::Data(Data::Continue), true))).unwrap();
    assert_eq!(bird.0.read().unwrap(), Message::Pong(b"still there?".to_vec().into()));
    assert_eq!(bird.next("message")["content"], "in pieces");
}

#[test]
fn the_echo_sends_back_text_and_bytes_of_any_size() {
    let server = on("1");
    let mut bird = Bird::at(&server, "/echo");
    for bytes in [0, 1, 125, 126, 65_535, 65_536, 1_000_000, 8_000_000] {
        for message in [Message::text("x".repeat(bytes)), Message::binary(vec![0xFF; bytes])] {
            bird.0.send(message.clone()).unwrap();
            assert_eq!(bird.0.read().unwrap(), message, "{bytes} bytes");
        }
    }
    bird.0.close(Some(CloseFrame { code: CloseCode::Away, reason: "enough".into() })).unwrap();
    assert_eq!(bird.closed_with().unwrap().code, CloseCode::Away);
}

#[test]
fn a_message_over_the_limit_is_told_so_by_its_close_code() {
    let server = on("1");
    let mut bird = Bird::named(&server, "alice", "den");
    bird.say(json!({"type": "message", "room": "den", "content": "x".repeat(300_000)}));
    assert_eq!(bird.closed_with().unwrap().code, CloseCode::Size);
}

impl Bird {
    fn next_of(&mut self, kinds: &[&str]) -> Value {
        loop {
            if let Message::Text(text) = self.0.read().unwrap() {
                let event: Value = serde_json::from_str(&text).unwrap();
                if kinds.iter().any(|kind| event["type"] == *kind) {
                    return event;
                }
            }
        }
    }
}
