//! The connections on which commands are sent, and their answers read: one to a plain server, one to each primary of a Redis Cluster.
//!
//! Commands go out in pipelines. Those of one slot go to one server, in order, and so are carried out and answered in order. The cluster
//! client of the `redis` crate is not used: its pipelines refuse PUBLISH, fail as a whole for one command, and leave answers unread on
//! other connections when one breaks. What is needed here is little: which slot is where, and what to do when that changes.
//!
//! A connection on which an answer has not come in time is dropped: what comes later would be taken for the answer to something else.

use std::time::{Duration, Instant};

use redis::{Cmd, Value};

use super::address::{self, Address};
use super::keys::{SLOTS, slot_of};
use super::script::{self, Script};
use super::server::{self, Server};

/// A command, and where it belongs.
#[derive(Debug)]
pub(super) struct Command {
    cmd: Cmd,
    /// Its slot; `None`: any server will do.
    slot: Option<u16>,
}

impl Command {
    /// One that has a key, which decides about its slot, as its first argument.
    pub(super) fn keyed(name: &str, key: &str) -> Self {
        let mut cmd = redis::cmd(name);
        cmd.arg(key);
        Command { cmd, slot: Some(slot_of(key)) }
    }

    /// One that any server may carry out.
    pub(super) fn anywhere(name: &str) -> Self {
        Command { cmd: redis::cmd(name), slot: None }
    }

    /// A script with its keys, of which there is at least one.
    pub(super) fn script<K: AsRef<str>>(script: Script, keys: &[K]) -> Self {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(script.digest()).arg(keys.len());
        keys.iter().for_each(|key| _ = cmd.arg(key.as_ref()));
        Command { cmd, slot: keys.first().map(|key| slot_of(key.as_ref())) }
    }

    /// Adds an argument.
    pub(super) fn arg(mut self, argument: impl redis::ToRedisArgs) -> Self {
        self.cmd.arg(argument);
        self
    }
}

/// Why a command has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Its server does not answer, or will not do it now. Perhaps it was done.
    Lost(String),
    /// It was refused, for this reason.
    Refused(String),
}

impl Trouble {
    /// The reason.
    pub(super) fn text(&self) -> &str {
        match self {
            Trouble::Lost(text) | Trouble::Refused(text) => text,
        }
    }
}

pub(super) type Answer = Result<Value, Trouble>;

/// The oldest version whose commands are enough: XADD and XTRIM with MINID.
const VERSION_MIN: (u32, u32) = (6, 2);

/// How often a command is tried again because its place has moved, or the script is not there.
const TRIES: usize = 5;

/// How often a Redis Cluster is asked where slots are while something is wrong.
const LOOK_AGAIN: Duration = server::RETRY;

/// How long an answer is waited for, at least, when another server has used up the time: it has been on its way meanwhile.
const WAIT_MIN: Duration = Duration::from_millis(50);

/// All of them.
pub(super) struct Wire {
    servers: Vec<Server>,
    /// By which rule the first server throws keys away when it is full, if it may be.
    evicts: Option<String>,
    /// What the first server calls this run of it; nothing for a Redis Cluster, of whose servers each has its own.
    server: String,
    /// Which of them has each slot; `None`: there is only one.
    slots: Option<Box<[u16]>>,
    /// Whether some slots have none.
    has_gap: bool,
    /// Something has moved, or a server is away: the slots are to be looked at again.
    is_stale: bool,
    /// At once.
    has_news: bool,
    looked_at: Instant,
    timeout: Duration,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Wire({:?})", self.addresses())
    }
}

/// A slot that no server has, and what those are called in the log.
const NOWHERE: u16 = u16::MAX;
const NOBODY: &str = "some slots";

impl Wire {
    /// Connects to one server, and to the primaries of its Redis Cluster if it belongs to one.
    ///
    /// # Errors
    /// When it cannot be used: a line for people.
    pub(super) fn connect(address: &Address, timeout: Duration) -> Result<Self, String> {
        let started = Instant::now();
        let mut connection = address.connect(timeout)?;
        let failed = |error: &redis::RedisError| format!("{}: {}", address.name, address::explain(error));
        server::set_timeout(&connection, timeout.saturating_sub(started.elapsed()))
            .map_err(|error| failed(&error))?;
        let info: String = redis::cmd("INFO").query(&mut connection).map_err(|error| failed(&error))?;
        let is_cluster = look(&info).map_err(|why| format!("{}: {why}", address.name))?;
        let server = Server::new(address.clone(), Some(connection));
        let run = info_field(&info, "run_id").unwrap_or("");
        let mut wire = Wire {
            servers: vec![server],
            evicts: evicts(&info),
            server: if is_cluster { String::new() } else { run.to_owned() },
            slots: None,
            has_gap: false,
            is_stale: false,
            has_news: false,
            looked_at: started,
            timeout,
        };
        if is_cluster {
            wire.look_for_slots()?;
        }
        for index in 0..wire.servers.len() {
            wire.load_scripts(index, started + timeout * 2);
        }
        Ok(wire)
    }

    /// From now on servers are connected to for so long, and where there are several each is waited for half of it.
    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// By which rule the first server throws keys away when it is full, if it does.
    pub(super) fn evicts(&self) -> Option<&str> {
        self.evicts.as_deref()
    }

    /// Which run of which server this is.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Where the servers are.
    pub(super) fn addresses(&self) -> Vec<Address> {
        self.servers.iter().map(|server| server.address.clone()).collect()
    }

    /// Sends the commands, and reads the answers: one for each, in order, until `until` at the latest. The second is the reason if no
    /// server answers any more, or not as a primary: then this is of no use any more.
    pub(super) fn execute(&mut self, commands: &[Command], until: Instant) -> (Vec<Answer>, Option<String>) {
        let mut answers: Vec<Answer> =
            commands.iter().map(|_| Err(Trouble::Lost("it has moved again and again".to_owned()))).collect();
        let mut pending: Vec<usize> = (0..commands.len()).collect();
        for _ in 0..TRIES {
            if pending.is_empty() {
                break;
            }
            if self.is_stale && (self.has_news || self.looked_at.elapsed() >= LOOK_AGAIN) {
                // If nobody knows, commands fail one by one, and that is told below.
                let _ = self.look_for_slots();
            }
            pending = self.round(commands, &pending, &mut answers, until);
        }
        let lost = self.is_lost().then(|| {
            let last = answers.iter().rev().find_map(|answer| match answer {
                Err(Trouble::Lost(why)) => Some(why.clone()),
                _ => None,
            });
            last.unwrap_or_else(|| "no server answers".to_owned())
        });
        (answers, lost)
    }

    /// Those who have slots of a Redis Cluster, as far as they have been asked something: whether they do it, and why not.
    pub(super) fn states(&self) -> impl Iterator<Item = (&str, Result<(), &str>)> {
        let servers = self.servers.iter().filter(|server| server.has_slots);
        let nobody = self
            .slots
            .is_some()
            .then_some((NOBODY, if self.has_gap { Err("no server has them") } else { Ok(()) }));
        servers.filter_map(|server| Some((server.address.name.as_str(), server.state()?))).chain(nobody)
    }

    /// Whether a server has slots; or, of those that no server has, whether there may be some.
    pub(super) fn has_slots(&self, name: &str) -> bool {
        name == NOBODY || self.servers.iter().any(|server| server.has_slots && server.address.name == name)
    }

    fn is_lost(&self) -> bool {
        !self.servers.iter().any(Server::is_connected)
    }

    /// One pipeline to each server. Returns what is to be tried again.
    fn round(
        &mut self,
        commands: &[Command],
        pending: &[usize],
        answers: &mut [Answer],
        until: Instant,
    ) -> Vec<usize> {
        let mut shares: Vec<Vec<usize>> = self.servers.iter().map(|_| Vec::new()).collect();
        for index in pending {
            match self.server_of(commands[*index].slot) {
                Some(server) => shares[server].push(*index),
                None => answers[*index] = Err(Trouble::Lost("no server has the slot".to_owned())),
            }
        }
        for (server, share) in shares.iter_mut().enumerate() {
            if share.is_empty() {
                continue;
            }
            let mut bytes = Vec::new();
            share.iter().for_each(|index| commands[*index].cmd.write_packed_command(&mut bytes));
            if let Err(why) = self.send(server, &bytes, self.patience(until)) {
                share.iter().for_each(|index| answers[*index] = Err(Trouble::Lost(why.clone())));
                share.clear();
            }
        }
        let mut again = Vec::new();
        let mut asks = Vec::new();
        let mut has_waited = false;
        for (server, share) in shares.iter().enumerate() {
            let mut must_load = false;
            let until = self.patience(until).max(Instant::now() + WAIT_MIN);
            if has_waited {
                self.servers[server].wait_until(until);
            }
            for (position, index) in share.iter().enumerate() {
                let value = match self.receive(server, until) {
                    Ok(value) => value,
                    Err(why) => {
                        has_waited = true;
                        let rest = &share[position..];
                        rest.iter().for_each(|index| answers[*index] = Err(Trouble::Lost(why.clone())));
                        break;
                    }
                };
                let Value::ServerError(error) = value else {
                    answers[*index] = Ok(value);
                    // What has no slot is done by any, whatever has become of the slots.
                    if commands[*index].slot.is_some() {
                        self.servers[server].does_it();
                    }
                    continue;
                };
                let text = match error.details() {
                    Some(details) => format!("{} {details}", error.code()),
                    None => error.code().to_owned(),
                };
                match error.code() {
                    "NOSCRIPT" => {
                        must_load = true;
                        again.push(*index);
                    }
                    "MOVED" => {
                        self.is_stale = true;
                        self.has_news = true;
                        again.push(*index);
                    }
                    "ASK" => asks.push((*index, text)),
                    "TRYAGAIN" => again.push(*index),
                    // The server is none to write to, or not yet.
                    "READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" => {
                        answers[*index] = Err(Trouble::Lost(text.clone()));
                        self.servers[server].must_go(&text);
                        self.is_stale = self.slots.is_some();
                    }
                    _ => answers[*index] = Err(Trouble::Refused(text)),
                }
            }
            self.servers[server].end();
            if must_load {
                self.load_scripts(server, until);
            }
        }
        for (index, text) in asks {
            answers[index] = self.ask(&commands[index], &text, until);
        }
        again.sort_unstable();
        again
    }

    /// Until when an answer is waited for. Where there are several servers everybody waits for the slowest, and so that is given up sooner:
    /// what the others are asked meanwhile is still in time then.
    fn patience(&self, until: Instant) -> Instant {
        match self.slots {
            Some(_) => until.min(Instant::now() + self.timeout / 2),
            None => until,
        }
    }

    fn server_of(&self, slot: Option<u16>) -> Option<usize> {
        let connected = || self.servers.iter().position(Server::is_connected);
        match (&self.slots, slot) {
            (None, _) => Some(0),
            (Some(_), None) => connected().or(Some(0)),
            (Some(slots), Some(slot)) => {
                let server = slots[usize::from(slot)];
                (server != NOWHERE).then_some(usize::from(server))
            }
        }
    }

    fn send(&mut self, server: usize, bytes: &[u8], until: Instant) -> Result<(), String> {
        let sent = self.servers[server].send(bytes, until, self.timeout);
        self.is_stale |= sent.is_err() && self.slots.is_some();
        sent
    }

    fn receive(&mut self, server: usize, until: Instant) -> Result<Value, String> {
        let received = self.servers[server].receive(until);
        self.is_stale |= received.is_err() && self.slots.is_some();
        received
    }

    /// A slot is on its way: the command is for the server that gets it.
    fn ask(&mut self, command: &Command, text: &str, until: Instant) -> Answer {
        let lost = |why: String| Trouble::Lost(why);
        let target = text.rsplit(' ').next().and_then(|place| self.at(place));
        let Some(address) = target else { return Err(lost(format!("who has the slot? {text}"))) };
        let server = self.server_at(address);
        let mut bytes = redis::cmd("ASKING").get_packed_command();
        command.cmd.write_packed_command(&mut bytes);
        self.send(server, &bytes, until).map_err(lost)?;
        self.receive(server, until).map_err(lost)?;
        let mut value = self.receive(server, until).map_err(lost)?;
        if matches!(&value, Value::ServerError(error) if error.code() == "NOSCRIPT") {
            self.load_scripts(server, until);
            self.send(server, &bytes, until).map_err(lost)?;
            self.receive(server, until).map_err(lost)?;
            value = self.receive(server, until).map_err(lost)?;
        }
        match value {
            Value::ServerError(error) => Err(Trouble::Refused(error.to_string())),
            value => Ok(value),
        }
    }

    /// `host:port`, without a host: that of the first server.
    fn at(&self, place: &str) -> Option<Address> {
        let (host, port) = place.rsplit_once(':')?;
        let first = &self.servers.first()?.address;
        let host = if host.is_empty() { first.host()? } else { host };
        Some(first.at(host, port.parse().ok()?))
    }

    fn server_at(&mut self, address: Address) -> usize {
        let found = self.servers.iter().position(|server| server.address.name == address.name);
        found.unwrap_or_else(|| {
            self.servers.push(Server::new(address, None));
            self.servers.len() - 1
        })
    }

    /// Asks the servers which slot is where, until one knows.
    fn look_for_slots(&mut self) -> Result<(), String> {
        self.looked_at = Instant::now();
        self.has_news = false;
        let mut last = "no server answers".to_owned();
        for index in 0..self.servers.len() {
            let until = Instant::now() + self.timeout;
            let asked = self
                .send(index, &redis::cmd("CLUSTER").arg("SLOTS").get_packed_command(), until)
                .and_then(|()| self.receive(index, until));
            match asked {
                Ok(Value::Array(ranges)) => {
                    let address = self.servers[index].address.clone();
                    self.take_slots(&address, &ranges);
                    return Ok(());
                }
                Ok(other) => last = format!("{}: CLUSTER SLOTS: {other:?}", self.servers[index].address.name),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    /// Ranges of `[first, last, [host, port, ..], replicas..]`.
    fn take_slots(&mut self, asked: &Address, ranges: &[Value]) {
        let mut slots = vec![NOWHERE; SLOTS].into_boxed_slice();
        let mut named = Vec::new();
        for range in ranges {
            let Value::Array(range) = range else { continue };
            let (Some(Value::Int(first)), Some(Value::Int(last)), Some(Value::Array(primary))) =
                (range.first(), range.get(1), range.get(2))
            else {
                continue;
            };
            // Nothing, or "?": where it was asked.
            let host = match primary.first() {
                Some(Value::BulkString(host)) if !host.is_empty() && host != b"?" => {
                    String::from_utf8_lossy(host).into_owned()
                }
                _ => asked.host().unwrap_or("localhost").to_owned(),
            };
            let Some(Value::Int(port)) = primary.get(1) else { continue };
            let server = self.server_at(asked.at(&host, *port as u16));
            named.push(server);
            let (first, last) = (*first as usize, *last as usize);
            if first <= last && last < SLOTS {
                slots[first..=last].fill(server as u16);
            }
        }
        for (index, server) in self.servers.iter_mut().enumerate() {
            server.has_slots = named.contains(&index);
        }
        self.has_gap = slots.contains(&NOWHERE);
        self.is_stale = self.has_gap || named.iter().any(|server| self.servers[*server].is_left_alone());
        // Those that have no slots any more are not asked for any, but may still know who has. Their number is bounded so that a
        // cluster which is moved about does not make the list longer and longer.
        if self.servers.len() > 2 * named.len() + 16 {
            let mut moved = vec![NOWHERE; self.servers.len()];
            let mut kept = Vec::new();
            for (index, server) in std::mem::take(&mut self.servers).into_iter().enumerate() {
                if named.contains(&index) {
                    moved[index] = kept.len() as u16;
                    kept.push(server);
                }
            }
            self.servers = kept;
            slots
                .iter_mut()
                .filter(|slot| **slot != NOWHERE)
                .for_each(|slot| *slot = moved[usize::from(*slot)]);
        }
        self.slots = Some(slots);
    }

    /// Has a server learn the scripts. If that fails, so will what needs them.
    fn load_scripts(&mut self, server: usize, until: Instant) {
        let mut bytes = Vec::new();
        let mut count = 0;
        for source in script::sources() {
            redis::cmd("SCRIPT").arg("LOAD").arg(source).write_packed_command(&mut bytes);
            count += 1;
        }
        if self.send(server, &bytes, until).is_ok() {
            for _ in 0..count {
                if let Ok(Value::ServerError(error)) = self.receive(server, until) {
                    log::debug!("{}: SCRIPT LOAD: {error}", self.servers[server].address.name);
                }
            }
        }
    }
}

/// A field of what INFO says.
fn info_field<'i>(info: &'i str, name: &str) -> Option<&'i str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// What INFO says: by which rule keys are thrown away, if there is a bound to its memory and a rule.
fn evicts(info: &str) -> Option<String> {
    let field = |name: &str| info_field(info, name);
    let policy = field("maxmemory_policy").filter(|policy| *policy != "noeviction")?;
    field("maxmemory").is_some_and(|bytes| bytes != "0").then(|| policy.to_owned())
}

/// What INFO says: whether it belongs to a Redis Cluster.
///
/// # Errors
/// When it is none to use, or not yet.
fn look(info: &str) -> Result<bool, String> {
    let field = |name: &str| info_field(info, name);
    let version = field("redis_version").unwrap_or("0");
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < VERSION_MIN {
        let (major, minor) = VERSION_MIN;
        return Err(format!("Redis {version} is too old: {major}.{minor} or later, or Valkey, is needed"));
    }
    if field("loading") == Some("1") {
        return Err("it is still reading its data".to_owned());
    }
    let is_cluster = field("cluster_enabled") == Some("1");
    // In a Redis Cluster any node knows who is who.
    if !is_cluster && field("role") == Some("slave") {
        return Err("it is a replica: name its primary in cluster.redis, or both".to_owned());
    }
    Ok(is_cluster)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_tells_who_can_be_used() {
        let info = |version: &str, role: &str, cluster: u8, loading: u8| {
            format!(
                "# Server\r\nredis_version:{version}\r\nloading:{loading}\r\nrole:{role}\r\ncluster_enabled:{cluster}\r\n"
            )
        };
        assert_eq!(look(&info("6.2.0", "master", 0, 0)), Ok(false));
        assert_eq!(look(&info("7.2.4", "slave", 1, 0)), Ok(true));
        assert!(look(&info("6.0.16", "master", 0, 0)).unwrap_err().contains("6.2"));
        assert!(look(&info("10.0", "master", 0, 0)).is_ok());
        assert!(look(&info("7.0", "slave", 0, 0)).unwrap_err().contains("replica"));
        assert!(look(&info("7.0", "master", 0, 1)).unwrap_err().contains("reading"));
        assert!(look("").is_err());
    }
}
