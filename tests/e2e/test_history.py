"""What a room remembers, and when it forgets."""

import json
import re

import pytest

from binary import CARRIERS
from helpers import wait_until


def offsets(reply, key="messages"):
    return [message["offset"] for message in reply[key]]


def history(client, room="den", **options):
    reply = client.call("history", room=room, **options)
    assert reply["type"] == "history", reply
    return offsets(reply)


def is_gone(client, room):
    return client.call("history", room=room).get("reason") == "no_such_room"


@pytest.fixture
def alice(server):
    return server.ws("alice", "den")


# Pages.


@pytest.mark.parametrize("options, expected", [
    ({}, range(11, 61)), ({"limit": 3}, range(58, 61)), ({"before": 10, "limit": 3}, range(7, 10)), ({"before": 4}, range(1, 4)),
    ({"after": 10, "limit": 3}, range(11, 14)), ({"after": 57}, range(58, 61)), ({"after": 10, "before": 14}, range(11, 14)),
    ({"after": 10, "before": 14, "limit": 2}, range(11, 13)), ({"after": 10, "before": 11}, []), ({"after": 20, "before": 10}, []),
    ({"after": 60}, []), ({"after": 2**63}, []), ({"before": 1}, []), ({"before": 0}, []), ({"after": 0, "limit": 2}, range(1, 3)),
    ({"before": 2**63, "limit": 2}, range(59, 61)), ({"limit": 1000}, range(1, 61)), ({"limit": 4_000_000_000}, range(1, 61)),
])
def test_pages(alice, options, expected):
    alice.say("den", *map(str, range(1, 61)))
    assert history(alice, **options) == list(expected)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_page_tells_what_was_heard(server, alice, carrier):
    said = ["one", "two\nlines", "餃子 🦆 \u0000\u0007\u2028", "x" * 10_000]
    acks = alice.say("den", *said)
    reader = CARRIERS[carrier](server).enter("reader")
    page = reader.call("history", room="DEN")
    assert (page["type"], page["room"], page["epoch"]) == ("history", "den", acks[0]["epoch"])
    assert page["messages"] == [
        {"sender": "alice", "content": content, "offset": ack["offset"], "timestamp": ack["timestamp"]}
        for content, ack in zip(said, acks)
    ]


def test_a_page_has_at_most_a_thousand_messages(start_server):
    server = start_server(history__count=2000)
    alice = server.ws("alice")
    alice.call("join", room="den", echo=False)
    for number in range(1100):
        alice.send("message", room="den", content=str(number))
    alice.until_pong()
    assert history(alice, limit=5000) == list(range(101, 1101))
    assert history(alice, after=0, limit=5000) == list(range(1, 1001))


def test_everybody_may_read_what_a_room_remembers(server, alice):
    alice.say("den", "hello")
    stranger = server.json_line("stranger")
    assert history(stranger) == [1]
    stranger.refused(404, "no_such_room", "history", room="nowhere")
    server.ws().refused(401, "unauthenticated", "history", room="den")


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_join_brings_the_last_messages(server, alice, carrier):
    alice.say("den", *map(str, range(1, 11)))
    bob = CARRIERS[carrier](server).enter("bob")
    joined = bob.call("join", room="den", history=3)
    assert (offsets(joined), joined["offset"]) == ([8, 9, 10], 10)
    alice.say("den", "live")
    assert bob.expect("message")["offset"] == 11
    bob.call("leave", room="den")
    assert offsets(bob.call("join", room="den", history=2000)) == list(range(1, 12))


def test_a_switch_brings_them_too(server, alice):
    alice.say("den", "1", "2")
    bob = server.ws("bob", "hall")
    assert offsets(bob.call("switch", **{"from": "hall", "to": "den", "history": 1})) == [2]


def test_history_while_others_speak_has_no_seam(server, alice):
    """What a join brings and what comes after it are together all that was said, each once."""
    for number in range(300):
        alice.send("message", room="den", content=str(number))
    bob = server.ws("bob")
    joined = bob.call("join", room="den", history=1000)
    alice.until_pong()
    heard = offsets(joined) + [bob.expect("message")["offset"] for _ in range(joined["offset"], 300)]
    assert heard == list(range(1, 301))


def test_people_read_history_too(server, alice):
    alice.say("den", "one", "two", "three")
    person = server.text_line("person")
    person.type("/join den")
    person.type("/history 2")
    lines = person.until_pong()
    assert [line for line in lines if "one" in line] == []
    assert [word for line in lines for word in ("two", "three") if line.endswith(f"alice: {word}")] == ["two", "three"]


# Bounds.


def test_as_many_messages_as_configured(start_server):
    server = start_server(history__count=5)
    alice = server.ws("alice", "den")
    acks = alice.say("den", *map(str, range(1, 13)))
    assert [ack["offset"] for ack in acks] == list(range(1, 13)), "offsets count on"
    assert history(alice) == [8, 9, 10, 11, 12]
    assert history(alice, after=1, limit=2) == [8, 9]
    assert history(alice, before=9) == [8]


def test_as_many_bytes_as_configured(start_server):
    server = start_server(store__kind="memory", history__bytes=10_000)
    alice = server.ws("alice", "den")
    alice.say("den", *["x" * 1000] * 30)
    held = history(alice)
    assert held == list(range(31 - len(held), 31)) and 5 <= len(held) <= 10
    alice.say("den", "y" * 9000)
    assert history(alice) == [31]
    alice.say("den", "z" * 20_000)
    assert history(alice) == [], "a message over the bound is not remembered"


def test_for_as_long_as_configured(start_server):
    server = start_server(history__age_s=1)
    alice = server.ws("alice", "den")
    first = alice.say("den", "1", "2")[0]
    assert history(alice) == [1, 2]
    wait_until(lambda: history(alice) == [], "the messages to be forgotten")
    now = alice.call("ping")["timestamp"]
    assert now - first["timestamp"] >= 1000, "and not sooner"
    assert alice.say("den", "3")[0]["offset"] == 3
    assert alice.call("history", room="den")["epoch"] == first["epoch"], "members keep the room"


def test_bounds_of_rooms_by_their_names(start_server):
    rules = [{"pattern": "ops-*", "count": 2}, {"pattern": "*-x", "count": 0}, {"pattern": "big", "bytes": 1000}]
    written = ", ".join("{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in rule.items()) + "}" for rule in rules)
    server = start_server(store__kind="memory", history__count=4, history__rooms=f"[{written}]")
    rooms = {"ops-eu": [9, 10], "OPS-us": [9, 10], "ops-x": [9, 10], "den-x": [], "den": [7, 8, 9, 10], "big": None}
    alice = server.ws("alice", *rooms)
    for room, expected in rooms.items():
        alice.say(room, *["x" * 400] * 10)
        held = history(alice, room=room)
        assert held == expected or room == "big" and held in ([9, 10], [10]), room


def test_all_rooms_together_are_bounded(start_server):
    server = start_server(store__kind="memory", history__memory_bytes=200_000)
    alice = server.ws("alice")
    for number in range(40):
        alice.call("join", room=f"room-{number}")
        alice.say(f"room-{number}", "x" * 20_000)
        alice.call("leave", room=f"room-{number}")
    rooms = [room["room"] for room in alice.call("rooms", limit=1000)["rooms"]]
    assert len(rooms) <= 10 and "room-39" in rooms, rooms


def test_all_rooms_together_are_bounded_in_memory_with_a_store_too(start_server):
    server = start_server(store__kind="sqlite", history__memory_bytes=200_000)
    alice = server.ws("alice")
    # A message that is not stored yet stays; once it is, the bound counts for it too, though nothing more comes in its room.
    for number in range(40):
        alice.call("join", room=f"room-{number}")
        alice.say(f"room-{number}", "x" * 20_000)
        alice.call("leave", room=f"room-{number}")

    def kept():
        return int(re.search(rb'starling_memory_bytes{class="histories"} (\d+)', server.get("/metrics").body)[1])

    wait_until(lambda: kept() <= 200_000, "the bound")
    assert [history(alice, room=f"room-{number}") for number in range(40)] == [[1]] * 40


# Rooms without members.


def test_a_room_with_history_outlives_its_members(server, alice):
    epoch = alice.say("den", "remember me")[0]["epoch"]
    alice.call("quit")
    bob = server.ws("bob")
    assert history(bob) == [1]
    assert [(room["room"], room["members"], room["offset"]) for room in bob.call("rooms")["rooms"]] == [("den", 0, 1)]
    joined = bob.call("join", room="den")
    assert (joined["epoch"], joined["offset"], joined["role"], joined["members"]) == (epoch, 1, "host", 1)


def test_a_room_without_history_goes_with_its_last_member(server, alice):
    epoch = alice.call("history", room="den")["epoch"]
    alice.call("leave", room="den")
    assert is_gone(alice, "den")
    joined = alice.call("join", room="Den", since={"epoch": epoch, "offset": 0})
    assert (joined["room"], joined["offset"], joined["recovered"]) == ("Den", 0, False)
    assert joined["epoch"] != epoch


@pytest.mark.parametrize("settings", [{"history__count": 0}, {"history__age_s": 1}])
def test_when_the_history_goes_the_room_does(start_server, settings):
    server = start_server(**settings)
    alice = server.ws("alice", "den")
    epoch = alice.say("den", "1", "2", "3")[0]["epoch"]
    alice.call("leave", room="den")
    wait_until(lambda: is_gone(alice, "den"), "the room to go")
    assert alice.call("rooms")["rooms"] == []
    joined = alice.call("join", room="den", since={"epoch": epoch, "offset": 3})
    assert (joined["offset"], joined["recovered"], joined["role"]) == (0, False, "host")
    assert joined["epoch"] != epoch
    assert alice.say("den", "again")[0]["offset"] == 1
