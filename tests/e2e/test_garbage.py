"""Bytes that mean nothing, ends that come early, beginnings that come slowly: the server serves on."""

import os
import random
import socket
import struct

import pytest

from helpers import LISTENERS, RawWebSocket, ping_of_another

SEED = int(os.environ.get("STARLING_TEST_SEED", "7"))


def alphabet(generator):
    """Some noise is pure, some is made of what parsers look for."""
    tokens = [b"GET ", b"POST ", b" HTTP/1.1\r\n", b"Host: x\r\n", b"\r\n\r\n", b"\r\n", b"\n", b"\0", b"{", b"}", b'"type"', b":", b'"hello"',
              b"\xff\xfa", b"\xff\xfb\x01", b"\xff\xff", b"/join ", b"//", b"\xe2\x8f", b"\xf0\x9f\x98\x80", b"Content-Length: 9\r\n",
              b"Upgrade: websocket\r\n", b"\x81\xfe\xff\xff", b"\x88\x80\0\0\0\0", b"\xca\xfe\xba\xbe\x01\0\0\0\x09\x01", b"[" * 200, b'{"a":' * 200]
    return tokens + [generator.randbytes(generator.randint(1, 40)) for _ in range(10)]


@pytest.mark.parametrize("listener", ["web", "line", "frame"])
@pytest.mark.parametrize("round", range(3))
def test_noise(server, listener, round):
    generator = random.Random(f"{SEED} {listener} {round}")
    for _ in range(40):
        client = server.connect(listener)
        noise = b"".join(generator.choices(alphabet(generator), k=generator.randint(1, 60)))
        try:
            client.send(noise)
            if generator.random() < 0.5:
                client.finish()
        except ConnectionError:
            pass  # Refused before all was said.
        if generator.random() < 0.3:
            # A reset instead of an end.
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    ping_of_another(server)


def test_noise_in_frames(server):
    generator = random.Random(SEED)
    for _ in range(40):
        connection = RawWebSocket(server)
        assert connection.handshake.status == 101
        try:
            for _ in range(generator.randint(1, 5)):
                payload = generator.choice([generator.randbytes(generator.randint(0, 300)), b'{"type":"join","room":', b"\xed\xa0\x80"])
                connection.send_frame(generator.randint(0, 15), payload, is_final=generator.random() < 0.8)
        except ConnectionError:
            pass
        connection.raw.close()
    ping_of_another(server)


def test_deep_json_is_an_error_only(server):
    client = server.ws()
    for opening, end in [("[", "]"), ('{"a":', "}")]:
        client.send_text(opening * 20_000 + "1" + end * 20_000)
        assert client.expect("error")["code"] == 400
    assert client.call("ping")["type"] == "pong"


def test_a_websocket_may_come_one_byte_at_a_time(server):
    client = server.connect()
    client.send_slowly(b"GET /ws HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                       b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    assert client.response(has_body=False).status == 101
    client.send_slowly(RawWebSocket.frame(1, b'{"type":"ping","id":"slow"}'))
    length = client.exactly(2)[1]
    assert b'"pong"' in client.exactly(length)


def test_frames_in_the_packet_of_the_handshake_are_read(server):
    client = server.connect()
    client.send(b"GET /ws HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + RawWebSocket.frame(1, b'{"type":"ping"}'))
    assert client.response(has_body=False).status == 101
    length = client.exactly(2)[1]
    assert b'"pong"' in client.exactly(length)


@pytest.mark.parametrize("listener, beginning", [
    ("web", b""), ("web", b"GET / HT"), ("web", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf"),
    ("line", b""), ("line", b"ali"), ("line", b'{"type":"hel'), ("line", b"\xff"), ("line", b"\xff\xfa never ends"),
])
def test_an_early_end(server, listener, beginning):
    client = server.connect(listener)
    client.send(beginning)
    client.finish()
    try:
        client.rest()
    except ConnectionError:
        pass  # A reset is an end too.
    ping_of_another(server)


def test_many_come_and_go_without_a_word(server):
    for _ in range(300):
        for listener in LISTENERS:
            client = server.connect(listener)
            client.close()
    ping_of_another(server)


def test_half_open_connections_keep_their_session(server):
    """A client that has finished sending may still listen until it is answered."""
    client = server.connect("line")
    client.send(b'{"type":"hello","nickname":"half"}\n{"type":"join","room":"lobby"}\n{"type":"ping","id":"last"}\n')
    client.finish()
    answer = client.rest()
    assert b'"welcome"' in answer and b'"joined"' in answer and b'"last"' in answer
