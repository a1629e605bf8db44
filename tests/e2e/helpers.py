"""A running server and the clients that talk to it. Every wait has a deadline, and nothing sleeps to let something happen."""

import base64
import contextlib
import itertools
import json
import os
import queue
import re
import secrets
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

# Generous, since machines are busy; a test that waits this long has failed.
DEADLINE_S = 15.0

PREFIXES = itertools.count(os.getpid() * 1000)

# Every kind of listener, in the order that a Server has their addresses.
LISTENERS = ["web", "line", "frame", "grpc"]


def binary():
    return os.environ.get("STARLING_BIN", "target/release/starling")


def cores():
    return int(os.environ.get("STARLING_TEST_CORES", "1"))


def environment():
    """Without the tests' own variables: they look like configuration, and unknown configuration is an error."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STARLING_")}


def run(command, **options):
    """A program that ends by itself."""
    return subprocess.run(command, capture_output=True, timeout=30, env=environment(), **options)


class Deadline:
    """Counts down the seconds that a wait may still take."""

    def __init__(self, seconds=DEADLINE_S):
        self._ends_at = time.monotonic() + seconds

    def left(self):
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        return left


def let_pass(seconds):
    """Where it is time itself that something is about, and there is nothing else to wait for."""
    ends_at = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > ends_at, "time to pass", seconds + 5)


def wait_until(condition, what, seconds=DEADLINE_S):
    """Polls what cannot be waited for otherwise, such as another process's state."""
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"in vain waited for {what}")


class Server:
    """A server process on free ports. `settings` are configuration keys, such as `limits.hello_ms`, with `.` as `__`. With
    `_has_listeners`, a file named by the flags says where it listens: on a port and a path for each kind."""

    def __init__(self, _environment=None, _flags=(), _has_listeners=False, _web="127.0.0.1:0", **settings):
        # A short drain, so that a test's end does not wait for clients it has forgotten; and no limit of the rate, because
        # tests are faster than people.
        settings = {"drain__spread_ms": 200, "drain__timeout_ms": 3000, "rate__commands_per_second": 0,
                    "store__kind": os.environ.get("STARLING_TEST_STORE", "memory")} | settings
        # A node that shares nothing with others is to behave as one that stands alone.
        if (redis := os.environ.get("STARLING_TEST_REDIS")) and "cluster__redis" not in settings:
            settings |= {"store__kind": "memory", "cluster__redis": redis, "cluster__prefix": f"t{next(PREFIXES)}"}
        self._directory = None
        if settings["store__kind"] == "sqlite" and "data_dir" not in settings:
            self._directory = tempfile.TemporaryDirectory(prefix="starling-test-")
            settings["data_dir"] = self._directory.name
        command = [binary(), "serve", "--cores", str(cores())]
        if not _has_listeners:
            for listener in LISTENERS:
                command += [f"--{listener}", _web if listener == "web" else "127.0.0.1:0"]
        command += _flags
        for key, value in settings.items():
            command += ["--set", f"{key.replace('__', '.')}={value}"]
        self.process = subprocess.Popen(command, env=environment() | (_environment or {}), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)
        self.log = []
        self._is_terminated = self._is_killed = self._may_panic = False
        self._clients = []
        self._lines = queue.Queue()
        for pipe, sink in [(self.process.stdout, self._lines.put), (self.process.stderr, self.log.append)]:
            threading.Thread(target=self._drain_pipe, args=(pipe, sink), daemon=True).start()
        # The paths by their kinds, if it listens on any.
        self.paths = {}
        self.web, self.line, self.frame, self.grpc = self._addresses(len(LISTENERS) if _has_listeners else 0)

    @staticmethod
    def _drain_pipe(pipe, sink):
        for line in pipe:
            sink(line.decode(errors="replace").rstrip("\n"))
        sink("")

    def _addresses(self, paths):
        found = {}
        deadline = Deadline()
        while len(found) < len(LISTENERS) or len(self.paths) < paths:
            try:
                line = self._lines.get(timeout=deadline.left())
            except (queue.Empty, TimeoutError):
                line = ""
            if match := re.fullmatch(rf"listening ({'|'.join(LISTENERS)}) 127\.0\.0\.1:(\d+)( tls)?", line):
                found[match[1]] = ("127.0.0.1", int(match[2]))
            elif match := re.fullmatch(rf"listening ({'|'.join(LISTENERS)}) unix:(.+?)( tls)?", line):
                self.paths[match[1]] = match[2]
            elif not line:
                self.process.kill()
                raise AssertionError("the server did not start:\n" + "\n".join(self.log))
        return [found[listener] for listener in LISTENERS]

    # Clients, which are closed with the server.

    def keep(self, client):
        self._clients.append(client)
        return client

    def connect(self, listener="web", **options):
        return self.keep(RawClient(getattr(self, listener), **options))

    def ws(self, nickname=None, *rooms, **options):
        client = self.keep(WsClient(self.url("/ws"), **options))
        return client.enter(nickname, *rooms)

    def ws_at(self, path, **options):
        return self.keep(WsClient(self.url(path), **options))

    def json_line(self, nickname=None, *rooms):
        client = self.keep(JsonLineClient(self.line))
        return client.enter(nickname, *rooms)

    def text_line(self, nickname=None):
        client = self.keep(TextClient(self.line))
        return client if nickname is None else client.enter(nickname)

    def url(self, path, scheme="ws"):
        return f"{scheme}://{self.web[0]}:{self.web[1]}{path}"

    def http(self, request, **options):
        """Sends raw bytes and reads the first answer."""
        client = self.connect()
        client.send(request)
        return client.response(**options)

    def get(self, path):
        return self.http(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())

    def said(self, *texts, count=1):
        """The lines of the log that have all of these texts in them, when there are so many: its pipe is read by a thread."""
        def found():
            lines = [line for line in list(self.log) if all(text in line for text in texts)]
            return lines if len(lines) >= count else None

        return wait_until(found, f"{count} lines with {texts}")

    # The end.

    def kill(self):
        """Ends the server as `kill -9` does, or a kernel that is out of memory."""
        self._is_killed = True
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def fail(self):
        """Waits for the end of a server that something ends, a panic or the kernel, and returns its exit code."""
        self._is_killed = self._may_panic = True
        return self.exit_code()

    def terminate(self):
        self._is_terminated = True
        self.process.send_signal(signal.SIGTERM)

    def exit_code(self, seconds=DEADLINE_S):
        return self.process.wait(seconds)

    def close(self):
        """Stops the server; it must leave in peace."""
        for client in self._clients:
            client.close()
        # A second signal would not wait for the end of what the first began.
        if self.process.poll() is None and not self._is_terminated:
            self.terminate()
        try:
            code = self.exit_code()
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("the server did not stop:\n" + "\n".join(self.log)) from None
        assert code == 0 or self._is_killed, f"the server left with {code}:\n" + "\n".join(self.log)
        assert self._may_panic or not any("panicked" in line for line in self.log), "\n".join(self.log)
        if self._directory:
            self._directory.cleanup()


class RawClient:
    """A socket with a buffer: for bytes that no well-behaved library would send."""

    def __init__(self, address, receive_buffer_bytes=None, source=None):
        """`address` is a host and a port, or a path."""
        is_path = isinstance(address, str)
        self.socket = socket.socket(socket.AF_UNIX if is_path else socket.AF_INET)
        if receive_buffer_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.settimeout(DEADLINE_S)
        if source:
            self.socket.bind(source)
        self.socket.connect(address)
        if not is_path:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def send(self, data):
        self.socket.sendall(data)

    def send_slowly(self, data):
        """One segment a byte, as far as the kernel plays along."""
        for byte in data:
            self.socket.send(bytes([byte]))

    def finish(self):
        self.socket.shutdown(socket.SHUT_WR)

    def close(self):
        self.socket.close()

    def drop(self):
        """Ends the connection as a network that breaks does: without a word."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _fill(self, deadline):
        self.socket.settimeout(deadline.left())
        data = self.socket.recv(65_536)
        if not data:
            raise EOFError(f"the connection ended; unread: {self._buffer[-200:]!r}")
        self._buffer += data

    def exactly(self, count, deadline=None):
        deadline = deadline or Deadline()
        while len(self._buffer) < count:
            self._fill(deadline)
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def until(self, end, deadline=None):
        deadline = deadline or Deadline()
        while (at := self._buffer.find(end)) < 0:
            self._fill(deadline)
        at += len(end)
        data, self._buffer = self._buffer[:at], self._buffer[at:]
        return data

    def rest(self, deadline=None):
        """All bytes up to the end of the stream."""
        deadline = deadline or Deadline()
        try:
            while True:
                self._fill(deadline)
        except EOFError:
            data, self._buffer = self._buffer, b""
            return data

    def is_ended(self, deadline=None):
        """Waits for the end of the stream; a reset is an end too."""
        try:
            return self.rest(deadline) == b""
        except ConnectionError:
            return True

    def response(self, has_body=True):
        head = self.until(b"\r\n\r\n").decode("latin-1")
        status, *fields = head.split("\r\n")[:-2]
        headers = {}
        for field in fields:
            name, value = field.split(":", 1)
            headers[name.lower()] = value.strip()
        version, code, *_ = status.split(" ", 2)
        assert version == "HTTP/1.1", status
        body = self.exactly(int(headers.get("content-length", 0))) if has_body and code != "204" else b""
        return Response(int(code), headers, body)


@dataclass
class Response:
    status: int
    headers: dict
    body: bytes

    def error(self):
        error = json.loads(self.body)
        assert error["type"] == "error", error
        return error


class Eventful:
    """A client of the JSON commands and events, whatever carries them."""

    def __init__(self):
        self._ids = itertools.count(1)
        self._unread = []
        self.nickname = None
        self.welcome = None

    def send_text(self, text):
        raise NotImplementedError

    def receive_text(self, deadline):
        raise NotImplementedError

    def receive(self, deadline):
        return json.loads(self.receive_text(deadline))

    def send(self, type, **fields):
        self.send_text(json.dumps({"type": type} | fields, ensure_ascii=False))

    def call(self, type, **fields):
        """Sends a command with an id and returns its reply; other events stay to be read."""
        id = fields.setdefault("id", f"id-{next(self._ids)}")
        self.send(type, **fields)
        return self.expect(id=id)

    def next(self, deadline=None):
        """The next event, in the order that the server sent it."""
        if self._unread:
            return self._unread.pop(0)
        return self.receive(deadline or Deadline())

    def expect(self, type=None, deadline=None, **fields):
        """The first event that matches; those before it stay to be read."""
        wanted = fields if type is None else {"type": type} | fields
        deadline = deadline or Deadline()
        for index, event in enumerate(self._unread):
            if matches(event, wanted):
                return self._unread.pop(index)
        while True:
            try:
                event = self.receive(deadline)
            except (TimeoutError, EOFError, ConnectionClosed) as error:
                raise AssertionError(f"no event like {wanted} ({error!r}); there were {self._unread[-20:]}") from None
            if matches(event, wanted):
                return event
            self._unread.append(event)

    def until_pong(self):
        """All that came before the answer to a ping."""
        pong = self.call("ping")
        assert pong["type"] == "pong", pong
        events, self._unread = self._unread, []
        return events

    def until_told(self, *rooms):
        """All that came before the rooms' answers to a question: what they told a member before it, other cores' rooms among
        them, which a pong of its own core may overtake."""
        for room in rooms:
            members = self.call("members", room=room)
            assert members["type"] == "members", members
        events, self._unread = self._unread, []
        return events

    def enter(self, nickname, *rooms, **hello):
        if nickname is not None:
            hello["nickname"] = nickname
        if hello:
            self.welcome = self.call("hello", **hello)
            assert self.welcome["type"] == "welcome", self.welcome
            self.nickname = self.welcome["nickname"]
        for room in rooms:
            joined = self.call("join", room=room)
            assert joined["type"] == "joined", joined
        return self

    def say(self, room, *contents):
        """Sends messages, and returns their acknowledgements."""
        acks = [self.call("message", room=room, content=content) for content in contents]
        assert all(ack["type"] == "ack" for ack in acks), acks
        return acks

    def refused(self, code, reason, type, **fields):
        """Sends a command that must be refused."""
        error = self.call(type, **fields)
        assert (error["type"], error["code"], error["reason"]) == ("error", code, reason), error
        return error


def matches(event, wanted):
    return all(event.get(name) == value for name, value in wanted.items())


class WsClient(Eventful):
    """WebSocket through a library that others wrote."""

    def __init__(self, url, **options):
        super().__init__()
        # No pings of the library's own: when something is sent, a test has said so.
        self.socket = connect(url, **({"ping_interval": None, "max_size": None, "compression": None, "open_timeout": DEADLINE_S,
                                       "close_timeout": 1} | options))

    def send_text(self, text):
        self.socket.send(text)

    def receive_text(self, deadline):
        return self.socket.recv(timeout=deadline.left())

    def closed_with(self, deadline=None):
        """Reads to the end and returns the code of the close frame."""
        deadline = deadline or Deadline()
        try:
            while True:
                self._unread.append(self.receive(deadline))
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else None

    def close(self):
        self.socket.close()

    def drop(self):
        # The library's thread reads the end from this.
        self.socket.socket.shutdown(socket.SHUT_RDWR)


class JsonLineClient(Eventful):
    """JSON lines on the line port."""

    def __init__(self, address, **options):
        super().__init__()
        self.raw = RawClient(address, **options)

    def send_text(self, text):
        self.raw.send(text.encode() + b"\n")

    def receive_text(self, deadline):
        # A busy machine may greet a program before its first byte is there.
        while not (line := self.raw.until(b"\n", deadline)).startswith(b"{"):
            pass
        return line.decode()

    def close(self):
        self.raw.close()

    def drop(self):
        self.raw.drop()


class TextClient:
    """A person at a terminal."""

    def __init__(self, address):
        self.raw = RawClient(address)
        self.nickname = None

    def type(self, line):
        self.raw.send(line.encode() + b"\n")

    def next(self, deadline=None):
        return self.raw.until(b"\n", deadline).decode().removesuffix("\n")

    def expect(self, pattern, deadline=None):
        """Skips lines up to the first that matches from its beginning to its end."""
        deadline = deadline or Deadline()
        skipped = []
        while True:
            try:
                line = self.next(deadline)
            except (TimeoutError, EOFError) as error:
                raise AssertionError(f"no line like {pattern!r} ({error!r}); there were {skipped[-20:]}") from None
            if re.fullmatch(pattern, line):
                return line
            skipped.append(line)

    def expect_text(self, line):
        return self.expect(re.escape(line))

    def enter(self, nickname):
        """Answers the greeting and waits until the lobby has been joined."""
        self.expect(r".*nickname.*")
        self.type(nickname)
        self.type("/who")
        self.expect(r"\* lobby has \d+ members?: .*")
        self.nickname = nickname
        return self

    def until_pong(self):
        """All lines that came before the answer to `/ping`."""
        self.type("/ping")
        lines = []
        while not re.match(r"\* pong", line := self.next()):
            lines.append(line)
        return lines

    def close(self):
        self.raw.close()


class RawWebSocket:
    """The client's side of RFC 6455, byte by byte, for frames that a library refuses to send."""

    TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

    def __init__(self, server, path="/ws", headers=(), **options):
        self.raw = server.connect(**options)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        lines = [f"GET {path} HTTP/1.1", "Host: test", "Upgrade: websocket", "Connection: Upgrade",
                 f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", *headers]
        self.raw.send("\r\n".join([*lines, "", ""]).encode())
        self.handshake = self.raw.response(has_body=False)

    @staticmethod
    def frame(opcode, payload=b"", is_final=True, length_form=None):
        """`length_form` forces the length into 7, 16 or 64 bits."""
        head = bytes([(0x80 if is_final else 0) | opcode])
        length = len(payload)
        form = length_form or (7 if length < 126 else 16 if length < 65_536 else 64)
        head += {7: lambda: bytes([0x80 | length]), 16: lambda: b"\xfe" + struct.pack(">H", length),
                 64: lambda: b"\xff" + struct.pack(">Q", length)}[form]()
        # A mask of zeroes is as valid as any and leaves the payload readable.
        return head + bytes(4) + payload

    def send(self, type, **fields):
        self.send_frame(self.TEXT, json.dumps({"type": type} | fields).encode())

    def send_frame(self, *arguments, **options):
        self.raw.send(self.frame(*arguments, **options))

    def receive_frame(self, deadline=None):
        deadline = deadline or Deadline()
        first, length = self.raw.exactly(2, deadline)
        assert not length & 0x80, "a server must not mask"
        if length == 126:
            (length,) = struct.unpack(">H", self.raw.exactly(2, deadline))
        elif length == 127:
            (length,) = struct.unpack(">Q", self.raw.exactly(8, deadline))
        return first & 0x0F, self.raw.exactly(length, deadline)

    def expect_frame(self, opcode, deadline=None):
        deadline = deadline or Deadline()
        while True:
            seen, payload = self.receive_frame(deadline)
            if seen == opcode:
                return payload

    def expect(self, type, deadline=None, **fields):
        deadline = deadline or Deadline()
        while True:
            event = json.loads(self.expect_frame(self.TEXT, deadline))
            if matches(event, {"type": type} | fields):
                return event

    def closed_with(self, deadline=None):
        (code,) = struct.unpack(">H", self.expect_frame(self.CLOSE, deadline)[:2])
        return code


def slow_reader(server, messages):
    """A member that takes nothing of so many long messages to its room."""
    slow = RawWebSocket(server, receive_buffer_bytes=4096)
    server.keep(slow.raw)
    slow.send("hello", nickname="slow")
    slow.send("join", room="busy")
    slow.expect("joined")
    sender = server.ws("sender", "busy")
    for _ in range(messages):
        sender.send("message", room="busy", content="x" * 60_000)
        sender.expect("message", sender="sender")
    return slow


# Below the ports that Linux gives out by itself (32768 on), and apart for each of the processes that run tests at the same time. What
# listens on one may want that 10,000 above it too, as Redis does.
PORTS_EACH = 3_000
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", f"gw{os.getpid()}").removeprefix("gw")) % 4
PORTS = itertools.cycle(range(10_000 + WORKER * PORTS_EACH, 10_000 + (WORKER + 1) * PORTS_EACH))


def free_ports(count):
    ports = []
    while len(ports) < count:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port := next(PORTS))):
            ports.append(port)
    return ports


def is_free(server, nickname):
    """Whether the nickname can be had at once, on whichever core the one who asks is."""
    client = server.ws()
    reply = client.call("hello", nickname=nickname)
    client.call("quit")
    return reply["type"] == "welcome"


def peak_kib(server):
    """The most memory that it has had at a time, of which /proc tells."""
    with open(f"/proc/{server.process.pid}/status") as status:
        return int(status.read().split("VmHWM:")[1].split()[0])


def ping_of_another(server):
    """Proves that the server still serves."""
    assert server.get("/health").status == 200
    for client in [server.ws(), server.json_line()]:
        assert client.call("ping")["type"] == "pong"
        client.close()
