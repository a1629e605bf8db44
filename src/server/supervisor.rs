//! What a supervisor that has started the server (systemd) is told by sd_notify(3): when it is ready, that it stops, and, if it watches,
//! that every core still turns. Without `NOTIFY_SOCKET` nothing is told.

use std::io;
use std::sync::Arc;
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

/// Starts to tell again and again that all cores turn, if the supervisor wants to know (`WatchdogSec=`). Where one does not, nothing is told:
/// the supervisor ends the server then, and starts another.
///
/// # Errors
/// When the kernel has no thread to give.
pub fn watch(counters: Vec<Arc<Counters>>, wakers: Arc<Vec<Waker>>) -> io::Result<()> {
    let Some(within) = sd_notify::watchdog_enabled() else { return Ok(()) };
    log::info!("the cores are looked at for the supervisor every {} ms", (within / 2).as_millis());
    threads::spawn("watchdog".into(), move || {
        loop {
            let began = Instant::now();
            let before = turns(&counters);
            for core in 0..counters.len() {
                waker::wake(&wakers, core);
            }
            while stuck(&before, &turns(&counters)).is_some() && began.elapsed() < within / 4 {
                std::thread::sleep(LOOK);
            }
            match stuck(&before, &turns(&counters)) {
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

/// The first core that has not turned.
fn stuck(before: &[u64], now: &[u64]) -> Option<usize> {
    before.iter().zip(now).position(|(before, now)| before == now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_does_not_turn_is_found() {
        let counters: Vec<Arc<Counters>> = (0..3).map(|_| Arc::default()).collect();
        let before = turns(&counters);
        assert_eq!(stuck(&before, &turns(&counters)), Some(0));
        counters[0].turns.add(1);
        counters[2].turns.add(5);
        assert_eq!(stuck(&before, &turns(&counters)), Some(1));
        counters[1].turns.add(1);
        assert_eq!(stuck(&before, &turns(&counters)), None);
    }
}
