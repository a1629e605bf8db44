"""A disk that fails: full, broken, read-only, slow. Nothing that was promised is lost, nobody waits without end, and all goes on when it is back."""

import ctypes
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import threading

import pytest
from websockets.exceptions import ConnectionClosed

from helpers import Server, wait_until
from test_accounts import post
from test_logs import LINE
from test_metrics import scrape, value

HERE = pathlib.Path(__file__).parent

# What the shim does to writes, and what people are told.
FAULTS = {"enospc": "full", "eio": "disk fails", "erofs": "disk fails", "half": ""}


def library(source, directory):
    """A file of C as a library, for LD_PRELOAD."""
    compiler = shutil.which("cc") or pytest.skip("no C compiler")
    library = directory / f"{source}.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-w", "-o", library, HERE / f"{source}.c", "-ldl"], check=True, timeout=60)
    return library


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    return library("faults", tmp_path_factory.mktemp("faults"))


def tell(control, mode):
    """Tells a shim how things are to be."""
    # Renamed into place, so that no half of a word is ever read.
    part = control.with_suffix(".part")
    part.write_text(mode)
    part.rename(control)


class Disk:
    """A data directory on a disk that does as it is told."""

    def __init__(self, directory, shim, start_server):
        self._directory, self._shim, self._start = directory, shim, start_server
        self._control, self._more = directory / "control", {}
        self.be("ok")

    def be(self, mode):
        tell(self._control, mode)

    def start(self, _files="starling.db", **settings):
        environment = {"LD_PRELOAD": str(self._shim), "FAULTS": str(self._control), "FAULTY_FILES": _files} | self._more
        settings = {"store__kind": "sqlite", "data_dir": str(self._directory / "data"), "pin": "false",
                    "store__deadline_ms": 400, "store__sync_ms": 100} | settings
        return self._start(_environment=environment, **settings)

    def rows(self):
        with sqlite3.connect(f"file:{self._directory}/data/starling.db?mode=ro", uri=True) as db:
            return db.execute("SELECT offset, content FROM messages ORDER BY offset").fetchall()


@pytest.fixture
def disk(tmp_path, shim, start_server):
    disk = Disk(tmp_path, shim, start_server)
    yield disk
    disk.be("ok")


def health(server):
    connection = server.connect()
    connection.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    response = connection.response()
    return response.status, response.body.decode()


def speak_until_it_ends(client, last):
    """Fills the memory of a server that cannot get more, and returns the last offset that its client was told; `last` is the one before."""
    for number in range(20_000):
        try:
            client.send("message", room="den", content="x" * 30_000, id=f"m{number}")
            answer = client.expect(id=f"m{number}")
        except (ConnectionClosed, AssertionError):
            break
        # SQLite may want some first, and be refused it.
        assert answer["type"] == "ack" or answer["reason"] == "store_down", answer
        last = answer.get("offset", last)
    return last


def wait_for_health(server, body):
    wait_until(lambda: health(server) == (200, body), f"/health to say {body!r}")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_disk_is_told_and_survived(disk, fault):
    server = disk.start()
    alice, bob = server.ws("alice", "den"), server.ws("bob", "den")
    assert alice.call("message", room="den", content="before", ack="synced")["offset"] == 1
    disk.be(fault)
    # What was under way when the disk failed may wait for as long as the deadline.
    first = alice.call("message", room="den", content="first", ack="stored", id="first")
    assert (first["type"], first["code"], first["reason"], first["retryable"]) == ("error", 503, "store_down", True), first
    assert first["retry_after_ms"] > 0
    wait_for_health(server, "OK store_down")
    refused = alice.refused(503, "store_down", "message", room="den", content="refused", ack="synced")
    assert FAULTS[fault] in refused["message"], refused
    # Rooms go on in memory, for those who ask for no more.
    acks = alice.say("den", *(f"meanwhile {n}" for n in range(20)))
    assert [ack["level"] for ack in acks] == ["sequenced"] * 20
    heard = [bob.expect("message")["content"] for _ in range(22)]
    assert heard == ["before", "first", *(f"meanwhile {n}" for n in range(20))]
    assert [m["content"] for m in bob.call("history", room="den")["messages"]] == heard
    carol = server.ws("carol", "new-room")
    assert carol.say("new-room", "x")[0]["offset"] == 1

    disk.be("ok")
    wait_for_health(server, "OK")
    again = wait_until(lambda: accepted(alice, "first", "stored", id="first"), "the store to be back")
    assert again["offset"] == 2, "the same command has its first place"
    assert alice.call("message", room="den", content="after", ack="synced")["level"] == "synced"
    expected = [(n + 1, content) for n, content in enumerate([*heard, "after"])]
    assert [row for row in disk.rows() if row != (1, "x")] == expected, "all of it, in order, once"
    server.kill()
    server = disk.start()
    dave = server.ws("dave")
    assert [(m["offset"], m["content"]) for m in dave.call("history", room="den")["messages"]] == expected


def accepted(client, content, level, **fields):
    reply = client.call("message", room="den", content=content, ack=level, **fields)
    return reply if reply["type"] == "ack" else None


def test_a_disk_that_hangs_stops_nobody(disk):
    server = disk.start()
    alice, bob = server.ws("alice", "den"), server.ws("bob", "den")
    alice.say("den", "before")
    disk.be("stall")
    reply = alice.call("message", room="den", content="held", ack="synced", id="held")
    assert reply["reason"] == "store_down", reply
    alice.refused(503, "store_down", "message", room="den", content="at once", ack="stored")
    # Whoever is asked, on whichever core, says the same.
    wait_until(lambda: {health(server) for _ in range(20)} == {(200, "OK store_down")}, "all cores to say so")
    assert {health(server) for _ in range(20)} == {(200, "OK store_down")}
    wait_until(lambda: any("the disk has not answered" in line for line in server.log), "the log to say so")
    for n in range(50):
        alice.say("den", f"meanwhile {n}")
    assert bob.expect("message", content="meanwhile 49")["offset"] == 52
    assert server.ws("carol", "other").say("other", "x")[0]["offset"] == 1
    disk.be("ok")
    again = wait_until(lambda: accepted(alice, "held", "synced", id="held"), "the disk to be back")
    assert (again["offset"], again["level"]) == (2, "synced")
    wait_for_health(server, "OK")
    assert len([row for row in disk.rows() if row[1] != "x"]) == 52


def test_a_disk_that_hangs_is_noticed_though_nobody_waits_for_it(disk):
    server = disk.start()
    alice = server.ws("alice", "den")
    alice.say("den", "before")
    wait_for_health(server, "OK")
    disk.be("stall")
    alice.say("den", "meanwhile")
    wait_for_health(server, "OK store_down")
    disk.be("ok")
    wait_for_health(server, "OK")


def test_what_is_acknowledged_as_synced_has_been(disk):
    server = disk.start()
    alice = server.ws("alice", "den")
    alice.call("message", room="den", content="before", ack="synced")
    disk.be("stall-sync")
    held = alice.call("message", room="den", content="held", ack="synced", id="held")
    assert held["reason"] == "store_down", held
    disk.be("ok")
    again = wait_until(lambda: accepted(alice, "held", "synced", id="held"), "the disk to be back")
    assert (again["offset"], again["level"]) == (2, "synced")


def test_a_killed_server_loses_nothing_that_a_failing_disk_held_up(disk):
    server = disk.start()
    alice = server.ws("alice", "den")
    alice.say("den", "before")
    disk.be("enospc")
    epoch = alice.say("den", *(f"meanwhile {n}" for n in range(100)))[0]["epoch"]
    server.kill()
    disk.be("ok")
    server = disk.start()
    page = server.ws("bob").call("history", room="den", limit=1000)
    assert page["epoch"] == epoch
    assert [m["content"] for m in page["messages"]] == ["before", *(f"meanwhile {n}" for n in range(100))]


def test_without_room_for_journals_a_kill_is_as_bad_as_a_machine_that_fails(disk):
    disk.be("enospc")
    server = disk.start(_files="/dev/shm/starling-")
    server.said("WARN", "/dev/shm")
    alice = server.ws("alice", "den")
    epoch = alice.call("message", room="den", content="1", ack="stored")["epoch"]
    server.kill()
    disk.be("ok")
    server = disk.start()
    again = server.ws()
    again.enter(None, resume=alice.welcome["resume"])
    joined = again.call("join", room="den", since={"epoch": epoch, "offset": 1})
    assert joined["recovered"] is False and joined["epoch"] != epoch
    assert [message["content"] for message in again.call("history", room="den")["messages"]] == ["1"]


def test_what_waits_for_the_disk_is_bounded(disk):
    server = disk.start(store__queue_bytes=1_048_576)
    alice = server.ws("alice", "den")
    alice.say("den", "before")
    disk.be("enospc")
    content = "x" * 20_000
    refusal = None
    for n in range(200):
        reply = alice.call("message", room="den", content=content)
        if reply["type"] == "error":
            refusal = reply
            break
    assert refusal and (refusal["code"], refusal["reason"]) == (503, "store_down"), n
    assert 20 < n < 60, "three quarters of a mebibyte"
    kept = n + 1
    assert alice.call("ping")["type"] == "pong"
    assert alice.call("quit")["type"] == "bye", "an end needs no place"
    disk.be("ok")
    wait_for_health(server, "OK")
    bob = server.ws("bob", "den")
    assert bob.call("message", room="den", content="after", ack="synced")["offset"] == kept + 1
    assert len(disk.rows()) == kept + 1


@pytest.mark.parametrize("slowness", ["slow", "stall"])
def test_a_disk_that_is_slow_holds_publishers_up_and_refuses_nothing(disk, slowness):
    """It takes all the time; or it takes nothing for a while, and then as fast as ever."""
    server = disk.start(store__queue_bytes=1_048_576, store__deadline_ms=30_000, limits__commands_in_flight=16, limits__send_queue_bytes=1 << 27)
    alice, bob = server.json_line("alice"), server.json_line("bob", "den")
    alice.call("join", room="den", echo=False)
    disk.be(slowness)
    # Many times what the journal has place for. It is sent as fast as it is read, which it is not for long.
    content, count = "x" * 20_000, 500
    sender = threading.Thread(target=lambda: [alice.send("message", room="den", content=content, id=f"m{n}") for n in range(count)], daemon=True)
    sender.start()

    def waits():
        _, families = scrape(server)
        return value(families, "starling_journal_waits_total") > 0 and value(families, "starling_in_flight_waits_total") > 0

    wait_until(waits, "the journal to be full, and the client to be held up")
    assert [bob.expect("message")["offset"] for _ in range(21)] == list(range(1, 22))
    assert bob.call("ping")["type"] == "pong", "others are served"
    if slowness == "stall":
        disk.be("ok")
    assert [(ack := alice.expect(id=f"m{n}"))["type"] + str(ack["offset"]) for n in range(count)] == [f"ack{n + 1}" for n in range(count)]
    sender.join()
    assert [bob.expect("message")["offset"] for _ in range(21, count)] == list(range(22, count + 1))
    _, families = scrape(server)
    assert value(families, "starling_store_refused_total") == 0
    disk.be("ok")
    assert alice.call("message", room="den", content="last", ack="synced")["offset"] == count + 1
    assert [offset for offset, _ in disk.rows()] == list(range(1, count + 2))


def test_history_that_cannot_be_read_is_refused_and_the_rest_goes_on(disk):
    server = disk.start(history__memory_count=5)
    alice = server.ws("alice", "den")
    alice.say("den", *(str(n) for n in range(1, 41)))
    assert alice.call("message", room="den", content="41", ack="synced")["offset"] == 41
    disk.be("eio-read")
    reply = alice.call("history", room="den", limit=3)
    assert [m["offset"] for m in reply["messages"]] == [39, 40, 41], "what is in memory needs no disk"
    bob = server.ws("bob", "den")
    assert bob.say("den", "42")[0]["offset"] == 42
    disk.be("ok")
    page = wait_until(lambda: read(alice), "the disk to be readable")
    assert [m["offset"] for m in page["messages"]] == list(range(1, 43))


def test_history_that_is_on_a_disk_that_fails_is_refused(disk):
    server = disk.start(history__memory_count=5)
    alice = server.ws("alice", "den")
    alice.say("den", *(str(n) for n in range(1, 41)))
    assert alice.call("message", room="den", content="41", ack="synced")["offset"] == 41
    server.kill()
    # One that has nothing of it in memory yet.
    server = disk.start(history__memory_count=5)
    alice = server.ws("alicia", "den")
    disk.be("eio-read")
    alice.refused(503, "store_down", "history", room="den", limit=100)
    assert alice.say("den", "42")[0]["offset"] == 42
    disk.be("ok")
    page = wait_until(lambda: read(alice), "the disk to be readable")
    assert [m["offset"] for m in page["messages"]] == list(range(1, 43))


def test_nobody_waits_for_ever_for_a_disk_that_does_not_answer_reads(disk):
    settings = {"history__memory_count": 5, "rate__logins_per_minute": 0}
    # Whoever registers has time enough.
    server = disk.start(**settings, store__deadline_ms=20_000)
    alice = server.ws("alice", "den")
    alice.say("den", *(str(n) for n in range(1, 41)))
    assert alice.call("message", room="den", content="41", ack="synced")["offset"] == 41
    account = {"username": "carol", "password": "correct horse battery"}
    status, token = post(server, "/api/register", account)
    assert status == 200
    assert alice.call("private", target="carol", content="psst")["stored"] is True
    server.kill()
    server = disk.start(**settings)
    alice = server.ws("alicia", "den")
    disk.be("stall-read")
    alice.refused(503, "store_down", "history", room="den", limit=100)
    status, body = post(server, "/api/login", account)
    assert (status, body["reason"]) == (503, "store_down"), body
    # What is said meanwhile is heard, though the inbox is not.
    carol = server.ws().enter(None, token=token["token"])
    assert alice.say("den", "42")[0]["offset"] == 42
    wait_until(lambda: alice.call("private", target="carol", content="live")["delivered"] == 1, "the inbox to be given up")
    assert carol.expect("private", content="live")
    disk.be("ok")
    page = wait_until(lambda: read(alice), "the disk to be readable")
    assert [m["offset"] for m in page["messages"]] == list(range(1, 43))
    again = server.ws().enter(None, token=token["token"])
    assert again.expect("private")["content"] == "psst"


def read(client):
    reply = client.call("history", room="den", limit=100)
    return reply if reply["type"] == "history" else None


def test_a_server_stops_although_its_disk_fails(disk):
    server = disk.start(store__sync_ms=60_000)
    alice = server.ws("alice", "den")
    alice.say("den", "before")
    disk.be("enospc")
    alice.say("den", "after")
    server.terminate()
    assert server.exit_code(30) == 1, "whoever started it hears that not all of it is on the disk"
    server.said("not everything could be stored")
    server._is_killed = True
    disk.be("ok")
    assert [m["content"] for m in disk.start().ws("bob").call("history", room="den")["messages"]] == ["before", "after"]


def test_a_full_file_system(tmp_path, start_server):
    """The same on a real one: a file system in memory that is too small."""
    mount = tmp_path / "small"
    mount.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(mount)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("file systems can be mounted by root only")
    try:
        server = start_server(store__kind="sqlite", data_dir=str(mount / "data"), pin="false", store__deadline_ms=500)
        alice = server.ws("alice", "den")
        offset = 0
        while (reply := alice.call("message", room="den", content="x" * 10_000, ack="stored"))["type"] == "ack":
            offset = reply["offset"]
        assert reply["reason"] == "store_down", reply
        assert offset > 10
        wait_for_health(server, "OK store_down")
        subprocess.run(["mount", "-o", "remount,size=64m", str(mount)], check=True)
        wait_for_health(server, "OK")
        last = wait_until(lambda: accepted(alice, "last", "synced"), "the store to be back")
        page = alice.call("history", room="den", limit=1000)["messages"]
        assert page[-1]["offset"] == last["offset"]
        server.close()
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


# The log.


class Log:
    """The log file of a server on a disk that does as it is told."""

    def __init__(self, disk, directory):
        self._disk, self.path, self.before = disk, directory / "starling.log", directory / "starling.log.1"
        self._starts = 0

    def start(self):
        self.server = self._disk.start(log__file=str(self.path), log__level="info,starling::shard::access_log=debug", _files="starling.log",
                                       store__kind="memory")
        self._starts += 1
        wait_until(lambda: self.path.exists() and self.path.read_text().count("room for") == self._starts, "the first lines")
        return self.server

    def tear(self):
        """Has a line be torn: its end finds no place."""
        self._disk.be("half")
        assert self.server.get("/health").status == 200
        self.server.said("log-file cannot be written")
        assert not self.path.read_text().endswith("\n")

    def lines(self):
        return self.path.read_text().splitlines()


@pytest.fixture
def log(disk, tmp_path):
    return Log(disk, tmp_path)


def test_a_torn_line_is_ended_and_the_log_says_at_once_that_it_goes_on(disk, log):
    server = log.start()
    alice, bob = server.ws("alice", "den"), server.ws("bob", "den")
    log.tear()
    # People are served as if nothing were the matter.
    assert alice.say("den", "although no line is written")[0]["offset"] == 1
    assert bob.expect("message")["content"] == "although no line is written"
    assert (server.get("/health").body, server.ws("carol", "den").call("ping")["type"]) == (b"OK", "pong")
    whole = len(log.lines()) - 1
    assert not log.path.read_text().endswith("\n"), "and none is written yet"
    disk.be("ok")
    # Nobody says anything meanwhile.
    said = server.said("log-file can be written again")[0]
    assert " INFO " in said, said
    wait_until(lambda: "can be written again" in log.lines()[-1], "the file to have it too")
    told = log.lines()[whole + 1:]
    assert all(LINE.fullmatch(line) for line in told), told
    assert "log lines were left out" in told[0], told


def test_a_new_file_does_not_begin_with_what_is_left_of_a_torn_line(disk, log):
    server = log.start()
    log.tear()
    log.path.rename(log.before)
    server.process.send_signal(signal.SIGUSR1)
    server.said("SIGUSR1")
    disk.be("ok")
    server.said("log-file can be written again")
    wait_until(lambda: log.path.exists() and "can be written again" in log.path.read_text(), "the new file")
    assert all(LINE.fullmatch(line) for line in log.lines()), log.lines()
    assert not log.before.read_text().endswith("\n")


def test_the_next_server_does_not_go_on_in_a_torn_line(disk, log):
    log.start()
    log.tear()
    torn = log.lines()[-1]
    log.server.kill()
    disk.be("ok")
    log.start()
    lines = log.lines()
    assert torn in lines and LINE.fullmatch(lines[lines.index(torn) + 1]), lines


# A thread that does not run.


PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000


@pytest.fixture
def hold():
    """Stops one thread of a server, by its name, and returns what lets it go on."""
    libc = ctypes.CDLL(None, use_errno=True)

    def trace(request, thread):
        return libc.ptrace(request, thread, None, None)

    held = []

    def go_on():
        while held:
            thread = held.pop()
            if trace(PTRACE_DETACH, thread) != 0:
                # It has ended meanwhile, and its process ends when this is known.
                os.waitpid(thread, WALL)

    def hold(server, name):
        tasks = pathlib.Path(f"/proc/{server.process.pid}/task")
        [thread] = [int(task.name) for task in tasks.iterdir() if (task / "comm").read_text().strip() == name]
        if trace(PTRACE_SEIZE, thread) != 0:
            pytest.skip(f"no thread may be traced here: {os.strerror(ctypes.get_errno())}")
        assert trace(PTRACE_INTERRUPT, thread) == 0
        os.waitpid(thread, WALL)
        held.append(thread)
        return go_on

    yield hold
    go_on()


def test_a_storage_thread_that_is_held_up_is_in_the_log_once(tmp_path, start_server, hold):
    server = start_server(store__kind="sqlite", data_dir=str(tmp_path / "data"), store__deadline_ms=400)
    alice = server.ws("alice", "den")
    assert alice.call("message", room="den", content="before", ack="stored")["offset"] == 1
    go_on = hold(server, "store")
    # It was doing nothing: only those who wait see that.
    alice.send("message", room="den", content="first", ack="stored", id="first")
    assert alice.expect(id="first")["reason"] == "store_down"
    server.said("WARN", "the storage thread has not looked at the journals for")
    alice.send("message", room="den", content="second", ack="stored", id="second")
    assert alice.expect(id="second")["reason"] == "store_down"
    go_on()
    server.said("INFO", "the storage thread goes on after")
    wait_for_health(server, "OK")
    assert len([line for line in server.log if "the storage thread" in line]) == 2, server.log


def test_a_core_that_does_not_run_holds_up_the_end_for_a_time_that_is_bounded(monkeypatch, hold):
    monkeypatch.setenv("STARLING_TEST_CORES", "2")
    server = Server(drain__timeout_ms=500)
    try:
        go_on = hold(server, "core-1")
        server.terminate()
        server.said("of 2 cores have not ended in time: left without them")
        go_on()
        assert server.exit_code() == 1
    finally:
        server.process.kill()
