"""Compression of WebSocket messages (permessage-deflate, RFC 7692): what is agreed on, that nobody can tell it from what is said
and heard, and that nobody can make the server pay for much with little."""

import json
import random
import struct
import zlib

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from helpers import Deadline, RawWebSocket, peak_kib

COMPRESSED = 0x40
TAIL = b"\x00\x00\xff\xff"
OFFER = "permessage-deflate"
WITHOUT_CONTEXT = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
WORDS = "the server says hello to everybody here and once more to those who have just come".split()


def prose(size, seed=1):
    dice = random.Random(seed)
    text = ""
    while len(text) < size:
        text += dice.choice(WORDS) + " "
    return text[:size]


def compressed(message):
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = stream.compress(message) + stream.flush(zlib.Z_SYNC_FLUSH)
    assert data.endswith(TAIL)
    return data[: -len(TAIL)]


class Raw(RawWebSocket):
    """A client that sees how messages come."""

    def __init__(self, server, offer=OFFER, path="/ws"):
        fields = [f"Sec-WebSocket-Extensions: {line}" for line in ([offer] if isinstance(offer, str) else offer)]
        super().__init__(server, path, headers=fields)
        self.agreed = self.handshake.headers.get("sec-websocket-extensions")
        self.inflater = zlib.decompressobj(-15)

    def receive_message(self, deadline=None):
        """Whether it came compressed, its bytes on the way, and what it says."""
        deadline = deadline or Deadline()
        while True:
            (first,) = self.raw.exactly(1, deadline)
            (length,) = self.raw.exactly(1, deadline)
            if length == 126:
                (length,) = struct.unpack(">H", self.raw.exactly(2, deadline))
            elif length == 127:
                (length,) = struct.unpack(">Q", self.raw.exactly(8, deadline))
            payload = self.raw.exactly(length, deadline)
            if first & 0x0F in (self.TEXT, self.BINARY):
                break
        is_compressed = bool(first & COMPRESSED)
        return is_compressed, payload, self.inflate(payload) if is_compressed else payload

    def inflate(self, payload):
        if "server_no_context_takeover" in self.agreed:
            self.inflater = zlib.decompressobj(-15)
        return self.inflater.decompress(payload + TAIL)

    def expect_joined(self):
        deadline = Deadline()
        while json.loads(self.receive_message(deadline)[2])["type"] != "joined":
            pass

    def expect_message(self, content):
        """Whether the message of that content came compressed, and its bytes on the way."""
        deadline = Deadline()
        while True:
            is_compressed, payload, message = self.receive_message(deadline)
            event = json.loads(message)
            if event["type"] == "message" and event["content"] == content:
                return is_compressed, payload

    def say(self, message, first=RawWebSocket.TEXT):
        self.raw.send(self.frame(first | COMPRESSED, compressed(message)))


@pytest.fixture
def server(start_server):
    return start_server(web__deflate="true")


@pytest.fixture
def keeping(start_server):
    """A server with places for contexts on each core."""
    return start_server(web__deflate="true", limits__deflate_contexts=2)


# What is agreed on.


def test_it_is_off_unless_switched_on(start_server):
    assert Raw(start_server()).agreed is None


@pytest.mark.parametrize("path", ["/ws", "/ws?nickname=ada&room=lobby", "/echo"])
def test_without_contexts_nobody_refers_to_earlier_messages(server, path):
    for offer in [OFFER, WITHOUT_CONTEXT, "x-other, permessage-deflate"]:
        ws = Raw(server, offer, path.replace("ada", f"ada{len(offer)}"))
        assert (ws.handshake.status, ws.agreed) == (101, WITHOUT_CONTEXT)


@pytest.mark.parametrize("offer, agreed", [
    (OFFER, OFFER),
    ("permessage-deflate; client_max_window_bits", OFFER),
    ("permessage-deflate; server_no_context_takeover", "permessage-deflate; server_no_context_takeover"),
    ("permessage-deflate; client_no_context_takeover; client_max_window_bits=10",
     "permessage-deflate; client_no_context_takeover; client_max_window_bits=10"),
    ("permessage-deflate; server_max_window_bits=8", "permessage-deflate; server_max_window_bits=8"),
    ('permessage-deflate; server_max_window_bits="9"', "permessage-deflate; server_max_window_bits=9"),
    ("permessage-deflate; server_max_window_bits=16, permessage-deflate; client_max_window_bits=12",
     "permessage-deflate; client_max_window_bits=12"),
    ("permessage-deflate; a, permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
    ("permessage-deflate; server_max_window_bits", None),
    (["permessage-bzip2", OFFER], OFFER),
])
def test_the_parameters_of_an_offer_are_answered(keeping, offer, agreed):
    ws = Raw(keeping, offer)
    assert (ws.handshake.status, ws.agreed) == (101, agreed)


def test_a_list_that_is_none_is_refused(server):
    assert Raw(server, "permessage-deflate; ; a").handshake.status == 400


def test_past_the_number_of_contexts_there_are_none(start_server, monkeypatch):
    monkeypatch.setenv("STARLING_TEST_CORES", "1")  # because each core has so many
    server = start_server(web__deflate="true", limits__deflate_contexts=2)
    first, second, third = Raw(server), Raw(server), Raw(server)
    assert (first.agreed, second.agreed, third.agreed) == (OFFER, OFFER, WITHOUT_CONTEXT)
    assert Raw(server, WITHOUT_CONTEXT).agreed == WITHOUT_CONTEXT
    first.raw.close()
    deadline = Deadline()
    while Raw(server).agreed != OFFER:
        deadline.left()  # raises when it is over


def test_a_refused_hello_leaves_no_context_behind(start_server, monkeypatch):
    monkeypatch.setenv("STARLING_TEST_CORES", "1")
    server = start_server(web__deflate="true", limits__deflate_contexts=1)
    server.ws("ada")
    for _ in range(3):
        ws = Raw(server, OFFER, "/ws?nickname=ada")
        assert ws.handshake.status == 409
    assert Raw(server).agreed == OFFER


# What is said and heard.


@pytest.mark.parametrize("factory", [
    ClientPerMessageDeflateFactory(),
    ClientPerMessageDeflateFactory(client_max_window_bits=True),
    ClientPerMessageDeflateFactory(client_max_window_bits=9),
    ClientPerMessageDeflateFactory(server_max_window_bits=9),
    ClientPerMessageDeflateFactory(server_max_window_bits=12, client_max_window_bits=12),
    ClientPerMessageDeflateFactory(server_no_context_takeover=True),
    ClientPerMessageDeflateFactory(client_no_context_takeover=True),
    ClientPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True),
], ids=lambda factory: ",".join(str(value) for value in vars(factory).values()))
@pytest.mark.parametrize("contexts", [0, 8])
def test_another_library_agrees_and_understands(start_server, factory, contexts):
    server = start_server(web__deflate="true", limits__deflate_contexts=contexts, limits__deflate_min_bytes=0)
    echo = server.ws_at("/echo", compression=None, extensions=[factory])
    assert echo.socket.protocol.extensions, "nothing was agreed on"
    for size in [0, 1, 125, 126, 5000, 70_000, 300_000, 3]:
        for message in [prose(size, size), prose(size, size), random.Random(size).randbytes(size)]:
            echo.socket.send(message)
            assert echo.socket.recv(timeout=Deadline().left()) == message
    ada = server.ws("ada", "lobby", compression=None, extensions=[factory])
    plain = server.ws("bob", "lobby")
    for size in [10, 1000, 20_000]:
        for speaker in [ada, plain]:
            content = prose(size, size)
            assert speaker.call("message", room="lobby", content=content)["type"] == "ack"
            for listener in [ada, plain]:
                listener.expect("message", sender=speaker.nickname, content=content)
    history = ada.call("history", room="lobby")
    assert [len(message["content"]) for message in history["messages"]] == [10, 10, 1000, 1000, 20_000, 20_000]


def test_members_with_and_without_compression_hear_the_same(keeping):
    members = {
        "shared": Raw(keeping, WITHOUT_CONTEXT),
        "too": Raw(keeping, WITHOUT_CONTEXT),
        "narrow": Raw(keeping, "permessage-deflate; server_no_context_takeover; server_max_window_bits=9"),
        "alone": Raw(keeping, OFFER),
        "plain": Raw(keeping, ()),
    }
    for nickname, member in members.items():
        member.send("hello", nickname=nickname)
        member.send("join", room="lobby")
        member.expect_joined()  # whoever joins later does not hear what was said before
    line = keeping.json_line("line", "lobby")
    earlier = None
    for seed in [1, 2, 1]:
        content = prose(3000, seed)
        line.call("message", room="lobby", content=content)
        heard = {nickname: member.expect_message(content) for nickname, member in members.items()}
        assert {nickname for nickname, (is_compressed, _) in heard.items() if not is_compressed} == {"plain"}
        assert heard["shared"] == heard["too"], "what is shared is the same for both"
        sizes = {nickname: len(payload) for nickname, (_, payload) in heard.items()}
        assert sizes["shared"] < sizes["narrow"] < sizes["plain"] / 2
        earlier = earlier or sizes
    assert earlier["alone"] > earlier["shared"] / 2
    assert sizes["alone"] < sizes["shared"] / 5, "it refers to the first message"


def test_short_messages_are_not_compressed(server):
    ws = Raw(server, path="/echo")
    for size, is_compressed in [(255, False), (256, True)]:
        ws.say(prose(size).encode())
        came, _, message = ws.receive_message()
        assert (came, message) == (is_compressed, prose(size).encode())
    noise = random.Random(7).randbytes(10_000)
    ws.say(noise, ws.BINARY)
    assert ws.receive_message() == (False, noise, noise), "what does not become shorter stays as it is"


def test_protobuf_is_compressed_too(server):
    json_member = server.ws("ada", "lobby")
    ws = Raw(server, OFFER, "/ws?nickname=bob&room=lobby")
    assert ws.agreed
    content = prose(2000)
    json_member.call("message", room="lobby", content=content)
    fields = ["Sec-WebSocket-Extensions: permessage-deflate", "Sec-WebSocket-Protocol: starling.proto.v1"]
    binary = RawWebSocket(server, "/ws?nickname=eve&room=lobby", headers=fields)
    assert binary.handshake.headers["sec-websocket-extensions"] == WITHOUT_CONTEXT
    json_member.call("message", room="lobby", content=content)
    deadline = Deadline()
    while True:
        first, length = binary.raw.exactly(2, deadline)
        if length == 126:
            (length,) = struct.unpack(">H", binary.raw.exactly(2, deadline))
        payload = binary.raw.exactly(length, deadline)
        if first & COMPRESSED:
            assert first & 0x0F == binary.BINARY
            assert content.encode() in zlib.decompressobj(-15).decompress(payload + TAIL)
            break


def test_a_message_comes_in_fragments_with_pings_between(server):
    ws = Raw(server, path="/echo")
    message = prose(5000).encode()
    payload = compressed(message)
    first, second = payload[: len(payload) // 2], payload[len(payload) // 2 :]
    ws.raw.send(ws.frame(ws.TEXT | COMPRESSED, first, is_final=False))
    ws.raw.send(ws.frame(ws.PING, b"still there?"))
    ws.raw.send(ws.frame(0, second, is_final=False))
    ws.raw.send(ws.frame(0, b""))
    assert ws.receive_message()[2] == message
    # And byte by byte.
    ws.raw.send_slowly(ws.frame(ws.TEXT | COMPRESSED, compressed(b"Hello" * 100)))
    assert ws.receive_message()[2] == b"Hello" * 100


def test_who_comes_back_gets_what_it_missed_compressed(server):
    bob = server.ws("bob", "lobby")
    ws = Raw(server)
    ws.send("hello", nickname="ada")
    welcome = json.loads(ws.receive_message()[2])
    ws.send("join", room="lobby", id="1")
    joined = json.loads(ws.receive_message()[2])
    ws.raw.drop()
    bob.expect("presence", nickname="ada", event="away")
    for number in range(3):
        bob.call("message", room="lobby", content=prose(2000, number))
    back = Raw(server)
    back.send("hello", resume=welcome["resume"])
    back.send("join", room="lobby", since={"epoch": joined["epoch"], "offset": joined["offset"]})
    for number in range(3):
        assert back.expect_message(prose(2000, number))[0], "compressed"


# What is refused.


@pytest.mark.parametrize("offer, first, payload, code", [
    ((), RawWebSocket.TEXT | COMPRESSED, compressed(b"not agreed on"), 1002),
    (OFFER, RawWebSocket.PING | COMPRESSED, b"", 1002),
    (OFFER, RawWebSocket.TEXT | 0x20, b"", 1002),
    (OFFER, RawWebSocket.TEXT | 0x10, b"", 1002),
    (OFFER, COMPRESSED, b"", 1002),
    (OFFER, RawWebSocket.TEXT | COMPRESSED, b"\xff\xff\xff", 1007),
    (OFFER, RawWebSocket.TEXT | COMPRESSED, compressed(b"cut off within a block")[:-4], 1007),
    (OFFER, RawWebSocket.TEXT | COMPRESSED, compressed(b"no text: \xff"), 1007),
])
def test_what_breaks_the_rules_closes(server, offer, first, payload, code):
    ws = Raw(server, offer, "/echo")
    ws.raw.send(ws.frame(first, payload))
    assert ws.closed_with() == code


def test_a_continuation_is_not_compressed_anew(server):
    ws = Raw(server, path="/echo")
    ws.raw.send(ws.frame(ws.TEXT | COMPRESSED, compressed(b"Hello")[:3], is_final=False))
    ws.raw.send(ws.frame(COMPRESSED, compressed(b"Hello")[3:]))
    assert ws.closed_with() == 1002


@pytest.mark.parametrize("fragments", [1, 8])
def test_a_bomb_is_refused_in_bounded_memory(server, fragments):
    bomb = compressed(bytes(64 << 20))
    assert len(bomb) < 70_000
    server.ws("ada", "lobby")
    before = peak_kib(server)
    for _ in range(20):
        ws = Raw(server)
        step = -(-len(bomb) // fragments)
        for number in range(fragments):
            part = bomb[number * step : (number + 1) * step]
            first = ws.TEXT | COMPRESSED if number == 0 else 0
            ws.raw.send(ws.frame(first, part, is_final=number == fragments - 1))
        assert ws.closed_with() == 1009
    # A message may have 256 KiB, which each core may hold once inflated; the rest is the connections'.
    assert peak_kib(server) - before < 8 * 1024
    assert server.get("/health").status == 200


def test_who_says_much_in_few_bytes_does_not_keep_the_others_waiting(server):
    ada = server.ws("ada", "lobby")
    ws = Raw(server)
    # Each is within the limit of a message, and all together are a thousand times what is sent.
    flood = ws.frame(ws.TEXT | COMPRESSED, compressed(b'{"type":"ping"}' + b" " * 200_000))
    ws.raw.send(flood * 300)
    assert ada.call("ping")["type"] == "pong"
    for _ in range(300):
        assert json.loads(ws.receive_message()[2])["type"] == "pong"
