"""Binary frames, and Protobuf: by classes that Python's own compiler made of the schema that the server hands out."""

import json
import random
import struct

import pytest
from websockets.exceptions import ConnectionClosed

from binary import (CARRIERS, COMMAND_KINDS, COMMANDS, EVENTS, HEADER, JSON, MAGIC, PROTOBUF, FrameClient, ProtoWsClient, schema, to_command,
                    to_payload)
from helpers import is_free, ping_of_another

ENCODINGS = [JSON, PROTOBUF]


@pytest.fixture
def server(start_server):
    return start_server(limits__errors_per_window=1_000_000)


def send_frame(client, encoding, kind, payload=b"", **header):
    client.raw.send(FrameClient.frame(encoding, kind, payload, **header))


def expect_violation(client):
    bye = client.expect("bye")
    assert (bye["code"], bye["reason"], bye["resumable"]) == (4100, "bad_protocol", False)
    assert client.raw.is_ended()


# The schema.


def test_kinds_are_the_field_numbers_of_the_schema(server):
    classes = schema(server)
    for message, names in (("Command", COMMANDS), ("Event", EVENTS)):
        fields = classes.DESCRIPTOR.message_types_by_name[message].fields_by_name
        assert [fields[name].number for name in names] == list(range(1, len(names) + 1))


# Each command, by each carrier.


@pytest.mark.parametrize("carrier", ["proto_ws", "json_frame", "proto_frame", "grpc"])
def test_every_command_is_answered_as_over_json(server, carrier):
    """One conversation twice, over WebSocket with JSON and otherwise, in two rooms: the same answers but for what is chance."""

    def conversation(make, suffix):
        alice, bob = make(server), server.ws(f"bob{suffix}", f"den{suffix}")
        den, hall = f"den{suffix}", f"hall{suffix}"
        target = f"bob{suffix}"
        script = [
            ("ping", {}), ("message", {"room": den, "content": "x"}), ("hello", {"nickname": f"alice{suffix}"}), ("hello", {"nickname": "y"}),
            ("join", {"room": den, "history": 5}), ("join", {"room": den}), ("members", {"room": den, "limit": 1, "after": f"al{suffix}"}),
            ("message", {"room": den, "content": "héllo\n\u0000🦆"}), ("message", {"room": den, "content": "x", "ack": "sequenced"}),
            ("message", {"room": den, "content": "x", "ack": "synced"}), ("private", {"target": target, "content": "psst"}),
            ("private", {"target": "nobody", "content": "psst"}), ("received", {"offset": 3}), ("broadcast", {"content": "x"}),
            ("members", {"room": den}), ("history", {"room": den, "before": 2, "limit": 5}), ("history", {"room": den, "after": 1}),
            ("history", {"room": "nowhere"}), ("state", {"room": den, "key": "k", "value": {"a": [1, None]}}), ("typing", {"room": den}),
            ("kick", {"room": den, "target": target}), ("role", {"room": den, "target": target, "role": "guest"}),
            ("switch", {"from": den, "to": hall, "echo": False}), ("mute", {"room": hall, "target": target, "seconds": 60, "reason": "why"}),
            ("unmute", {"room": hall, "target": target}), ("ban", {"room": hall, "target": target}), ("unban", {"room": hall, "target": target}),
            ("unban", {"room": hall, "target": target}), ("leave", {"room": den}), ("leave", {"room": hall}), ("nick", {"nickname": f"al{suffix}"}),
            ("quit", {}),
        ]
        answers = []
        for type, fields in script:
            answer = alice.call(type, **fields)
            text = json.dumps(plain(answer), sort_keys=True, ensure_ascii=False)
            answers.append((type, text.replace(suffix, "")))
        heard = [json.dumps(plain(event), sort_keys=True, ensure_ascii=False).replace(suffix, "") for event in bob.until_told(den)]
        alice.close()
        return answers, heard

    assert conversation(CARRIERS["ws"], ".first") == conversation(CARRIERS[carrier], ".other")


def plain(event):
    """Without what differs from one conversation to the next, and without zeroes, which Protobuf does not tell from nothing."""
    if isinstance(event, dict):
        hidden = ("timestamp", "epoch", "session", "resume", "last_active")
        return {name: plain(value) for name, value in event.items() if name not in hidden and value not in (None, 0, False, "", [], {})}
    return [plain(item) for item in event] if isinstance(event, list) else event


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_reply_comes_in_the_encoding_of_its_command(server, encoding):
    client = FrameClient(server, encoding).enter("alice", "den")
    bob = server.ws("bob", "den")
    client.expect("presence")
    for asked in [JSON, PROTOBUF, PROTOBUF, JSON]:
        client.encodings.clear()
        assert client.call("ping", encoding=asked)["type"] == "pong"
        assert client.encodings == [asked]
        assert client.call("message", encoding=asked, room="nowhere", content="x")["code"] == 404
        assert client.encodings == [asked, asked]
    client.encodings.clear()
    bob.say("den", "an event that is no reply")
    client.expect("message")
    assert client.encodings == [encoding], "that of the hello"


def test_the_hello_decides_for_events(server):
    client = FrameClient(server, JSON)
    client.call("ping", encoding=PROTOBUF)
    client.call("hello", encoding=PROTOBUF, nickname="alice")
    client.call("join", encoding=JSON, room="den")
    assert client.encodings == [PROTOBUF, PROTOBUF, JSON]
    client.send("message", encoding=JSON, room="den", content="x")
    client.expect("message")
    assert client.encodings[-1] == PROTOBUF


def test_the_type_may_be_left_out_or_given(server):
    client = FrameClient(server, JSON).enter("alice")
    for payload in [b'{"id":"1"}', b'{"type":"ping","id":"1"}', b' {"id":"1","type":"quit"} ', b'{"type":5,"id":"1"}']:
        send_frame(client, JSON, COMMAND_KINDS["ping"], payload)
        assert client.expect(id="1")["type"] == "pong", "the kind decides"


# All see one room.


def test_a_room_is_the_same_to_all(server):
    members = {name: make(server).enter(name.replace("_", "-")) for name, make in CARRIERS.items()}
    person = server.text_line("person")
    person.type("/join den")
    person.until_pong()
    for member in members.values():
        member.call("join", room="den")
    contents = ["plain", "two\nlines", "餃子 🦆", "\u0000\u0001\u007f\u0085\u2028\ufeff", '"\\/', "x" * 65_536, "é e\u0301"]
    offset = 0
    for content in contents:
        for name, member in members.items():
            offset += 1
            assert member.say("den", f"{content}"[:65_536])[0]["offset"] == offset
    person.type("and a line")
    total = offset + 1
    transcripts = {name: [member.expect("message") for _ in range(total)] for name, member in members.items()}
    reference = transcripts["ws"]
    assert [message["offset"] for message in reference] == list(range(1, total + 1))
    assert [message["content"] for message in reference[:-1]] == [content for content in contents for _ in members]
    for name, transcript in transcripts.items():
        assert transcript == reference, name
    history = {name: member.call("history", room="den")["messages"] for name, member in members.items()}
    expected = [{key: message[key] for key in ("sender", "content", "offset", "timestamp")} for message in reference]
    assert all(page == expected[-len(page):] and page for page in history.values())
    shown = [line for line in person.until_pong() if line.startswith("[den] ") and not line.startswith("[den] * ")]
    assert len(shown) == offset and shown[0] == "[den] ws: plain" and "[den] proto-frame: two⏎lines" in shown


# Violations of the framing.


@pytest.mark.parametrize("header", [
    {"magic": 0}, {"magic": 0xBEBAFECA}, {"magic": MAGIC ^ 1}, {"magic": MAGIC ^ (1 << 31)}, {"version": 0}, {"version": 2}, {"version": 255},
    {"length": 262_145}, {"length": 2**31}, {"length": 2**32 - 1},
])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_bad_header_ends_the_connection(server, header, encoding):
    watcher = server.ws("watcher", "den")
    client = FrameClient(server, encoding).enter("alice", "den")
    send_frame(client, encoding, COMMAND_KINDS["ping"], **header)
    expect_violation(client)
    assert watcher.expect("presence", event="leave")["nickname"] == "alice", "41xx frees the nickname at once"
    assert is_free(server, "alice")


def test_a_bad_header_before_the_hello(server):
    client = FrameClient(server, JSON)
    client.raw.send(b"GET / HTTP/1.1\r\n\r\n")
    expect_violation(client)
    ping_of_another(server)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_comes_before_a_bad_header_is_obeyed(server, encoding):
    bob = server.ws("bob", "den")
    client = FrameClient(server, encoding).enter("alice", "den")
    client.raw.send(client.encoded("message", room="den", content="last words", id="1") + b"\xca\xfe\xba\xbf" + bytes(100))
    assert bob.expect("message")["content"] == "last words"
    expect_violation(client)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_longest_frame(server, encoding):
    client = FrameClient(server, encoding).enter("alice", "den")
    # A whole payload of the greatest length, most of it content that is too long: a 413, and the connection stays.
    empty = len(client.encoded("message", room="den", content="", id="1")) - HEADER.size
    payload = client.encoded("message", room="den", content="x" * (262_144 - empty - 8), id="1")
    assert 262_000 < len(payload) - HEADER.size <= 262_144
    client.raw.send(payload)
    assert client.expect(id="1")["code"] == 413
    assert client.say("den", "x" * 65_536)[0]["offset"] == 1


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_end_at_every_byte(server, encoding):
    """A frame cut off is obeyed not at all; and everything is cleared away."""
    watcher = server.ws("watcher", "den")
    whole = FrameClient(server, encoding)
    greeting = whole.encoded("hello", nickname="cut") + whole.encoded("join", room="den")
    message = whole.encoded("message", room="den", content="never whole")
    for length in range(len(message)):
        client = FrameClient(server, encoding)
        client.raw.send(greeting + message[:length])
        client.raw.finish()
        client.expect("joined")
        assert client.raw.is_ended()
        client.close()
        # Its session waits for it, so the next one takes another nickname.
        greeting = whole.encoded("hello", nickname=f"cut-{length}") + whole.encoded("join", room="den")
    assert not [event for event in watcher.until_pong() if event["type"] == "message"]
    ping_of_another(server)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_payload_cut_at_every_byte_is_a_400_or_another_command(server, encoding):
    client = FrameClient(server, encoding).enter("alice", "den")
    fields = {"room": "den", "history": 5, "since": {"epoch": "x", "offset": 300}, "echo": False}
    payload = client.encoded("join", **fields)[HEADER.size:]
    for length in range(len(payload)):
        send_frame(client, encoding, COMMAND_KINDS["join"], payload[:length])
        reply = client.next()
        if encoding == JSON:
            assert (reply["type"], reply["code"]) == ("error", 400), reply
        else:
            # A Protobuf message cut between two fields is one too.
            assert reply["type"] == "error" and reply["code"] in (400, 409), reply
    assert client.call("ping")["type"] == "pong"


def test_a_frame_may_come_one_byte_at_a_time(server):
    client = FrameClient(server, PROTOBUF)
    client.raw.send_slowly(client.encoded("hello", nickname="slow", id="1") + client.encoded("ping", id="2"))
    assert client.expect(id="1")["type"] == "welcome"
    assert client.expect(id="2")["type"] == "pong"


def test_many_frames_may_come_together(server):
    client = FrameClient(server, PROTOBUF)
    client.raw.send(client.encoded("hello", nickname="quick") + client.encoded("join", room="den")
                    + b"".join(client.encoded("message", encoding=number % 2, room="den", content=str(number), id=str(number))
                               for number in range(500)))
    assert [client.expect("message")["content"] for _ in range(500)] == list(map(str, range(500)))
    assert client.encodings[2:].count(JSON) == 250, "each ack in its command's encoding"


# Payloads that mean nothing.


@pytest.mark.parametrize("encoding, kind", [(0, 0), (0, 24), (0, 128), (0, 129), (0, 255), (1, 0), (1, 24), (1, 133), (1, 255), (2, 20), (255, 20), (7, 0)])
def test_unknown_kinds_and_encodings_cost_an_error(server, encoding, kind):
    for hello in ENCODINGS:
        client = FrameClient(server, hello)
        send_frame(client, encoding, kind, b"{}" if encoding == 0 else b"")
        assert client.expect("error")["code"] == 400
        client.enter(f"user-{hello}")
        send_frame(client, encoding, kind, b"\xff" * 100)
        assert client.expect("error")["code"] == 400
        assert client.call("ping")["type"] == "pong"
        client.close()


@pytest.mark.parametrize("payload", [
    b"\x0a\xff", b"\x0a\x05ab", b"\xff" * 20, b"\x08\x01", b"\x0a\x02\xff\xfe", b"\x0b", b"\x0f", b"\x00", b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
])
def test_broken_protobuf_costs_an_error(server, payload):
    client = FrameClient(server, PROTOBUF).enter("alice", "den")
    send_frame(client, PROTOBUF, COMMAND_KINDS["message"], payload)
    assert client.expect("error")["code"] == 400
    socket = ProtoWsClient(server).enter("bob", "den")
    socket.socket.send(b"\x2a" + bytes([len(payload)]) + payload)
    assert socket.expect("error")["code"] == 400
    socket.socket.send(payload)
    assert socket.expect("error")["code"] == 400
    assert socket.call("ping")["type"] == client.call("ping")["type"] == "pong"


def test_a_command_of_no_kind_costs_an_error(server):
    client = ProtoWsClient(server).enter("alice")
    classes = schema(server)
    client.socket.send(b"")
    assert client.expect("error")["code"] == 400
    client.socket.send(classes.Command(id="nothing").SerializeToString())
    assert client.expect(id="nothing")["code"] == 400
    # A kind that only a later version knows.
    client.socket.send(classes.Command(id="later").SerializeToString() + b"\xfa\x01\x00")
    assert client.expect(id="later")["code"] == 400


def test_unknown_fields_of_the_schema_are_ignored(server):
    client = FrameClient(server, PROTOBUF).enter("alice")
    unknown = b"\xf8\x07\x05" + b"\xf2\x07\x03abc" + b"\xfd\x07" + struct.pack("<I", 1) + b"\xf9\x07" + struct.pack("<Q", 1)
    payload = to_payload(client.classes, "join", room="den", id="1") + unknown
    send_frame(client, PROTOBUF, COMMAND_KINDS["join"], payload)
    assert client.expect(id="1")["type"] == "joined"


def test_noise_in_payloads(server):
    generator = random.Random(7)
    client = FrameClient(server, PROTOBUF).enter("alice", "den")
    harmless = [kind for name, kind in COMMAND_KINDS.items() if name not in ("quit", "nick", "leave", "switch")]
    for _ in range(2000):
        kind, encoding = generator.choice(harmless), generator.choice(ENCODINGS)
        send_frame(client, encoding, kind, generator.randbytes(generator.randint(1, 40)))
    assert client.call("ping")["type"] == "pong"
    ping_of_another(server)


# WebSocket.


def test_the_other_kind_of_data_frame_is_a_400(server):
    proto = ProtoWsClient(server).enter("alice")
    proto.socket.send('{"type":"ping"}')
    assert proto.expect("error")["code"] == 400
    plain_client = server.ws("bob")
    plain_client.socket.send(to_command(schema(server), "ping").SerializeToString() + b"\x00")
    assert plain_client.expect("error")["code"] == 400
    assert proto.call("ping")["type"] == plain_client.call("ping")["type"] == "pong"


@pytest.mark.parametrize("offered, chosen", [
    (["starling.proto.v1"], "starling.proto.v1"), (["starling.json.v1"], "starling.json.v1"),
    (["x", "starling.proto.v1"], "starling.proto.v1"),
])
def test_subprotocols(server, offered, chosen):
    assert server.ws_at("/ws", subprotocols=offered).socket.subprotocol == chosen


def test_a_query_says_hello_in_protobuf_too(server):
    client = ProtoWsClient(server, "/ws?nickname=alice&room=den")
    assert client.expect("welcome")["nickname"] == "alice"
    assert client.expect("joined")["room"] == "den"
    client.call("quit")
    with pytest.raises(ConnectionClosed) as closed:
        client.socket.recv(timeout=5)
    assert closed.value.rcvd.code == 1000
