//! Listeners and their addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use toml::Value;

use super::key::{Setting, choice};
use super::sections::Tls;

/// One place where clients are heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// What is spoken there.
    pub kind: ListenKind,
    /// Where it is.
    pub address: Address,
    /// Who may connect, where it is a path; [`Mode::DEFAULT`] where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Certificate and key, where it is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFiles>,
    /// The proxies that it is for: nobody else may connect, and they must tell for whom they do (PROXY protocol, versions 1 and 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxies: Option<Networks>,
}

/// The permissions of a socket's file (chmod(2)), in octal: whoever may write to it can connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(u32);

impl Mode {
    /// Its owner, and its group: a proxy, say. Others may not.
    pub const DEFAULT: Mode = Mode(0o660);

    /// The bits.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl Serialize for Mode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:03o}", self.0))
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;
        impl serde::de::Visitor<'_> for Digits {
            type Value = Mode;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a mode in octal digits and quotes, from \"000\" to \"777\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Mode, E> {
                let is_octal =
                    (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
                let bits = if is_octal { u32::from_str_radix(text, 8).ok() } else { None };
                let bits = bits.filter(|bits| *bits <= 0o777);
                bits.map(Mode).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Digits)
    }
}

/// Addresses and networks: `["127.0.0.1", "10.0.0.0/8"]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Whether an address is in one of them.
    pub fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl TryFrom<Vec<String>> for Networks {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        if texts.is_empty() || texts.len() > NETWORKS_MAX {
            return Err(format!("proxies must name from 1 to {NETWORKS_MAX} addresses or networks"));
        }
        let network = |text: &String| {
            let address = text.parse().map(|address: IpAddr| IpNet::from(address.to_canonical()));
            address.or_else(|_| text.parse::<IpNet>()).map_err(|_| {
                format!("{text:?} is no address or network (127.0.0.1, 10.0.0.0/8, ::1 or fd00::/8)")
            })
        };
        texts.iter().map(network).collect::<Result<_, _>>().map(Networks)
    }
}

impl From<Networks> for Vec<String> {
    fn from(networks: Networks) -> Self {
        networks.0.iter().map(ToString::to_string).collect()
    }
}

/// The most networks of proxies of a listener: they are looked at one after the other for each connection.
const NETWORKS_MAX: usize = 64;

impl fmt::Display for Listen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{}={}", self.kind.word(), if self.tls.is_some() { TLS } else { "" }, self.address)
    }
}

/// What stands behind the kind of an encrypted listener: `web+tls=127.0.0.1:8443`.
const TLS: &str = "+tls";

choice! {
    /// What a listener speaks.
    ListenKind {
        /// HTTP/1.1 and WebSocket.
        Web = "web",
        /// Text lines for people, JSON lines for programs.
        Line = "line",
        /// Length-prefixed binary frames.
        Frame = "frame",
        /// gRPC over HTTP/2.
        Grpc = "grpc",
    }
}

/// Where a listener is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// An IP address and a port; port 0 takes a free one.
    Socket(SocketAddr),
    /// The path of a Unix domain socket.
    Unix(PathBuf),
}

/// Clients who come by a path have no address: they are of this machine.
pub const PEER_ON_PATH: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

impl Address {
    /// Whether only this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Socket(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    /// Names other than `localhost` are refused: looking one up can block for seconds and can give several answers.
    fn try_from(text: String) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:")
            && !path.is_empty()
            && !path.contains('\0')
        {
            if path.starts_with('@') {
                return Err(format!(
                    "{text:?}: names without a file are not supported; a file of this name is unix:./{path}"
                ));
            }
            return Ok(Self::Unix(path.into()));
        }
        if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
            return Ok(Self::Socket((Ipv4Addr::LOCALHOST, port).into()));
        }
        text.parse().map(Self::Socket).map_err(|_| {
            format!("{text:?} is no address (127.0.0.1:8080, [::1]:8080, localhost:8080 or unix:PATH)")
        })
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => write!(out, "{address}"),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

choice! {
    /// Whether the clients of a listener must show a certificate.
    ClientAuth {
        /// They are asked for one, and may do without; one that is shown must be good.
        Optional = "optional",
        /// Without a good one there is no connection.
        Required = "required",
    }
}

/// Files for an encrypted listener. What it does not name is that of `[tls]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The certificate chain (PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Roots of clients' certificates (PEM), if clients are asked for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
    /// Whether a client may do without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<ClientAuth>,
}

/// Gives each encrypted listener its files. With a certificate in `[tls]` and no listener that is said to be encrypted, all of them
/// are: whoever names a certificate wants it used. The error says what is missing.
pub(super) fn settle_tls(listeners: &mut [Listen], defaults: &Tls) -> Result<(), String> {
    if defaults.cert.is_some() && listeners.iter().all(|listen| listen.tls.is_none()) {
        listeners.iter_mut().for_each(|listen| listen.tls = Some(TlsFiles::default()));
    }
    let is_any_encrypted = listeners.iter().any(|listen| listen.tls.is_some());
    if !is_any_encrypted && (defaults.client_ca.is_some() || defaults.client_auth.is_some()) {
        return Err("tls.client_ca and tls.client_auth are for encrypted listeners, and none is: set tls.cert and tls.key".to_owned());
    }
    for listen in listeners {
        let name = listen.to_string();
        let Some(files) = &mut listen.tls else { continue };
        match (&files.cert, &files.key) {
            (None, None) => (files.cert, files.key) = (defaults.cert.clone(), defaults.key.clone()),
            (Some(_), Some(_)) => {}
            _ => return Err(format!("{name}: tls must have cert and key, or none of both")),
        }
        if files.cert.is_none() {
            return Err(format!(
                "{name}: needs a certificate: set tls.cert and tls.key (--tls-cert and --tls-key), or cert and key in its tls; \
                 `starling cert` makes one for trying"
            ));
        }
        files.client_ca = files.client_ca.take().or_else(|| defaults.client_ca.clone());
        files.client_auth = files.client_auth.or(defaults.client_auth);
        match (&files.client_ca, files.client_auth) {
            (None, Some(_)) => {
                return Err(format!(
                    "{name}: client_auth needs client_ca: the roots of clients' certificates"
                ));
            }
            // Whoever names roots does not expect that others get in.
            (Some(_), None) => files.client_auth = Some(ClientAuth::Required),
            _ => {}
        }
    }
    Ok(())
}

/// The listeners of a server that was told nothing.
pub(super) fn default_listeners() -> Vec<Listen> {
    let local = |kind, port| Listen {
        kind,
        address: Address::Socket((Ipv4Addr::LOCALHOST, port).into()),
        mode: None,
        tls: None,
        proxies: None,
    };
    vec![
        local(ListenKind::Web, 8080),
        local(ListenKind::Line, 9000),
        local(ListenKind::Frame, 9001),
        local(ListenKind::Grpc, 50051),
    ]
}

/// The most listeners: each has a socket on every core.
const LISTENERS_MAX: usize = 64;

impl Setting for Vec<Listen> {
    fn from_toml(value: &Value) -> Result<Self, String> {
        let Value::Array(items) = value else {
            return Err("must be a list of { kind, address }: [[listen]]".to_owned());
        };
        let listener = |(index, item): (usize, &Value)| {
            item.clone().try_into().map_err(|error: toml::de::Error| {
                // Which one it is: by its address, if it has one.
                let address = item.get("address").and_then(Value::as_str);
                let name = address
                    .map_or_else(|| format!("its number {}", index + 1), |address| format!("{address:?}"));
                format!("is wrong at {name}: {}", error.message())
            })
        };
        let listeners: Self = items.iter().enumerate().map(listener).collect::<Result<_, _>>()?;
        if listeners.is_empty() || listeners.len() > LISTENERS_MAX {
            return Err(format!("must name from 1 to {LISTENERS_MAX} listeners"));
        }
        Ok(listeners)
    }

    fn to_toml(&self) -> Option<Value> {
        Value::try_from(self).ok()
    }

    /// `web=127.0.0.1:8080,web+tls=127.0.0.1:8443,line=127.0.0.1:9000`.
    fn text_to_toml(text: &str) -> Result<Value, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let wrong = || "must be KIND=ADDRESS or KIND+tls=ADDRESS, several separated by commas".to_owned();
        let listener = |item: &str| {
            let (kind, address) = item.split_once('=').ok_or_else(wrong)?;
            let kind = kind.trim();
            let (kind, is_tls) = kind.strip_suffix(TLS).map_or((kind, false), |kind| (kind, true));
            ListenKind::from_toml(&Value::String(kind.to_owned()))
                .map_err(|why| format!("has a listener of the kind {kind:?}, which {why}; with +tls behind it where it is encrypted"))?;
            let fields = [("kind", kind), ("address", address.trim())];
            let field = |(name, text): (&str, &str)| (name.to_owned(), Value::String(text.to_owned()));
            let mut table: toml::Table = fields.into_iter().map(field).collect();
            if is_tls {
                table.insert("tls".to_owned(), Value::Table(toml::Table::new()));
            }
            Ok(Value::Table(table))
        };
        items.map(listener).collect::<Result<_, _>>().map(Value::Array)
    }
}

/// Why `listeners` cannot be served; `None` if they can.
pub(super) fn refusal(listeners: &[Listen]) -> Option<String> {
    for (index, listen) in listeners.iter().enumerate() {
        if listen.mode.is_some() && matches!(listen.address, Address::Socket(_)) {
            return Some(format!("{listen}: mode is for paths (unix:PATH)"));
        }
        if let (Address::Unix(_), Some(proxies)) = (&listen.address, &listen.proxies)
            && !proxies.contain(PEER_ON_PATH)
        {
            return Some(format!(
                "{listen}: whoever comes by a path counts as {PEER_ON_PATH}, which is not among its proxies: nobody could connect"
            ));
        }
        let is_any_port = matches!(listen.address, Address::Socket(address) if address.port() == 0);
        if !is_any_port && listeners[..index].iter().any(|earlier| earlier.address == listen.address) {
            return Some(format!("{listen}: this address is taken by another listener"));
        }
    }
    None
}
