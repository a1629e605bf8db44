//! The client: a [`Machine`] that one thread drives, and handles to it.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use mio::Waker;
use serde_json::Value;

use crate::driver::Driver;
use crate::error::Error;
use crate::event::{Delivery, Event, Failure, Link, Reason, Reply, Ticket};
use crate::journal::{Damage, Journal, Left};
use crate::machine::{JoinOptions, Machine};
use crate::options::Options;
use crate::socket::Address;
use crate::wire::{Ack, Command, Level, Position};

/// A lock that a panic elsewhere does not make useless.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the handles and the thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    /// The link has changed, or the thread has ended.
    pub(crate) changed: Condvar,
    pub(crate) waker: Waker,
    /// The program does not take its events, and nothing is read before it does.
    pub(crate) is_full: Arc<AtomicBool>,
    began: Instant,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) machine: Machine,
    pub(crate) journal: Option<Journal>,
    /// Who waits for an answer.
    pub(crate) slots: HashMap<Ticket, Weak<Slot>>,
    /// Why there was no connection last.
    pub(crate) last_reason: Option<Reason>,
    /// The client is to end, at this time at the latest; before, when everything is answered.
    pub(crate) closing: Option<Duration>,
    pub(crate) thread: Option<ThreadId>,
    pub(crate) ended: bool,
    /// How many messages were not answered when it ended.
    pub(crate) left_over: usize,
}

impl State {
    /// Where it stands. Without its thread it does nothing more, whatever it was about to do.
    fn link(&self) -> Link {
        match self.machine.link() {
            link @ Link::Stopped(_) => link,
            _ if self.ended => Link::Stopped(Reason::Died),
            link => link,
        }
    }

    /// Writes down what is to be kept, before anything else that the machine said is done.
    pub(crate) fn keep(&mut self) -> io::Result<()> {
        let records = self.machine.take_records();
        self.journal.as_mut().map_or(Ok(()), |journal| journal.append(records))
    }
}

impl Shared {
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn wake(&self) {
        // It can only fail where the thread has gone, and nobody is to be woken.
        let _ = self.waker.wake();
    }

    /// Asks the machine something, and wakes the thread that does what it says.
    fn ask<T>(&self, ask: impl FnOnce(&mut State, Duration) -> Result<T, Error>) -> Result<T, Error> {
        let mut state = lock(&self.state);
        if state.ended || state.closing.is_some() {
            return Err(Error::Stopped);
        }
        let asked = ask(&mut state, self.now());
        drop(state);
        self.wake();
        asked
    }
}

/// What one waits for.
#[derive(Debug)]
pub(crate) struct Slot {
    is_full: Arc<AtomicBool>,
    answer: Mutex<Answer>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Answer {
    delivery: Option<Delivery>,
    reply: Option<Result<Reply, Failure>>,
}

impl Slot {
    pub(crate) fn deliver(&self, delivery: Delivery) {
        lock(&self.answer).delivery = Some(delivery);
        self.changed.notify_all();
    }

    pub(crate) fn reply(&self, reply: Result<Reply, Failure>) {
        lock(&self.answer).reply = Some(reply);
        self.changed.notify_all();
    }

    fn wait<T>(&self, timeout: Duration, ready: impl Fn(&Answer) -> Option<T>) -> Result<T, Error> {
        let deadline = Instant::now() + timeout;
        let mut answer = lock(&self.answer);
        loop {
            if let Some(found) = ready(&answer) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let is_full = self.is_full.load(Ordering::Relaxed);
                return Err(if is_full { Error::EventsFull } else { Error::Timeout });
            }
            answer = self.changed.wait_timeout(answer, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A message that was sent. May be dropped: the message goes on.
#[derive(Debug, Clone)]
pub struct Receipt {
    ticket: Ticket,
    slot: Arc<Slot>,
}

impl Receipt {
    /// What [`Event::Delivery`] tells of it by.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// What has become of it so far.
    pub fn delivery(&self) -> Delivery {
        lock(&self.slot.answer).delivery.clone().unwrap_or(Delivery::Queued)
    }

    /// Waits until it is acknowledged. [`Error::Timeout`] says nothing about the message, which goes on; a message that has
    /// failed is [`Error::Failed`].
    pub fn wait(&self, timeout: Duration) -> Result<Ack, Error> {
        self.slot.wait(timeout, |answer| match &answer.delivery {
            Some(Delivery::Acknowledged(ack)) => Some(Ok(ack.clone())),
            Some(Delivery::Failed(failure)) => Some(Err(Error::Failed(failure.clone()))),
            _ => None,
        })?
    }
}

/// Something that was asked. May be dropped: the answer comes as an event as well.
#[derive(Debug, Clone)]
pub struct Request {
    ticket: Ticket,
    slot: Arc<Slot>,
}

impl Request {
    /// What [`Event::Reply`] answers it by.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// The answer, if it has come.
    pub fn reply(&self) -> Option<Result<Reply, Failure>> {
        lock(&self.slot.answer).reply.clone()
    }

    /// Waits for the answer; what was refused is [`Error::Failed`].
    pub fn wait(&self, timeout: Duration) -> Result<Reply, Error> {
        self.slot.wait(timeout, |answer| answer.reply.clone())?.map_err(Error::Failed)
    }
}

/// Ends the client with its last handle.
#[derive(Debug)]
struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        let now = self.0.now();
        lock(&self.0.state).closing.get_or_insert(now);
        self.0.wake();
    }
}

/// A client. Clones are handles to the same one, for any threads; with the last one it ends, as by [`Client::close`] without waiting.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    events: Receiver<Event>,
    /// The handle that callbacks get has none: it does not keep the client.
    _guard: Option<Arc<Guard>>,
}

impl Client {
    /// Starts a client. It connects on a thread of its own, and comes back whenever the connection is lost: what fails here is
    /// only what is wrong with the options. [`Client::wait_online`] waits until there is a session.
    pub fn connect(options: Options) -> Result<Client, Error> {
        let address = Address::parse(&options.url)?;
        if options.config.nickname.is_none()
            && options.config.token.is_none()
            && options.config.resume.is_none()
        {
            return Err(Error::Options("a nickname, a token or a session to resume is needed".to_owned()));
        }
        let tls = if address.tls() { Some(options.tls()?) } else { None };
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|error| Error::Io(error.into()))?;
        let (journal, left) = match &options.journal {
            Some(path) => {
                let (journal, left) = Journal::open(path).map_err(Error::Journal)?;
                (Some(journal), left)
            }
            None => (None, Left::default()),
        };
        let mut config = options.config.clone();
        config.resume = config.resume.or(left.resume);
        let mut machine = Machine::new(config, u64::from_ne_bytes(seed));
        if let Some(Damage { bytes, copy }) = left.damage {
            machine.tell(Event::JournalDamaged { bytes, copy });
        }
        machine.restore(Duration::ZERO, left.saved);

        let poll = mio::Poll::new().map_err(Error::Io)?;
        let waker = Waker::new(poll.registry(), Driver::WAKER).map_err(Error::Io)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                machine,
                journal,
                slots: HashMap::new(),
                last_reason: None,
                closing: None,
                thread: None,
                ended: false,
                left_over: 0,
            }),
            changed: Condvar::new(),
            waker,
            is_full: Arc::default(),
            began: Instant::now(),
        });
        let (sender, events) = crossbeam_channel::bounded(options.event_queue);
        let inner = Client { shared: shared.clone(), events: events.clone(), _guard: None };
        let driver = Driver::new(shared.clone(), poll, sender, options, address, tls, inner);
        lock(&shared.state).machine.start(shared.now());
        thread::Builder::new()
            .name("starling-client".to_owned())
            .spawn(move || driver.run())
            .map_err(Error::Io)?;
        Ok(Client { _guard: Some(Arc::new(Guard(shared.clone()))), shared, events })
    }

    /// Waits until there is a session. If the client stops meanwhile, or does not get one in time, [`Error::Offline`] says why.
    pub fn wait_online(&self, timeout: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + timeout;
        let mut state = lock(&self.shared.state);
        loop {
            match state.link() {
                Link::Online => return Ok(()),
                Link::Stopped(reason) => return Err(Error::Offline(reason)),
                Link::Connecting | Link::Waiting => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(state.last_reason.clone().map_or(Error::Timeout, Error::Offline));
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Where it stands now.
    pub fn link(&self) -> Link {
        lock(&self.shared.state).link()
    }

    /// One's nickname.
    pub fn nickname(&self) -> Option<String> {
        lock(&self.shared.state).machine.nickname().map(str::to_owned)
    }

    /// How long the last ping took there and back.
    pub fn latency(&self) -> Option<Duration> {
        lock(&self.shared.state).machine.latency()
    }

    /// The rooms that one is in, or will be in again.
    pub fn joined_rooms(&self) -> Vec<String> {
        lock(&self.shared.state).machine.rooms().map(str::to_owned).collect()
    }

    /// The last message that the client has told of a room: for [`JoinOptions::since`] in a later run.
    pub fn position(&self, room: &str) -> Option<Position> {
        lock(&self.shared.state).machine.position(room).cloned()
    }

    /// What resumes the session, for [`Options::resume`] in a later run. A secret.
    pub fn resume_token(&self) -> Option<String> {
        lock(&self.shared.state).machine.resume_token().map(str::to_owned)
    }

    /// How many messages have been sent and not yet answered.
    pub fn unanswered(&self) -> usize {
        lock(&self.shared.state).machine.unanswered()
    }

    /// The events, for a loop: it blocks until there is one, and ends when the client has been closed.
    pub fn events(&self) -> Events {
        Events(self.events.clone())
    }

    /// The events as a channel, to `select!` on or to take from without blocking. Each event comes out once, wherever it is taken.
    pub fn receiver(&self) -> &Receiver<Event> {
        &self.events
    }

    /// Joins a room, and again after every connection that is lost, until it is left. The reply is [`Reply::Joined`].
    pub fn join(&self, room: &str) -> Result<Request, Error> {
        self.join_with(room, JoinOptions::default())
    }

    /// Joins a room in another way.
    pub fn join_with(&self, room: &str, options: JoinOptions) -> Result<Request, Error> {
        self.request(|machine, now| machine.join(now, room, options))
    }

    /// Leaves a room. The reply is [`Reply::Left`].
    pub fn leave(&self, room: &str) -> Result<Request, Error> {
        self.request(|machine, now| machine.leave(now, room))
    }

    /// Sends a message to a room that one has joined, or is joining. It is published once, or told as failed.
    pub fn send(&self, room: &str, content: &str) -> Result<Receipt, Error> {
        self.push(|machine, now| machine.send(now, room, content, None))
    }

    /// The same, acknowledged when it has reached this level.
    pub fn send_with(&self, room: &str, content: &str, level: Level) -> Result<Receipt, Error> {
        self.push(|machine, now| machine.send(now, room, content, Some(level)))
    }

    /// Sends a message to one person.
    pub fn private(&self, target: &str, content: &str) -> Result<Receipt, Error> {
        self.push(|machine, now| machine.private(now, target, content))
    }

    /// Takes a message back that has not been sent yet; nothing more is told of it. Whether it could be.
    pub fn cancel(&self, ticket: Ticket) -> bool {
        self.shared.ask(|state, _| Ok(state.machine.cancel(ticket))).unwrap_or(false)
    }

    /// Asks who is in a room: [`Reply::Members`]. The next page comes after the last nickname.
    pub fn members(&self, room: &str, limit: Option<u32>, after: Option<&str>) -> Result<Request, Error> {
        self.command(Command::Members { room: room.to_owned(), limit, after: after.map(str::to_owned) })
    }

    /// Asks which rooms there are: [`Reply::Rooms`]. The next page comes after the last name.
    pub fn rooms(&self, limit: Option<u32>, after: Option<&str>) -> Result<Request, Error> {
        self.command(Command::Rooms { limit, after: after.map(str::to_owned) })
    }

    /// Asks for the last messages of a room, or the last ones before this offset: [`Reply::History`].
    pub fn history(&self, room: &str, before: Option<u64>, limit: Option<u32>) -> Result<Request, Error> {
        self.command(Command::History { room: room.to_owned(), before, after: None, limit })
    }

    /// Asks for the messages of a room that follow this offset: [`Reply::History`].
    pub fn history_after(&self, room: &str, after: u64, limit: Option<u32>) -> Result<Request, Error> {
        self.command(Command::History { room: room.to_owned(), before: None, after: Some(after), limit })
    }

    /// Sets a key of a room's state; null deletes it.
    pub fn set_state(&self, room: &str, key: &str, value: Value) -> Result<Request, Error> {
        self.command(Command::State { room: room.to_owned(), key: key.to_owned(), value })
    }

    /// Sets a room's topic: the key `topic` of its state.
    pub fn set_topic(&self, room: &str, topic: &str) -> Result<Request, Error> {
        self.set_state(room, "topic", Value::String(topic.to_owned()))
    }

    /// Takes another nickname. A client that has stopped because its nickname was in use goes on with this one.
    pub fn nick(&self, nickname: &str) -> Result<Request, Error> {
        self.request(|machine, now| machine.nick(now, nickname))
    }

    /// Tells a room that one is typing: at most once a second, and only with a connection.
    pub fn typing(&self, room: &str) -> Result<(), Error> {
        self.shared.ask(|state, now| {
            state.machine.typing(now, room);
            Ok(())
        })
    }

    /// Any other command, those of hosts and admins for example. Commands that have a method of their own for a reason (`join`, `message`) are
    /// [`Error::OwnMethod`].
    pub fn command(&self, command: Command) -> Result<Request, Error> {
        self.request(|machine, now| machine.request(now, command))
    }

    /// Says that the kept private messages up to this offset have come, after [`Options::manual_received`].
    pub fn received(&self, offset: u64) -> Result<(), Error> {
        self.shared.ask(|state, _| {
            state.machine.received(offset);
            Ok(())
        })
    }

    /// Another token, for the next hello.
    pub fn set_token(&self, token: Option<String>) -> Result<(), Error> {
        self.shared.ask(|state, _| {
            state.machine.set_token(token);
            Ok(())
        })
    }

    /// Goes on after [`Event::Stopped`].
    pub fn reconnect(&self) -> Result<(), Error> {
        self.shared.ask(|state, now| {
            state.machine.start(now);
            Ok(())
        })
    }

    /// Waits until what was sent is answered, at most this long, then says goodbye and ends. How many messages were not answered: they
    /// have failed; or, with a journal, they and the session wait for the next run.
    /// Events that find no place any more are dropped from now on. In a callback it does not wait.
    pub fn close(&self, timeout: Duration) -> usize {
        let mut state = lock(&self.shared.state);
        let by = self.shared.now() + timeout;
        state.closing.get_or_insert(by);
        self.shared.wake();
        if state.thread == Some(thread::current().id()) {
            return state.machine.unanswered();
        }
        while !state.ended {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.left_over
    }

    fn push(
        &self,
        ask: impl FnOnce(&mut Machine, Duration) -> Result<Ticket, Error>,
    ) -> Result<Receipt, Error> {
        let (ticket, slot) = self.slot(|state, now| {
            let ticket = ask(&mut state.machine, now)?;
            // If it is on its way already, it is sent without being kept; the thread finds out and stops.
            if let Err(error) = state.keep()
                && state.machine.cancel(ticket)
            {
                return Err(Error::Journal(error));
            }
            Ok(ticket)
        })?;
        Ok(Receipt { ticket, slot })
    }

    fn request(
        &self,
        ask: impl FnOnce(&mut Machine, Duration) -> Result<Ticket, Error>,
    ) -> Result<Request, Error> {
        let (ticket, slot) = self.slot(|state, now| ask(&mut state.machine, now))?;
        Ok(Request { ticket, slot })
    }

    fn slot(
        &self,
        ask: impl FnOnce(&mut State, Duration) -> Result<Ticket, Error>,
    ) -> Result<(Ticket, Arc<Slot>), Error> {
        self.shared.ask(|state, now| {
            let ticket = ask(state, now)?;
            let slot = Arc::new(Slot {
                is_full: self.shared.is_full.clone(),
                answer: Mutex::default(),
                changed: Condvar::new(),
            });
            state.slots.insert(ticket, Arc::downgrade(&slot));
            Ok((ticket, slot))
        })
    }
}

/// The events of a client, one after the other.
#[derive(Debug, Clone)]
pub struct Events(Receiver<Event>);

impl Events {
    /// The next event, if one comes in this time.
    pub fn next_timeout(&self, timeout: Duration) -> Option<Event> {
        self.0.recv_timeout(timeout).ok()
    }

    /// The next event, if there is one already.
    pub fn try_next(&self) -> Option<Event> {
        self.0.try_recv().ok()
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.0.recv().ok()
    }
}
