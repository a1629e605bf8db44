"""The hour: a server that lives through all of it, the mix in slices, what happens beside it, and the rest at the end."""

import datetime
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from compare import processes
from compare.processes import Failed

from . import samples
from .trouble import API_KEY, Trouble

CONNECTIONS, ROOMS, MOVES, BYTES = 300, 30, 20, 128
# The queue must not grow; single messages may wait for what else the machine does.
OBJECTIVE = "p50=25ms,p99=100ms"
# Rooms that the server is home to, and bytes of their histories: few, so that both are at their bound before the warm-up is over.
ROOMS_MAX = 400
HISTORIES_MAX = 16 << 20
REST_S = 60
# Looks at the server in a row that may be in vain.
UNANSWERED_MAX = 6
# One after the other beside the mix: profile, scheme of the target, the rest.
BESIDE = [
    ("churn", "ws", ["-c", "30", "--rate", "15"]),
    ("resume", "frames+proto", ["-c", "60", "--rate", "40"]),
    ("churn", "wss", ["-c", "30", "--rate", "10", "--insecure"]),
    ("acks", "ws", ["-c", "10", "--rate", "40"]),
    ("churn", "lines", ["-c", "30", "--rate", "15"]),
    ("slow", "lines", ["-c", "8", "--slow", "4", "--rate", "50", "--size", "16384"]),
    ("fanout", "grpc", ["-c", "20", "-p", "2", "--rate", "20"]),
    ("storm", "ws", ["-c", "200"]),
    ("churn", "frames+proto", ["-c", "30", "--rate", "15"]),
]
# What each reload changes: one after the other, over and over.
VARIANTS = [
    {"log.level": "debug", "limits.send_queue_bytes": 524288},
    # A publisher that has had to wait says hundreds at once.
    {"rate.commands_per_second": 200000, "rate.burst": 200000, "observe.latency_sample_every": 8},
    {"limits.send_queue_bytes": 786432, "heartbeat.probe_ms": 5000, "heartbeat.timeout_ms": 20000},
    {"presence.exact_members": 20, "limits.content_bytes": 40000},
    {"session.away": 5000, "limits.query_limit_max": 500, "log.level": "info,starling::store=debug"},
    {},
]


def settings(options, variant, **others):
    """The configuration file's text."""
    keys = {
        "cores": options.cores, "store.kind": options.store, "rate.commands_per_second": 0, "limits.rooms": ROOMS_MAX,
        "limits.send_queue_bytes": 1048576, "history.count": 500, "history.memory_bytes": HISTORIES_MAX,
        "session.grace_ms": int(options.grace_s * 1000), "drain.spread_ms": 200, "drain.timeout_ms": 3000, "log.level": "info",
        "auth.api_keys": [{"name": "program", "key": API_KEY}],
    } | variant | others
    return "".join(f"{name} = {toml(value)}\n" for name, value in keys.items())


def toml(value):
    if isinstance(value, list):
        return "[" + ", ".join("{ " + ", ".join(f"{name} = {toml(one)}" for name, one in item.items()) + " }" for item in value) + "]"
    return json.dumps(value)


class Soak:
    """A run from its beginning to its end. `out` gets everything as it comes."""

    def __init__(self, options):
        self.options, self.out = options, options.out
        self.began = time.monotonic()
        self.phase = "start"
        self.about = {"began": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "minutes": options.minutes,
                      "warm_up_minutes": options.warm_up, "store": options.store, "cores": options.cores, "machine": machine(),
                      "server_cpus": options.server_cpus, "load_cpus": options.load_cpus, "command": options.command,
                      "slice_s": options.slice_s, "rooms_max": ROOMS_MAX, "histories_max": HISTORIES_MAX, "rest": {}, "reloads": 0,
                      "rotations": 0, "grace_s": options.grace_s}
        self.stop = threading.Event()
        self.children, self.children_lock = set(), threading.Lock()
        self.trouble = self.watched = self.server = None
        self.failure = None

    def run(self):
        """True if it came to its end."""
        self.out.mkdir(parents=True, exist_ok=True)
        for old in ("samples.csv", "slices.csv", "events.csv", "about.json", "verdict.txt", "soak.svg"):
            (self.out / old).unlink(missing_ok=True)
        shutil.rmtree(self.out / "log", ignore_errors=True)
        (self.out / "log").mkdir()
        self.samples = samples.Table(self.out / "samples.csv", samples.COLUMNS)
        self.slices = samples.Table(self.out / "slices.csv", samples.SLICE_COLUMNS)
        self.events = samples.Table(self.out / "events.csv", samples.EVENT_COLUMNS)
        # A reload that is under way may make a file of it while it is removed.
        with tempfile.TemporaryDirectory(prefix="starling-soak-", ignore_cleanup_errors=True) as directory:
            self.directory = pathlib.Path(directory)
            try:
                self._start_server()
                self._hour()
            except KeyboardInterrupt:
                self.failure = "interrupted"
            except (Failed, OSError, KeyError, ValueError) as why:
                self.failure = f"{why}"
            finally:
                self._end()
        shutil.rmtree(directory, ignore_errors=True)
        if self.failure:
            self.about["failure"] = self.failure
            self.say(self.failure)
        self._write_about()
        return self.failure is None

    # The server.

    def _start_server(self):
        options = self.options
        self._run([options.binary, "cert", "--out", self.directory], 20)
        self._configure({})
        self.log = self.out / "log" / "server.log"
        command = [options.binary, "serve", "--config", self.directory / "starling.toml", "--data-dir", self.directory / "data",
                   "--log-file", self.log, "--tls-cert", self.directory / "cert.pem", "--tls-key", self.directory / "key.pem"]
        for kind in ("web", "web+tls", "line", "frame", "grpc"):
            command += ["--listen", f"{kind}=127.0.0.1:0"]
        # No other thread runs yet: what is done between fork and exec cannot meet a lock that is held.
        with open(self.out / "log" / "stderr", "wb") as stderr:
            self.server = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr,
                                           env=self._environment(), start_new_session=True, preexec_fn=processes.prepare(options.server_cpus))
        os.sched_setaffinity(0, options.load_cpus)
        self.ports = {}
        while len(self.ports) < 5:
            line = self.server.stdout.readline().decode()
            if not line:
                raise Failed(f"the server did not start: {processes.last_line(self.out / 'log' / 'stderr')}")
            _, kind, address, *tls = line.split()
            host, port = address.rsplit(":", 1)
            self.ports["tls" if tls else kind] = (host, int(port))
        self.watched = samples.Watched(options.binary, self.server.pid, "{}:{}".format(*self.ports["web"]), self.directory / "data")

    def _configure(self, variant, **others):
        path = self.directory / "starling.toml"
        new = path.with_suffix(".new")
        new.write_text(settings(self.options, variant, **others))
        new.rename(path)

    @staticmethod
    def _environment():
        return {name: value for name, value in os.environ.items() if not name.startswith("STARLING_")}

    # The hour.

    def _hour(self):
        options = self.options
        self._enter("capacity")
        threads = [threading.Thread(target=self._guarded, args=(run,), daemon=True) for run in (self._sample, self._reload, self._beside)]
        threads[0].start()
        if options.rate is None:
            self.about["capacity"] = self._capacity()
            self.about["rate"] = self.about["capacity"] / 2
        else:
            self.about["rate"] = options.rate
            self._slice(min(3, options.slice_s), "mix", "ws", self._mix())
        self.about["rest"]["before"] = self._rest()
        web, line = self.ports["web"], self.ports["line"]
        self.trouble = Trouble({"web": web, "line": line, "tls": self.ports["tls"], "frame": self.ports["frame"]},
                               options.acts_per_s, options.stall_every_s, self.event)
        self._enter("warm-up")
        self._write_about()
        self.trouble.start()
        for thread in threads[1:]:
            thread.start()
        self.load_began = time.monotonic()
        measured_from, until = self.load_began + options.warm_up * 60, self.load_began + options.minutes * 60
        while not self.stop.is_set() and time.monotonic() < until:
            if self.phase == "warm-up" and time.monotonic() >= measured_from:
                self._enter("measured")
            self._slice(min(options.slice_s, max(2, until - time.monotonic())), "mix", "ws", self._mix())
        self._check()
        self._enter("ending")
        self.stop_load = True
        self.trouble.stop.set()
        threads[1].join()
        threads[2].join()
        self.trouble.end()
        self._check()
        self._enter("rest")
        self.about["rest"]["after"] = self._rest()
        # Rooms stay for their histories. With these they go too, and nothing is left.
        self._configure({}, **{"history.age_s": 1})
        self._hang_up("history.age_s = 1")
        self.about["rest"]["emptied"] = self._rest(lambda row: row["rooms"] == 0 and row["histories_bytes"] == 0)
        self._check()

    def _check(self):
        if self.failure:
            raise Failed(self.failure)
        if self.server.poll() is not None:
            raise Failed(f"the server ended with {self.server.returncode}")

    def _guarded(self, run):
        try:
            run()
        except (Failed, OSError, KeyError, ValueError) as why:
            if not self.stop.is_set():
                self.failure = f"{run.__name__.strip('_')}: {why!r}"
                self._stop_all()

    def _mix(self):
        return ["-c", CONNECTIONS, "--rooms", ROOMS, "--moves", MOVES, "--size", BYTES, "--rate", self.about["rate"]]

    def _capacity(self):
        report = self._bench("mix", "ws", ["-c", CONNECTIONS, "--rooms", ROOMS, "--moves", MOVES, "--size", BYTES, "--rate", 500, "--find-max",
                                           "--slo", OBJECTIVE, "-d", "3s", "-w", "1s"], 300)[1]
        if not report or report[-1].get("verdict") != "ok":
            raise Failed("the capacity could not be measured: give a --rate")
        self.event("capacity", f"{report[-1]['highest_rate']} messages/s at {OBJECTIVE}")
        return report[-1]["highest_rate"]

    def _slice(self, seconds, profile, scheme, flags):
        began, phase = self.now(), self.phase
        warm_up = min(1.0, seconds / 10)
        exit_code, reports = self._bench(profile, scheme, [*flags, "-d", f"{seconds:.1f}s", "-w", f"{warm_up * 1000:.0f}ms"], 4 * seconds + 120)
        if self.stop.is_set():
            return  # ended in the middle: no verdict
        self._check()
        for report in reports or [{}]:
            row = self._row(report) | {"began": round(began, 1), "ended": round(self.now(), 1), "phase": phase, "profile": profile,
                                       "target": scheme, "exit_code": exit_code}
            self.slices.add(row)
            if exit_code != 0:
                self.event("failed", f"{profile} over {scheme}: exit code {exit_code}: {row['reasons']}")

    @staticmethod
    def _row(report):
        audit, latency = report.get("audit", {}), report.get("latency", {})
        both = [audit.get(part, {}) for part in ("offsets", "sequences")]
        row = {name: sum(part.get(name, 0) for part in both) for name in ("gaps", "reordered", "repeated", "missing")}
        row |= {"verdict": report.get("verdict", "none"), "reasons": "; ".join(report.get("reasons", [])), "sent": report.get("sent", 0),
                "received": report.get("received", 0), "looked_at": audit.get("looked_at", 0)}
        for name in ("p50", "p99", "p999", "max"):
            row[f"{name}_us"] = latency[f"{name}_ns"] / 1000 if latency.get("count") else ""
        row["late_p99_us"] = report.get("lateness", {}).get("p99_ns", 0) / 1000
        row["generator_busy"] = round(report.get("generator", {}).get("busy_share", 0), 4)
        return row

    def _bench(self, profile, scheme, flags, timeout_s):
        """Exit code, and the reports (`acks` has several)."""
        kind = {"ws": "web", "wss": "tls", "lines": "line", "frames+proto": "frame", "grpc": "grpc"}[scheme]
        target = "{}://{}:{}".format(scheme, *self.ports[kind]) + ("/ws" if scheme in ("ws", "wss") else "")
        file = self.directory / f"bench-{threading.get_ident()}.json"
        file.unlink(missing_ok=True)
        cpus = ",".join(map(str, sorted(self.options.load_cpus)))
        exit_code, said = self._run([self.options.binary, "bench", profile, "--target", target, "--cpus", cpus, "--quiet", "--json", file, *flags],
                                    timeout_s, may_fail=True)
        text = file.read_text() if file.exists() else ""
        reports = json.loads(text) if text.strip() else []
        reports = reports if isinstance(reports, list) else [reports]
        if exit_code != 0 and not self.stop.is_set():
            (self.out / "log" / f"bench-{self.now():.0f}-{profile}.txt").write_text(said + text)
        return exit_code, reports

    def _run(self, command, timeout_s, may_fail=False):
        """A child's exit code and words. It ends with us, whatever happens."""
        child = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 env=self._environment(), start_new_session=True, text=True)
        with self.children_lock:
            self.children.add(child)
        if self.stop.is_set():
            child.terminate()
        try:
            said, _ = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"{command[1]} did not end within {timeout_s:.0f} s") from None
        finally:
            processes.end(child)
            with self.children_lock:
                self.children.discard(child)
        if child.returncode != 0 and not may_fail:
            raise Failed(f"{' '.join(map(str, command[:2]))}: {said.strip()}")
        return child.returncode, said

    # Beside it.

    stop_load = False

    def _sample(self):
        failed = 0
        while not self.stop.is_set():
            try:
                self.samples.add(self.watched.sample() | {"seconds": round(self.now(), 1), "phase": self.phase})
                failed = 0
            except OSError as why:
                failed += 1
                self.event("unanswered", repr(why))
                if failed == UNANSWERED_MAX:
                    raise
            self.stop.wait(self.options.sample_s)

    def _reload(self):
        """Another configuration each time, another certificate every third time, another log file every other time."""
        while not self.stop_load and not self.stop.wait(self.options.reload_s):
            turn = self.about["reloads"]
            variant = VARIANTS[turn % len(VARIANTS)]
            if turn % 3 == 2:
                self._run([self.options.binary, "cert", "--force", "--out", self.directory], 30)
            if turn % 2 == 1:
                self.about["rotations"] += 1
                self.log.rename(f"{self.log}.{self.about['rotations']}")
                self.server.send_signal(signal.SIGUSR1)
                self.event("rotated", f"{self.about['rotations']}")
            self._configure(variant)
            self._hang_up(", ".join(f"{name} = {value}" for name, value in variant.items()) or "as at first")

    def _hang_up(self, what):
        self.about["reloads"] += 1
        self.event("reload", what)
        self.server.send_signal(signal.SIGHUP)

    def _beside(self):
        turn = 0
        while not self.stop_load and not self.stop.is_set():
            profile, scheme, flags = BESIDE[turn % len(BESIDE)]
            self._slice(self.options.beside_s, profile, scheme, flags)
            turn += 1
            self.stop.wait(1)

    def _rest(self, is_reached=lambda row: True):
        """Waits until nobody is there any more, and that; what was read last, and whether it was reached."""
        until = time.monotonic() + self.options.grace_s + REST_S
        quiet = dict.fromkeys(("connections", "sessions", "away", "nicknames"), 0)
        while True:
            try:
                row = self.watched.sample(has_rates=False)  # those are the sampler's
            except OSError:
                self._check()
                if time.monotonic() > until:
                    raise
                continue
            is_there = all(row[name] == value for name, value in quiet.items()) and is_reached(row)
            if is_there or time.monotonic() > until or self.stop.is_set():
                self.event("rest", "reached" if is_there else "not reached")
                return row | {"is_reached": is_there}
            time.sleep(0.5)

    # The end.

    def _stop_all(self):
        self.stop.set()
        self.stop_load = True
        if self.trouble:
            self.trouble.stop.set()
        with self.children_lock:
            children = list(self.children)
        for child in children:
            child.terminate()

    def _end(self):
        self._stop_all()
        if self.watched:
            self.watched.close()
        if self.server:
            processes.end(self.server)
            self.about["exit_code"] = self.server.returncode
            if self.server.stdout:
                self.server.stdout.close()
        self.event("end", self.failure or "")
        for table in (self.samples, self.slices, self.events):
            table.close()

    def _write_about(self):
        if self.trouble:
            self.about["done"], self.about["wrong"] = self.trouble.done, self.trouble.wrong
        (self.out / "about.json").write_text(json.dumps(self.about, indent=1, default=list) + "\n")

    def _enter(self, phase):
        self.phase = phase
        self.about[f"{phase}_from"] = round(self.now(), 1)
        self.event("phase", phase)
        self.say(phase)

    def event(self, event, detail=""):
        self.events.add({"seconds": round(self.now(), 1), "event": event, "detail": detail})
        if event in ("failed", "wrong"):
            self.say(f"{event}: {detail}")

    def now(self):
        return time.monotonic() - self.began

    def say(self, text):
        if not self.options.quiet:
            print(f"soak: {self.now():7.1f} s  {text}", file=sys.stderr, flush=True)


def machine():
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} processors ({model}), {platform.system()} {platform.release().split('-')[0]}"
