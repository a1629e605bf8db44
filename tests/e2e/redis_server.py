"""Redis servers of a test's own: on ports and in directories of their own, and ended with the test."""

import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess

from helpers import DEADLINE_S, free_ports, wait_until


# How often a server is started on another port.
TRIES = 10


class Ended(Exception):
    """A server has ended before it answered."""


class Redis:
    """`keeps` whether what is written outlives it: each write is on the disk before it is answered."""

    def __init__(self, directory, *options, keeps=False, is_port_right=lambda port: True):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._password = options[options.index("--requirepass") + 1] if "--requirepass" in options else None
        self._options = ["--save", "", "--appendonly", "yes" if keeps else "no", "--appendfsync", "always", *options]
        self.process = None
        for left in reversed(range(TRIES)):
            self.port = next(port for port in iter(lambda: free_ports(1)[0], None) if is_port_right(port))
            self.url = f"redis://127.0.0.1:{self.port}"
            try:
                self.start()
                break
            except Ended:
                # Somebody else has taken the port meanwhile.
                if not left:
                    raise

    def start(self):
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory),
                   "--daemonize", "no", *self._options]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(self._answers, "redis-server")
        except BaseException:
            self.close()
            raise

    def _answers(self):
        if self.process.poll() is not None:
            raise Ended(f"redis-server ended with {self.process.returncode}")
        return self.cli("PING", check=False) == "PONG"

    def cli(self, *command, check=True):
        ran = subprocess.run(["redis-cli", "-p", str(self.port), *command], capture_output=True, text=True, timeout=DEADLINE_S,
                             env=os.environ | {"REDISCLI_AUTH": self._password} if self._password else None)
        assert not check or ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    def wait_until_kept(self, room, *nicknames):
        """Waits until these users' sessions are written down, as members of the room: what a killed node has not written is lost."""
        wait_until(lambda: set(nicknames) <= self._kept_in(room), f"{nicknames} to be kept")

    def _kept_in(self, room):
        keys = self.cli("--scan", "--pattern", "starling:{s:*").split()
        bodies = [json.loads(body) for body in (self.cli("HGET", key, "body") for key in keys) if body]
        return {body["nickname"] for body in bodies if room in [membership["room"] for membership in body["rooms"]]}

    def kill(self):
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def close(self):
        if self.process.poll() is None:
            self.go_on()
            self.kill()


class RedisCluster:
    """Three primaries without replicas, each with a third of the slots; they keep what is written."""

    def __init__(self, directory, node_timeout_ms=1000):
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout_ms), "--cluster-require-full-coverage", "no"]
        self.servers = []
        try:
            for number in range(3):
                self.servers.append(Redis(pathlib.Path(directory) / str(number), *options, keeps=True, is_port_right=_has_bus))
            places = [f"127.0.0.1:{server.port}" for server in self.servers]
            ran = subprocess.run(["redis-cli", "--cluster", "create", *places, "--cluster-yes"], capture_output=True, text=True, timeout=60)
            assert ran.returncode == 0, ran.stdout + ran.stderr
            wait_until(lambda: all("cluster_state:ok" in server.cli("CLUSTER", "INFO") for server in self.servers), "the Redis Cluster")
        except BaseException:
            self.close()
            raise
        self.urls = "[" + ", ".join(f'"{server.url}"' for server in self.servers) + "]"

    def number_of(self, tag):
        """Which of the servers has the keys with this in braces."""
        slot = int(self.servers[0].cli("CLUSTER", "KEYSLOT", f"{{{tag}}}"))
        return next(number for number, last in enumerate([5460, 10922, 16383]) if slot <= last)

    def rooms(self):
        """The name of a room on each of the servers."""
        names = {}
        for number in itertools.count():
            names.setdefault(self.number_of(f"r{number}"), f"r{number}")
            if len(names) == 3:
                return [names[number] for number in range(3)]

    def close(self):
        for server in self.servers:
            server.close()


def _has_bus(port):
    """Whether the port that is higher by 10,000, on which servers of a Redis Cluster talk, is there and free."""
    try:
        socket.create_server(("127.0.0.1", port + 10_000)).close()
        return True
    except (OSError, OverflowError):
        return False
