//! Open files, and what is about the network.

use std::io;

use super::{Fine, Machine, Note, Warning, settings};

#[test]
fn open_files() {
    Machine::healthy().set("limits.connections", 100_000).expect(
        "open-files",
        Fine,
        "what is started from here may have 1048576 files open (soft 1024, which the server raises): room for 1015808 connections a core; \
         100000 connections (limits.connections) on 4 cores want 32258 files a core",
        &[],
    );
    let few = "Max open files            1024                 4096                 files     \n";
    let machine = Machine::healthy().with("proc/self/limits", few);
    machine.expect(
        "open-files",
        Fine,
        "what is started from here may have 4096 files open (soft 1024, which the server raises): room for 3968 connections a core; \
         10000 connections (reckoned with) on 4 cores want 3225 files a core",
        &[],
    );
    let machine = machine.set("limits.connections", 400_000);
    machine.expect(
        "open-files",
        Warning,
        "what is started from here may have 4096 files open (soft 1024, which the server raises): room for 3968 connections a core; \
         400000 connections (limits.connections) on 4 cores want 129032 files a core",
        &["prlimit --pid $$ --nofile=1048576:1048576"],
    );
    assert!(machine.finding("open-files").keeps()[0].contains("LimitNOFILE=1048576"));
    // No more than the kernel lets be, where that is enough.
    let machine = machine.with("proc/sys/fs/nr_open", "500000");
    assert_eq!(machine.finding("open-files").fixes(), ["prlimit --pid $$ --nofile=500000:500000"]);
    machine.without("proc/self/limits").expect_unknown("open-files", "there is no /proc/self/limits");
    Machine::healthy()
        .with("proc/self/limits", "Max cpu time")
        .expect_unknown("open-files", "/proc/self/limits has no line for open files");
}

#[test]
fn what_is_wanted_is_what_the_server_has_room_for() {
    for connections in [1_usize, 63, 64, 1000, 1984, 1985, 2000, 100_000, 9_999_999] {
        let plan = Machine::healthy().set("cores", 1).set("limits.connections", connections).plan();
        let files = plan.files_of_core() as usize;
        assert!(crate::server::room(files).0 >= connections);
        assert!(connections == 1 || crate::server::room(files - 1).0 < connections, "{connections}: {files}");
    }
}

#[test]
fn limits_of_another_process() {
    let few = "Max open files            100                  100                  files     \n";
    let mut machine = Machine::healthy().with("proc/4711/limits", few);
    machine.host.process = "4711".to_owned();
    let finding = machine.finding("open-files");
    assert_eq!(finding.found.status, Warning);
    assert!(finding.found.text.starts_with("that process may have 100 files open"), "{finding:?}");
}

#[test]
fn ceilings_of_open_files() {
    let machine = Machine::healthy().set("limits.connections", 8_000_000);
    machine.expect(
        "nr-open",
        Warning,
        "fs.nr_open is 1048576; a core wants 2580645 files",
        &["sysctl -w fs.nr_open=4194304"],
    );
    Machine::healthy()
        .without("proc/sys/fs/nr_open")
        .expect_unknown("nr-open", "there is no /proc/sys/fs/nr_open");
    Machine::healthy()
        .with("proc/sys/fs/nr_open", "many")
        .expect_unknown("nr-open", "/proc/sys/fs/nr_open has no number: \"many\"");
    let full = Machine::healthy().with("proc/sys/fs/file-max", "10000");
    full.expect(
        "file-max",
        Note,
        "fs.file-max is 10000, 752 are in use; with 10000 connections (reckoned with) it is 10752",
        &["sysctl -w fs.file-max=1048576"],
    );
    let full = full.set("limits.connections", 100_000);
    assert_eq!(full.finding("file-max").found.status, Warning);
}

#[test]
fn descriptor_tables() {
    let mut machine = Machine::healthy();
    machine.host.calls.table = Some(|| Err(io::ErrorKind::PermissionDenied.into()));
    let finding = machine.finding("descriptor-tables");
    assert_eq!(finding.found.status, Warning);
    assert!(finding.found.text.contains("holds all 4 cores together"), "{finding:?}");
    // All cores together then need as many as there are connections.
    assert_eq!(machine.plan().files_of_core(), 10_322);
    machine.host.calls.table = None;
    machine.expect_unknown("descriptor-tables", "it can only be tried on the machine itself (no --root)");
}

#[test]
fn queues_of_listeners() {
    let machine = Machine::healthy().with("proc/sys/net/core/somaxconn", "128\n");
    machine.expect(
        "somaxconn",
        Warning,
        "net.core.somaxconn is 128, limits.listen_backlog 4096",
        &["sysctl -w net.core.somaxconn=4096"],
    );
    assert_eq!(
        machine.finding("somaxconn").keeps(),
        ["echo 'net.core.somaxconn = 4096' >> /etc/sysctl.d/90-starling.conf"]
    );
    assert_eq!(settings(&[machine.finding("somaxconn")]), "warning\tsysctl\tnet.core.somaxconn\t128\t4096\n");
    machine.set("limits.listen_backlog", 100).expect(
        "somaxconn",
        Fine,
        "net.core.somaxconn is 128, limits.listen_backlog 100",
        &[],
    );
    let short = Machine::healthy().with("proc/sys/net/ipv4/tcp_max_syn_backlog", "512");
    short.expect(
        "syn-backlog",
        Fine,
        "net.ipv4.tcp_max_syn_backlog is 512, net.ipv4.tcp_syncookies 1: the bound does not count while cookies are on",
        &[],
    );
    let short = short.with("proc/sys/net/ipv4/tcp_syncookies", "0");
    short.expect(
        "syn-backlog",
        Warning,
        "net.ipv4.tcp_max_syn_backlog is 512, net.ipv4.tcp_syncookies 0, limits.listen_backlog 4096",
        &["sysctl -w net.ipv4.tcp_max_syn_backlog=4096"],
    );
    let short = short.without("proc/sys/net/ipv4/tcp_syncookies");
    assert_eq!(short.finding("syn-backlog").found.status, Note);
}

#[test]
fn ports() {
    Machine::healthy().with("proc/sys/net/ipv4/ip_local_port_range", "60000 60999").expect(
        "port-range",
        Note,
        "1000 ports (60000 to 60999) for connections from here to one address",
        &["sysctl -w net.ipv4.ip_local_port_range='10240 60999'"],
    );
    Machine::healthy().with("proc/sys/net/ipv4/ip_local_reserved_ports", "40000-40001\n").expect(
        "reserved-ports",
        Note,
        "port 50051 of a listener is among those that connections outwards get (32768 to 60999), and is not reserved",
        &["sysctl -w net.ipv4.ip_local_reserved_ports='40000-40001,50051'"],
    );
    Machine::healthy()
        .without("proc/sys/net/ipv4/ip_local_reserved_ports")
        .expect_unknown("reserved-ports", "there is no /proc/sys/net/ipv4/ip_local_reserved_ports");
}

#[test]
fn buffers() {
    Machine::healthy().with("proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t32768").expect(
        "tcp-buffers",
        Warning,
        "net.ipv4.tcp_rmem is 4096 131072 6291456, net.ipv4.tcp_wmem is 4096 16384 32768; limits.send_queue_bytes (1 MiB) comes on top",
        &["sysctl -w net.ipv4.tcp_wmem='4096 16384 4194304'"],
    );
    let modest = Machine::healthy().with("proc/sys/net/ipv4/tcp_rmem", "4096 131072 500000");
    assert_eq!(modest.finding("tcp-buffers").found.status, Note);
    modest.with("proc/sys/net/ipv4/tcp_rmem", "4096 131072").expect_unknown(
        "tcp-buffers",
        "/proc/sys/net/ipv4/tcp_rmem has not 3 numbers: \"4096\\t131072\"".replace("\\t", " ").as_str(),
    );
    Machine::healthy()
        .without("proc/sys/net/core/wmem_max")
        .expect_unknown("socket-buffers", "there is no /proc/sys/net/core/wmem_max");
}

#[test]
fn memory_of_tcp() {
    let small = Machine::healthy().with("proc/sys/net/ipv4/tcp_mem", "100 200 300");
    assert_eq!(small.finding("tcp-mem").found.status, Note);
    small.set("limits.connections", 10_000).expect(
        "tcp-mem",
        Warning,
        "net.ipv4.tcp_mem is 100 200 300: at most 1.2 MiB of 16 GiB for all TCP; 10000 connections (limits.connections) with a page \
         waiting each way are 78.1 MiB",
        &["sysctl -w net.ipv4.tcp_mem='147456 196608 393216'"],
    );
    let large = Machine::healthy().with("proc/sys/net/ipv4/tcp_mem", "100 200 4194304");
    let finding = large.finding("tcp-mem");
    assert!(
        finding.found.status == Warning && finding.found.text.ends_with("more than half of the memory"),
        "{finding:?}"
    );
    large.without("proc/meminfo").expect_unknown("tcp-mem", "there is no /proc/meminfo");
}

#[test]
fn tracked_connections() {
    let machine = Machine::healthy().set("limits.connections", 400_000);
    machine.expect(
        "conntrack",
        Warning,
        "net.netfilter.nf_conntrack_max is 262144, 12 are tracked; with 400000 connections (limits.connections) it is 400012",
        &["sysctl -w net.netfilter.nf_conntrack_max=524288"],
    );
    machine.write("proc/sys/net/netfilter/nf_conntrack_count", "0");
    assert_eq!(machine.finding("conntrack").found.status, Note);
    machine.remove("proc/sys/net/netfilter");
    machine.expect_unknown("conntrack", "there is no /proc/sys/net/netfilter/nf_conntrack_max");
    let machine = machine.with("sys/module/tcp_cubic/refcnt", "1");
    machine.expect("conntrack", Fine, "connections are not tracked: nf_conntrack is not loaded", &[]);
}
