//! Processors, and what comes to them.

use super::{Fine, Machine, Note, Warning};

#[test]
fn processors() {
    Machine::healthy().expect(
        "processors",
        Fine,
        "4 cores, on 4 of 4 processors that the process may run on (0-3), pinned to 0-3",
        &[],
    );
    let bound = Machine::healthy().with("proc/self/status", "Cpus_allowed_list:\t1,3\n");
    bound.expect(
        "processors",
        Fine,
        "2 cores, on 2 of 4 processors that the process may run on (1,3), pinned to 1,3",
        &[],
    );
    bound.set("cores", 3).expect(
        "processors",
        Warning,
        "3 cores, on 2 of 4 processors that the process may run on (1,3): some loops share one",
        &["starling serve --cores 2"],
    );
    assert_eq!(Machine::healthy().set("pin", false).finding("processors").found.status, Note);
    Machine::healthy()
        .without("proc/self/status")
        .expect_unknown("processors", "there is no /proc/self/status");
}

#[test]
fn time_on_processors() {
    let file = "sys/fs/cgroup/system.slice/starling.service/cpu.max";
    let quota = Machine::healthy().with(file, "150000 100000\n");
    quota.expect(
        "cpu-quota",
        Warning,
        "/sys/fs/cgroup/system.slice/starling.service/cpu.max allows 1.50 processors' time, for 4 cores",
        &[
            "systemctl set-property starling.service CPUQuota=400%",
            "or as many cores as there is time for: starling serve --cores 1",
        ],
    );
    // Of a group above, too; and the tightest counts.
    let above = Machine::healthy().with("sys/fs/cgroup/system.slice/cpu.max", "200000 100000\n");
    assert!(
        above.finding("cpu-quota").found.text.starts_with("/sys/fs/cgroup/system.slice/cpu.max allows 2.00")
    );
    quota.with(file, "400000 100000").expect(
        "cpu-quota",
        Fine,
        "/sys/fs/cgroup/system.slice/starling.service/cpu.max allows 4.00 processors' time, for 4 cores",
        &[],
    );
    Machine::healthy()
        .without("sys/fs/cgroup/system.slice/starling.service")
        .expect_unknown("cpu-quota", "there is no /sys/fs/cgroup/system.slice/starling.service");
}

#[test]
fn control_groups_of_version_1() {
    let mounts = "27 1 254:0 / / rw - ext4 /dev/vda rw\n\
        32 31 0:29 /docker/abc /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpuacct,cpu\n\
        33 31 0:30 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    let machine = Machine::healthy()
        .with("proc/self/mountinfo", mounts)
        .with("proc/self/cgroup", "3:cpuacct,cpu:/docker/abc\n2:memory:/docker/abc\n0::/\n")
        .with("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000")
        .with("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
        .with("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824");
    assert!(
        machine
            .finding("cpu-quota")
            .found
            .text
            .starts_with("/sys/fs/cgroup/cpu/cpu.cfs_quota_us allows 0.50")
    );
    let finding = machine.finding("memory");
    assert!(
        finding.found.text.starts_with("/sys/fs/cgroup/memory/memory.limit_in_bytes allows 1 GiB"),
        "{finding:?}"
    );
    assert_eq!(finding.found.status, Warning);
    machine.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1");
    machine.expect("cpu-quota", Fine, "no bound on processors' time in the control groups", &[]);
}

#[test]
fn isolated_processors() {
    let isolated = Machine::healthy()
        .with("sys/devices/system/cpu/isolated", "1-2")
        .with("sys/devices/system/cpu/nohz_full", "1-2")
        .with("proc/self/status", "Cpus_allowed_list:\t0,3\n");
    let advice = ["taskset -c 1-3 starling serve --cores 2", "or in the unit: CPUAffinity=1-3"];
    isolated.expect(
        "isolated",
        Note,
        "isolated: 1-2; nohz_full: 1-2; cores would be on 0,3: none of them is isolated",
        &advice,
    );
    let isolated = isolated.with("proc/self/status", "Cpus_allowed_list:\t1-2\n");
    isolated.expect(
        "isolated",
        Warning,
        "isolated: 1-2; nohz_full: 1-2; cores would be on 1-2: all that the process may run on are, so that nothing moves its other \
         threads from beside a loop",
        &advice,
    );
    // What is advised is well.
    let isolated = isolated.with("proc/self/status", "Cpus_allowed_list:\t1-3\n").set("cores", 2);
    isolated.expect(
        "isolated",
        Fine,
        "isolated: 1-2; nohz_full: 1-2; cores would be on 1-2: all of them are, and its other threads have others",
        &[],
    );
    let isolated = isolated.set("cores", 3);
    assert_eq!(isolated.finding("isolated").found.status, Note);
    isolated
        .without("sys/devices/system/cpu/isolated")
        .expect_unknown("isolated", "there is no /sys/devices/system/cpu/isolated");
    Machine::healthy().set("pin", false).expect_unknown("isolated", "the loops are not pinned (--no-pin)");
}

#[test]
fn nodes_of_memory() {
    let two = Machine::healthy()
        .with("sys/devices/system/node/online", "0-1")
        .with("sys/devices/system/node/node0/cpulist", "0,2")
        .with("sys/devices/system/node/node1/cpulist", "1,3");
    two.expect(
        "numa",
        Note,
        "nodes of memory: 2; cores on node 0-1",
        &["a server a node of memory, as one cluster (docs/cluster.md)"],
    );
    two.set("cores", 2).expect(
        "numa",
        Warning,
        "nodes of memory: 2; cores on node 0-1; one would do for all of them",
        &["taskset -c 0,2 starling serve --cores 2", "or in the unit: CPUAffinity=0,2"],
    );
    Machine::healthy()
        .without("sys/devices/system/node")
        .expect_unknown("numa", "there is no /sys/devices/system/node/online");
}

#[test]
fn threads_of_a_physical_core() {
    let mut machine = Machine::healthy();
    for processor in 0..4 {
        let path = format!("sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list");
        machine = machine.with(&path, if processor < 2 { "0-1" } else { "2-3" });
    }
    machine.expect(
        "smt",
        Note,
        "loops share physical cores: 0-1 and 2-3",
        &["taskset -c 0,2 starling serve --cores 2"],
    );
    machine.set("cores", 2).expect(
        "smt",
        Warning,
        "loops share physical cores: 0-1, and 0,2 would not",
        &["taskset -c 0,2 starling serve --cores 2"],
    );
    let missing = "sys/devices/system/cpu/cpu2/topology/thread_siblings_list";
    Machine::healthy().without(missing).expect_unknown("smt", &format!("there is no /{missing}"));
}

#[test]
fn frequencies() {
    let governor = "sys/devices/system/cpu/cpu2/cpufreq/scaling_governor";
    let machine = Machine::healthy().with(governor, "powersave\n");
    machine.expect(
        "governor",
        Warning,
        "performance (acpi-cpufreq) on 0-1,3, powersave (acpi-cpufreq) on 2",
        &[&format!("echo performance > /{governor}")],
    );
    assert_eq!(
        machine.finding("governor").keeps(),
        [format!("echo 'w /{governor} - - - - performance' >> /etc/tmpfiles.d/90-starling.conf")]
    );
    let machine = machine.with("sys/devices/system/cpu/cpu2/cpufreq/scaling_driver", "intel_pstate");
    assert_eq!(machine.finding("governor").found.status, Note);
    let machine = machine.with(governor, "schedutil");
    assert_eq!(machine.finding("governor").found.status, Note);
    machine.without(governor).expect_unknown("governor", &format!("there is no /{governor}"));
}

#[test]
fn clock_sources() {
    const CLOCK: &str = "sys/devices/system/clocksource/clocksource0";
    let machine = Machine::healthy().with(&format!("{CLOCK}/current_clocksource"), "hpet\n");
    machine.expect(
        "clock-source",
        Warning,
        "the clock source is hpet (there are: tsc hpet acpi_pm)",
        &[
            &format!("echo tsc > /{CLOCK}/current_clocksource"),
            "for good, on the kernel's command line: clocksource=tsc",
        ],
    );
    let other = Machine::healthy().with(&format!("{CLOCK}/current_clocksource"), "timebase");
    assert_eq!(other.finding("clock-source").found.status, Note);
    let machine = machine.with(&format!("{CLOCK}/available_clocksource"), "hpet acpi_pm");
    let finding = machine.finding("clock-source");
    assert!(
        finding.found.status == Warning && finding.fixes()[0].starts_with("journalctl -k"),
        "{finding:?}"
    );
}

#[test]
fn interrupts() {
    Machine::healthy().expect(
        "interrupts",
        Fine,
        "2 interrupts of eth0 come to processors 0-1, and no processor is free of loops",
        &[],
    );
    let machine = Machine::healthy().set("cores", 1);
    machine.expect(
        "interrupts",
        Note,
        "2 interrupts of eth0 come to processors 0-1; 1 of them take time from loops, and there is none on 1-3",
        &["for irq in 41; do echo 1-3 > /proc/irq/$irq/smp_affinity_list; done"],
    );
    // One that the process may not use is free, too.
    let masked = Machine::healthy().with("proc/self/status", "Cpus_allowed_list:\t1-3\n");
    assert_eq!(masked.finding("interrupts").found.status, Note);
    let masked = masked.with("sys/devices/system/cpu/isolated", "0");
    assert_eq!(masked.finding("interrupts").found.status, Fine);
    let machine = machine.with("proc/78/comm", "irqbalance\n");
    assert_eq!(machine.finding("interrupts").fixes()[0], "systemctl disable --now irqbalance");
    let steered = Machine::healthy().set("steer", true);
    steered.expect(
        "interrupts",
        Warning,
        "2 interrupts of eth0 come to processors 0-1: with --steer the cores on 1-3 get no connections by these cards",
        &["for queue in /sys/class/net/eth0/queues/rx-*; do echo f > $queue/rps_cpus; done"],
    );
    let queues = " 41: 1 0 PCI-MSIX eth0-TxRx-0\n 42: 1 0 PCI-MSIX eth0-TxRx-1\n";
    let two = Machine::healthy().set("steer", true).set("cores", 2).with("proc/interrupts", queues);
    assert_eq!(two.finding("interrupts").found.status, Fine);
    let two = two.with("proc/irq/42/effective_affinity_list", "0");
    assert_eq!(
        two.finding("interrupts").fixes(),
        ["echo 0 > /proc/irq/41/smp_affinity_list", "echo 1 > /proc/irq/42/smp_affinity_list"]
    );
    let steered = steered.with("sys/class/net/eth0/queues/rx-0/rps_cpus", "f");
    assert_eq!(steered.finding("interrupts").found.status, Fine);
    let steered = steered.with("proc/78/comm", "irqbalance\n");
    assert_eq!(steered.finding("interrupts").found.status, Warning);
    Machine::healthy()
        .without("sys/class/net/eth0")
        .expect_unknown("interrupts", "/sys/class/net has no card with a device");
    Machine::healthy()
        .without("proc/interrupts")
        .expect_unknown("interrupts", "there is no /proc/interrupts");
    Machine::healthy().expect("packet-steering", Fine, "eth0: RPS on 0 of 1 queues, XPS on 1 of 1", &[]);
}
