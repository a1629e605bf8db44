//! An echo server in tokio-tungstenite: what it gets, on any path, it sends back.
//!
//!     tungstenite-echo 127.0.0.1:PORT
//!
//! One thread (`current_thread`), one task a connection.

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_async_with_config;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).expect("usage: tungstenite-echo ADDRESS:PORT");
    let listener = TcpListener::bind(address).await?;
    loop {
        let (connection, _) = listener.accept().await?;
        connection.set_nodelay(true)?;
        tokio::spawn(echo(connection));
    }
}

async fn echo(connection: TcpStream) {
    // By itself a connection's read buffer would have 128 KiB.
    let config = WebSocketConfig::default().read_buffer_size(4096);
    let Ok(mut socket) = accept_async_with_config(connection, Some(config)).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}
