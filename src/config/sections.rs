//! The other sections and the types of their keys.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Value;

use super::key::{Secret, Setting, choice, section};
use super::listen::ClientAuth;
use super::log_filter::LogFilter;

section! {
    /// Certificates of encrypted listeners. With a cert here and no listener that says tls (`web+tls=ADDRESS`), all of
    /// them are encrypted. The files are read again on SIGHUP.
    Tls in tls {
        /// The certificate chain (PEM), the server's own first.
        cert: Option<PathBuf> = None;
        /// Its private key (PEM), without a password.
        key: Option<PathBuf> = None;
        /// Roots of clients' certificates (PEM). With it clients are asked for one.
        client_ca: Option<PathBuf> = None;
        /// Whether a client may do without a certificate: optional or required. Where it is not set, required.
        client_auth: Option<ClientAuth> = None;
    }
}

section! {
    /// How fast commands may come. 0 is unlimited; a burst is how many may come at once after a pause, and a burst of 0
    /// is one second's worth.
    Rate in rate {
        /// Commands a second of one connection.
        commands_per_second: u64 = 100, 0..=1_000_000_000;
        /// Commands at once of one connection. 0: one second's worth.
        burst: u64 = 200, 0..=1_000_000_000;
        /// Commands a second of one user, all of its sessions together.
        user_commands_per_second: u64 = 0, 0..=1_000_000_000;
        /// Commands at once of one user. 0: one second's worth.
        user_burst: u64 = 0, 0..=1_000_000_000;
        /// Commands a second from one IP address.
        address_commands_per_second: u64 = 0, 0..=1_000_000_000;
        /// Commands at once from one IP address. 0: one second's worth.
        address_burst: u64 = 0, 0..=1_000_000_000;
        /// Messages a second into one room.
        room_messages_per_second: u64 = 0, 0..=1_000_000_000;
        /// Messages at once into one room. 0: one second's worth.
        room_burst: u64 = 0, 0..=1_000_000_000;
        /// Joins a second of one connection.
        joins_per_second: u64 = 0, 0..=1_000_000_000;
        /// Joins at once of one connection. 0: one second's worth.
        joins_burst: u64 = 0, 0..=1_000_000_000;
        /// Inbound bytes a second of one connection's commands.
        bytes_per_second: u64 = 0, 0..=1_000_000_000_000;
        /// Inbound bytes at once of one connection's commands. 0: one second's worth.
        bytes_burst: u64 = 0, 0..=1_000_000_000_000;
        /// Attempts to log in a minute, as one user and from one IP address, so that passwords cannot be guessed; as many at
        /// once. Right or wrong counts alike.
        logins_per_minute: u64 = 10, 0..=1_000_000;
        /// Users that one IP address may register an hour; as many at once.
        registrations_per_hour: u64 = 20, 0..=1_000_000;
    }
}

section! {
    /// How a dead peer is noticed.
    Heartbeat in heartbeat {
        /// Milliseconds of silence after which the server probes.
        probe_ms: u64 = 30_000, 100..=86_400_000;
        /// Milliseconds of silence after which the server closes; more than probe_ms.
        timeout_ms: u64 = 90_000, 100..=86_400_000;
    }
}

section! {
    /// What outlives a broken connection.
    Session in session {
        /// Milliseconds that a session waits for its user to come back. 0: it ends with the connection.
        grace_ms: u64 = 120_000, 0..=86_400_000;
        /// Sessions that one core keeps waiting so; past it a broken connection ends its session at once.
        away: usize = 100_000, 0..=10_000_000;
    }
}

section! {
    /// What a room remembers; the tightest of the bounds counts.
    History in history {
        /// Messages a room. 0: none.
        count: usize = 1000, 0..=10_000_000;
        /// Bytes a room. 0: no bound of its own.
        bytes: usize = 16_777_216, 0..=1_099_511_627_776;
        /// Seconds for which a message is kept. 0: no bound of its own.
        age_s: u64 = 0, 0..=3_153_600_000;
        /// Messages a room that are in memory too, when there is a store: older ones are read from there.
        memory_count: usize = 1000, 0..=10_000_000;
        /// Bytes of all rooms of the server together in memory. Past it, with a store, the oldest messages of the room that
        /// grows are only there; without one, the rooms that have been without members longest are forgotten first.
        memory_bytes: usize = 1_073_741_824, 0..=1_099_511_627_776;
        /// Bounds of some rooms: a list of { pattern = "ops-*", count = .., bytes = .., age_s = .. }. Fields left out
        /// are as above; the first pattern that matches counts.
        rooms: Vec<HistoryRule> = Vec::new();
    }
}

section! {
    /// How members hear of each other.
    Presence in presence {
        /// Members up to which a room tells each coming and going at once; every one of them costs an event a member,
        /// so larger rooms are told in batches.
        exact_members: usize = 200, 0..=1_000_000;
        /// Milliseconds between the batches of a large room.
        batch_ms: u64 = 1000, 1..=3_600_000;
        /// Nicknames in each list of a batch; its counts stay exact.
        batch_names: usize = 100, 0..=10_000;
    }
}

section! {
    /// Who may say hello. At most one of jwt_secret, jwt_key_file and jwks_file is set.
    Auth in auth {
        /// Whether a nickname alone is enough. When SIGHUP says no, guests who are there are put out.
        guests: bool = true;
        /// The algorithm that tokens must be signed with: HS256, RS256, ES256 or EdDSA.
        jwt_algorithm: JwtAlgorithm = JwtAlgorithm::Hs256;
        /// The shared secret of HS256 tokens.
        jwt_secret: Option<Secret> = None;
        /// A file with the key that verifies tokens (PEM).
        jwt_key_file: Option<PathBuf> = None;
        /// A file with a JSON Web Key Set (RFC 7517) that verifies tokens.
        jwks_file: Option<PathBuf> = None;
        /// The audience (`aud`) that tokens must name. Not set: tokens that name one are refused.
        jwt_audience: Option<String> = None;
        /// The issuer (`iss`) that tokens must name. Not set: any.
        jwt_issuer: Option<String> = None;
        /// Keys for the HTTP API: a list of { name = "..", key = "..", admin = false }. The name is the nickname that the
        /// program speaks under.
        api_keys: Vec<ApiKey> = Vec::new();
        /// Seconds for which the token of a registered user is good, from the login on.
        account_token_s: u64 = 2_592_000, 1..=3_153_600_000;
        /// Bytes of the shortest password that a user may choose; NIST SP 800-63B advises no fewer than 8.
        password_bytes_min: usize = 8, 1..=1024;
    }
}

section! {
    /// Where messages and sessions are kept.
    Store in store {
        /// sqlite: a file in data_dir; or memory: nothing outlives the process.
        kind: StoreKind = StoreKind::Sqlite;
        /// What an ack promises where the command does not say: sequenced (in memory), stored (written to the store)
        /// or synced (on the disk).
        ack: AckLevel = AckLevel::Sequenced;
        /// Bytes of the queue from each core to the storage thread, in shared memory; rounded up to a power of two. Past three
        /// quarters of it messages wait for up to deadline_ms, and other commands are refused: the disk does not keep up.
        queue_bytes: usize = 8_388_608, 1_048_576..=17_179_869_184;
        /// Milliseconds that an ack, or place in the queue, is waited for; then the command is answered with store_down.
        deadline_ms: u64 = 5000, 10..=3_600_000;
        /// Milliseconds until what was written without need to be on the disk is brought there all the same: the most that is
        /// lost when the machine itself fails.
        sync_ms: u64 = 1000, 1..=3_600_000;
    }
}

section! {
    /// How the server says goodbye to its clients when it is asked to stop.
    Drain in drain {
        /// Milliseconds from the signal to the first goodbye; a load balancer uses them to look elsewhere.
        delay_ms: u64 = 0, 0..=3_600_000;
        /// Milliseconds over which the clients' return is spread, so that they do not all come back at once.
        spread_ms: u64 = 5000, 0..=3_600_000;
        /// Milliseconds after the first goodbye until those that are still here are cut off.
        timeout_ms: u64 = 10_000, 1..=3_600_000;
    }
}

section! {
    /// HTTP and WebSocket.
    Web in web {
        /// Origins whose pages may open a WebSocket besides the server's own: scheme://host or scheme://host:port.
        allowed_origins: Vec<String> = Vec::new();
        /// Whether /echo is served. Not set: only while every web listener is on loopback.
        echo: Option<bool> = None;
        /// Who sees /dashboard: off (nobody, its paths lead nowhere), admin (whoever shows an admin's token or API key),
        /// or local (also, without either, whoever connects from this machine, not through a proxy or by a path).
        dashboard: DashboardAccess = DashboardAccess::Local;
        /// Who reads /metrics: all, local (whoever connects from this machine, not through a proxy or by a path, and admins),
        /// admin (whoever shows an admin's token or API key), or off (nobody, the path leads nowhere).
        metrics: MetricsAccess = MetricsAccess::All;
        /// Whether messages to WebSockets that offer it are compressed (permessage-deflate, RFC 7692): fewer bytes for more
        /// time. Room messages are compressed once for all members, unless a connection keeps its context
        /// (limits.deflate_contexts).
        deflate: bool = false;
        /// How much time compression takes for how few bytes: 1 is fast, 9 is small.
        deflate_level: u64 = 6, 1..=9;
    }
}

section! {
    /// The log. It goes to standard error, and to a file as well if one is named.
    Log in log {
        /// The least that is logged: off, error, warn, info, debug or trace; after commas the same for modules and what is
        /// below them, like info,starling::cluster=debug. Of libraries nothing below warn.
        level: LogFilter = LogFilter::from(log::LevelFilter::Info);
        /// How many lines of level warn or error one place of the program may log in ten seconds. What is more is left out,
        /// counted, and told with its next line. 0: any number.
        repeats: u64 = 20, 0..=1_000_000;
        /// A file to append to; it is made if it is missing.
        file: Option<PathBuf> = None;
        /// text, or json (one object a line).
        format: LogFormat = LogFormat::Text;
    }
}

section! {
    /// What the server tells of its own delays.
    Observe in observe {
        /// One in so many messages, on average, is followed through the server, and how long each part of its way took is
        /// counted (starling_message_latency_seconds). 1: every message; 0: none.
        latency_sample_every: u64 = 64, 0..=1_000_000_000;
        /// Milliseconds that a turn of a core may take: a longer one is a stall, is counted (starling_stalls_total), and is
        /// told in the log with what took so long. 0: none is.
        stall_ms: u64 = 50, 0..=3_600_000;
    }
}

section! {
    /// Several nodes as one server. They share a Redis or Valkey server (6.2 or later), or a Redis Cluster.
    Cluster in cluster {
        /// Where it is: redis://user:password@host:6379/0, rediss:// for TLS, or unix:///path?db=0; or a list of such.
        /// The first of them that is a primary is used, and looked for anew when it is lost; of a Redis Cluster any
        /// nodes will do. Not set: this node stands alone.
        redis: RedisUrls = RedisUrls::default();
        /// A file with the certificates (PEM) that vouch for it, for rediss://. Not set: those of the system.
        ca: Option<PathBuf> = None;
        /// What its keys and channels begin with: letters, numbers, '_', '.' and '-', at most 32. Nodes with the same
        /// are one server.
        prefix: KeyPrefix = KeyPrefix::default();
        /// Milliseconds that it has for an answer; then the connection is given up, and what waited is answered with
        /// backplane_down.
        deadline_ms: u64 = 2000, 50..=60_000;
        /// Milliseconds that a node may be silent before the others take it for lost. It is heard of three times as
        /// often.
        lease_ms: u64 = 10_000, 500..=3_600_000;
        /// Milliseconds between looks at each open room, for what may have been missed.
        look_ms: u64 = 2000, 50..=3_600_000;
        /// Seconds that a room is kept there when nobody is in it any more.
        room_ttl_s: u64 = 604_800, 60..=3_153_600_000;
    }
}

section! {
    /// Registration with a Consul agent, by which balancers and programs find this node.
    Consul in consul {
        /// Where the agent of this machine is, like http://127.0.0.1:8500. Not set: this node is not registered.
        agent: Option<AgentUrl> = None;
        /// The ACL token that it is asked with.
        token: Option<Secret> = None;
        /// The name of the service.
        service: String = "starling".to_owned();
        /// What this node is called among those of the service. Not set: service, host and port with '-' between them.
        id: Option<String> = None;
        /// The host name or IP address by which others reach this node. Not set: that of the web listener, or that of the
        /// agent if the listener is for all addresses.
        address: Option<String> = None;
        /// Tags of the service.
        tags: Vec<String> = Vec::new();
        /// Milliseconds between the agent's health checks.
        check_ms: u64 = 10_000, 100..=3_600_000;
        /// Milliseconds of failing checks after which the agent forgets this node.
        forget_ms: u64 = 600_000, 60_000..=31_536_000_000;
        /// Milliseconds that the agent has for an answer.
        deadline_ms: u64 = 2000, 10..=60_000;
        /// Milliseconds between looks whether the agent still knows this node.
        look_ms: u64 = 30_000, 100..=3_600_000;
    }
}

choice! {
    /// How log lines look.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line, for programs.
        Json = "json",
    }
}

choice! {
    /// Who sees the dashboard.
    DashboardAccess {
        /// Nobody.
        Off = "off",
        /// Admins.
        Admin = "admin",
        /// They, and whoever connects from this machine.
        Local = "local",
    }
}

choice! {
    /// Who reads the metrics.
    MetricsAccess {
        /// Everybody who reaches a web listener.
        All = "all",
        /// Whoever connects from this machine, and admins.
        Local = "local",
        /// Admins.
        Admin = "admin",
        /// Nobody.
        Off = "off",
    }
}

choice! {
    /// What keeps messages.
    StoreKind {
        /// An embedded database file.
        Sqlite = "sqlite",
        /// Nothing outlives the process.
        Memory = "memory",
    }
}

choice! {
    /// What an ack promises.
    AckLevel {
        /// It has its place in the room's order.
        Sequenced = "sequenced",
        /// It is written to the store.
        Stored = "stored",
        /// It is on the disk.
        Synced = "synced",
    }
}

choice! {
    /// How tokens are signed (RFC 7518 section 3.1, RFC 8037).
    JwtAlgorithm {
        /// HMAC with SHA-256.
        Hs256 = "HS256",
        /// RSA (PKCS #1 v1.5) with SHA-256.
        Rs256 = "RS256",
        /// ECDSA on P-256 with SHA-256.
        Es256 = "ES256",
        /// Ed25519.
        EdDsa = "EdDSA",
    }
}

/// What rooms of some names remember.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryRule {
    /// A room's name, or a pattern with `*`.
    pub pattern: String,
    /// Messages a room; 0: none. Not set: as in the section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// Bytes a room; 0: no bound of its own. Not set: as in the section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<usize>,
    /// Seconds for which a message is kept; 0: no bound of its own. Not set: as in the section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<u64>,
}

/// Rules for names of rooms: each is tried for each new room, so few must do.
const HISTORY_RULES_MAX: usize = 256;

/// Characters of a pattern: as many as the longest name of a room has, because `chat` is above this layer.
const PATTERN_CHARS_MAX: usize = 64;

/// Whether a pattern can match a room at all: characters of rooms' names, and `*`. Marks and letters beyond ASCII are
/// told apart where names are checked; here they only have to be neither spaces nor control characters.
fn is_room_pattern(pattern: &str) -> bool {
    let is_allowed = |c: char| {
        c.is_alphanumeric() || "_-.*".contains(c) || !(c.is_ascii() || c.is_whitespace() || c.is_control())
    };
    (1..=PATTERN_CHARS_MAX).contains(&pattern.chars().count()) && pattern.chars().all(is_allowed)
}

impl Setting for Vec<HistoryRule> {
    fn from_toml(value: &Value) -> Result<Self, String> {
        let rules: Self = value.clone().try_into().map_err(|error: toml::de::Error| {
            format!("must be a list of {{ pattern, count, bytes, age_s }}: {}", error.message())
        })?;
        if rules.len() > HISTORY_RULES_MAX {
            return Err(format!("must have at most {HISTORY_RULES_MAX} rules"));
        }
        if let Some(rule) = rules.iter().find(|rule| !is_room_pattern(&rule.pattern)) {
            return Err(format!(
                "must have patterns of 1 to {PATTERN_CHARS_MAX} letters, numbers, '_', '-', '.' and '*', not {:?}",
                rule.pattern
            ));
        }
        // The section's own ranges: a rule must not reach past them.
        for rule in &rules {
            let fields = [
                ("history.count", rule.count.map(|count| count as u64)),
                ("history.bytes", rule.bytes.map(|bytes| bytes as u64)),
                ("history.age_s", rule.age_s),
            ];
            for (name, value) in fields {
                let range = History::KEYS.iter().find(|key| key.name == name).and_then(|key| key.range);
                if let (Some(value), Some((low, high))) = (value, range)
                    && !(low..=high).contains(&value)
                {
                    let field = name.trim_start_matches("history.");
                    return Err(format!("must have {field} from {low} to {high} in {:?}", rule.pattern));
                }
            }
        }
        Ok(rules)
    }

    fn to_toml(&self) -> Option<Value> {
        Value::try_from(self).ok()
    }

    fn text_to_toml(text: &str) -> Result<Value, String> {
        toml_value(text).ok_or_else(|| "must be a TOML list of { pattern = \"..\", count = .. }".to_owned())
    }
}

/// Where the server between the nodes is. They hold passwords.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisUrls(pub Vec<Secret>);

/// How such a URL may begin.
const REDIS_SCHEMES: [&str; 5] = ["redis://", "rediss://", "unix://", "valkey://", "valkeys://"];

/// Servers to choose from: each of them may be waited for.
const REDIS_URLS_MAX: usize = 64;

/// What is wrong with a URL behind its scheme, as far as it can be seen without asking anybody.
fn wrong_url(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let (rest, _) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let known: &[&str] = if scheme == "unix" { &["db", "user", "pass", "protocol"] } else { &["protocol"] };
    let names = parameters.split('&').filter(|part| !part.is_empty());
    let mut names = names.map(|part| part.split_once('=').map_or(part, |(name, _)| name));
    // Without its name, which may be a password that was meant to stand elsewhere.
    if names.any(|name| !known.contains(&name)) {
        return Some(format!("has a parameter that is none of: {}", known.join(", ")));
    }
    if scheme == "unix" {
        return None;
    }
    let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = place.rsplit_once('@').map_or(place, |(_, host)| host);
    // IPv6 addresses stand in brackets.
    let behind = host.rsplit_once(']').map_or(host, |(_, behind)| behind);
    let port = behind.rsplit_once(':').map(|(_, port)| port);
    if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return Some("has no port from 1 to 65535 behind the last ':' of its host".to_owned());
    }
    let database = path.trim_end_matches('/');
    let is_number = database.is_empty() || database.parse::<u32>().is_ok();
    (!is_number).then(|| "has no number of a database behind the '/' of its host".to_owned())
}

impl Setting for RedisUrls {
    const IS_SECRET: bool = true;

    fn from_toml(value: &Value) -> Result<Self, String> {
        let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let urls = Self(items.iter().map(Secret::from_toml).collect::<Result<_, _>>()?);
        for (index, url) in urls.0.iter().enumerate() {
            if let Some(wrong) = wrong_url(&url.0) {
                return Err(format!("URL {} {wrong}", index + 1));
            }
        }
        let is_url = |url: &Secret| {
            REDIS_SCHEMES.iter().any(|scheme| url.0.len() > scheme.len() && url.0.starts_with(scheme))
        };
        let is_some = !value.as_array().is_some_and(Vec::is_empty);
        match is_some && urls.0.iter().all(is_url) && urls.0.len() <= REDIS_URLS_MAX {
            true => Ok(urls),
            false => Err(format!(
                "must be a URL that begins with {}, or a list of at most {REDIS_URLS_MAX} such",
                REDIS_SCHEMES.join(", ")
            )),
        }
    }

    fn to_toml(&self) -> Option<Value> {
        match &self.0[..] {
            [] => None,
            [url] => url.to_toml(),
            urls => Some(Value::Array(urls.iter().filter_map(Setting::to_toml).collect())),
        }
    }

    fn text_to_toml(text: &str) -> Result<Value, String> {
        if text.starts_with('[') {
            return toml_value(text).ok_or_else(|| "must be a URL, or a TOML list of URLs".to_owned());
        }
        Ok(Value::String(text.to_owned()))
    }
}

/// Where a Consul agent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentUrl(pub String);

impl Setting for AgentUrl {
    // What is refused may have a password in it, as addresses elsewhere have.
    const IS_SECRET: bool = true;

    fn from_toml(value: &Value) -> Result<Self, String> {
        let text = String::from_toml(value)?;
        let rest = text.strip_prefix("http://").unwrap_or(&text).trim_end_matches('/');
        let is_host_port = rest.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty()
                && !host.contains(['/', '@', ' '])
                && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        match is_host_port {
            true => Ok(Self(format!("http://{rest}"))),
            false => Err("must be like http://127.0.0.1:8500".to_owned()),
        }
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(self.0.clone()))
    }
}

/// What the keys of a cluster begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPrefix(pub String);

/// Bytes of it: every key and every announcement has it.
const PREFIX_BYTES_MAX: usize = 32;

impl Default for KeyPrefix {
    fn default() -> Self {
        Self("starling".to_owned())
    }
}

impl Setting for KeyPrefix {
    fn from_toml(value: &Value) -> Result<Self, String> {
        let text = String::from_toml(value)?;
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        match text.len() <= PREFIX_BYTES_MAX && text.bytes().all(is_allowed) {
            true => Ok(Self(text)),
            false => Err(format!("must be 1 to {PREFIX_BYTES_MAX} letters, numbers, '_', '.' and '-'")),
        }
    }

    fn to_toml(&self) -> Option<Value> {
        self.0.to_toml()
    }
}

/// A key that a program shows to the HTTP API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// The sender's name on what it publishes.
    pub name: String,
    /// What it shows.
    pub key: Secret,
    /// Whether it may do what admins do.
    #[serde(default)]
    pub admin: bool,
}

const API_KEYS_FORM: &str = "must be a list of { name, key, admin }";

/// One of them. Serde's own messages would not do: they repeat what they do not understand, and that may be a key.
fn api_key(item: &Value) -> Result<ApiKey, String> {
    let fields = item.as_table().ok_or_else(|| "is not in braces".to_owned())?;
    if fields.keys().any(|name| !["name", "key", "admin"].contains(&name.as_str())) {
        return Err("has a field of another name".to_owned());
    }
    let text = |name: &str| match fields.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(format!("has a {name} that is no text")),
        None => Err(format!("has no {name}")),
    };
    let admin = match fields.get("admin") {
        Some(Value::Boolean(is_admin)) => *is_admin,
        Some(_) => return Err("has an admin that is neither true nor false".to_owned()),
        None => false,
    };
    Ok(ApiKey { name: text("name")?, key: Secret(text("key")?), admin })
}

impl Setting for Vec<ApiKey> {
    const IS_SECRET: bool = true;

    fn from_toml(value: &Value) -> Result<Self, String> {
        let items = value.as_array().ok_or_else(|| API_KEYS_FORM.to_owned())?;
        let keys = items.iter().enumerate().map(|(index, item)| {
            api_key(item).map_err(|why| format!("{API_KEYS_FORM}: number {} {why}", index + 1))
        });
        let keys: Self = keys.collect::<Result<_, _>>()?;
        if keys.iter().any(|key| key.name.is_empty() || key.key.0.is_empty()) {
            return Err("must not have an empty name or key".to_owned());
        }
        for (index, key) in keys.iter().enumerate() {
            if keys[..index].iter().any(|earlier| earlier.name == key.name || earlier.key == key.key) {
                return Err(format!("must not have a name or key twice ({})", key.name));
            }
        }
        Ok(keys)
    }

    fn to_toml(&self) -> Option<Value> {
        Value::try_from(self).ok()
    }

    fn text_to_toml(text: &str) -> Result<Value, String> {
        // The parser's own words could quote the secret.
        toml_value(text).ok_or_else(|| "must be a TOML list of { name = \"..\", key = \"..\" }".to_owned())
    }
}

/// `text` as one TOML value.
fn toml_value(text: &str) -> Option<Value> {
    let mut table: toml::Table = format!("value = {text}").parse().ok()?;
    // More than one key means that the text broke out of its line.
    if table.len() == 1 { table.remove("value") } else { None }
}

impl Setting for Vec<String> {
    fn from_toml(value: &Value) -> Result<Self, String> {
        let not_a_list = || "must be a list of texts".to_owned();
        let items = value.as_array().ok_or_else(not_a_list)?;
        items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(not_a_list)).collect()
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::Array(self.iter().cloned().map(Value::String).collect()))
    }

    fn text_to_toml(text: &str) -> Result<Value, String> {
        // As the file has it, or the short form: commas between the items.
        if text.starts_with('[') {
            return toml_value(text).ok_or_else(|| "must be a TOML list of texts".to_owned());
        }
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        Ok(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()))
    }
}
