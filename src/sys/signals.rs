//! Signals, taken as values by one thread that waits for them.
//!
//! No handler is installed: a handler runs on any thread, and the usual one writes to a pipe by its number, which is
//! another file on a core that has a descriptor table of its own.

use std::io;
use std::mem::MaybeUninit;

/// The signals that ask the server to stop, to read its configuration again, or to open its log again.
const AWAITED: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1];

/// What [`wait`] calls the one that asks for the configuration.
pub const HANG_UP: &str = "SIGHUP";

/// What [`wait`] calls the one that asks for the log.
pub const REOPEN: &str = "SIGUSR1";

/// Keeps those signals from interrupting anything: they wait for [`wait`]. Threads inherit this, so
/// it must come before the first one is made.
pub fn block() -> io::Result<()> {
    let set = awaited_set();
    // SAFETY: `set` is initialised, and the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Waits for a signal that was blocked by [`block`], and returns its name and number.
pub fn wait() -> io::Result<(&'static str, i32)> {
    let set = awaited_set();
    let mut signal = 0;
    // SAFETY: both pointers are to initialised values of the right type.
    match unsafe { libc::sigwait(&set, &mut signal) } {
        0 if signal == libc::SIGINT => Ok(("SIGINT", signal)),
        0 if signal == libc::SIGHUP => Ok((HANG_UP, signal)),
        0 if signal == libc::SIGUSR1 => Ok((REOPEN, signal)),
        0 => Ok(("SIGTERM", signal)),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Has a program that is to be started take the signals that this one has blocked: it would inherit that.
pub fn unblock_in(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt as _;

    let unblock = || {
        let set = awaited_set();
        // SAFETY: `set` is initialised, and the old mask is not asked for.
        match unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut()) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    };
    // SAFETY: between fork and exec only sigemptyset, sigaddset and pthread_sigmask are called, which may be called there.
    unsafe { command.pre_exec(unblock) };
}

/// Has the command's process asked to stop when the thread that spawns it ends, however that comes about: also when its own
/// process is killed (PR_SET_PDEATHSIG of prctl(2); elsewhere nothing).
pub fn end_with_spawner(command: &mut std::process::Command) {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt as _;

        let ask = || {
            // SAFETY: sets an attribute of the process, from two numbers.
            match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: between fork and exec only prctl is called, which may be called there.
        unsafe { command.pre_exec(ask) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

/// Asks another process to stop, as a person would with Ctrl-C or `kill`.
///
/// # Errors
/// When there is no such process, or it is not ours.
pub fn ask_to_stop(process: u32) -> io::Result<()> {
    let process = libc::pid_t::try_from(process).map_err(|_| io::ErrorKind::NotFound)?;
    // SAFETY: takes no pointers.
    if unsafe { libc::kill(process, libc::SIGTERM) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn awaited_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set, and the signals are valid, so neither call can fail.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in AWAITED {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}
