"""Limits: what is too much is refused in the words that the contract gives for it."""

import pytest

from binary import JSON, PROTOBUF, FrameClient
from helpers import RawClient, RawWebSocket, TextClient, cores, is_free, wait_until


def test_a_connection_too_many_is_told_so(start_server):
    server = start_server(limits__connections=6)
    clients = [server.ws(f"user{number}") for number in range(6)]
    assert all(client.call("ping")["type"] == "pong" for client in clients)

    refused = server.get("/health")
    assert refused.status == 503
    assert int(refused.headers["retry-after"]) >= 1
    line = server.connect("line")
    assert b"! 4105 too_many_connections" in line.rest()
    program = server.connect("line")
    program.send(b'{"type":"ping"}\n')
    assert b'"code":4105,"reason":"too_many_connections"' in program.rest()
    assert all(client.call("ping")["type"] == "pong" for client in clients), "those who are there stay"

    clients.pop().close()
    wait_until(lambda: server.get("/health").status == 200, "the place to be free again")


def test_connections_of_one_address_are_limited(start_server):
    server = start_server(limits__connections_per_address=3)
    for number in range(3):
        server.ws(f"user{number}")
    assert server.get("/health").status == 503


@pytest.mark.parametrize("carrier", ["ws", "json_line"])
def test_too_many_errors_end_the_connection(server, carrier):
    client = getattr(server, carrier)("clumsy", "lobby")
    for _ in range(10):
        client.refused(400, "unknown_type", "dance")
    client.send("dance")
    bye = client.expect("bye")
    assert (bye["code"], bye["reason"], bye["resumable"]) == (4104, "too_many_errors", False)
    if carrier == "ws":
        assert client.closed_with() == 4104
    else:
        client.raw.rest()
    assert is_free(server, "clumsy")


def test_too_many_errors_end_a_text_line_too(server):
    client = server.text_line("clumsy")
    for _ in range(11):
        client.type("/dance")
    client.expect(r"! 4104 too_many_errors: .+")
    client.raw.rest()


def test_errors_of_other_kinds_do_not_count(server):
    client = server.ws("unlucky")
    for _ in range(30):
        client.refused(404, "no_such_room", "leave", room="nowhere")
    assert client.call("ping")["type"] == "pong"


def test_whoever_says_no_hello_is_sent_away(start_server):
    server = start_server(limits__hello_ms=300)
    silent, polite = server.ws(), server.ws("polite")
    bye = silent.expect("bye")
    assert (bye["code"], bye["reason"]) == (4106, "no_hello")
    assert silent.closed_with() == 4106
    program = server.connect("line")
    program.send(b'{"type":"ping"}\n')
    assert b"4106" in program.rest()
    assert polite.call("ping")["type"] == "pong"


def test_a_dead_connection_is_probed_and_closed(start_server):
    server = start_server(heartbeat__probe_ms=200, heartbeat__timeout_ms=600)
    alive = server.ws("alive", "lobby")
    dead = RawWebSocket(server)
    dead.send("hello", nickname="dead")
    dead.send("join", room="lobby")
    welcome = dead.expect("welcome")
    assert (welcome["heartbeat_ms"], welcome["timeout_ms"]) == (200, 600)
    dead.expect("joined")
    # A raw socket answers no probe; the library of the other client does so by itself.
    dead.expect_frame(RawWebSocket.PING)
    bye = dead.expect("bye")
    assert (bye["code"], bye["reason"]) == (4203, "timeout")
    assert dead.closed_with() == 4203
    assert alive.expect("presence", nickname="dead", event="join")
    assert bye["resumable"] is True
    assert alive.expect("presence", nickname="dead")["event"] == "away"
    assert alive.call("ping")["type"] == "pong"


def test_json_lines_are_probed_and_text_lines_are_not(start_server):
    server = start_server(heartbeat__probe_ms=200, heartbeat__timeout_ms=600)
    program, person = server.json_line("program"), server.text_line("person")
    program.expect("ping")
    assert program.expect("bye")["code"] == 4203
    assert person.until_pong() == []


@pytest.mark.parametrize("encoding", [JSON, PROTOBUF])
def test_frames_are_probed(start_server, encoding):
    server = start_server(heartbeat__probe_ms=200, heartbeat__timeout_ms=600)
    alive, dead = (FrameClient(server, encoding).enter(nickname, "den") for nickname in ("alive", "dead"))
    for _ in range(4):
        assert alive.expect("ping").keys() == {"type"}
        alive.send("pong")
    assert dead.expect("ping")
    bye = dead.expect("bye")
    assert (bye["code"], bye["reason"], bye["resumable"]) == (4203, "timeout", True)
    assert alive.call("ping")["type"] == "pong"


@pytest.mark.parametrize("encoding", [JSON, PROTOBUF])
def test_too_many_errors_end_a_frame_connection(server, encoding):
    client = FrameClient(server, encoding).enter("clumsy", "den")
    for _ in range(11):
        client.raw.send(FrameClient.frame(encoding, 99, b""))
    bye = client.expect("bye")
    assert (bye["code"], bye["resumable"]) == (4104, False)
    assert len([event for event in client._unread if event["type"] == "error"]) >= 10
    assert is_free(server, "clumsy")


def test_any_byte_is_a_sign_of_life(start_server):
    server = start_server(heartbeat__probe_ms=200, heartbeat__timeout_ms=600)
    program = server.json_line("program")
    for _ in range(6):
        program.expect("ping")
        program.send("pong")
    assert program.call("ping")["type"] == "pong"


@pytest.mark.parametrize("nickname", [
    "a", "x" * 32, "𓀀" * 32, "李明", "أمل", "אבג", "नमस्ते", "e\u0301", "9lives", "a.b-c_d", "straße",
])
def test_good_nicknames(server, nickname):
    assert server.ws().call("hello", nickname=nickname)["nickname"] == nickname


@pytest.mark.parametrize("nickname", [
    "", "x" * 33, "_a", "-a", ".a", "a b", " a", "a ", "a\n", "a\u0000", "a/b", "a@b", "<b>", "\u0301a", "😀", "a\u200db", "a\u202eb", "\ufeffa",
    "a\u00a0b",
])
def test_bad_nicknames(server, nickname):
    server.ws().refused(400, "bad_name", "hello", nickname=nickname)


@pytest.mark.parametrize("first, second", [
    ("Alice", "aLICE"), ("ÅSA", "åsa"), ("Σίσυφος", "σίσυφοσ"), ("ДМИТРИЙ", "дмитрий"), ("\u212aelvin", "kelvin"), ("STRA\u1e9eE", "straße"),
])
def test_nicknames_that_fold_alike_are_one(server, first, second):
    server.ws(first)
    server.ws().refused(409, "nickname_in_use", "hello", nickname=second)


@pytest.mark.parametrize("first, second", [("strasse", "straße"), ("e\u0301a", "éa"), ("I", "ı")])
def test_nicknames_that_only_look_alike_are_two(server, first, second):
    server.ws(first)
    server.ws(second)


def test_rooms_have_longer_names_and_fold_too(server):
    alice, bob = server.ws("alice"), server.ws("bob")
    name = "Ж" * 64
    assert alice.call("join", room=name)["room"] == name
    assert bob.call("join", room=name.lower())["room"] == name, "shown as first written"
    assert alice.call("message", room=name.lower(), content="x")["room"] == name
    alice.refused(400, "bad_name", "join", room="x" * 65)


def test_rooms_of_a_session_are_limited(start_server):
    server = start_server(limits__rooms_per_session=3)
    client = server.ws("alice", "a", "b", "c")
    error = client.refused(429, "too_many_rooms", "join", room="d")
    assert error["retryable"] is False
    client.call("leave", room="a")
    assert client.call("join", room="d")["type"] == "joined"


def test_content_may_be_limited_further(start_server):
    server = start_server(limits__content_bytes=100)
    client = server.ws("alice", "lobby")
    assert client.call("message", room="lobby", content="x" * 100)["type"] == "ack"
    client.refused(413, "too_large", "message", room="lobby", content="x" * 101)


def test_a_text_line_has_time_to_choose_a_name(start_server):
    server = start_server(limits__hello_ms=200)
    waits = server.ws()
    client = server.keep(TextClient(server.line))
    client.expect(r".*nickname.*")
    # The other's end shows that the time for programs is over.
    assert waits.closed_with() == 4106
    client.type("unhurried")
    client.type("/who")
    client.expect_text("* lobby has 1 member: unhurried")


def test_a_slow_head_holds_nobody_up(server):
    slow = [RawClient(server.web) for _ in range(20)]
    for client in slow:
        server.keep(client).send(b"GET /health HTTP/1.1\r\nHost:")
    assert server.get("/health").status == 200
    for client in slow:
        client.send(b" test\r\n\r\n")
        assert client.response().body == b"OK"


def test_the_lobby_is_always_there(start_server):
    server = start_server(limits__rooms=1, limits__rooms_per_session=1000)
    crowd = server.ws("crowd")
    # Enough for every core to have as many as it may have.
    names = [f"room{number}" for number in range(40)]
    replies = [crowd.call("join", room=name) for name in names]
    assert {reply.get("reason") for reply in replies} == {None, "too_many_rooms"}
    person = server.text_line("person")
    person.type("hi")
    assert person.until_pong() == []
    assert server.ws("program", "lobby").call("members", room="lobby")["total"] == 2
    # It takes the place of no other room, and makes none for one more.
    assert all(crowd.call("join", room=f"more{number}")["type"] == "error" for number in range(10))


def test_a_full_server_forgets_rooms_without_members_and_never_the_lobby_for_them(start_server):
    server = start_server(limits__rooms=1)
    if cores() > 1:
        pytest.skip("which rooms share a core is theirs to know")
    alice = server.ws("alice", "lobby", "a")
    alice.say("lobby", "kept")
    alice.say("a", "forgotten")
    for room in ("lobby", "a"):
        alice.call("leave", room=room)
    for number in range(5):
        assert alice.call("join", room=f"b{number}")["type"] == "joined"
        alice.say(f"b{number}", "x")
        alice.refused(429, "too_many_rooms", "join", room="c")
        alice.call("leave", room=f"b{number}")
    alice.refused(404, "no_such_room", "history", room="a")
    assert [message["content"] for message in alice.call("history", room="lobby")["messages"]] == ["kept"]


@pytest.mark.parametrize("invisible", [
    "\u3164", "\u115f", "\u1160", "\uffa0", "\u17b4", "\u17b5", "\ufe00", "\ufe0f", "\u034f", "\u180b", "\U000e0100", "\u200d",
])
def test_names_have_no_invisible_characters(server, invisible):
    client = server.ws()
    for nickname in (invisible, f"a{invisible}", f"a{invisible}b"):
        error = client.refused(400, "bad_name", "hello", nickname=nickname)
        assert f"U+{ord(invisible):04X}" in error["message"], "what cannot be seen is told by its number"
    client.enter("alice")
    client.refused(400, "bad_name", "join", room=f"den{invisible}")
    client.refused(400, "bad_name", "private", target=f"b{invisible}ob", content="x")
