"""What the log tells: lives of connections, requests, as JSON, how often, and what it never tells."""

import json
import pathlib
import re
import signal

import grpc
import pytest

from grpc_client import GrpcClient, channel_to, schema_of
from helpers import binary, run, wait_until
from test_accounts import PASSWORD, post, register, user
from test_cluster import resumed, start_node, start_redis  # noqa: F401  (fixtures among them)
import tokens

DOCUMENT = pathlib.Path(__file__).parent.parent.parent / "docs" / "logging.md"
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (ERROR|WARN |INFO |DEBUG|TRACE) ([a-z_:]+): (.*)")
NAME = re.compile(r"\bconn=(\d+\.\d+\.\d+)\b")


def life_of(server, *texts):
    """What the log tells of the connection that is named in the line with these texts, when it has been closed."""
    name = NAME.search(server.said(*texts)[0])[1]
    server.said(f"conn={name} ", ": closed ")
    lines = [LINE.fullmatch(line) for line in server.log if f"conn={name} " in f"{line} "]
    return [line[3].replace(f"conn={name}", "").replace("  ", " ").strip() for line in lines]


def metric(server, name):
    found = re.search(rf"^{name} (\d+)$", server.get("/metrics").body.decode(), re.MULTILINE)
    return int(found[1])


@pytest.fixture
def server(start_server):
    return start_server(log__level="debug")


# The life of a connection.


def test_one_name_finds_the_life_of_a_websocket(server):
    alice = server.ws("alice", "den")
    alice.refused(404, "no_such_room", "leave", room="nowhere")
    alice.close()
    life = life_of(server, "nickname=alice")
    assert life[0] == "accepted peer=127.0.0.1 listener=web"
    assert re.fullmatch(r"request request=[0-9a-f]{16} method=GET path=/ws", life[1]), life
    assert re.fullmatch(r"answered request=[0-9a-f]{16} status=101 us=\d+", life[2]), life
    assert life[3] == "speaks protocol=websocket"
    assert re.fullmatch(r"welcomed session=[0-9a-f]{16} nickname=alice resumed=false", life[4]), life
    assert life[5:7] == ["refused code=404 reason=no_such_room", "closing reason=peer_closed code=1000"], life
    closed = re.fullmatch(r"closed reason=peer_closed cut_off=false received_bytes=(\d+) sent_bytes=(\d+) lived_ms=(\d+)", life[7])
    assert closed and int(closed[1]) > 100 and int(closed[2]) > 100, life
    assert len(life) == 8


def test_and_of_one_that_says_hello_in_its_query(server):
    server.ws_at("/ws?nickname=alice&room=den").close()
    life = life_of(server, "nickname=alice")
    assert "speaks protocol=websocket" in life
    assert [line.split()[0] for line in life] == ["accepted", "request", "answered", "speaks", "welcomed", "closing", "closed"]


def test_and_of_lines_and_frames(server):
    for nickname, protocol, client in [("jack", "json_lines", server.json_line("jack")), ("tina", "text_lines", server.text_line("tina"))]:
        client.raw.finish()
        client.raw.rest()
        client.raw.close()
        life = life_of(server, f"nickname={nickname}")
        assert life[:2] == ["accepted peer=127.0.0.1 listener=line", f"speaks protocol={protocol}"], life
        assert life[-2] == "closing reason=input_ended" and life[-1].startswith("closed reason=input_ended"), life
    raw = server.connect("frame")
    raw.send(b"no frame at all, but something else")
    raw.rest()
    raw.close()
    life = life_of(server, "not understood")
    assert life[0] == "accepted peer=127.0.0.1 listener=frame"
    assert life[-2] == "closing reason=bad_protocol" and "why=" in life[-3], life


def test_and_of_a_call(server):
    client = GrpcClient(server)
    client.enter("carol")
    client.close()
    client.channel.close()
    life = life_of(server, "nickname=carol")
    begun = re.fullmatch(r"call begun on=(\d+\.\d+\.\d+) method=/chat\.ChatService/Connect", life[0])
    assert begun, life
    parent = life_of(server, f"conn={begun[1]} ", "accepted")
    assert parent[0] == "accepted peer=127.0.0.1 listener=grpc", parent


def test_a_request_has_its_id_in_the_log_as_in_its_answer(server):
    response = server.http(b"GET /health?token=secret-in-a-query HTTP/1.1\r\nHost: t\r\nX-Request-Id: my-own-1\r\n\r\n")
    assert response.status == 200
    lines = server.said("request=my-own-1", count=2)
    names = {NAME.search(line)[1] for line in lines}
    assert len(lines) == 2 and len(names) == 1
    assert "method=GET path=/health" in lines[0] and "answered" in lines[1] and "status=200" in lines[1]
    assert not [line for line in server.log if "secret-in-a-query" in line]


def test_a_method_that_a_client_has_made_up_is_cut(server):
    response = server.http(b"A" * 5000 + b" /health HTTP/1.1\r\nHost: t\r\nX-Request-Id: made-up\r\n\r\n")
    assert response.status == 501
    line = server.said("request=made-up method=")[0]
    assert f" method={'A' * 16}... path=/health" in line


def test_every_line_of_what_is_asked_has_its_names(disk, tmp_path):
    """Also those of other threads: warnings that are logged at any level."""
    server = disk(log__level="debug", log__format="json", log__repeats=0, rate__logins_per_minute=0)
    register(server, "bob")
    user(tmp_path / "data", "disable", "bob")
    body = json.dumps({"username": "bob", "password": PASSWORD})
    for id in ["login-1", "login-2"]:
        head = f"POST /api/login HTTP/1.1\r\nHost: t\r\nX-Request-Id: {id}\r\nContent-Length: {len(body)}\r\n\r\n"
        assert server.http((head + body).encode()).status == 401
    messages, stubs = schema_of(server)
    login = stubs.ChatServiceStub(channel_to(server)).Login
    with pytest.raises(grpc.RpcError):
        login(messages.LoginRequest(username="bob", password=PASSWORD), timeout=10)
    server.http(b"GET /nowhere HTTP/1.1\r\nHost: t\r\nX-Request-Id: the-last\r\n\r\n")
    for rubbish in [b"\xff\xfe\r\n\r\n", b"GET\r\n\r\n"]:
        raw = server.connect("web")
        raw.send(rubbish)
        raw.rest()
    alice = server.ws("alice", "den")
    alice.refused(404, "no_such_room", "leave", room="nowhere")
    server.said('"the-last"', '"answered"')
    warned = [json.loads(line) for line in server.said("is disabled", count=3)]
    requests = {line["request"]: line["conn"] for line in map(json.loads, server.log) if line["message"] == "request"}
    assert [line.get("request") for line in warned] == ["login-1", "login-2", None]
    assert [line["peer"] for line in warned] == ["127.0.0.1"] * 3
    assert [line["conn"] for line in warned[:2]] == [requests["login-1"], requests["login-2"]]
    call = json.loads(server.said('"call begun"', "Login")[0])
    assert warned[2]["conn"] == call["conn"], "a call has a name of its own"
    of_connections = re.compile(r"starling::(shard|reactor|store::hashers)")
    for line in map(json.loads, server.log):
        assert "conn" in line or not of_connections.match(line["target"]), line


def test_by_default_no_connection_is_in_the_log(start_server):
    server = start_server()
    server.said("room for")  # the last that it says of itself
    before = len(server.log)
    server.ws("alice", "den").close()
    server.get("/health")
    server.connect("frame").send(b"no frame at all, but something else")
    wait_until(lambda: metric(server, 'starling_accepted_total') >= 4, "all to be accepted")
    assert server.log[before:] == []


def test_the_level_of_one_module_gives_an_access_log(start_server):
    server = start_server(log__level="warn,starling::shard::access_log=debug")
    server.ws("alice", "den").close()
    server.http(b"GET /health HTTP/1.1\r\nHost: t\r\nX-Request-Id: the-last\r\n\r\n")
    server.said("request=the-last", "answered")
    assert {LINE.fullmatch(line)[2] for line in server.log if "DEBUG" in line} == {"starling::shard::access_log"}
    assert not [line for line in server.log if " INFO " in line]


def test_a_module_that_never_logs_is_refused_with_those_that_do(tmp_path):
    file = tmp_path / "starling.toml"
    file.write_text('[log]\nlevel = "info,starling::clustr=debug"\n')
    refused = run([binary(), "check", str(file)])
    message = refused.stderr.decode()
    assert refused.returncode == 2 and len(message.splitlines()) == 1
    assert "log.level" in message and '"starling::clustr"' in message and "cluster" in message and "store" in message, message
    file.write_text('[log]\nlevel = "info,starling::cluster=debug"\n')
    assert run([binary(), "check", str(file)]).returncode == 0


# JSON.


def test_every_line_is_an_object_whatever_a_peer_sends(start_server):
    server = start_server(log__level="trace", log__format="json")
    server.http(b'GET /"\\%00%1b[2J HTTP/1.1\r\nHost: t\r\nX-Request-Id: "\\quoted\r\n\r\n')
    for rubbish in [b"\xff\xfe\x00\x1b[2J\r\n\r\n", b"GET /\xff\x80 HTTP/1.1\r\n\r\n", b'GET /"}\n{"level":"forged"} HTTP/1.1\r\n\r\n']:
        for listener in ["web", "line", "frame", "grpc"]:
            raw = server.connect(listener)
            raw.send(rubbish)
            raw.finish()
            raw.rest()
            raw.close()
    server.ws("öttó", "den").close()
    server.ws().refused(400, "bad_name", "hello", nickname='a"\n\u202e\x1b')
    server.said('"nickname":"öttó"')
    name = json.loads(server.said('"nickname":"öttó"')[0])["conn"]
    server.said(f'"conn":"{name}"', '"message":"closed"')
    lines = [json.loads(line) for line in server.log]
    for line in lines:
        assert {"time", "level", "target", "message"} <= set(line) and line["target"].startswith("starling::"), line
        assert line["level"] in ["error", "warn", "info", "debug", "trace"], line
    closed = [line for line in lines if line.get("conn") == name and line["message"] == "closed"][0]
    assert closed["received_bytes"] > 0 and closed["lived_ms"] >= 0 and closed["cut_off"] == "false"


# What peers can repeat.


def test_a_warning_that_peers_can_repeat_is_limited_counted_and_told(disk, tmp_path):
    server = disk(rate__logins_per_minute=0, log__repeats=2)
    register(server, "alice")
    user(tmp_path / "data", "disable", "alice")
    for _ in range(6):
        assert post(server, "/api/login", {"username": "alice", "password": PASSWORD})[0] != 200
    wait_until(lambda: metric(server, "starling_log_lines_suppressed_total") == 4, "the others to be counted")
    assert len(server.said("is disabled", count=2)) == 2
    assert metric(server, "starling_log_lines_left_out_total") == 0


# What is never told.


def test_no_secret_is_ever_in_the_log(disk, tmp_path):
    file = tmp_path / "starling.toml"
    secrets = ["a-first-secret-of-jwt-that-is-long-enough", "a-second-secret-of-jwt-that-is-long-enough", "the-key-of-an-api", "the-acl-token-of-consul"]

    def write(secret):
        file.write_text(f'[auth]\njwt_secret = "{secret}"\napi_keys = [{{ name = "ci", key = "{secrets[2]}" }}]\n'
                        f'[consul]\nagent = "http://127.0.0.1:1"\ntoken = "{secrets[3]}"\n')

    write(secrets[0])
    server = disk(_flags=["--config", str(file)], log__level="trace", rate__logins_per_minute=0)
    words = {name: f"never-in-a-log-{name}" for name in ["said", "private", "state", "text", "pushed", "broadcast", "password", "wrong", "status", "call"]}
    issued = register(server, "alice", words["password"])
    assert post(server, "/api/login", {"username": "alice", "password": words["wrong"]})[0] == 401
    issued_again = post(server, "/api/login", {"username": "alice", "password": words["password"]})[1]["token"]
    alice = server.ws().enter(None, "den", token=issued)
    bob = server.json_line("bob", "den")
    alice.say("den", words["said"])
    alice.call("private", target="bob", content=words["private"])
    alice.call("state", room="den", key="topic", value=words["state"])
    alice.refused(404, "no_such_room", "message", room="nowhere", content=words["said"])
    text = server.text_line("tina")
    text.type(words["text"])
    void = tokens.token("mallory")
    server.ws().refused(401, "bad_token", "hello", token=void)
    assert server.get(f"/ws?token={void}").status in (400, 401, 426)
    server.ws_at(f"/ws?token={issued_again}&room=den").close()
    for header in [f"X-API-Key: {secrets[2]}", "X-API-Key: a-guess-at-a-key", f"Authorization: Bearer {issued}", f"Authorization: Bearer {void}"]:
        body = json.dumps({"content": words["pushed"]})
        server.http(f"POST /api/rooms/den/messages HTTP/1.1\r\nHost: t\r\n{header}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    resume = bob.welcome["resume"]
    bob.drop()
    again = server.ws()
    welcome = again.call("hello", resume=resume)
    assert welcome["resumed"] is True
    renewed = welcome["resume"]
    messages, stubs = schema_of(server)
    call = stubs.ChatServiceStub(channel_to(server))
    sent = call.SendMessage(messages.SendMessageRequest(message=messages.Message(user_id="alice", content=words["call"])),
                            metadata=[("authorization", f"Bearer {issued}"), ("x-api-key", secrets[2])], timeout=10)
    assert sent is not None
    write(secrets[1])
    server.process.send_signal(signal.SIGHUP)
    server.said("in effect: auth.jwt_secret")
    alice.close()
    server.said(": closed ", "reason=peer_closed", count=2)
    told = "\n".join(server.log)
    assert "DEBUG" in told and "nickname=alice" in told, "it is a log of everything else"
    for secret in [*secrets, *words.values(), issued, issued_again, void, resume, renewed, "a-guess-at-a-key"]:
        # Of tokens the parts, too: the signature is what counts.
        for part in {secret, *secret.split(".")}:
            assert len(part) < 12 or part not in told, [line for line in server.log if part in line][0]


def test_nor_is_what_nodes_share(start_redis, start_node):  # noqa: F811
    redis = start_redis("--requirepass", "never-in-a-log-redis")
    redis.cli("ACL", "SETUSER", "node", "on", ">never-in-a-log-node", "~*", "&*", "+@all")
    one, two = (start_node(f"redis://node:never-in-a-log-node@127.0.0.1:{redis.port}", log__level="trace") for _ in range(2))
    alice, bob = one.ws("alice", "den"), two.ws("bob", "den")
    words = [f"never-in-a-log-{name}" for name in ("said", "private", "state", "kept")]
    alice.say("den", words[0])
    assert bob.expect("message")["content"] == words[0]
    bob.call("private", target="alice", content=words[1])
    alice.call("state", room="den", key="topic", value=words[2])
    issued = [alice.welcome["resume"], bob.welcome["resume"]]
    # What they sign with, in the form in which it is there.
    secrets = redis.cli("HVALS", "starling:{secret}").split()
    assert len(secrets) == 2 and all(len(secret) == 64 for secret in secrets)
    # A session goes from one to the other, with what was kept for it.
    bob.drop()
    alice.expect("presence", event="away", nickname="bob")
    assert alice.call("private", target="bob", content=words[3])["stored"] is True
    bob = resumed(one, bob)
    assert bob.expect("private", content=words[3])
    issued.append(bob.welcome["resume"])
    # Redis goes away, and takes the password no more when it is back; and then it does again.
    redis.cli("ACL", "SETUSER", "node", "resetpass", ">another")
    redis.cli("CLIENT", "KILL", "USER", "node")
    alice.refused(503, "backplane_down", "message", room="den", content=words[0])
    for node in (one, two):
        node.said("backplane is down")
    redis.cli("ACL", "SETUSER", "node", "resetpass", ">never-in-a-log-node")
    wait_until(lambda: alice.call("message", room="den", content=words[0])["type"] == "ack", "Redis to be back")
    for node in (one, two):
        node.terminate()
        assert node.exit_code() == 0
        node.said("drained")
        told = "\n".join(node.log)
        assert "DEBUG" in told and "starling::cluster" in told, "it is a log of everything else"
        for secret in ["never-in-a-log", *secrets, *(part for token in issued for part in token.split("."))]:
            assert len(secret) < 12 or secret not in told, [line for line in node.log if secret in line][0]


@pytest.mark.parametrize("url", ["redis://somebody:never-in-a-log@127.0.0.1:1", "rediss://:never-in-a-log@127.0.0.1:1"])
def test_nor_is_the_password_of_the_backplane(url):
    ended = run([binary(), "serve", "--cores", "1", "--web", "127.0.0.1:0", "--set", "log.level=trace", "--set", f"cluster.redis={url}"])
    assert ended.returncode == 1 and b"127.0.0.1:1" in ended.stderr and b"never-in-a-log" not in ended.stderr + ended.stdout, ended


# The document.


def shape(line):
    """A line without what is different each time."""
    line = re.sub(r"\b[0-9a-f]{16}\b", "H", re.sub(r"^\S+Z ", "", line))
    return re.sub(r"\d+", "N", line)


def documented():
    blocks = re.findall(r"```text\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def test_every_line_of_the_document_is_one_that_is_logged(disk, tmp_path):
    server = disk(log__level="debug", log__repeats=1, rate__logins_per_minute=0)
    alice = server.ws("alice", "lobby")
    alice.refused(404, "no_such_room", "leave", room="nowhere")
    alice.close()
    life_of(server, "nickname=alice")
    server.http(b"GET /health HTTP/1.1\r\nHost: t\r\nX-Request-Id: deploy-42\r\n\r\n")
    server.said("request=deploy-42", count=2)
    register(server, "bob")
    user(tmp_path / "data", "disable", "bob")
    for _ in range(3):
        post(server, "/api/login", {"username": "bob", "password": PASSWORD})
    server.said("is disabled")
    logged = {shape(line) for line in server.log}
    lines = documented()
    assert len(lines) >= 10
    for line in lines:
        assert LINE.fullmatch(line), line
        # How many were left out stands in the next line of its place, ten seconds later.
        assert shape(re.sub(r" \(and \d+ more like it in \d+ s\)", "", line)) in logged, f"{line}\n" + "\n".join(sorted(logged))
