//! Which keys a server that runs can take over from a configuration that is read again.

use super::{Config, Key};

/// Keys and whole sections that take effect at once.
const AT_ONCE: &[&str] = &[
    "log.level",
    "observe",
    "log.repeats",
    "rate",
    "heartbeat",
    "presence",
    "auth",
    "drain",
    "session.away",
    "web.allowed_origins",
    "limits.connections_per_address",
    "limits.content_bytes",
    "limits.send_queue_bytes",
    "limits.output_pause_bytes",
    "limits.rooms_per_session",
    "limits.hello_ms",
    "limits.hello_line_ms",
    "limits.detect_ms",
    "limits.http_head_bytes",
    "limits.http_target_bytes",
    "limits.http_body_bytes",
    "limits.http_head_ms",
    "limits.http_idle_ms",
    "limits.linger_ms",
    "limits.refused_linger_ms",
    "limits.close_ms",
    "limits.errors_per_window",
    "limits.errors_window_ms",
    "limits.rooms",
    "limits.query_limit_max",
    "limits.query_limit_default",
    "limits.sessions_per_user",
    "limits.private_kept",
    "limits.private_kept_bytes",
    "limits.reason_bytes",
    "limits.history_page_bytes",
    "limits.replay_page_bytes",
    "limits.token_bytes",
    "limits.rate_ignored_ms",
    "limits.broadcast_patterns",
];

/// The same, but not on a node of a cluster: all nodes decide by them, and must decide alike.
const AT_ONCE_ALONE: &[&str] = &[
    "history",
    "session.grace_ms",
    "store.ack",
    "limits.state_keys",
    "limits.state_key_bytes",
    "limits.state_value_bytes",
    "limits.restrictions_per_room",
];

/// What becomes of a configuration that is read again.
#[derive(Debug, Clone)]
pub struct Taken {
    /// What counts from now on.
    pub config: Config,
    /// The keys that have changed and count at once.
    pub done: Vec<&'static str>,
    /// Those that have changed and count after a restart.
    pub later: Vec<&'static str>,
}

impl Key {
    /// Whether a server that runs takes a new value over.
    pub fn is_live(&self, is_clustered: bool) -> bool {
        let section = self.name.split_once('.').map_or("", |(section, _)| section);
        let is_in = |keys: &[&str]| keys.contains(&self.name) || keys.contains(&section);
        is_in(AT_ONCE) || (!is_clustered && is_in(AT_ONCE_ALONE))
    }
}

impl Config {
    /// Takes over from another configuration what can change without dropping anyone.
    pub fn take_over(&self, new: &Config) -> Taken {
        let is_clustered = !self.cluster.redis.0.is_empty();
        let changed = Config::keys().filter(|key| (key.value)(new) != (key.value)(self));
        let (done, mut later): (Vec<&Key>, Vec<&Key>) = changed.partition(|key| key.is_live(is_clustered));
        let mut config = self.clone();
        for key in &done {
            match (key.value)(new) {
                Some(value) => key.set(&mut config, &value).expect("it was valid there"),
                // Of the live keys only those of [auth] can be unset, and all of that section are live.
                None => config.auth = new.auth.clone(),
            }
        }
        let names = |keys: &[&Key]| keys.iter().map(|key| key.name).collect::<Vec<_>>();
        // By the name that it has in the file, and whatever of a listener has changed.
        later.retain(|key| key.name != "listen");
        let mut later = names(&later);
        if new.listen != self.listen {
            later.push("[[listen]]");
        }
        Taken { config, done: names(&done), later }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RedisUrls, Secret};

    #[test]
    fn every_name_is_that_of_a_key_or_section() {
        let is_known = |name: &&&str| {
            Config::keys().any(|key| key.name == **name || key.name.starts_with(&format!("{name}.")))
        };
        let unknown: Vec<_> = AT_ONCE.iter().chain(AT_ONCE_ALONE).filter(|name| !is_known(name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn what_can_change_does_and_the_rest_waits() {
        let mut now = Config::default();
        now.auth.jwt_secret = Some(Secret("old".into()));
        let mut new = now.clone();
        new.auth.jwt_secret = None;
        new.limits.content_bytes = 100;
        new.history.count = 5;
        new.cores = 3;
        new.listen.pop();
        let taken = now.take_over(&new);
        assert_eq!(taken.done, ["limits.content_bytes", "history.count", "auth.jwt_secret"]);
        assert_eq!(taken.later, ["cores", "[[listen]]"]);
        let expected = Config { cores: now.cores, listen: now.listen.clone(), ..new.clone() };
        assert_eq!(taken.config, expected);
        now.cluster.redis = RedisUrls(vec![Secret("redis://a".into())]);
        new.cluster = now.cluster.clone();
        let taken = now.take_over(&new);
        assert_eq!(taken.later, ["cores", "history.count", "[[listen]]"]);
        assert_eq!(taken.config.history, now.history);
    }
}
