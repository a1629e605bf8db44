"""WebSocket: every command with its reply and what others hear, the errors, and the rules of the transport."""

import json
import socket

import pytest
from websockets.exceptions import InvalidStatus

from helpers import Deadline, RawWebSocket, is_free


@pytest.fixture
def alice(server):
    return server.ws("alice", "lobby")


@pytest.fixture
def bob(server, alice):
    bob = server.ws("bob", "lobby")
    alice.expect("presence", event="join", nickname="bob")
    return bob


# Commands and their replies.


def test_hello_is_welcomed(server):
    welcome = server.ws().call("hello", nickname="Älva")
    assert welcome["type"] == "welcome"
    assert welcome["nickname"] == "Älva"
    assert welcome["resumed"] is False
    assert welcome["heartbeat_ms"] == 30_000
    assert welcome["timeout_ms"] == 90_000
    assert isinstance(welcome["session"], str) and isinstance(welcome["server"], str)


def test_join_is_told_to_both_sides(server, alice):
    bob = server.ws("bob")
    joined = bob.call("join", room="lobby")
    assert joined["type"] == "joined"
    assert (joined["room"], joined["offset"], joined["members"], joined["state"]) == ("lobby", 0, 2, {})
    assert joined["role"] in ("host", "member")
    assert joined["epoch"]
    presence = alice.expect("presence")
    assert (presence["room"], presence["event"], presence["nickname"]) == ("lobby", "join", "bob")
    assert presence["timestamp"] > 1_600_000_000_000
    assert bob.until_pong() == [], "a joiner does not hear its own join"


def test_leave_is_told_to_both_sides(alice, bob):
    left = bob.call("leave", room="lobby")
    assert (left["type"], left["room"], left["reason"]) == ("left", "lobby", "left")
    presence = alice.expect("presence", event="leave")
    assert (presence["nickname"], presence["reason"]) == ("bob", "left")
    alice.send("message", room="lobby", content="alone")
    assert not [event for event in bob.until_pong() if event["type"] == "message"]


def test_switch_leaves_one_room_for_another(server, alice, bob):
    carol = server.ws("carol", "birds")
    joined = bob.call("switch", **{"from": "lobby", "to": "birds"})
    assert (joined["type"], joined["room"], joined["members"]) == ("joined", "birds", 2)
    assert alice.expect("presence", event="leave")["nickname"] == "bob"
    assert carol.expect("presence", event="join")["nickname"] == "bob"


def test_a_refused_switch_changes_nothing(alice, bob):
    bob.refused(400, "bad_name", "switch", **{"from": "lobby", "to": "no such name"})
    assert bob.call("message", room="lobby", content="still here")["type"] == "ack"
    alice.expect("message", sender="bob", content="still here")


def test_a_message_reaches_every_member_and_is_acked(alice, bob):
    ack = alice.call("message", room="lobby", content="hi")
    assert (ack["type"], ack["room"], ack["offset"], ack["level"]) == ("ack", "lobby", 1, "sequenced")
    for client in (alice, bob):
        message = client.expect("message")
        assert message.keys() == {"type", "room", "sender", "content", "offset", "timestamp"}
        assert (message["sender"], message["content"], message["offset"]) == ("alice", "hi", 1)
        assert message["timestamp"] == ack["timestamp"]


def test_without_an_id_there_is_no_ack(alice):
    alice.send("message", room="lobby", content="hi")
    alice.expect("message", content="hi")
    assert not [event for event in alice.until_pong() if event["type"] == "ack"]


def test_whoever_joins_without_echo_does_not_hear_itself(server, alice):
    bob = server.ws("bob")
    bob.call("join", room="lobby", echo=False)
    assert bob.call("message", room="lobby", content="from bob")["type"] == "ack"
    alice.call("message", room="lobby", content="from alice")
    bob.expect("message", content="from alice")
    assert not [event for event in bob.until_pong() if event["type"] == "message"]


def test_a_private_message_reaches_its_target_alone(server, alice, bob):
    carol = server.ws("carol", "lobby")
    ack = alice.call("private", target="BOB", content="psst")
    assert (ack["type"], ack["delivered"], ack["stored"]) == ("ack", 1, False)
    assert ack["target"].lower() == "bob"
    private = bob.expect("private")
    assert (private["sender"], private["target"].lower(), private["content"]) == ("alice", "bob", "psst")
    assert private["timestamp"] == ack["timestamp"]
    assert not [event for event in carol.until_pong() if event["type"] == "private"]


def test_nick_is_told_to_the_rooms(server, alice, bob):
    assert alice.call("nick", nickname="al")["type"] == "ack"
    presence = bob.expect("presence", event="nick")
    assert (presence["room"], presence["nickname"], presence["from"]) == ("lobby", "al", "alice")
    alice.call("message", room="lobby", content="me")
    assert bob.expect("message")["sender"] == "al"
    bob.refused(409, "nickname_in_use", "nick", nickname="AL")
    assert is_free(server, "alice"), "the old nickname is free"


def test_members_are_listed(alice, bob):
    members = alice.call("members", room="lobby")
    assert (members["type"], members["room"], members["total"]) == ("members", "lobby", 2)
    assert [member["nickname"] for member in members["members"]] == ["alice", "bob"]
    for member in members["members"]:
        assert member["connected"] is True
        assert member["last_active"] > 1_600_000_000_000
        assert member["role"] in ("host", "member")


def test_members_come_in_pages(server, alice, bob):
    server.ws("Ava", "lobby")
    first = alice.call("members", room="lobby", limit=2)
    assert (first["total"], [member["nickname"] for member in first["members"]]) == (3, ["alice", "Ava"])
    second = alice.call("members", room="lobby", limit=2, after="Ava")
    assert [member["nickname"] for member in second["members"]] == ["bob"]


def test_rooms_are_listed(server, alice):
    server.ws("bob", "birds")
    alice.call("message", room="lobby", content="one")
    rooms = {room["room"]: room for room in alice.call("rooms")["rooms"]}
    assert (rooms["lobby"]["members"], rooms["lobby"]["offset"]) == (1, 1)
    assert (rooms["birds"]["members"], rooms["birds"]["offset"]) == (1, 0)
    assert [room["room"] for room in alice.call("rooms", limit=1, after="birds")["rooms"]] == ["lobby"]


def test_typing_is_told_to_the_others(alice, bob):
    alice.send("typing", room="lobby")
    typing = bob.expect("typing")
    assert (typing["room"], typing["nickname"]) == ("lobby", "alice")
    assert alice.call("typing", room="lobby")["type"] == "ack"


def test_ping_is_answered_and_pong_is_not(server):
    client = server.ws()
    assert client.call("ping")["timestamp"] > 1_600_000_000_000
    client.send("pong")
    assert client.until_pong() == []


def test_quit_says_bye_and_frees_the_nickname(server, alice, bob):
    bye = bob.call("quit")
    assert (bye["type"], bye["code"], bye["reason"], bye["resumable"], bye["after_ms"]) == ("bye", 1000, "quit", False, 0)
    assert bob.closed_with() == 1000
    assert alice.expect("presence", event="leave")["reason"] == "quit"
    assert is_free(server, "bob")


def test_a_broken_connection_is_told(alice, bob):
    bob.socket.socket.shutdown(socket.SHUT_RDWR)
    presence = alice.expect("presence", nickname="bob")
    assert presence["event"] in ("leave", "away")


# Order.


def test_replies_come_in_the_order_of_the_commands(server):
    client = server.ws()
    commands = [("hello", {"nickname": "eager"}), ("join", {"room": "a"}), ("message", {"room": "a", "content": "1"}), ("ping", {}),
                ("leave", {"room": "a"}), ("message", {"room": "a", "content": "2"}), ("dance", {}), ("ping", {})]
    for number, (type, fields) in enumerate(commands):
        client.send(type, id=str(number), **fields)
    replies = []
    while len(replies) < len(commands):
        event = client.next()
        if "id" in event:
            replies.append((event["id"], event["type"]))
    types = ["welcome", "joined", "ack", "pong", "left", "error", "error", "pong"]
    assert replies == [(str(number), type) for number, type in enumerate(types)]


def test_all_members_see_one_order_without_gaps(start_server):
    server = start_server(rate__commands_per_second=0)
    clients = [server.ws(f"user{number}", "race") for number in range(6)]
    for number in range(40):
        for client in clients:
            client.send("message", room="race", content=f"{client.nickname} {number}")
    transcripts = []
    for client in clients:
        messages = [client.expect("message") for _ in range(240)]
        assert [message["offset"] for message in messages] == list(range(1, 241))
        timestamps = [message["timestamp"] for message in messages]
        assert timestamps == sorted(timestamps)
        transcripts.append([(message["sender"], message["content"]) for message in messages])
    assert all(transcript == transcripts[0] for transcript in transcripts)
    for client in clients:
        own = [content for sender, content in transcripts[0] if sender == client.nickname]
        assert own == [f"{client.nickname} {number}" for number in range(40)]


# Errors.


def test_before_hello_only_a_few_commands_are_allowed(server):
    client = server.ws()
    assert client.call("ping")["type"] == "pong"
    for type, fields in [("join", {"room": "lobby"}), ("rooms", {}), ("message", {"room": "lobby", "content": "x"})]:
        client.refused(401, "unauthenticated", type, **fields)
    assert client.call("quit")["type"] == "bye"


def test_a_failed_hello_costs_an_error_only(server, alice):
    client = server.ws()
    client.refused(409, "nickname_in_use", "hello", nickname="Alice")
    client.refused(400, "bad_name", "hello", nickname="a b")
    client.refused(400, "bad_request", "hello", nickname=7)
    assert client.call("hello", nickname="carol")["type"] == "welcome"
    client.refused(409, "already_said_hello", "hello", nickname="carol")


@pytest.mark.parametrize("text, reason", [
    ("", "bad_json"), ("{", "bad_json"), ("nonsense", "bad_json"), ('{"type":"ping"} trailing', "bad_json"),
    ("[]", "bad_request"), ("7", "bad_request"), ("{}", "bad_request"), ('{"type":7}', "bad_request"),
    ('{"type":"dance"}', "unknown_type"), ('{"type":"join"}', "bad_request"), ('{"type":"join","room":[]}', "bad_request"),
    ('{"type":"join","room":"no spaces"}', "bad_name"), ('{"type":"join","room":""}', "bad_name"),
    ('{"type":"message","room":"lobby","content":""}', "bad_request"),
    (json.dumps({"type": "ping", "id": "x" * 65}), "bad_request"), ('{"type":"ping","id":7}', "bad_request"),
])
def test_malformed_commands_cost_an_error_each(alice, text, reason):
    alice.send_text(text)
    error = alice.expect("error")
    assert (error["code"], error["reason"], error["retryable"]) == (400, reason, False)
    assert error["message"]
    assert alice.call("ping")["type"] == "pong"


def test_errors_name_what_is_missing(server, alice):
    alice.refused(404, "no_such_room", "message", room="nowhere", content="x")
    alice.refused(404, "no_such_room", "leave", room="nowhere")
    alice.refused(404, "no_such_room", "members", room="nowhere")
    alice.refused(404, "no_such_user", "private", target="nobody", content="x")
    alice.refused(409, "already_joined", "join", room="LOBBY")
    server.ws("bob", "birds")
    alice.refused(403, "not_a_member", "message", room="birds", content="x")
    alice.refused(403, "not_a_member", "leave", room="birds")
    alice.refused(403, "not_a_member", "typing", room="birds")
    assert alice.call("members", room="birds")["total"] == 1


def test_unknown_fields_are_ignored_and_null_is_absent(server):
    client = server.ws()
    client.send_text('{"type":"hello","nickname":"al","token":null,"favourite":{"colour":["green"]},"id":null}')
    assert "id" not in client.expect("welcome")


# Content.


def test_content_is_exact(alice, bob):
    for content in ["\u0000\u0001\u001b\u007f\u0085", "a\r\nb\tc", "\ufeff\ufffe\u2028", "e\u0301 é", '"\\/\b\f', "👩‍👩‍👧‍👦", "שלום (world) ١٢٣"]:
        alice.call("message", room="lobby", content=content)
        assert bob.expect("message")["content"] == content


def test_content_is_limited_in_bytes(alice, bob):
    ack = alice.call("message", room="lobby", content="é" * 32_768)
    assert ack["type"] == "ack"
    assert bob.expect("message")["content"] == "é" * 32_768
    alice.refused(413, "too_large", "message", room="lobby", content="é" * 32_768 + "x")
    alice.refused(413, "too_large", "private", target="bob", content="x" * 65_537)
    assert alice.call("ping")["type"] == "pong"


def test_escapes_count_as_what_they_stand_for(alice, bob):
    content = "é" * 30_000
    alice.send_text(json.dumps({"type": "message", "room": "lobby", "content": content}, ensure_ascii=True))
    assert bob.expect("message")["content"] == content


# The transport.


@pytest.mark.parametrize("offered, chosen", [
    ([], None), (["starling.json.v1"], "starling.json.v1"), (["other", "starling.json.v1"], "starling.json.v1"),
])
def test_the_subprotocol_is_negotiated(server, offered, chosen):
    client = server.ws(subprotocols=offered or None)
    assert client.socket.subprotocol == chosen
    assert client.call("ping")["type"] == "pong"


def test_an_unknown_subprotocol_means_json(server):
    connection = RawWebSocket(server, headers=["Sec-WebSocket-Protocol: other.v9"])
    assert connection.handshake.status == 101
    # RFC 6455, section 4.1: a server must not choose what was not offered.
    assert connection.handshake.headers.get("sec-websocket-protocol") in (None, "other.v9")
    connection.send("ping")
    connection.expect("pong")


@pytest.mark.parametrize("path", ["/ws", "/echo"])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://{host}.evil.example", "https://{host}", "http://localhost:1"])
def test_a_foreign_origin_is_refused(server, path, origin):
    origin = origin.format(host=f"{server.web[0]}:{server.web[1]}")
    with pytest.raises(InvalidStatus) as refused:
        server.ws_at(path, origin=origin)
    assert refused.value.response.status_code == 403


def test_the_own_origin_and_none_pass(server):
    assert server.ws(origin=server.url("", scheme="http")).call("ping")["type"] == "pong"
    assert server.ws(origin=None).call("ping")["type"] == "pong"


def test_a_configured_origin_passes(start_server):
    server = start_server(web__allowed_origins="https://chat.example")
    assert server.ws(origin="https://chat.example").call("ping")["type"] == "pong"


def test_query_parameters_replace_hello_and_join(server, alice):
    client = server.ws_at("/ws?nickname=quick%C3%A9&room=lobby")
    assert client.expect("welcome")["nickname"] == "quické"
    assert client.expect("joined")["room"] == "lobby"
    assert alice.expect("presence", event="join")["nickname"] == "quické"
    assert client.call("message", room="lobby", content="x")["type"] == "ack"


@pytest.mark.parametrize("query, status, reason", [
    ("nickname=alice", 409, "nickname_in_use"), ("nickname=a%20b", 400, "bad_name"), ("nickname=", 400, "bad_name"),
    ("nickname=fine&room=not%20fine", 400, "bad_name"), ("nickname=%ff", 400, None),
])
def test_query_parameters_are_refused_before_the_upgrade(server, alice, query, status, reason):
    with pytest.raises(InvalidStatus) as refused:
        server.ws_at(f"/ws?{query}")
    response = refused.value.response
    assert response.status_code == status
    error = json.loads(response.body)
    assert (error["type"], error["code"]) == ("error", status)
    assert reason is None or error["reason"] == reason
    assert is_free(server, "fine"), "nothing of the refused hello may stay"


def test_a_binary_frame_is_an_error_only(alice):
    alice.socket.send(b'{"type":"ping"}')
    assert alice.expect("error")["code"] == 400
    assert alice.call("ping")["type"] == "pong"


def test_a_message_in_fragments_with_a_ping_between(server):
    connection = RawWebSocket(server)
    connection.send_frame(connection.TEXT, b'{"type":', is_final=False)
    connection.send_frame(connection.PING, b"now")
    connection.send_frame(0, b'"ping"}')
    assert connection.expect_frame(connection.PONG) == b"now"
    connection.expect("pong")


@pytest.mark.parametrize("name, frames, code", [
    ("too long", lambda frame: frame(1, b" " * 262_145), 1009),
    ("too long in fragments", lambda frame: frame(1, b" " * 200_000, is_final=False) + frame(0, b" " * 62_145), 1009),
    ("not UTF-8", lambda frame: frame(1, b"\xff\xfe"), 1007),
    ("a reserved opcode", lambda frame: frame(3), 1002),
    ("a length not in its shortest form", lambda frame: frame(1, b"{}", length_form=16), 1002),
    ("a length not in its shortest form of 64 bits", lambda frame: frame(1, b" " * 300, length_form=64), 1002),
    ("a continuation of nothing", lambda frame: frame(0, b"x"), 1002),
    ("a ping in fragments", lambda frame: frame(9, b"x", is_final=False), 1002),
    ("a ping too long", lambda frame: frame(9, b"x" * 126), 1002),
    ("no mask", lambda frame: b"\x81\x02{}", 1002),
    ("a reserved bit", lambda frame: b"\xc1\x80" + bytes(4), 1002),
    ("a close of one byte", lambda frame: frame(8, b"\x03"), 1002),
    ("a close with a forbidden code", lambda frame: frame(8, b"\x03\xed"), 1002),
])
def test_violations_of_the_protocol_close_the_connection(server, name, frames, code):
    connection = RawWebSocket(server)
    connection.raw.send(frames(RawWebSocket.frame))
    assert connection.closed_with() == code
    assert connection.raw.is_ended(Deadline())


def test_the_longest_message_passes(server):
    connection = RawWebSocket(server)
    connection.send_frame(connection.TEXT, b'{"type":"ping"}'.ljust(262_144))
    connection.expect("pong")


def test_a_close_is_answered(server):
    connection = RawWebSocket(server)
    connection.send_frame(connection.CLOSE, b"\x03\xe8")
    assert connection.closed_with() == 1000
    assert connection.raw.is_ended(Deadline())


def test_echo_sends_everything_back(server):
    client = server.ws_at("/echo")
    for message in ["", "text ✓", b"", bytes(range(256)), "long " * 200_000]:
        client.socket.send(message)
        assert client.socket.recv(timeout=15) == message


@pytest.mark.parametrize("headers, status", [
    (["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"], 400),
    (["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: short"], 400),
    (["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 8", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="], 426),
    ([], (400, 426)),
])
def test_a_handshake_must_be_complete(server, headers, status):
    response = server.http("\r\n".join(["GET /ws HTTP/1.1", "Host: test", *headers, "", ""]).encode())
    assert response.status in (status if isinstance(status, tuple) else (status,))


def test_the_handshake_of_the_rfc(server):
    response = server.http(b"GET /ws HTTP/1.1\r\nHost: test\r\nUpgrade: WebSocket\r\nConnection: keep-alive, upgrade\r\n"
                           b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", has_body=False)
    assert response.status == 101
    assert response.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
