"""Registered users: passwords, tokens, reserved nicknames, and private messages that wait for them."""

import json

import pytest

from helpers import binary, run, wait_until

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
    assert set(statuses) <= {200, 503} and statuses.count(200) >= 8, statuses


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


def test_the_command_line_changes_a_running_server(disk, tmp_path):
    server = disk(rate__logins_per_minute=0)
    data = ["--data-dir", str(tmp_path / "data")]

    def user(*arguments, password=None):
        command = [binary(), "user", *arguments, *data, *(["--password-stdin"] if password else [])]
        ended = run(command, input=(password or "").encode())
        assert ended.returncode == 0, ended
        return ended.stdout.decode()

    user("add", "alice", password=PASSWORD)
    status, body = post(server, "/api/login", {"username": "alice", "password": PASSWORD})
    assert status == 200

    def hello(**who):
        client = server.ws()
        reply = client.call("hello", **who)
        client.call("quit")  # or a guest would keep the nickname
        return reply

    wait_until(lambda: hello(nickname="alice")["type"] == "error", "the nickname to be reserved")
    user("passwd", "alice", password="another password")
    refused(post(server, "/api/login", {"username": "alice", "password": PASSWORD}), 401, "bad_credentials")
    user("disable", "alice")
    refused(post(server, "/api/login", {"username": "alice", "password": "another password"}), 401, "bad_credentials")
    wait_until(lambda: hello(token=body["token"]).get("reason") == "bad_credentials", "the token to be refused")
    user("enable", "alice")
    wait_until(lambda: hello(token=body["token"])["type"] == "welcome", "the token to be good again")
    assert "alice" in user("list")
    run([binary(), "user", "remove", "alice", *data])


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
