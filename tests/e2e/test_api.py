"""The HTTP API beside publishing: rooms, members, history, and what an admin says to all."""

import json
from urllib.parse import quote

import pytest

from helpers import cores, wait_until
from test_publish import KEYS, WITH_KEY, bearer, place, post, refused
from tokens import SETTINGS, enter, token

ADMIN = "X-API-Key: another"


@pytest.fixture
def server(start_server):
    return start_server(**SETTINGS, **KEYS)


def get(path, *headers, method="GET"):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: test", *headers, "", ""]).encode()


def ask(server, path, *headers):
    response = server.http(get(path, *headers))
    assert response.status == 200, response
    assert response.headers["content-type"] == "application/json" and response.headers["cache-control"] == "no-store"
    return json.loads(response.body)


def say_to_all(content, *headers):
    body = content if isinstance(content, bytes) else json.dumps({"content": content}).encode()
    lines = ["POST /api/broadcast HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


# Reading.


def test_what_a_member_is_told_is_told_here(server):
    for number in range(2 * cores()):  # homes on all cores
        room = f"room{number}"
        alice, bob = server.ws(f"alice{number}", room), server.ws(f"Bob{number}", room)
        alice.say(room, "one", "two", "three")
        for path, command in [("members", "members"), ("history", "history")]:
            answer = alice.call(command, room=room)
            del answer["id"]
            assert ask(server, f"/api/rooms/{room}/{path}") == answer
        alice.close()
        bob.close()


def test_members_come_in_pages(server):
    for name in ["Bea", "ada", "Cid", "dan"]:
        server.ws(name, "den")
    names = []
    while page := ask(server, f"/api/rooms/DEN/members?limit=3&after={quote(names[-1] if names else '')}")["members"]:
        names += [member["nickname"] for member in page]
    assert names == ["ada", "Bea", "Cid", "dan"]


def test_history_comes_in_pages(server):
    alice = server.ws("alice", "den")
    alice.say("den", *(f"m{n}" for n in range(1, 11)))

    def page(query):
        return [message["offset"] for message in ask(server, f"/api/rooms/den/history{query}")["messages"]]

    assert page("?limit=3") == [8, 9, 10]
    assert page("?limit=3&before=8") == [5, 6, 7]
    assert page("?limit=3&after=2") == [3, 4, 5]
    assert page("?after=2&before=5") == [3, 4]
    assert page("?after=10") == []
    for beyond in (11, 2**63, 2**64 - 1):
        assert page(f"?after={beyond}") == page(f"?after={beyond}&before={beyond}") == []
        assert page(f"?limit=3&before={beyond}") == [8, 9, 10]
        assert alice.call("history", room="den", after=beyond)["messages"] == []
    assert ask(server, "/api/rooms/den/history")["epoch"] == alice.call("history", room="den")["epoch"]


def test_rooms_of_all_cores_come_in_order_and_in_pages(server):
    alice = server.ws("alice")
    names = [f"Room{number:02}" for number in range(8 * cores())]
    for name in reversed(names):
        alice.call("join", room=name)
    alice.say("Room03", "x")
    expected = alice.call("rooms", limit=1000)["rooms"]
    assert [room["room"] for room in expected] == names
    found = []
    while page := ask(server, f"/api/rooms?limit=5&after={found[-1]['room'] if found else ''}")["rooms"]:
        assert len(page) <= 5
        found += page
    assert found == expected


def test_head_tells_the_length(server):
    server.ws("alice", "den")
    response = server.http(get("/api/rooms/den/members", "Connection: close", method="HEAD"), has_body=False)
    body = server.http(get("/api/rooms/den/members")).body
    assert response.status == 200 and int(response.headers["content-length"]) == len(body)


@pytest.mark.parametrize("path", ["members", "history"])
def test_a_room_that_is_not_there_is_404(server, path):
    refused(server.http(get(f"/api/rooms/nowhere/{path}")), 404, "no_such_room")
    refused(server.http(get(f"/api/rooms/%ff/{path}")), 400, "bad_name")
    refused(server.http(get(f"/api/rooms/{'x' * 65}/{path}")), 400, "bad_name")


@pytest.mark.parametrize("query", ["limit=x", "limit=-1", "limit=1&limit=2", "before=x", "after=", "befor=1", "limit", "limit=%zz"])
def test_queries_that_are_none(server, query):
    server.ws("alice", "den")
    error = refused(server.http(get(f"/api/rooms/den/history?{query}")), 400, "bad_request")
    assert error["message"]


@pytest.mark.parametrize("limit, count", [("0", 1), ("1", 1), ("99999999999999999999", None), ("18446744073709551615", 3)])
def test_limits_are_brought_into_bounds(server, limit, count):
    server.ws("alice", "den").say("den", "one", "two", "three")
    response = server.http(get(f"/api/rooms/den/history?limit={limit}"))
    if count is None:
        refused(response, 400, "bad_request")
    else:
        assert len(json.loads(response.body)["messages"]) == count


# Who may read.


def test_reading_is_as_open_as_hello(start_server):
    closed = start_server(**SETTINGS, **KEYS, auth__guests="false")
    alice = enter(closed.ws(), "alice")
    alice.call("join", room="den")
    for path in ["/api/rooms", "/api/rooms/den/members", "/api/rooms/den/history"]:
        refused(closed.http(get(path)), 401, "unauthenticated")
        refused(closed.http(get(path, "Authorization: Bearer x.y.z")), 401, "bad_token")
        ask(closed, path, bearer("bob"))
        ask(closed, path, WITH_KEY)


def test_a_token_for_some_rooms_reads_those(server):
    server.ws("alice", "den", "attic")
    some = bearer("bob", rooms=["a*"])
    assert [room["room"] for room in ask(server, "/api/rooms", some)["rooms"]] == ["attic"]
    ask(server, "/api/rooms/attic/members", some)
    refused(server.http(get("/api/rooms/den/members", some)), 403, "forbidden")
    refused(server.http(get("/api/rooms/den/history", some)), 403, "forbidden")


def test_questions_are_paid_for(start_server):
    server = start_server(rate__commands_per_second=1, rate__burst=3)
    client = server.connect()
    statuses = []
    for _ in range(5):
        client.send(get("/api/rooms"))
        statuses.append(client.response().status)
    assert statuses[:3] == [200] * 3 and statuses[-1] == 429, statuses


# Broadcast.


def test_an_admin_speaks_to_all(server):
    clients = [server.ws(f"c{number}", "den") for number in range(3 * cores())]
    response = server.http(say_to_all("maintenance at ten", ADMIN))
    assert (response.status, json.loads(response.body)) == (200, {"sessions": len(clients)})
    for client in clients:
        event = client.expect("system")
        assert (event["content"], event["sender"]) == ("maintenance at ten", "root")
    response = server.http(say_to_all("again", bearer("ops", admin=True)))
    assert json.loads(response.body) == {"sessions": len(clients)}


def test_others_do_not(server):
    refused(server.http(say_to_all("x")), 401, "unauthenticated")
    refused(server.http(say_to_all("x", WITH_KEY)), 403, "forbidden")
    refused(server.http(say_to_all("x", bearer("bob"))), 403, "forbidden")
    refused(server.http(say_to_all(b"{}", ADMIN)), 400, "bad_request")
    refused(server.http(say_to_all("x" * 70_000, ADMIN)), 413, "too_large")
    refused(server.http(get("/api/broadcast", ADMIN)), 405, "bad_request")
    refused(server.http(get("/api/broadcast", ADMIN, method="POST")), 411, "bad_request")


# Putting somebody out.


def put_out(nickname, *headers):
    return get(f"/api/sessions/{quote(nickname, safe='')}", *headers, method="DELETE")


def test_an_admin_ends_all_sessions_of_a_user(server):
    phones = [enter(server.ws(), "alice") for _ in range(3 * cores())]
    for phone in phones:
        phone.call("join", room="den")
    bob = server.ws("bob", "den")
    away = enter(server.ws(), "alice")
    away.drop()
    wait_until(lambda: server.http(put_out("ALICE", ADMIN)).status == 204, "all to be put out")
    for phone in phones:
        assert phone.closed_with() == 4107
    assert bob.expect("presence", event="leave")["nickname"] == "alice"
    assert bob.call("members", room="den")["total"] == 1
    refused(server.http(put_out("alice", ADMIN)), 404, "no_such_user")
    # The nickname is free, and none of the sessions can be resumed.
    again = server.ws(None)
    welcome = again.call("hello", resume=away.welcome["resume"], token=token("alice"))
    assert (welcome["type"], welcome["resumed"]) == ("welcome", False)


def test_others_put_nobody_out(server):
    alice = server.ws("alice")
    refused(server.http(put_out("alice")), 401, "unauthenticated")
    refused(server.http(put_out("alice", WITH_KEY)), 403, "forbidden")
    refused(server.http(put_out("alice", bearer("alice"))), 403, "forbidden")
    refused(server.http(put_out("no name", ADMIN)), 400, "bad_name")
    refused(server.http(put_out("nobody", ADMIN)), 404, "no_such_user")
    response = server.http(get("/api/sessions/alice", ADMIN))
    refused(response, 405, "bad_request")
    assert response.headers["allow"] == "DELETE, OPTIONS"
    assert alice.call("ping")["type"] == "pong"


# The order of answers.


def test_answers_come_in_the_order_of_the_requests(server):
    alice = server.ws("alice", *(f"r{number}" for number in range(4 * cores())))
    client = server.connect()
    kinds = []
    requests = b""
    for number in range(4 * cores()):
        room = f"r{number}"
        # Each of them takes its own time: a home's, all cores', or that of whoever sees all cores.
        for kind, request in [
            ("metrics", get("/metrics")), ("place", post(room, "x")), ("history", get(f"/api/rooms/{room}/history")),
            ("place", post(room, "y")), ("rooms", get("/api/rooms")), ("members", get(f"/api/rooms/{room}/members")),
            ("health", get("/health")), ("metrics", get("/metrics")), ("place", post(room, "z")),
        ]:
            kinds.append((kind, room))
            requests += request
    client.send(requests)
    for kind, room in kinds:
        response = client.response()
        assert response.status == 200, (kind, response)
        match kind:
            case "metrics":
                assert response.body.startswith(b"# "), kind
            case "health":
                assert response.body == b"OK"
            case "place":
                place(response)
            case "rooms":
                assert json.loads(response.body)["type"] == "rooms"
            case _:
                answer = json.loads(response.body)
                assert (answer["type"], answer["room"]) == (kind, room)
    assert alice.until_pong() is not None
