//! Where and with what a run was made: figures mean nothing without it.

use std::fs;

use serde::{Deserialize, Serialize};

/// The circumstances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// This program's version.
    pub version: String,
    /// Whether it was built with optimisation.
    pub is_optimised: bool,
    /// The machine's name.
    pub host: String,
    /// The kernel's version.
    pub kernel: String,
    /// The processor's model.
    pub cpu: String,
    /// How many processors the machine has.
    pub cpus: usize,
    /// How their frequency is governed, as far as the machine tells.
    pub governor: String,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// Work for the machine in the minutes before the run, as /proc/loadavg has it.
    pub load_before: String,
    /// When, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// The command line.
    pub command: Vec<String>,
}

impl Fingerprint {
    /// Those of now and here.
    pub fn take() -> Fingerprint {
        let read = |path: &str| {
            fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_else(|_| "unknown".into())
        };
        let field = |table: &str, name: &str| {
            table
                .lines()
                .find(|line| line.starts_with(name))
                .and_then(|line| line.split_once(':'))
                .map_or("unknown".to_owned(), |(_, value)| value.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let memory_kib: u64 = memory.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or_default();
        Fingerprint {
            version: env!("CARGO_PKG_VERSION").into(),
            is_optimised: !cfg!(debug_assertions),
            host: read("/proc/sys/kernel/hostname"),
            kernel: format!("{} {}", read("/proc/sys/kernel/ostype"), read("/proc/sys/kernel/osrelease")),
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            // Not those that this thread may use: it may be kept off the server's.
            cpus: read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count(),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            memory_bytes: memory_kib * 1024,
            load_before: read("/proc/loadavg"),
            unix_ms: crate::sys::unix_ms(),
            command: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_where_it_was_taken() {
        let print = Fingerprint::take();
        assert!(print.kernel.starts_with("Linux "), "{print:?}");
        assert!(print.memory_bytes > 1 << 26 && print.cpus > 0 && !print.command.is_empty(), "{print:?}");
        let text = serde_json::to_string(&print).unwrap();
        assert_eq!(serde_json::from_str::<Fingerprint>(&text).unwrap(), print);
    }
}
