"""A Redis server of a test's own: on a port and in a directory of its own, and ended with the test."""

import os
import pathlib
import signal
import subprocess

from helpers import DEADLINE_S, free_ports, wait_until


class Redis:
    """`keeps` whether what is written outlives it: each write is on the disk before it is answered."""

    def __init__(self, directory, *options, keeps=False):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.port,) = free_ports(1)
        self.url = f"redis://127.0.0.1:{self.port}"
        self._password = options[options.index("--requirepass") + 1] if "--requirepass" in options else None
        self._options = ["--save", "", "--appendonly", "yes" if keeps else "no", "--appendfsync", "always", *options]
        self.process = None
        self.start()

    def start(self):
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory),
                   "--daemonize", "no", *self._options]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: self.cli("PING", check=False) == "PONG", "redis-server")
        except BaseException:
            self.close()
            raise

    def cli(self, *command, check=True):
        ran = subprocess.run(["redis-cli", "-p", str(self.port), *command], capture_output=True, text=True, timeout=DEADLINE_S,
                             env=os.environ | {"REDISCLI_AUTH": self._password} if self._password else None)
        assert not check or ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

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
