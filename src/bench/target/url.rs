//! Targets by URL.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::OnceLock;

use super::any_websocket::AnyWebSocket;
use super::http::Http;
use super::irc::Irc;
use super::mqtt::Mqtt;
use super::nats::Nats;
use super::raw::Raw;
use super::redis::Redis;
use super::starling::{Framing, Starling};
use super::text::Text;
use super::{Protocol, Traits};

/// What is measured.
pub struct Target {
    /// As it was given.
    pub url: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether what comes does not say which message it answers: [`super::Heard::Answered`].
    pub is_answered: bool,
    /// How it is spoken to.
    pub protocol: Box<dyn Protocol>,
}

/// What a URL alone does not say.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What is said first (`ws-any`).
    pub hello: Option<String>,
    /// What is said to publish (`ws-any`).
    pub publish: Option<String>,
    /// Whether whoever publishes does not hear it (`ws-any`).
    pub is_silent_to_sender: bool,
    /// Whether the run is one of round trips: raw connections get back what they sent.
    pub is_echo: bool,
}

/// The schemes, for messages.
const SCHEMES: &str = "ws, ws+proto, lines, frames, frames+proto, grpc, text (starling's), ws-any, redis, nats, mqtt, irc, http, tcp";

impl Target {
    /// The target that a URL names.
    ///
    /// # Errors
    /// One line on what is wrong with it.
    pub fn parse(url: &str, options: &Options) -> Result<Target, String> {
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| format!("{url:?} is no URL: write SCHEME://HOST:PORT"))?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let starling = |framing, is_protobuf| {
            let path = if path.len() <= 1 { "/ws" } else { path };
            let is_echo = path == "/echo" && framing == Framing::WebSocket;
            Box::new(Starling {
                framing,
                is_protobuf,
                host: host.into(),
                path: path.into(),
                is_echo,
                version: OnceLock::new(),
            })
        };
        let protocol: Box<dyn Protocol> = match scheme {
            "ws" => starling(Framing::WebSocket, false),
            "ws+proto" => starling(Framing::WebSocket, true),
            "lines" => starling(Framing::Lines, false),
            "frames" => starling(Framing::Frames, false),
            "frames+proto" => starling(Framing::Frames, true),
            "grpc" => starling(Framing::Grpc, true),
            "text" => Box::new(Text),
            "tcp" => Box::new(Raw { is_echo: options.is_echo }),
            "redis" => Box::new(Redis::default()),
            "nats" => Box::new(Nats::default()),
            "mqtt" => Box::new(Mqtt),
            "irc" => Box::new(Irc),
            "http" => Box::new(Http::new(host, if path.is_empty() { "/" } else { path })),
            "ws-any" => Box::new(AnyWebSocket {
                host: host.into(),
                path: if path.is_empty() { "/".into() } else { path.into() },
                hello: options.hello.clone().unwrap_or_default(),
                publish: options.publish.clone().unwrap_or_else(|| "{content}".into()),
                hears_itself: !options.is_silent_to_sender,
                is_echo: options.is_echo,
                version: OnceLock::new(),
            }),
            _ => return Err(format!("{url:?}: no such scheme; there are {SCHEMES}")),
        };
        if scheme != "ws-any" && (options.hello.is_some() || options.publish.is_some()) {
            return Err("--hello and --publish are for ws-any:// targets: others know what to say".into());
        }
        if options.publish.as_ref().is_some_and(|publish| publish.contains("{content}.")) {
            return Err("--publish: a dot behind {content} cannot be told from the content's own".into());
        }
        let address = host
            .to_socket_addrs()
            .map_err(|why| format!("{url:?}: {host:?} is no HOST:PORT ({why})"))?
            .next()
            .ok_or_else(|| format!("{url:?}: {host:?} has no address"))?;
        Ok(Target { url: url.into(), address, is_answered: scheme == "http", protocol })
    }

    /// What it can do.
    pub fn traits(&self) -> Traits {
        self.protocol.traits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(url: &str) -> String {
        Target::parse(url, &Options::default()).err().unwrap()
    }

    #[test]
    fn urls_name_targets() {
        for url in [
            "ws://127.0.0.1:1/ws",
            "lines://[::1]:9000",
            "frames+proto://127.0.0.1:9001",
            "grpc://127.0.0.1:50051",
            "tcp://127.0.0.1:7",
        ] {
            let target = Target::parse(url, &Options::default()).unwrap();
            assert_eq!(target.url, url);
        }
        let echo = Target::parse("ws://127.0.0.1:1/echo", &Options::default()).unwrap();
        assert!(echo.traits().is_echo && !echo.traits().has_offsets);
    }

    #[test]
    fn what_is_none_is_told() {
        assert!(why("127.0.0.1:9").contains("write SCHEME://"));
        assert!(why("gopher://127.0.0.1:9").contains("there are ws"));
        assert!(why("ws://127.0.0.1").contains("HOST:PORT"));
    }
}
