"""Does a peer deliver rightly? Two rooms, five members, small clients that read every byte.

A peer that loses, repeats, reorders or mixes messages is not measured: how fast it does that says nothing.
"""

import base64
import os
import socket
import struct
import time

from .processes import Failed

WAIT_S = 5
SIZE = 128
MESSAGES = 100
# After the last message, this long must be quiet.
QUIET_S = 0.1


class Client:
    """One connection: a subclass per protocol says hello, publishes, and takes whole messages from what has arrived."""

    def __init__(self, port, room):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.room = room.encode()
        self.arrived = bytearray()
        self.hello()

    def hello(self):
        raise NotImplementedError

    def publish(self, content):
        raise NotImplementedError

    def take(self):
        """The next whole message of `arrived`, or None if it is not there yet. Empty for what is no message."""
        raise NotImplementedError

    def receive(self, timeout_s=WAIT_S):
        """The next message; None after `timeout_s`."""
        until = time.monotonic() + timeout_s
        while True:
            message = self.take()
            if message:
                return message
            if message is None:
                left_s = until - time.monotonic()
                if left_s <= 0:
                    return None
                self.socket.settimeout(left_s)
                try:
                    self.read()
                except TimeoutError:
                    return None

    def read(self):
        data = self.socket.recv(65536)
        if not data:
            raise Failed("check: it closed a connection")
        self.arrived += data

    def read_until(self, end):
        while end not in self.arrived:
            self.read()
        position = self.arrived.index(end) + len(end)
        taken = bytes(self.arrived[:position])
        del self.arrived[:position]
        return taken

    def take_exactly(self, count):
        if len(self.arrived) < count:
            return None
        taken = bytes(self.arrived[:count])
        del self.arrived[:count]
        return taken


class WebSocket(Client):
    path = "/ws"

    def hello(self):
        self.socket.sendall(
            f"GET {self.path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n\r\n".encode())
        head = self.read_until(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise Failed(f"check: no WebSocket at {self.path}: {head[:40]!r}")
        if self.path == "/ws":
            self.publish(self.room)

    def publish(self, content):
        mask = os.urandom(4)
        length = bytes([0x80 | len(content)]) if len(content) < 126 else bytes([0x80 | 126]) + struct.pack(">H", len(content))
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(content))
        self.socket.sendall(b"\x81" + length + mask + masked)

    def take(self):
        if len(self.arrived) < 4:
            return None
        size, start = self.arrived[1], 2
        if size == 126:
            size, start = struct.unpack(">H", self.arrived[2:4])[0], 4
        frame = self.take_exactly(start + size)
        if frame is None:
            return None
        return frame[start:] if frame[0] == 0x81 else b""


class EchoWebSocket(WebSocket):
    path = "/echo"


class Lines(Client):
    """The floor: a connection that sends is a publisher and hears nothing, all others hear everything."""

    def hello(self):
        pass

    def publish(self, content):
        self.socket.sendall(content + b"\n")

    def take(self):
        end = self.arrived.find(b"\n")
        return None if end < 0 else self.take_exactly(end + 1)[:-1]


class Nats(Client):
    def hello(self):
        self.socket.sendall(b'CONNECT {"verbose":false}\r\nSUB %b 1\r\nPING\r\n' % self.room)
        self.read_until(b"PONG\r\n")

    def publish(self, content):
        self.socket.sendall(b"PUB %b %d\r\n%b\r\n" % (self.room, len(content), content))

    def take(self):
        end = self.arrived.find(b"\r\n")
        if end < 0:
            return None
        if not self.arrived.startswith(b"MSG "):
            self.take_exactly(end + 2)
            return b""
        size = int(self.arrived[:end].split()[-1])
        message = self.take_exactly(end + 2 + size + 2)
        return message and message[end + 2 : -2]


class Redis(Client):
    """RESP3, in which a connection may publish and be subscribed at the same time."""

    def hello(self):
        self.socket.sendall(b"HELLO 3\r\nSUBSCRIBE %b\r\n" % self.room)
        self.read_until(b"$9\r\nsubscribe\r\n")
        self.read_until(b":1\r\n")

    def publish(self, content):
        parts = b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in (b"PUBLISH", self.room, content))
        self.socket.sendall(b"*3\r\n" + parts)

    def take(self):
        end = self.arrived.find(b"\r\n")
        if end < 0:
            return None
        head = b">3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$" % (len(self.room), self.room)
        if not self.arrived.startswith(b">"):
            self.take_exactly(end + 2)  # how many heard it
            return b""
        end = self.arrived.find(b"\r\n", len(head))
        if end < 0:
            return None
        size = int(self.arrived[len(head) : end])
        message = self.take_exactly(end + 2 + size + 2)
        return message and message[end + 2 : -2]


class Mqtt(Client):
    """3.1.1 with QoS 0."""

    def hello(self):
        name = os.urandom(8).hex().encode()
        self.send(0x10, b"\0\4MQTT\4\2\0\0" + text(name))
        self.send(0x82, b"\0\1" + text(self.room) + b"\0")
        self.read_until(b"\x90\x03\0\1\0")

    def send(self, kind, body):
        length = bytes([len(body)]) if len(body) < 128 else bytes([len(body) & 0x7F | 0x80, len(body) >> 7])
        self.socket.sendall(bytes([kind]) + length + body)

    def publish(self, content):
        self.send(0x30, text(self.room) + content)

    def take(self):
        if len(self.arrived) < 3:
            return None
        size, start = self.arrived[1], 2
        if size & 0x80:
            size, start = size & 0x7F | self.arrived[2] << 7, 3
        packet = self.take_exactly(start + size)
        if packet is None:
            return None
        return packet[start + 2 + len(self.room) :] if packet[0] == 0x30 else b""


def text(data):
    return struct.pack(">H", len(data)) + data


def check_rooms(kind, port):
    """Three members in one room and two in another; two publishers in the first, one in the second."""
    rooms = {"first": [kind(port, "first") for _ in range(3)], "second": [kind(port, "second") for _ in range(2)]}
    for name, members in rooms.items():
        for number, member in enumerate(members):
            settle(member, b"probe-%d" % number)
    for number in range(MESSAGES):
        rooms["first"][0].publish(content("first", 0, number))
        rooms["first"][1].publish(content("first", 1, number))
        rooms["second"][0].publish(content("second", 0, number))
    for name, members in rooms.items():
        for member in members:
            expect(member, name, publishers=2 if name == "first" else 1)


def check_floor(kind, port):
    """Two publishers, three others: the others hear all."""
    publishers, receivers = [kind(port, "") for _ in range(2)], [kind(port, "") for _ in range(3)]
    # A publisher may be read before the last receiver is accepted: a probe that each receiver hears tells that all are there.
    for receiver in receivers:
        while not receiver.receive(0.05):
            publishers[0].publish(b"probe")
    for number in range(MESSAGES):
        for index, publisher in enumerate(publishers):
            publisher.publish(content("floor", index, number))
    for receiver in receivers:
        expect(receiver, "floor", publishers=2)


def check_echo(kind, port):
    """What is sent comes back, in order."""
    client = kind(port, "echo")
    if kind not in (EchoWebSocket, Lines):
        settle(client, b"probe")
    for number in range(MESSAGES):
        client.publish(content("echo", 0, number))
    expect(client, "echo", publishers=1)


def check_health(port):
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    if not answer.startswith(b"HTTP/1.1 200 ") or answer.split(b"\r\n\r\n", 1)[1].strip() not in (b"OK", b"2\r\nOK\r\n0"):
        raise Failed(f"check: GET /health is answered with {answer!r}")


def settle(member, probe):
    """Nothing tells that a WebSocket hub has let a member in, except that it hears itself."""
    for _ in range(100):
        member.publish(probe)
        until = time.monotonic() + 0.1
        while (left_s := until - time.monotonic()) > 0:
            if member.receive(left_s) == probe:
                return
    raise Failed("check: a member does not hear itself")


def content(room, publisher, number):
    return f"{room} {publisher} {number} ".encode().ljust(SIZE, b".")


def expect(member, room, publishers):
    """Each publisher's messages, whole, in order, once; and no others."""
    expected = [0] * publishers
    while sum(expected) < publishers * MESSAGES:
        message = member.receive()
        if message is None:
            raise Failed(f"check: {publishers * MESSAGES - sum(expected)} messages are missing")
        take_one(message, room, expected)
    while (message := member.receive(QUIET_S)) is not None:
        take_one(message, room, expected)


def take_one(message, room, expected):
    if message.startswith(b"probe"):
        return
    publisher = int(message.split()[1]) if message.count(b" ") >= 2 else -1
    if not 0 <= publisher < len(expected) or message != content(room, publisher, expected[publisher]):
        raise Failed(f"check: not the message expected: {message[:40]!r}")
    expected[publisher] += 1
