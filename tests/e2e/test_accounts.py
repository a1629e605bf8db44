"""Registered users: passwords, tokens, reserved nicknames, and private messages that wait for them."""

import contextlib
import json
import socket
import uuid

import pytest
from websockets.exceptions import ConnectionClosed

from helpers import Deadline, binary, run, wait_until

PASSWORD = "correct horse battery"


def post(server, path, body):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    connection = server.connect()
    connection.send(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    response = connection.response()
    return response.status, json.loads(response.body)


def register(server, username, password=PASSWORD):
    status, body = post(server, "/api/register", {"username": username, "password": password})
    assert status == 200, body
    return body["token"]


def refused(answer, status, reason):
    assert (answer[0], answer[1]["code"], answer[1]["reason"]) == (status, status, reason), answer


@pytest.fixture
def server(disk):
    return disk(rate__registrations_per_hour=0, rate__logins_per_minute=0)


def test_a_user_registers_logs_in_and_says_hello(server):
    status, registered = post(server, "/api/register", {"username": "Alice", "password": PASSWORD})
    assert status == 200 and set(registered) == {"token", "expires_at"}
    status, logged_in = post(server, "/api/login", {"username": "aLICE", "password": PASSWORD})
    assert status == 200
    days = (logged_in["expires_at"] - server_time(server)) / 86_400_000
    assert 29.9 < days <= 30.01, days
    one, other = server.ws().enter(None, token=registered["token"]), server.ws().enter(None, token=logged_in["token"])
    assert one.welcome["nickname"] == other.welcome["nickname"] == "Alice"
    one.refused(403, "forbidden", "nick", nickname="al")


def server_time(server):
    return server.ws("clock").call("ping")["timestamp"]


def test_a_registered_nickname_is_reserved(disk, restart):
    settings = {"rate__registrations_per_hour": 0}
    server = disk(**settings)
    register(server, "alice")
    server.ws().refused(409, "nickname_in_use", "hello", nickname="ALICE")
    guest = server.ws("bob")
    guest.refused(409, "nickname_in_use", "nick", nickname="alice")
    refused(post(server, "/api/register", {"username": "ALICE", "password": PASSWORD}), 409, "nickname_in_use")
    server = restart(server, **settings)
    server.ws().refused(409, "nickname_in_use", "hello", nickname="alice")
    status, body = post(server, "/api/login", {"username": "alice", "password": PASSWORD})
    assert status == 200
    server.ws().enter(None, token=body["token"])


def test_tokens_of_before_a_restart_are_good(disk, restart):
    server = disk()
    token = register(server, "alice")
    server = restart(server)
    server.ws().enter(None, token=token)


@pytest.mark.parametrize("body, status, reason", [
    (b"{", 400, "bad_json"),
    (b"[]", 400, "bad_request"),
    ({"username": "alice"}, 400, "bad_request"),
    ({"username": "alice", "password": 5}, 400, "bad_request"),
    ({"username": "two words", "password": PASSWORD}, 400, "bad_name"),
    ({"username": "alice", "password": "short"}, 400, "bad_request"),
    ({"username": "alice", "password": "x" * 1025}, 413, "too_large"),
])
def test_what_is_no_account_is_refused(server, body, status, reason):
    answer = post(server, "/api/register", body)
    refused(answer, status, reason)
    assert "short" not in json.dumps(answer)


@pytest.mark.parametrize("path", ["/api/register", "/api/login"])
def test_a_body_that_is_coded_is_told_so(server, path):
    body = b"not gzip"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    response = server.http(head.encode() + body)
    refused((response.status, response.error()), 415, "bad_request")


def test_wrong_credentials_are_one_answer(server):
    register(server, "alice")
    wrong = post(server, "/api/login", {"username": "alice", "password": "something else"})
    nobody = post(server, "/api/login", {"username": "nobody", "password": PASSWORD})
    refused(wrong, 401, "bad_credentials")
    assert wrong == nobody


def test_attempts_are_limited(disk):
    server = disk(rate__logins_per_minute=3)
    register(server, "alice")
    for _ in range(3):
        refused(post(server, "/api/login", {"username": "alice", "password": "wrong wrong"}), 401, "bad_credentials")
    answer = post(server, "/api/login", {"username": "alice", "password": PASSWORD})
    refused(answer, 429, "rate_limited")
    assert 0 < answer[1]["retry_after_ms"] <= 60_000


def test_many_logins_at_once_are_answered_in_order_and_hold_nobody_up(server):
    register(server, "alice")
    body = json.dumps({"username": "alice", "password": PASSWORD}).encode()
    request = f"POST /api/login HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    connections = [server.connect() for _ in range(8)]
    for connection in connections:
        connection.send(request * 4)
    chat = server.ws("bob", "den")
    assert chat.say("den", "meanwhile")[0]["offset"] == 1
    statuses = [connection.response().status for connection in connections for _ in range(4)]
    # As many as there is time for.
    assert set(statuses) <= {200, 503} and 200 in statuses, statuses


def test_without_a_store_there_are_no_accounts(start_server):
    server = start_server(store__kind="memory")
    refused(post(server, "/api/login", {"username": "alice", "password": PASSWORD}), 404, "not_found")


def test_private_messages_wait_for_a_registered_user(disk, restart):
    settings = {"rate__registrations_per_hour": 0, "limits__private_kept": 5}
    server = disk(**settings)
    token = register(server, "Alice")
    bob = server.ws("bob")
    for n in range(1, 4):
        ack = bob.call("private", target="alice", content=f"p{n}", id=f"p{n}")
        assert (ack["delivered"], ack["stored"], ack["target"]) == (0, True, "Alice"), ack
    assert bob.call("private", target="alice", content="p3", id="p3") == ack, "the same again is not kept twice"
    server = restart(server, **settings)
    alice = server.ws().enter(None, token=token)
    heard = [alice.expect("private") for _ in range(3)]
    assert [(m["content"], m["offset"], m["sender"]) for m in heard] == [(f"p{n}", n, "bob") for n in range(1, 4)]
    other = server.ws().enter(None, token=token)
    assert [other.expect("private")["offset"] for _ in range(3)] == [1, 2, 3], "each of the user's sessions"
    assert alice.call("received", offset=2)["type"] == "ack"
    for client in (alice, other):
        assert client.call("quit")["type"] == "bye"

    server = restart(server, **settings)
    carol = server.ws("carol")
    for n in range(4, 8):
        assert carol.call("private", target="alice", content=f"p{n}")["stored"] is True
    error = carol.call("private", target="alice", content="one too many")
    assert (error["code"], error["reason"], error["retryable"]) == (503, "unavailable", True), error
    carol.refused(404, "no_such_user", "private", target="nobody", content="x")
    alice = server.ws().enter(None, token=token)
    heard = [alice.expect("private") for _ in range(5)]
    assert [(m["content"], m["offset"]) for m in heard] == [(f"p{n}", n) for n in range(3, 8)]
    assert alice.call("received", offset=7)["type"] == "ack"
    assert alice.call("quit")["type"] == "bye"
    again = server.ws().enter(None, token=token)
    assert [e for e in again.until_pong() if e["type"] == "private"] == []


def test_what_a_session_did_not_receive_waits_for_the_user(disk):
    server = disk(session__grace_ms=300)
    token = register(server, "alice")
    alice = server.ws().enter(None, token=token)
    alice.call("join", room="den")
    bob = server.ws("bob", "den")
    alice.drop()
    bob.expect("presence", event="away", nickname="alice")
    assert bob.call("private", target="alice", content="psst")["stored"] is True
    bob.expect("presence", event="leave", nickname="alice")
    alice = server.ws().enter(None, token=token)
    assert alice.expect("private")["content"] == "psst"


def privates(bob, client):
    """The private messages that a client of alice's is told, up to one that bob sends now."""
    mark = f"#{uuid.uuid4()}"
    tell(bob, mark)
    heard = []
    while not heard or heard[-1][0] != mark:
        event = client.expect("private")
        heard.append((event["content"], event.get("offset")))
    return [(content, offset) for content, offset in heard if not content.startswith("#")]


@pytest.fixture
def bob(server):
    return server.ws("bob", "den")


def away(client, bob):
    """Breaks a connection of a member of den, and waits until the others have noticed."""
    client.drop()
    bob.expect("presence", event="away", nickname=client.welcome["nickname"])


def enter(server, **hello):
    client = server.ws().enter(None, **hello)
    if not client.welcome["resumed"]:
        client.call("join", room="den")
    return client


def tell(bob, content):
    ack = bob.call("private", target="alice", content=content)
    assert ack["type"] == "ack", ack
    return ack["delivered"], ack["stored"]


@pytest.mark.parametrize("comes_back", ["anew", "resumed"])
def test_what_waits_is_heard_by_whichever_session_comes_first(server, bob, comes_back):
    token = register(server, "alice")
    alice = enter(server, token=token)
    assert tell(bob, "live") == (1, False)
    assert alice.expect("private")["content"] == "live" and alice.until_pong() == []
    away(alice, bob)
    assert [tell(bob, content) for content in ("one", "two")] == [(0, True)] * 2
    hello = {"token": token} if comes_back == "anew" else {"resume": alice.welcome["resume"]}
    first = enter(server, **hello)
    assert privates(bob, first) == [("one", 1), ("two", 2)]
    is_away = comes_back == "anew"
    assert tell(bob, "three") == (1, is_away), "told at once, and kept for the one that is away"
    assert first.expect("private")["content"] == "three"
    assert first.call("received", offset=1)["type"] == "ack"
    # The other one hears what has not been received, and only that.
    other = {"resume": alice.welcome["resume"]} if comes_back == "anew" else {"token": token}
    other = enter(server, **other)
    heard = [content for content, _ in privates(bob, other)]
    assert heard == (["two", "three"] if is_away else ["two"])
    assert other.call("received", offset=99)["type"] == "ack"
    for client in (first, other):
        assert client.call("quit")["type"] == "bye"
    assert privates(bob, enter(server, token=token)) == []


def test_a_copy_for_a_session_that_is_away_is_for_that_one_alone(disk, restart):
    settings = {"rate__registrations_per_hour": 0, "session__grace_ms": 60_000}
    server = disk(**settings)
    bob = server.ws("bob", "den")
    token = register(server, "alice")
    here, gone, lost = (enter(server, token=token) for _ in range(3))
    for left, client in ((2, gone), (1, lost)):
        client.drop()
        wait_until(lambda: tell(bob, "#?")[0] == left, "the session to be away")
    assert tell(bob, "one") == (1, True)
    here.expect("private", content="one")
    assert privates(bob, enter(server, token=token)) == [], "a session that was not there then"
    server = restart(server, **settings)
    bob = server.ws("bobby", "den")
    gone = enter(server, resume=gone.welcome["resume"])
    assert [content for content, _ in privates(bob, gone)] == ["one"]
    assert gone.call("received", offset=999)["type"] == "ack"
    gone = enter(server, resume=gone.welcome["resume"])
    assert privates(bob, gone) == []
    lost = enter(server, resume=lost.welcome["resume"])
    assert [content for content, _ in privates(bob, lost)] == ["one"], "the other's word is not this one's"


def test_what_comes_while_the_inbox_is_told_comes_behind_it(disk):
    server = disk(limits__private_kept=2000)
    token = register(server, "alice")
    bob = server.ws("bob")
    for n in range(300):
        bob.send("private", target="alice", content=f"{n}:" + "x" * 1000, id=str(n))
    for n in range(300):
        assert bob.expect("ack")["stored"] is True
    alice = server.ws()
    alice.send("hello", token=token)
    told = 300
    heard = []
    while len(heard) < told:
        event = alice.expect("private")
        heard.append(event["content"].split(":")[0])
        if len(heard) == 5:
            for n in range(300, 310):
                assert tell(bob, f"{n}:")[0] in (0, 1)
            told = 310
    assert heard == [str(n) for n in range(310)]


def test_a_message_in_doubt_is_not_lost_with_its_session(disk):
    server = disk(session__grace_ms=200)
    token = register(server, "alice")
    bob = server.ws("bob", "den")
    alice = server.json_line().enter(None, "den", token=token)
    # It does not read, and its connection is reset with bytes unread: nobody knows what it has heard.
    for n in range(20):
        assert tell(bob, str(n)) == (1, False)
    alice.drop()
    bob.expect("presence", event="leave", nickname="alice", reason="timeout")
    again = enter(server, token=token)
    assert [content for content, _ in privates(bob, again)] == [str(n) for n in range(20)]


@pytest.mark.parametrize("goes", [True, False])
def test_a_message_in_doubt_is_kept_while_the_server_drains(disk, monkeypatch, goes):
    monkeypatch.setenv("STARLING_TEST_CORES", "4")
    for name in ("ann", "ben", "cid", "dot", "eve", "fay"):
        server = disk(drain__timeout_ms=5000 if goes else 300)
        token = register(server, name)
        alice = server.json_line().enter(None, "den", token=token)
        bob = server.ws("bob")
        ack = bob.call("private", target=name, content="for you")
        assert (ack["delivered"], ack["stored"]) == (1, False)
        bob.call("quit")
        bob.close()
        # Only one core has a connection that matters; whether it is the home of the nickname is chance. What is told is taken by
        # the kernel, and never read.
        server.terminate()
        told = Deadline()
        while b'"bye"' not in alice.raw.socket.recv(65_536, socket.MSG_PEEK):
            told.left()
        if goes:
            alice.drop()
        assert server.exit_code() == 0
        if not goes:
            alice.drop()
        server = disk()
        again = enter(server, resume=alice.welcome["resume"])
        assert again.expect("private")["content"] == "for you"
        server.close()


def user(data, *arguments, password=None):
    command = [binary(), "user", *arguments, "--data-dir", str(data), *(["--password-stdin"] if password else [])]
    ended = run(command, input=(password or "").encode())
    assert ended.returncode == 0, ended
    return ended.stdout.decode()


@pytest.mark.parametrize("change", ["passwd", "disable", "remove"])
def test_whoever_has_a_token_that_is_void_is_put_out(disk, tmp_path, change):
    server = disk(rate__registrations_per_hour=0, rate__logins_per_minute=0)
    bob = server.ws("bob", "den")
    token = register(server, "alice")
    here, gone = enter(server, token=token), enter(server, token=token)
    gone.drop()
    wait_until(lambda: tell(bob, "#?")[0] == 1, "the session to be away")
    push = server.connect()
    body = b'{"content":"hi"}'
    request = f"POST /api/rooms/den/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    push.send(request + body)
    assert push.response().status == 200
    user(tmp_path / "data", change, "alice", password="another password" if change == "passwd" else None)
    bye = here.expect("bye")
    assert (bye["code"], bye["reason"], bye["resumable"]) == (4101, "unauthenticated", False)
    bob.expect("presence", event="leave", nickname="alice")
    reason = "bad_credentials" if change == "disable" else "bad_token"
    for hello in ({"token": token}, {"resume": gone.welcome["resume"]}):
        # Each core hears of it, one a moment after the other.
        answer = wait_until(lambda: (answer := server.ws().call("hello", **hello))["type"] == "error" and answer, "all cores to know")
        assert (answer["code"], answer["reason"]) == (401, reason), answer
    push.send(request + body)
    assert push.response().status == 401
    if change == "passwd":
        status, body = post(server, "/api/login", {"username": "alice", "password": "another password"})
        assert status == 200
        enter(server, token=body["token"])
    if change == "remove":
        # Who registers under the name next is somebody else.
        assert server.ws().call("hello", token=register(server, "alice"))["type"] == "welcome"
        assert server.ws().call("hello", token=token)["reason"] == "bad_token"


def test_what_became_void_while_no_server_ran_is_void(disk, restart, tmp_path):
    server = disk()
    bob = server.ws("bob", "den")
    token = register(server, "alice")
    alice = enter(server, token=token)
    away(alice, bob)
    server.kill()
    user(tmp_path / "data", "passwd", "alice", password="another password")
    server = disk()
    for hello in ({"token": token}, {"resume": alice.welcome["resume"]}):
        assert server.ws().call("hello", **hello)["reason"] == "bad_token"
    members = server.ws("carol", "den").call("members", room="den")["members"]
    assert "alice" not in [member["nickname"] for member in members], members


def test_the_command_line_changes_a_running_server(disk, tmp_path):
    server = disk(rate__logins_per_minute=0)
    data = tmp_path / "data"
    user(data, "add", "alice", password=PASSWORD)
    status, body = post(server, "/api/login", {"username": "alice", "password": PASSWORD})
    assert status == 200

    def hello(**who):
        client = server.ws()
        reply = client.call("hello", **who)
        with contextlib.suppress(ConnectionClosed):  # whoever is put out at this moment
            client.call("quit")  # or a guest would keep the nickname
        return reply

    wait_until(lambda: hello(nickname="alice")["type"] == "error", "the nickname to be reserved")
    user(data, "passwd", "alice", password="another password")
    refused(post(server, "/api/login", {"username": "alice", "password": PASSWORD}), 401, "bad_credentials")
    user(data, "disable", "alice")
    refused(post(server, "/api/login", {"username": "alice", "password": "another password"}), 401, "bad_credentials")
    wait_until(lambda: hello(token=body["token"])["type"] == "error", "the token to be refused")
    status, body = post(server, "/api/login", {"username": "alice", "password": "another password"})
    assert status == 401
    user(data, "enable", "alice")
    status, body = post(server, "/api/login", {"username": "alice", "password": "another password"})
    assert status == 200
    wait_until(lambda: hello(token=body["token"])["type"] == "welcome", "the user to be enabled")
    assert "alice" in user(data, "list")
    user(data, "remove", "alice")
    wait_until(lambda: hello(nickname="alice")["type"] == "welcome", "the nickname to be free")


def test_who_was_registered_by_the_command_line_is_known_with_the_first_login(disk, tmp_path):
    server = disk(rate__logins_per_minute=0)
    data = tmp_path / "data"
    for number in range(8):
        name = f"user{number}"
        user(data, "add", name, password=PASSWORD)
        status, body = post(server, "/api/login", {"username": name, "password": PASSWORD})
        assert status == 200, body
        # At once, on whichever core.
        assert server.ws().call("hello", token=body["token"])["type"] == "welcome"


def test_the_tools_work_beside_a_running_server(disk, tmp_path):
    server = disk()
    alice = server.ws("alice", "den")
    alice.say("den", *(str(n) for n in range(50)))
    assert alice.call("message", room="den", content="last", ack="synced")["offset"] == 51
    data = ["--data-dir", str(tmp_path / "data")]
    checked = run([binary(), "store", "check", *data])
    assert checked.returncode == 0, checked
    wait_until(lambda: b"51" in run([binary(), "store", "stats", "--json", *data]).stdout, "the sums, which are as of a second ago")
    exported = run([binary(), "store", "export", "--room", "den", "--format", "jsonl", *data]).stdout.decode().splitlines()
    assert [json.loads(line)["content"] for line in exported] == [str(n) for n in range(50)] + ["last"]
    backup = tmp_path / "backup" / "starling.db"
    backup.parent.mkdir()
    ended = run([binary(), "store", "backup", str(backup), *data])
    assert ended.returncode == 0, ended
    epoch = alice.call("history", room="den")["epoch"]
    alice.say("den", "after the backup")
    server.close()
    checked = run([binary(), "store", "check", *data])
    assert checked.returncode == 0, checked
    # A server that begins with a backup knows that what came after it is lost.
    server = disk(data_dir=str(backup.parent))
    page = server.ws("bob").call("history", room="den", limit=100)
    assert [m["content"] for m in page["messages"]] == [str(n) for n in range(50)] + ["last"]
    assert page["epoch"] != epoch
