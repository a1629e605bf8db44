//! Checks, on machines that are made up of files.

mod network;
mod processors;

use std::fs;
use std::io;

use tempfile::TempDir;

use super::finding::{Finding, Status};
use super::host::{Calls, Host};
use super::plan::Plan;
use super::{CHECKS, Check, json, look, settings, text};
use crate::config::{Config, Overrides};
use crate::sys::host::Space;

const GIB: u64 = 1 << 30;

/// A machine with four processors and 16 GiB on which nothing is to be said.
const HEALTHY: &[(&str, &str)] = &[
    ("proc/sys/kernel/osrelease", "6.12.1-amd64\n"),
    (
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units     \n\
         Max open files            1024                 1048576              files     \n",
    ),
    ("proc/self/status", "Name:\tstarling\nCpus_allowed:\tff\nCpus_allowed_list:\t0-7\n"),
    ("proc/self/cgroup", "0::/system.slice/starling.service\n"),
    (
        "proc/self/mountinfo",
        "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
         31 27 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw\n",
    ),
    ("proc/meminfo", "MemTotal:       16777216 kB\nCommitLimit:    8388608 kB\nCommitted_AS:   1048576 kB\n"),
    ("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n"),
    (
        "proc/interrupts",
        "           CPU0       CPU1\n 41:   6256   0 PCI-MSIX  virtio3-rx\n 42:   0   24180 PCI-MSIX  virtio3-tx\n",
    ),
    ("proc/irq/41/effective_affinity_list", "0\n"),
    ("proc/irq/42/effective_affinity_list", "1\n"),
    ("proc/77/comm", "bash\n"),
    ("proc/sys/fs/nr_open", "1048576\n"),
    ("proc/sys/fs/file-max", "9223372036854775807\n"),
    ("proc/sys/fs/file-nr", "752\t0\t9223372036854775807\n"),
    ("proc/sys/net/core/somaxconn", "4096\n"),
    ("proc/sys/net/core/rmem_max", "212992\n"),
    ("proc/sys/net/core/wmem_max", "212992\n"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "4096\n"),
    ("proc/sys/net/ipv4/tcp_syncookies", "1\n"),
    ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
    ("proc/sys/net/ipv4/ip_local_reserved_ports", "50051\n"),
    ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n"),
    ("proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t4194304\n"),
    ("proc/sys/net/ipv4/tcp_mem", "196608\t262144\t393216\n"),
    ("proc/sys/net/netfilter/nf_conntrack_max", "262144\n"),
    ("proc/sys/net/netfilter/nf_conntrack_count", "12\n"),
    ("proc/sys/vm/overcommit_memory", "0\n"),
    ("proc/sys/vm/swappiness", "60\n"),
    ("sys/fs/cgroup/system.slice/starling.service/cpu.max", "max 100000\n"),
    ("sys/fs/cgroup/system.slice/starling.service/memory.max", "max\n"),
    ("sys/fs/cgroup/system.slice/memory.max", "max\n"),
    ("sys/devices/system/cpu/online", "0-3\n"),
    ("sys/devices/system/cpu/isolated", "\n"),
    ("sys/devices/system/cpu/nohz_full", "(null)\n"),
    ("sys/devices/system/node/online", "0\n"),
    ("sys/devices/system/node/node0/cpulist", "0-3\n"),
    ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
    ("sys/devices/system/clocksource/clocksource0/available_clocksource", "tsc hpet acpi_pm \n"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ("sys/kernel/mm/transparent_hugepage/defrag", "always defer defer+madvise [madvise] never\n"),
    ("sys/class/net/lo/queues/rx-0/rps_cpus", "0\n"),
    ("sys/class/net/eth0/device/msi_irqs/41", "msix\n"),
    ("sys/class/net/eth0/device/msi_irqs/42", "msix\n"),
    ("sys/class/net/eth0/queues/rx-0/rps_cpus", "0\n"),
    ("sys/class/net/eth0/queues/tx-0/xps_cpus", "f\n"),
    ("run/systemd/timesync/synchronized", ""),
    ("dev/shm/.keep", ""),
    ("var/lib/.keep", ""),
];

struct Machine {
    directory: TempDir,
    host: Host,
    sets: Vec<(&'static str, String)>,
}

impl Machine {
    fn healthy() -> Self {
        let machine = Machine::empty();
        for (path, content) in HEALTHY {
            machine.write(path, content);
        }
        for processor in 0..4 {
            let directory = format!("sys/devices/system/cpu/cpu{processor}");
            machine.write(&format!("{directory}/topology/thread_siblings_list"), &processor.to_string());
            machine.write(&format!("{directory}/cpufreq/scaling_governor"), "performance\n");
            machine.write(&format!("{directory}/cpufreq/scaling_driver"), "acpi-cpufreq\n");
        }
        machine
    }

    fn empty() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let calls = Calls {
            space: |_| Ok(Space { total: 100 * GIB, free: 50 * GIB }),
            clock: None,
            table: Some(|| Ok(())),
            page_bytes: 4096,
        };
        let host = Host { root: directory.path().to_owned(), process: "self".to_owned(), calls };
        Machine { directory, host, sets: vec![("data_dir", "/var/lib/starling".to_owned())] }
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn remove(&self, path: &str) {
        let path = self.directory.path().join(path);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }

    fn with(self, path: &str, content: &str) -> Self {
        self.write(path, content);
        self
    }

    fn without(self, path: &str) -> Self {
        self.remove(path);
        self
    }

    /// With a key of the configuration.
    fn set(mut self, key: &'static str, value: impl ToString) -> Self {
        self.sets.push((key, value.to_string()));
        self
    }

    fn plan(&self) -> Plan {
        let mut overrides = Overrides::default();
        for (key, value) in &self.sets {
            overrides.set("--set", *key, value);
        }
        Plan::new(Config::resolve(None, std::iter::empty(), &overrides).unwrap(), &self.host)
    }

    fn finding(&self, name: &str) -> Finding {
        let check = CHECKS.iter().find(|check| check.name == name).expect("a check of this name");
        let Check { name, why, look } = check;
        Finding::new(name, why, look(&self.host, &self.plan()))
    }

    #[track_caller]
    fn expect(&self, check: &str, status: Status, text: &str, commands: &[&str]) {
        let finding = self.finding(check);
        assert!(finding.is_known, "{finding:?}");
        assert_eq!(finding.found.status, status, "{finding:?}");
        assert_eq!(finding.found.text, text);
        assert_eq!(finding.fixes(), commands, "{finding:?}");
    }

    #[track_caller]
    fn expect_unknown(&self, check: &str, why: &str) {
        let finding = self.finding(check);
        assert!(!finding.is_known, "{finding:?}");
        assert_eq!(finding.found.status, Status::Note);
        assert_eq!(finding.found.text, format!("not known here: {why}"));
        assert!(finding.fixes().is_empty() && finding.keeps().is_empty());
    }
}

use Status::{Note, Ok as Fine, Warning};

#[test]
fn of_a_healthy_machine_there_is_nothing_to_say() {
    let machine = Machine::healthy();
    let findings = look(&machine.host, &machine.plan());
    for finding in &findings {
        assert!(finding.is_known && finding.found.status == Fine, "{finding:?}");
        assert!(finding.fixes().is_empty() && !finding.why.is_empty(), "{finding:?}");
    }
    assert_eq!(findings.len(), CHECKS.len());
    assert_eq!(settings(&findings), "");
    let told = text(&findings, &machine.plan(), false, false);
    assert_eq!(told.lines().count(), CHECKS.len() + 2, "a line each, and two at the end\n{told}");
    assert!(
        told.contains(&format!("{} checks: warnings 0, notes 0, not known here 0, ok {0}\n", CHECKS.len())),
        "{told}"
    );
    assert!(!told.contains('\x1b'));
    let verbose = text(&findings, &machine.plan(), true, true);
    assert_eq!(verbose.matches("why:").count(), CHECKS.len());
    assert!(verbose.contains("\x1b[32mok"));
}

#[test]
fn of_nothing_nothing_is_known_and_nothing_claimed() {
    let mut machine = Machine::empty();
    machine.host.calls.table = None;
    machine.host.calls.space = |_| Err(io::ErrorKind::Unsupported.into());
    for finding in look(&machine.host, &machine.plan()) {
        assert!(!finding.is_known, "{finding:?}");
        assert!(finding.found.text.starts_with("not known here: "), "{finding:?}");
    }
}

#[test]
fn no_file_that_is_missing_or_odd_makes_a_panic() {
    let machine = Machine::healthy();
    for (path, content) in HEALTHY {
        for odd in [
            "",
            "max",
            "-1",
            "99999999999999999999999",
            "0",
            "1 2 3",
            "4-2",
            "[",
            "a:b:c - d e f\n0::/../..",
            "\u{fffd}\0",
        ] {
            machine.write(path, odd);
            assert_eq!(look(&machine.host, &machine.plan()).len(), CHECKS.len());
        }
        machine.remove(path);
        fs::create_dir(machine.directory.path().join(path)).unwrap();
        look(&machine.host, &machine.plan());
        machine.remove(path);
        look(&machine.host, &machine.plan());
        machine.write(path, content);
    }
}

/// What fits into three quarters of 16 GiB, four times.
const SMALLER_JOURNALS: &str = "starling serve --set store.queue_bytes=2147483648";

#[test]
fn amounts_of_memory() {
    let file = "sys/fs/cgroup/system.slice/memory.max";
    Machine::healthy().with(file, "1073741824").expect(
        "memory",
        Warning,
        "/sys/fs/cgroup/system.slice/memory.max allows 1 GiB; history.memory_bytes and the journals take up to 1 GiB, connections come \
         on top",
        &[
            "starling serve --set history.memory_bytes=771735552",
            "or in the unit, if it is what bounds: MemoryMax=",
        ],
    );
    // What is advised is well.
    let advised = Machine::healthy().with(file, "1073741824").set("history.memory_bytes", 771_735_552);
    assert_eq!(advised.finding("memory").found.status, Fine);
    // Where the journals alone are too large, it is they that have to be smaller.
    let finding = Machine::healthy().set("store.queue_bytes", 17_179_869_184u64).finding("memory");
    assert_eq!((finding.found.status, &*finding.fixes()[0]), (Warning, SMALLER_JOURNALS));
    let advised = Machine::healthy().set("store.queue_bytes", 2_147_483_648u64);
    assert_eq!(advised.finding("memory").found.status, Fine);
    let finding = Machine::healthy().without("proc/self/cgroup").finding("memory");
    assert!(
        finding
            .found
            .text
            .starts_with("the bound of control groups is not known (there is no /proc/self/cgroup)")
    );
    Machine::healthy().without("proc/meminfo").expect_unknown("memory", "there is no /proc/meminfo");
}

#[test]
fn promised_memory() {
    let counted = Machine::healthy().with("proc/sys/vm/overcommit_memory", "2");
    assert_eq!(counted.finding("overcommit").found.status, Fine);
    let meminfo = "MemTotal: 16777216 kB\nCommitLimit: 1048576 kB\nCommitted_AS: 2097152 kB\n";
    counted.with("proc/meminfo", meminfo).expect(
        "overcommit",
        Warning,
        "vm.overcommit_memory is 2: 0 bytes can still be promised, the server may want 1 GiB",
        &["sysctl -w vm.overcommit_memory=0"],
    );
}

#[test]
fn swapping() {
    let machine = Machine::healthy().with("proc/swaps", "Filename Type\n/dev/vdb partition 1 0 -2\n");
    machine.expect(
        "swap",
        Note,
        "1 areas to swap to, and vm.swappiness is 60",
        &["sysctl -w vm.swappiness=10"],
    );
    let machine = machine.with("proc/sys/vm/swappiness", "10");
    assert_eq!(machine.finding("swap").found.status, Fine);
    machine.without("proc/swaps").expect_unknown("swap", "there is no /proc/swaps");
}

#[test]
fn huge_pages() {
    const THP: &str = "sys/kernel/mm/transparent_hugepage";
    let machine = Machine::healthy().with(&format!("{THP}/enabled"), "[always] madvise never\n");
    machine.expect(
        "huge-pages",
        Note,
        "transparent huge pages: always, defrag: madvise",
        &[&format!("echo madvise > /{THP}/enabled")],
    );
    let machine = machine.with(&format!("{THP}/defrag"), "[always] defer defer+madvise madvise never");
    assert_eq!(machine.finding("huge-pages").found.status, Warning);
    let machine = machine.with(&format!("{THP}/enabled"), "never\n");
    assert_eq!(machine.finding("huge-pages").found.status, Fine);
    machine
        .without(&format!("{THP}/enabled"))
        .expect_unknown("huge-pages", &format!("there is no /{THP}/enabled"));
}

#[test]
fn data_directories() {
    Machine::healthy().expect(
        "data-dir",
        Fine,
        "/var/lib/starling is on ext4 (/), 50 GiB free of 100 GiB",
        &[],
    );
    let on = |kind: &str, flags: &str| {
        let mounts =
            format!("27 1 254:0 / / rw - ext4 /dev/vda rw\n28 27 0:9 / /var/lib {flags} - {kind} x rw\n");
        Machine::healthy().with("proc/self/mountinfo", &mounts)
    };
    on("nfs4", "rw").expect(
        "data-dir",
        Warning,
        "/var/lib/starling is on nfs4 (/var/lib), 50 GiB free of 100 GiB: a file system of another machine",
        &["starling serve --data-dir DIR, on a local disk"],
    );
    assert_eq!(on("tmpfs", "rw").finding("data-dir").found.status, Warning);
    assert_eq!(on("overlay", "rw").finding("data-dir").found.status, Note);
    assert_eq!(on("fuse.mergerfs", "rw").finding("data-dir").found.status, Note);
    assert_eq!(on("xfs", "ro,noatime").finding("data-dir").fixes(), ["mount -o remount,rw /var/lib"]);
    let mut machine = on("xfs", "rw");
    machine.host.calls.space = |_| Ok(Space { total: GIB, free: GIB });
    assert_eq!(machine.finding("data-dir").found.status, Note);
    machine.host.calls.space = |_| Ok(Space { total: GIB, free: 1 << 20 });
    assert_eq!(machine.finding("data-dir").found.status, Warning);
    machine.host.calls.space = |_| Err(io::ErrorKind::PermissionDenied.into());
    let finding = machine.finding("data-dir");
    assert!(finding.found.text.contains("free space not known here"), "{finding:?}");
    let machine = machine.set("store.kind", "memory");
    assert_eq!(machine.finding("data-dir").found.status, Fine);
    Machine::healthy()
        .without("proc/self/mountinfo")
        .expect_unknown("data-dir", "there is no /proc/self/mountinfo");
}

#[test]
fn journals() {
    let mut machine = Machine::healthy();
    machine.host.calls.space = |_| Ok(Space { total: 64 << 20, free: 24 << 20 });
    machine.expect(
        "journals",
        Warning,
        "24 MiB free of 64 MiB in /dev/shm; 4 journals take 32 MiB (store.queue_bytes)",
        &["mount -o remount,size=73M /dev/shm", "of a container: docker run --shm-size=73m"],
    );
    // More than there is of memory is not advised.
    let machine = machine.set("store.queue_bytes", 17_179_869_184u64);
    let finding = machine.finding("journals");
    assert_eq!(
        (finding.found.status, finding.fixes().len(), &*finding.fixes()[0]),
        (Warning, 1, SMALLER_JOURNALS)
    );
    let machine = machine.without("dev/shm");
    assert_eq!(machine.finding("journals").found.status, Warning);
    machine.without("dev").expect_unknown("journals", "there is no /dev");
}

#[test]
fn kernels() {
    Machine::healthy().expect("kernel", Fine, "Linux 6.12.1-amd64", &[]);
    let on = |release: &str| Machine::healthy().with("proc/sys/kernel/osrelease", release);
    assert_eq!(on("2.6.32-x").finding("kernel").found.status, Warning);
    assert_eq!(on("5.4.0-100-generic").finding("kernel").found.status, Note);
    assert_eq!(on("6.1.0").finding("kernel").found.status, Fine);
    assert_eq!(on("6.1.0").set("steer", true).finding("kernel").found.status, Warning);
    assert_eq!(on("6.2").set("steer", true).finding("kernel").found.status, Fine);
    on("new").expect_unknown("kernel", "/proc/sys/kernel/osrelease has no version: \"new\"");
}

#[test]
fn clocks() {
    let mut machine = Machine::healthy().without("run");
    machine.expect_unknown("time", "there is no /run/systemd/timesync/synchronized");
    machine.host.calls.clock = Some(|| Ok(true));
    assert_eq!(machine.finding("time").found.status, Fine);
    machine.host.calls.clock = Some(|| Ok(false));
    machine.expect(
        "time",
        Note,
        "nothing keeps the clock right (a host that does it from outside is not seen)",
        &["timedatectl set-ntp true"],
    );
    let machine = machine.set("auth.jwt_secret", "a secret of thirty-two bytes, yes");
    assert_eq!(machine.finding("time").found.status, Warning);
}

#[test]
fn programs_get_objects() {
    let machine = Machine::healthy().with("proc/sys/net/core/somaxconn", "128").without("proc/swaps");
    let findings = look(&machine.host, &machine.plan());
    let told: serde_json::Value = serde_json::from_str(&json(&findings)).unwrap();
    let told = told.as_array().unwrap();
    assert_eq!(told.len(), CHECKS.len());
    for object in told {
        let keys: Vec<&String> = object.as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            ["check", "fix", "found", "status", "why"].map(str::to_owned).iter().collect::<Vec<_>>()
        );
    }
    let of = |name: &str| told.iter().find(|object| object["check"] == name).unwrap();
    assert_eq!(of("somaxconn")["status"], "warning");
    assert_eq!(
        of("somaxconn")["fix"],
        "sysctl -w net.core.somaxconn=4096\necho 'net.core.somaxconn = 4096' >> /etc/sysctl.d/90-starling.conf"
    );
    assert_eq!(of("swap")["status"], "note");
    assert!(of("swap")["fix"].is_null());
}

#[test]
fn names_are_told_apart() {
    for (index, check) in CHECKS.iter().enumerate() {
        assert!(CHECKS[..index].iter().all(|other| other.name != check.name), "{}", check.name);
        assert!(check.name.len() <= 17, "{} does not fit its column", check.name);
    }
}

#[test]
fn nothing_steers_a_terminal() {
    let machine = Machine::healthy().with("proc/sys/kernel/osrelease", "6.9.0\u{1b}[2J\n");
    let findings = look(&machine.host, &machine.plan());
    assert!(!text(&findings, &machine.plan(), true, false).contains('\u{1b}'));
    assert_eq!(machine.finding("kernel").found.status, Fine);
}

#[test]
fn each_check_has_its_words_in_the_documents() {
    let page = include_str!("../../../../docs/host.md");
    for check in CHECKS {
        assert!(
            page.contains(&format!("| `{}` |", check.name)),
            "docs/host.md does not tell of {}",
            check.name
        );
    }
    let rows = page.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, CHECKS.len(), "docs/host.md tells of checks that there are not");
}
