//! A chat as an axum user would write it, with the corners cut that such a user may cut.
//!
//!     axum-chat 127.0.0.1:PORT
//!
//! One thread (`current_thread`), one task a connection, one `tokio::sync::broadcast` a room. At `/ws` the first text message names
//! the room, and each one after it goes to every member of the room, its sender included, as it came. `/echo` sends back what it
//! gets. `/health` answers `OK`.

use std::cell::RefCell;
use std::collections::HashMap;

use axum::Router;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::routing::get;
use axum::serve::ListenerExt;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::broadcast::{self, Receiver, Sender, error::RecvError, error::TryRecvError};

/// Messages that a member may be behind before it is closed.
const BEHIND_LIMIT: usize = 1024;
/// A connection's read buffer. It is there even when nothing is read; by itself it would have 128 KiB.
const READ_BYTES: usize = 4096;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).expect("usage: axum-chat ADDRESS:PORT");
    let listener = TcpListener::bind(address).await?.tap_io(|connection| {
        let _ = connection.set_nodelay(true);
    });
    let router = Router::new()
        .route(
            "/ws",
            get(async |upgrade: WebSocketUpgrade| upgrade.read_buffer_size(READ_BYTES).on_upgrade(chat)),
        )
        .route(
            "/echo",
            get(async |upgrade: WebSocketUpgrade| upgrade.read_buffer_size(READ_BYTES).on_upgrade(echo)),
        )
        .route("/health", get(async || "OK"));
    axum::serve(listener, router).await
}

async fn chat(socket: WebSocket) {
    let (sink, mut stream) = socket.split();
    let Some(Ok(Message::Text(name))) = stream.next().await else { return };
    let room = Room::enter(&name);
    let receiver = room.0.subscribe();
    // Tasks of their own, so that a delivery does not wake the half that reads.
    let reader = tokio::spawn(publish(stream, room.0.clone()));
    let reading = reader.abort_handle();
    let writer = tokio::spawn(async move {
        deliver(sink, receiver).await;
        reading.abort(); // it was too slow, or is gone
    });
    let _ = reader.await;
    writer.abort();
    let _ = writer.await;
    room.leave(&name);
}

async fn publish(mut stream: SplitStream<WebSocket>, room: Sender<Utf8Bytes>) {
    while let Some(Ok(message)) = stream.next().await {
        match message {
            Message::Text(content) => drop(room.send(content)),
            Message::Close(_) => return,
            _ => {}
        }
    }
}

async fn deliver(mut sink: SplitSink<WebSocket, Message>, mut room: Receiver<Utf8Bytes>) {
    loop {
        let first = match room.recv().await {
            Ok(content) => content,
            Err(RecvError::Lagged(_) | RecvError::Closed) => return,
        };
        if sink.feed(Message::Text(first)).await.is_err() {
            return;
        }
        // What is there already goes out with it, in one write(2).
        loop {
            match room.try_recv() {
                Ok(content) => {
                    if sink.feed(Message::Text(content)).await.is_err() {
                        return;
                    }
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Lagged(_) | TryRecvError::Closed) => return,
            }
        }
        if sink.flush().await.is_err() {
            return;
        }
    }
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, Message::Text(_) | Message::Binary(_)) && socket.send(message).await.is_err() {
            return;
        }
    }
}

/// A room lives while it has members.
struct Room(Sender<Utf8Bytes>);

thread_local! {
    // There is one thread, so that no lock is needed.
    static ROOMS: RefCell<HashMap<String, Sender<Utf8Bytes>>> = RefCell::default();
}

impl Room {
    fn enter(name: &str) -> Self {
        ROOMS.with_borrow_mut(|rooms| {
            Self(rooms.entry(name.to_owned()).or_insert_with(|| broadcast::channel(BEHIND_LIMIT).0).clone())
        })
    }

    fn leave(self, name: &str) {
        if self.0.receiver_count() == 0 {
            ROOMS.with_borrow_mut(|rooms| rooms.remove(name));
        }
    }
}
