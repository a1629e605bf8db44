"""Clients that behave as clients do: reset in the middle of a word, stalled, away, back again, in ever new rooms under ever new names.

Each act is one function, which raises where the server did something that it should not have."""

import base64
import http.client
import itertools
import json
import os
import socket
import ssl
import struct
import threading
import time

DEADLINE_S = 30
API_KEY = "the-key-of-the-soak"
NUMBERS = itertools.count(1)
STALL_BYTES = 16384
STALL_S = 60


class Wrong(Exception):
    """The server did not answer as it should have."""


class Line:
    """A client of JSON lines."""

    def __init__(self, address, receive_buffer=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(DEADLINE_S)
        self.socket.connect(address)
        self.file = self.socket.makefile("rb")

    def say(self, **command):
        self.socket.sendall(json.dumps(command).encode() + b"\n")

    def hear(self, *types, **fields):
        """The next event of one of these types with these fields."""
        until = time.monotonic() + DEADLINE_S
        while time.monotonic() < until:
            line = self.file.readline()
            if not line:
                raise Wrong(f"the connection ended instead of {' or '.join(types)}")
            if line.startswith(b"* "):
                continue  # we were so late with the first word (limits.detect_ms) that we were greeted as a person
            event = json.loads(line)
            if event["type"] == "ping":
                self.say(type="pong")
            if event["type"] in types and all(event.get(name) == value for name, value in fields.items()):
                return event
            if event["type"] == "error":
                raise Wrong(f"{event['code']} {event['reason']}: {event['message']}")
        raise Wrong(f"waited in vain for {' or '.join(types)}")

    def hello(self, nickname, **fields):
        self.say(type="hello", nickname=nickname, **fields)
        return self.hear("welcome")

    def join(self, room, **fields):
        self.say(type="join", room=room, **fields)
        return self.hear("joined", room=room)

    def quit(self):
        self.say(type="quit")
        self.hear("bye")
        self.close()

    def close(self):
        self.file.close()
        self.socket.close()

    def reset(self):
        self.file.close()
        reset(self.socket)


def reset(sock):
    """Ends a connection as a machine that fails does: nothing more is sent, and the other side hears RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def connected(address):
    return socket.create_connection(address, timeout=DEADLINE_S)


def read_until(sock, end):
    heard = b""
    while end not in heard:
        piece = sock.recv(65536)
        if not piece:
            raise Wrong(f"the connection ended after {heard[:80]!r}")
        heard += piece
    return heard


def upgraded(sock, host):
    """A WebSocket on a connection."""
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(f"GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
    head = read_until(sock, b"\r\n\r\n")
    if b" 101 " not in head.split(b"\r\n")[0]:
        raise Wrong(f"no WebSocket: {head[:80]!r}")
    return sock


def ws_text(**command):
    """A command as a frame of a client; the mask is 0, which is one too."""
    payload = json.dumps(command).encode()
    length = bytes([0x80 | len(payload)]) if len(payload) < 126 else bytes([0x80 | 126]) + struct.pack(">H", len(payload))
    return b"\x81" + length + bytes(4) + payload


class Acts:
    """What is done again and again. `ports` are addresses by kind: web, tls, line, frame."""

    def __init__(self, ports):
        self.ports = ports
        self.last_away = None
        self.tls = ssl.create_default_context()
        self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE

    def all(self):
        return [self.killed_line, self.mail, self.killed_websocket, self.killed_tls, self.killed_request, self.killed_person, self.killed_frames,
                self.changing, self.killed_stream, self.published]

    def killed_line(self):
        """In the middle of a command. Its session waits for it for a while, with mail."""
        number = next(NUMBERS)
        client = Line(self.ports["line"])
        client.hello(f"k{number}")
        client.join(f"kr{number}")
        client.say(type="message", room=f"kr{number}", content="the last word", id="1")
        client.hear("ack", id="1")
        client.socket.sendall(b'{"type":"message","room":"kr')
        client.reset()
        self.last_away = f"k{number}"

    def killed_websocket(self):
        """In the middle of a frame."""
        sock = upgraded(connected(self.ports["web"]), "localhost")
        self._lost_inside_frame(sock)

    def killed_tls(self):
        """The same over TLS, which hears no goodbye either."""
        sock = upgraded(self.tls.wrap_socket(connected(self.ports["tls"]), server_hostname="localhost"), "localhost")
        self._lost_inside_frame(sock)

    def _lost_inside_frame(self, sock):
        number = next(NUMBERS)
        sock.sendall(ws_text(type="hello", nickname=f"w{number}") + ws_text(type="join", room=f"wr{number}"))
        read_until(sock, b'"joined"')
        sock.sendall(b"\x81" + bytes([0x80 | 126]) + struct.pack(">H", 1000) + bytes(4) + b'{"type":')
        reset(sock)

    def killed_request(self):
        """In the middle of a request's head."""
        sock = connected(self.ports["web"])
        sock.sendall(b"GET /api/rooms HTTP/1.1\r\nHost: local")
        reset(sock)

    def killed_person(self):
        """Somebody with a text client, whose machine is switched off."""
        number = next(NUMBERS)
        sock = connected(self.ports["line"])
        sock.sendall(f"p{number}\n/join pr{number}\n".encode())
        read_until(sock, f"joined pr{number}".encode())
        reset(sock)

    def killed_frames(self):
        """In the middle of a frame's head."""
        sock = connected(self.ports["frame"])
        sock.sendall(b"\xca\xfe\xba\xbe\x01\x00")
        reset(sock)

    def mail(self):
        """A private message to somebody who is away: it waits, and goes with the session."""
        client = Line(self.ports["line"])
        client.hello(f"m{next(NUMBERS)}")
        if self.last_away:
            client.say(type="private", target=self.last_away, content="are you there?" * 20, id="1")
            try:
                client.hear("ack", id="1")
            except Wrong as why:
                if not str(why).startswith("404"):
                    raise  # not there any more is right too
        client.quit()

    def changing(self):
        """Nicknames, state and a switch; and then it just hangs up."""
        number = next(NUMBERS)
        client = Line(self.ports["line"])
        client.hello(f"c{number}")
        client.join(f"cr{number}")
        client.say(type="state", room=f"cr{number}", key="topic", value={"is": "x" * 200}, id="1")
        client.hear("ack", id="1")
        client.say(type="nick", nickname=f"d{number}", id="2")
        client.hear("ack", id="2")
        client.say(type="typing", room=f"cr{number}", id="3")
        client.hear("ack", id="3")
        client.say(type="switch", **{"from": f"cr{number}", "to": f"dr{number}"})
        client.hear("joined", room=f"dr{number}")
        client.close()

    def killed_stream(self):
        """Somebody who reads a room's events over HTTP."""
        sock = connected(self.ports["web"])
        sock.sendall(f"GET /api/rooms/kr{next(NUMBERS)}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        read_until(sock, b"\r\n\r\n")
        reset(sock)

    def published(self):
        """A program that publishes by HTTP, under a key of its own each time, and asks what is there."""
        number = next(NUMBERS)
        client = http.client.HTTPConnection(*self.ports["web"], timeout=DEADLINE_S)
        headers = {"X-API-Key": API_KEY, "Content-Type": "application/json", "Idempotency-Key": f"key-{number}"}
        for _ in range(2):  # the second one is answered as the first was
            client.request("POST", f"/api/rooms/hr{number}/messages", json.dumps({"content": "from a program"}), headers)
            answer = client.getresponse()
            body = answer.read()
            if answer.status != 200 or json.loads(body)["offset"] != 1:
                raise Wrong(f"publishing: {answer.status} {body[:200]!r}")
        client.request("GET", f"/api/rooms/hr{number}/history", headers={"X-API-Key": API_KEY})
        answer = client.getresponse()
        if answer.status != 200 or len(json.loads(answer.read())["messages"]) != 1:
            raise Wrong(f"history: {answer.status}")
        client.close()

    def stalled(self, stop):
        """Two members stop reading, are closed as slow consumers, and come back to their sessions."""
        number = next(NUMBERS)
        room = f"st{number}"
        speaker = Line(self.ports["line"])
        speaker.hello(f"s{number}")
        speaker.join(room, echo=False)
        readers, tokens = [], []
        for which in "ab":
            reader = Line(self.ports["line"], receive_buffer=4096)
            tokens.append(reader.hello(f"s{number}{which}")["resume"])
            reader.join(room)
            readers.append(reader)
        closed = set()
        hearing = threading.Thread(target=self._hear_of_closed, args=(speaker, closed), daemon=True)
        hearing.start()
        until = time.monotonic() + STALL_S
        while len(closed) < 2 and time.monotonic() < until and not stop.is_set() and hearing.is_alive():
            speaker.say(type="message", room=room, content="x" * STALL_BYTES)
            time.sleep(0.01)  # the pace of the load
        if len(closed) < 2 and not stop.is_set():
            raise Wrong(f"{2 - len(closed)} of 2 stalled readers were not closed in {STALL_S} s")
        for reader in readers:
            reader.reset()
        resumed = 0
        for which, token in zip("ab", tokens):
            back = Line(self.ports["line"])
            resumed += back.hello(f"s{number}{which}", resume=token)["resumed"]
            back.join(room)
            back.quit()
        speaker.socket.shutdown(socket.SHUT_RDWR)
        hearing.join()
        speaker.close()
        if resumed < 2 and not stop.is_set():
            raise Wrong(f"{2 - resumed} of 2 stalled readers could not resume")

    @staticmethod
    def _hear_of_closed(speaker, closed):
        try:
            while True:
                event = speaker.hear("presence")
                if event["event"] in ("away", "leave"):
                    closed.add(event["nickname"])
        except (Wrong, OSError, ValueError):
            return  # the speaker has left


class Trouble:
    """Acts on threads of their own until told to stop, with what was done and what went wrong."""

    def __init__(self, ports, acts_per_s, stall_every_s, tell):
        self.acts, self.tell = Acts(ports), tell
        self.acts_per_s, self.stall_every_s = acts_per_s, stall_every_s
        self.done, self.wrong = {}, []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=run, daemon=True) for run in (self._acts, self._stalls)]

    def start(self):
        for thread in self.threads:
            thread.start()

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(DEADLINE_S + STALL_S)

    def _acts(self):
        for act in itertools.cycle(self.acts.all()):
            if self.stop.wait(1 / self.acts_per_s):
                return
            self._one(act.__name__, act)

    def _stalls(self):
        while not self.stop.wait(self.stall_every_s):
            self._one("stalled", lambda: self.acts.stalled(self.stop))

    def _one(self, name, act):
        try:
            act()
        except (Wrong, OSError, ValueError, KeyError, http.client.HTTPException) as why:
            self.wrong.append(f"{name}: {why!r}")
            self.tell("wrong", f"{name}: {why!r}")
        else:
            self.done[name] = self.done.get(name, 0) + 1
