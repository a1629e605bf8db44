"""What the server tells systemd, or whoever else supervises it: sd_notify(3)."""

import signal
import socket
import time

import pytest

from helpers import DEADLINE_S, wait_until


class Supervisor:
    """The other end of `NOTIFY_SOCKET`."""

    def __init__(self, path):
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path.replace("@", "\0") if self.path.startswith("@") else self.path)
        self.socket.settimeout(DEADLINE_S)

    def next(self):
        return self.socket.recv(4096).decode().split()

    def until(self, state):
        states = []
        while state not in states:
            states += self.next()
        return states


@pytest.fixture
def supervisor(tmp_path):
    supervisor = Supervisor(tmp_path / "notify")
    yield supervisor
    supervisor.socket.close()


def test_it_is_told_when_the_server_is_ready_reloads_and_stops(start_server, supervisor):
    server = start_server(_environment={"NOTIFY_SOCKET": supervisor.path})
    assert supervisor.next() == ["READY=1"]
    assert server.get("/ready").status == 200
    server.process.send_signal(signal.SIGHUP)
    reloading, moment = supervisor.next()
    assert reloading == "RELOADING=1"
    assert abs(int(moment.removeprefix("MONOTONIC_USEC=")) - time.monotonic_ns() // 1000) < 60_000_000
    assert supervisor.next() == ["READY=1"], "and no watchdog, which was not asked for"
    server.terminate()
    assert supervisor.next() == ["STOPPING=1"]
    assert server.exit_code() == 0


def test_it_is_told_that_the_cores_turn(start_server, supervisor):
    server = start_server(_environment={"NOTIFY_SOCKET": supervisor.path, "WATCHDOG_USEC": "400000"})
    supervisor.until("READY=1")
    for _ in range(3):
        assert supervisor.next() == ["WATCHDOG=1"]
    # Who does not run says nothing: it would be ended, and started again.
    server.process.send_signal(signal.SIGSTOP)
    supervisor.socket.settimeout(1)
    with pytest.raises(TimeoutError):
        while True:
            supervisor.next()
    supervisor.socket.settimeout(DEADLINE_S)
    server.process.send_signal(signal.SIGCONT)
    assert supervisor.next() == ["WATCHDOG=1"]


def test_a_core_that_has_ended_its_drain_does_not_hang(start_server, supervisor, monkeypatch):
    monkeypatch.setenv("STARLING_TEST_CORES", "2")
    server = start_server(_environment={"NOTIFY_SOCKET": supervisor.path, "WATCHDOG_USEC": "400000"})
    supervisor.until("READY=1")
    # It is told to go and stays: its core waits for it for 2 s, which is many times as long as a core may be silent; the other one ends.
    client = server.connect("line")
    client.send(b'{"type":"hello","nickname":"stays"}\n')
    client.until(b"\n")
    server.terminate()
    supervisor.until("STOPPING=1")
    client.until(b'"draining"')
    told = [supervisor.next() for _ in range(5)]
    assert told == [["WATCHDOG=1"]] * 5
    assert server.process.poll() is None, "it still waits"
    assert server.exit_code() == 0
    assert not [line for line in server.log if "ERROR" in line], server.log


def test_one_with_a_name_that_is_no_path_is_told_too(start_server, tmp_path):
    supervisor = Supervisor(f"@starling{tmp_path}")
    server = start_server(_environment={"NOTIFY_SOCKET": supervisor.path})
    assert supervisor.next() == ["READY=1"]
    server.terminate()
    assert supervisor.next() == ["STOPPING=1"]
    supervisor.socket.close()


def test_another_process_is_not_watched(start_server, supervisor):
    start_server(_environment={"NOTIFY_SOCKET": supervisor.path, "WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"})
    assert supervisor.next() == ["READY=1"]
    supervisor.socket.settimeout(0.5)
    with pytest.raises(TimeoutError):
        supervisor.next()


def test_a_supervisor_that_is_gone_is_complained_of(start_server, tmp_path):
    server = start_server(_environment={"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    assert server.get("/health").status == 200
    wait_until(lambda: any("cannot be told" in line for line in server.log), "the complaint")
