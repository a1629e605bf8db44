//! What a run is to do.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The shape of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Round trips: to an echo, or to oneself in a room of one.
    Echo,
    /// One room, in which all hear what some say.
    Fanout,
    /// Many rooms of the same size.
    Rooms,
    /// Rooms of very different sizes, and members who move between them.
    Mix,
    /// All come at once.
    Storm,
    /// All are there and say nothing.
    Idle,
    /// One room in which some do not read.
    Slow,
    /// A steady stream of visitors: come, say one thing, go.
    Churn,
    /// All connections break at once, and their sessions come back.
    Resume,
    /// Messages that are acknowledged.
    Acks,
}

impl Profile {
    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Profile::Echo => "echo",
            Profile::Fanout => "fanout",
            Profile::Rooms => "rooms",
            Profile::Mix => "mix",
            Profile::Storm => "storm",
            Profile::Idle => "idle",
            Profile::Slow => "slow",
            Profile::Churn => "churn",
            Profile::Resume => "resume",
            Profile::Acks => "acks",
        }
    }

    /// Whether messages are published on a schedule, or one after the other.
    pub fn publishes(self) -> bool {
        !matches!(self, Profile::Storm | Profile::Idle | Profile::Churn)
    }
}

/// How what is sent depends on what comes back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// Not at all: so many a second, all publishers together.
    Rate(f64),
    /// Each publisher has so many under way.
    InFlight(u32),
}

/// All that is decided before a run begins.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct Plan {
    /// The shape.
    pub profile: Profile,
    /// Connections, publishers included.
    pub connections: usize,
    /// Rooms that they are in.
    pub rooms: usize,
    /// Those who speak.
    pub publishers: usize,
    /// How they do.
    pub load: Load,
    /// Bytes of a message's content.
    pub bytes: usize,
    /// Nanoseconds before anything counts.
    pub warmup_ns: u64,
    /// Nanoseconds that count.
    pub duration_ns: u64,
    /// Threads of the generator.
    pub threads: usize,
    /// The processors that they are pinned to, in turn; none: they are not.
    pub cpus: Vec<usize>,
    /// Addresses to come from, in turn; none: the kernel's choice.
    pub sources: Vec<IpAddr>,
    /// What random choices begin with.
    pub seed: u64,
    /// Connections of one thread that are being made at a time.
    pub handshakes: usize,
    /// Moves between rooms a second (`mix`).
    pub moves: f64,
    /// Members who do not read (`slow`).
    pub slow: usize,
    /// The level at which messages are acknowledged (`acks`).
    pub ack: Option<String>,
    /// Whether the target's system calls are counted, which slows it down.
    pub counts_syscalls: bool,
}

impl Plan {
    /// The end of a run that begins at `begin_ns`.
    pub fn end_ns(&self, begin_ns: u64) -> u64 {
        begin_ns + self.warmup_ns + self.duration_ns
    }
}
