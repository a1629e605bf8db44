//! The Redis or Valkey server, or Redis Cluster, that the nodes of a cluster share: the thread that asks it ([`start`]), the thread that
//! hears it, and the scripts that decide there. What the cores ask and hear is [`crate::shard::backplane`].
//!
//! ```text
//!   core 0   core 1                         another node
//!     |  ^     |  ^
//!     v  |     v  |      mailboxes
//!   +------------------+  +------------------+
//!   | cluster (link.rs)|  | cluster-hear     |
//!   | asks and tells   |  | (hear.rs)        |
//!   +-----|------^-----+  +--------^---------+
//!         |      |                 |
//!   commands  answers        announcements
//!         v      |                 |
//!   +------------------------------------------+
//!   |  Redis: rooms, nicknames, sessions, ...   |
//!   +------------------------------------------+
//! ```
//!
//! Both threads block: there is no runtime, and no core ever waits for them. A server of a Redis Cluster that has hung is tried by a
//! thread of its own (server.rs), which ends when that is known. Everything that must be decided in one step is a script (`*.lua`),
//! which is carried out where the data is. All scripts may be repeated: what an append has done is known by its tag, and what a publish
//! has done by its key if it has one.
//!
//! Data that Redis loses (it may be configured to keep none, or the last second is gone) is not silently taken for less than it was: rooms
//! have an epoch, and whoever has seen more than there is notices.

mod address;
mod answer;
mod ask;
mod away;
#[doc(hidden)]
pub mod fuzzing;
mod hear;
mod job;
mod keys;
mod link;
mod periodic;
mod roster;
mod script;
mod secrets;
mod server;
mod shared;
mod told;
mod wire;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redis::Value;

use crate::chat::user::NodeId;
use crate::config::Config;
use crate::reactor::mailbox::Exchange;
use crate::shard::mail::Parcel;
use crate::sys::kernel::Sleeper;
use crate::sys::threads;
use crate::sys::waker::{self, Waker};
use hear::Hearer;
use keys::Keys;
use link::{Accept, HomeOf, Link, Settings};
use secrets::{SECRET_BYTES, Secrets};
use shared::Shared;
use wire::{Command, Wire};

/// Why a node cannot be one of the cluster: one line for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterError {
    /// The line.
    pub message: String,
}

impl ClusterError {
    fn new(message: impl Into<String>) -> Self {
        ClusterError { message: message.into() }
    }
}

impl fmt::Display for ClusterError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for ClusterError {}

/// A node that has its number, and is not heard of yet.
#[derive(Debug)]
pub struct Joined {
    /// Its number, which no other start of a node has had lately.
    pub node: NodeId,
    /// What all nodes sign resume tokens with.
    pub resume_secret: [u8; 32],
    /// What all nodes sign the tokens of registered users with.
    pub account_secret: [u8; 32],
    secrets: Secrets,
    settings: Settings,
    wire: Wire,
    /// The line that everything on the backplane is of: without it every room would be doubtful.
    line: String,
}

/// What the threads share with the cores.
pub struct Links {
    /// The mailboxes of the cores, and behind them that of the link.
    pub exchange: Arc<Exchange<Parcel>>,
    /// Wakes them, in the same order.
    pub wakers: Arc<Vec<Waker>>,
    /// What the link sleeps on: that of the last waker.
    pub sleeper: Sleeper,
    /// Set when the cores have ended.
    pub stops: Arc<AtomicBool>,
    /// The home of a nickname, by its folded form.
    pub home: Box<dyn Fn(&str) -> u16 + Send>,
    /// Takes what was signed with another secret too, which some nodes of the cluster have.
    pub accept: Box<dyn Fn([u8; 32]) + Send>,
    /// How many cores there are.
    pub cores: usize,
}

impl fmt::Debug for Links {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Links({} cores)", self.cores)
    }
}

/// The threads.
#[derive(Debug)]
pub struct Running {
    link: JoinHandle<()>,
    hearer: JoinHandle<()>,
    stops: Arc<AtomicBool>,
    wakers: Arc<Vec<Waker>>,
    cores: usize,
}

/// For how long the number of a node is not given out again, in milliseconds: far longer than anything remembers it.
const NODE_ID_MS: u64 = 86_400_000;

/// How often another number is tried. They are random: one that is taken is a surprise.
const NODE_ID_TRIES: usize = 8;

/// Connects to the backplane and gets what all nodes share. `digest` is what they must have been configured with alike: lines of
/// `key=value`, which are compared.
///
/// # Errors
/// When the backplane cannot be used, or the other nodes are configured otherwise.
pub fn join(config: &Config, digest: &str) -> Result<Joined, ClusterError> {
    let cluster = &config.cluster;
    let addresses = address::configured(cluster)?;
    let deadline = Duration::from_millis(cluster.deadline_ms);
    let mut wire = connect(&addresses, deadline)?;
    if let Some(policy) = wire.evicts() {
        log::warn!(
            "cluster.redis: its maxmemory-policy is {policy}: when it is full it throws away rooms, nicknames and sessions; \
             noeviction is right"
        );
    }
    let settings = Settings {
        node: 0,
        keys: Keys::new(&cluster.prefix.0),
        addresses,
        deadline,
        lease_ms: cluster.lease_ms,
        hold_ms: config.session.grace_ms + cluster.lease_ms,
        look: Duration::from_millis(cluster.look_ms),
        room_ttl_ms: cluster.room_ttl_s * 1000,
        idempotency_ms: config.limits.idempotency_ms,
        digest: digest.to_owned(),
    };
    compare(&mut wire, &settings)?;
    let secrets = secrets(&mut wire, &settings)?;
    let node = node_id(&mut wire, &settings)?;
    let settings = Settings { node, ..settings };
    // From now on it is kept for this node that it has been configured so.
    let tell = Command::anywhere("PUBLISH").arg(settings.keys.nodes_channel()).arg("");
    ask(&mut wire, &settings, &[ask::beat(&settings), tell])?;
    let (line, secrets) = line(&mut wire, &settings, secrets)?;
    if let Some(server) = wire.addresses().first() {
        let heard = hear::check(server, &settings.keys, deadline);
        heard.map_err(|why| {
            ClusterError::new(format!("cluster.redis: announcements cannot be heard: {why}"))
        })?;
    }
    let (resume_secret, account_secret) = (secrets.resume, secrets.account);
    Ok(Joined { node, resume_secret, account_secret, secrets, settings, wire, line })
}

/// Whether the URLs of the servers are such. Nothing is read, and nothing asked.
///
/// # Errors
/// When one is none.
pub fn check_urls(config: &crate::config::Cluster) -> Result<(), ClusterError> {
    address::urls(config).map(drop)
}

/// Looks whether what is configured can be used; asks nobody.
///
/// # Errors
/// One line: a URL is none, or the file with certificates cannot be read.
pub fn check(config: &crate::config::Cluster) -> Result<(), ClusterError> {
    address::configured(config).map(drop)
}

/// The first of the servers that can be used.
fn connect(addresses: &[address::Address], deadline: Duration) -> Result<Wire, ClusterError> {
    let mut refusals = Vec::new();
    for address in addresses {
        match Wire::connect(address, deadline) {
            Ok(wire) => return Ok(wire),
            Err(why) => refusals.push(why),
        }
    }
    Err(ClusterError::new(match refusals.is_empty() {
        true => "cluster.redis is not set".to_owned(),
        false => format!("cluster.redis: {}", refusals.join("; ")),
    }))
}

/// Has commands carried out, all of them.
fn ask(wire: &mut Wire, settings: &Settings, commands: &[Command]) -> Result<Vec<Value>, ClusterError> {
    let (answers, _) = wire.execute(commands, Instant::now() + settings.deadline);
    let failed = |trouble: wire::Trouble| {
        let why = address::advised(trouble.text());
        let place = settings.addresses.first().map_or("", |address| &address.name);
        // What could not be reached is named already.
        ClusterError::new(match why.contains(place) {
            true => format!("cluster.redis: {why}"),
            false => format!("cluster.redis: {place}: {why}"),
        })
    };
    answers.into_iter().map(|answer| answer.map_err(failed)).collect()
}

/// Whether the other nodes have been configured alike.
fn compare(wire: &mut Wire, settings: &Settings) -> Result<(), ClusterError> {
    let key = settings.keys.config();
    let set =
        Command::keyed("SET", &key).arg(&settings.digest).arg("NX").arg("PX").arg(2 * settings.lease_ms);
    let answers = ask(wire, settings, &[set, Command::keyed("GET", &key)])?;
    let theirs = answers.get(1).and_then(answer::text).unwrap_or("");
    if theirs == settings.digest {
        return Ok(());
    }
    let lacks = |lines: &str, line: &str| !lines.lines().any(|other| other == line);
    let ours = settings.digest.lines().find(|line| lacks(theirs, line));
    let theirs = theirs.lines().find(|line| lacks(&settings.digest, line));
    Err(ClusterError::new(format!(
        "the nodes of a cluster must be configured alike: this one has {}, the others have {}; {}",
        ours.unwrap_or("nothing"),
        theirs.unwrap_or("nothing"),
        "change it here, or stop them all to change it there"
    )))
}

/// What all nodes sign with: that of the node which came first, and what was signed with before a loss. Without the latter a client that
/// comes at once would be told that its token is nothing worth.
fn secrets(wire: &mut Wire, settings: &Settings) -> Result<Secrets, ClusterError> {
    let key = settings.keys.secret();
    let mut commands = Vec::new();
    for name in ["resume", "account"] {
        let random: String =
            (0..SECRET_BYTES / 8).map(|_| format!("{:016x}", crate::sys::random_u64())).collect();
        commands.push(Command::keyed("HSETNX", &key).arg(name).arg(random));
    }
    commands.push(Command::keyed("HGETALL", &key));
    let answers = ask(wire, settings, &commands)?;
    let found = answers.last().and_then(answer::list).unwrap_or(&[]);
    Secrets::found(found).ok_or_else(|| {
        ClusterError::new(format!(
            "{key} on the backplane is damaged: delete it, which makes all tokens invalid"
        ))
    })
}

/// A number that no other node has.
fn node_id(wire: &mut Wire, settings: &Settings) -> Result<NodeId, ClusterError> {
    for _ in 0..NODE_ID_TRIES {
        // Random, because whoever counts counts again from the beginning when the backplane has lost its data.
        let node = (crate::sys::random_u64() as u32 & 0x7fff_ffff).max(1);
        let reserve = Command::keyed("SET", &settings.keys.node_id(node));
        let reserve = reserve.arg(1).arg("NX").arg("PX").arg(NODE_ID_MS);
        if matches!(ask(wire, settings, &[reserve])?[..], [Value::Okay]) {
            return Ok(node);
        }
    }
    Err(ClusterError::new("cluster.redis: no number for this node is free, which cannot be"))
}

/// The line that everything is of, and what all nodes sign with. A server which is not the one that anybody has vouched for, or that run of
/// it, may have come back with less than it had, and nobody may be left who knows: then another line begins, and rooms are doubtful of which
/// no node has a copy. Nodes that are left have the time to find it and to say what they have, before anybody gets a nickname or begins a
/// room here.
fn line(wire: &mut Wire, settings: &Settings, secrets: Secrets) -> Result<(String, Secrets), ClusterError> {
    let (line, run) = (settings.keys.line(), settings.keys.run());
    let answers = ask(wire, settings, &[Command::keyed("GET", &line), Command::keyed("GET", &run)])?;
    let [known, vouched] = [0, 1].map(|index| answers.get(index).and_then(answer::text).unwrap_or(""));
    // A Redis Cluster has no one run that could be known.
    if wire.server().is_empty() || vouched == wire.server() {
        return Ok((known.to_owned(), secrets));
    }
    if !vouched.is_empty() {
        log::warn!("the backplane was started anew since a node was here: rooms that no node has begin anew");
    }
    log::info!(
        "nobody has said yet that the backplane has all that it had: {} ms are left to nodes that know more",
        link::SETTLE.as_millis()
    );
    let server = wire.server().to_owned();
    ask(wire, settings, &[ask::begin_line(&settings.keys, &server)])?;
    std::thread::sleep(link::SETTLE);
    let key = settings.keys.secret();
    let commands = [
        ask::beat(settings),
        Command::keyed("GET", &line),
        Command::keyed("HGETALL", &key),
        Command::keyed("SET", &run).arg(server),
    ];
    let answers = ask(wire, settings, &commands)?;
    let line = answers.get(1).and_then(answer::text).unwrap_or("").to_owned();
    let found = answers.get(2).and_then(answer::list).unwrap_or(&[]);
    Ok((line, Secrets::found(found).unwrap_or(secrets)))
}

/// Starts the threads.
///
/// # Errors
/// When one cannot be started.
pub fn start(joined: Joined, links: Links) -> io::Result<Running> {
    let Joined { node, secrets, settings, wire, line, .. } = joined;
    let Links { exchange, wakers, sleeper, stops, home, accept, cores } = links;
    secrets.others().iter().for_each(|secret| accept(*secret));
    let shared = Arc::new(Shared::new(exchange, wakers.clone(), stops.clone(), cores, wire.addresses()));
    let hearer = Hearer::new(shared.clone(), settings.keys.clone(), node, settings.deadline);
    let link = Link::new(settings, shared, sleeper, (home as HomeOf, accept as Accept), wire, line, secrets);
    let link = threads::spawn("cluster".into(), move || link.run())?;
    let hearer = threads::spawn("cluster-hear".into(), move || hearer.run())?;
    Ok(Running { link, hearer, stops, wakers, cores })
}

impl Running {
    /// Has what was asked done, says that this node is gone, and ends the threads: within a few seconds, whether the backplane answers or
    /// not.
    pub fn stop(self) {
        let Running { link, hearer, stops, wakers, cores } = self;
        stops.store(true, Ordering::Release);
        waker::wake(&wakers, cores);
        // It wakes the other one, which otherwise ends when it has heard nothing for a while.
        let _ = link.join();
        hearer.thread().unpark();
        let _ = hearer.join();
    }
}
