//! What of the log is wanted: a level, and others for some modules.
//!
//! The syntax is that of `RUST_LOG`, as far as it is of use here: `info,starling::cluster=debug`. A module that never logs is refused,
//! because nobody would notice that its lines do not come.

use log::LevelFilter;
use toml::Value;

use super::key::Setting;

/// Every module that logs, by its path. A test holds it to the source.
pub const LOG_MODULES: &[&str] = &[
    "starling::cli::serve",
    "starling::cluster",
    "starling::cluster::answer",
    "starling::cluster::away",
    "starling::cluster::hear",
    "starling::cluster::link",
    "starling::cluster::secrets",
    "starling::cluster::wire",
    "starling::consul",
    "starling::observe::logging",
    "starling::observe::writer",
    "starling::reactor::accept",
    "starling::reactor::proxied",
    "starling::reactor::secure",
    "starling::reactor::stall",
    "starling::server",
    "starling::server::certificates",
    "starling::server::end",
    "starling::server::listeners",
    "starling::server::reload",
    "starling::server::supervisor",
    "starling::server::user",
    "starling::shard::access_log",
    "starling::shard::accounts",
    "starling::shard::connection_log",
    "starling::shard::nodes",
    "starling::shard::restore",
    "starling::shard::shared",
    "starling::shard::shared::strays",
    "starling::shard::takeover",
    "starling::store::directory",
    "starling::store::engine",
    "starling::store::hashers",
    "starling::store::load",
    "starling::store::thread",
    "starling::sys::kernel",
    "starling::sys::path",
    "starling::sys::waker",
];

/// The least that libraries log: what they tell below that is of use to their authors, and nobody here has looked through it for secrets.
const LIBRARIES: LevelFilter = LevelFilter::Warn;

/// Which lines are logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter {
    level: LevelFilter,
    /// The levels of modules and what is below them, in the order in which they were given.
    modules: Vec<(String, LevelFilter)>,
}

impl From<LevelFilter> for LogFilter {
    fn from(level: LevelFilter) -> Self {
        LogFilter { level, modules: Vec::new() }
    }
}

impl LogFilter {
    /// The least that is logged of what has this target, which is the path of a module.
    pub fn level_of(&self, target: &str) -> LevelFilter {
        if !is_in(target, env!("CARGO_PKG_NAME")) {
            return self.level.min(LIBRARIES);
        }
        let given = self.modules.iter().filter(|(module, _)| is_in(target, module));
        given.max_by_key(|(module, _)| module.len()).map_or(self.level, |(_, level)| *level)
    }

    /// The least that is logged of anything.
    pub fn most(&self) -> LevelFilter {
        self.modules.iter().map(|(_, level)| *level).fold(self.level, Ord::max)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (mut level, mut modules) = (None, Vec::<(String, LevelFilter)>::new());
        for part in text.split(',').map(str::trim) {
            let (module, word) = match part.split_once('=') {
                Some((module, word)) => (Some(module.trim_end()), word.trim_start()),
                None => (None, part),
            };
            let given = LevelFilter::iter().find(|level| level.as_str().eq_ignore_ascii_case(word)).ok_or(
                "must be one of off, error, warn, info, debug, trace, and after commas such for modules, like \
                 info,starling::cluster=debug",
            )?;
            let is_twice = match module {
                None => level.replace(given).is_some(),
                Some(module) => {
                    if !LOG_MODULES.iter().any(|known| is_in(known, module)) {
                        return Err(unknown(module));
                    }
                    let is_twice = modules.iter().any(|(other, _)| other == module);
                    modules.push((module.to_owned(), given));
                    is_twice
                }
            };
            if is_twice {
                return Err(format!("must say {} once", module.unwrap_or("what holds for all modules")));
            }
        }
        Ok(LogFilter { level: level.unwrap_or(LevelFilter::Info), modules })
    }
}

/// Whether a module is another one, or below it.
fn is_in(module: &str, other: &str) -> bool {
    module.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Why a module is refused, with those that would do: of the part that is right, if there is one.
fn unknown(module: &str) -> String {
    let near = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let is_near = |known: &&&str| near.contains("::") && is_in(known, near);
    let mut known: Vec<&str> = LOG_MODULES.iter().filter(is_near).copied().collect();
    if known.is_empty() {
        known = LOG_MODULES.iter().map(|known| known.split("::").take(2).last().unwrap_or(known)).collect();
        known.dedup();
        return format!(
            "names {module:?}, which does not log: {}:: and one of {}",
            env!("CARGO_PKG_NAME"),
            known.join(", ")
        );
    }
    format!("names {module:?}, which does not log; these do: {}", known.join(", "))
}

impl Setting for LogFilter {
    fn from_toml(value: &Value) -> Result<Self, String> {
        Self::parse(value.as_str().unwrap_or_default())
    }

    fn to_toml(&self) -> Option<Value> {
        let mut text = self.level.as_str().to_lowercase();
        for (module, level) in &self.modules {
            text.push_str(&format!(",{module}={}", level.as_str().to_lowercase()));
        }
        Some(Value::String(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> LogFilter {
        LogFilter::from_toml(&Value::String(text.to_owned())).unwrap()
    }

    fn refusal(text: &str) -> String {
        LogFilter::parse(text).unwrap_err()
    }

    #[test]
    fn the_longest_module_that_a_target_is_in_decides() {
        let filter =
            filter("warn, starling::shard = info,starling::shard::nodes=trace,starling::cluster=off");
        for (target, level) in [
            ("starling::shard", LevelFilter::Info),
            ("starling::shard::closing", LevelFilter::Info),
            ("starling::shard::nodes", LevelFilter::Trace),
            ("starling::shard::nodesmen", LevelFilter::Info),
            ("starling::cluster::link", LevelFilter::Off),
            ("starling::server", LevelFilter::Warn),
            ("starling", LevelFilter::Warn),
        ] {
            assert_eq!(filter.level_of(target), level, "{target}");
        }
        assert_eq!(filter.most(), LevelFilter::Trace);
    }

    #[test]
    fn libraries_are_not_heard_below_warnings() {
        assert_eq!(filter("trace").level_of("mio::poll"), LevelFilter::Warn);
        assert_eq!(filter("trace").level_of("starlings"), LevelFilter::Warn);
        assert_eq!(filter("error").level_of("mio::poll"), LevelFilter::Error);
        assert_eq!(filter("trace").level_of("starling::server"), LevelFilter::Trace);
    }

    #[test]
    fn what_is_printed_is_what_is_read() {
        for (given, printed) in [
            ("info", "info"),
            ("DEBUG", "debug"),
            ("starling::cluster=debug", "info,starling::cluster=debug"),
            ("starling::store = off , ERROR", "error,starling::store=off"),
        ] {
            let read = filter(given);
            assert_eq!(read.to_toml(), Some(Value::String(printed.to_owned())));
            assert_eq!(filter(printed), read);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        for text in ["", "loud", "info,", "info debug", "starling::cluster=", "=info", "starling::cluster"] {
            assert!(!refusal(text).is_empty(), "{text}");
        }
        assert!(
            refusal("info,warn").contains("once")
                && refusal("starling::store=info,starling::store=warn").contains("once")
        );
        let nothing = refusal("starling::shrad=debug");
        assert!(
            nothing.contains("\"starling::shrad\"")
                && nothing.contains("cluster, ")
                && nothing.contains("shard, "),
            "{nothing}"
        );
        assert!(refusal("starling::cluster::wore=debug").contains("starling::cluster::wire"));
        assert!(refusal("cluster=debug").contains("starling:: and one of"));
        assert!(refusal("starling::clust=debug").contains("cluster"));
        assert_eq!(refusal("starling::cluster::wore=debug").lines().count(), 1);
    }
}
