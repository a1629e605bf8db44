//! Snapshots from a server, over a WebSocket.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::mpsc::Sender;
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Error, HandshakeError, Message, WebSocket};

use crate::sys::threads;
use crate::tls::{ClientSettings, settings};

/// How long a connection may take to be there, and how long nothing may come on it: there is a snapshot a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long is waited before a connection that was lost is made anew: at first, and at most.
const RETRY_MS: u64 = 500;
const RETRY_MS_MAX: u64 = 10_000;

/// Which server, and how to be let in.
#[derive(Debug)]
pub struct Target {
    /// As it was given.
    pub url: String,
    /// Its host, for people and for `Host`, and where it listens.
    host: String,
    address: String,
    token: Option<String>,
    tls: Option<ClientSettings>,
}

impl Target {
    /// Reads a URL: `http`, `https`, `ws` or `wss`, a host, and a port if it is not the usual one.
    ///
    /// # Errors
    /// One line on what is wrong with it.
    pub fn parse(
        url: &str,
        token: Option<String>,
        roots: Option<&[u8]>,
        is_insecure: bool,
    ) -> Result<Self, String> {
        // What is before a host or behind it may be a password or a token.
        let shown = if url.contains(['@', '?']) { "the URL".to_owned() } else { format!("{url:?}") };
        let wrong =
            |why: &str| format!("{shown} {why}: write http://HOST:PORT, and --token-file FILE for a token");
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("is no URL"))?;
        let (is_tls, port) = match scheme {
            "http" | "ws" => (false, "80"),
            "https" | "wss" => (true, "443"),
            _ => return Err(wrong("has a scheme that is not known")),
        };
        // The address of the page is as good as the server's.
        let host = rest.trim_end_matches('/');
        let host = host.strip_suffix("/dashboard").unwrap_or(host);
        let is_host = |letter: char| letter.is_ascii_alphanumeric() || "-._:[]".contains(letter);
        if host.is_empty() || !host.chars().all(is_host) {
            return Err(wrong("has no host, or more than one and a port"));
        }
        let (name, has_port) = match host.strip_prefix('[') {
            Some(rest) => rest.split_once(']').map(|(name, rest)| (name, !rest.is_empty())),
            None => host.rsplit_once(':').map(|(name, _)| (name, true)).or(Some((host, false))),
        }
        .ok_or_else(|| wrong("has no host"))?;
        let address = if has_port { host.to_owned() } else { format!("{host}:{port}") };
        if address.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(wrong("has a port that is no number"));
        }
        let tls = match (is_tls, roots) {
            (false, _) => None,
            (true, None) if !is_insecure => {
                return Err(format!(
                    "{url:?} is encrypted: name the root of its certificate with --ca FILE, or say --insecure"
                ));
            }
            (true, roots) => {
                Some(settings::client(name, roots, Some("http/1.1")).map_err(|why| format!("--ca: {why}"))?)
            }
        };
        Ok(Target { url: url.into(), host: host.into(), address, token, tls })
    }
}

/// What a feed tells.
#[derive(Debug)]
pub enum News {
    /// A snapshot, as JSON.
    Snapshot(String),
    /// The connection is lost, or a new one cannot be made; that is tried again.
    Trouble(String),
    /// It has been refused, and will be again.
    Refused(String),
    /// Somebody wants the program to end.
    Ended,
}

/// Why there is no snapshot.
#[derive(Debug)]
enum Failure {
    /// It may be otherwise later.
    Passing(String),
    /// It stays so.
    Lasting(String),
}

impl Failure {
    fn message(self) -> String {
        match self {
            Failure::Passing(message) | Failure::Lasting(message) => message,
        }
    }
}

/// Either kind of connection.
trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// An open connection.
pub struct Feed {
    target: Target,
    socket: WebSocket<Box<dyn Stream>>,
}

impl Feed {
    /// Connects.
    ///
    /// # Errors
    /// One line for a person: nobody is there, or they refuse.
    pub fn open(target: Target) -> Result<Self, String> {
        let socket = connect(&target).map_err(Failure::message)?;
        Ok(Feed { target, socket })
    }

    /// Waits for the next snapshot.
    ///
    /// # Errors
    /// One line for a person: the connection is lost.
    pub fn next_snapshot(&mut self) -> Result<String, String> {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return Ok(text.to_string()),
                Ok(Message::Close(Some(frame))) => {
                    let reason =
                        if frame.reason.is_empty() { "without a reason" } else { frame.reason.as_str() };
                    return Err(format!("the server has ended the connection: {reason} ({})", frame.code));
                }
                // Pings are answered by the next read.
                Ok(_) => {}
                Err(Error::Io(error)) if is_timeout(&error) => {
                    return Err(format!("nothing has come for {} s", PATIENCE.as_secs()));
                }
                Err(error) => return Err(format!("the connection is lost: {error}")),
            }
        }
    }

    /// Tells of each snapshot, and connects again when that is needed, until nobody listens.
    pub fn follow(mut self, tell: &Sender<News>) {
        loop {
            let why = loop {
                let snapshot = match self.next_snapshot() {
                    Ok(snapshot) => snapshot,
                    Err(why) => break why,
                };
                if tell.send(News::Snapshot(snapshot)).is_err() {
                    return;
                }
            };
            if tell.send(News::Trouble(why)).is_err() {
                return;
            }
            let mut retry_ms = RETRY_MS;
            self.socket = loop {
                threads::sleep_ms(retry_ms);
                retry_ms = (2 * retry_ms).min(RETRY_MS_MAX);
                let news = match connect(&self.target) {
                    Ok(socket) => break socket,
                    Err(Failure::Passing(why)) => News::Trouble(why),
                    Err(Failure::Lasting(why)) => News::Refused(why),
                };
                if tell.send(news).is_err() {
                    return;
                }
            };
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn connect(target: &Target) -> Result<WebSocket<Box<dyn Stream>>, Failure> {
    let Target { url, host, address, token, tls } = target;
    let addresses = address
        .to_socket_addrs()
        .map_err(|why| Failure::Passing(format!("{host} cannot be looked up: {why}")))?;
    let mut tried = Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
    for address in addresses {
        tried = TcpStream::connect_timeout(&address, PATIENCE);
        if tried.is_ok() {
            break;
        }
    }
    let stream = tried.map_err(|why| {
        let hint = match why.kind() {
            io::ErrorKind::ConnectionRefused => "; is the server running, and is this its web listener?",
            _ => "",
        };
        Failure::Passing(format!("{url} cannot be reached: {why}{hint}"))
    })?;
    let prepared = stream.set_read_timeout(Some(PATIENCE)).and(stream.set_write_timeout(Some(PATIENCE)));
    prepared.map_err(|why| Failure::Passing(why.to_string()))?;
    let stream: Box<dyn Stream> = match tls {
        None => Box::new(stream),
        Some(settings) => {
            let client = ClientConnection::new(settings.config.clone(), settings.name.clone());
            let client = client.map_err(|why| Failure::Lasting(format!("{url}: {why}")))?;
            Box::new(StreamOwned::new(client, stream))
        }
    };
    let mut request = format!("ws://{host}/dashboard/live")
        .into_client_request()
        .map_err(|why| Failure::Lasting(format!("{url}: {why}")))?;
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse();
        let value = value.map_err(|_| Failure::Lasting("the token has characters that none has".into()))?;
        request.headers_mut().insert("Authorization", value);
    }
    match tungstenite::client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(HandshakeError::Failure(Error::Http(response))) => {
            let body = response.body().as_deref().unwrap_or_default();
            Err(refusal(url, response.status().as_u16(), body, token.is_some()))
        }
        Err(HandshakeError::Failure(error)) => {
            Err(Failure::Passing(format!("{url} does not answer: {error}")))
        }
        // The stream blocks: it is its patience that is over.
        Err(HandshakeError::Interrupted(_)) => {
            Err(Failure::Passing(format!("{url} has not answered within {} s", PATIENCE.as_secs())))
        }
    }
}

/// What a server's refusal means, and what would help.
fn refusal(url: &str, status: u16, body: &[u8], has_token: bool) -> Failure {
    let error: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = error.as_ref().and_then(|error| error["message"].as_str()).unwrap_or("it does not say why");
    let hint = match status {
        401 if !has_token => "; name an admin's token with --token or --token-file",
        401 => "; is the token of this server, and has it not expired?",
        403 if has_token => "; the token is not an admin's",
        404 => "; is this a starling with web.dashboard on?",
        _ => "",
    };
    let why = format!("{url} refuses ({status}): {message}{hint}");
    if matches!(status, 429 | 503) { Failure::Passing(why) } else { Failure::Lasting(why) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<(String, String), String> {
        Target::parse(url, None, None, false).map(|target| (target.host, target.address))
    }

    #[test]
    fn urls_name_servers() {
        for (url, host, address) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080", "127.0.0.1:8080"),
            ("ws://localhost", "localhost", "localhost:80"),
            ("http://[::1]", "[::1]", "[::1]:80"),
            ("http://[::1]:9/", "[::1]:9", "[::1]:9"),
            ("http://a.example:1/dashboard", "a.example:1", "a.example:1"),
        ] {
            assert_eq!(parse(url), Ok((host.into(), address.into())), "{url}");
        }
        for url in
            ["127.0.0.1:8080", "ftp://a", "http://", "http://a:b", "http://a/b", "http://a b", "http://u@h:1"]
        {
            assert!(parse(url).unwrap_err().contains("write http://HOST:PORT"), "{url}");
        }
        for url in ["http://u:SECRET@h:1", "http://h:1/?token=SECRET", "SECRET@h", "ftp://h?SECRET"] {
            let why = parse(url).unwrap_err();
            assert!(why.contains("the URL") && !why.contains("SECRET"), "{why}");
        }
    }

    #[test]
    fn an_encrypted_server_needs_to_be_trusted() {
        assert!(parse("https://localhost:1").unwrap_err().contains("--insecure"));
        assert!(Target::parse("https://localhost:1", None, None, true).unwrap().tls.is_some());
    }

    #[test]
    fn a_refusal_says_what_would_help() {
        let body = br#"{"type":"error","message":"no"}"#;
        for (status, has_token, hint) in [
            (401, false, "--token"),
            (401, true, "expired"),
            (403, true, "admin"),
            (404, false, "web.dashboard"),
        ] {
            let Failure::Lasting(why) = refusal("http://a", status, body, has_token) else {
                panic!("{status} stays so")
            };
            assert!(why.contains("no;") && why.contains(hint), "{why}");
        }
        assert!(matches!(refusal("http://a", 503, b"", false), Failure::Passing(_)));
    }
}
