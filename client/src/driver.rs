//! The thread of a client: it reads and writes, and does what the machine says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError};
use mio::{Events, Interest, Poll, Token};
use rustls::ClientConfig;

use crate::client::{Client, Shared, State, lock};
use crate::event::{Event, Link, Reason};
use crate::machine::{ConnectFailure, Output};
use crate::options::{OnEvent, OnWake, Options};
use crate::socket::{Address, End, Heard, Socket};

/// How many events are read before what they lead to is done.
const READS_A_TURN: usize = 64;

/// When is looked whether the program has taken events, after they found no place; the pauses double while it has not.
const LOOK_AGAIN_FIRST: Duration = Duration::from_millis(1);
const LOOK_AGAIN_LAST: Duration = Duration::from_millis(64);

type Arrival = (u64, Result<Socket, ConnectFailure>);

pub(crate) struct Driver {
    shared: Arc<Shared>,
    poll: Poll,
    socket: Option<Socket>,
    address: Address,
    tls: Option<Arc<ClientConfig>>,
    connect_timeout: Duration,
    /// The attempt that counts: what comes of others is dropped.
    attempt: u64,
    arrived: Sender<Arrival>,
    arrivals: Receiver<Arrival>,
    events: Sender<Event>,
    /// Events that have no place in the channel. While there are any, nothing is read.
    backlog: VecDeque<Event>,
    look_again: Duration,
    on_event: Option<OnEvent>,
    on_wake: Option<OnWake>,
    /// For callbacks.
    client: Client,
    /// The client has been told to end.
    closing: bool,
    quit: bool,
}

/// Tells everybody that the thread has ended, however it did.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        lock(&self.0.state).ended = true;
        self.0.changed.notify_all();
    }
}

impl Driver {
    pub(crate) const WAKER: Token = Token(0);
    const SOCKET: Token = Token(1);

    pub(crate) fn new(
        shared: Arc<Shared>,
        poll: Poll,
        events: Sender<Event>,
        options: Options,
        address: Address,
        tls: Option<Arc<ClientConfig>>,
        client: Client,
    ) -> Driver {
        let (arrived, arrivals) = crossbeam_channel::unbounded();
        Driver {
            shared,
            poll,
            socket: None,
            address,
            tls,
            connect_timeout: options.connect_timeout,
            attempt: 0,
            arrived,
            arrivals,
            events,
            backlog: VecDeque::new(),
            look_again: LOOK_AGAIN_FIRST,
            on_event: options.on_event,
            on_wake: options.on_wake,
            client,
            closing: false,
            quit: false,
        }
    }

    pub(crate) fn run(mut self) {
        let _ended = Ended(self.shared.clone());
        lock(&self.shared.state).thread = Some(thread::current().id());
        let mut polled = Events::with_capacity(8);
        loop {
            let more = self.turn();
            if self.quit && self.socket.is_none() && matches!(self.client.link(), Link::Stopped(_)) {
                return;
            }
            let timeout = if more { Some(Duration::ZERO) } else { self.timeout() };
            // Whatever it was that woke us, everything is looked at.
            if let Err(error) = self.poll.poll(&mut polled, timeout)
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                return;
            }
        }
    }

    /// Takes in what has happened, and does what follows from it. Whether there is more to read.
    fn turn(&mut self) -> bool {
        let shared = self.shared.clone();
        let mut state = lock(&shared.state);
        let now = shared.now();
        self.arrive(&mut state, now);
        let more = self.read(&mut state, now);
        state.machine.tick(now);
        self.look_for_the_end(&mut state, now);
        let kept = state.keep();
        let mut outputs: Vec<Output> = std::iter::from_fn(|| state.machine.poll()).collect();
        if let Err(error) = kept {
            // What is not written down must not be said.
            outputs.retain(|output| matches!(output, Output::Event(_)));
            state.machine.abort(Reason::Journal(error.to_string()));
            outputs.extend(std::iter::from_fn(|| state.machine.poll()));
        }
        for output in &outputs {
            if let Output::Event(event) = output {
                note(&mut state, event);
            }
        }
        drop(state);
        shared.changed.notify_all();
        let was_full = !self.backlog.is_empty();
        self.obey(outputs);
        self.flush();
        // What came while nothing was read is announced by no poll.
        more || (was_full && self.backlog.is_empty())
    }

    /// The connections that have been made or not.
    fn arrive(&mut self, state: &mut State, now: Duration) {
        while let Ok((attempt, result)) = self.arrivals.try_recv() {
            if attempt != self.attempt {
                continue;
            }
            self.attempt += 1;
            let registered = result.and_then(|mut socket| {
                let interest = Interest::READABLE | Interest::WRITABLE;
                match self.poll.registry().register(socket.source(), Self::SOCKET, interest) {
                    Ok(()) => Ok(socket),
                    Err(error) => Err(ConnectFailure {
                        reason: Reason::Unreachable(error.to_string()),
                        retry_after: None,
                    }),
                }
            });
            match registered {
                Ok(socket) => {
                    self.socket = Some(socket);
                    state.machine.connected(now);
                }
                Err(failure) => state.machine.connect_failed(now, failure),
            }
        }
    }

    fn read(&mut self, state: &mut State, now: Duration) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        if !self.backlog.is_empty() {
            // The server may well have said something; it is this side that does not listen.
            state.machine.heard(now);
            return false;
        }
        for _ in 0..READS_A_TURN {
            match socket.read() {
                Ok(Heard::Text(text)) => state.machine.frame(now, &text),
                Ok(Heard::Life) => state.machine.heard(now),
                Ok(Heard::Nothing) => return false,
                Err(end) => {
                    self.socket = None;
                    tell_end(state, now, &self.address, end);
                    return false;
                }
            }
        }
        true
    }

    fn look_for_the_end(&mut self, state: &mut State, now: Duration) {
        let Some(by) = state.closing else { return };
        self.closing = true;
        let left_over = state.machine.unanswered();
        if !self.quit && (left_over == 0 || now >= by || matches!(state.machine.link(), Link::Stopped(_))) {
            self.quit = true;
            state.left_over = left_over;
            if left_over > 0 && state.journal.is_some() {
                // Another run goes on with them, in the same session.
                state.machine.detach();
            } else {
                state.machine.quit(now);
            }
        }
    }

    fn obey(&mut self, outputs: Vec<Output>) {
        let mut put = self.put_backlog();
        for output in outputs {
            match output {
                Output::Connect => self.connect(),
                Output::Write(frame) => {
                    if let Some(socket) = &mut self.socket
                        && let Err(end) = socket.write(&frame)
                    {
                        self.lost(end);
                    }
                }
                Output::Close => {
                    // An attempt that is under way is another's from now on.
                    self.attempt += 1;
                    if let Some(socket) = self.socket.take() {
                        socket.close();
                    }
                }
                Output::Event(event) => match &mut self.on_event {
                    Some(call) => call(&self.client, event),
                    None => put |= self.put(event),
                },
            }
        }
        self.shared.is_full.store(!self.backlog.is_empty(), Ordering::Relaxed);
        if put && let Some(wake) = &self.on_wake {
            wake();
        }
    }

    fn put_backlog(&mut self) -> bool {
        let mut put = false;
        while let Some(event) = self.backlog.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => put = true,
                Err(TrySendError::Full(event)) => {
                    self.backlog.push_front(event);
                    break;
                }
                Err(TrySendError::Disconnected(_)) => self.backlog.clear(),
            }
        }
        if self.closing {
            self.backlog.clear();
        }
        self.look_again = if put { LOOK_AGAIN_FIRST } else { (self.look_again * 2).min(LOOK_AGAIN_LAST) };
        put
    }

    fn put(&mut self, event: Event) -> bool {
        if !self.backlog.is_empty() {
            self.backlog.push_back(event);
            return false;
        }
        match self.events.try_send(event) {
            Ok(()) => true,
            Err(TrySendError::Full(event)) => {
                if !self.closing {
                    self.backlog.push_back(event);
                }
                false
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }

    /// Connects on a thread of its own, because names are resolved and handshakes are done blocking.
    fn connect(&mut self) {
        self.attempt += 1;
        let attempt = self.attempt;
        let (address, tls, timeout) = (self.address.clone(), self.tls.clone(), self.connect_timeout);
        let (arrived, shared) = (self.arrived.clone(), self.shared.clone());
        let spawned = thread::Builder::new().name("starling-connect".to_owned()).spawn(move || {
            let result = Socket::connect(&address, tls.as_ref(), timeout);
            // Nobody waits for it any more if the client has ended.
            let _ = arrived.send((attempt, result));
            let _ = shared.waker.wake();
        });
        if let Err(error) = spawned {
            let failure =
                ConnectFailure { reason: Reason::Unreachable(error.to_string()), retry_after: None };
            let _ = self.arrived.send((attempt, Err(failure)));
            let _ = self.shared.waker.wake();
        }
    }

    fn flush(&mut self) {
        if let Some(socket) = &mut self.socket
            && let Err(end) = socket.flush()
        {
            self.lost(end);
        }
    }

    /// Writing has found the end. What the server has said before may still be read: its `bye`, for example.
    fn lost(&mut self, end: End) {
        let Some(mut socket) = self.socket.take() else { return };
        let shared = self.shared.clone();
        let mut state = lock(&shared.state);
        let now = shared.now();
        let end = loop {
            match socket.read() {
                Ok(Heard::Text(text)) => state.machine.frame(now, &text),
                // That it is no server of ours says more than that it has gone.
                Err(last) if last.is_foreign => break last,
                _ => break end,
            }
        };
        tell_end(&mut state, now, &self.address, end);
        drop(state);
        // The next turn does what follows.
        let _ = shared.waker.wake();
    }

    fn timeout(&self) -> Option<Duration> {
        let state = lock(&self.shared.state);
        let now = self.shared.now();
        let closing = state.closing.filter(|_| !self.quit);
        let machine = [state.machine.deadline(), closing].into_iter().flatten().min();
        let machine = machine.map(|at| at.saturating_sub(now));
        let backlog = (!self.backlog.is_empty()).then_some(self.look_again);
        // A poll counts in milliseconds, and must not be early.
        let machine = machine.map(|left| left + Duration::from_micros(999));
        [machine, backlog].into_iter().flatten().min()
    }
}

fn tell_end(state: &mut State, now: Duration, address: &Address, end: End) {
    if end.is_foreign {
        state.machine.not_understood(now, address.no_frames(&end.reason));
    } else {
        state.machine.closed(now, end.code, &end.reason);
    }
}

/// Tells whoever waits for this event.
fn note(state: &mut State, event: &Event) {
    match event {
        Event::Delivery { ticket, delivery } => {
            if let Some(slot) = state.slots.get(ticket).and_then(std::sync::Weak::upgrade) {
                slot.deliver(delivery.clone());
            }
            if delivery.is_final() {
                state.slots.remove(ticket);
            }
        }
        Event::Reply { ticket, reply } => {
            if let Some(slot) = state.slots.remove(ticket).and_then(|slot| slot.upgrade()) {
                slot.reply(reply.clone());
            }
        }
        Event::Online(_) => state.last_reason = None,
        Event::Waiting { reason, .. } | Event::Stopped(reason) => state.last_reason = Some(reason.clone()),
        _ => {}
    }
}
