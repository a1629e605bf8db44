//! How the server ends: told by a signal, when every client has gone or has had the time for it; or because part of it has failed, when the
//! clients of the rest are told so, as a process of which a part is missing can keep no promise.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam::channel::{Receiver, select};

use super::reload::HangUp;
use super::{ServeError, failure};
use crate::config::Config;
use crate::shard::LEAVE_MS;
use crate::sys::path::SocketFile;
use crate::sys::signals;
use crate::sys::waker::Waker;

/// How long after `drain.timeout_ms` a core that has not ended is waited for.
const OVERDUE: Duration = Duration::from_secs(5);

/// How long the other cores are waited for when part of the server has failed: what they have to say, and some time for a busy machine.
const FAREWELL: Duration = Duration::from_millis(LEAVE_MS + 500);

/// What the threads tell the one that waits for them.
pub(super) enum News {
    /// A core has begun; whether it has a descriptor table of its own, and which processor it runs on.
    Begun { core: usize, table: Result<(), String>, processor: Option<usize> },
    /// A core has ended; whether by its own will, and how many clients it had not got rid of by then.
    Ended { core: usize, drained: bool, cut_off: usize },
    /// The thread of this name has panicked.
    Failed(String),
    /// A signal has come.
    Signal(&'static str, i32),
}

/// What all cores are to do, which they look at once a turn.
#[derive(Debug, Default)]
pub(super) struct Order(AtomicU8);

/// What cores may be told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ordered {
    /// To serve.
    Serve,
    /// To end in good order.
    Drain,
    /// To end at once, with a word to their clients.
    Leave,
}

impl Order {
    /// What is to be done now.
    pub(super) fn now(&self) -> Ordered {
        match self.0.load(Ordering::Relaxed) {
            0 => Ordered::Serve,
            1 => Ordered::Drain,
            _ => Ordered::Leave,
        }
    }

    /// Gives an order. No order takes a stronger one back.
    fn give(&self, ordered: Ordered) {
        self.0.fetch_max(ordered as u8, Ordering::Relaxed);
    }
}

/// What there is to wait for, and to do meanwhile.
pub(super) struct Attended<'a, D> {
    pub(super) heard: &'a Receiver<News>,
    pub(super) order: &'a Order,
    pub(super) wakers: &'a [Waker],
    pub(super) hang_up: &'a HangUp,
    pub(super) socket_files: &'a mut Vec<SocketFile>,
    pub(super) current: &'a ArcSwap<Config>,
    /// Called when it is to drain. What comes out of the receiver then is waited for before clients are told.
    pub(super) on_drain: D,
}

/// Waits for signals, and for the cores to end.
///
/// # Errors
/// When something has failed; the cores that have not have told their clients by then.
pub(super) fn attend(attended: Attended<'_, impl FnMut() -> Option<Receiver<()>>>) -> Result<(), ServeError> {
    let Attended { heard, order, wakers, hang_up, socket_files, current, mut on_drain } = attended;
    let cores = wakers.len();
    let mut running = cores;
    let mut all_cut_off = 0;
    let mut is_told = false;
    // Ends when clients are to be told to go.
    let mut withdrawn: Option<Receiver<()>> = None;
    // Says when the cores should have ended.
    let mut overdue = crossbeam::channel::never();
    let patience = || {
        let drain = current.load().drain.clone();
        Duration::from_millis(drain.delay_ms.saturating_add(drain.timeout_ms)) + OVERDUE
    };
    while running > 0 {
        let never = crossbeam::channel::never();
        let news = select! {
            recv(heard) -> news => news,
            recv(withdrawn.as_ref().unwrap_or(&never)) -> _ => {
                withdrawn = None;
                overdue = crossbeam::channel::after(patience());
                give(order, Ordered::Drain, wakers)?;
                continue;
            }
            recv(overdue) -> _ => {
                // Their threads cannot be waited for. What they have announced is in the journal.
                return Err(failure(format!("{running} of {cores} cores have not ended in time: left without them")));
            }
        };
        match news {
            Ok(News::Signal(signals::HANG_UP, _)) if !hang_up.hear() => {}
            Ok(News::Signal(signals::REOPEN, _)) => hang_up.reopen_log(),
            Ok(News::Signal(name, number)) => {
                if std::mem::replace(&mut is_told, true) {
                    leave_at_once(socket_files, name, number);
                }
                log::info!("{name}: draining; again to leave at once");
                withdrawn = on_drain();
                if withdrawn.is_none() {
                    overdue = crossbeam::channel::after(patience());
                    give(order, Ordered::Drain, wakers)?;
                }
            }
            Ok(News::Ended { drained: true, cut_off, .. }) => {
                running -= 1;
                all_cut_off += cut_off;
            }
            Ok(News::Ended { core, .. }) => {
                let what = format!("core {core} failed; the log says how");
                return Err(say_farewell(what, running - 1, heard, order, wakers, socket_files));
            }
            Ok(News::Failed(thread)) => {
                let what = format!("the thread {thread} failed; the log says how");
                return Err(say_farewell(what, running, heard, order, wakers, socket_files));
            }
            Ok(News::Begun { .. }) | Err(_) => return Err(failure("the cores cannot be heard".into())),
        }
    }
    match all_cut_off {
        0 => log::info!("drained"),
        clients => log::warn!("the drain took too long: {clients} connections were cut off"),
    }
    Ok(())
}

fn give(order: &Order, ordered: Ordered, wakers: &[Waker]) -> Result<(), ServeError> {
    order.give(ordered);
    let woken = wakers.iter().try_for_each(Waker::wake);
    woken.map_err(|e| failure(format!("a core could not be woken: {e}")))
}

/// A second signal does not wait for the end of what the first began.
fn leave_at_once(socket_files: &mut Vec<SocketFile>, name: &str, number: i32) -> ! {
    log::warn!("{name} again: leaving at once");
    socket_files.clear();
    // What a shell reports of a process that a signal ended.
    std::process::exit(128 + number);
}

/// Part of the server has failed. The cores that still run tell their clients to come back, and are waited for as long as that takes: not
/// until they are done with everything, which may need the part that is gone.
fn say_farewell(
    what: String,
    mut running: usize,
    heard: &Receiver<News>,
    order: &Order,
    wakers: &[Waker],
    socket_files: &mut Vec<SocketFile>,
) -> ServeError {
    log::error!("{what}: the clients of the other cores are told to come back, and the server ends");
    // Who cannot be woken hears nothing; the others do.
    let _ = give(order, Ordered::Leave, wakers);
    let until = Instant::now() + FAREWELL;
    while running > 0
        && let Ok(news) = heard.recv_deadline(until)
    {
        match news {
            News::Ended { .. } => running -= 1,
            News::Signal(signals::HANG_UP | signals::REOPEN, _) => {}
            News::Signal(name, number) => leave_at_once(socket_files, name, number),
            News::Failed(_) | News::Begun { .. } => {}
        }
    }
    failure(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_order_takes_a_stronger_one_back() {
        let order = Order::default();
        assert_eq!(order.now(), Ordered::Serve);
        order.give(Ordered::Drain);
        assert_eq!(order.now(), Ordered::Drain);
        order.give(Ordered::Leave);
        order.give(Ordered::Drain);
        assert_eq!(order.now(), Ordered::Leave);
    }
}
