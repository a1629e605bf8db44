//! Connections: WebSocket and binary frames, in the clear or in TLS. They are made blocking, on a thread of their own, and do not
//! block afterwards.

use std::fmt::Display;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;
use tungstenite::client::IntoClientRequest;
use tungstenite::error::ProtocolError;
use tungstenite::http::header::{RETRY_AFTER, SEC_WEBSOCKET_PROTOCOL};
use tungstenite::http::{HeaderValue, Response, Uri};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{HandshakeError, Message, WebSocket};

use crate::error::Error;
use crate::event::Reason;
use crate::frames::Frames;
use crate::machine::ConnectFailure;
use crate::wire::{Frame, ServerError};

/// The longest message that is taken from a server.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// The subprotocol that is offered.
const SUBPROTOCOL: &str = "starling.json.v1";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    WebSocket,
    Frames,
}

/// Where a server is, and how to speak to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    transport: Transport,
    tls: bool,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    /// What a WebSocket's request is for.
    url: String,
}

impl Address {
    /// Reads `ws://`, `wss://`, `http://`, `https://`, `frame://` or `frames://`.
    pub(crate) fn parse(url: &str) -> Result<Address, Error> {
        let wrong = |why: &dyn Display| Error::Options(format!("{url}: {why}"));
        let uri: Uri = url.parse().map_err(|error| wrong(&error))?;
        let (transport, tls, port) = match uri.scheme_str() {
            Some("ws" | "http") => (Transport::WebSocket, false, 80),
            Some("wss" | "https") => (Transport::WebSocket, true, 443),
            Some("frame") => (Transport::Frames, false, 9001),
            Some("frames") => (Transport::Frames, true, 9001),
            _ => {
                return Err(wrong(
                    &"an address begins with ws://, wss://, http://, https://, frame:// or frames://",
                ));
            }
        };
        let Some(host) = uri.host().filter(|host| !host.is_empty()) else {
            return Err(wrong(&"there is no host in it"));
        };
        let port = uri.port_u16().unwrap_or(port);
        let path = match uri.path_and_query().map_or("/", |path| path.as_str()) {
            "" | "/" => "/ws",
            path => path,
        };
        let scheme = if tls { "wss" } else { "ws" };
        Ok(Address {
            transport,
            tls,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            url: format!("{scheme}://{host}:{port}{path}"),
        })
    }

    pub(crate) fn tls(&self) -> bool {
        self.tls
    }

    /// For people: what answers there is not what was looked for.
    fn speaks_no(&self, what: &str, instead: &str, raw: &dyn Display) -> Reason {
        Reason::Misaddressed(format!("{}:{} does not speak {what}: {instead} ({raw})", self.host, self.port))
    }

    fn no_http(&self, raw: &dyn Display) -> Reason {
        let tls = if self.tls { "" } else { ", or it wants wss://" };
        let instead = format!(
            "the port is another listener's (the one for web is 8080 unless it is configured otherwise){tls}"
        );
        self.speaks_no("HTTP", &instead, raw)
    }

    pub(crate) fn no_frames(&self, raw: &dyn Display) -> Reason {
        let tls = if self.tls { "" } else { ", or it wants frames://" };
        let instead = format!(
            "the port is another listener's (the one for frames is 9001 unless it is configured otherwise){tls}"
        );
        self.speaks_no("frames", &instead, raw)
    }

    fn no_tls(&self, raw: &dyn Display) -> Reason {
        let (plain, secure) = match self.transport {
            Transport::WebSocket => ("ws://", "wss://"),
            Transport::Frames => ("frame://", "frames://"),
        };
        self.speaks_no("TLS", &format!("write {plain} for {secure}, or name the port that does"), raw)
    }

    /// Why no connection in TLS could be made.
    fn not_encrypted(&self, error: &io::Error) -> Reason {
        use rustls::CertificateError as Certificate;
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match inner {
            Some(rustls::Error::InvalidMessage(_)) => self.no_tls(error),
            Some(rustls::Error::InvalidCertificate(certificate)) => match certificate {
                // A clock that is put right, or a certificate that is renewed, helps by itself.
                Certificate::Expired
                | Certificate::ExpiredContext { .. }
                | Certificate::NotValidYet
                | Certificate::NotValidYetContext { .. } => Reason::Unreachable(format!(
                    "its certificate has expired or is not valid yet: renew it, or put a clock right ({error})"
                )),
                Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                    Reason::Misaddressed(format!(
                        "the server's certificate is not for {}: connect by a name that is in it ({error})",
                        self.host
                    ))
                }
                _ => Reason::Untrusted(error.to_string()),
            },
            _ => Reason::Unreachable(error.to_string()),
        }
    }
}

/// The end of a connection, seen from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) code: Option<u16>,
    pub(crate) reason: String,
    /// What has come is nothing that a server of ours says here.
    pub(crate) is_foreign: bool,
}

impl End {
    pub(crate) fn because(reason: &dyn Display) -> Self {
        End { code: None, reason: reason.to_string(), is_foreign: false }
    }
}

/// What a read found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// An event.
    Text(String),
    /// A sign of life.
    Life,
    /// Nothing more for now.
    Nothing,
}

/// TCP, or TLS over it.
#[derive(Debug)]
pub(crate) struct Stream {
    inner: Inner,
    /// While the connection is made: a second handle to set timeouts by, and when it must stand.
    making: Option<(std::net::TcpStream, Instant)>,
}

#[derive(Debug)]
enum Inner {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn tcp(&mut self) -> &mut TcpStream {
        match &mut self.inner {
            Inner::Plain(tcp) => tcp,
            Inner::Tls(tls) => &mut tls.sock,
        }
    }

    fn before(&self) -> io::Result<()> {
        if let Some((tcp, deadline)) = &self.making {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            tcp.set_read_timeout(Some(left))?;
            tcp.set_write_timeout(Some(left))?;
        }
        Ok(())
    }

    /// From now on nothing blocks.
    fn made(&mut self) -> io::Result<()> {
        if let Some((tcp, _)) = self.making.take() {
            tcp.set_nonblocking(true)?;
        }
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.before()?;
        match &mut self.inner {
            Inner::Plain(tcp) => tcp.read(buffer),
            Inner::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.before()?;
        match &mut self.inner {
            Inner::Plain(tcp) => tcp.write(bytes),
            Inner::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.inner {
            Inner::Plain(tcp) => tcp.flush(),
            Inner::Tls(tls) => tls.flush(),
        }
    }
}

/// A connection that stands.
#[derive(Debug)]
pub(crate) enum Socket {
    WebSocket(Box<WebSocket<Stream>>),
    Frames(Frames<Stream>),
}

impl Socket {
    /// Connects; blocks for at most about as long as is given, but for the resolver.
    pub(crate) fn connect(
        address: &Address,
        tls: Option<&Arc<ClientConfig>>,
        timeout: Duration,
    ) -> Result<Socket, ConnectFailure> {
        let deadline = Instant::now() + timeout;
        let tcp = reach(address, deadline).map_err(|error| unreachable(&error))?;
        let stream = encrypt(address, tls, tcp, deadline)
            .map_err(|error| ConnectFailure { reason: address.not_encrypted(&error), retry_after: None })?;
        let mut socket = match address.transport {
            Transport::WebSocket => Socket::WebSocket(Box::new(upgrade(address, stream)?)),
            Transport::Frames => Socket::Frames(Frames::new(stream)),
        };
        socket.stream().made().map_err(|error| unreachable(&error))?;
        Ok(socket)
    }

    fn stream(&mut self) -> &mut Stream {
        match self {
            Socket::WebSocket(socket) => socket.get_mut(),
            Socket::Frames(frames) => frames.stream(),
        }
    }

    /// What a poll watches.
    pub(crate) fn source(&mut self) -> &mut TcpStream {
        self.stream().tcp()
    }

    /// Takes a command, to be written now or later.
    pub(crate) fn write(&mut self, frame: &Frame) -> Result<(), End> {
        match self {
            Socket::WebSocket(socket) => pending(socket.write(Message::text(frame.text.as_str()))),
            Socket::Frames(frames) => frames.push(frame),
        }
    }

    /// Writes what can be written now. A poll tells when there is place for the rest.
    pub(crate) fn flush(&mut self) -> Result<(), End> {
        match self {
            Socket::WebSocket(socket) => pending(socket.flush()),
            Socket::Frames(frames) => frames.flush(),
        }
    }

    /// The next thing that has come.
    pub(crate) fn read(&mut self) -> Result<Heard, End> {
        let socket = match self {
            Socket::WebSocket(socket) => socket,
            Socket::Frames(frames) => return frames.read(),
        };
        match socket.read() {
            Ok(Message::Text(text)) => Ok(Heard::Text(text.as_str().to_owned())),
            Ok(Message::Close(close)) => {
                // The answer to it is written with this; what comes of it does not matter.
                let _ = socket.flush();
                Err(match close {
                    Some(close) => {
                        End { code: Some(close.code.into()), ..End::because(&close.reason.as_str()) }
                    }
                    None => End { code: Some(1005), ..End::because(&"") },
                })
            }
            Ok(_) => Ok(Heard::Life),
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Ok(Heard::Nothing),
            Err(error) => Err(End::because(&error)),
        }
    }

    /// Ends it as far as can be done at once.
    pub(crate) fn close(mut self) {
        if let Socket::WebSocket(socket) = &mut self {
            let _ = socket.close(None);
        }
        let _ = self.flush();
    }
}

/// That a socket takes nothing more for now is no error.
fn pending(result: tungstenite::Result<()>) -> Result<(), End> {
    match result {
        Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(End::because(&error)),
        Ok(()) => Ok(()),
    }
}

fn unreachable(why: &dyn Display) -> ConnectFailure {
    ConnectFailure { reason: Reason::Unreachable(why.to_string()), retry_after: None }
}

/// The first address of the host that takes a connection.
fn reach(address: &Address, deadline: Instant) -> io::Result<std::net::TcpStream> {
    let addresses: Vec<SocketAddr> = (address.host.as_str(), address.port).to_socket_addrs()?.collect();
    let mut last = io::Error::new(ErrorKind::NotFound, "the host has no address");
    for (at, to) in addresses.iter().enumerate() {
        // One that does not answer leaves time for the others.
        let left = deadline.saturating_duration_since(Instant::now())
            / u32::try_from(addresses.len() - at).unwrap_or(1);
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        match std::net::TcpStream::connect_timeout(to, left) {
            Ok(tcp) => {
                tcp.set_nodelay(true)?;
                return Ok(tcp);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn encrypt(
    address: &Address,
    tls: Option<&Arc<ClientConfig>>,
    tcp: std::net::TcpStream,
    deadline: Instant,
) -> io::Result<Stream> {
    let making = Some((tcp.try_clone()?, deadline));
    let tcp = TcpStream::from_std(tcp);
    let inner = match tls {
        None => Inner::Plain(tcp),
        Some(config) => {
            let name = ServerName::try_from(address.host.clone()).map_err(io::Error::other)?;
            let connection = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
            Inner::Tls(Box::new(StreamOwned::new(connection, tcp)))
        }
    };
    let mut stream = Stream { inner, making };
    stream.before()?;
    if let Inner::Tls(tls) = &mut stream.inner {
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
    }
    Ok(stream)
}

fn upgrade(address: &Address, stream: Stream) -> Result<WebSocket<Stream>, ConnectFailure> {
    let mut request = address.url.as_str().into_client_request().map_err(|error| unreachable(&error))?;
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    let mut config = WebSocketConfig::default();
    config.max_message_size = Some(MESSAGE_BYTES_MAX);
    config.max_frame_size = Some(MESSAGE_BYTES_MAX);
    match tungstenite::client::client_with_config(request, stream, Some(config)) {
        Ok((socket, _)) => Ok(socket),
        Err(HandshakeError::Interrupted(_)) => Err(unreachable(&"the server did not answer in time")),
        Err(HandshakeError::Failure(tungstenite::Error::Http(response))) => Err(rejected(&response)),
        Err(HandshakeError::Failure(tungstenite::Error::Protocol(ProtocolError::HttparseError(error)))) => {
            Err(ConnectFailure { reason: address.no_http(&error), retry_after: None })
        }
        Err(HandshakeError::Failure(error)) => Err(unreachable(&error)),
    }
}

fn rejected(response: &Response<Option<Vec<u8>>>) -> ConnectFailure {
    let body = response.body().as_deref().unwrap_or_default();
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|seconds| seconds.to_str().ok()?.parse().ok())
        .map(Duration::from_secs);
    let message = match serde_json::from_slice::<ServerError>(body) {
        Ok(error) => format!("{}: {}", error.reason, error.message),
        Err(_) => String::from_utf8_lossy(body).chars().take(200).collect(),
    };
    ConnectFailure { reason: Reason::Rejected { status: response.status().as_u16(), message }, retry_after }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_say_how_to_speak() {
        let address = |url| Address::parse(url).unwrap();
        let ws = address("ws://127.0.0.1:8080/ws");
        assert_eq!(
            (ws.transport, ws.tls, &*ws.host, ws.port),
            (Transport::WebSocket, false, "127.0.0.1", 8080)
        );
        assert_eq!(ws.url, "ws://127.0.0.1:8080/ws");
        assert_eq!(address("http://chat.example").url, "ws://chat.example:80/ws");
        assert_eq!(address("https://chat.example/").url, "wss://chat.example:443/ws");
        assert_eq!(address("wss://chat.example/behind/a/proxy").url, "wss://chat.example:443/behind/a/proxy");
        let six = address("ws://[::1]:8080");
        assert_eq!((&*six.host, &*six.url), ("::1", "ws://[::1]:8080/ws"));
        let frames = address("frame://localhost");
        assert_eq!((frames.transport, frames.tls, frames.port), (Transport::Frames, false, 9001));
        assert!(address("frames://localhost:9002").tls);
        for wrong in ["", "localhost:8080", "ftp://localhost", "ws://", "ws://:80"] {
            assert!(matches!(Address::parse(wrong), Err(Error::Options(_))), "{wrong}");
        }
    }
}
