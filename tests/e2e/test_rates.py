"""Limits of the rate: whoever asks too much is told when to ask again, truly, and is closed when deaf to it."""

import time

import pytest
from websockets.exceptions import ConnectionClosed

from binary import CARRIERS
from helpers import DEADLINE_S, wait_until
from tokens import SETTINGS, enter

# The server counts whole milliseconds, of its clock and not of ours.
CLOCK_MS = 5


def start(start_server, **rates):
    return start_server(**{f"rate__{name}": value for name, value in rates.items()}, **SETTINGS)


def exhaust(client, limit, type="ping", **fields):
    """Sends until it is too much; returns the refusal, and how often it was not."""
    for count in range(limit + 1):
        reply = client.call(type, **fields)
        if reply["type"] == "error":
            assert (reply["code"], reply["reason"], reply["retryable"]) == (429, "rate_limited", True), reply
            assert reply["retry_after_ms"] > 0
            return reply, count
    raise AssertionError(f"{limit} commands passed")


def wait_as_told(refusal):
    # The subject of the test is that this wait is enough.
    time.sleep(refusal["retry_after_ms"] / 1000)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_commands_of_a_connection(start_server, carrier):
    server = start(start_server, commands_per_second=2, burst=6)
    client = CARRIERS[carrier](server).enter("alice", "den")
    refusal, passed = exhaust(client, 10)
    # The hello and the join have been counted too; one more may have been refilled meanwhile.
    assert passed in (4, 5)
    assert refusal["retry_after_ms"] <= 500, "the time that refills one command"
    wait_as_told(refusal)
    assert client.call("ping")["type"] == "pong", "the time told is enough"
    assert client.call("ping")["type"] == "error", "and buys one command"


def test_the_time_told_is_no_longer_than_needed(start_server):
    server = start(start_server, commands_per_second=2, burst=2)
    client = server.ws("alice")
    began = time.monotonic()
    refusal, _ = exhaust(client, 5)
    told_at = asked_at = time.monotonic()
    # Asking in vain costs nothing, and the time told gets shorter.
    while (reply := client.call("ping"))["type"] == "error":
        left_ms = refusal["retry_after_ms"] - (asked_at - told_at) * 1000
        assert reply["retry_after_ms"] <= left_ms + CLOCK_MS
        assert asked_at - told_at < DEADLINE_S
        asked_at = time.monotonic()
    assert (time.monotonic() - began) * 1000 >= refusal["retry_after_ms"] - CLOCK_MS, "nor too early"


def test_the_rate_holds_over_time(start_server):
    server = start(start_server, commands_per_second=200, burst=50)
    client = server.ws("alice")
    began, passed = time.monotonic(), 1
    while time.monotonic() - began < 1.5:
        reply = client.call("ping")
        if reply["type"] == "pong":
            passed += 1
        else:
            wait_as_told(reply)
    most = 50 + 200 * (time.monotonic() - began) + 2
    assert most * 0.5 < passed <= most


def test_the_default_is_a_hundred_a_second_after_two_hundred(start_server):
    server = start_server(rate__commands_per_second=100)
    client = server.ws("alice")
    began = time.monotonic()
    _, passed = exhaust(client, 2000)
    assert 199 <= passed <= 200 + 100 * (time.monotonic() - began)


def test_commands_without_an_id_are_refused_too(start_server):
    server = start(start_server, commands_per_second=1, burst=3)
    client = server.ws("alice", "den")
    for number in range(20):
        client.send("message", room="den", content=str(number))
    errors = [client.expect("error") for _ in range(19)]
    assert all(error["code"] == 429 and "id" not in error for error in errors)
    assert client.expect("message")["content"] == "0"


def test_people_are_told_too(start_server):
    server = start(start_server, commands_per_second=1, burst=3)
    person = server.text_line()
    person.expect(r".*nickname.*")
    person.type("person")
    for _ in range(10):
        person.type("hello")
    person.expect(r"! 429 rate_limited: .+")


@pytest.mark.parametrize("carrier", CARRIERS)
def test_who_ignores_it_is_closed(start_server, carrier):
    server = start_server(rate__commands_per_second=1, rate__burst=3, limits__rate_ignored_ms=300)
    client = CARRIERS[carrier](server).enter("deaf", "den")
    began = time.monotonic()
    bye = None
    while bye is None and time.monotonic() - began < DEADLINE_S:
        try:
            client.send("ping")
        except (ConnectionClosed, OSError):
            bye = client.expect("bye")
        else:
            event = client.next()
            bye = event if event["type"] == "bye" else None
    assert (bye["code"], bye["reason"], bye["resumable"]) == (4202, "rate_limited", True)
    assert (time.monotonic() - began) * 1000 >= 300 - CLOCK_MS


def test_who_heeds_it_stays(start_server):
    server = start_server(rate__commands_per_second=5, rate__burst=3, limits__rate_ignored_ms=400)
    client = server.ws("polite")
    began = time.monotonic()
    while time.monotonic() - began < 3:
        refusal, _ = exhaust(client, 10)
        # A pause after which the refusals before count as heeded.
        time.sleep(1.1)
    assert client.call("ping")["type"] == "pong"


def test_bytes(start_server):
    server = start(start_server, bytes_per_second=10_000, bytes_burst=20_000)
    client = server.ws("alice", "den")
    client.say("den", "x" * 15_000)
    error = client.refused(429, "rate_limited", "message", room="den", content="y" * 15_000)
    assert 500 <= error["retry_after_ms"] <= 1500, "about 10,000 bytes are missing"
    wait_as_told(error)
    assert client.say("den", "y" * 15_000)[0]["offset"] == 2
    assert server.ws("bob").call("join", room="den")["type"] == "joined"


def test_joins(start_server):
    server = start(start_server, joins_per_second=2, joins_burst=3)
    client = server.ws("alice", "a", "b", "c")
    error = client.refused(429, "rate_limited", "join", room="d")
    assert 0 < error["retry_after_ms"] <= 500
    client.refused(429, "rate_limited", "switch", **{"from": "a", "to": "d"})
    client.say("a", "other commands pass")
    wait_as_told(error)
    assert client.call("join", room="d")["type"] == "joined"
    assert server.ws("bob", "a", "b", "c").nickname == "bob", "each connection has its own"


def test_all_sessions_of_a_user_together(start_server):
    server = start(start_server, user_commands_per_second=1, user_burst=10)
    one, two, three = (enter(CARRIERS[name](server), "dora") for name in ("ws", "proto_frame", "json_line"))
    passed = 0
    for client in (one, two, three) * 6:
        reply = client.call("ping")
        passed += reply["type"] == "pong"
        last = reply
    assert passed in (10, 11, 12) and last["code"] == 429
    assert server.ws("other").call("ping")["type"] == "pong"


def test_a_user_that_says_hello_again_has_the_same_bucket(start_server):
    server = start(start_server, user_commands_per_second=1, user_burst=5)
    client = enter(server.ws(), "dora")
    exhaust(client, 10)
    client = enter(server.ws(), "dora")
    _, passed = exhaust(client, 10)
    assert passed <= 1


def test_all_connections_of_an_address_together(start_server):
    server = start(start_server, address_commands_per_second=1, address_burst=12)
    one, two = server.ws("one"), server.json_line("two")
    passed = 2
    for client in (one, two) * 10:
        reply = client.call("ping")
        passed += reply["type"] == "pong"
    assert reply["code"] == 429 and 12 <= passed <= 14
    # The whole of 127.0.0.0/8 is this machine.
    elsewhere = server.ws_at("/ws", source_address=("127.0.0.2", 0))
    assert elsewhere.enter("three").call("ping")["type"] == "pong"


def test_messages_into_a_room(start_server):
    server = start(start_server, room_messages_per_second=2, room_burst=6)
    members = [server.ws(f"user{number}", "den", "hall") for number in range(4)]
    replies = [member.call("message", room="den", content="x") for member in members * 4]
    refused = [reply for reply in replies if reply["type"] == "error"]
    offsets = [reply["offset"] for reply in replies if reply["type"] == "ack"]
    assert 6 <= len(offsets) <= 8 and offsets == list(range(1, len(offsets) + 1)), "a refused message has no offset"
    assert all((error["code"], error["retryable"]) == (429, True) and error["retry_after_ms"] <= 500 for error in refused)
    members[0].say("hall", "another room has its own")
    wait_as_told(refused[-1])
    members[0].say("den", "again")


def test_a_refused_message_may_be_sent_again_under_its_id(start_server):
    server = start(start_server, room_messages_per_second=2, room_burst=1)
    alice = server.ws("alice", "den")
    alice.say("den", "1")
    error = alice.call("message", room="den", content="2", id="again")
    assert error["code"] == 429
    ack = wait_until(lambda: (reply := alice.call("message", room="den", content="2", id="again"))["type"] == "ack" and reply, "its turn")
    assert ack["offset"] == 2, "errors are not remembered"


def test_the_time_told_is_that_of_the_slowest_bucket(start_server):
    server = start(start_server, commands_per_second=10, burst=10, joins_per_second=1, joins_burst=2)
    client = server.ws("alice", "a", "b")
    exhaust(client, 20)
    # Both buckets are empty: the commands' is refilled much sooner.
    refusal = client.call("join", room="c")
    assert refusal["code"] == 429 and refusal["retry_after_ms"] > 300, refusal
    wait_as_told(refusal)
    assert client.call("join", room="c")["type"] == "joined", "the time told is enough for the same command"


def test_what_a_room_refuses_tells_when_the_connection_may_ask_again(start_server):
    server = start(start_server, commands_per_second=2, burst=5, room_messages_per_second=20, room_burst=1)
    client = server.ws("alice", "den")
    assert client.call("message", room="den", content="1")["type"] == "ack"
    refused = [client.call("message", room="den", content="2") for _ in range(2)]
    assert all(reply["code"] == 429 for reply in refused), refused
    # The room would have it again after 50 ms, the connection only after up to 500.
    wait_as_told(refused[-1])
    assert client.call("message", room="den", content="2")["type"] == "ack"


def test_a_hello_in_the_query_costs_what_it_costs_anywhere(start_server):
    server = start(start_server, address_commands_per_second=1, address_burst=6)
    for number in range(3):  # a hello and a join each
        server.keep(server.ws_at(f"/ws?nickname=q{number}&room=den"))
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    request = (f"GET /ws?nickname=q3&room=den HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
               f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n").encode()
    response = server.http(request)
    error = response.error()
    assert (response.status, error["reason"]) == (429, "rate_limited")
    assert 1000 <= error["retry_after_ms"] <= 2000
    assert int(response.headers["retry-after"]) == -(-error["retry_after_ms"] // 1000)


def test_who_waits_as_it_is_told_and_finds_others_faster_stays(start_server):
    server = start_server(rate__room_messages_per_second=50, rate__room_burst=1, limits__rate_ignored_ms=1000, **SETTINGS)
    patient, greedy = server.ws("patient", "den"), server.ws("greedy", "den")
    refusals = 0
    ends_at = time.monotonic() + 3
    while time.monotonic() < ends_at:
        # The greedy one takes what there is; the patient one waits as long as it was told, and is late all the same.
        greedy.call("message", room="den", content="mine")
        reply = patient.call("message", room="den", content="and mine?")
        if reply["type"] == "error":
            refusals += 1
            time.sleep(reply["retry_after_ms"] / 1000)
    assert refusals > 20 and patient.call("ping")["type"] == "pong"
