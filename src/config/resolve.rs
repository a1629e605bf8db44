//! From the layers to a checked [`Config`], with every message naming where a value came from.

use std::collections::HashMap;
use std::fmt;

use toml::Value;
use toml::de::{DeTable, DeValue};

use super::listen::{self, Address, Listen};
use super::{AckLevel, Config, ConfigError, JwtAlgorithm, Key, Override, Overrides, Secret, StoreKind};

/// How the names of our environment variables begin.
pub const ENV_PREFIX: &str = "STARLING_";

/// The variable that names the configuration file; it is no key.
pub const ENV_CONFIG_FILE: &str = "STARLING_CONFIG";

/// The variable that tells `starling chat` who one is; a server started from the same shell takes no notice of it.
const ENV_TOKEN: &str = "STARLING_TOKEN";

/// [`Config::resolve`].
pub(super) fn resolve(
    file: Option<(&str, &str)>,
    env: impl Iterator<Item = (String, String)>,
    flags: &Overrides,
) -> Result<Config, ConfigError> {
    let mut layers = Layers { config: Config::default(), sources: HashMap::new() };
    if let Some((path, text)) = file {
        layers.apply_file(path, text)?;
    }
    layers.apply_env(env)?;
    layers.apply_flags(flags)?;
    layers.settle_tls()?;
    layers.check()?;
    Ok(layers.config)
}

/// The configuration so far, and who set what.
struct Layers {
    config: Config,
    sources: HashMap<&'static str, Source>,
}

/// Where a value came from.
#[derive(Clone, Debug)]
enum Source {
    File { path: String, line: usize },
    Env(String),
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(out, "{path}:{line}"),
            Self::Env(name) => out.write_str(name),
            Self::Flag(flag) => out.write_str(flag),
        }
    }
}

impl Layers {
    fn apply_file(&mut self, path: &str, text: &str) -> Result<(), ConfigError> {
        let fail = |error: toml::de::Error| {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            ConfigError::new(format!("{path}:{line}: {}", on_one_line(error.message())))
        };
        // Twice, because only the borrowed form knows the lines, and only the plain one gives plain values.
        let places = DeTable::parse(text).map_err(fail)?;
        let values: toml::Table = text.parse().map_err(fail)?;
        let mut entries = Vec::new();
        flatten("", places.get_ref(), &values, &mut entries);
        for (name, offset, value) in entries {
            let source = Source::File { path: path.to_owned(), line: line_of(text, offset) };
            if let Some(key) = key_named(&name) {
                self.set(key, value, source)?;
            } else if !is_section(&name) {
                return Err(unknown(&source, &name));
            } else if !value.is_table() {
                return Err(ConfigError::new(format!("{source}: {name} must be a section, [{name}]")));
            }
        }
        Ok(())
    }

    fn apply_env(&mut self, env: impl Iterator<Item = (String, String)>) -> Result<(), ConfigError> {
        let is_ours =
            |name: &str| name.starts_with(ENV_PREFIX) && ![ENV_CONFIG_FILE, ENV_TOKEN].contains(&name);
        let mut ours: Vec<_> = env.filter(|(name, _)| is_ours(name)).collect();
        // The environment has no order of its own; with one, the same mistakes give the same message.
        ours.sort();
        for (name, text) in ours {
            let source = Source::Env(name.clone());
            let key =
                Config::keys().find(|key| key.env_name() == name).ok_or_else(|| unknown(&source, &name))?;
            self.set_text(key, &text, source)?;
        }
        Ok(())
    }

    fn apply_flags(&mut self, flags: &Overrides) -> Result<(), ConfigError> {
        for Override { flag, key: name, text } in &flags.values {
            let source = Source::Flag(flag.clone());
            let key = key_named(name).ok_or_else(|| unknown(&source, name))?;
            self.set_text(key, text, source)?;
        }
        for (kind, Override { flag, key, text }) in &flags.addresses {
            let address =
                Address::try_from(text.clone()).map_err(|why| ConfigError::new(format!("{flag}: {why}")))?;
            let listeners = &mut self.config.listen;
            let place = listeners.iter().position(|old| old.kind == *kind).unwrap_or(listeners.len());
            // Elsewhere, but not without what protects it.
            let old = listeners.get(place);
            let new = Listen {
                kind: *kind,
                mode: old.and_then(|old| old.mode).filter(|_| matches!(address, Address::Unix(_))),
                tls: old.and_then(|old| old.tls.clone()),
                proxies: old.and_then(|old| old.proxies.clone()),
                address,
            };
            listeners.retain(|old| old.kind != *kind);
            listeners.insert(place, new);
            if let Some(key) = key_named(key) {
                self.sources.insert(key.name, Source::Flag(flag.clone()));
            }
        }
        Ok(())
    }

    fn set_text(&mut self, key: &'static Key, text: &str, source: Source) -> Result<(), ConfigError> {
        let value =
            (key.parse)(text).map_err(|why| refused(&source, key, &Value::String(text.to_owned()), &why))?;
        self.set(key, &value, source)
    }

    fn set(&mut self, key: &'static Key, value: &Value, source: Source) -> Result<(), ConfigError> {
        key.set(&mut self.config, value).map_err(|why| refused(&source, key, value, &why))?;
        self.sources.insert(key.name, source);
        Ok(())
    }

    fn settle_tls(&mut self) -> Result<(), ConfigError> {
        let tls = self.config.tls.clone();
        for (name, value, other, missing) in
            [("tls.cert", &tls.cert, "tls.key", &tls.key), ("tls.key", &tls.key, "tls.cert", &tls.cert)]
        {
            if value.is_some() && missing.is_none() {
                return Err(self.contradiction(name, "cannot be used without", other));
            }
        }
        listen::settle_tls(&mut self.config.listen, &tls)
            .map_err(|why| ConfigError::new(format!("{}: listen: {why}", self.source("listen"))))
    }

    /// What no single key shows.
    fn check(&self) -> Result<(), ConfigError> {
        let config = &self.config;
        let limits = &config.limits;
        if config.heartbeat.timeout_ms <= config.heartbeat.probe_ms {
            return Err(self.contradiction(
                "heartbeat.timeout_ms",
                "must be more than",
                "heartbeat.probe_ms",
            ));
        }
        if limits.content_bytes > limits.inbound_bytes {
            return Err(self.contradiction(
                "limits.content_bytes",
                "must be at most",
                "limits.inbound_bytes",
            ));
        }
        if limits.http_target_bytes > limits.http_head_bytes {
            let (small, large) = ("limits.http_target_bytes", "limits.http_head_bytes");
            return Err(self.contradiction(small, "must be at most", large));
        }
        if limits.query_limit_default > limits.query_limit_max {
            let (small, large) = ("limits.query_limit_default", "limits.query_limit_max");
            return Err(self.contradiction(small, "must be at most", large));
        }
        let key_sources = ["auth.jwt_secret", "auth.jwt_key_file", "auth.jwks_file"];
        let mut set = key_sources.iter().filter(|name| self.sources.contains_key(*name));
        if let (Some(first), Some(second)) = (set.next(), set.next()) {
            return Err(self.contradiction(second, "must not stand beside", first));
        }
        self.check_auth()?;
        let can_be_sent = |token: &Secret| token.0.bytes().all(|byte| byte.is_ascii_graphic());
        if !config.consul.token.as_ref().is_none_or(can_be_sent) {
            let why = "consul.token must be of visible ASCII characters, which alone a header can have";
            return Err(ConfigError::new(why.to_owned()));
        }
        if !config.cluster.redis.0.is_empty() && config.store.ack != AckLevel::Sequenced {
            let wrong = self.contradiction("store.ack", "is more than can be given with", "cluster.redis");
            return Err(ConfigError::new(format!("{wrong}: set store.ack = \"sequenced\"")));
        }
        if config.store.kind == StoreKind::Memory && config.store.ack != AckLevel::Sequenced {
            let wrong = self.contradiction("store.ack", "is more than can be given with", "store.kind");
            return Err(ConfigError::new(format!("{wrong}: set store.ack = \"sequenced\"")));
        }
        // A message that takes most of the queue would be told again and again that there is no place for it now.
        for (name, bytes) in [
            ("limits.content_bytes", limits.content_bytes),
            ("limits.state_value_bytes", limits.state_value_bytes),
        ] {
            if config.store.kind != StoreKind::Memory && config.store.queue_bytes / 2 < bytes {
                return Err(self.contradiction("store.queue_bytes", "must be at least twice", name));
            }
        }
        for origin in &config.web.allowed_origins {
            if !is_origin(origin) {
                let source = self.source("web.allowed_origins");
                return Err(ConfigError::new(format!(
                    "{source}: web.allowed_origins: {origin:?} must be scheme://host or scheme://host:port"
                )));
            }
        }
        match listen::refusal(&config.listen) {
            Some(why) => Err(ConfigError::new(format!("{}: listen: {why}", self.source("listen")))),
            None => Ok(()),
        }
    }

    /// Whether the algorithm of tokens and the key for it can go together.
    fn check_auth(&self) -> Result<(), ConfigError> {
        let auth = &self.config.auth;
        let is_hs256 = auth.jwt_algorithm == JwtAlgorithm::Hs256;
        let (name, remedy) = if is_hs256 && auth.jwt_key_file.is_some() {
            ("auth.jwt_key_file", "HS256 needs auth.jwt_secret, or auth.jwks_file with a key of the type oct")
        } else if !is_hs256 && auth.jwt_secret.is_some() {
            (
                "auth.jwt_secret",
                "RS256, ES256 and EdDSA need a public key: set auth.jwt_key_file or auth.jwks_file",
            )
        } else if !is_hs256 && auth.jwt_key_file.is_none() && auth.jwks_file.is_none() {
            let source = self.source("auth.jwt_algorithm");
            let word = auth.jwt_algorithm.word();
            return Err(ConfigError::new(format!(
                "{source}: auth.jwt_algorithm = {word:?} needs a public key: set auth.jwt_key_file or auth.jwks_file"
            )));
        } else {
            return Ok(());
        };
        let wrong = self.contradiction(name, "does not fit", "auth.jwt_algorithm");
        Err(ConfigError::new(format!("{wrong}: {remedy}")))
    }

    fn contradiction(&self, name: &str, rule: &str, other: &str) -> ConfigError {
        let told = |name: &str| match key_named(name) {
            Some(key) => {
                format!("{name} = {} ({})", shown(key, (key.value)(&self.config).as_ref()), self.source(name))
            }
            None => name.to_owned(),
        };
        ConfigError::new(format!("{} {rule} {}", told(name), told(other)))
    }

    fn source(&self, name: &str) -> String {
        self.sources.get(name).map_or_else(|| "default".to_owned(), Source::to_string)
    }
}

/// The key of that dotted name.
fn key_named(name: &str) -> Option<&'static Key> {
    Config::keys().find(|key| key.name == name)
}

fn is_section(name: &str) -> bool {
    Config::SECTIONS.iter().any(|(section, _, _)| *section == name)
}

/// Lists the values under dotted names, each with its offset in the text. A table that is no value of a key is
/// listed too, before what is in it, unless only what is in it can be wrong.
fn flatten<'v>(
    prefix: &str,
    places: &DeTable<'_>,
    values: &'v toml::Table,
    entries: &mut Vec<(String, usize, &'v Value)>,
) {
    for (place, inner) in places.iter() {
        let part = place.get_ref().as_ref();
        let Some(value) = values.get(part) else { continue };
        let name = if prefix.is_empty() { part.to_owned() } else { format!("{prefix}.{part}") };
        match (inner.get_ref(), value) {
            (DeValue::Table(inner), Value::Table(table))
                if key_named(&name).is_none() && !table.is_empty() =>
            {
                flatten(&name, inner, table, entries);
            }
            _ => entries.push((name, place.span().start, value)),
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

fn refused(source: &Source, key: &Key, value: &Value, why: &str) -> ConfigError {
    let name = key.name;
    let range = match key.range {
        Some((low, high)) if !why.contains("from") => format!(" from {low} to {high}"),
        _ => String::new(),
    };
    ConfigError::new(format!("{source}: {name} = {} {}{range}", shown(key, Some(value)), on_one_line(why)))
}

/// A value as a message shows it.
fn shown(key: &Key, value: Option<&Value>) -> String {
    /// Characters: enough to recognise a value by, and the message stays one line.
    const SHOWN_MAX: usize = 100;
    let text = match value {
        None => return "(not set)".to_owned(),
        Some(_) if key.is_secret => return "(secret)".to_owned(),
        Some(Value::String(text)) => format!("{text:?}"),
        Some(other) => on_one_line(&other.to_string()),
    };
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text,
    }
}

fn on_one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

fn unknown(source: &Source, name: &str) -> ConfigError {
    match source {
        Source::Env(_) => {
            let bare = name.strip_prefix(ENV_PREFIX).unwrap_or(name).to_lowercase();
            let hint = nearest(&bare, |key| key.name.replace('.', "_"))
                .map_or_else(String::new, |key| format!("; did you mean {}?", key.env_name()));
            ConfigError::new(format!("{name}: no such environment variable{hint}"))
        }
        _ => {
            let hint = nearest(name, |key| key.name.to_owned())
                .map_or_else(String::new, |key| format!("; did you mean {}?", key.name));
            ConfigError::new(format!("{source}: unknown key {name:?}{hint}"))
        }
    }
}

/// The key that `name` was most likely meant to be; `spell` gives the form of a key's name to compare with.
fn nearest(name: &str, spell: impl Fn(&Key) -> String) -> Option<&'static Key> {
    /// Bytes: no key is as long, and the distance takes time in proportion to the product of the lengths.
    const NAME_MAX: usize = 100;
    if name.len() > NAME_MAX {
        return None;
    }
    // The right key in a wrong section or in none is the commonest mistake, and far away by distance.
    let last = name.rsplit('.').next().unwrap_or(name);
    let is_same = |key: &&Key| spell(key).strip_suffix(last).is_some_and(|rest| rest.ends_with(['.', '_']));
    let (distance, best) = match Config::keys().find(is_same) {
        Some(key) => (0, key),
        None => Config::keys().map(|key| (edits(name, &spell(key)), key)).min_by_key(|(edits, _)| *edits)?,
    };
    // Of the last part alone: a section that is right says nothing about the key.
    let key_bytes = name.rsplit(['.', '_']).next().unwrap_or(name).len();
    (distance <= key_bytes.div_ceil(3)).then_some(best)
}

/// Insertions, removals and replacements of a byte that make `a` into `b` (Levenshtein), one row at a time.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (above, from) in a.bytes().enumerate() {
        let mut diagonal = above;
        row[0] = above + 1;
        for (column, to) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[b.len()]
}

/// RFC 6454 section 6.2: a scheme, a host and perhaps a port, and nothing behind them.
fn is_origin(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, host)| {
        let is_host = |byte: u8| byte.is_ascii_graphic() && !b"/?#@\\*".contains(&byte);
        !scheme.is_empty()
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
            && !host.is_empty()
            && host.bytes().all(is_host)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_variables_are_unique() {
        let mut names: Vec<_> = Config::keys().map(Key::env_name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(!names.contains(&ENV_CONFIG_FILE.to_owned()));
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("cores", "cores"), 0);
        assert_eq!(edits("crores", "cores"), 1);
    }

    #[test]
    fn origins() {
        assert!(is_origin("https://chat.example"));
        assert!(is_origin("http://[::1]:8080"));
        for wrong in ["*", "null", "chat.example", "https://", "https://chat.example/", "https://*.example"] {
            assert!(!is_origin(wrong), "{wrong}");
        }
    }
}
