"""Tests of scripts/compare's own parts: python3 -m unittest discover -s benches -t benches"""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import xml.etree.ElementTree

from compare import check, peers, report, stacks, workloads
from compare.processes import Failed, Server, free_port, run


class Checks(unittest.TestCase):
    """The clients find what is wrong with a fan-out."""

    def test_a_right_one_passes(self):
        with fan_out(lambda lines: lines) as port:
            check.check_floor(check.Lines, port)

    def test_faults_are_found(self):
        faults = {
            "missing": lambda lines: lines[:40] + lines[41:],
            "repeated": lambda lines: lines[:40] + lines[40:41] + lines[40:],
            "reordered": lambda lines: lines[::-1],
            "damaged": lambda lines: lines[:40] + [lines[40].replace(b".", b",")] + lines[41:],
            "from elsewhere": lambda lines: lines[:40] + [check.content("other", 0, 3) + b"\n"] + lines[40:],
        }
        check.WAIT_S = 1
        for name, fault in faults.items():
            with self.subTest(name), fan_out(fault) as port:
                self.assertRaisesRegex(Failed, "^check: ", check.check_floor, check.Lines, port)


class Programs(unittest.TestCase):
    def test_what_wrk_tells_is_read(self):
        told = "  360000 requests in 3.00s, 50.0MB read\nRequests/sec: 120000.50\n"
        self.assertEqual(workloads.wrk_figures(told), (360000, 120000.5, False))
        self.assertTrue(workloads.wrk_figures(told + "  Non-2xx or 3xx responses: 3\n")[2])
        self.assertTrue(workloads.wrk_figures(told + "  Socket errors: connect 0, read 1, write 0, timeout 0\n")[2])

    def test_what_h2load_tells_is_read(self):
        told = ("finished in 2.00s, 39047.50 req/s, 5.59MB/s\n"
                "requests: 100 total, 164 started, 100 done, {} succeeded, 0 failed, 0 errored, 0 timeout\n")
        self.assertEqual(workloads.h2load_figures(told.format(100)), (100, 39047.5, False))
        self.assertTrue(workloads.h2load_figures(told.format(99))[2])


class Processes(unittest.TestCase):
    def test_what_does_not_start_says_why(self):
        with tempfile.NamedTemporaryFile() as log:
            server = Server(["sh", "-c", "echo no such thing >&2; exit 3"], free_port(), first_cpus(), log.name)
            with self.assertRaisesRegex(Failed, "no such thing"), server:
                self.fail("it is not under way")

    def test_a_program_that_fails_says_why(self):
        self.assertRaisesRegex(Failed, "it is broken", run, ["sh", "-c", "echo it is broken; exit 1"], 5)
        self.assertRaisesRegex(Failed, "did not end within", run, ["sleep", "60"], 0.2)

    def test_an_end_takes_children_along(self):
        port = free_port()
        script = f"sleep 61 & {sys.executable} -m http.server --bind 127.0.0.1 {port}"
        with Server(["sh", "-c", script], port, first_cpus(), os.devnull) as server:
            group = server.pid
        until = time.monotonic() + 5
        while time.monotonic() < until:
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return
            time.sleep(0.01)
        self.fail("somebody of the group is still there")

    def test_an_interrupt_ends_everything(self):
        script = pathlib.Path(peers.ROOT / "scripts" / "compare")
        with subprocess.Popen([script, "--check", "--only", "floor,floor-1-write"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as compare:
            compare.stderr.readline()
            compare.send_signal(signal.SIGTERM)
            self.assertEqual(compare.wait(20), 1)
            self.assertIn(b"interrupted", compare.stderr.read())


class CommandLines(unittest.TestCase):
    """What makes no sense is refused with a sentence, and with 2."""

    def test_nonsense_is_refused(self):
        for script, arguments, why in (
            ("compare", ["--only", "nobody"], "no peer is called nobody"),
            ("compare", ["--workload", "nothing"], "no workload is called nothing"),
            ("profile", ["--peers", "nobody"], "no peer is called nobody"),
            ("profile", ["--seconds", "0"], "--seconds: at least 1"),
            ("profile", ["--server-cpu", "4095"], "--server-cpu: there is no CPU 4095"),
            ("profile", ["--work", "sleep"], "invalid choice"),
        ):
            with self.subTest(" ".join([script, *arguments])):
                told = subprocess.run([peers.ROOT / "scripts" / script, *arguments], capture_output=True, text=True)
                self.assertEqual(told.returncode, 2, told.stderr)
                self.assertIn(why, told.stderr)
                self.assertNotIn("Traceback", told.stderr)


class Stacks(unittest.TestCase):
    def test_samples_are_put_down_to_what_they_are_in(self):
        kernel = "([kernel.kallsyms])"
        sample = "\n".join([f"  ffff {name} {kernel}" for name in ("copy_from_iter", "tcp_sendmsg_locked", "tcp_sendmsg", "__sys_sendto", "__x64_sys_sendto",
                                                                   "do_syscall_64")] + ["  7f00 __send (/lib/libc.so.6)", "  5500 starling::turn (/usr/bin/starling)"])
        stack = stacks.parse(sample)
        self.assertEqual(len(stack), 8)
        self.assertEqual(stacks.place_of(stack), "TCP takes the bytes into a buffer")
        self.assertEqual(stacks.call_of(stack), "`sendto`")
        own = stacks.parse("  5500 starling::shard::SendPool::gather (/usr/bin/starling)\n  5500 main (/usr/bin/starling)")
        self.assertEqual((stacks.place_of(own), stacks.call_of(own)), (stacks.OWN, stacks.OWN))
        self.assertEqual(stacks.short(own[0]), "SendPool::gather")
        interrupt = stacks.parse(f"  ffff clear_page {kernel}\n  ffff asm_exc_page_fault {kernel}\n  7f00 memset (/lib/libc.so.6)")
        self.assertEqual((stacks.place_of(interrupt), stacks.call_of(interrupt)), (stacks.OTHER, stacks.OTHER))


class Reports(unittest.TestCase):
    def setUp(self):
        self.peers = [peer for peer in peers.peers() if peer.name in ("floor", "starling", "uws", "redis", "nginx")]
        self.workloads = [one for one in workloads.workloads() if one.name in ("fanout", "rooms")]
        self.fanout, self.rooms = self.workloads
        self.results = report.Results(self.workloads, self.peers, {one.name: "load" for one in self.workloads})
        by_name = {peer.name: peer for peer in self.peers}
        for name, figures in {"floor": (1, 5, 2), "starling": (3, 3, 6), "uws": (4, 4, 4)}.items():
            for figure in figures:
                self.results.add(self.fanout, by_name[name], {
                    "cpu_us_per_delivery": figure, "cpu_user_s": 1.0, "cpu_system_s": 3.0, "p50_us": 1500.0,
                    "is_audit_failed": name == "uws" and figure == 4, "reasons": ["3 | missing"] if name == "uws" else []})
        self.results.fail(self.fanout, by_name["redis"], "did not listen")

    def test_medians_and_ratios(self):
        rows = self.rows_of(self.fanout)
        self.assertEqual(rows["floor"][2:6], ["2.00", "1.00 to 5.00", "1.00", "0.67"])
        self.assertEqual(rows["starling"][2:9], ["3.00", "3.00 to 6.00", "1.50", "1.00", "1.5 ms", "-", "0.75 + 2.25 µs"])

    def test_no_row_is_missing(self):
        rows = self.rows_of(self.fanout)
        self.assertEqual(set(rows), {"floor", "starling", "uws", "redis"})
        self.assertEqual(rows["redis"][-2], "did not listen")
        self.assertIn("AUDIT FAILED; 3 / missing", rows["uws"][-2])
        self.assertEqual(self.rows_of(self.rooms)["floor"][-2], "has no rooms")

    def test_titles_are_of_the_load_that_is_made(self):
        self.assertEqual(workloads.title(self.rooms), "1,000 rooms of 10, 2,000 messages a second (open loop)")
        self.assertEqual(workloads.title(self.rooms, is_quick=True), "100 rooms of 10, 500 messages a second (open loop)")
        quick = report.Results(self.workloads, self.peers, self.results.loads, is_quick=True)
        self.assertIn("One room of 200, 50 messages", report.table(quick, {}))
        self.assertIn("One room of 200, 50 messages", report.plot(quick, {}))
        for one in workloads.workloads():
            self.assertNotIn("{", workloads.title(one) + workloads.title(one, is_quick=True))

    def test_batching_is_told(self):
        self.results.add(self.rooms, self.peers[1], {"cpu_us_per_delivery": 1.0, "deliveries_per_read": 3.5})
        self.assertIn("| deliveries a read |", report.table(self.results, {}))
        self.assertEqual(self.rows_of(self.rooms)[self.peers[1].name][9], "3.50")

    def test_the_plot_is_well_formed(self):
        xml.etree.ElementTree.fromstring(report.plot(self.results, {"date": "today & <here>"}))

    def rows_of(self, workload):
        lines = report.workload_table(self.results, workload)[6:]
        return {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")] for line in lines if line}


def first_cpus():
    return {min(os.sched_getaffinity(0))}


@contextlib.contextmanager
def fan_out(change):
    """A fan-out by lines, as the floor is one, that changes what it delivers once `check` has begun to count."""
    listener = socket.create_server(("127.0.0.1", 0))
    lines, connections = [], []
    lock = threading.Lock()

    def serve(connection):
        with contextlib.suppress(ConnectionResetError), connection, connection.makefile("rb") as reader:
            for line in reader:
                with lock:
                    hear(connection, line)

    def hear(connection, line):
        if connection in receivers():
            speakers.append(connection)
        if line.startswith(b"probe"):
            deliver([line])
            return
        lines.append(line)
        if len(lines) == 2 * check.MESSAGES:
            deliver(change(lines))

    def receivers():
        return [connection for connection in connections if connection not in speakers]

    def deliver(what):
        for receiver in receivers():
            receiver.sendall(b"".join(what))

    def accept():
        with contextlib.suppress(OSError):
            while True:
                connections.append(listener.accept()[0])
                threading.Thread(target=serve, args=connections[-1:], daemon=True).start()

    speakers = []
    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


if __name__ == "__main__":
    unittest.main()
