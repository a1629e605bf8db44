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
use crate::tls::{ClientSettings, settings};

/// What is measured.
pub struct Target {
    /// As it was given, but for its query, which may have a token.
    pub url: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether what comes does not say which message it answers: [`super::Heard::Answered`].
    pub is_answered: bool,
    /// How it is spoken to.
    pub protocol: Box<dyn Protocol>,
    /// What its connections are made from, where they are encrypted.
    pub tls: Option<ClientSettings>,
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
    /// Whose certificates will do where the target is encrypted.
    pub roots: Roots,
}

/// Who may have signed a target's certificate.
#[derive(Debug, Clone, Default)]
pub enum Roots {
    /// Nobody has said so.
    #[default]
    Unknown,
    /// Anybody.
    Any,
    /// The owners of these (PEM).
    Pem(Vec<u8>),
}

/// What stands behind the scheme of an encrypted target.
const TLS: &str = "+tls";

/// The schemes, for messages.
const SCHEMES: &str = "ws, ws+proto, ws+deflate, lines, frames, frames+proto, grpc, text (starling's), ws-any, redis, nats, mqtt, irc, http, tcp; with +tls behind it, or wss and https, over TLS";

impl Target {
    /// The target that a URL names.
    ///
    /// # Errors
    /// One line on what is wrong with it.
    pub fn parse(url: &str, options: &Options) -> Result<Target, String> {
        let shown = shown(url);
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| format!("{shown} is no URL: write SCHEME://HOST:PORT"))?;
        let (scheme, is_tls) = match scheme {
            "wss" => ("ws", true),
            "https" => ("http", true),
            _ => scheme.strip_suffix(TLS).map_or((scheme, false), |scheme| (scheme, true)),
        };
        let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
        let path = &*path;
        // Before it is looked up: whoever knows names is not to hear a password.
        if host.contains('@') {
            return Err(format!("{shown}: a user or a password cannot be given: write SCHEME://HOST:PORT"));
        }
        let starling = |framing, is_protobuf| {
            let path = if path.len() <= 1 { "/ws" } else { path };
            let is_echo = path == "/echo" && framing == Framing::WebSocket;
            Box::new(Starling {
                framing,
                is_protobuf,
                deflates: scheme == "ws+deflate",
                host: host.into(),
                path: path.into(),
                is_echo,
                version: OnceLock::new(),
            })
        };
        let protocol: Box<dyn Protocol> = match scheme {
            "ws" | "ws+deflate" => starling(Framing::WebSocket, false),
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
            _ => return Err(format!("{shown}: no such scheme; there are {SCHEMES}")),
        };
        if scheme != "ws-any" && (options.hello.is_some() || options.publish.is_some()) {
            return Err("--hello and --publish are for ws-any:// targets: others know what to say".into());
        }
        if options.publish.as_ref().is_some_and(|publish| publish.contains("{content}.")) {
            return Err("--publish: a dot behind {content} cannot be told from the content's own".into());
        }
        let address = host
            .to_socket_addrs()
            .map_err(|why| format!("{shown}: {host:?} is no HOST:PORT ({why})"))?
            .next()
            .ok_or_else(|| format!("{shown}: {host:?} has no address"))?;
        let tls = is_tls.then(|| client_settings(scheme, host, &options.roots)).transpose()?;
        Ok(Target { url: shown, address, is_answered: scheme == "http", protocol, tls })
    }

    /// What it can do.
    pub fn traits(&self) -> Traits {
        self.protocol.traits()
    }
}

/// A URL as it is shown, in errors and reports: without what may be a password or a token, before the host and behind a question mark.
fn shown(url: &str) -> String {
    let url = url.split_once('?').map_or_else(|| url.to_owned(), |(before, _)| format!("{before}?…"));
    url.rsplit_once('@').map_or_else(|| url.clone(), |(_, behind)| format!("…@{behind}"))
}

fn client_settings(scheme: &str, host: &str, roots: &Roots) -> Result<ClientSettings, String> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let alpn = match scheme {
        "grpc" => Some("h2"),
        "http" | "ws" | "ws+proto" | "ws+deflate" | "ws-any" => Some("http/1.1"),
        _ => None,
    };
    let roots = match roots {
        Roots::Unknown => {
            return Err(
                "the target is encrypted: name the root of its certificate with --ca FILE, or say --insecure"
                    .into(),
            );
        }
        Roots::Any => None,
        Roots::Pem(pem) => Some(&pem[..]),
    };
    settings::client(name, roots, alpn).map_err(|why| format!("--ca: {why}"))
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
    fn an_encrypted_target_needs_to_be_trusted() {
        assert!(why("wss://localhost:1").contains("--insecure"));
        let options = Options { roots: Roots::Any, ..Options::default() };
        for url in [
            "wss://localhost:1/ws",
            "ws+proto+tls://127.0.0.1:1",
            "lines+tls://[::1]:1",
            "grpc+tls://localhost:1",
        ] {
            assert!(Target::parse(url, &options).unwrap().tls.is_some(), "{url}");
        }
        assert!(Target::parse("ws://localhost:1", &options).unwrap().tls.is_none());
    }

    #[test]
    fn what_is_none_is_told() {
        assert!(why("127.0.0.1:9").contains("write SCHEME://"));
        assert!(why("gopher://127.0.0.1:9").contains("there are ws"));
        assert!(why("ws://127.0.0.1").contains("HOST:PORT"));
    }

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        for url in [
            "ws://u:SECRET@127.0.0.1:1/ws",
            "redis://:SECRET@127.0.0.1:1",
            "mqtt://SECRET@127.0.0.1:1?SECRET",
            "nosuch://u:SECRET@127.0.0.1:1",
            "ws://127.0.0.1/ws?token=SECRET",
            "http://127.0.0.1?token=SECRET@SECRET",
            "SECRET@127.0.0.1",
        ] {
            let why = why(url);
            assert!(!why.contains("SECRET") && why.contains("127.0.0.1"), "{why}");
        }
        let target = Target::parse("ws-any://127.0.0.1:1/chat?token=SECRET", &Options::default()).unwrap();
        assert_eq!(target.url, "ws-any://127.0.0.1:1/chat?…");
    }
}
