//! What the configuration makes of this machine: how many cores there would be, where, and for how many connections.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::config::{Address, Config, StoreKind};
use crate::server;

use super::finding::Status;
use super::host::Host;

/// Connections that are reckoned with where the configuration names no number.
const CONNECTIONS: usize = 10_000;

/// How many more than its share a core must have room for: clients are spread by a hash, and never quite evenly. A
/// quarter is eight
/// standard deviations where a core has a thousand.
const SPREAD_PERCENT: usize = 125;

/// What is to run here.
pub(super) struct Plan {
    pub(super) config: Config,
    /// Cores.
    pub(super) cores: usize,
    /// The processors that the process may run on, in order; or why they are not known.
    pub(super) allowed: Result<Vec<usize>, String>,
    /// The processors that cores stay on, in order, each once. None where they move.
    pub(super) pinned: Vec<usize>,
    /// Connections at a time, all cores together.
    pub(super) connections: usize,
    /// Whether the configuration says so.
    pub(super) is_configured: bool,
    /// Whether each core can have a descriptor table of its own; or the error by which it cannot. `None`: not tried.
    pub(super) table: Option<Result<(), String>>,
}

impl Plan {
    /// Of a configuration on a machine.
    pub(super) fn new(config: Config, host: &Host) -> Self {
        let allowed = host.allowed();
        let processors = allowed.as_deref().unwrap_or(&[]);
        let cores = server::cores(&config, processors.len());
        let pinned: BTreeSet<usize> =
            (0..cores).filter_map(|core| server::processor(&config, core, processors)).collect();
        let configured = config.limits.connections;
        Plan {
            cores,
            pinned: pinned.into_iter().collect(),
            allowed,
            connections: if configured == 0 { CONNECTIONS } else { configured },
            is_configured: configured != 0,
            table: host.calls.table.map(|try_it| try_it().map_err(|error| error.to_string())),
            config,
        }
    }

    /// The processors that cores stay on; or why a check that is about them has nothing to look at.
    pub(super) fn pins(&self) -> Result<&[usize], String> {
        match &self.allowed {
            Err(why) => Err(why.clone()),
            Ok(_) if self.pinned.is_empty() => Err("the loops are not pinned (--no-pin)".to_owned()),
            Ok(_) => Ok(&self.pinned),
        }
    }

    /// The connections, and where their number is from.
    pub(super) fn reckoned(&self) -> String {
        match self.is_configured {
            true => format!("{} connections (limits.connections)", self.connections),
            false => format!("{} connections (reckoned with)", self.connections),
        }
    }

    /// How bad it is that there is no room for them: only what somebody has asked for is missed.
    pub(super) fn shortfall(&self) -> Status {
        if self.is_configured { Status::Warning } else { Status::Note }
    }

    /// Open files that a core's table must hold.
    pub(super) fn files_of_core(&self) -> u64 {
        let share = self.connections.div_ceil(self.cores.max(1));
        let share = match self.cores {
            0 | 1 => share,
            _ if matches!(self.table, Some(Err(_))) => self.connections,
            _ => (share * SPREAD_PERCENT).div_ceil(100),
        };
        // The least limit that leaves room for them. A reserve never makes more than this of it.
        let mut files = share + share / 16 + 64;
        while files > share && server::room(files - 1).0 >= share {
            files -= 1;
        }
        files as u64
    }

    /// Whether a database is kept, and where.
    pub(super) fn store(&self) -> Option<PathBuf> {
        let is_kept = self.config.store.kind == StoreKind::Sqlite && self.config.cluster.redis.0.is_empty();
        is_kept.then(|| self.config.data_dir.clone())
    }

    /// Bytes of all journals.
    pub(super) fn journal_bytes(&self) -> u64 {
        // A page before each: see `sys/ring.rs`.
        self.cores as u64 * (self.config.store.queue_bytes.next_power_of_two() as u64 + 4096)
    }

    /// What `store.queue_bytes` may be for all journals to take no more than so many bytes: a power of two.
    pub(super) fn queue_bytes_of(&self, most: u64) -> u64 {
        let of_one = (most / self.cores as u64).saturating_sub(4096).max(1 << 20);
        1 << of_one.ilog2()
    }

    /// The ports that are listened on.
    pub(super) fn ports(&self) -> BTreeSet<u16> {
        let port = |address: &Address| match address {
            Address::Socket(address) => Some(address.port()),
            Address::Unix(_) => None,
        };
        self.config
            .listen
            .iter()
            .filter_map(|listen| port(&listen.address))
            .filter(|port| *port != 0)
            .collect()
    }
}
