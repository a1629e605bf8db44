"""Nodes that share a Redis Cluster of three servers, one of which is killed or hangs while clients talk in rooms of all three."""

import collections
import itertools
import re
import signal
import threading
import time

import pytest
from websockets.exceptions import ConnectionClosed

from helpers import Deadline, wait_until
from redis_server import RedisCluster
from test_cluster import start_node  # noqa: F401  (a fixture)

# How long a server is away, in seconds: longer than leases last, and than the others need to find out.
LEASE_S, AWAY_S = 3, 4


@pytest.fixture
def redis_cluster(tmp_path):
    cluster = RedisCluster(tmp_path / "redis")
    yield cluster
    cluster.close()


class Member:
    """Says one message after the other in a room, each until it has a place, and checks what it hears: each message under the next
    offset of one epoch, on one connection."""

    def __init__(self, node, name, room):
        self.room, self.name = room, name
        self.client = node.ws(name)
        joined = self.client.call("join", room=room)
        assert joined["type"] == "joined", joined
        self.epoch, self.offset = joined["epoch"], joined["offset"]
        # Of each answer: when it came, after how many seconds, and the reason if it was refused.
        self.answers = []
        self.heard, self.others, self.wrong = [], [], []
        self.said = self.placed = 0
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            while not self.ends.is_set():
                self.said += 1
                content = f"{self.name}-{self.said}"
                # What has been begun is brought to its end.
                while not self._has_place(content):
                    time.sleep(0.02)
                self.ends.wait(0.02)
        except (AssertionError, ConnectionClosed, TimeoutError) as error:
            self.wrong.append(repr(error))

    def _has_place(self, content):
        asked_at = time.monotonic()
        self.client.send("message", room=self.room, content=content, id=content)
        answer = self._read(lambda event: event.get("id") == content)
        now = time.monotonic()
        self.answers.append((now, now - asked_at, answer.get("reason") if answer["type"] == "error" else None))
        assert answer["type"] == "ack" or answer["retryable"], (answer, self.others[-6:])
        self.placed = answer.get("offset", self.placed)
        return answer["type"] == "ack"

    def _read(self, is_answer):
        deadline = Deadline()
        while not is_answer(event := self.client.next(deadline)):
            self._hear(event)
        return event

    def _hear(self, event):
        if event["type"] != "message":
            self.others.append(event)
            return
        self.offset += 1
        self.heard.append(event["content"])
        if event["offset"] != self.offset:
            self.wrong.append(f"{event} after {self.offset - 1}")

    def acks_after(self, when):
        return [(at, took_s) for at, took_s, reason in self.answers if at > when and reason is None]

    def refusals(self):
        return [(at, took_s, reason) for at, took_s, reason in self.answers if reason]


def settle(room, members):
    """All have heard what all have said, in one order and once, and of nobody that he was away."""
    for member in members:
        member.ends.set()
    for member in members:
        member.thread.join(30)
        assert not member.thread.is_alive() and not member.wrong, (member.name, member.wrong[:5])
    last = max(member.placed for member in members)
    wait_until(lambda: all(_hears_up_to(member, last) for member in members), "all to have heard all")
    for member in members:
        assert not member.wrong, (member.name, member.wrong[:5])
        events = collections.Counter(event["event"] for event in member.others if event["type"] == "presence")
        assert set(events) <= {"join"}, (member.name, events)
        history = member.client.call("history", room=room, limit=1)
        assert (history["epoch"], history["messages"][-1]["offset"]) == (member.epoch, last)
    said = collections.Counter(f"{member.name}-{number}" for member in members for number in range(1, member.said + 1))
    first, second = (member.heard for member in members)
    assert second == first[len(first) - len(second):], "another order"
    assert collections.Counter(first) == said, "lost or repeated"


def _hears_up_to(member, last):
    for event in member.client.until_pong():
        member._hear(event)
    return member.offset >= last


def start_members(nodes, rooms):
    """Two in each room, on different nodes; the first of each is there before anything is said."""
    members = [[Member(nodes[(number + other) % len(nodes)], f"u{number}{other}", room) for other in range(2)]
               for number, room in enumerate(rooms)]
    wait_until(lambda: all(len(member.answers) > 5 for pair in members for member in pair), "messages to have places")
    return members


def lines(nodes, word):
    return [line for node in nodes for line in node.log if word in line]


def says_once_who_is_away(redis_cluster, number, nodes):
    """Those who have asked a server that was away have said so, when it began and when it was over, and nobody else's."""
    port = redis_cluster.servers[number].port
    for node in nodes:
        for words in ["away in the Redis Cluster", "back in the Redis Cluster"]:
            said = node.said(words)
            assert len(said) == 1 and f"127.0.0.1:{port}:" in said[0], said


@pytest.mark.parametrize("victim", ["nodes", "other"])
def test_a_killed_server_concerns_its_rooms_alone_until_it_is_back(redis_cluster, start_node, victim):  # noqa: F811
    # A deadline of which a quarter is more than a busy machine needs.
    nodes = [start_node(redis_cluster.urls, cluster__deadline_ms=4000, cluster__lease_ms=LEASE_S * 1000) for _ in range(3)]
    rooms = redis_cluster.rooms()
    killed = (redis_cluster.number_of("nodes") + (victim == "other")) % 3
    members = start_members(nodes, rooms)
    killed_at = time.monotonic()
    redis_cluster.servers[killed].kill()
    gone = members[killed]
    wait_until(lambda: time.monotonic() > killed_at + AWAY_S and all(member.refusals() for member in gone), "its rooms to be refused")
    # It answers, but with CLUSTERDOWN, until it has heard of the others, and for two seconds at least.
    redis_cluster.servers[killed].start()
    back_at = time.monotonic()
    wait_until(lambda: all(member.acks_after(back_at) for member in gone), "its rooms to have places again")
    again_s = max(member.acks_after(back_at)[0][0] for member in gone) - back_at
    # Nobody is taken for lost later either.
    wait_until(lambda: time.monotonic() > back_at + again_s + 1.5 * LEASE_S, "leases to be over")
    for number, (room, pair) in enumerate(zip(rooms, members)):
        settle(room, pair)
        refusals = [refusal for member in pair for refusal in member.refusals()]
        if number == killed:
            assert {reason for *_, reason in refusals} == {"backplane_down"}
            assert killed_at < min(at for at, *_ in refusals)
        else:
            assert not refusals, (room, refusals[:3])
    assert again_s < 5, again_s
    assert not lines(nodes, "the backplane is down"), "not all of it"
    says_once_who_is_away(redis_cluster, killed, [nodes[(killed + other) % len(nodes)] for other in range(2)])
    assert all(node.get("/health").body == b"OK" for node in nodes)


@pytest.mark.parametrize("victim", ["nodes", "other"])
def test_a_server_that_hangs_holds_up_rooms_of_the_others_once(redis_cluster, start_node, victim):  # noqa: F811
    deadline_s = 4
    # A lease so long that nobody is lost before the server is back.
    nodes = [start_node(redis_cluster.urls, cluster__deadline_ms=deadline_s * 1000, cluster__lease_ms=10_000) for _ in range(3)]
    rooms = redis_cluster.rooms()
    hung = (redis_cluster.number_of("nodes") + (victim == "other")) % 3
    members = start_members(nodes, rooms)
    living = [member for number, pair in enumerate(members) if number != hung for member in pair]
    redis_cluster.servers[hung].pause()
    hung_at = time.monotonic()
    try:
        wait_until(lambda: time.monotonic() > hung_at + 2 * deadline_s and all(member.refusals() for member in members[hung]), "a while", 30)
    finally:
        redis_cluster.servers[hung].go_on()
    back_at = time.monotonic()
    wait_until(lambda: all(member.acks_after(back_at) for pair in members for member in pair), "all rooms to have places")
    for member in living:
        assert not member.refusals(), (member.name, member.refusals()[:3])
        took = sorted((took_s for _, took_s in member.acks_after(hung_at)), reverse=True)
        # Once for a quarter of the deadline, and then at once.
        assert took[0] < deadline_s * 3 / 8 and took[1] < deadline_s / 8, (member.name, took[:4])
    for room, pair in zip(rooms, members):
        settle(room, pair)
    assert not lines(nodes, "the backplane is down"), "not all of it"
    says_once_who_is_away(redis_cluster, hung, [nodes[(hung + other) % len(nodes)] for other in range(2)])


def test_who_has_come_while_nobody_could_hear_of_it_is_not_taken_for_lost(redis_cluster, start_node):  # noqa: F811
    lease_s = 1.2
    settings = {"cluster__deadline_ms": 4000, "cluster__lease_ms": int(lease_s * 1000), "session__grace_ms": 1000}
    knows = redis_cluster.number_of("nodes")
    room = redis_cluster.rooms()[(knows + 1) % 3]
    one = start_node(redis_cluster.urls, **settings)
    alice = one.ws("alice")
    # It cannot ask who lives before the server that knows is away.
    one.process.send_signal(signal.SIGSTOP)
    try:
        two = start_node(redis_cluster.urls, **settings)
        bob = two.ws("bob")
        redis_cluster.servers[knows].kill()
        away_at = time.monotonic()
    finally:
        one.process.send_signal(signal.SIGCONT)
    # It finds a member there of a node that it does not know.
    for client in (bob, alice):
        wait_until(lambda client=client: client.call("join", room=room)["type"] == "joined", "the room")
    wait_until(lambda: time.monotonic() > away_at + 3 * lease_s + 1, "all times to be over")
    redis_cluster.servers[knows].start()
    now_ms = int(time.time() * 1000)
    count = lambda: redis_cluster.servers[knows].cli("ZCOUNT", "starling:{nodes}", str(now_ms), "+inf", check=False)
    wait_until(lambda: count() == "2", "both to be heard of again")
    bob.say(room, "still here")
    assert alice.expect("message")["content"] == "still here"
    told = [event for client in (alice, bob) for event in client.until_told(room) if event["type"] == "presence"]
    assert {event["event"] for event in told} <= {"join"}, told


def clients_apart_from(redis_cluster, number, node, *rooms):
    """Clients whose nicknames and sessions are on other servers than this one."""
    for name in (f"u{count}" for count in itertools.count()):
        if redis_cluster.number_of(f"k:{name}") != number:
            client = node.ws(name, *rooms)
            if redis_cluster.number_of(f"s:{client.welcome['session']}") != number:
                yield client
            else:
                client.call("quit")


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_whoever_changes_rooms_of_a_server_that_is_away_is_answered_each_time(redis_cluster, start_node, how):  # noqa: F811
    deadline_s = 1
    # Whoever listens by a server that does not answer is deaf until it finds that out, and is asked in vain: sessions wait for longer than that.
    settings = {"cluster__deadline_ms": deadline_s * 1000, "cluster__lease_ms": 10_000, "session__grace_ms": 60_000}
    start = lambda: start_node(redis_cluster.urls, **settings)
    inbox_of = lambda node: redis_cluster.number_of("n:" + re.search(r"node (\d+) of", node.said(" of the cluster ")[0])[1])
    # What others tell this one has its place on the server that will be away, too.
    first = next(node for node in iter(start, None) if inbox_of(node) != redis_cluster.number_of("nodes"))
    nodes, away = [first, start()], inbox_of(first)
    room, other = (redis_cluster.rooms()[(away + number) % 3] for number in range(2))
    clients = clients_apart_from(redis_cluster, away, nodes[0], room, other)
    alice, bob, carol = (next(clients) for _ in range(3))
    server = redis_cluster.servers[away]
    getattr(server, how)()

    def soon(ask):
        asked_at = time.monotonic()
        answer = ask()
        # Twice the deadline, and what a busy machine takes on top; without the bound it is as long as the server is away.
        assert time.monotonic() - asked_at < 2 * deadline_s + 1, answer
        return answer

    def back(node, client):
        again = node.ws()

        def hello():
            answer = soon(lambda: again.call("hello", resume=client.welcome["resume"]))
            # On a busy machine the node that has the session may not answer in time: it is asked again.
            return None if answer.get("reason") == "unavailable" else answer

        again.welcome = wait_until(hello, "the session to be had")
        assert again.welcome["resumed"] is True, again.welcome
        return again

    for client in (alice, alice, bob, alice):
        soon(lambda client=client: client.refused(503, "backplane_down", "state", room=room, key="k", value=1))
    soon(lambda: alice.refused(503, "backplane_down", "mute", room=room, target="nobody"))
    assert soon(lambda: alice.call("state", room=other, key="k", value=1))["type"] == "ack"
    assert soon(lambda: alice.call("leave", room=room))["type"] == "left"
    soon(lambda: alice.refused(503, "backplane_down", "join", room=room))
    # Members of that room come back, on any node.
    for client, node in [(carol, nodes[0]), (bob, nodes[1]), (None, nodes[0])]:
        client = client or again
        client.drop()
        again = back(node, client)
        assert soon(lambda again=again: again.call("members", room=other))["type"] == "members"
    (server.start if how == "kill" else server.go_on)()
    wait_until(lambda: alice.call("join", room=room)["type"] == "joined", "the room to have places again")
    assert alice.call("state", room=room, key="k", value=2)["type"] == "ack"
