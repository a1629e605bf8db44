//! How many system calls the target's processes make, by strace(1). That stops them at each one, so that no other figure of such a
//! run means anything; but how many calls a message takes does not change.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::sys::signals;

/// How long strace may take to be there.
const BEGIN_MAX: Duration = Duration::from_secs(2);

/// How long strace may take to say what it has counted.
const END_MAX: Duration = Duration::from_secs(5);

/// Counting goes on.
#[derive(Debug)]
pub struct Counting {
    strace: Child,
}

impl Counting {
    /// Begins.
    ///
    /// # Errors
    /// One line on why it cannot be done.
    pub fn begin(pids: &[u32]) -> Result<Counting, String> {
        let mut command = Command::new("strace");
        command.args(["-c", "-f", "-qq"]);
        for pid in pids {
            command.args(["-p", &pid.to_string()]);
        }
        // A Ctrl-C is not for it: it is ended here.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        signals::unblock_in(&mut command);
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut strace = spawned.map_err(|why| format!("not possible: strace: {why}"))?;
        let deadline = Instant::now() + BEGIN_MAX;
        while !pids.iter().all(|pid| is_traced(*pid))
            && matches!(strace.try_wait(), Ok(None)) // where it is not permitted, it says so and ends
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Counting { strace })
    }

    /// Ends, and tells how many there were of each.
    ///
    /// # Errors
    /// One line on why nothing was counted: it was not permitted, for one.
    pub fn end(mut self) -> Result<BTreeMap<String, u64>, String> {
        let _ = signals::ask_to_stop(self.strace.id());
        let deadline = Instant::now() + END_MAX;
        while matches!(self.strace.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.strace.kill();
        let output = self.strace.wait_with_output().map_err(|why| format!("strace: {why}"))?;
        let told = String::from_utf8_lossy(&output.stderr);
        let counts = parse(&told);
        if counts.is_empty() {
            return Err(format!("not permitted: {}", told.lines().next().unwrap_or("strace said nothing")));
        }
        Ok(counts)
    }
}

/// Whether somebody traces all threads of a process.
fn is_traced(pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().all(|task| {
        std::fs::read_to_string(task.path().join("status"))
            .is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
    })
}

/// Reads strace's table: share, seconds, microseconds a call, calls, errors if there were, name.
fn parse(table: &str) -> BTreeMap<String, u64> {
    let row = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns[..].first()?.parse::<f64>().ok()?;
        let name = *columns.last()?;
        (columns.len() >= 5 && name != "total").then_some((name.to_owned(), columns[3].parse().ok()?))
    };
    table.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     99.92    1.234567          12    100000           writev\n  \
                     0.08    0.001000           1       500         3 read\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     100.00    1.235567          12    100500         3 total\n";
        assert_eq!(parse(table), [("read".to_owned(), 500), ("writev".to_owned(), 100_000)].into());
        assert!(parse("strace: attach: ptrace(PTRACE_SEIZE, 1): Operation not permitted\n").is_empty());
    }
}
