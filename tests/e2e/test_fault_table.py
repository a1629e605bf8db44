"""Faults of docs/faults.md that no other test has; and that the document names what is there."""

import contextlib
import ctypes
import re
import resource
import shutil
import signal
import socket
import struct
import threading
import time

import pytest
from websockets.exceptions import ConnectionClosed

import named
from helpers import DEADLINE_S, Deadline, RawWebSocket, binary, cores, let_pass, run, wait_until
from test_cluster import LEASE_MS, members, redis, resumed, start_node, start_redis, try_resume  # noqa: F401  (fixtures among them)
from test_cluster_ends import pair, shut_out  # noqa: F401  (a fixture)
from test_faults import hold, library, speak_until_it_ends, tell  # noqa: F401
from test_supervisor import supervisor  # noqa: F401
import tokens


TABLE = named.Page("faults.md")
NOT_SHOWN = "Not shown by a test yet"


def test_every_test_is_where_the_table_says():
    assert len(TABLE.functions()) > 50
    TABLE.check_links()


def test_every_cell_is_shown_by_something():
    groups = {name: named.rows(section) for name, section in TABLE.sections().items()}
    assert groups.pop(NOT_SHOWN) == []
    assert len(groups) == 5 and all(groups.values())
    for fault, *cells, shown in [row for rows in groups.values() for row in rows]:
        assert len(cells) == 3 and all(cells), fault
        # Each word stands before the tests of its cell.
        by_cell = re.split(r"\*(lost|told|recovers)\*", shown)
        assert not by_cell[0].strip() and set(by_cell[1::2]) == {"lost", "told", "recovers"}, fault
        for cell, tests in zip(by_cell[1::2], by_cell[2::2]):
            # Some tests show what stands in several cells, which are named together.
            assert "::" in tests or not tests.strip(), (fault, cell)
        assert "::" in by_cell[-1], fault


@pytest.fixture(scope="session")
def odd(tmp_path_factory):
    return library("kernel", tmp_path_factory.mktemp("kernel"))


@pytest.fixture
def kernel(odd, tmp_path):
    """The environment of a server whose kernel is as it is told, and what tells it."""
    control = tmp_path / "kernel"
    return {"LD_PRELOAD": str(odd), "KERNEL": str(control)}, lambda words: tell(control, words)


# Clients.


def take_no_packets(connection):
    """As a network that drops them: nothing comes through to a socket, nor is acknowledged (SO_ATTACH_FILTER, socket(7))."""
    so_attach_filter, bpf_return = 26, 0x06
    program = ctypes.create_string_buffer(struct.pack("HBBI", bpf_return, 0, 0, 0))
    connection.setsockopt(socket.SOL_SOCKET, so_attach_filter, struct.pack("HP", 1, ctypes.addressof(program)))


def take_packets_again(connection):
    so_detach_filter = 27
    connection.setsockopt(socket.SOL_SOCKET, so_detach_filter, 0)


class Network:
    """What is between a node and its Redis: a proxy that takes no packets of either as long as it is told so, old connections and new."""

    def __init__(self, port):
        self._to = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets, self._cut_off = [self._listener], []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                ends = [self._listener.accept()[0], socket.create_connection(self._to)]
                self._sockets += ends
                for end, other in (ends, ends[::-1]):
                    threading.Thread(target=self._pass_on, args=(end, other), daemon=True).start()

    @staticmethod
    def _pass_on(end, other):
        with contextlib.suppress(OSError):
            while data := end.recv(65_536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def drop_packets(self):
        # Nobody new comes when the listener takes none, so that these are all.
        self._cut_off = list(self._sockets)
        for end in self._cut_off:
            take_no_packets(end)

    def pass_packets(self):
        for end in self._cut_off:
            take_packets_again(end)

    def close(self):
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.mark.parametrize("packets", ["arrive", "are dropped"])
def test_a_network_that_is_gone_without_a_word_costs_a_member_nothing(start_server, packets):
    server = start_server(heartbeat__probe_ms=300, heartbeat__timeout_ms=1500)
    bob = server.ws("bob")
    epoch = bob.call("join", room="den")["epoch"]
    gone = RawWebSocket(server)
    gone.send("hello", nickname="gone")
    gone.send("join", room="den")
    token = gone.expect("welcome")["resume"]
    gone.expect("joined")
    bob.say("den", "1")
    assert gone.expect("message")["offset"] == 1
    # From here on it says nothing, and its program takes nothing.
    if packets == "are dropped":
        take_no_packets(gone.raw.socket)
    bob.expect("presence", event="away", nickname="gone")
    bob.say("den", "2", "3")
    again = server.ws().enter(None, resume=token)
    assert again.welcome["resumed"] is True
    assert again.call("join", room="den", since={"epoch": epoch, "offset": 1})["recovered"] is True
    assert [again.expect("message")["offset"] for _ in range(2)] == [2, 3]


# The process.


def is_over(server):
    """Gives each core something to do."""
    with contextlib.suppress(OSError):
        server.connect("line").send(b"{}\n")
    return server.process.poll() is not None


def log_in(server):
    body = b'{"username": "nobody", "password": "of no account"}'
    with contextlib.suppress(OSError):
        server.connect("web").send(b"POST /api/login HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def farewell(client):
    """What a client hears before its connection ends."""
    code = client.closed_with()
    byes = [event for event in client._unread if event["type"] == "bye"]
    assert code == (byes[0]["code"] if byes else None)
    return byes


@pytest.mark.parametrize("thread", ["core-0", "store", "hasher-0"])
def test_a_thread_that_panics_ends_the_server_and_the_next_one_goes_on(disk, kernel, thread):
    environment, be = kernel
    server = disk(_environment=environment)
    alice, bob = server.ws("alice", "den"), server.ws("bob", "den")
    # So many that each core has some.
    others = [server.ws(f"guest{number}") for number in range(40 if cores() > 1 else 0)]
    epoch = alice.say("den", *map(str, range(20)))[0]["epoch"]
    be(f"panic {thread}")
    if thread.startswith("hasher"):
        log_in(server)
    wait_until(lambda: is_over(server) or any("panicked" in line for line in server.log), "the thread to panic")
    panicked_at = time.monotonic()
    assert server.fail() == 1
    # What the farewell takes, and much more for a machine that is busy.
    assert time.monotonic() - panicked_at < 5
    server.said(f"thread '{thread}'", "panicked")
    server.said("core 0 failed" if thread == "core-0" else f"the thread {thread} failed")
    # Only those whose core has failed hear nothing.
    clients = [alice, bob, *others]
    byes = [farewell(client) for client in clients]
    assert all(bye["code"] == 4300 and bye["resumable"] for told in byes for bye in told)
    untold = byes.count([])
    if thread != "core-0":
        assert untold == 0
    elif cores() == 1:
        assert untold == len(clients)
    else:
        assert 0 < untold < len(clients)
    be("ok")
    server = disk(_environment=environment)
    for client in others:
        assert resumed(server, client).welcome["resumed"] is True
    again = resumed(server, bob)
    joined = again.call("join", room="den", since={"epoch": epoch, "offset": 0})
    assert (joined["recovered"], joined["offset"]) == (True, 20)
    assert [again.expect("message")["content"] for _ in range(20)] == [*map(str, range(20))]


def test_whoever_waits_for_a_core_that_has_failed_is_told_to_come_back_too(disk, kernel, monkeypatch):
    monkeypatch.setenv("STARLING_TEST_CORES", "4")
    environment, be = kernel
    server = disk(_environment=environment)
    # Of these each core has some, and is the home of some.
    clients = [server.ws(f"guest{number}", f"room{number}") for number in range(40)]
    be("panic core-0")
    for client in clients:
        with contextlib.suppress(ConnectionClosed):
            for number in range(40):
                client.send("members", room=f"room{number}")
    assert server.fail() == 1
    told = [client for client in clients if farewell(client)]
    assert 0 < len(told) < len(clients)
    be("ok")
    server = disk(_environment=environment)
    assert all(resumed(server, client).welcome["resumed"] for client in clients)


def test_a_node_whose_link_to_redis_panics_leaves_its_sessions_to_the_others(redis, start_node, kernel):  # noqa: F811
    environment, be = kernel
    one, two = (start_node(redis, _environment=own, session__grace_ms=60_000) for own in (environment, {}))
    alice = one.ws("alice", "den")
    epoch = alice.say("den", "1")[0]["epoch"]
    be("panic cluster")
    # Its log is written with the time, by the thread that says something.
    redis.cli("CLIENT", "KILL", "TYPE", "normal")
    assert one.fail() == 1
    one.said("the thread cluster failed")
    assert farewell(alice)[0]["code"] == 4300
    # It could not give them up, and is lost when its lease is over.
    again = wait_until(lambda: try_resume(two, alice), "the session to be had", 30)
    assert again.call("join", room="den", since={"epoch": epoch, "offset": 0})["recovered"] is True
    assert again.expect("message")["content"] == "1"


def test_without_a_store_all_is_lost_with_the_process_and_told_to_be(start_server):
    server = start_server(store__kind="memory")
    alice = server.ws("alice", "den")
    epoch = alice.say("den", "1", "2")[0]["epoch"]
    server.kill()
    assert alice.closed_with() is None
    again = start_server(store__kind="memory").ws()
    again.refused(401, "bad_token", "hello", resume=alice.welcome["resume"])
    again.enter("alice")
    joined = again.call("join", room="den", since={"epoch": epoch, "offset": 1})
    assert (joined["recovered"], joined["offset"]) == (False, 0) and joined["epoch"] != epoch


def test_a_server_that_stood_still_gives_nobody_up(start_server):
    timeout_ms = 1500
    server = start_server(heartbeat__probe_ms=300, heartbeat__timeout_ms=timeout_ms, session__grace_ms=500)
    alice, bob, carol = server.ws("alice", "den"), server.ws("bob", "den"), server.ws("carol", "den")
    carol.drop()
    alice.expect("presence", event="away", nickname="carol")
    server.process.send_signal(signal.SIGSTOP)
    try:
        alice.send("message", room="den", content="meanwhile")
        let_pass(2 * timeout_ms / 1000)
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert bob.expect("message")["content"] == "meanwhile"
    # The clock went on: who was away has been so for too long.
    assert alice.expect("presence", event="leave")["nickname"] == "carol"
    let_pass(1.2 * timeout_ms / 1000)
    told = [event for event in bob.until_told("den") if event.get("nickname") != "carol"]
    assert not [event for event in told if event.get("event") == "away" or event["type"] == "bye"]


def test_a_kill_takes_what_is_kept_only_in_memory(disk):
    server = disk(**tokens.SETTINGS)
    alice, bob, carol, dave = (server.ws(nickname, "den") for nickname in ("alice", "bob", "carol", "dave"))
    admin = tokens.enter(server.ws(), "root", admin=True)
    for client, nickname in ((alice, "alice"), (carol, "carol")):
        client.drop()
        bob.expect("presence", event="away", nickname=nickname)
    assert admin.call("broadcast", content="at six")["type"] == "ack"
    assert bob.call("private", target="alice", content="kept")["stored"] is True
    carol = resumed(server, carol)
    assert carol.expect("system")["content"] == "at six"
    # His system has this, and his program has not read it.
    assert bob.call("private", target="dave", content="told")["delivered"] == 1
    server.kill()
    server = disk(**tokens.SETTINGS)
    alice, dave = resumed(server, alice), resumed(server, dave)
    assert alice.expect("private")["content"] == "kept"
    # What is kept for somebody is told in its order: nothing comes before this.
    resumed(server, bob).call("private", target="dave", content="the next")
    assert dave.expect("private")["content"] == "the next"
    assert not [event for event in alice.until_told("den") if event["type"] == "system"]


def test_what_was_announced_outlives_a_server_without_memory(disk):
    server = disk(history__count=100_000, history__memory_count=100_000, history__bytes=0)
    alice = server.ws("alice", "den")
    first = alice.say("den", "first")[0]
    last = first["offset"]
    size = resource.getpagesize() * int(open(f"/proc/{server.process.pid}/statm").read().split()[0])
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, (size, size))
    last = speak_until_it_ends(alice, last)
    assert server.fail() == -signal.SIGABRT
    server.said("memory allocation of")
    assert last > 1
    again = resumed(disk(history__count=100_000, history__bytes=0), alice)
    joined = again.call("join", room="den", since={"epoch": first["epoch"], "offset": last - 1})
    # Behind what its sender knew to have a place there may be one more, of which it was not told any more.
    assert (joined["recovered"], joined["epoch"]) == (True, first["epoch"]) and joined["offset"] - last in (0, 1)
    assert again.expect("message")["offset"] == last
    # Under an id of its own: one of before would be answered as then.
    assert again.call("message", room="den", content="after", ack="stored", id="after")["offset"] == joined["offset"] + 1


def test_a_core_that_hangs_is_told_to_nobody_but_the_log(start_server, supervisor, hold, monkeypatch):  # noqa: F811
    monkeypatch.setenv("STARLING_TEST_CORES", "1")
    server = start_server(_environment={"NOTIFY_SOCKET": supervisor.path, "WATCHDOG_USEC": "400000"})
    supervisor.until("WATCHDOG=1")
    alice, bob = server.ws("alice", "den"), server.ws("bob", "den")
    go_on = hold(server, "core-0")
    alice.send("message", room="den", content="held")
    server.said("ERROR", "core 0 does not turn")
    # What has been told before it hung is taken; from then on a supervisor waits in vain.
    supervisor.socket.settimeout(1)
    with pytest.raises(TimeoutError):
        while True:
            supervisor.next()
    supervisor.socket.settimeout(DEADLINE_S)
    go_on()
    assert bob.expect("message")["content"] == "held"
    server.said("core 0 turns again")
    assert supervisor.next() == ["WATCHDOG=1"]


def test_whoever_asks_a_core_that_hangs_waits_and_all_others_are_served(start_server, hold, monkeypatch):  # noqa: F811
    monkeypatch.setenv("STARLING_TEST_CORES", "2")
    server = start_server()
    # So many that each core has some of them, and is the home of some of their rooms.
    clients = [server.ws(f"guest{number}", f"room{number}") for number in range(24)]
    go_on = hold(server, "core-1")
    for number, client in enumerate(clients):
        client.send("ping", id="ping")
        client.send("message", room=f"room{number}", content="held", id="held")
    let_pass(2)
    served = [client for client in clients if is_answered(client, "ping")]
    placed = [client for client in served if is_answered(client, "held")]
    assert 0 < len(placed) < len(served) < len(clients), "each core has some, and the one that turns the rooms of some of its own"
    go_on()
    for client in clients:
        if client not in placed:
            assert client.expect(id="held")["type"] == "ack"


def is_answered(client, id):
    try:
        return client.expect(id=id, deadline=Deadline(0.05))["type"] != "error"
    except AssertionError:
        return False


# The disk.


def test_a_backup_that_was_put_back_is_told_by_a_new_epoch(disk, tmp_path):
    data, copy = tmp_path / "data", tmp_path / "backup.db"
    server = disk()
    alice = server.ws("alice", "den")
    epoch = alice.say("den", "1", "2")[0]["epoch"]
    alice.call("message", room="den", content="3", ack="stored")
    done = run([binary(), "store", "backup", str(copy), "--data-dir", str(data)])
    assert done.returncode == 0, done.stderr
    alice.say("den", "since the backup")
    server.close()
    for name in ("starling.db-wal", "starling.db-shm"):
        (data / name).unlink(missing_ok=True)
    shutil.copy(copy, data / "starling.db")
    server = disk()
    again = resumed(server, alice)
    joined = again.call("join", room="den", since={"epoch": epoch, "offset": 4})
    assert (joined["recovered"], joined["offset"]) == (False, 3) and joined["epoch"] != epoch
    assert [message["content"] for message in again.call("history", room="den")["messages"]] == ["1", "2", "3"]


def test_a_page_that_is_damaged_fails_what_needs_it_and_nothing_else(disk, tmp_path):
    settings = {"history__memory_count": 10, "history__count": 1_000_000, "history__bytes": 0}
    server = disk(**settings)
    server.ws("alice", "den").say("den", *(f"message {number} {'x' * 200}" for number in range(1, 2001)))
    server.close()
    server = disk(**settings)
    bob, carol = server.ws("bob", "den"), server.ws("carol", "attic")
    path = tmp_path / "data" / "starling.db"
    page = path.read_bytes().index(b"message 1000 ") // 4096 * 4096
    with path.open("r+b") as file:
        file.seek(page)
        file.write(b"\xa5" * 4096)
    refused = bob.refused(503, "store_down", "history", room="den", before=1010, limit=20)
    assert refused["retryable"] is True and "cannot be read" in refused["message"]
    server.said("ERROR", "the store cannot be read: the file is damaged", "restore a backup")
    # Other pages, what is in memory, and what is said and stored.
    assert [message["offset"] for message in bob.call("history", room="den", before=900, limit=20)["messages"]] == [*range(880, 900)]
    assert bob.call("history", room="den", limit=20)["messages"][-1]["offset"] == 2000
    assert bob.call("message", room="den", content="on the disk", ack="synced")["offset"] == 2001
    assert carol.call("message", room="attic", content="on the disk", ack="synced")["offset"] == 1
    done = run([binary(), "store", "check", "--data-dir", str(tmp_path / "data")])
    assert done.returncode == 1 and b"page" in done.stdout


# The clock.


def test_a_wall_clock_that_is_set_takes_nothing_back(start_server, kernel):
    environment, be = kernel
    server = start_server(_environment=environment, heartbeat__probe_ms=300, heartbeat__timeout_ms=1500, session__grace_ms=20_000, **tokens.SETTINGS)
    alice, bob, carol = server.ws("alice", "den"), server.ws("bob", "den"), server.ws("carol", "den")
    carol.drop()
    alice.expect("presence", event="away", nickname="carol")
    now = alice.say("den", "now")[0]["timestamp"]
    be("clock -3600")
    assert alice.say("den", "an hour back")[0]["timestamp"] >= now
    assert server.ws("dave").call("ping")["type"] == "pong"
    be("clock 7200")
    assert alice.say("den", "two hours ahead")[0]["timestamp"] >= now + 7_100_000
    # A token of an hour is over by then.
    server.ws().refused(401, "expired_token", "hello", token=tokens.token("eve"))
    be("clock 0")
    assert alice.say("den", "now again")[0]["timestamp"] >= now + 7_100_000, "times of a room do not decrease"
    tokens.enter(server.ws(), "eve")
    # Heartbeats and the time of grace are by a clock that nobody sets.
    let_pass(1.8)
    told = bob.until_told("den")
    assert [event["offset"] for event in told if event["type"] == "message"] == [1, 2, 3, 4]
    assert not [event for event in told if event["type"] == "bye" or event.get("event") == "leave"]
    resumed(server, carol)


def test_what_is_too_old_by_a_wrong_clock_is_deleted(start_server, kernel):
    environment, be = kernel
    server = start_server(_environment=environment, history__age_s=3600)
    alice = server.ws("alice", "den")
    alice.say("den", *(f"m{n}" for n in range(10)))
    be("clock 7200")
    wait_until(lambda: alice.call("history", room="den")["messages"] == [], "the history to be too old")
    be("clock 0")
    assert alice.call("history", room="den")["messages"] == []
    assert alice.say("den", "later")[0]["offset"] == 11


def test_whoever_comes_when_the_file_limit_was_lowered_waits(start_server):
    server = start_server()
    alice = server.ws("alice", "den")
    before = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (0, before[1]))
    newcomer = server.json_line()
    newcomer.send("hello", nickname="newcomer")
    let_pass(0.5)
    assert alice.say("den", "still here")[0]["offset"] == 1
    newcomer.raw.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        newcomer.raw.socket.recv(1)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, before)
    assert newcomer.expect("welcome")["nickname"] == "newcomer"


# Clusters.


def test_a_node_that_stands_still_is_lost_and_comes_back(redis, start_node):  # noqa: F811
    one, two = (start_node(redis, session__grace_ms=30_000) for _ in range(2))
    alice, bob = one.ws("alice", "den"), two.ws("bob", "den")
    redis.wait_until_kept("den", "alice", "bob")
    bob.until_told("den")
    two.process.send_signal(signal.SIGSTOP)
    try:
        assert alice.expect("presence", event="away", deadline=Deadline(30))["nickname"] == "bob"
        alice.say("den", "1", "2")
    finally:
        two.process.send_signal(signal.SIGCONT)
    assert [bob.expect("message", deadline=Deadline(30))["offset"] for _ in range(2)] == [1, 2]
    assert alice.expect("presence", event="back", deadline=Deadline(30))["nickname"] == "bob"
    assert bob.say("den", "3")[0]["offset"] == 3
    assert members(alice, "den") == {("alice", "host", True), ("bob", "member", True)}
    assert not [event for event in bob.until_told("den") if event["type"] in ("bye", "error")]


def test_a_node_that_is_killed_takes_the_private_messages_that_it_kept(redis, start_node):  # noqa: F811
    one, two = (start_node(redis, session__grace_ms=60_000) for _ in range(2))
    alice, bob = two.ws("alice", "den"), one.ws("bob", "den")
    bob.drop()
    alice.expect("presence", event="away", nickname="bob")
    assert alice.call("private", target="bob", content="kept")["type"] == "ack"
    one.kill()
    again = wait_until(lambda: try_resume(two, bob), "the session to be had", 30)
    alice.call("private", target="bob", content="the next")
    assert again.expect("private")["content"] == "the next"


def test_a_node_that_stood_still_leaves_private_messages_to_whoever_went_on_elsewhere(redis, start_node):  # noqa: F811
    one, two = (start_node(redis, session__grace_ms=60_000) for _ in range(2))
    alice, bob = two.ws("alice", "den"), one.ws("bob", "den")
    redis.wait_until_kept("den", "alice", "bob")
    bob.drop()
    alice.expect("presence", event="away", nickname="bob")
    for content in ("one", "two"):
        assert alice.call("private", target="bob", content=content)["stored"] is True
    one.process.send_signal(signal.SIGSTOP)
    try:
        again = wait_until(lambda: try_resume(two, bob), "the session to be had", 30)
    finally:
        one.process.send_signal(signal.SIGCONT)
    heard = [again.expect("private", deadline=Deadline(30)) for _ in range(2)]
    assert [event["content"] for event in heard] == ["one", "two"]
    # Once each, and what comes after is as ever.
    assert alice.call("private", target="bob", content="the next")["delivered"] == 1
    assert again.expect("private")["content"] == "the next"


def test_the_session_of_a_killed_node_is_refused_while_it_may_live(redis, start_node):  # noqa: F811
    one, two = (start_node(redis, cluster__lease_ms=60_000) for _ in range(2))
    alice = one.ws("alice", "den")
    redis.wait_until_kept("den", "alice")
    one.kill()
    assert two.ws().refused(503, "unavailable", "hello", resume=alice.welcome["resume"])["retryable"] is True


def test_a_node_that_is_cut_off_from_redis_catches_up(pair, redis):  # noqa: F811
    one, two = pair
    alice, bob = one.ws("alice", "den"), two.ws("bob", "den")
    redis.wait_until_kept("den", "alice", "bob")
    shut_out(redis, one, "a")
    assert alice.refused(503, "backplane_down", "message", room="den", content="no")["retryable"] is True
    assert bob.expect("presence", event="away", deadline=Deadline(30))["nickname"] == "alice"
    bob.say("den", "1", "2")
    redis.cli("ACL", "SETUSER", "a", "on")
    assert [alice.expect("message", deadline=Deadline(30))["offset"] for _ in range(2)] == [1, 2]
    assert bob.expect("presence", event="back", deadline=Deadline(30))["nickname"] == "alice"
    assert wait_until(lambda: (ack := alice.call("message", room="den", content="3"))["type"] == "ack" and ack, "a place")["offset"] == 3
    assert bob.expect("message", content="3")["offset"] == 3


def test_a_node_whose_packets_to_redis_are_dropped_catches_up(redis, start_node):  # noqa: F811
    """Nothing is refused: what the node has sent is on its way, or lost, for all that it knows."""
    with contextlib.closing(Network(redis.port)) as network:
        one = start_node(f"redis://127.0.0.1:{network.port}", session__grace_ms=30_000)
        two = start_node(redis, session__grace_ms=30_000)
        alice, bob = one.ws("alice", "den"), two.ws("bob", "den")
        redis.wait_until_kept("den", "alice", "bob")
        bob.until_told("den")
        network.drop_packets()
        assert alice.refused(503, "backplane_down", "message", room="den", content="asked", id="asked")["retryable"] is True
        assert bob.expect("presence", event="away", deadline=Deadline(30))["nickname"] == "alice"
        wait_until(lambda: one.get("/ready").status == 503, "balancers to be told")
        said = bob.say("den", "1", "2")
        network.pass_packets()
        heard = [alice.expect("message", sender="bob", deadline=Deadline(30)) for _ in range(2)]
        assert [(m["content"], m["offset"]) for m in heard] == [("1", said[0]["offset"]), ("2", said[1]["offset"])]
        assert bob.expect("presence", event="back", deadline=Deadline(30))["nickname"] == "alice"
        # What was on its way may have come through since; and so it is there once.
        asked = wait_until(lambda: (ack := alice.call("message", room="den", content="asked", id="asked"))["type"] == "ack" and ack, "a place")
        assert bob.expect("message", sender="alice")["offset"] == asked["offset"] == 3
        assert [m["content"] for m in bob.call("history", room="den")["messages"]] == ["1", "2", "asked"]
        # Her own node may hear of it a moment after the other one.
        here = {("alice", "host", True), ("bob", "member", True)}
        wait_until(lambda: members(alice, "den") == members(bob, "den") == here, "both to be there")
        one.close()


def test_a_node_whose_clock_is_wrong_is_no_less_a_node(redis, start_node, kernel):  # noqa: F811
    environment, be = kernel
    be("clock 3600")
    one, two = start_node(redis), start_node(redis, _environment=environment)
    alice, bob = one.ws("alice", "den"), two.ws("bob", "den")
    alice.expect("presence", event="join", nickname="bob")
    said = [client.say("den", content)[0] for client, content in [(alice, "1"), (bob, "2"), (alice, "3")]]
    let_pass(3 * LEASE_MS / 1000)
    for client in (alice, bob):
        told = client.until_told("den")
        assert [event["offset"] for event in told if event["type"] == "message"] == [1, 2, 3]
        assert not [event for event in told if event["type"] == "bye" or event.get("event") in ("away", "leave")]
    assert said[1]["timestamp"] - said[0]["timestamp"] < 60_000, "time in a room is Redis's"
    assert members(alice, "den") == members(bob, "den") == {("alice", "host", True), ("bob", "member", True)}


def test_a_redis_that_comes_back_with_an_older_snapshot_gives_no_place_twice(start_redis, start_node):  # noqa: F811
    redis = start_redis("--dbfilename", "d.rdb")  # noqa: F811
    one, two = (start_node(redis) for _ in range(2))
    alice, bob = one.ws("alice", "den"), two.ws("bob", "den")
    alice.say("den", "1", "2")
    redis.cli("SAVE")
    alice.say("den", "3", "4")
    # Both nodes have copies: whichever is the first to find the loss begins the room anew from its own.
    for client in (alice, bob):
        client.expect("message", content="4")
    epoch = bob.call("history", room="den")["epoch"]
    redis.kill()
    redis.start()
    for client in (alice, bob):
        assert client.expect("bye", deadline=Deadline(30))["code"] == 4200
    again = wait_until(lambda: try_resume(two, alice), "alice to be back")
    join = lambda: (answer := again.call("join", room="den", since={"epoch": epoch, "offset": 4}))["type"] == "joined" and answer
    joined = wait_until(join, "places to be given again")
    assert joined["epoch"] != epoch and joined["recovered"] is False
    assert [m["content"] for m in again.call("history", room="den")["messages"]] == ["1", "2", "3", "4"], "from the nodes' copies"
    # Under an id of its own: one of before would be answered as then.
    ack = again.call("message", room="den", content="5", id="after the loss")
    assert (ack["epoch"], ack["offset"]) == (joined["epoch"], 5)


def test_a_node_that_is_stopped_while_redis_is_away_ends_and_leaves_what_redis_knew(redis, start_node):  # noqa: F811
    one, two = (start_node(redis, session__grace_ms=60_000) for _ in range(2))
    alice, bob = one.ws("alice", "den"), two.ws("bob", "den")
    epoch = alice.say("den", "1")[0]["epoch"]
    redis.wait_until_kept("den", "alice", "bob")
    bob.until_told("den")
    redis.kill()
    alice.refused(503, "backplane_down", "message", room="den", content="no")
    one.terminate()
    bye = alice.expect("bye")
    assert (bye["code"], bye["resumable"]) == (4300, True)
    assert one.exit_code() == 0
    assert two.ws().refused(503, "backplane_down", "hello", resume=alice.welcome["resume"])["retryable"] is True
    redis.start()
    again = wait_until(lambda: try_resume(two, alice), "the session to be had", 40)
    join = lambda: (answer := again.call("join", room="den", since={"epoch": epoch, "offset": 0}))["type"] == "joined" and answer
    joined = wait_until(join, "places to be given again")
    assert (joined["recovered"], joined["offset"], joined["role"]) == (True, 1, "host")
    assert again.expect("message")["content"] == "1"
    wait_until(lambda: members(again, "den") == {("alice", "host", True), ("bob", "member", True)}, "both to be there", 40)
