"""What is read of the server and of the machine every few seconds, and the tables that it goes to."""

import csv
import json
import os
import pathlib
import subprocess
import threading
import time
import urllib.request

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CLASSES = ["histories", "send_queues", "input", "connections", "sessions", "journals"]
# Counters of which each sample has how much they have grown since the one before.
GROWN = {"errors": "errors", "slow_consumers": "slow_consumers", "timeouts": "timeouts", "refused_connections": "refused_connections",
         "too_large": "too_large", "store_refused": "store_refused", "store_overdue": "store_overdue", "journal_waits": "journal_waits",
         "stalls": "stalls", "accepted": "accepted", "resumed": "resumed", "grace_expired": "grace_expired",
         "rooms_forgotten": "rooms_forgotten", "history_forgotten": "history_forgotten", "private_kept": "private_kept",
         "tls_handshakes": "tls_handshakes"}
COLUMNS = (["seconds", "phase", "rss_bytes", "pss_bytes", "anonymous_bytes"] + [f"{name}_bytes" for name in CLASSES]
           + ["disk_bytes", "open_files", "threads", "connections", "sessions", "away", "rooms", "nicknames", "timers", "mailbox", "deferred",
              "messages_per_s", "deliveries_per_s", "server_cpus", "server_waits", "core_busy"]
           + list(GROWN) + ["load_1m", "machine_cpus", "steal_cpus"])
SLICE_COLUMNS = ["began", "ended", "phase", "profile", "target", "exit_code", "verdict", "reasons", "sent", "received", "looked_at", "gaps",
                 "reordered", "repeated", "missing", "p50_us", "p99_us", "p999_us", "max_us", "late_p99_us", "generator_busy"]
EVENT_COLUMNS = ["seconds", "event", "detail"]


class Table:
    """A CSV file that is complete after every row."""

    def __init__(self, path, columns):
        self.columns, self._lock = columns, threading.Lock()
        self._file = open(path, "w", newline="")
        self._writer = csv.DictWriter(self._file, columns)
        self._writer.writeheader()
        self._file.flush()

    def add(self, row):
        with self._lock:
            if not self._file.closed:
                self._writer.writerow(row)
                self._file.flush()

    def close(self):
        with self._lock:
            self._file.close()


def read_table(path):
    """The rows, with numbers where they are numbers."""
    with open(path, newline="") as file:
        return [{name: number_or_text(value) for name, value in row.items()} for row in csv.DictReader(file)]


def number_or_text(value):
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


class Watched:
    """A server as its metrics, its dashboard and the kernel tell of it."""

    def __init__(self, binary, pid, web, data):
        self.pid, self.web, self.data = pid, web, pathlib.Path(data)
        self._before = None
        self._told, self._lock = None, threading.Lock()
        # Timers, sessions and mailboxes are on the dashboard alone.
        self._command = [binary, "top", "--json", f"http://{web}"]
        self._is_closed, self._top = threading.Event(), None
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self):
        """Again when it has ended: it does when a busy server leaves it without a word for some seconds."""
        while not self._is_closed.is_set():
            self._top = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                         start_new_session=True)
            if self._is_closed.is_set():
                self._top.terminate()
            for line in self._top.stdout:
                with self._lock:
                    self._told = json.loads(line), time.monotonic()
            self._top.stdout.close()
            self._top.wait()
            self._is_closed.wait(1)

    def close(self):
        self._is_closed.set()
        if self._top:
            self._top.terminate()
        self._listener.join(10)

    def sample(self, has_rates=True):
        """A row of the table, but for the time. Rates are since the last row that had some."""
        metrics, kernel, machine = self.metrics(), self._kernel(), machine_cpus()
        now = time.monotonic()
        with self._lock:
            top, told_at = self._told or ({"cores": []}, now)
        if now - told_at > 30:
            raise OSError("the dashboard has told nothing for 30 s")
        row = {"rss_bytes": metrics["process_resident_memory_bytes"], "open_files": metrics["process_open_fds"],
               "threads": metrics["process_threads"], "load_1m": float(pathlib.Path("/proc/loadavg").read_text().split()[0])}
        row |= {f"{name}_bytes": metrics[f'starling_memory_bytes{{class="{name}"}}'] for name in CLASSES}
        # Without the connection that is watching, and the one that is asking.
        row |= {"connections": metrics["starling_connections"] - 2, "rooms": metrics["starling_rooms"],
                "nicknames": metrics["starling_nicknames"], "away": metrics["starling_away"], "sessions": top.get("sessions", 0)}
        row |= {name: sum(core[name] for core in top["cores"]) for name in ("timers", "mailbox", "deferred")}
        row["core_busy"] = max((core["busy"] for core in top["cores"]), default=0)
        row |= {name: kernel[name] for name in ("pss_bytes", "anonymous_bytes", "disk_bytes")}
        grown = {name: metrics[f"starling_{counter}_total"] for name, counter in GROWN.items()}
        rates = {"messages_per_s": metrics["starling_published_total"], "deliveries_per_s": metrics["starling_deliveries_total"],
                 "server_cpus": kernel["cpu_s"], "server_waits": kernel["waited_s"], "machine_cpus": machine[0], "steal_cpus": machine[1]}
        before = self._before if has_rates else None
        if has_rates:
            self._before = (now, grown, rates)
        if before:
            row |= {name: value - before[1][name] for name, value in grown.items()}
            row |= {name: max(0, value - before[2][name]) / (now - before[0]) for name, value in rates.items()}
        else:
            row |= dict.fromkeys([*grown, *rates], 0)
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}

    def metrics(self):
        with urllib.request.urlopen(f"http://{self.web}/metrics", timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line and line[0] != "#")}

    def _kernel(self):
        process = pathlib.Path(f"/proc/{self.pid}")
        rollup = dict(line.split(":", 1) for line in (process / "smaps_rollup").read_text().splitlines()[1:])
        cpu_ns = waited_ns = 0
        for task in (process / "task").iterdir():
            try:
                ran, waited, _ = (task / "schedstat").read_text().split()
            except (OSError, ValueError):
                continue  # it has just ended
            cpu_ns, waited_ns = cpu_ns + int(ran), waited_ns + int(waited)
        disk = 0
        for file in self.data.glob("starling.db*"):
            try:
                disk += file.stat().st_size
            except OSError:
                continue
        return {"pss_bytes": kilobytes(rollup["Pss"]), "anonymous_bytes": kilobytes(rollup["Anonymous"]), "disk_bytes": disk,
                "cpu_s": cpu_ns / 1e9, "waited_s": waited_ns / 1e9}


def kilobytes(text):
    return int(text.split()[0]) * 1024


def machine_cpus():
    """Processor time that all programs have had, and that the hypervisor has taken away, in seconds."""
    user, nice, system, _, _, irq, softirq, steal, *_ = (int(ticks) for ticks in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq) / TICKS_PER_S, steal / TICKS_PER_S
