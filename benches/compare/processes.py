"""Children of scripts/compare: pinned to a CPU, seen to be ready, ended and waited for whatever happens."""

import ctypes
import os
import pathlib
import resource
import signal
import socket
import subprocess
import time

START_S = 15
END_S = 5
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None)


class Failed(Exception):
    """Something that a row of the table says instead of a figure."""


def prepare(cpus):
    """What a child does before it becomes another program: the CPUs, all the descriptors there are, an end with its parent."""

    def run():
        os.sched_setaffinity(0, cpus)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return run


class Server:
    """A peer under way, in a process group of its own. A context manager: it is ended and waited for at the end."""

    def __init__(self, command, port, cpus, log, environment=None):
        self.command, self.port, self.cpus, self.log = [str(part) for part in command], port, cpus, log
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("STARLING_")}
        self.environment |= environment or {}
        self.process = None

    def __enter__(self):
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, start_new_session=True,
                preexec_fn=prepare(self.cpus),
            )
        try:
            self._wait_until_it_listens()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        end(self.process)

    @property
    def pid(self):
        return self.process.pid

    def cpu_s(self):
        """User and system time of it and its children, in seconds."""
        user = system = 0
        for pid in family(self.pid):
            try:
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue  # it has just ended
            user, system = user + int(fields[11]), system + int(fields[12])
        return user / TICKS_PER_S, system / TICKS_PER_S

    def _wait_until_it_listens(self):
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise Failed(f"ended at once: {last_line(self.log)}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise Failed(f"did not listen within {START_S} s: {last_line(self.log)}")


class Neighbours:
    """What others take of our CPUs while we measure: a machine is seldom one's own."""

    def __init__(self, cpus, server):
        self.cpus, self.server = cpus, server
        self.before = self._read()

    def share(self):
        """The part of the CPUs' time that was somebody else's: programs in user mode, and what the hypervisor took away."""
        (wall_s, all_s, own_s), (wall_before_s, all_before_s, own_before_s) = self._read(), self.before
        return max(0.0, (all_s - all_before_s) - (own_s - own_before_s)) / (wall_s - wall_before_s) / len(self.cpus)

    def _read(self):
        names = [f"cpu{cpu}" for cpu in self.cpus]
        lines = [line.split() for line in open("/proc/stat") if line.split()[0] in names]
        busy = sum(int(user) + int(nice) + int(steal) for _, user, nice, _, _, _, _, _, steal, *_ in lines)
        times = os.times()
        return time.monotonic(), busy / TICKS_PER_S, self.server.cpu_s()[0] + times.user + times.children_user


def run(command, timeout_s, **options):
    """Runs a program to its end; returns its output. Fails with its last line."""
    command = [str(part) for part in command]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise Failed(f"{command[0]} did not end within {timeout_s} s") from None
    finally:
        end(process)
    if process.returncode != 0:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        # Whoever marks an error as one has said it best; others say it last.
        why = next((line for line in lines if line.lower().startswith("error")), None) or (lines or [f"ended with {process.returncode}"])[-1]
        raise Failed(f"{' '.join(command[:3])}: {why}")
    return output


def end(process):
    """Ends a child and its group, and waits for them."""
    if process is None:
        return
    for signal_number, wait_s in ((signal.SIGTERM, END_S), (signal.SIGKILL, END_S)):
        try:
            if process.poll() is None:
                os.killpg(process.pid, signal_number)
            process.wait(wait_s)
            return
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def family(pid):
    """A process and its children (nginx's worker)."""
    try:
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid] + [descendant for child in children for descendant in family(int(child))]


def free_port(first_and_last=None):
    """A port of loopback that nobody listens on."""
    for port in range(first_and_last[0], first_and_last[1] + 1) if first_and_last else (0,):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return listener.getsockname()[1]
    raise Failed(f"no free port among {first_and_last}")


def last_line(path):
    lines = [line for line in pathlib.Path(path).read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
