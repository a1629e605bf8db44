"""Sessions and tokens of nodes that are cut off or have ended, or whose Redis has lost its data; and who writes to them in private."""

import collections
import signal
import threading
import time

import pytest

from helpers import DEADLINE_S, Deadline, wait_until
from test_cluster import (  # noqa: F401  (fixtures among them)
    PUT_OUT, losses, members, redis, resumed, start_node, start_redis)

ADMIN = '[{ name = "root", key = "k", admin = true }]'


@pytest.mark.parametrize("loses", ["its data", "everything, with a restart"])
def test_tokens_that_were_signed_before_a_loss_are_taken_by_those_who_start_after_it(start_redis, start_node, loses):  # noqa: F811
    redis = start_redis()  # noqa: F811
    # While the nodes find out what is lost, who comes back waits: for no longer than twice the deadline.
    settings = {"cluster__lease_ms": 4000, "cluster__deadline_ms": 2000, "session__grace_ms": 60_000}
    one, two = (start_node(redis, **settings) for _ in range(2))
    alice, bob = one.ws("alice"), two.ws("bob")
    # They cannot say anything before somebody else has made another secret.
    for node in (one, two):
        node.process.send_signal(signal.SIGSTOP)
    try:
        if loses == "its data":
            redis.cli("FLUSHALL")
        else:
            redis.kill()
            redis.start()
        three = start_node(redis, **settings)
        carol = three.ws("carol")
    finally:
        for node in (one, two):
            node.process.send_signal(signal.SIGCONT)
    for node in (one, two, three):
        wait_until(lambda node=node: any("another secret" in line for line in node.log), "the secrets to be known")
    wait_until(lambda: len(redis.cli("--scan", "--pattern", "starling:{s:*").split()) == 3, "sessions to be said again")
    # Each goes on on each of the others.
    for node in (three, two):
        alice = resumed(node, alice)
    for node in (one, three):
        bob = resumed(node, bob)
    for node in (two, one):
        carol = resumed(node, carol)
    # Those who come still later learn it too.
    four = start_node(redis, **settings)
    for client in (alice, bob, carol):
        resumed(four, client)


def test_a_node_that_starts_on_a_redis_that_has_lost_everything_leaves_time_to_those_who_know(start_redis, start_node):  # noqa: F811
    redis = start_redis()  # noqa: F811
    settings = {"cluster__lease_ms": 4000, "cluster__deadline_ms": 2000, "session__grace_ms": 60_000}
    one, two = (start_node(redis, **settings) for _ in range(2))
    alice, bob, villain = one.ws("alice", "den"), two.ws("bob", "den"), one.ws("villain", "den")
    alice.say("den", *(f"m{n}" for n in range(5)))
    assert alice.call("ban", room="den", target="villain")["type"] == "ack"
    bob.expect("presence", event="leave", nickname="villain")
    for node in (one, two):
        node.process.send_signal(signal.SIGSTOP)
    redis.kill()
    redis.start()
    begun = []

    def begin():
        three = start_node(redis, **settings)
        begun.extend([three, three.ws("late", "den")])

    starting = threading.Thread(target=begin)
    starting.start()
    wait_until(lambda: redis.cli("EXISTS", "starling:{nodes}:line") == "1", "it to have looked")
    starting.join(0.5)
    is_waiting = starting.is_alive()
    for node in (one, two):
        node.process.send_signal(signal.SIGCONT)
    starting.join()
    assert is_waiting
    three, late = begun
    late.refused(409, "nickname_in_use", "nick", nickname="alice")
    assert [m["content"] for m in late.call("history", room="den")["messages"]] == [f"m{n}" for n in range(5)]
    # His node looks for what is lost a little longer.
    wait_until(lambda: villain.call("join", room="den")["reason"] == "banned", "the ban to be known")
    alice = resumed(three, alice)
    assert wait_until(lambda: members(late, "den") >= {("alice", "host", True), ("late", "member", True)}, "she to be there")
    # It has begun anew, and not again and again.
    assert sum(renewed(node) for node in (one, two, three)) <= 3


def renewed(node):
    [line] = [line for line in node.get("/metrics").body.decode().splitlines() if line.startswith("starling_rooms_renewed_total ")]
    return float(line.split()[1])


def shut_out(redis, node, user):  # noqa: F811
    redis.cli("ACL", "SETUSER", user, "off")
    redis.cli("CLIENT", "KILL", "USER", user)
    wait_until(lambda: node.get("/ready").status == 503, "the node to be cut off")


@pytest.fixture
def pair(redis, start_node):  # noqa: F811
    """Two nodes, of which one can be cut off by what its user may do."""
    for name in "ab":
        redis.cli("ACL", "SETUSER", name, "on", ">pw", "~*", "&*", "+@all")
    return [start_node(f"redis://{name}:pw@127.0.0.1:{redis.port}", session__grace_ms=30_000, auth__api_keys=ADMIN) for name in "ab"]


@pytest.mark.parametrize("end", ["quit", "deleted"])
def test_a_session_that_has_ended_elsewhere_does_not_come_back_with_its_node(pair, redis, end):  # noqa: F811
    one, two = pair
    host, alice, carol = two.ws("host", "den"), one.ws("alice", "den"), one.ws("carol", "den")
    redis.wait_until_kept("den", "alice", "carol")
    shut_out(redis, one, "a")
    host.expect("presence", event="away", nickname="carol", deadline=Deadline(30))
    again = resumed(two, alice)
    if end == "quit":
        again.call("quit")
    else:
        assert two.http(PUT_OUT.format("alice").encode()).status == 204
    host.expect("presence", event="leave", nickname="alice")
    host.until_told("den")
    redis.cli("ACL", "SETUSER", "a", "on")
    # Whoever resumed came later: the connection here is not to come back either.
    bye = alice.expect("bye", deadline=Deadline(30))
    assert (bye["code"], bye["resumable"]) == (4103, False)
    wait_until(lambda: one.get("/ready").status == 200, "the node to be back")
    host.expect("presence", event="back", nickname="carol")
    for number, node in enumerate((one, two)):
        welcome = node.ws().call("hello", resume=alice.welcome["resume"], nickname=f"other{number}")
        assert (welcome["type"], welcome["resumed"]) == ("welcome", False), welcome
    everybody = {("host", "host", True), ("carol", "member", True)}
    assert members(host, "den") == members(carol, "den") == everybody
    assert "alice" not in [event.get("nickname") for event in losses(host)]
    another = one.ws()
    wait_until(lambda: another.call("hello", nickname="alice")["type"] == "welcome", "the nickname to be free")


def test_what_a_killed_node_has_left_is_there_for_one_that_starts_later(redis, start_node):  # noqa: F811
    settings = {"session__grace_ms": 30_000, "auth__api_keys": ADMIN}
    one = start_node(redis, **settings)
    alice, bob, carol = (one.ws(name, "den") for name in ["alice", "bob", "carol"])
    alice.say("den", "before")
    epoch = alice.call("history", room="den")["epoch"]
    redis.wait_until_kept("den", "alice", "bob", "carol")
    one.kill()
    # Nobody is left who has seen it.
    later = start_node(redis, **settings)
    dan = later.ws("dan")
    # Before it counts as lost it may be alive for all that anybody knows.
    refusal = dan.refused(503, "unavailable", "private", target="alice", content="early")
    assert refusal["retryable"] is True
    again = later.ws()
    welcome = wait_until(lambda: (answer := again.call("hello", resume=alice.welcome["resume"]))["type"] == "welcome" and answer, "it to be lost")
    assert (welcome["nickname"], welcome["resumed"]) == ("alice", True)
    joined = again.call("join", room="den", since={"epoch": epoch, "offset": 0})
    assert (joined["recovered"], joined["role"]) == (True, "host")
    assert again.expect("message")["content"] == "before"
    wait_until(lambda: members(again, "den") == {("alice", "host", True), ("bob", "member", False), ("carol", "member", False)}, "the others to be away")
    # Who is back hears it, and who is not does not: nobody has anything that it could wait in.
    assert dan.call("private", target="alice", content="now")["delivered"] == 1
    assert again.expect("private")["content"] == "now"
    assert dan.refused(503, "unavailable", "private", target="carol", content="now")["retryable"] is True
    # An admin ends one that has not come back.
    assert later.http(PUT_OUT.format("bob").encode()).status == 204
    assert again.expect("presence", event="leave")["nickname"] == "bob"
    assert later.http(PUT_OUT.format("bob").encode()).status == 404
    welcome = later.ws().call("hello", resume=bob.welcome["resume"], nickname="bob")
    assert (welcome["type"], welcome["resumed"]) == ("welcome", False)
    dan.refused(404, "no_such_user", "private", target="zoe", content="now")
    back = resumed(later, carol)
    assert dan.call("private", target="carol", content="again")["delivered"] == 1
    assert back.expect("private")["content"] == "again"
    wait_until(lambda: members(again, "den") == {("alice", "host", True), ("carol", "member", True)}, "her room to know it")


def test_a_session_that_goes_from_node_to_node_is_never_nobody(redis, start_node):  # noqa: F811
    nodes = [start_node(redis) for _ in range(3)]
    mover = nodes[0].json_line("mover")
    answers, ends = collections.Counter(), threading.Event()

    def ask(client):
        while not ends.is_set():
            answer = client.call("private", target="mover", content="x")
            answers[answer.get("reason", answer["type"])] += 1

    askers = [node.json_line(f"asker{number}") for number, node in enumerate(nodes)]
    threads = [threading.Thread(target=ask, args=(client,), daemon=True) for client in askers]
    for thread in threads:
        thread.start()
    for number in range(60):
        before, mover = mover, nodes[(number + 1) % 3].json_line()
        mover.enter(None, resume=before.welcome["resume"])
        before.close()
    ends.set()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    assert answers["ack"] > 0 and set(answers) <= {"ack", "unavailable"}, answers


def test_a_node_that_does_not_answer_is_waited_for_once(redis, start_node):  # noqa: F811
    deadline_s = 1
    # A lease that is not over before all is done.
    settings = {"cluster__deadline_ms": deadline_s * 1000, "cluster__lease_ms": 60_000}
    one, two = (start_node(redis, **settings) for _ in range(2))
    alice = one.ws("alice")
    others = [two.ws(f"u{number}") for number in range(6)]
    two.process.send_signal(signal.SIGSTOP)
    try:
        asked_at = time.monotonic()
        for client in others:
            alice.refused(503, "unavailable", "private", target=client.nickname, content="x")
        assert time.monotonic() - asked_at < 3 * deadline_s, "the first alone is waited for"
    finally:
        two.process.send_signal(signal.SIGCONT)
    # What the node has not heard for so long it hears now, and says so.
    for client in others:
        wait_until(lambda client=client: alice.call("private", target=client.nickname, content="y")["type"] == "ack", "an answer")
