//! What a supervisor that has started the server (systemd) is told by sd_notify(3): when it is ready, that it stops, and, if it watches,
//! that every core still turns. Without `NOTIFY_SOCKET` nothing is told.

use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::base::stats::Counters;
use crate::sys::waker::{self, Waker};
use crate::sys::{notify, threads};

/// How often the cores are looked at while it is waited for them to turn.
const LOOK: Duration = Duration::from_millis(10);

/// Tells the supervisor something; it serves all the same where that fails.
fn tell(states: &[NotifyState<'_>]) {
    let abstract_name = std::env::var_os("NOTIFY_SOCKET")
        .and_then(|socket| socket.as_bytes().strip_prefix(b"@").map(<[u8]>::to_vec));
    // The library takes every name for a path.
    let told = match abstract_name {
        Some(name) => notify::send_to_abstract(&name, &text(states)),
        None => sd_notify::notify(states),
    };
    if let Err(error) = told {
        log::warn!("whoever supervises this server cannot be told about it: {error}");
    }
}

/// A line for each: sd_notify(3).
fn text(states: &[NotifyState<'_>]) -> String {
    states.iter().fold(String::new(), |mut text, state| {
        let _ = writeln!(text, "{state}");
        text
    })
}

/// The server takes connections.
pub fn tell_ready() {
    tell(&[NotifyState::Ready]);
}

/// It reads its configuration again; [`tell_ready`] says when that is over.
pub fn tell_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => log::warn!("the clock cannot be read: {error}"),
    }
}

/// It drains.
pub fn tell_stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Which cores have ended because their drain was over: they turn no more, and are not stuck.
#[derive(Debug)]
pub struct Ended(Vec<AtomicBool>);

impl Ended {
    /// None of so many.
    pub fn none_of(cores: usize) -> Self {
        Ended((0..cores).map(|_| AtomicBool::new(false)).collect())
    }

    /// A core has ended in good order.
    pub fn add(&self, core: usize) {
        self.0[core].store(true, Ordering::Release);
    }

    fn has(&self, core: usize) -> bool {
        self.0[core].load(Ordering::Acquire)
    }
}

/// Starts to tell again and again that all cores turn that have not ended, if the supervisor wants to know (`WatchdogSec=`). While one does not,
/// nothing is told: where that lasts, the supervisor ends the server, and starts another.
///
/// # Errors
/// When the kernel has no thread to give.
pub fn watch(counters: Vec<Arc<Counters>>, ended: Arc<Ended>, wakers: Arc<Vec<Waker>>) -> io::Result<()> {
    let Some(within) = sd_notify::watchdog_enabled() else { return Ok(()) };
    if within < 2 * LOOK {
        log::warn!("WATCHDOG_USEC is {}, in which nothing can be told: it is left aside", within.as_micros());
        return Ok(());
    }
    log::info!("the cores are looked at for the supervisor every {} ms", (within / 2).as_millis());
    threads::spawn("watchdog".into(), move || {
        loop {
            let began = Instant::now();
            await_turns(&counters, &ended, within / 4, || {
                (0..counters.len()).for_each(|core| waker::wake(&wakers, core));
            });
            tell(&[NotifyState::Watchdog]);
            std::thread::sleep((within / 2).saturating_sub(began.elapsed()));
        }
    })
    .map(drop)
}

/// Waits until all cores have turned that have not ended. However long that takes, as soon as they have it can be told, which may be in time;
/// where it is longer than `patience` the log tells which core it is.
fn await_turns(
    counters: &[Arc<Counters>],
    ended: &Ended,
    patience: Duration,
    wake: impl Fn(),
) -> Option<usize> {
    let (began, before) = (Instant::now(), turns(counters));
    wake();
    let mut was_stuck = None;
    while let Some(core) = stuck(&before, &turns(counters), ended) {
        if was_stuck.is_none() && began.elapsed() >= patience {
            was_stuck = Some(core);
            log::error!("core {core} does not turn: the supervisor is not told that all is well");
        }
        std::thread::sleep(LOOK);
    }
    if let Some(core) = was_stuck {
        log::info!("core {core} turns again after {} ms", began.elapsed().as_millis());
    }
    was_stuck
}

fn turns(counters: &[Arc<Counters>]) -> Vec<u64> {
    counters.iter().map(|counters| counters.turns.value()).collect()
}

/// The first core that has not turned, though it has not ended.
fn stuck(before: &[u64], now: &[u64], ended: &Ended) -> Option<usize> {
    (0..before.len()).find(|core| before[*core] == now[*core] && !ended.has(*core))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_does_not_turn_is_found() {
        let counters: Vec<Arc<Counters>> = (0..3).map(|_| Arc::default()).collect();
        let (before, ended) = (turns(&counters), Ended::none_of(3));
        let stuck = |ended: &Ended| stuck(&before, &turns(&counters), ended);
        assert_eq!(stuck(&ended), Some(0));
        counters[0].turns.add(1);
        counters[2].turns.add(5);
        assert_eq!(stuck(&ended), Some(1));
        // Who has ended is not waited for; the others still are.
        ended.add(1);
        assert_eq!(stuck(&ended), None);
        assert_eq!(stuck(&Ended::none_of(3)), Some(1));
        counters[1].turns.add(1);
        assert_eq!(stuck(&Ended::none_of(3)), None);
    }

    #[test]
    fn a_core_that_is_late_is_waited_for() {
        let counters: Vec<Arc<Counters>> = (0..2).map(|_| Arc::default()).collect();
        let ended = Ended::none_of(2);
        let all = || counters.iter().for_each(|counters| counters.turns.add(1));
        assert_eq!(await_turns(&counters, &ended, Duration::from_secs(60), all), None);
        // It turns only when it has been found not to.
        let late = counters.clone();
        std::thread::scope(|scope| {
            let (found, is_found) = std::sync::mpsc::channel();
            let watch = scope.spawn(move || {
                let wake = || {
                    late[0].turns.add(1);
                    found.send(()).unwrap();
                };
                await_turns(&late, &Ended::none_of(2), Duration::ZERO, wake)
            });
            is_found.recv().unwrap();
            std::thread::sleep(3 * LOOK);
            assert!(!watch.is_finished());
            counters[1].turns.add(1);
            assert_eq!(watch.join().unwrap(), Some(1));
        });
    }
}
