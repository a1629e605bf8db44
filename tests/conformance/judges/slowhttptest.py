"""slowhttptest, which holds connections as slowly as it can: slow headers, slow bodies, slow reading, and ranges without end.

Each of its four attacks holds CONNECTIONS connections for SECONDS seconds against a server with its default limits, while it probes whether
others are answered, and so does this judge, on connections of its own: HTTP, and a WebSocket that is there from before.

A pass: slowhttptest calls the service available all the time; no other request and no ping of the WebSocket takes longer than ANSWER_S; no
slow connection is left at the end, ended by the timeouts (`limits.http_head_ms`, for heads and bodies), though reading slowly is
allowed as long as what waits is bounded; and the server's memory grows by no more than MEMORY_BYTES for each of them."""

import csv
import pathlib
import re
import subprocess
import tempfile
import threading
import time

from helpers import environment
from judge import Failed, case, missing_programs, output

SCHEME = None
CONNECTIONS = 400
SECONDS = 28
ANSWER_S = 2.0
MEMORY_BYTES = 300_000

# The path with the longest answer, which slow reading is about.
LONG = "/app.js"
COMMON = ["-c", str(CONNECTIONS), "-r", "200", "-l", str(SECONDS), "-p", str(int(ANSWER_S))]
ATTACKS = {
    "slow headers": (["-H", "-i", "2", "-x", "10"], "/"),
    "slow body": (["-B", "-i", "2", "-s", "8192", "-x", "10"], "/api/login"),
    "slow read": (["-X", "-k", "8", "-n", "1", "-z", "32", "-w", "512", "-y", "1024"], LONG),
    "ranges": (["-R", "-a", "1", "-b", "3000", "-t", "GET"], "/"),
}


def missing():
    return missing_programs(slowhttptest="slowhttptest")


def version():
    return "slowhttptest " + re.search(r"version ([\d.]+)", output("slowhttptest", "-h"))[1]


def run(bench):
    for name, (flags, path) in ATTACKS.items():
        bench.say(f"{name}, {SECONDS} s")
        # Accounts, since a body is read only where one is wanted; and the rate that tests are spared.
        with bench.server(store__kind="sqlite", rate__commands_per_second=100) as server:
            attack = Attack(server, flags, path)
            attack.run()
            yield case(f"{name}: slowhttptest calls the service available", attack.is_available)
            yield case(f"{name}: others are answered within {ANSWER_S:g} s", attack.answers_others)
            yield case(f"{name}: no connection is left", attack.leaves_none)
            yield case(f"{name}: memory is bounded", attack.is_bounded)


class Attack:
    """One attack, and what was seen of it."""

    def __init__(self, server, flags, path):
        self.server, self.flags, self.path = server, flags, path
        self.waits, self.troubles, self.rows = [], [], []
        self.is_over = threading.Event()
        self.memory = 0

    def run(self):
        neighbour = self.server.ws("neighbour", "den")
        before = self.resident()
        asker = threading.Thread(target=self.ask_on, args=(neighbour,))
        asker.start()
        try:
            with tempfile.TemporaryDirectory(prefix="starling-slow-") as directory:
                command = ["slowhttptest", *COMMON, *self.flags, "-u", self.server.url(self.path, "http"), "-g", "-o", f"{directory}/found"]
                done = subprocess.run(command, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS + 60)
                self.output = re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", done.stdout.decode(errors="replace"))
                with open(pathlib.Path(directory) / "found.csv") as found:
                    self.rows = list(csv.DictReader(found))
        finally:
            self.is_over.set()
            asker.join()
        self.memory = max(self.memory, self.resident()) - before

    def ask_on(self, neighbour):
        """Asks as others do until the attack is over."""
        while not self.is_over.wait(0.2):
            began = time.monotonic()
            try:
                if self.server.get("/health").status != 200:
                    raise Failed("/health was refused")
                neighbour.call("ping")
            except Exception as error:
                self.troubles.append(f"{type(error).__name__}: {error}")
                return
            self.waits.append(time.monotonic() - began)
            self.memory = max(self.memory, self.resident())

    def resident(self):
        status = pathlib.Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024

    def status(self):
        """How it says that it has ended."""
        said = re.search(r"Exit status:\s*(.+)", self.output)
        return said[1].strip() if said else self.output[-1000:]

    def is_available(self):
        rows = [row for row in self.rows if int(row["Seconds"]) > 0]
        if not rows or any(int(row["Service Available"]) == 0 for row in rows):
            raise Failed(f"{self.status()}: {self.rows}")

    def answers_others(self):
        if self.troubles or not self.waits or max(self.waits) > ANSWER_S:
            raise Failed(f"{self.troubles or max(self.waits, default=None)}, after {len(self.waits)} answers")

    def leaves_none(self):
        # It stops as soon as there is none, and says so; its statistics lack the last second then.
        if "No open connections left" not in self.output:
            raise Failed(f"{self.status()}: {self.rows[-1] if self.rows else 'no statistics'}")

    def is_bounded(self):
        if self.memory > CONNECTIONS * MEMORY_BYTES:
            raise Failed(f"{self.memory} bytes more for {CONNECTIONS} connections")
