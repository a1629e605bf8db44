"""Several nodes that share a Redis, as one server."""

import json
import pathlib
import re
import signal
import time

import pytest
from websockets.exceptions import ConnectionClosed

from helpers import Deadline, WsClient, binary, free_ports, run, wait_until
from redis_server import Redis
from test_sse import Stream, metric
import tokens

# Leases that are over soon, so that a test need not wait for long.
LEASE_MS = 900
GRACE_MS = 3000


@pytest.fixture
def start_redis(tmp_path):
    """Starts Redis servers."""
    servers = []

    def start(*options, **settings):
        servers.append(Redis(tmp_path / f"redis-{len(servers)}", *options, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def redis(start_redis):
    return start_redis(keeps=True)


@pytest.fixture
def start_node(start_server):
    """Starts nodes of one cluster."""

    def start(redis, **settings):
        settings = {"cluster__redis": redis if isinstance(redis, str) else redis.url, "cluster__lease_ms": LEASE_MS,
                    "cluster__deadline_ms": 500, "cluster__look_ms": 300, "session__grace_ms": GRACE_MS, "pin": "false"} | settings
        return start_server(**settings)

    return start


@pytest.fixture
def nodes(redis, start_node):
    return [start_node(redis) for _ in range(3)]


def resumed(node, client, *rooms):
    """Goes on on another node, in rooms of which each was known up to an offset."""
    again = node.ws()
    again.enter(None, resume=client.welcome["resume"])
    assert again.welcome["resumed"] is True
    return again


def members(client, room):
    return {(m["nickname"], m["role"], m["connected"]) for m in client.call("members", room=room, limit=1000)["members"]}


def test_event_streams_hear_what_is_said_on_any_node(nodes):
    first = Stream(nodes[0], "den")
    alice = nodes[1].ws("alice", "den")
    alice.say("den", "one", "two")
    assert first.offsets(2) == [1, 2]
    first.raw.close()
    alice.say("den", "three")
    again = Stream(nodes[2], "den", last=first.last)
    assert again.offsets(1) == [3]
    alice.say("den", "four")
    assert again.offsets(1) == [4]
    alice.call("leave", room="den")
    # A copy that only a stream needs is kept all the same, longer than one that nobody needs.
    wait_until(lambda: [room["members"] for room in alice.call("rooms")["rooms"]] == [0], "the room to be empty")
    alice.call("join", room="other")
    assert nodes[2].get("/api/rooms/other/members").status == 200
    assert metric(nodes[2], "starling_rooms") == 2
    wait_until(lambda: metric(nodes[2], "starling_rooms") == 1, "a copy that nobody needs to be given up")
    nodes[1].ws("bob", "den").say("den", "five")
    assert again.offsets(1) == [5]


def test_rooms_are_the_same_on_all_nodes(nodes):
    alice, bob, carol = (node.ws(name, "den") for node, name in zip(nodes, ["alice", "bob", "carol"]))
    alice.expect("presence", event="join", nickname="bob")
    alice.expect("presence", event="join", nickname="carol")
    ack = bob.call("message", room="den", content="hé\n")
    for client in (alice, bob, carol):
        heard = client.expect("message")
        assert (heard["sender"], heard["content"], heard["offset"]) == ("bob", "hé\n", ack["offset"])
    everybody = {("alice", "host", True), ("bob", "member", True), ("carol", "member", True)}
    for client in (alice, bob, carol):
        assert members(client, "den") == everybody
    wait_until(lambda: carol.call("rooms")["rooms"] == [{"room": "den", "members": 3, "offset": 1}], "the list of rooms")
    dan = nodes[2].ws("dan")
    history = dan.call("history", room="DEN")
    assert [m["content"] for m in history["messages"]] == ["hé\n"]
    assert history["epoch"] == ack["epoch"]
    assert dan.call("join", room="den", history=5)["messages"][0]["content"] == "hé\n"


def test_a_nickname_is_of_one_session_on_all_nodes(nodes):
    alice = nodes[0].ws("alice", "den")
    late = nodes[1].ws()
    late.refused(409, "nickname_in_use", "hello", nickname="ALICE")
    alice.call("nick", nickname="alix")
    # On other nodes it is free when Redis has heard of it.
    wait_until(lambda: late.call("hello", nickname="alice")["type"] == "welcome", "the nickname to be free")
    late.call("join", room="den")
    alice.expect("presence", event="join", nickname="alice")
    alice.call("quit")
    late.expect("presence", event="leave", nickname="alix", reason="quit")
    another = nodes[2].ws()
    wait_until(lambda: another.call("hello", nickname="alix")["type"] == "welcome", "the nickname to be free")


def test_hosts_moderate_on_all_nodes(nodes):
    host, bob, carol = (node.ws(name, "den") for node, name in zip(nodes, ["host", "bob", "carol"]))
    host.call("mute", room="den", target="bob")
    bob.expect("presence", event="mute", nickname="bob")
    bob.refused(403, "muted", "message", room="den", content="no")
    host.call("unmute", room="den", target="bob")
    bob.expect("presence", event="unmute")
    bob.say("den", "yes")
    host.call("role", room="den", target="carol", role="host")
    carol.expect("presence", event="role", nickname="carol", role="host")
    carol.call("kick", room="den", target="bob")
    bob.expect("left", room="den", reason="kicked")
    assert bob.call("join", room="den")["role"] == "member"
    carol.call("ban", room="den", target="bob", reason="enough")
    bob.expect("left", room="den", reason="banned")
    bob.refused(403, "banned", "join", room="den")
    assert host.call("state", room="den", key="topic", value={"a": [1]})["version"] == 1
    assert carol.expect("state")["value"] == {"a": [1]}
    assert nodes[1].ws("dan").call("join", room="den")["state"] == {"topic": {"value": {"a": [1]}, "version": 1}}


def test_private_messages_find_their_node(nodes):
    alice, bob = nodes[0].ws("alice"), nodes[1].ws("Bob")
    ack = alice.call("private", target="bob", content="psst")
    assert (ack["target"], ack["delivered"], ack["stored"]) == ("Bob", 1, False)
    assert bob.expect("private")["content"] == "psst"
    alice.refused(404, "no_such_user", "private", target="nobody", content="x")
    bob.drop()
    ack = wait_until(lambda: (ack := alice.call("private", target="bob", content="later"))["stored"] and ack, "bob to be away")
    assert ack["delivered"] == 0
    again = resumed(nodes[2], bob)
    while again.expect("private")["content"] != "later":
        pass


def test_typing_and_pushes_cross_nodes(start_node, redis):
    keys = '[{ name = "robot", key = "k1", admin = false }]'
    nodes = [start_node(redis, auth__api_keys=keys) for _ in range(2)]
    alice, bob = nodes[0].ws("alice", "den"), nodes[1].ws("bob", "den")
    bob.send("typing", room="den")
    assert alice.expect("typing")["nickname"] == "bob"
    body = b'{"content":"beep"}'
    request = (b"POST /api/rooms/den/messages HTTP/1.1\r\nHost: x\r\nX-API-Key: k1\r\nIdempotency-Key: 7\r\n"
               b"Content-Length: %d\r\n\r\n" % len(body)) + body
    first, again = nodes[0].http(request), nodes[1].http(request)
    assert (first.status, again.status) == (200, 200)
    assert first.body == again.body, "the same request on another node"
    for client in (alice, bob):
        assert client.expect("message")["sender"] == "robot"
        client.until_pong()
    # Also where something else is said under it, once the first has been heard everywhere.
    other = nodes[1].http(request.replace(b"beep", b"boop"))
    assert (other.status, other.body) == (200, first.body)
    assert [client.call("ping")["type"] for client in (alice, bob)] == ["pong"] * 2
    assert alice.call("history", room="den")["epoch"] == json.loads(first.body)["epoch"]


def test_the_http_api_is_of_all_nodes(start_node, redis):
    one, two = (start_node(redis, auth__api_keys='[{ name = "root", key = "k", admin = true }]') for _ in range(2))
    alice, bob = one.ws("alice", "den"), two.ws("bob", "den", "attic")
    alice.say("den", "one", "two")
    for node in [one, two, start_node(redis)]:
        client = node.connect()

        def read(path):
            client.send(f"GET /api/rooms{path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            return json.loads(client.response().body)

        wait_until(lambda: [room["members"] for room in read("")["rooms"]] == [1, 2], "the members to be told")
        assert [room["room"] for room in read("")["rooms"]] == ["attic", "den"]
        wait_until(lambda: len(read("/den/members")["members"]) == 2, "both to be members here too")
        assert [message["content"] for message in read("/den/history")["messages"]] == ["one", "two"]
        assert read("/nowhere/members")["reason"] == "no_such_room"
    body = b'{"content": "to all"}'
    head = f"POST /api/broadcast HTTP/1.1\r\nHost: test\r\nX-API-Key: k\r\nContent-Length: {len(body)}\r\n\r\n"
    assert json.loads(one.http(head.encode() + body).body) == {"sessions": 2}
    assert [client.expect("system")["content"] for client in (alice, bob)] == ["to all"] * 2
    away = one.ws("carol", "den")
    away.drop()
    bob.expect("presence", event="away", nickname="carol")
    delete = "DELETE /api/sessions/{} HTTP/1.1\r\nHost: test\r\nX-API-Key: k\r\n\r\n"
    for nickname in ["alice", "carol"]:
        assert two.http(delete.format(nickname).encode()).status == 204
        assert bob.expect("presence", event="leave")["nickname"] == nickname
        wait_until(lambda: two.http(delete.format(nickname).encode()).status == 404, "nobody to be left")
    assert alice.closed_with() == 4107


def test_a_session_goes_on_on_another_node(nodes):
    alice, bob = nodes[0].ws("alice", "den", "club"), nodes[1].ws("bob", "den")
    epoch = bob.call("history", room="den")["epoch"]
    bob.say("den", "1", "2")
    assert [alice.expect("message")["offset"] for _ in range(2)] == [1, 2]
    first = alice.call("message", room="den", content="3", id="mine")
    alice.drop()
    bob.expect("presence", event="away", nickname="alice")
    bob.say("den", *(str(n) for n in range(4, 31)))
    again = resumed(nodes[2], alice)
    bob.expect("presence", event="back", nickname="alice")
    joined = again.call("join", room="den", since={"epoch": epoch, "offset": 3})
    assert (joined["recovered"], joined["offset"], joined["role"]) == (True, 30, "host")
    assert [again.expect("message")["content"] for _ in range(27)] == [str(n) for n in range(4, 31)]
    repeated = again.call("message", room="den", content="3", id="mine")
    assert (repeated["offset"], repeated["timestamp"]) == (first["offset"], first["timestamp"])
    assert members(bob, "den") == {("alice", "host", True), ("bob", "member", True)}
    assert members(bob, "club") == {("alice", "host", True)}
    # What is not known any more, or never was, is not recovered.
    assert again.call("join", room="club", since={"epoch": "other", "offset": 0})["recovered"] is False


def test_what_is_kept_is_told_once_and_after_the_welcome(nodes):
    alice, bob = nodes[0].ws("alice", "den", "club"), nodes[1].ws("bob", "den")
    alice.drop()
    bob.expect("presence", event="away", nickname="alice")
    for number in range(4):
        assert bob.call("private", target="alice", content=f"p{number}")["stored"] is True
    resume = alice.welcome["resume"]
    for node in [nodes[1], nodes[2]]:
        again = node.ws()
        again.send("hello", resume=resume, id="h")
        welcome = again.next()
        assert (welcome["type"], welcome["resumed"]) == ("welcome", True)
        heard = [event for event in again.until_pong() if event["type"] == "private"]
        assert [event["content"] for event in heard] == [f"p{number}" for number in range(4)]
        resume = welcome["resume"]
    again.call("received", offset=heard[-1]["offset"])
    again = nodes[0].ws()
    again.enter(None, resume=resume)
    assert not [event for event in again.until_pong() if event["type"] == "private"]


def test_a_live_session_is_taken_over(nodes):
    alice = nodes[0].ws("alice", "den")
    again = resumed(nodes[1], alice)
    assert alice.closed_with() == 4103
    assert again.call("join", room="den")["members"] == 1


def test_members_of_a_killed_node_are_away_and_then_gone(nodes, redis):
    alice, bob, carol = nodes[0].ws("alice", "den"), nodes[1].ws("bob", "den"), nodes[1].ws("carol", "den")
    bob.until_pong()
    offset = bob.call("message", room="den", content="before", id="b1")["offset"]
    epoch = alice.expect("message") and alice.call("history", room="den")["epoch"]
    redis.wait_until_kept("den", "bob", "carol")
    nodes[1].kill()
    killed = time.monotonic()
    for _ in range(2):
        alice.expect("presence", event="away")
    away_s = time.monotonic() - killed
    assert away_s < LEASE_MS / 1000 * 2 + 1
    alice.say("den", "meanwhile")
    again = resumed(nodes[2], bob)
    alice.expect("presence", event="back", nickname="bob")
    assert again.call("message", room="den", content="before", id="b1")["offset"] == offset, "remembered by Redis"
    joined = again.call("join", room="den", since={"epoch": epoch, "offset": offset})
    assert joined["recovered"] is True
    assert again.expect("message")["content"] == "meanwhile"
    # Nobody comes for the other one.
    left = alice.expect("presence", event="leave", nickname="carol", deadline=Deadline(30))
    assert left["reason"] == "timeout"
    wait_until(lambda: nodes[2].ws().call("hello", nickname="carol")["type"] == "welcome", "the nickname to be free")
    assert members(alice, "den") == {("alice", "host", True), ("bob", "member", True)}


PUT_OUT = "DELETE /api/sessions/{} HTTP/1.1\r\nHost: test\r\nX-API-Key: k\r\n\r\n"


def test_ending_streams_on_another_node_is_having_ended_something(start_node, redis):
    one, two = (start_node(redis, auth__api_keys='[{ name = "root", key = "k", admin = true }]') for _ in range(2))
    stream = Stream(two, "den", "X-API-Key: k")
    wait_until(lambda: one.http(PUT_OUT.format("root").encode()).status == 204, "the nodes to know each other")
    assert stream.rest() == [] and stream.comments == ["4107 kicked"]


def test_an_admin_ends_what_a_killed_node_has_left(start_node, redis):
    one, two, three = (start_node(redis, auth__api_keys='[{ name = "root", key = "k", admin = true }]', session__grace_ms=60_000) for _ in range(3))
    alice, bob, carol = one.ws("alice", "den"), two.ws("bob", "den"), two.ws("carol", "den")
    redis.wait_until_kept("den", "bob", "carol")
    two.kill()
    for _ in range(2):
        alice.expect("presence", event="away", deadline=Deadline(30))
    assert three.http(PUT_OUT.format("bob").encode()).status == 204
    assert alice.expect("presence", event="leave")["nickname"] == "bob"
    assert three.http(PUT_OUT.format("bob").encode()).status == 404
    # He does not go on as if nothing had happened, and whoever wants it may have the name.
    assert three.ws().call("hello", resume=bob.welcome["resume"], nickname="bob")["resumed"] is False
    resumed(three, carol)
    alice.expect("presence", event="back", nickname="carol")
    assert members(alice, "den") == {("alice", "host", True), ("carol", "member", True)}


def test_who_was_put_out_behind_the_back_of_a_node_is_told(start_node, redis):
    for name in "ab":
        redis.cli("ACL", "SETUSER", name, "on", ">pw", "~*", "&*", "+@all")
    one, two = (start_node(f"redis://{name}:pw@127.0.0.1:{redis.port}", session__grace_ms=60_000,
                           auth__api_keys='[{ name = "root", key = "k", admin = true }]') for name in "ab")
    alice, bob = one.ws("alice", "den"), two.ws("bob", "den")
    bob.until_told("den")
    redis.cli("ACL", "SETUSER", "a", "off")
    redis.cli("CLIENT", "KILL", "USER", "a")
    bob.expect("presence", event="away", nickname="alice", deadline=Deadline(30))
    assert two.http(PUT_OUT.format("alice").encode()).status == 204
    assert bob.expect("presence", event="leave")["nickname"] == "alice"
    redis.cli("ACL", "SETUSER", "a", "on")
    assert alice.closed_with(Deadline(30)) == 4107
    # A node that is back says who is with it beside asking what has become of them: she may be there again for a moment.
    wait_until(lambda: members(bob, "den") == {("bob", "host", True)}, "alice to have left")


def test_a_drained_node_leaves_its_sessions_to_the_others(nodes):
    alice, bob = nodes[0].ws("alice", "den"), nodes[1].ws("bob", "den")
    nodes[1].terminate()
    bye = bob.expect("bye", code=4300)
    assert bye["resumable"] is True
    assert nodes[1].exit_code() == 0
    again = resumed(nodes[2], bob)
    assert again.call("join", room="den", since={"epoch": "x", "offset": 0})["members"] == 2
    # The node of whoever asks hears of it a moment later.
    here = {("alice", "host", True), ("bob", "member", True)}
    wait_until(lambda: members(alice, "den") == here, "bob to be there again")


def test_what_a_drained_node_has_kept_for_users_goes_with_them(nodes):
    alice, bob, carol = nodes[1].ws("alice"), nodes[0].ws("bob"), nodes[0].ws("carol")
    assert carol.call("private", target="alice", content="once", id="c1")["delivered"] == 1
    assert alice.expect("private")["content"] == "once"
    bob.drop()
    wait_until(lambda: alice.call("private", target="bob", content="kept")["stored"], "bob to be away")
    nodes[0].terminate()
    assert nodes[0].exit_code() == 0
    again = resumed(nodes[2], bob)
    while (private := again.expect("private"))["content"] != "kept":
        pass
    assert private["offset"] > 0
    # An id that was answered there is answered here, and nobody hears it twice.
    again = resumed(nodes[2], carol)
    assert again.call("private", target="alice", content="once", id="c1")["delivered"] == 1
    again.call("private", target="alice", content="after")
    assert alice.expect("private")["content"] == "after"


def test_a_hello_that_waits_for_a_lost_node_may_be_tried_again(start_node, redis):
    one, two = (start_node(redis, cluster__lease_ms=3000, cluster__deadline_ms=500, limits__hello_ms=1500) for _ in range(2))
    bob = one.ws("bob")
    wait_until(lambda: redis.cli("--scan", "--pattern", "starling:{s:*"), "the session to be kept")
    one.kill()
    again = two.ws()
    # Longer than a client has for its hello: what the answers take is not its time.
    welcome = wait_until(lambda: (answer := again.call("hello", resume=bob.welcome["resume"]))["type"] == "welcome" and answer,
                         "the session to be had")
    assert welcome["resumed"] is True


def test_who_has_lost_redis_is_not_ready(nodes, redis):
    assert nodes[0].get("/ready").status == 200
    assert b"\nstarling_backplane_up 1\n" in nodes[0].get("/metrics").body
    redis.kill()
    wait_until(lambda: nodes[0].get("/health").body == b"OK backplane_down", "the loss to be noticed")
    wait_until(lambda: b"\nstarling_backplane_up 0\n" in nodes[0].get("/metrics").body, "the metrics to tell it")
    assert nodes[0].get("/health").status == 200
    # Not at once: a restart is over soon.
    wait_until(lambda: nodes[0].get("/ready").status == 503, "balancers to be told")
    redis.start()
    wait_until(lambda: nodes[0].get("/ready").status == 200 and nodes[0].get("/health").body == b"OK", "Redis to be back")
    wait_until(lambda: b"\nstarling_backplane_up 1\n" in nodes[0].get("/metrics").body, "the metrics to tell it")


def test_a_full_redis_is_one_that_is_away(start_node, redis):
    one, two = (start_node(redis, auth__jwt_secret=tokens.SECRET, log__level="info,starling::cluster=debug") for _ in range(2))
    alice, bob = one.ws("alice", "den"), two.ws("bob", "den")
    admin = tokens.enter(one.ws(), "root", admin=True)
    bob.say("den", "1")
    redis.cli("CONFIG", "SET", "maxmemory", "1")
    alice.refused(503, "backplane_down", "message", room="den", content="no")
    wait_until(lambda: one.get("/health").body == b"OK backplane_down", "it to be noticed")
    started = time.monotonic()
    refusal = alice.refused(503, "backplane_down", "kick", room="den", target="bob")
    assert "full" in refusal["message"]
    admin.refused(503, "backplane_down", "broadcast", content="no")
    delete = f"DELETE /api/sessions/bob HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {tokens.token('root', admin=True)}\r\n\r\n"
    assert one.http(delete.encode()).status == 503
    assert time.monotonic() - started < 1, "at once"
    wait_until(lambda: one.get("/ready").status == 503, "balancers to be told")
    assert [m["content"] for m in alice.call("history", room="den")["messages"]] == ["1"], "rooms stay readable"
    # Nothing is announced meanwhile, of which the reason has been said: who looks for more hears of it.
    assert all(" DEBUG " in line for line in one.said("announcements are not heard any more"))
    redis.cli("CONFIG", "SET", "maxmemory", "0")
    wait_until(lambda: one.get("/ready").status == 200 and one.get("/health").body == b"OK", "Redis to be back")
    wait_until(lambda: alice.call("message", room="den", content="2")["type"] == "ack", "places")
    said = [line for line in one.log if "backplane" in line and "starling::cluster: " not in line]
    assert len(said) <= 4, said
    assert bob.expect("message", content="2")
    # Nobody has taken anybody for dead meanwhile.
    assert members(bob, "den") == {("alice", "host", True), ("bob", "member", True)}
    for client in (alice, bob):
        assert not losses(client)


def losses(client):
    """The presence events of members who were lost."""
    events = client.until_told("den")
    return [event for event in events if event["type"] == "presence" and event["event"] in ("away", "back", "leave")]


def test_nodes_that_were_all_without_redis_keep_their_members(start_node, redis):
    one, two = (start_node(redis, session__grace_ms=1000) for _ in range(2))
    alice, bob = one.ws("alice", "den"), two.ws("bob", "den")
    alice.call("role", room="den", target="bob", role="host")
    bob.expect("presence", event="role")
    redis.kill()
    wait_until(lambda: all(node.get("/ready").status == 503 for node in (one, two)), "the loss")
    # Longer than the lease and the time of grace together.
    gone = time.monotonic()
    wait_until(lambda: time.monotonic() - gone > (LEASE_MS + 1000) / 1000 + 1, "all times to be over")
    two.process.send_signal(signal.SIGSTOP)
    redis.start()
    wait_until(lambda: one.get("/health").body == b"OK", "Redis to be back")
    wait_until(lambda: alice.call("message", room="den", content="1")["type"] == "ack", "places")
    two.process.send_signal(signal.SIGCONT)
    assert bob.expect("message")["content"] == "1"
    assert members(alice, "den") == {("alice", "host", True), ("bob", "host", True)}
    assert not losses(alice)


def test_who_went_on_elsewhere_meanwhile_is_replaced(start_node, redis):
    for name in "ab":
        redis.cli("ACL", "SETUSER", name, "on", ">pw", "~*", "&*", "+@all")
    one, two = (start_node(f"redis://{name}:pw@127.0.0.1:{redis.port}") for name in "ab")
    alice = one.ws("alice", "den")
    redis.cli("ACL", "SETUSER", "a", "off")
    redis.cli("CLIENT", "KILL", "USER", "a")
    wait_until(lambda: one.get("/ready").status == 503, "the node to be cut off")
    again = wait_until(lambda: try_resume(two, alice), "the session on the other node")
    redis.cli("ACL", "SETUSER", "a", "on")
    # Its session goes on: it is not to come back and throw the other one out.
    bye = alice.expect("bye")
    assert (bye["code"], bye["resumable"]) == (4103, False)
    again.until_pong()


def test_nothing_is_taken_for_recovered_when_nobody_is_left_who_knows(start_redis, start_node):
    redis = start_redis("--dbfilename", "d.rdb")
    one, two = (start_node(redis) for _ in range(2))
    alice, bob = one.ws("alice", "den"), two.ws("bob", "den")
    alice.say("den", "1", "2")
    redis.cli("SAVE")
    alice.say("den", "3", "4")
    epoch = bob.expect("message", content="4") and bob.call("history", room="den")["epoch"]
    # The machine fails, and Redis has its last snapshot.
    for process in (one, two, redis):
        process.kill()
    redis.start()
    one, two = (start_node(redis) for _ in range(2))
    carol = one.ws("carol", "den")
    carol.say("den", *(f"other {n}" for n in range(4)))
    again = two.ws("bob2")
    joined = again.call("join", room="den", since={"epoch": epoch, "offset": 4})
    assert joined["recovered"] is False and joined["epoch"] != epoch
    history = again.call("history", room="den")["messages"]
    assert [m["content"] for m in history] == ["1", "2", *(f"other {n}" for n in range(4))]


@pytest.mark.parametrize("away", ["refuses", "hangs"])
def test_without_redis_clients_stay_and_publishing_says_so(nodes, redis, away):
    alice, bob = nodes[0].ws("alice", "den"), nodes[1].ws("bob", "den")
    bob.say("den", "1")
    for client in (alice, bob):
        client.expect("message", content="1")
    epoch = alice.call("history", room="den")["epoch"]
    redis.kill() if away == "refuses" else redis.pause()
    # At once when that is known, and within the deadline before.
    started = time.monotonic()
    refusal = alice.refused(503, "backplane_down", "message", room="den", content="no", id="later")
    assert time.monotonic() - started < 3
    assert refusal["retryable"] is True
    wait_until(lambda: "backplane" in " ".join(nodes[1].log), "the other node to notice")
    assert [m["content"] for m in alice.call("history", room="den")["messages"]] == ["1"], "rooms stay readable"
    assert len(alice.call("members", room="den")["members"]) == 2
    nodes[0].ws().refused(503, "backplane_down", "hello", nickname="carol")
    redis.start() if away == "refuses" else redis.go_on()

    def publish():
        event = alice.call("message", room="den", content="no", id="later")
        return event if event["type"] == "ack" else None

    ack = wait_until(publish, "Redis to be back")
    assert ack["epoch"] == epoch
    heard = bob.expect("message")
    assert (heard["offset"], heard["content"]) == (ack["offset"], "no"), "exactly once"
    bob.until_pong()
    wait_until(lambda: nodes[2].get("/health").body == b"OK", "the third node to be back too")
    nodes[2].ws("carol", "den")
    alice.expect("presence", event="join", nickname="carol")


def test_what_redis_has_lost_is_not_taken_for_recovered(nodes, start_redis, redis):
    alice, bob = nodes[0].ws("alice", "den"), nodes[1].ws("bob", "den")
    alice.call("state", room="den", key="topic", value="x")
    bob.say("den", "1", "2", "3")
    for client in (alice, bob):
        for _ in range(3):
            client.expect("message")
    epoch = alice.call("history", room="den")["epoch"]
    redis.kill()
    for file in redis.directory.rglob("*"):
        if file.is_file():
            file.unlink()
    redis.start()
    # They are sent away, because they cannot be told what they may have missed.
    assert alice.expect("bye")["code"] == 4200
    assert bob.expect("bye")["code"] == 4200
    again = wait_until(lambda: try_resume(nodes[2], alice), "alice to be back")
    # For a while nothing gets a place, so that all nodes have looked before an offset could be given twice.
    join = lambda: (answer := again.call("join", room="den", since={"epoch": epoch, "offset": 3}))["type"] == "joined" and answer
    joined = wait_until(join, "places to be given again")
    assert joined["recovered"] is False
    # What nodes know is not lost: messages keep their offsets.
    assert joined["epoch"] != epoch and joined["offset"] == 3
    assert joined["state"]["topic"]["value"] == "x"
    history = again.call("history", room="den")
    assert [(m["offset"], m["content"]) for m in history["messages"]] == [(1, "1"), (2, "2"), (3, "3")]
    assert again.call("message", room="den", content="anew")["offset"] == 4


def try_resume(node, client):
    again = node.ws()
    welcome = again.call("hello", resume=client.welcome["resume"])
    return again if welcome.get("resumed") else again.drop()


def test_a_broadcast_reaches_all_nodes(start_node, redis):
    nodes = [start_node(redis, auth__jwt_secret=tokens.SECRET) for _ in range(3)]
    everybody = [node.ws(f"u{n}", "ops" if n else "den") for n, node in enumerate(nodes)]
    admin = tokens.enter(nodes[0].ws(), "root", admin=True)
    assert admin.call("broadcast", content="at 6")["sessions"] == 4
    for client in [*everybody, admin]:
        assert client.expect("system")["content"] == "at 6"
    assert admin.call("broadcast", content="ops only", rooms=["op*"])["sessions"] == 2


def is_cut(client):
    try:
        client.call("ping")
        return False
    except ConnectionClosed:
        return True
    except AssertionError:
        client.closed_with()  # a proxy may have taken the ping before it told
        return True


def documented(file, language):
    """The only block of this language in a document."""
    text = (pathlib.Path(__file__).parents[2] / file).read_text()
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return block


def start_haproxy(directory, front, nodes, run_proxy):
    ports = {"8080": front, "8081": nodes[0].web[1], "8082": nodes[1].web[1]}
    configuration = documented("README.md", "haproxy")
    configuration = re.sub(r"127\.0\.0\.1:(\d+)", lambda match: f"127.0.0.1:{ports[match[1]]}", configuration)
    (pathlib.Path(directory) / "haproxy.cfg").write_text(configuration)
    run_proxy(["haproxy", "-db", "-f", f"{directory}/haproxy.cfg"], [front])


def start_nginx(directory, front, nodes, run_proxy):
    http = documented("docs/cluster.md", "nginx").replace("listen 80;", f"listen 127.0.0.1:{front};")
    for number, node in enumerate(nodes, 1):
        assert (place := f"10.0.0.{number}:8080") in http
        http = http.replace(place, f"127.0.0.1:{node.web[1]}")
    kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    paths = "".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)
    (pathlib.Path(directory) / "nginx.conf").write_text(f"""
        daemon off; pid {directory}/nginx.pid; error_log stderr; worker_processes 1;
        events {{}}
        http {{ access_log off; {paths} {http} }}
    """)
    run_proxy(["nginx", "-c", f"{directory}/nginx.conf", "-p", directory], [front])


@pytest.mark.parametrize("start_proxy", [start_haproxy, start_nginx])
def test_two_nodes_behind_a_balancer(nodes, run_proxy, directory, start_proxy):
    """As the documents have it, but for the ports."""
    nodes = nodes[:2]
    (front,) = free_ports(1)
    start_proxy(directory, front, nodes, run_proxy)

    def connect():
        return nodes[1].keep(WsClient(f"ws://127.0.0.1:{front}/ws"))

    # The second goes where there are fewer.
    alice, bob = connect().enter("alice", "den"), connect().enter("bob", "den")
    alice.expect("presence", event="join", nickname="bob")
    (ack,) = alice.say("den", "hello")
    assert bob.expect("message", room="den")["content"] == "hello"
    nodes[0].kill()
    is_lost = {client: is_cut(client) for client in (alice, bob)}
    assert sorted(is_lost.values()) == [False, True]
    lost, other = sorted((alice, bob), key=is_lost.get, reverse=True)
    other.say("den", "are you there?")
    again = connect()
    # The killed node has it until its lease is over.
    answers = []
    wait_until(lambda: answers.append(again.call("hello", resume=lost.welcome["resume"])) or answers[-1].get("resumed"), "the session")
    joined = again.call("join", room="den", since={"epoch": ack["epoch"], "offset": ack["offset"]})
    assert joined["recovered"] is True
    assert again.expect("message", room="den")["content"] == "are you there?"


def test_the_documented_rights_are_enough(redis, start_node):
    document = (pathlib.Path(__file__).parents[2] / "docs/cluster.md").read_text()
    rights = re.search(r"ACL SETUSER starling on '>PASSWORD' (.*)", document)[1].replace("'", "").split()
    redis.cli("ACL", "SETUSER", "least", "on", ">pw", *rights)
    one, two = (start_node(f"redis://least:pw@127.0.0.1:{redis.port}", cluster__look_ms=100) for _ in range(2))
    alice, bob = one.ws("alice", "den"), two.ws("bob", "den")
    alice.say("den", "hello")
    assert bob.expect("message")["content"] == "hello"
    assert bob.call("private", target="alice", content="psst")["delivered"] == 1
    assert bob.call("history", room="den")["messages"][0]["content"] == "hello"
    assert [room["room"] for room in bob.call("rooms")["rooms"]] == ["den"]
    resumed(two, alice).call("leave", room="den")
    two.terminate()
    assert two.exit_code() == 0
    assert not [line for server in (one, two) for line in server.log if "NOPERM" in line or "refuses" in line]


def test_what_is_wrong_is_told_at_the_start(start_redis, redis, start_node):
    def start(*settings):
        command = [binary(), "serve", "--web", "127.0.0.1:0", "--line", "127.0.0.1:0", "--frame", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]
        ran = run(command + [f"--set={setting}" for setting in settings])
        return ran.returncode, ran.stderr.decode()

    code, said = start("cluster.redis=redis://127.0.0.1:1")
    assert code == 1 and "127.0.0.1:1" in said and "running" in said
    code, said = start("cluster.redis=http://127.0.0.1:1")
    assert code == 2 and "redis://" in said
    secured = start_redis("--requirepass", "hush")
    code, said = start(f"cluster.redis=redis://:wrong@127.0.0.1:{secured.port}")
    assert code == 1 and "wrong" not in said.replace("wrong password", "").lower().replace("wrongpass", "")
    start_node(f"redis://:hush@127.0.0.1:{secured.port}")
    start_node(redis)
    code, said = start(f"cluster.redis={redis.url}", "limits.state_keys=3")
    assert code == 1 and "limits.state_keys = 3" in said
    redis.cli("ACL", "SETUSER", "deaf", "on", ">pw", "~*", "resetchannels", "+@all")
    code, said = start(f"cluster.redis=redis://deaf:pw@127.0.0.1:{redis.port}", "cluster.prefix=other")
    assert code == 1 and "NOPERM" in said and "channel" in said
    redis.cli("ACL", "SETUSER", "mute", "on", ">pw", "~*", "&*", "+@all", "-subscribe")
    code, said = start(f"cluster.redis=redis://mute:pw@127.0.0.1:{redis.port}", "cluster.prefix=other")
    assert code == 1 and "announcements cannot be heard" in said and "subscribe" in said
    redis.cli("ACL", "SETUSER", "blind", "on", ">pw", "~*", "&*", "+@all", "-info")
    code, said = start(f"cluster.redis=redis://blind:pw@127.0.0.1:{redis.port}", "cluster.prefix=other")
    assert code == 1 and "info" in said and "docs/cluster.md" in said
    code, said = start(f"cluster.redis={redis.url}", "store.ack=synced")
    assert code == 2 and "store.ack" in said
