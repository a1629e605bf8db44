"""wsproto, the WebSocket protocol of Python's python-hyper, and the bytes that its own tests give to it.

Its tests (of its source distribution, which is fetched and not kept in this repository) are run once, and what they give to its decoder of
frames and to its server's handshake is noted. Frames of servers are masked, with a mask of zeros. All of that is sent to /echo, and
wsproto itself says of the same bytes which messages they are, and with which code they have to be refused. Frames of extensions are left
out: whoever has not agreed on one must refuse them, and cases of that are among the others.

A pass: what wsproto takes comes back, and what it refuses is closed with its code. A handshake is taken if wsproto takes it."""

import json
import os
import re
import subprocess
import sys
import tempfile

from helpers import Deadline, RawWebSocket, environment
from judge import ROOT, Failed, case, missing_modules, missing_sources, module_version, sources

SCHEME = "ws"
CONTROL = 8


def missing():
    return missing_modules("wsproto", "pytest") + missing_sources("wsproto")


def version():
    return module_version("wsproto")


def vectors():
    """What the tests give to the decoders: (kind, test, bytes), each once."""
    with tempfile.NamedTemporaryFile(mode="r", prefix="wsproto-") as heard:
        variables = {"PYTHONPATH": str(ROOT / "tests/conformance"), "WSPROTO_HEARD": heard.name, "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "wsproto_recorder", "tests"]
        done = subprocess.run(command, cwd=sources("wsproto"), env=environment() | variables, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
        if done.returncode != 0:
            raise RuntimeError(f"wsproto's tests fail:\n{done.stdout.decode(errors='replace')[-2000:]}")
        lines = [json.loads(line) for line in heard]
    seen = {}
    for line in lines:
        data = bytes.fromhex(line["data"])
        if line["kind"] == "frames":
            data = masked(data) if line["is_client"] else data
        elif line["is_client"]:
            continue  # What a server answers.
        seen.setdefault((line["kind"], data), line["test"])
    names = {}
    for (kind, data), test in seen.items():
        names[test] = names.get(test, 0) + 1
        yield kind, test + (f" ({names[test]})" if names[test] > 1 else ""), data


def masked(data):
    """Frames of a server as a client would send them: with a mask of zeros, which leaves the rest as it is."""
    out = b""
    while len(data) >= 2:
        length = data[1] & 0x7F
        end = 2 + {126: 2, 127: 8}.get(length, 0)
        if len(data) < end:
            break
        payload_bytes = int.from_bytes(data[2:end]) if end > 2 else length
        out += data[:1] + bytes([data[1] | 0x80]) + data[2:end] + bytes(4) + data[end:end + payload_bytes]
        data = data[end + payload_bytes:]
    return out + data


def run(bench):
    with bench.server() as server:
        for kind, name, data in vectors():
            bench.say(name)
            yield case(f"{kind}: {name}", frames if kind == "frames" else handshake, server, data)


# Frames.


def verdict(data):
    """What wsproto makes of frames of a client: what is to come back, the code that refuses the rest, and whether all was whole."""
    from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, ParseFailed

    protocol = FrameProtocol(client=False, extensions=[])
    protocol.receive_bytes(data)
    expected, message = [], None
    try:
        for frame in protocol.received_frames():
            if frame.opcode is Opcode.CLOSE:
                code = frame.payload[0]
                return expected, (1005 if code is CloseReason.NO_STATUS_RCVD else int(code)), True
            if frame.opcode is Opcode.PING:
                expected.append((Opcode.PONG, bytes(frame.payload)))
            elif frame.opcode in (Opcode.TEXT, Opcode.BINARY):
                part = frame.payload.encode() if isinstance(frame.payload, str) else bytes(frame.payload)
                message = (message or b"") + part
                if frame.message_finished:
                    expected.append((frame.opcode, message))
                    message = None
    except ParseFailed as error:
        return expected, int(error.code), True
    decoder = protocol._frame_decoder
    return expected, None, len(decoder.buffer) == 0 and decoder.header is None


def frames(server, data):
    expected, code, is_whole = verdict(data)
    client = RawWebSocket(server, "/echo")
    deadline = Deadline(10)
    try:
        client.raw.send(data)
        if code is None and is_whole:
            expected.append((RawWebSocket.PONG, b"judge"))
            client.send_frame(RawWebSocket.PING, b"judge")
        for opcode, payload in expected:
            got = client.receive_frame(deadline)
            if got != (int(opcode), payload):
                raise Failed(f"{got[0]} {got[1][:80]!r} came, {int(opcode)} {payload[:80]!r} was expected; {data[:80].hex()}")
        if code is not None:
            opcode, payload = client.receive_frame(deadline)
            got = int.from_bytes(payload[:2]) if payload else 1005
            if opcode != RawWebSocket.CLOSE or got != code:
                raise Failed(f"{opcode} {got} came, a close with {code} was expected; {data[:80].hex()}")
    except TimeoutError:
        raise Failed(f"nothing came, {expected or code} was expected; {data[:80].hex()}") from None
    finally:
        client.raw.close()


# Handshakes.


def handshake(server, data):
    from wsproto.connection import SERVER
    from wsproto.handshake import H11Handshake
    from wsproto.utilities import RemoteProtocolError

    judge = H11Handshake(SERVER)
    try:
        judge.receive_data(data)
        is_taken = next(judge.events(), None) is not None
    except RemoteProtocolError:
        is_taken = False
    # It asks for whatever it likes; here there is one path.
    client = server.connect()
    try:
        client.send(re.sub(rb"^(\S+) /\S* ", rb"\1 /echo ", data))
        status = client.response(has_body=False).status
    finally:
        client.close()
    if (status == 101) != is_taken:
        raise Failed(f"answered with {status}, wsproto {'takes' if is_taken else 'refuses'} it; {data[:300]!r}")
