"""POST /api/rooms/{room}/messages: messages from programs that are in no room."""

import http.client
import json
import pathlib
import re
import shutil
import subprocess
import threading
import time
from urllib.parse import quote

import pytest

from binary import CARRIERS
from helpers import binary, cores, run, wait_until
from tokens import SETTINGS, enter, token

KEY = "the key of a program"
KEYS = {"auth__api_keys": f'[{{ name = "ci", key = "{KEY}" }}, {{ name = "root", key = "another", admin = true }}]'}
WITH_KEY = f"X-API-Key: {KEY}"


@pytest.fixture
def server(start_server):
    return start_server(**SETTINGS, **KEYS)


def post(room, content, *headers, credentials=WITH_KEY, version="1.1"):
    """The bytes of a request; `content` may be a whole body."""
    body = content if isinstance(content, bytes) else json.dumps({"content": content}).encode()
    lines = [f"POST /api/rooms/{quote(room)}/messages HTTP/{version}", "Host: test", f"Content-Length: {len(body)}", *headers]
    lines += [credentials] if credentials else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def bearer(nickname, **claims):
    return f"Authorization: Bearer {token(nickname, **claims)}"


def place(response):
    assert response.status == 200, response
    assert response.headers["content-type"] == "application/json"
    place = json.loads(response.body)
    assert set(place) == {"epoch", "offset", "timestamp"}
    return place


def refused(response, status, reason):
    assert response.status == status, response
    error = response.error()
    assert (error["code"], error["reason"]) == (status, reason), error
    return error


# What is published.


def test_every_member_hears_it_under_its_offset(server):
    # Rooms of this number have homes on all cores, and connections land on any.
    rooms = [f"room-{number}" for number in range(2 * cores() + 2)]
    members = [CARRIERS[name](server) for name in CARRIERS] + [server.ws() for _ in range(3)]
    for number, member in enumerate(members):
        enter(member, f"user{number}", *rooms)
    clients = [server.connect() for _ in range(4)]
    places = {room: [] for room in rooms}
    for number in range(10):
        for room in rooms:
            client = clients[number % len(clients)]
            client.send(post(room, f"{room} {number} ü\n\"", credentials=[WITH_KEY, bearer("pusher")][number % 2]))
            places[room].append(place(client.response()))
    for room in rooms:
        assert [place["offset"] for place in places[room]] == list(range(1, 11))
        assert len({place["epoch"] for place in places[room]}) == 1
        for member in members:
            heard = [member.expect("message", room=room) for _ in range(10)]
            assert [event["offset"] for event in heard] == list(range(1, 11))
            assert [event["content"] for event in heard] == [f"{room} {number} ü\n\"" for number in range(10)]
            assert [event["sender"] for event in heard] == ["ci", "pusher"] * 5
            assert [event["timestamp"] for event in heard] == [place["timestamp"] for place in places[room]]


def test_members_and_programs_share_one_order(server):
    alice, bob = enter(server.ws(), "alice", "den"), enter(server.json_line(), "bob", "den")
    alice.say("den", "one")
    assert place(server.http(post("den", "two")))["offset"] == 2
    alice.say("den", "three")
    for member in (alice, bob):
        assert [member.expect("message")["content"] for _ in range(3)] == ["one", "two", "three"]
    assert not any(event["type"] == "presence" and event["nickname"] == "ci" for event in bob.until_pong())


def test_curl_publishes_with_a_token(server):
    alice = enter(server.ws(), "alice", "den")
    command = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "10", "-H", bearer("ops"), "--json",
               '{"content":"build 42 is green"}', server.url("/api/rooms/den/messages", "http")]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=20).stdout)
    assert answer["offset"] == 1
    assert alice.expect("message") == {"type": "message", "room": "den", "sender": "ops", "content": "build 42 is green",
                                       "offset": 1, "timestamp": answer["timestamp"]}


def test_a_missing_room_is_made_and_remembers(server):
    first = place(server.http(post("Nest", "early")))
    assert first["offset"] == 1
    assert place(server.http(post("nest", "bird")))["epoch"] == first["epoch"]
    alice = enter(server.ws(), "alice")
    assert alice.call("rooms")["rooms"] == [{"room": "Nest", "members": 0, "offset": 2}]
    joined = alice.call("join", room="NEST", history=5)
    assert (joined["room"], joined["epoch"], joined["offset"], joined["members"]) == ("Nest", first["epoch"], 2, 1)
    assert [message["content"] for message in joined["messages"]] == ["early", "bird"]


def test_a_room_without_history_is_forgotten_at_once(start_server):
    server = start_server(history__count=0, **KEYS)
    first, second = (place(server.http(post("den", "x"))) for _ in range(2))
    assert first["offset"] == second["offset"] == 1 and first["epoch"] != second["epoch"]
    assert server.ws("alice").call("rooms")["rooms"] == []


def test_old_messages_of_a_room_without_members_expire(start_server):
    server = start_server(history__age_s=1, **KEYS)
    alice = server.ws("alice")
    for _ in range(5):
        place(server.http(post("den", "x")))
    assert len(alice.call("rooms")["rooms"]) == 1
    wait_until(lambda: alice.call("rooms")["rooms"] == [], "the room to be forgotten")


def test_rooms_are_bounded(start_server):
    # Each core has its own number: with one room a core, more names than cores make place for each other.
    server = start_server(limits__rooms=1, history__memory_bytes=4000, **KEYS)
    for number in range(40):
        place(server.http(post(f"den{number}", "x" * 500)))
    assert len(server.ws("alice").call("rooms")["rooms"]) <= cores()


def test_histories_of_pushes_are_bounded(start_server):
    server = start_server(history__memory_bytes=8000 * cores(), **KEYS)
    for number in range(30):
        place(server.http(post("den", "x" * 1000)))
    place(server.http(post("den", "y" * 30_000)))
    place(server.http(post("den", "z")))


def test_a_full_server_says_so(start_server):
    server = start_server(limits__rooms=1, **KEYS)
    member = server.ws("alice")
    # Which core a room belongs to is not ours to say: with as many as this, some member is in a room of each.
    for number in range(16 * cores()):
        member.call("join", room=f"den{number}")
    statuses = [server.http(post(f"other{number}", "x")) for number in range(4 * cores())]
    error = refused(statuses[-1], 429, "too_many_rooms")
    assert not error["retryable"] and "retry-after" not in statuses[-1].headers


# The same again.


def test_the_same_key_publishes_once(server):
    alice = enter(server.ws(), "alice", "den", "hall")
    key = "Idempotency-Key: 8e03978e-40d5-43dd-bc93-6894a57f9324"
    first = place(server.http(post("den", "once", key)))
    for _ in range(3):
        # On another connection, perhaps of another core.
        assert place(server.http(post("DEN", "once", key))) == first
    assert place(server.http(post("hall", "another room", key)))["offset"] == 1
    assert place(server.http(post("den", "another sender", key, credentials=bearer("dora"))))["offset"] == 2
    assert place(server.http(post("den", "another key", "Idempotency-Key: b")))["offset"] == 3
    assert place(server.http(post("den", "no key", "Idempotency-Key:")))["offset"] == 4
    assert place(server.http(post("den", "no key", "Idempotency-Key:")))["offset"] == 5
    heard = [alice.expect("message", room="den")["content"] for _ in range(5)]
    assert heard == ["once", "another sender", "another key", "no key", "no key"]
    assert not any(event["type"] == "message" and event["room"] == "den" for event in alice.until_pong())


def test_the_same_key_at_once_publishes_once(server):
    clients = [server.connect() for _ in range(8)]
    for client in clients:
        client.send(post("den", "once", "Idempotency-Key: a") * 4)
    places = [place(client.response()) for client in clients for _ in range(4)]
    assert all(place == places[0] for place in places)


def test_errors_are_not_remembered(server):
    host = enter(server.ws(), "host", "den")
    enter(server.ws(), "dora", "den")
    host.call("mute", room="den", target="dora")
    request = post("den", "x", "Idempotency-Key: a", credentials=bearer("dora"))
    refused(server.http(request), 403, "muted")
    host.call("unmute", room="den", target="dora")
    assert place(server.http(request))["offset"] == 1


def test_keys_are_forgotten_the_oldest_first(start_server):
    server = start_server(limits__idempotency_keys=2, **KEYS)
    offsets = [place(server.http(post("den", "x", f"Idempotency-Key: {key}")))["offset"] for key in "abbacba"]
    assert offsets == [1, 2, 2, 1, 3, 2, 4], "c took the place of a"


def test_keys_are_forgotten_after_a_while(start_server):
    server = start_server(limits__idempotency_ms=200, **KEYS)
    request = post("den", "x", "Idempotency-Key: a")
    assert place(server.http(request))["offset"] == 1
    wait_until(lambda: place(server.http(request))["offset"] == 2, "the key to be forgotten")


# Errors.


@pytest.mark.parametrize("body, reason", [
    (b"", "bad_json"), (b"{", "bad_json"), (b"hello", "bad_json"), (b"content=hello", "bad_json"), (b'{"content":"x"} {}', "bad_json"),
    (b'["content"]', "bad_request"), (b"{}", "bad_request"), (b'{"content":5}', "bad_request"), (b'{"content":null}', "bad_request"),
    (b'{"content":""}', "bad_request"), (b'{"content":"a","content":"b"}', "bad_request"), (b'{"content":"\\ud800"}', "bad_request"),
    (b'{"content":"\xff"}', "bad_utf8"),
])
def test_bodies_that_are_none(server, body, reason):
    client = server.connect()
    client.send(post("den", body) + post("den", "after it"))
    refused(client.response(), 400, reason)
    assert place(client.response())["offset"] == 1, "the connection stays"


@pytest.mark.parametrize("body", [b'{"content":"x","room":"hall","type":"quit","more":[1,{}]}', b' {"content" : "x"}\r\n'])
def test_unknown_fields_are_ignored(server, body):
    assert place(server.http(post("den", body)))["offset"] == 1


@pytest.mark.parametrize("credentials, reason", [
    (None, "unauthenticated"), ("Authorization: Basic YTpi", "unauthenticated"), ("Authorization: Bearer", "bad_token"),
    ("Authorization: Bearer x.y.z", "bad_token"), ("X-API-Key: wrong", "bad_credentials"), ("X-API-Key:", "bad_credentials"),
    (f"Authorization: Bearer {KEY}", "bad_token"), (f"Authorization: {KEY}", "unauthenticated"), ("X-API-Key: ci", "bad_credentials"),
])
def test_who_does_not_show_who_it_is(server, credentials, reason):
    client = server.connect()
    client.send(post("den", "x", credentials=credentials) + post("den", "x"))
    response = client.response()
    refused(response, 401, reason)
    assert response.headers["www-authenticate"] == "Bearer"
    assert place(client.response())["offset"] == 1


def test_tokens_that_are_no_good(server):
    now = int(time.time())
    for claims, reason in [({"exp": now - 5}, "expired_token"), ({"nbf": now + 60}, "bad_token"), ({"aud": "others"}, "bad_token")]:
        refused(server.http(post("den", "x", credentials=bearer("dora", **claims))), 401, reason)
    refused(server.http(post("den", "x", credentials=bearer("no good"))), 401, "bad_token")


def test_a_token_that_expires_meanwhile(server):
    client = server.connect()
    request = post("den", "x", credentials=bearer("dora", exp=int(time.time()) + 2))
    client.send(request)
    place(client.response())

    def is_expired():
        client.send(request)
        response = client.response()
        return response.status == 401 and refused(response, 401, "expired_token")
    wait_until(is_expired, "the token to expire")


def test_a_connection_has_no_credentials_of_its_own(server):
    client = server.connect()
    client.send(post("den", "x") + post("den", "x", credentials=None) + post("den", "x", credentials=bearer("dora"))
                + post("den", "x", credentials="X-API-Key: another") + post("den", "x"))
    assert [client.response().status for _ in range(5)] == [200, 401, 200, 200, 200]
    alice = enter(server.ws(), "alice")
    messages = alice.call("history", room="den")["messages"]
    assert [message["sender"] for message in messages] == ["ci", "dora", "root", "ci"]


def test_without_keys_configured_none_is_good(start_server):
    server = start_server()
    refused(server.http(post("den", "x")), 401, "bad_credentials")
    refused(server.http(post("den", "x", credentials=bearer("dora"))), 401, "bad_token")


def test_the_name_of_a_key_must_be_a_nickname():
    ended = run([binary(), "serve", "--set", 'auth.api_keys=[{ name = "two words", key = "hush" }]'])
    assert ended.returncode != 0
    assert b"two words" in ended.stderr and b"hush" not in ended.stderr and ended.stderr.count(b"\n") <= 2, ended.stderr


def test_what_hosts_hold_against_a_nickname_holds_here_too(server):
    host = enter(server.ws(), "host", "den")
    for name in ("muted", "banned", "reader", "root"):
        enter(server.ws(), name, "den")
    assert host.call("mute", room="den", target="muted")["type"] == "ack"
    assert host.call("ban", room="den", target="banned")["type"] == "ack"
    assert host.call("role", room="den", target="reader", role="guest")["type"] == "ack"
    assert host.call("mute", room="den", target="root")["type"] == "ack"
    for name, reason in [("muted", "muted"), ("banned", "banned"), ("reader", "forbidden")]:
        refused(server.http(post("den", "x", credentials=bearer(name))), 403, reason)
    assert place(server.http(post("den", "x", credentials="X-API-Key: another")))["offset"] == 1, "an admin speaks everywhere"
    assert place(server.http(post("den", "x", credentials=bearer("banned", admin=True))))["offset"] == 2


def test_a_token_may_be_for_some_rooms(server):
    credentials = bearer("dora", rooms=["team-*"])
    assert place(server.http(post("team-1", "x", credentials=credentials)))["offset"] == 1
    refused(server.http(post("den", "x", credentials=credentials)), 403, "forbidden")


@pytest.mark.parametrize("room, is_good", [("Zürich_2.b-3", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("-a", False),
                                           ("a/b", False), ("🐦", False)])
def test_names_of_rooms_are_escaped(server, room, is_good):
    response = server.http(post("x", "x").replace(b"/rooms/x/", f"/rooms/{quote(room, safe='')}/".encode()))
    assert place(response)["offset"] == 1 if is_good else refused(response, 400, "bad_name")


@pytest.mark.parametrize("path", ["/api/rooms/%zz/messages", "/api/rooms/%ff/messages"])
def test_bad_escapes(server, path):
    refused(server.http(post("x", "x").replace(b"/api/rooms/x/messages", path.encode())), 400, "bad_name")


@pytest.mark.parametrize("path", ["/api", "/api/rooms/den", "/api/rooms//messages", "/api/rooms/den/messages/", "/api/rooms/a/b/messages"])
def test_other_paths_are_404(server, path):
    refused(server.http(post("x", "x").replace(b"/api/rooms/x/messages", path.encode())), 404, "not_found")


def test_other_methods_are_405(server):
    client = server.connect()
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        client.send(post("den", "x").replace(b"POST", method.encode(), 1))
        response = client.response()
        refused(response, 405, "bad_request")
        assert response.headers["allow"] == "POST, OPTIONS"
    client.send(b"HEAD /api/rooms/den/messages HTTP/1.1\r\nHost: test\r\n\r\nOPTIONS /api/rooms/den/messages HTTP/1.1\r\nHost: test\r\n\r\n")
    assert client.response(has_body=False).status == 405
    options = client.response()
    assert (options.status, options.headers["allow"]) == (204, "POST, OPTIONS")


def test_a_body_needs_a_length_and_no_coding(server):
    client = server.connect()
    client.send(f"POST /api/rooms/den/messages HTTP/1.1\r\nHost: test\r\n{WITH_KEY}\r\n\r\n".encode())
    refused(client.response(), 411, "bad_request")
    client.send(post("den", "x", "Content-Encoding: gzip"))
    refused(client.response(), 415, "bad_request")
    client.send(post("den", "x", "Content-Encoding: identity"))
    assert place(client.response())["offset"] == 1


@pytest.mark.parametrize("key", ["k" * 65, "a\r\nIdempotency-Key: b", "\xff"])
def test_bad_idempotency_keys(server, key):
    request = post("den", "x", "Idempotency-Key: @").replace(b"@", key.encode("latin-1"))
    refused(server.http(request), 400, "bad_request")


def test_content_that_is_too_large_costs_only_itself(server):
    client = server.connect()
    client.send(post("den", "x" * 65_537) + post("den", "ü" * 32_769) + post("den", "x" * 65_536))
    refused(client.response(), 413, "too_large")
    refused(client.response(), 413, "too_large")
    assert place(client.response())["offset"] == 1


def test_a_body_that_is_too_large_ends_the_connection(server):
    client = server.connect()
    client.send(post("den", "before") + post("den", b"").replace(b"Content-Length: 0", b"Content-Length: 262145"))
    assert place(client.response())["offset"] == 1, "what was before it is answered first"
    refused(client.response(), 413, "too_large")
    assert client.is_ended()


# Connections.


def chunked(room, content, *headers):
    body = json.dumps({"content": content}).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:5], body[5:9], body[9:]) if part)
    head = post(room, b"", *headers).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    return head + chunks + b"0\r\n\r\n"


def test_chunks(server):
    client = server.connect()
    client.send(chunked("den", "one") * 2 + post("den", "three"))
    assert [place(client.response())["offset"] for _ in range(3)] == [1, 2, 3]
    endless = server.connect()
    endless.send(post("den", b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
    endless.send(b"40000\r\n" + b"x" * 0x40000 + b"\r\n1\r\nx\r\n")
    refused(endless.response(), 413, "too_large")
    assert endless.is_ended()


def test_http_client_keeps_its_connection(server):
    connection = http.client.HTTPConnection(*server.web, timeout=15)
    for number in range(1, 20):
        connection.request("POST", "/api/rooms/den/messages", json.dumps({"content": "x"}), {"X-API-Key": KEY, "X-Request-Id": f"r-{number}"})
        local = connection.sock.getsockname()
        answer = connection.getresponse()
        assert (answer.status, answer.headers["x-request-id"], json.load(answer)["offset"]) == (200, f"r-{number}", number)
        assert connection.sock.getsockname() == local
    connection.close()


def test_pipelined_requests_are_answered_in_order(server):
    client = server.connect()
    rooms = [f"room-{number % 7}" for number in range(400)]
    health = b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n"
    # Some wait for homes, the same and others, some are answered at once, and one is wrong.
    requests = [health if number % 10 == 9 else post(room, "x", f"X-Request-Id: r{number}") for number, room in enumerate(rooms)]
    requests[50] = post("room-0", b"{")
    requests[51] = post("room-0", "x", credentials=None)
    sender = threading.Thread(target=client.send, args=(b"".join(requests),))
    sender.start()
    expected = {}
    for number, room in enumerate(rooms):
        response = client.response()
        if number in (50, 51):
            assert response.status == (400, 401)[number - 50]
        elif number % 10 == 9:
            assert response.body == b"OK"
        else:
            expected[room] = expected.get(room, 0) + 1
            assert response.headers["x-request-id"] == f"r{number}"
            assert place(response)["offset"] == expected[room]
    sender.join()


@pytest.mark.parametrize("in_flight", [1, 2, 5])
def test_few_under_way(start_server, in_flight):
    server = start_server(limits__commands_in_flight=in_flight, limits__peer_window=2, **KEYS)
    clients = [server.connect() for _ in range(3)]
    for client in clients:
        client.send(b"".join(post(f"room-{number % 3}", "x") for number in range(60)))
    offsets = {}
    for client in clients:
        for number in range(60):
            offsets.setdefault(number % 3, []).append(place(client.response())["offset"])
    assert all(sorted(seen) == list(range(1, 61)) for seen in offsets.values())


def test_requests_with_the_end_are_all_answered(server):
    client = server.connect()
    client.send(b"".join(post(f"room-{number % 5}", "x") for number in range(40)))
    client.finish()
    assert client.rest().count(b"HTTP/1.1 200 OK\r\n") == 40


@pytest.mark.parametrize("options", [{"headers": ("Connection: close",)}, {"version": "1.0"}])
def test_the_last_request_of_a_connection(server, options):
    client = server.connect()
    last = post("den", "two", *options.get("headers", ()), version=options.get("version", "1.1"))
    client.send(post("den", "one") + last + post("den", "never"))
    assert [place(client.response())["offset"] for _ in range(2)] == [1, 2]
    assert client.is_ended()
    assert enter(server.ws(), "alice").call("history", room="den")["messages"][-1]["content"] == "two"


def test_a_head_that_is_none_behind_a_request(server):
    client = server.connect()
    client.send(post("den", "x") * 3 + b"GET / HTTP/1.1\nHost: test\n\n")
    assert [place(client.response())["offset"] for _ in range(3)] == [1, 2, 3]
    refused(client.response(), 400, "bad_request")
    assert client.is_ended()


def test_a_websocket_behind_a_request(server):
    upgrade = (b"GET /ws HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
               b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    for target, connection in [(b"/ws", b"Upgrade"), (b"/ws?nickname=alice&room=den", b"Upgrade"), (b"/ws", b"Upgrade, close"),
                               (b"/ws?nickname=bob&room=den", b"Upgrade, close")]:
        client = server.connect()
        client.send(post("den", "x") + upgrade.replace(b"/ws", target).replace(b": Upgrade", b": " + connection))
        place(client.response())
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")


def test_a_client_may_wait_to_be_told_to_go_on(server):
    client = server.connect()
    request = post("den", "x", "Expect: 100-continue")
    head, body = request.split(b"\r\n\r\n")
    client.send(post("den", "x") + head + b"\r\n\r\n")
    assert place(client.response())["offset"] == 1
    assert client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(body)
    assert place(client.response())["offset"] == 2


def test_a_request_may_come_one_byte_at_a_time(server):
    client = server.connect()
    client.send_slowly(post("den", "slow") + chunked("den", "slower"))
    assert [place(client.response())["offset"] for _ in range(2)] == [1, 2]


def test_a_body_that_does_not_come_is_408(start_server):
    server = start_server(limits__http_head_ms=300, **KEYS)
    client = server.connect()
    client.send(post("den", "x") + post("den", "never")[:-3])
    assert place(client.response())["offset"] == 1
    assert client.response().status == 408
    assert client.is_ended()
    assert server.ws("alice").call("history", room="den")["messages"][-1]["content"] == "x"


def test_clients_that_leave_in_the_middle(server):
    whole = post("den", "x")
    for cut in (len(whole) - 1, len(whole) - 20, len(whole) // 2):
        for leave in ("close", "drop"):
            client = server.connect()
            client.send(whole[:cut])
            getattr(client, leave)()
    for number in range(20):
        # Gone before the answer: it may have been published or not, and the server goes on.
        client = server.connect()
        client.send(post(f"room-{number}", "x") * 50)
        client.drop()
    alice = enter(server.ws(), "alice")
    assert place(server.http(post("den", "x")))["offset"] == 1, "half a message is none"
    assert alice.call("ping")["type"] == "pong"


def test_who_does_not_read_the_answers_is_not_read_either(start_server):
    server = start_server(limits__output_pause_bytes=4096, **KEYS)
    client = server.connect(receive_buffer_bytes=65_536)
    # More than the kernel holds, of requests and of answers.
    count, request = 40_000, post("den", "x", "X-Request-Id: " + "r" * 128)
    sender = threading.Thread(target=client.send, args=(request * count,))
    sender.start()
    time.sleep(0.5)
    assert sender.is_alive(), "it is made to wait"
    assert [place(client.response())["offset"] for _ in range(count)] == list(range(1, count + 1))
    sender.join()


# Limits of the rate.


def test_commands_of_a_connection(start_server):
    server = start_server(rate__commands_per_second=2, rate__burst=4, **KEYS)
    client = server.connect()
    client.send(post("den", "x") * 8)
    responses = [client.response() for _ in range(8)]
    passed = [response for response in responses if response.status == 200]
    assert len(passed) in (4, 5) and responses[: len(passed)] == passed
    error = refused(responses[-1], 429, "rate_limited")
    assert error["retryable"] and 0 < error["retry_after_ms"] <= 500
    assert responses[-1].headers["retry-after"] == "1"
    time.sleep(error["retry_after_ms"] / 1000)
    client.send(post("den", "x"))
    assert place(client.response())["offset"] == len(passed) + 1, "the time told is enough"


@pytest.mark.parametrize("request_of", [post, chunked])
def test_bytes_of_a_connection(start_server, request_of):
    server = start_server(rate__bytes_per_second=10_000, rate__bytes_burst=20_000, **KEYS)
    client = server.connect()
    client.send(request_of("den", "x" * 15_000) * 2)
    place(client.response())
    error = refused(client.response(), 429, "rate_limited")
    assert 500 <= error["retry_after_ms"] <= 1500


def test_a_user_over_all_connections_and_sessions(start_server):
    server = start_server(rate__user_commands_per_second=1, rate__user_burst=10, **SETTINGS, **KEYS)
    statuses = [server.http(post("den", "x", credentials=bearer("dora"))).status for _ in range(14)]
    assert statuses[:10] == [200] * 10 and statuses[-1] == 429
    client = enter(server.ws(), "dora")
    assert client.call("ping")["code"] == 429, "the sessions of the user share the bucket"
    assert server.http(post("den", "x")).status == 200, "others have their own"


def test_messages_into_a_room(start_server):
    server = start_server(rate__room_messages_per_second=2, rate__room_burst=5, **KEYS)
    client = server.connect()
    client.send(post("den", "x") * 10)
    responses = [client.response() for _ in range(10)]
    passed = [json.loads(response.body)["offset"] for response in responses if response.status == 200]
    assert passed == list(range(1, len(passed) + 1)) and 5 <= len(passed) <= 7
    response = next(response for response in responses if response.status != 200)
    refused(response, 429, "rate_limited")
    assert response.headers["retry-after"] == "1"
    client.send(post("hall", "another room"))
    assert place(client.response())["offset"] == 1


def test_who_is_deaf_to_it_is_closed_with_an_answer(start_server):
    server = start_server(rate__commands_per_second=1, rate__burst=1, limits__rate_ignored_ms=300, **KEYS)
    client = server.connect()
    began = time.monotonic()
    while True:
        client.send(post("den", "x"))
        response = client.response()
        if response.headers.get("connection") == "close":
            break
        assert time.monotonic() - began < 15
    refused(response, 429, "rate_limited")
    assert client.is_ended()


def test_wrong_credentials_are_charged(start_server):
    server = start_server(rate__commands_per_second=1, rate__burst=3, **KEYS)
    client = server.connect()
    client.send(post("den", "x", credentials="X-API-Key: guess") * 6)
    statuses = [client.response().status for _ in range(6)]
    assert statuses[:3] == [401] * 3 and statuses[-1] == 429


# The end.


def test_draining(start_server):
    server = start_server(drain__delay_ms=1000, **KEYS)
    alice = server.ws("alice", "den")
    half = server.connect()
    half.send(post("den", "half")[:-2])
    server.terminate()
    wait_until(lambda: server.get("/ready").status == 503, "the drain")
    assert place(server.http(post("den", "meanwhile")))["offset"] == 1, "programs are served during the delay"
    assert alice.expect("message")["content"] == "meanwhile"
    assert alice.expect("bye")["code"] == 4300
    assert half.is_ended()
    assert server.exit_code() == 0


def test_a_program_that_comes_while_the_clients_go(start_server):
    server = start_server(drain__timeout_ms=2000, **KEYS)
    # Somebody who does not read keeps the server from ending at once.
    slow = server.connect("line")
    slow.send(b'{"type":"hello","nickname":"slow"}\n')
    slow.until(b"\n")
    server.terminate()
    slow.until(b'"bye"')
    try:
        response = server.http(post("den", "late"))
    except (EOFError, OSError):
        return  # it was fast enough to be gone
    refused(response, 503, "draining")
    assert response.headers["connection"] == "close"


def test_what_was_published_before_the_end_is_answered(start_server):
    server = start_server(**KEYS)
    alice = server.ws("alice", *[f"room-{number}" for number in range(5)])
    clients = [server.connect() for _ in range(10)]
    answered = []

    def publish(client):
        try:
            while True:
                client.send(b"".join(post(f"room-{number}", "x") for number in range(5)))
                for number in range(5):
                    answered.append((f"room-{number}", place(client.response())["offset"]))
        except (EOFError, OSError, AssertionError):
            pass
    threads = [threading.Thread(target=publish, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    server.terminate()
    for thread in threads:
        thread.join()
    heard = set()
    while (event := alice.next())["type"] != "bye":
        if event["type"] == "message":
            heard.add((event["room"], event["offset"]))
    for room in {room for room, _ in heard}:
        offsets = sorted(offset for name, offset in heard if name == room)
        assert offsets == list(range(1, len(offsets) + 1))
    assert len(answered) > 50 and len(set(answered)) == len(answered)
    # Cores hear of the end one after the other: one may send alice away while a room's home on another still publishes.
    assert set(answered) <= heard or cores() > 1
    assert server.exit_code() == 0


# Load.


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
@pytest.mark.parametrize("pipeline", [[], ["16"]])
@pytest.mark.parametrize("credentials", ["key", "token"])
def test_the_wrk_script(server, credentials, pipeline):
    script = pathlib.Path(__file__).parents[2] / "benches" / "wrk" / "publish.lua"
    command = ["wrk", "-t1", "-c4", "-d1s", "-s", script, server.url("", "http"), "--", "Zürich"]
    ended = subprocess.run([*command, KEY if credentials == "key" else token("wrk"), *pipeline], capture_output=True, timeout=30, text=True)
    assert ended.returncode == 0, ended
    figures = dict(re.findall(r"^(requests/s|non-2xx|socket errors): (\d+)$", ended.stdout, re.MULTILINE))
    assert int(figures["requests/s"]) > 100 and figures["non-2xx"] == figures["socket errors"] == "0", ended.stdout
    alice = enter(server.ws(), "alice")
    message = alice.call("history", room="Zürich", limit=1)["messages"][0]
    assert len(message["content"]) == 128
    ended = subprocess.run([*command, "no key", *pipeline], capture_output=True, timeout=30, text=True)
    assert re.search(r"^non-2xx: [1-9]", ended.stdout, re.MULTILINE) and "401" in ended.stdout, ended.stdout
