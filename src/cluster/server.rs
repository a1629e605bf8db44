//! A server, and the connection to it.
//!
//! One of a Redis Cluster that has let somebody wait in vain is not waited for again, since those who want something of the others would
//! wait with it: a thread finds out whether it answers, and until then it cannot be reached.

use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use redis::{Connection, Value};

use super::address::{self, Address};
use crate::sys::threads;

/// How soon a server is tried again that could not be reached.
pub(super) const RETRY: Duration = Duration::from_millis(200);

/// A server.
pub(super) struct Server {
    pub(super) address: Address,
    connection: Option<Connection>,
    /// Not before this.
    retry_at: Instant,
    /// It has not answered in time, and has not been found to answer again.
    has_hung: bool,
    /// What a thread finds that tries it.
    trial: Option<Receiver<Result<Connection, String>>>,
    /// Whether it does what it is asked, and why not; `None`: it has not been asked yet.
    state: Option<Result<(), String>>,
    /// Whether it has slots of a Redis Cluster.
    pub(super) has_slots: bool,
}

impl Server {
    /// One that is connected to when it is needed, or has been already.
    pub(super) fn new(address: Address, connection: Option<Connection>) -> Self {
        Server {
            address,
            connection,
            retry_at: Instant::now(),
            has_hung: false,
            trial: None,
            state: None,
            has_slots: false,
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Whether it could not be reached a moment ago.
    pub(super) fn is_left_alone(&self) -> bool {
        self.has_hung || self.retry_at > Instant::now()
    }

    /// It is no server to write to: its connection is of no use after what is still to be read from it.
    pub(super) fn must_go(&mut self, why: &str) {
        self.retry_at = Instant::now() + RETRY;
        self.state = Some(Err(why.to_owned()));
    }

    /// It has done what it was asked.
    pub(super) fn does_it(&mut self) {
        if !matches!(self.state, Some(Ok(()))) {
            self.state = Some(Ok(()));
        }
    }

    /// Whether it does what it is asked, and why not.
    pub(super) fn state(&self) -> Option<Result<(), &str>> {
        self.state.as_ref().map(|state| match state {
            Ok(()) => Ok(()),
            Err(why) => Err(why.as_str()),
        })
    }

    /// After the last answer of a pipeline.
    pub(super) fn end(&mut self) {
        if self.retry_at > Instant::now() {
            self.connection = None;
        }
    }

    /// The connection is given up.
    fn drop_connection(&mut self, why: &str) {
        self.must_go(why);
        self.connection = None;
    }

    /// Sends commands, for which it is connected to if need be.
    ///
    /// # Errors
    /// When it cannot be reached: a line for people. Its connection is gone then.
    pub(super) fn send(&mut self, bytes: &[u8], until: Instant, connecting: Duration) -> Result<(), String> {
        if self.connection.is_none() {
            self.connect(until, connecting)?;
        }
        let Some(connection) = &mut self.connection else { return Err(self.is_away()) };
        let sent = set_timeout(connection, left(until)).and_then(|()| connection.send_packed_command(bytes));
        sent.map_err(|error| self.broken(&error))
    }

    /// The next answer. It is waited for as long as was left when its command was sent, or `wait_until` was called; what trickles in has
    /// an end too.
    ///
    /// # Errors
    /// When it cannot be reached: a line for people. Its connection is gone then.
    pub(super) fn receive(&mut self, until: Instant) -> Result<Value, String> {
        let Some(connection) = &mut self.connection else { return Err(self.is_away()) };
        if Instant::now() > until {
            self.has_hung = true;
            self.drop_connection(address::NOT_IN_TIME);
            return Err(format!("{}: {}", self.address.name, address::NOT_IN_TIME));
        }
        connection.recv_response().map_err(|error| self.broken(&error))
    }

    /// How long the next answer is waited for.
    pub(super) fn wait_until(&mut self, until: Instant) {
        // If it fails, so will the read.
        let _ = self.connection.as_ref().map(|connection| set_timeout(connection, left(until)));
    }

    /// What is said of it while it is not tried: why it was found to be away.
    fn is_away(&self) -> String {
        match &self.state {
            Some(Err(why)) => format!("{}: {why}", self.address.name),
            _ => format!("{} cannot be reached", self.address.name),
        }
    }

    fn broken(&mut self, error: &redis::RedisError) -> String {
        let why = address::explain_broken(error);
        self.drop_connection(&why);
        self.has_hung = why == address::NOT_IN_TIME;
        format!("{}: {why}", self.address.name)
    }

    fn connect(&mut self, until: Instant, timeout: Duration) -> Result<(), String> {
        let found = match &self.trial {
            Some(trial) => match trial.try_recv() {
                Ok(found) => found,
                Err(TryRecvError::Empty) => return Err(self.is_away()),
                Err(TryRecvError::Disconnected) => Err(self.is_away()),
            },
            None if self.retry_at > Instant::now() => return Err(self.is_away()),
            None if self.has_hung => {
                self.trial = try_out(self.address.clone(), timeout);
                return Err(self.is_away());
            }
            None => self.address.connect(timeout.min(left(until))),
        };
        self.trial = None;
        match found {
            Ok(connection) => {
                self.connection = Some(connection);
                self.has_hung = false;
                Ok(())
            }
            Err(why) => {
                self.has_hung = why.contains(address::NOT_IN_TIME);
                self.drop_connection(why.strip_prefix(&format!("{}: ", self.address.name)).unwrap_or(&why));
                Err(why)
            }
        }
    }
}

/// Connects on a thread of its own, and looks whether something is answered: the kernel takes connections for a process that has stopped.
/// It ends after twice the time at the latest. `None` if there can be no thread now.
fn try_out(address: Address, timeout: Duration) -> Option<Receiver<Result<Connection, String>>> {
    let (found, trial) = sync_channel(1);
    let tried = move || {
        let connected = address.connect(timeout).and_then(|mut connection| {
            let answered = set_timeout(&connection, timeout)
                .and_then(|()| redis::cmd("PING").query::<()>(&mut connection));
            answered.map_err(|error| format!("{}: {}", address.name, address::explain_broken(&error)))?;
            Ok(connection)
        });
        // Nobody may want to know any more.
        let _ = found.send(connected);
    };
    threads::spawn("cluster-try".to_owned(), tried).ok().map(|_| trial)
}

/// What is left of the time, but never nothing: a socket would wait for ever then.
fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

pub(super) fn set_timeout(connection: &Connection, timeout: Duration) -> redis::RedisResult<()> {
    let timeout = Some(timeout.max(Duration::from_millis(1)));
    connection.set_write_timeout(timeout)?;
    connection.set_read_timeout(timeout)
}
