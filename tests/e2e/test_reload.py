"""What a server that runs reads again, and `starling check`."""

import base64
import json
import os
import select
import signal
import socket
import time

import jwt
import pytest

from binary import PROTOBUF, FrameClient
from grpc_client import GrpcClient
from helpers import Deadline, WsClient, binary, run, wait_until
from test_sse import Stream, request
import tokens


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "starling.toml"
    file.write_text('[log]\nlevel = "info"\n')
    return file


@pytest.fixture
def server(start_server, file):
    return start_server(_flags=["--config", str(file)])


def hang_up(server):
    server.process.send_signal(signal.SIGHUP)


def test_the_level_of_the_log_changes_and_nobody_is_dropped(server, file):
    alice = server.ws("alice", "den")
    server.get("/health")
    assert not [line for line in server.log if "DEBUG" in line]
    file.write_text('[log]\nlevel = "debug"\n')
    hang_up(server)
    server.said('in effect: log.level = "debug"')
    response = server.http(b"GET /health HTTP/1.1\r\nHost: t\r\nX-Request-Id: seen\r\n\r\n")
    assert response.status == 200
    server.said("request=seen method=GET path=/health")
    file.write_text('[log]\nlevel = "warn"\n')
    hang_up(server)
    # Of which it says nothing: that is what was asked for.
    wait_until(lambda: not still_talks(server), "the log to be quiet")
    assert alice.call("ping")["type"] == "pong"


def still_talks(server):
    """Whether a request is still logged."""
    before = len(server.log)
    server.http(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n")
    try:
        return bool(wait_until(lambda: len(server.log) > before, "a line", 0.3))
    except AssertionError:
        return False


def test_what_takes_a_restart_is_named(server, file):
    file.write_text('[limits]\ncontent_bytes = 1000\nread_buffer_bytes = 8192\n[log]\nlevel = "info"\n')
    hang_up(server)
    server.said("in effect: limits.content_bytes = 1000")
    server.said("changed, and in effect after a restart: limits.read_buffer_bytes")
    hang_up(server)
    wait_until(lambda: len([line for line in server.log if "after a restart" in line]) == 2, "it to be said again")
    assert len([line for line in server.log if "in effect: " in line]) == 1, "it is in effect already"


@pytest.mark.parametrize("whose", ["address", "user"])
def test_a_limit_that_comes_later_holds_for_those_who_are_there(server, file, whose):
    alice = server.ws("alice", "den")
    file.write_text(f"[rate]\n{whose}_commands_per_second = 1\n{whose}_burst = 2\n")
    hang_up(server)
    server.said(f"in effect: rate.{whose}_commands_per_second = 1, rate.{whose}_burst = 2")
    replies = [alice.call("message", room="den", content="x") for _ in range(20)]
    assert [reply["type"] for reply in replies[:2]] == ["ack"] * 2
    assert {reply.get("reason") for reply in replies[-5:]} == {"rate_limited"}
    file.write_text(f"[rate]\n{whose}_commands_per_second = 0\n")
    hang_up(server)
    wait_until(lambda: {alice.call("ping")["type"] for _ in range(20)} == {"pong"}, "no limit")


@pytest.mark.parametrize("key", ["jwks_file", "jwt_key_file"])
def test_a_pipe_in_the_place_of_a_key_is_told_and_holds_nothing_up(start_server, file, tmp_path, key):
    server = start_server(_flags=["--config", str(file)])
    os.mkfifo(tmp_path / "keys")
    file.write_text(f'[auth]\n{key} = "{tmp_path}/keys"\n' + ('jwt_algorithm = "RS256"\n' if key == "jwt_key_file" else ""))
    ended = run([binary(), "check", str(file)])
    assert ended.returncode != 0 and b"it is no regular file" in ended.stderr, ended
    hang_up(server)
    server.said("it is no regular file")
    file.write_text('[log]\nlevel = "debug"\n')
    hang_up(server)
    server.said('in effect: log.level = "debug"')


def test_limits_and_rates_change_and_nobody_is_dropped(server, file):
    alice, bob = server.ws("alice", "den"), server.json_line("bob", "den")
    alice.say("den", "x" * 100)
    file.write_text('[limits]\ncontent_bytes = 10\nquery_limit_max = 1\nquery_limit_default = 1\n[rate]\nroom_messages_per_second = 1\nroom_burst = 2\n')
    hang_up(server)
    server.said("in effect: ")
    # Each core has it in a turn of its own.
    wait_until(lambda: alice.call("message", room="den", content="x" * 11).get("code") == 413, "the new limit")
    bob.refused(413, "too_large", "message", room="den", content="x" * 11)
    wait_until(lambda: bob.call("message", room="den", content="y").get("code") == 429, "the new rate")
    wait_until(lambda: len(alice.call("history", room="den", limit=5)["messages"]) == 1, "the new limit of pages")
    file.write_text("")
    hang_up(server)
    wait_until(lambda: alice.call("message", room="den", content="x" * 11)["type"] == "ack", "the old limit")


def test_connections_of_an_address_are_limited_anew_and_those_who_are_there_count(server, file):
    alice, bob = server.ws("alice", "den"), server.ws("bob", "den")
    file.write_text("[limits]\nconnections_per_address = 2\n")
    hang_up(server)
    server.said("in effect: limits.connections_per_address = 2")
    wait_until(lambda: server.get("/health").status == 503, "the new limit")
    assert alice.call("ping")["type"] == bob.call("ping")["type"] == "pong"
    bob.close()
    wait_until(lambda: server.get("/health").status == 200, "the place of one who has gone")
    file.write_text("")
    hang_up(server)
    wait_until(lambda: server.get("/health").status == 200, "no limit")


def test_logins_and_registrations_are_limited_anew(disk, file):
    server = disk(_flags=["--config", str(file)])

    def attempt(path, username):
        body = json.dumps({"username": username, "password": "correct horse battery"})
        return server.http(f"POST /api/{path} HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()).status

    assert [attempt("register", f"user{number}") for number in range(3)] == [200] * 3
    assert [attempt("login", f"user{number}") for number in range(3)] == [200] * 3
    file.write_text("[rate]\nlogins_per_minute = 2\nregistrations_per_hour = 2\n")
    hang_up(server)
    server.said("in effect: rate.logins_per_minute = 2, rate.registrations_per_hour = 2")
    # What was tried before counts.
    wait_until(lambda: attempt("login", "user0") == 429, "the new rate of logins")
    wait_until(lambda: attempt("register", "another") == 429, "the new rate of registrations")
    file.write_text("[rate]\nlogins_per_minute = 0\nregistrations_per_hour = 0\n")
    hang_up(server)
    wait_until(lambda: attempt("login", "user0") == 200, "no rate of logins")
    wait_until(lambda: attempt("register", "yet-another") == 200, "no rate of registrations")


def test_keys_change_and_those_who_are_in_stay(start_server, file):
    def write(secret, key):
        file.write_text(f'[auth]\nguests = false\njwt_secret = "{secret}"\napi_keys = [{{ name = "ci", key = "{key}" }}]\n')

    def push(key):
        return server.http(f"POST /api/rooms/den/messages HTTP/1.1\r\nHost: t\r\nX-API-Key: {key}\r\n"
                           "Content-Length: 15\r\n\r\n{\"content\":\"x\"}".encode()).status

    write(tokens.SECRET, "first key of the tests")
    server = start_server(_flags=["--config", str(file)])
    alice = tokens.enter(server.ws(), "alice", "den")
    assert push("first key of the tests") == 200
    write("another secret that is long enough for it", "second key of the tests")
    hang_up(server)
    server.said("in effect: auth.jwt_secret, auth.api_keys")
    assert not [line for line in server.log if "another secret" in line or "second key" in line]
    wait_until(lambda: push("second key of the tests") == 200 and push("first key of the tests") == 401, "the new key")
    wait_until(lambda: server.ws().call("hello", token=tokens.token("bob")).get("code") == 401, "the new secret")
    alice.say("den", "still here")
    token = jwt.encode({"sub": "carol", "exp": int(time.time()) + 600}, "another secret that is long enough for it", "HS256")
    assert server.ws().call("hello", token=token)["type"] == "welcome"


def test_what_was_opened_with_a_key_ends_when_that_is_taken_away(start_server, file):
    def write(*keys):
        of = ", ".join(f'{{ name = "{name}", key = "{key}", admin = {admin} }}' for name, key, admin in keys)
        file.write_text(f'[auth]\napi_keys = [{of}]\n[web]\ndashboard = "admin"\n')

    def by(key):
        return f"X-API-Key: {key}"

    def push(client, key):
        client.send(f'POST /api/rooms/den/messages HTTP/1.1\r\nHost: test\r\n{by(key)}\r\nContent-Length: 15\r\n\r\n{{"content":"x"}}'.encode())
        return client.response().status

    first, second, third = ("ci", "first key of the tests", "false"), ("cd", "second key of the tests", "false"), ("ops", "third key of the tests", "true")
    write(first, second, third)
    server = start_server(_flags=["--config", str(file)])
    taken, stays, demoted, anybody = [Stream(server, "den", *of) for of in [[by(first[1])], [by(second[1])], [by(third[1])], []]]
    kept = server.connect()
    assert push(kept, first[1]) == 200
    dashboard = server.keep(WsClient(server.url("/dashboard/live"), additional_headers={"X-API-Key": third[1]}))
    dashboard.receive_text(Deadline())
    # One is taken away, one becomes another's, and one is no admin's any more.
    write(second, ("ops", third[1], "false"))
    hang_up(server)
    for stream in [taken, demoted]:
        assert [data["content"] for _, data in stream.rest()] == ["x"] and stream.comments == ["4101 unauthenticated"]
    assert dashboard.closed_with() == 4101
    assert push(kept, first[1]) == 401, "on a connection that was known by it"
    assert push(kept, second[1]) == 200
    assert stays.offsets(2) == anybody.offsets(2) == [1, 2]
    assert server.http(request("den", by(first[1]))).error()["reason"] == "bad_credentials"


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_guests_are_put_out_when_they_may_not_be_there_any_more(start_server, file, kind, tmp_path):
    def write(guests):
        file.write_text(f'[auth]\nguests = {guests}\njwt_secret = "{tokens.SECRET}"\napi_keys = [{{ name = "ci", key = "a key of the tests" }}]\n')

    write("true")
    server = start_server(_flags=["--config", str(file)], store__kind=kind, data_dir=str(tmp_path / "data"))
    alice = tokens.enter(server.ws(), "alice", "den")
    lines, socket, text, away = server.json_line("lee", "den"), server.ws("will", "den"), server.text_line("tina"), server.ws("amy", "den")
    frames = FrameClient(server, PROTOBUF).enter("fred", "den")
    call = GrpcClient(server).enter("carol", "den")
    fresh, kept = server.ws(), server.connect()
    anybody, by_key, by_token = [Stream(server, "den", *of) for of in
                                 [[], ["X-API-Key: a key of the tests"], [f"Authorization: Bearer {tokens.token('bob')}"]]]
    away.drop()
    alice.expect("presence", event="away", nickname="amy")
    kept.send(request("den").replace(b"/stream", b"/history"))
    assert kept.response().status == 200

    write("false")
    hang_up(server)
    server.said("in effect: auth.guests")
    for guest in [lines, socket, frames]:
        bye = guest.expect("bye")
        assert (bye["code"], bye["reason"]) == (4101, "unauthenticated"), bye
    assert socket.closed_with() == 4101
    assert frames.raw.is_ended() and lines.raw.is_ended()
    assert b"4101 unauthenticated" in text.raw.rest()
    assert call.expect("bye")["code"] == 4101 and call.is_ended()
    assert anybody.rest() == [] and anybody.comments == ["4101 unauthenticated"]
    gone = {alice.expect("presence", event="leave")["nickname"] for _ in range(5)}
    assert gone == {"lee", "will", "fred", "carol", "amy"}, "also who was away"
    # Nobody is let in again, and who has not said hello yet must show a token.
    server.ws().refused(401, "unauthenticated", "hello", resume=away.welcome["resume"])
    fresh.refused(401, "unauthenticated", "hello", nickname="late")
    kept.send(request("den").replace(b"/stream", b"/history"))
    assert kept.response().status == 401
    # Who has shown something stays.
    alice.say("den", "still here")
    assert by_key.offsets(1) == by_token.offsets(1) == [1]
    assert [member["nickname"] for member in alice.call("members", room="den")["members"]] == ["alice"]
    assert 'starling_void_guests_total' in server.get("/metrics").body.decode()


def test_a_token_is_looked_at_again_when_the_keys_have_been_read_again(start_server, file):
    def ask(client):
        client.send(f"GET /api/rooms HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        return client.response().status

    file.write_text(f'[auth]\njwt_secret = "{tokens.SECRET}"\n')
    server = start_server(_flags=["--config", str(file)])
    token, kept = tokens.token("bob"), server.connect()
    assert ask(kept) == 200
    file.write_text('[auth]\njwt_secret = "another secret that is long enough for it"\n')
    hang_up(server)
    server.said("in effect: auth.jwt_secret")
    wait_until(lambda: ask(kept) == 401, "the new secret, on a connection that was known by the token")


def test_a_key_file_is_read_again_under_the_same_name(start_server, file, tmp_path):
    def set_of(secret):
        octets = base64.urlsafe_b64encode(secret.encode()).decode().rstrip("=")
        return json.dumps({"keys": [{"kty": "oct", "alg": "HS256", "k": octets}]})

    keys = tmp_path / "keys.json"
    keys.write_text(set_of("the first of two secrets that are long enough"))
    file.write_text(f'[auth]\njwks_file = "{keys}"\n')
    server = start_server(_flags=["--config", str(file)])
    token = jwt.encode({"sub": "carol", "exp": int(time.time()) + 600}, "the second of two secrets that are long enough", "HS256")
    server.ws().refused(401, "bad_token", "hello", token=token)
    keys.write_text(set_of("the second of two secrets that are long enough"))
    hang_up(server)
    wait_until(lambda: server.ws().call("hello", token=token)["type"] == "welcome", "the new key")
    keys.write_text("{")
    hang_up(server)
    server.said("the configuration stays as it was")
    assert server.ws().call("hello", token=token)["type"] == "welcome"


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_rooms_that_are_there_remember_as_much_as_it_says_now(start_server, file, kind, tmp_path):
    settings = {"store__kind": kind, "data_dir": str(tmp_path / "data")}
    server = start_server(_flags=["--config", str(file)], **settings)
    alice = server.ws("alice", "den", "other")
    alice.say("den", *map(str, range(20)))

    def remembered(client):
        return [message["content"] for message in client.call("history", room="den", limit=100)["messages"]]

    assert len(remembered(alice)) == 20
    file.write_text('[history]\ncount = 5\n')
    hang_up(server)
    server.said("in effect: history.count = 5")
    wait_until(lambda: remembered(alice) == ["15", "16", "17", "18", "19"], "the older ones to be gone")
    alice.say("den", "20")
    wait_until(lambda: remembered(alice) == ["16", "17", "18", "19", "20"], "as many as before")
    file.write_text('[history]\ncount = 7\n')
    hang_up(server)
    server.said("in effect: history.count = 7")
    alice.say("den", *map(str, range(21, 31)))
    wait_until(lambda: remembered(alice) == [str(n) for n in range(24, 31)], "more")


def test_a_mistake_changes_nothing(server, file):
    def complaints():
        return [line for line in server.log if "the configuration stays as it was" in line]

    def complained(why):
        """Of one signal at a time: where a reload has been asked for already, another one adds nothing."""
        before = len(complaints())
        hang_up(server)
        line = wait_until(lambda: complaints()[before:], why)[0]
        assert why in line and "ERROR" in line, line

    for text, why in [("[limits]\ncontent_byte = 1\n", "limits.content_byte"), ("level = ", "starling.toml"), ('[log]\nlevel = "loud"\n', "log.level")]:
        file.write_text(text)
        complained(why)
    file.unlink()
    complained(str(file))
    assert server.ws("alice").call("ping")["type"] == "pong"


def test_nothing_has_changed(server):
    hang_up(server)
    server.said("the configuration has not changed")


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_the_log_goes_on_in_a_new_file(start_server, tmp_path, name):
    log, rotated = tmp_path / "starling.log", tmp_path / "starling.log.1"
    server = start_server(log__file=str(log))
    wait_until(lambda: log.read_text(), "the first lines")
    os.rename(log, rotated)
    server.process.send_signal(getattr(signal, name))
    wait_until(lambda: log.exists() and name in log.read_text(), "the new file")
    before = rotated.read_text()
    server.terminate()
    assert server.exit_code() == 0
    assert "drained" in log.read_text() and rotated.read_text() == before


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_a_log_file_that_cannot_be_opened_again_is_kept(start_server, tmp_path, name):
    logs, moved = tmp_path / "logs", tmp_path / "moved"
    logs.mkdir()
    server = start_server(log__file=str(logs / "starling.log"))
    wait_until(lambda: (logs / "starling.log").read_text(), "the first lines")
    os.rename(logs, moved)
    old, new = moved / "starling.log", logs / "starling.log"

    def complaints():
        return [line for line in old.read_text().splitlines() if "cannot be opened again" in line]

    server.process.send_signal(getattr(signal, name))
    complaint = wait_until(complaints, "the complaint in the old file")[0]
    assert " ERROR " in complaint and str(new) in complaint and "No such file" in complaint, complaint
    assert not [line for line in old.read_text().splitlines() if "has been opened again" in line]
    server.process.send_signal(getattr(signal, name))
    wait_until(lambda: len(complaints()) == 2, "another try, and another complaint")
    logs.mkdir()
    server.process.send_signal(getattr(signal, name))
    wait_until(lambda: new.exists() and "has been opened again" in new.read_text(), "the new file")
    before = old.read_text()
    server.terminate()
    assert server.exit_code() == 0
    assert "drained" in new.read_text() and old.read_text() == before and len(complaints()) == 2


# starling check


def check(file, *variables):
    return run(["env", *variables, binary(), "check", str(file)])


def test_check_says_whether_a_server_would_start(file, tmp_path):
    good = check(file)
    assert (good.returncode, good.stdout.decode().strip(), good.stderr) == (0, f"{file}: ok", b"")
    for text, why in [
        ("[limits]\ncontent_byte = 1\n", "limits.content_byte"), ("x", "starling.toml"), ('[auth]\njwt_key_file = "no.pem"\n', "no.pem"),
        (f'[[listen]]\nkind = "web"\naddress = "127.0.0.1:1"\ntls = {{ cert = "{tmp_path}/c.pem", key = "{tmp_path}/k.pem" }}\n', "c.pem"),
    ]:
        file.write_text(text)
        bad = check(file)
        assert bad.returncode == 2 and why in bad.stderr.decode() and bad.stderr.startswith(b"starling: "), bad
        assert bad.stdout == b""
    assert check(tmp_path / "nothing.toml").returncode == 2
    file.write_text("[auth]\nguests = false\n")
    warned = check(file)
    assert warned.returncode == 0 and b"warning: auth.guests" in warned.stderr
    file.write_text("")
    assert check(file, "STARLING_LOG_LEVEL=loud").returncode == 2


@pytest.fixture
def nobody(directory):
    """How to run a program as somebody who cannot write everywhere, and a directory where that one cannot write."""
    closed = os.path.join(directory, "closed")
    os.mkdir(closed, 0o555)
    return {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}, closed


def placed(directory, **places):
    """A configuration whose files are where they can be, but for those that are named; and where they are."""
    places = {"log": f"{directory}/a.log", "data": f"{directory}/deep/down", "web": f"unix:{directory}/w.sock"} | places
    file = os.path.join(directory, "starling.toml")
    with open(file, "w") as out:
        out.write(f'cores = 1\npin = false\ndata_dir = "{places["data"]}"\n[log]\nfile = "{places["log"]}"\n'
                  f'[[listen]]\nkind = "web"\naddress = "{places["web"]}"\n{places.get("more", "")}')
    return file


def listener(address):
    return f'[[listen]]\nkind = "line"\naddress = "{address}"\n'


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


@pytest.mark.parametrize("name, place", [
    ("log", "{0}/gone/a.log"), ("log", "{0}"), ("log", "{0}/file/a.log"), ("log", "{1}/a.log"),
    ("data", "{0}/file"), ("data", "{0}/file/deep"), ("data", "{1}/deep/down"), ("data", "{1}"), ("data", "{0}/odd"), ("data", "{0}/linked"),
    ("web", "unix:{0}/gone/w.sock"), ("web", "unix:{0}/file"), ("web", "unix:{0}/file/w.sock"), ("web", "unix:{1}/w.sock"),
    ("web", "unix:{0}/" + "w" * 120), ("web", "192.0.2.1:0"),
    ("data", "{0}/dangling"), ("data", "{0}/dangling/deep"), ("data", "{0}/a.log"), ("data", "{0}/w.sock"), ("data", "{0}/w.sock/deep"),
    ("log", "{0}/w.sock"), ("log", "{0}/self/w.sock"), ("log", "{0}/deep"), ("log", "{0}/deep/down"), ("log", "{0}/self/deep/down"),
    ("more", listener("unix:x.sock") + listener("unix:./x.sock")), ("more", listener("unix:{0}/self//w.sock")), ("more", listener("[::ffff:127.0.0.1]:0")),
    ("more", listener("127.0.0.1:{2}") + listener("0.0.0.0:{2}")), ("more", listener("0.0.0.0:{2}") + listener("127.0.0.1:{2}")),
    ("more", listener("[::]:{2}") + listener("[::1]:{2}")),
    ("more", '[cluster]\nredis = "redis://127.0.0.1:1"\nca = "{0}/ca.pem"\n'), ("more", '[consul]\nagent = "http://127.0.0.1:1"\n'),
])
def test_check_finds_where_a_server_could_not_write(directory, nobody, name, place):
    options, closed = nobody
    os.chmod(directory, 0o777)
    open(f"{directory}/file", "w").close()
    os.makedirs(f"{directory}/odd/starling.db")
    os.mkdir(f"{directory}/linked")
    for data in ["odd", "linked"]:
        os.chmod(f"{directory}/{data}", 0o777)
    os.symlink(f"{directory}/file", f"{directory}/linked/starling.db")
    os.symlink("nowhere", f"{directory}/dangling")
    os.symlink(".", f"{directory}/self")
    file = placed(directory, **{name: place.format(directory, closed, free_port())})
    before = sorted(os.listdir(directory))
    checked = run([binary(), "check", file], **options)
    message = checked.stderr.decode()
    assert checked.returncode == 2 and len(message.splitlines()) == 1 and checked.stdout == b"", checked
    assert sorted(os.listdir(directory)) == before, "it has made something"
    # And that is so: a server ends for the same reason.
    served = run([binary(), "serve", "--config", file], **options)
    # What no machine has a place for is wrong usage, and what this one has not a failure.
    assert served.returncode == (2 if "at most 107 bytes" in message else 1), served
    end = served.stderr.decode().splitlines()[-1]
    if (name, place) != ("data", "{1}"):
        assert end == message.strip()


@pytest.mark.parametrize("name, place", [
    ("log", "/proc/a.log"), ("log", "/sys/a.log"), ("data", "/proc/data"), ("data", "/sys/data"), ("web", "unix:/proc/w.sock"),
])
def test_check_finds_where_nobody_can_write(directory, name, place):
    """Whatever modes say, and root may do."""
    file = placed(directory, **{name: place})
    assert (checked := check(file)).returncode == 2, checked
    assert place.removeprefix("unix:") in checked.stderr.decode()
    assert run([binary(), "serve", "--config", file]).returncode == 1


@pytest.mark.parametrize("place, said", [
    ("odd", "starling.db is a directory, and the store is a file"), ("fifo", "starling.db is no file"),
    ("dangling", "it is a link to nowhere, which is not there"), ("file", "Not a directory"),
])
def test_a_server_and_check_say_why_a_data_directory_is_none_and_what_to_do(directory, place, said):
    os.makedirs(f"{directory}/odd/starling.db")
    os.mkdir(f"{directory}/fifo")
    os.mkfifo(f"{directory}/fifo/starling.db")
    os.symlink("nowhere", f"{directory}/dangling")
    open(f"{directory}/file", "w").close()
    file = placed(directory, data=f"{directory}/{place}")
    for ended in [check(file), run([binary(), "serve", "--config", file])]:
        told = ended.stderr.decode().splitlines()[-1]
        assert ended.returncode and said in told and f"{directory}/{place}" in told and "with --data-dir" in told, told


@pytest.mark.parametrize("name", ["starling.db", "starling.db-wal", "starling.lock"])
def test_the_log_is_not_written_into_the_store(directory, name):
    file = placed(directory, data=directory, log=f"{directory}/self/{name}")
    os.symlink(".", f"{directory}/self")
    for ended in [check(file), run([binary(), "serve", "--config", file])]:
        assert ended.returncode and b"log.file" in ended.stderr and b"is a file of the store" in ended.stderr, ended
    assert sorted(os.listdir(directory)) == ["self", "starling.toml"]


def test_check_does_not_open_a_fifo(directory):
    """Whoever reads it would hear its end."""
    file = placed(directory, log=f"{directory}/a.log")
    os.mkfifo(f"{directory}/a.log")
    reader = os.open(f"{directory}/a.log", os.O_RDONLY | os.O_NONBLOCK)
    try:
        checked = check(file)
        assert checked.returncode == 0 and b"warning: log.file" in checked.stderr and b"is a FIFO" in checked.stderr, checked
        heard = select.poll()
        heard.register(reader, select.POLLIN)
        assert heard.poll(0) == [], "somebody had opened it, and has closed it"
    finally:
        os.close(reader)
    served = run([binary(), "serve", "--config", file])
    assert served.returncode == 1 and b"No such device" in served.stderr, "and nobody reads it now"


def test_check_takes_addresses_that_a_server_takes(directory):
    port = free_port()
    file = placed(directory, more=listener(f"127.0.0.1:{port}") + listener(f"127.0.0.2:{port}") + listener(f"[::]:{port}") + 2 * listener("127.0.0.1:0"))
    assert (checked := check(file)).returncode == 0, checked


def test_check_does_not_miss_what_a_server_makes_by_itself(directory, nobody):
    options, _ = nobody
    os.chmod(directory, 0o777)
    file = placed(directory)
    before = sorted(os.listdir(directory))
    checked = run([binary(), "check", file], **options)
    assert (checked.returncode, checked.stderr) == (0, b""), checked
    assert sorted(os.listdir(directory)) == before, "it has made something"


def test_check_does_not_mind_a_server_that_runs_or_that_has_been_there(start_on_paths, directory):
    data = f"{directory}/data"
    server = start_on_paths(store__kind="sqlite", data_dir=data)
    file = f"{directory}/starling.toml"
    assert (checked := check(file, f"STARLING_DATA_DIR={data}")).returncode == 0, checked
    assert server.get("/health").status == 200
    server.kill()
    assert os.path.exists(server.paths["web"])
    assert (checked := check(file, f"STARLING_DATA_DIR={data}")).returncode == 0, checked
    # Where a server has been, a store that is empty is missed.
    open(f"{data}/starling.db", "w").close()
    for beside in ["-wal", "-shm"]:
        os.remove(f"{data}/starling.db{beside}")
    missed = check(file, f"STARLING_DATA_DIR={data}")
    assert missed.returncode == 2 and b"is empty" in missed.stderr, missed
