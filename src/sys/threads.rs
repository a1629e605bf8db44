//! Threads, and the processors they run on.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

/// Hears which thread has panicked, by its name.
type Told = Box<dyn Fn(&str) + Send>;

/// Whoever is told when a thread panics that [`spawn`] has started.
static ON_PANIC: Mutex<Option<Told>> = Mutex::new(None);

/// Says what is done, from now on, when a thread panics that [`spawn`] has started: it is told the thread's name, in that thread.
pub fn on_panic(told: impl Fn(&str) + Send + 'static) {
    *ON_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(told));
}

/// Starts a thread with a name that debuggers and `top -H` show. Should it panic, whoever has asked by [`on_panic`] is told.
///
/// # Errors
/// When the kernel has no thread to give.
pub fn spawn<T: Send + 'static>(
    name: String,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    struct Guard(String);
    impl Drop for Guard {
        fn drop(&mut self) {
            if std::thread::panicking()
                && let Some(told) = &*ON_PANIC.lock().unwrap_or_else(PoisonError::into_inner)
            {
                told(&self.0);
            }
        }
    }
    Builder::new().name(name.clone()).spawn(move || {
        let _guard = Guard(name);
        body()
    })
}

/// Sleeps so many milliseconds.
pub fn sleep_ms(ms: u64) {
    std::thread::sleep(std::time::Duration::from_millis(ms));
}

/// The processors that this process may run on, in order.
pub fn processors() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Keeps the calling thread on one processor, and says whether that worked.
pub fn pin(processor: usize) -> bool {
    core_affinity::set_for_current(core_affinity::CoreId { id: processor })
}

/// Keeps the calling thread, and whatever it starts, on these processors.
///
/// # Errors
/// When the kernel does not permit it, or there is none of them.
#[cfg(target_os = "linux")]
pub fn restrict(processors: &[usize]) -> io::Result<()> {
    let mut set = std::mem::MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: all zeroes are an empty set; CPU_SET checks its bounds; the kernel reads a set of the given size.
    let result = unsafe {
        for processor in processors {
            libc::CPU_SET(*processor, set.assume_init_mut());
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), set.as_ptr())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How far a thread stands back, as nice(1) counts: enough that a core which has something to do goes first, and not so much that it gets
/// nothing done beside busy ones.
#[cfg(target_os = "linux")]
const STAND_BACK_NICE: libc::c_int = 10;

/// Lets other threads go before the calling one, which has much to compute and nothing that is urgent.
///
/// # Errors
/// When the kernel does not permit it.
#[cfg(target_os = "linux")]
pub fn stand_back() -> io::Result<()> {
    // On Linux a thread has a priority of its own, and 0 is the calling one (setpriority(2)).
    // SAFETY: a plain call.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, STAND_BACK_NICE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Elsewhere a priority is of the whole process, which is not to be slowed down.
#[cfg(not(target_os = "linux"))]
pub fn stand_back() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Elsewhere threads run where the system likes.
#[cfg(not(target_os = "linux"))]
pub fn restrict(_processors: &[usize]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn who_wants_to_know_is_told_which_thread_has_panicked() {
        let (tell, told) = std::sync::mpsc::channel();
        on_panic(move |name| drop(tell.send(name.to_owned())));
        assert_eq!(spawn("sound".into(), || 7).unwrap().join().unwrap(), 7);
        assert!(spawn("unsound".into(), || panic!("as it should")).unwrap().join().is_err());
        assert_eq!(told.recv().unwrap(), "unsound");
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn a_thread_stands_back_alone() {
        // SAFETY: a plain call.
        let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let before = nice();
        let there = spawn("modest".into(), move || stand_back().map(|()| nice())).unwrap().join().unwrap();
        assert_eq!(there.unwrap(), STAND_BACK_NICE.max(before));
        assert_eq!(nice(), before);
    }
}
