"""Clients that do not read what they are told: they cost nobody else anything, and what they missed is told again."""

import json
import pathlib
import re
import socket

import pytest

from binary import CARRIERS
from helpers import Deadline, JsonLineClient, RawWebSocket, wait_until
from tokens import SETTINGS, enter

PAGE_BYTES = 200_000


def resident_bytes(server):
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


def fill(server, room, messages=20):
    """A member of a room with a history of large pages."""
    member = server.ws("keeper", room)
    member.say(room, *("x" * (PAGE_BYTES // messages) for _ in range(messages)))
    return member


def test_who_asks_without_reading_is_not_read_from_either(server):
    fill(server, "den")
    bystander = server.json_line("bystander")
    before = resident_bytes(server)
    command = json.dumps({"type": "history", "room": "den"}).encode() + b"\n"
    flooders = []
    for number in range(5):
        flooder = server.keep(JsonLineClient(server.line, receive_buffer_bytes=4096)).enter(f"flooder{number}")
        flooder.raw.send(command * 500)
        flooders.append(flooder)
    for _ in range(50):
        assert bystander.call("ping")["type"] == "pong"
    # All the answers together would be 500 MB; what is held is bounded a connection, and the kernel's is not the server's.
    assert resident_bytes(server) - before < 32_000_000
    # Whoever begins to read gets every answer, in order.
    for _ in range(500):
        assert len(flooders[0].expect("history", deadline=Deadline(60))["messages"]) == 20


def test_pipelined_pages_are_no_reason_to_be_closed(server):
    fill(server, "den")
    client = server.ws("alice")
    for number in range(40):
        client.send("history", room="den", id=f"page-{number}")
    for number in range(40):
        assert client.expect(id=f"page-{number}")["type"] == "history"


def test_who_takes_no_answers_is_closed_in_the_end(start_server):
    server = start_server(heartbeat__probe_ms=300, heartbeat__timeout_ms=900)
    keeper = fill(server, "den")
    # People are not probed, but must not stay for ever.
    text = server.keep(server.text_line("person"))
    text.raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    text.type("/join den")
    text.expect(r"\* joined den.*")
    text.raw.send(b"/history 1000\n" * 200)
    keeper.expect("presence", event="leave", nickname="person")


@pytest.mark.parametrize("carrier", CARRIERS)
def test_private_messages_that_a_silent_client_did_not_read_come_again(start_server, carrier):
    server = start_server(heartbeat__probe_ms=200, heartbeat__timeout_ms=800)
    bob = server.ws("bob", "den")
    alice = server.keep(JsonLineClient(server.line)).enter("alice", "den")
    bob.expect("presence", event="join", nickname="alice")
    # Its kernel takes them; it never reads, nor answers.
    for number in range(5):
        assert bob.call("private", target="alice", content=f"p{number}")["delivered"] == 1
    while True:
        bob.call("ping")  # a sign of life of his own
        try:
            bob.expect("presence", event="away", nickname="alice", deadline=Deadline(0.2))
            break
        except AssertionError:
            pass
    assert bob.call("private", target="alice", content="p5")["stored"] is True
    back = CARRIERS[carrier](server).enter(None, resume=alice.welcome["resume"])
    told = [back.expect("private") for _ in range(6)]
    assert [event["content"] for event in told] == [f"p{number}" for number in range(6)]
    assert [event["offset"] for event in told] == list(range(1, 7))
    assert back.call("received", offset=6)["type"] == "ack"


def test_private_messages_that_were_unread_at_a_reset_come_again(server):
    bob = server.ws("bob", "den")
    alice = server.keep(JsonLineClient(server.line)).enter("alice", "den")
    for number in range(20):
        assert bob.call("private", target="alice", content=f"p{number}")["delivered"] == 1
    alice.drop()
    bob.expect("presence", event="away", nickname="alice")
    back = server.ws(None)
    back.enter(None, resume=alice.welcome["resume"])
    assert [back.expect("private")["content"] for _ in range(20)] == [f"p{number}" for number in range(20)]


def test_private_messages_that_were_read_and_answered_do_not_come_again(server):
    bob = server.ws("bob", "den")
    alice = server.ws("alice", "den")
    for number in range(3):
        bob.call("private", target="alice", content=f"p{number}")
        told = alice.expect("private")
        assert told["content"] == f"p{number}"
    # The server counts milliseconds: what it hears last is to be later than what it told last.
    wait_until(lambda: alice.call("ping")["timestamp"] > told["timestamp"] + 1, "a later word")
    alice.drop()
    bob.expect("presence", event="away", nickname="alice")
    back = server.ws(None)
    back.enter(None, resume=alice.welcome["resume"])
    assert [event for event in back.until_pong() if event["type"] == "private"] == []


def test_a_full_inbox_is_told_in_portions_that_its_owner_can_take(start_server):
    server = start_server(limits__send_queue_bytes=500_000)
    bob = server.ws("bob", "den")
    alice = server.ws("alice", "den")
    alice.drop()
    bob.expect("presence", event="away", nickname="alice")
    # Each takes six times as much as JSON.
    kept = 0
    while (reply := bob.call("private", target="alice", content=f"{kept}" + "\x01" * 20_000))["type"] == "ack":
        kept += 1
    assert kept > 20 and reply["code"] == 503
    back = server.keep(JsonLineClient(server.line, receive_buffer_bytes=4096)).enter(None, resume=alice.welcome["resume"])
    for number in range(kept):
        assert back.expect("private")["offset"] == number + 1
    assert back.call("received", offset=kept)["type"] == "ack"
    assert bob.call("private", target="alice", content="live")["delivered"] == 1
    assert back.expect("private")["content"] == "live"


def test_broadcasts_leave_places_for_private_messages(start_server):
    server = start_server(limits__private_kept=10, **SETTINGS)
    ops = enter(server.ws(), "ops", admin=True)
    alice = server.ws("alice", "den")
    bob = server.ws("bob", "den")
    alice.drop()
    bob.expect("presence", event="away", nickname="alice")
    for number in range(20):
        assert ops.call("broadcast", content=f"b{number}")["type"] == "ack"
    for number in range(5):
        assert bob.call("private", target="alice", content=f"p{number}")["stored"] is True
    back = server.ws(None)
    back.enter(None, resume=alice.welcome["resume"])
    events = back.until_pong()
    assert [event["content"] for event in events if event["type"] == "system"] == [f"b{number}" for number in range(5)]
    assert [event["content"] for event in events if event["type"] == "private"] == [f"p{number}" for number in range(5)]


def test_private_messages_are_refused_before_more_is_in_doubt_than_can_be_kept(start_server):
    server = start_server(limits__private_kept=100)
    bob = server.ws("bob", "den")
    alice = server.keep(JsonLineClient(server.line)).enter("alice", "den")
    # Alice's system takes all of it, but she neither reads nor answers.
    delivered = 0
    while (reply := bob.call("private", target="alice", content=f"{delivered}"))["type"] == "ack":
        assert reply["delivered"] == 1
        delivered += 1
    assert (delivered, reply["code"], reply["retryable"]) == (100, 503, True)
    alice.drop()
    bob.expect("presence", event="away", nickname="alice")
    back = server.ws(None)
    back.enter(None, resume=alice.welcome["resume"])
    assert [back.expect("private")["content"] for _ in range(delivered)] == [f"{number}" for number in range(delivered)]


def test_whoever_reads_hears_any_number_of_private_messages(start_server):
    server = start_server(limits__private_kept=100)
    bob = server.ws("bob", "den")
    alice = server.ws("alice", "den")  # reads, and says nothing by herself: her library answers pings
    for number in range(1000):
        assert bob.call("private", target="alice", content=f"{number}")["delivered"] == 1
        assert alice.expect("private")["content"] == f"{number}"


def test_a_slow_consumer_loses_no_private_message(start_server):
    server = start_server(limits__send_queue_bytes=20_000, limits__private_kept=2000)
    bob = server.ws("bob", "den")
    alice = server.keep(JsonLineClient(server.line, receive_buffer_bytes=4096)).enter("alice", "den")
    said = 0
    # Until the first that finds her away; what was delivered before may lie in any buffer.
    while (reply := bob.call("private", target="alice", content=f"{said} " + "x" * 5000)) and reply.get("delivered") == 1:
        said += 1
    if reply["type"] == "ack":
        said += 1
    back = server.ws(None)
    heard = set()
    try:
        while True:
            event = alice.receive(Deadline(2))
            if event["type"] == "private":
                heard.add(int(event["content"].split()[0]))
    except (EOFError, ConnectionError, TimeoutError):
        pass
    back.enter(None, resume=alice.welcome["resume"])
    while len(heard) < said:
        heard.add(int(back.expect("private")["content"].split()[0]))
    assert heard == set(range(said))


def test_who_never_says_that_it_has_received_does_not_collect_without_end(start_server):
    server = start_server(limits__private_kept=50)
    bob = server.ws("bob", "den")
    resume, accepted = None, 0
    for _ in range(6):
        alice = server.keep(JsonLineClient(server.line))
        alice.enter("alice") if resume is None else alice.enter(None, resume=resume)
        alice.call("join", room="den")
        resume = alice.welcome["resume"]
        while bob.call("private", target="alice", content=f"{accepted}")["type"] == "ack":
            accepted += 1
        alice.drop()
        bob.expect("presence", event="away", nickname="alice")
    assert accepted <= 100, "as much as is kept, and as much again in doubt"
    back = server.ws(None)
    back.enter(None, resume=resume)
    assert [back.expect("private")["content"] for _ in range(accepted)] == [f"{number}" for number in range(accepted)]
    back.call("received", offset=accepted)
    assert bob.call("private", target="alice", content="at last")["delivered"] == 1


@pytest.mark.parametrize("carrier", ["line", "ws"])
def test_an_answer_to_a_ping_says_nothing_of_what_came_after_the_ping(start_server, carrier):
    server = start_server(limits__private_kept=40)
    bob = server.ws("bob", "den")
    if carrier == "line":
        alice = server.keep(JsonLineClient(server.line)).enter("alice", "den")
        resume, raw = alice.welcome["resume"], alice.raw
        next_ping = lambda deadline=None: alice.expect("ping", deadline)
        answer = lambda _: alice.send("pong")
    else:
        alice = RawWebSocket(server)
        alice.send("hello", nickname="alice")
        resume, raw = alice.expect("welcome")["resume"], alice.raw
        next_ping = lambda deadline=None: alice.expect_frame(alice.PING, deadline)
        answer = lambda payload: alice.send_frame(alice.PONG, payload)
    # The tenth asks for a sign of life.
    for number in range(20):
        assert bob.call("private", target="alice", content=f"p{number}")["delivered"] == 1
    answer(next_ping())
    # The ten that the answer says nothing of are enough to be asked again for, by the next one after the answer.
    said, deadline = 20, Deadline()
    while deadline.left() > 0:
        assert bob.call("private", target="alice", content=f"p{said}")["delivered"] == 1
        said += 1
        try:
            next_ping(Deadline(0.1))
            break
        except (AssertionError, TimeoutError):
            pass
    raw.drop()
    wait_until(lambda: bob.call("private", target="alice", content="away").get("stored"), "alice to be away")
    back = server.ws(None)
    back.enter(None, resume=resume)
    again = [event["content"] for event in back.until_pong() if event["type"] == "private"]
    assert [content for content in again if content != "away"] == [f"p{number}" for number in range(10, said)]


def test_who_was_put_out_hears_that_before_the_room_that_is_entered_again(start_server):
    server = start_server(limits__private_kept_bytes=1 << 24, rate__commands_per_second=0)
    bob = server.ws("bob", "den")  # its host
    alice = server.json_line("alice", "den")
    alice.drop()
    bob.expect("presence", event="away", nickname="alice")
    # More than goes into buffers on the way, so that what comes behind it waits.
    messages = 300
    for n in range(messages):
        bob.send("private", target="alice", content=f"{n}:" + "x" * 30_000, id=str(n))
    for _ in range(messages):
        assert bob.expect("ack")["stored"] is True
    assert bob.call("kick", room="den", target="alice")["type"] == "ack"
    again = server.keep(JsonLineClient(server.line, receive_buffer_bytes=4096))
    again.send("hello", resume=alice.welcome["resume"])
    again.send("join", room="den", id="j")
    bob.expect("presence", event="join", nickname="alice")
    heard = []
    while sum(event["type"] == "private" for event in heard) < messages or "joined" not in [e["type"] for e in heard]:
        heard.append(again.next())
    heard += again.until_pong()
    words = [event["type"] for event in heard if event["type"] in ("left", "joined")]
    assert words == ["left", "joined"], words
