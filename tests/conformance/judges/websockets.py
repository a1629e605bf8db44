"""Python's `websockets`, a client that keeps to RFC 6455 and RFC 7692 to the letter and fails on whatever does not.

It has no cases for servers of its own, so these are ours: messages of every form, control frames between fragments, every code that a
close may have, compression with each of its parameters, subprotocols, at /echo and /ws. The library judges what comes: masks, reserved
bits, lengths, UTF-8, the order of fragments, closing, and what of its offer was agreed on.

A pass: the same comes back, and the connection ends as it was asked to, by both sides."""

import contextlib
import json
import os
import random

from judge import Failed, case, missing_modules, module_version

SCHEME = "ws"
TIMEOUT_S = 20
SIZES = [0, 1, 125, 126, 127, 128, 65_535, 65_536, 1_000_000]
CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]


def missing():
    return missing_modules("websockets")


def version():
    return module_version("websockets")


def run(bench):
    # Contexts are kept for who asks, so that those parameters can be agreed on.
    with bench.server(web__deflate="true", limits__deflate_contexts=8) as server:
        for name, ask, arguments in cases():
            bench.say(name)
            yield case(name, ask, server, *arguments)


def cases():
    for size in SIZES:
        for compression in (None, "deflate"):
            suffix = ", compressed" if compression else ""
            yield f"text of {size} characters{suffix}", echo, (text(size), compression)
            yield f"{size} bytes{suffix}", echo, (os.urandom(size), compression)
    yield "text in fragments", fragments, (["frag", "", "ments", " 🦆"],)
    yield "bytes in fragments", fragments, ([b"\0", b"", b"\xff" * 70_000],)
    yield "a ping between fragments", ping_between, ()
    yield "pings of 0 and 125 bytes", pings, ()
    yield "a thousand messages, none read before all are sent", many, ()
    for code in CODES:
        yield f"closing with {code}", closing, (code, "because")
    yield "closing with a reason of 123 bytes", closing, (1000, "x" * 123)
    for parameters in [{"server_no_context_takeover": True}, {"client_no_context_takeover": True}, {"client_max_window_bits": True},
                       {"client_max_window_bits": 9}, {"server_max_window_bits": 9}, {"server_max_window_bits": 15},
                       {"server_no_context_takeover": True, "client_no_context_takeover": True, "server_max_window_bits": 10}]:
        words = ", ".join(name if value is True else f"{name}={value}" for name, value in parameters.items())
        yield f"compression with {words}", parameters_kept, (parameters,)
    yield "a subprotocol that is spoken", subprotocol, (["x", "starling.proto.v1"], "starling.proto.v1")
    yield "a subprotocol that is not", subprotocol, (["x", "y"], None)
    yield "no upgrade where there is no WebSocket", no_websocket, ()
    yield "a conversation at /ws", conversation, ()


def text(size):
    return "".join(random.choices("abcdefgh äöü🦆", k=size))


@contextlib.contextmanager
def connected(server, path="/echo", **options):
    from websockets.sync.client import connect

    options = {"compression": None, "max_size": None, "open_timeout": TIMEOUT_S, "close_timeout": TIMEOUT_S, "proxy": None} | options
    with connect(server.url(path), **options) as client:
        yield client
        client.close()
    # An end that was not clean is told, not raised.
    if client.close_code not in (1000, *CODES):
        raise Failed(f"the connection ended with {client.close_code}")


def expect(client, message):
    got = client.recv(TIMEOUT_S)
    if got != message:
        raise Failed(f"{got[:80]!r} ({len(got)}) came, {message[:80]!r} ({len(message)}) was sent")


def echo(server, message, compression):
    with connected(server, compression=compression) as client:
        # The second may refer to the first.
        for _ in range(2):
            client.send(message)
            expect(client, message)


def fragments(server, parts):
    with connected(server) as client:
        client.send(parts)
        expect(client, type(parts[0])().join(parts))


def ping_between(server):
    with connected(server) as client:
        pongs = []

        def parts():
            yield "before "
            pongs.append(client.ping(b"between"))
            yield "after"

        client.send(parts())
        expect(client, "before after")
        if not pongs[0].wait(TIMEOUT_S):
            raise Failed("no pong came")


def pings(server):
    with connected(server) as client:
        for payload in (b"", b"x" * 125):
            if not client.ping(payload).wait(TIMEOUT_S):
                raise Failed(f"no pong to {len(payload)} bytes came")


def many(server):
    with connected(server) as client:
        messages = [str(n) for n in range(1000)]
        for message in messages:
            client.send(message)
        for message in messages:
            expect(client, message)


def closing(server, code, reason):
    with connected(server) as client:
        client.close(code, reason)
        received = client.protocol.close_rcvd
        if received is None or received.code != code:
            raise Failed(f"{received} came back")


def parameters_kept(server, parameters):
    from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

    with connected(server, extensions=[ClientPerMessageDeflateFactory(**parameters)]) as client:
        if not client.protocol.extensions:
            raise Failed("nothing was agreed on")
        for _ in range(3):
            message = text(5000)
            client.send(message)
            expect(client, message)


def subprotocol(server, offered, wanted):
    with connected(server, "/ws", subprotocols=offered) as client:
        if client.subprotocol != wanted:
            raise Failed(f"{client.subprotocol} was chosen")


def no_websocket(server):
    from websockets.exceptions import InvalidStatus

    try:
        with connected(server, "/health"):
            raise Failed("it was upgraded")
    except InvalidStatus:
        pass  # Whatever is there; an upgrade may be ignored (RFC 9110, 7.8).


def conversation(server):
    with connected(server, "/ws?nickname=judge&room=court", compression="deflate") as client:
        client.send(json.dumps({"type": "message", "room": "court", "content": "order!", "id": "1"}))
        seen = []
        while len(seen) < 20 and not any(event["type"] == "message" for event in seen):
            seen.append(json.loads(client.recv(TIMEOUT_S)))
        if not any(event["type"] == "ack" and event.get("id") == "1" for event in seen):
            raise Failed(f"{seen} came")
