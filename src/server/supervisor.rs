//! What a supervisor that has started the server (systemd) is told by sd_notify(3): when it is ready, that it stops, and, if it watches,
//! that every core still turns. Without `NOTIFY_SOCKET` nothing is told.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::base::stats::Counters;
use crate::sys::threads;
use crate::sys::waker::{self, Waker};

/// How often the cores are looked at while it is waited for them to turn.
const LOOK: Duration = Duration::from_millis(10);

/// Tells the supervisor something; it serves all the same where that fails.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("whoever supervises this server cannot be told about it: {error}");
    }
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

/// Starts to tell again and again that all cores turn that have not ended, if the supervisor wants to know (`WatchdogSec=`). Where one does not,
/// nothing is told: the supervisor ends the server then, and starts another.
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
            let before = turns(&counters);
            for core in 0..counters.len() {
                waker::wake(&wakers, core);
            }
            while stuck(&before, &turns(&counters), &ended).is_some() && began.elapsed() < within / 4 {
                std::thread::sleep(LOOK);
            }
            match stuck(&before, &turns(&counters), &ended) {
                None => tell(&[NotifyState::Watchdog]),
                Some(core) => {
                    log::error!("core {core} does not turn: the supervisor is not told that all is well")
                }
            }
            std::thread::sleep((within / 2).saturating_sub(began.elapsed()));
        }
    })
    .map(drop)
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
}
