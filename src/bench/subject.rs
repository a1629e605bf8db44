//! The target's processes, seen from outside: what they use, by /proc (proc(5)).

use std::fs;

use serde::{Deserialize, Serialize};

use super::target::Target;
use crate::sys::owner;

/// The processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Their numbers.
    pub pids: Vec<u32>,
}

/// What they have used until now, and use now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time, exactly.
    pub cpu_ns: u64,
    /// The part of it outside the kernel, by samples of the clock's tick.
    pub user_ticks: u64,
    /// The part of it within.
    pub system_ticks: u64,
    /// Memory that is theirs or shared.
    pub resident_bytes: u64,
    /// Memory that is theirs alone.
    pub private_bytes: u64,
    /// Buffers of all of the machine's TCP sockets.
    pub socket_bytes: u64,
    /// Tables of the machine's kernel: sockets, descriptors, and all else.
    pub slab_bytes: u64,
}

impl Subject {
    /// These processes.
    ///
    /// # Errors
    /// One line if one of them is not there, or not to be looked at.
    pub fn new(pids: Vec<u32>) -> Result<Subject, String> {
        let subject = Subject { pids };
        subject.usage().map(|_| subject)
    }

    /// Whoever listens at the target's port, if it is on this machine.
    pub fn of_target(target: &Target) -> Option<Subject> {
        if !target.address.ip().is_loopback() {
            return None;
        }
        let pid = owner::process_of_port(target.address)?;
        Subject::new(vec![pid]).ok()
    }

    /// What they have used.
    ///
    /// # Errors
    /// One line if one of them is gone.
    pub fn usage(&self) -> Result<Usage, String> {
        let mut usage = Usage::default();
        for pid in &self.pids {
            let wrong = |what: &str, why: &dyn std::fmt::Display| {
                format!("cannot read {what} of process {pid}: {why}; name the target's processes with --pid")
            };
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|why| wrong("stat", &why))?;
            let fields: Vec<&str> =
                stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
            if matches!(fields.first(), Some(&("Z" | "X"))) {
                return Err(format!("process {pid} has ended")); // and nobody has taken note of it yet
            }
            let number = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
            usage.user_ticks += number(11).unwrap_or_default();
            usage.system_ticks += number(12).unwrap_or_default();
            usage.cpu_ns += cpu_ns(*pid).ok_or_else(|| wrong("schedstat", &"not there"))?;
            // Only for one's own processes, or with privileges: no reason to measure nothing.
            if let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
                usage.resident_bytes += kib(&rollup, "Rss:") * 1024;
                usage.private_bytes +=
                    (kib(&rollup, "Private_Dirty:") + kib(&rollup, "Private_Clean:")) * 1024;
            }
        }
        if let Ok(sockets) = fs::read_to_string("/proc/net/sockstat") {
            usage.socket_bytes = tcp_pages(&sockets) * 4096;
        }
        if let Ok(memory) = fs::read_to_string("/proc/meminfo") {
            usage.slab_bytes = kib(&memory, "Slab:") * 1024;
        }
        Ok(usage)
    }
}

/// Processor time of a process: of its threads that live, which are all there are in a server.
fn cpu_ns(pid: u32) -> Option<u64> {
    let mut total_ns = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        // A thread may end while the list is read.
        let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
        total_ns += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(total_ns)
}

/// The number behind a name; of memory, in KiB.
fn kib(table: &str, name: &str) -> u64 {
    let line = table.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// The pages that TCP's buffers take.
fn tcp_pages(sockstat: &str) -> u64 {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:")).unwrap_or_default();
    let mut words = line.split_whitespace().skip_while(|word| *word != "mem").skip(1);
    words.next().and_then(|word| word.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_busy_process_uses_processor_time() {
        // Not this one: time of threads that have ended does not count, and other tests' end all the time.
        let mut busy = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let subject = Subject::new(vec![busy.id()]).unwrap();
        let before = subject.usage().unwrap();
        let grows = (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            subject.usage().unwrap().cpu_ns > before.cpu_ns
        });
        busy.kill().unwrap();
        busy.wait().unwrap();
        assert!(grows, "{before:?}");
        assert!(subject.usage().is_err(), "it has ended");
    }

    #[test]
    fn this_process_uses_memory() {
        let used = Subject::new(vec![std::process::id()]).unwrap().usage().unwrap();
        assert!(used.private_bytes > 100_000 && used.resident_bytes >= used.private_bytes, "{used:?}");
    }

    #[test]
    fn tables_of_proc_are_read() {
        assert_eq!(kib("Rss:       12 kB\nPrivate_Dirty:   7 kB\n", "Private_Dirty:"), 7);
        assert_eq!(tcp_pages("sockets: used 9\nTCP: inuse 5 orphan 0 tw 0 alloc 8 mem 31\nUDP: mem 2\n"), 31);
        assert!(Subject::new(vec![u32::MAX]).unwrap_err().contains("--pid"));
    }
}
