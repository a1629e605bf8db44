//! Configuration: one value made of a file, the environment and flags, checked once, before anything starts.
//!
//! Pure: the caller reads the file and the environment, so every rule here is tested with plain strings. Each key is
//! declared once (here, in `limits` and in `sections`) with its meaning, type, default and range; reading, refusing
//! and printing all work from those declarations, so that they cannot disagree.

mod key;
mod limits;
mod listen;
mod live;
mod log_filter;
mod print;
mod resolve;
mod sections;

use std::fmt;
use std::path::PathBuf;

pub use key::{Key, Secret};
pub use limits::Limits;
pub use listen::{Address, ClientAuth, Listen, ListenKind, Mode, Networks, PEER_ON_PATH, TlsFiles};
pub use live::Taken;
pub use log_filter::{LOG_MODULES, LogFilter};
pub use resolve::{ENV_CONFIG_FILE, ENV_PREFIX};
pub use sections::{
    AckLevel, ApiKey, Auth, Cluster, Consul, DashboardAccess, Drain, Heartbeat, History, HistoryRule,
    JwtAlgorithm, KeyPrefix, Log, LogFormat, MetricsAccess, Observe, Presence, Rate, RedisUrls, Session,
    Store, StoreKind, Tls, Web,
};

key::config! {
    /// Everything that an operator can decide, resolved and checked.
    Config {
        /// Cores, one event loop each. 0: all that this process may run on.
        cores: usize = 0, 0..=1024;
        /// Whether each loop stays on a core of its own: caches stay warm, and latency does not depend on where the
        /// scheduler moves a thread. Turn it off where several servers share few cores.
        pin: bool = true;
        /// Whether the loops poll without ever sleeping: the lowest latency for a whole core's power each. For
        /// measurements.
        spin: bool = false;
        /// Whether a connection goes to the core whose processor takes in its packets, not to any (SO_INCOMING_CPU,
        /// socket(7)): nothing of it changes processors then. For network cards that spread packets over all
        /// processors; where one processor takes in all of them, its core gets all connections. Only where each core
        /// has a processor of its own (`pin`).
        steer: bool = false;
        /// The user that the server becomes as soon as its listeners are open, where root has started it: by name or
        /// number. Only root may listen on ports below 1024. Keys and certificates are read before, and again on SIGHUP as
        /// that user.
        user: Option<String> = None;
        /// The directory for what outlives the process.
        data_dir: PathBuf = PathBuf::from("./starling-data");
        /// Where clients are heard: kind is web, line, frame or grpc, address is like 127.0.0.1:8080, `[::1]:8080`,
        /// localhost:8080 or unix:PATH; port 0 takes a free one. These replace the default listeners. Who may write to a
        /// path may connect there: mode = "660" (octal) unless something else is said. With tls = { } one is
        /// encrypted, as `[tls]` says or by files of its own: tls = { cert = "..", key = "..", client_ca = "..",
        /// client_auth = ".." }. With proxies = ["10.0.0.0/8"] only they may connect, and must tell for whom (PROXY protocol).
        listen: Vec<Listen> = listen::default_listeners();
    }
    sections {
        tls: Tls,
        limits: Limits,
        rate: Rate,
        heartbeat: Heartbeat,
        session: Session,
        history: History,
        presence: Presence,
        auth: Auth,
        store: Store,
        drain: Drain,
        web: Web,
        log: Log,
        observe: Observe,
        cluster: Cluster,
        consul: Consul,
    }
}

impl Config {
    /// Merges the layers, weakest first: defaults, `file` (its path for messages, and its text), the `STARLING_*`
    /// variables of `env` (others are passed over), `flags`. The first mistake found is the error.
    pub fn resolve(
        file: Option<(&str, &str)>,
        env: impl Iterator<Item = (String, String)>,
        flags: &Overrides,
    ) -> Result<Self, ConfigError> {
        resolve::resolve(file, env, flags)
    }

    /// One line for each thing that can be meant so, but seldom is.
    pub fn notices(&self) -> Vec<String> {
        let mut notices = Vec::new();
        let has_key = self.auth.jwt_secret.is_some()
            || self.auth.jwt_key_file.is_some()
            || self.auth.jwks_file.is_some();
        if !self.auth.guests && !has_key {
            notices.push(
                "auth.guests = false: nobody can say hello, because no key checks tokens (auth.jwt_secret, \
                 auth.jwt_key_file or auth.jwks_file)"
                    .to_owned(),
            );
        }
        notices.extend(self.short_secret_notice());
        notices.extend(self.short_keys_notice());
        let (lease_ms, deadline_ms) = (self.cluster.lease_ms, self.cluster.deadline_ms);
        if !self.cluster.redis.0.is_empty() && lease_ms < 2 * deadline_ms {
            notices.push(format!(
                "cluster.lease_ms = {lease_ms} is less than twice cluster.deadline_ms = {deadline_ms}: a node that \
                 Redis keeps waiting once is taken for lost"
            ));
        }
        notices.extend(self.notices_of_what_has_no_effect());
        notices
    }

    /// One line for each section that somebody has written, and may count on, although nothing comes of it.
    fn notices_of_what_has_no_effect(&self) -> Vec<String> {
        let default = Config::default();
        let is_clustered = !self.cluster.redis.0.is_empty();
        let mut notices = Vec::new();
        if !is_clustered && self.cluster != default.cluster {
            notices.push("[cluster] has no effect without cluster.redis: this node stands alone".to_owned());
        }
        // Of the kind it cannot be told whether somebody has written it, and none means just what is so.
        if is_clustered && self.store != (Store { kind: self.store.kind, ..default.store }) {
            let why = "a node of a cluster keeps what it has in Redis";
            notices.push(format!("[store] has no effect with cluster.redis: {why}"));
        }
        if self.consul.agent.is_none() && self.consul != default.consul {
            notices
                .push("[consul] has no effect without consul.agent: this node is not registered".to_owned());
        }
        notices
    }

    /// A line for whoever signs or checks tokens with a secret that can be guessed.
    pub fn short_secret_notice(&self) -> Option<String> {
        let is_short = self.auth.jwt_secret.as_ref()?.0.len() < JWT_SECRET_BYTES_MIN;
        is_short.then(|| {
            format!("auth.jwt_secret has fewer than {JWT_SECRET_BYTES_MIN} bytes: whoever sees a token can try to guess it")
        })
    }

    /// A line for whoever lets programs in by a key that can be guessed, request by request.
    fn short_keys_notice(&self) -> Option<String> {
        let is_short = |key: &&ApiKey| key.key.0.len() < API_KEY_BYTES_MIN;
        let names: Vec<&str> =
            self.auth.api_keys.iter().filter(is_short).map(|key| key.name.as_str()).collect();
        (!names.is_empty()).then(|| {
            let names = names.join(", ");
            format!("auth.api_keys has keys of fewer than {API_KEY_BYTES_MIN} bytes, which can be guessed: of {names}")
        })
    }

    /// Whether `/echo` is served: as configured, and otherwise only where nobody but this machine can reach it,
    /// because it lets a stranger move 16 MiB messages at the server's cost.
    pub fn is_echo_on(&self) -> bool {
        let is_local = |listen: &Listen| listen.kind != ListenKind::Web || listen.address.is_loopback();
        self.web.echo.unwrap_or_else(|| self.listen.iter().all(is_local))
    }

    /// The effective configuration as TOML, each key with its meaning, default and range in a comment. It holds the
    /// secrets too: resolving it again gives an equal configuration.
    pub fn print_commented(&self) -> String {
        print::print_commented(self)
    }
}

/// What RFC 7518 section 3.2 asks of a secret for HS256: as long as the hash.
const JWT_SECRET_BYTES_MIN: usize = 32;

/// Of base64 these are 96 bits, which nobody guesses over a network.
const API_KEY_BYTES_MIN: usize = 16;

/// What the command line asks for; the strongest layer of [`Config::resolve`].
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    values: Vec<Override>,
    addresses: Vec<(ListenKind, Override)>,
}

#[derive(Clone, Debug)]
struct Override {
    flag: String,
    key: String,
    text: String,
}

impl Overrides {
    /// Sets `key` (dotted) to what `text` says; `flag` is how messages name the place. The last one of a key wins.
    pub fn set(&mut self, flag: impl Into<String>, key: impl Into<String>, text: impl Into<String>) {
        self.values.push(Override { flag: flag.into(), key: key.into(), text: text.into() });
    }

    /// Puts one listener at `address` in the place of all listeners of `kind`, and leaves the other kinds alone.
    pub fn set_address(&mut self, flag: impl Into<String>, kind: ListenKind, address: impl Into<String>) {
        let place = Override { flag: flag.into(), key: "listen".to_owned(), text: address.into() };
        self.addresses.push((kind, place));
    }
}

/// Why there is no configuration: one line for a person, which names key, value, source and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    message: String,
}

impl ConfigError {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}
