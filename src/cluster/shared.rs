//! What the link and the thread that hears share: which rooms are to be heard, and what the link has to do about what was heard.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::address::Address;
use crate::reactor::mailbox::Exchange;
use crate::shard::mail::Parcel;
use crate::sys::waker::{self, Waker};

/// Messages from other nodes that wait for the link. Past them it reads the inbox.
const INBOX_MAX: usize = 4096;

/// What they share.
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) exchange: Arc<Exchange<Parcel>>,
    pub(super) wakers: Arc<Vec<Waker>>,
    pub(super) stops: Arc<AtomicBool>,
    /// The cores, which is also the place of the link's mailbox behind theirs.
    pub(super) cores: usize,
    /// The link has something to look at in the state.
    has_heard: AtomicBool,
    /// The link has said that the backplane is down, and why: nobody wakes the thread that hears meanwhile.
    is_down: AtomicBool,
}

/// What is behind the lock. It is never held for longer than it takes to push a parcel.
#[derive(Default)]
pub(super) struct State {
    /// The rooms that are to be heard, and the core that hears them.
    pub(super) rooms: HashMap<Arc<str>, u16>,
    /// Those of which that may have changed since they were looked at.
    pub(super) changed: HashSet<Arc<str>>,
    /// Where to hear.
    pub(super) servers: Vec<Address>,
    /// Rooms that are heard from now on: something may have been said just before.
    pub(super) confirmed: Vec<Arc<str>>,
    /// What was announced for this node: the id before, the id, and the message.
    pub(super) inbox: VecDeque<String>,
    /// A node has come, or is gone.
    pub(super) has_new_nodes: bool,
    /// Something for this node may have been missed.
    pub(super) has_missed: bool,
}

impl Shared {
    pub(super) fn new(
        exchange: Arc<Exchange<Parcel>>,
        wakers: Arc<Vec<Waker>>,
        stops: Arc<AtomicBool>,
        cores: usize,
        servers: Vec<Address>,
    ) -> Self {
        let state = State { servers, ..State::default() };
        Shared {
            state: Mutex::new(state),
            exchange,
            wakers,
            stops,
            cores,
            has_heard: AtomicBool::new(false),
            is_down: AtomicBool::new(false),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stops.load(Ordering::Acquire)
    }

    pub(super) fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::Release);
    }

    pub(super) fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Acquire)
    }

    /// Whether the link has something to look at.
    pub(super) fn has_heard(&self) -> bool {
        self.has_heard.load(Ordering::Acquire)
    }

    /// Called by the link before it looks.
    pub(super) fn will_look(&self) -> bool {
        self.has_heard.swap(false, Ordering::AcqRel)
    }

    /// Wakes the link, which has something to look at.
    pub(super) fn wake_link(&self) {
        self.has_heard.store(true, Ordering::Release);
        if self.exchange.mailbox(self.cores).doorbell.ring() {
            waker::wake(&self.wakers, self.cores);
        }
    }
}

impl State {
    /// Keeps a message for the link, if there is place.
    pub(super) fn keep_inbox(&mut self, payload: &str) {
        match self.inbox.len() < INBOX_MAX {
            true => self.inbox.push_back(payload.to_owned()),
            false => self.has_missed = true,
        }
    }
}
