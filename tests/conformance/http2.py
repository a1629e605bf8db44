"""A client of HTTP/2 that sends any frame, right or wrong, and reads what comes back with hyperframe and hpack."""

import struct

import hpack
from hyperframe.frame import ContinuationFrame, DataFrame, Frame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from helpers import Deadline
from judge import Failed

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Types of frames (RFC 9113, section 6).
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
UNKNOWN = 0xEE

# Flags.
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITIZED = 0x20

# Settings (section 6.5.2).
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)

# Error codes (section 7).
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, \
    COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM, INADEQUATE_SECURITY, HTTP_1_1_REQUIRED = range(14)
CODES = ["NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR",
         "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"]

# A call that is answered at once, with 7 bytes of DATA between its HEADERS and its trailers.
METHOD, SCHEME, AUTHORITY, PATH = (":method", "POST"), (":scheme", "http"), (":authority", "judge"), (":path", "/grpc.health.v1.Health/Check")
FIELDS = [("content-type", "application/grpc"), ("te", "trailers")]
CALL = [METHOD, SCHEME, AUTHORITY, PATH, *FIELDS]
MESSAGE = b"\0\0\0\0\0"
# A call that stays open until one of both sides ends it.
OPEN = [METHOD, SCHEME, AUTHORITY, (":path", "/chat.ChatService/Connect"), *FIELDS]

# What has been registered: a name, a function of a connection, options of the connection.
CHECKS = []


def check(section, title, **options):
    """Registers a function of a connection."""
    def register(function):
        CHECKS.append((f"{section} {title}", function, options))
        return function

    return register


def each(*alternatives):
    """Registers checks that differ in values alone: (section, title, frames, codes), all of them errors of the connection."""
    for section, title, frames, codes in alternatives:
        @check(section, title)
        def ask(peer, frames=frames, codes=codes):
            peer.send(frames(peer) if callable(frames) else frames)
            peer.connection_error(*codes)


def name_of(code):
    return CODES[code] if code is not None and code < len(CODES) else str(code)


def frame(kind, flags=0, stream=0, payload=b"", length=None):
    """The bytes of a frame; `length` is what its header says, if that is not true."""
    length = len(payload) if length is None else length
    return struct.pack(">I", length)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def setting(identifier, value):
    return struct.pack(">HI", identifier, value)


class Http2:
    """A connection. What is sent is bytes; what comes is frames of hyperframe, kept until somebody asks for them."""

    def __init__(self, server, greet=True, settings=()):
        self.raw = server.connect("grpc")
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.frames = []
        self.is_ended = False
        self.has_reset = False
        self.settings = {}
        if greet:
            self.send(PREFACE + frame(SETTINGS, payload=b"".join(setting(*pair) for pair in settings)))
            self.next(SettingsFrame, lambda settings: "ACK" not in settings.flags)
            self.send(frame(SETTINGS, ACK))
            self.next(SettingsFrame, lambda settings: "ACK" in settings.flags)

    def send(self, *frames):
        try:
            self.raw.send(b"".join(frames))
        except ConnectionError:
            self.has_reset = True  # What was said before it is still to be read.

    def block(self, fields):
        """A header block. Names may be anything, so it is made without the library's tables: literals, never indexed."""
        block = b""
        for name, value in fields:
            block += b"\x10"
            for text in (name, value):
                text = text.encode("latin-1")
                block += _integer(len(text), 7) + text
        return block

    def headers(self, stream, fields=CALL, flags=END_HEADERS, **options):
        return frame(HEADERS, flags, stream, self.block(fields), **options)

    def request(self, stream=1, fields=CALL, body=MESSAGE):
        """A whole call."""
        if body is None:
            return self.headers(stream, fields, END_HEADERS | END_STREAM)
        return self.headers(stream, fields) + frame(DATA, END_STREAM, stream, body)

    # Reading.

    def _read(self, deadline):
        """Reads one frame, False at the end."""
        try:
            head = self.raw.exactly(9, deadline)
            parsed, length = Frame.parse_frame_header(memoryview(head))
            body = self.raw.exactly(length, deadline)
        except (EOFError, ConnectionError):
            self.is_ended = True
            return False
        parsed.parse_body(memoryview(body))
        if isinstance(parsed, (HeadersFrame, ContinuationFrame)):
            # What the server makes has to be readable: no block of it is longer than a frame here.
            parsed.fields = dict(self.decoder.decode(parsed.data))
        if isinstance(parsed, SettingsFrame) and "ACK" not in parsed.flags:
            self.settings.update(parsed.settings)
        self.frames.append(parsed)
        return True

    def next(self, kind, where=lambda frame: True, deadline=None):
        """The next frame of a kind; those before it stay for others to ask for."""
        deadline = deadline or Deadline(5)
        while True:
            for found in self.frames:
                if isinstance(found, kind) and where(found):
                    self.frames.remove(found)
                    return found
            if self.is_ended or not self._read(deadline):
                raise Failed(f"the connection ended, but for a {kind.__name__} that was expected; came: {self.seen()}")

    def seen(self):
        return [f"{type(frame).__name__} {frame.stream_id} {name_of(frame.error_code) if hasattr(frame, 'error_code') else ''}".strip()
                for frame in self.frames] or "nothing"

    # What is expected.

    def answered(self, stream=1, status="200"):
        """The call's answer: HEADERS with a status, and the end of the stream."""
        answer = self.next(HeadersFrame, lambda frame: frame.stream_id == stream)
        if (got := answer.fields.get(":status")) != status:
            raise Failed(f"answered with status {got}, not {status}")
        if "END_STREAM" not in answer.flags:
            self.next((HeadersFrame, DataFrame), lambda frame: frame.stream_id == stream and "END_STREAM" in frame.flags)
        return answer

    def lives(self):
        """The connection goes on: a PING is answered, and a call."""
        self.send(frame(PING, payload=b"alive?!?"))
        self.next(PingFrame, lambda ping: "ACK" in ping.flags and ping.opaque_data == b"alive?!?")

    def connection_error(self, *codes, silent=False):
        """The connection ends, with a GOAWAY that has one of these codes; with `silent` it may also end without a word (section 5.4.1)."""
        deadline = Deadline(5)
        try:
            while not self.is_ended:
                self._read(deadline)
        except TimeoutError:
            raise Failed(f"the connection goes on, but {' or '.join(map(name_of, codes))} was expected; came: {self.seen()}") from None
        found = [frame.error_code for frame in self.frames if isinstance(frame, GoAwayFrame)]
        if not found and not silent:
            raise Failed(f"the connection ended without GOAWAY; came: {self.seen()}")
        if found and found[-1] not in codes:
            raise Failed(f"GOAWAY with {name_of(found[-1])}, not {' or '.join(map(name_of, codes))}")

    def stream_error(self, stream, *codes, or_status=()):
        """The stream ends with one of these codes, or the whole connection does (section 5.4.2); with `or_status`, or the request is
        answered with such a status (section 8.1.1)."""
        def ends(frame):
            if isinstance(frame, GoAwayFrame):
                return True
            if isinstance(frame, HeadersFrame):
                # The end of an answer is none of an error.
                return frame.stream_id == stream and (frame.fields.get(":status") in or_status or "END_STREAM" in frame.flags)
            return frame.stream_id == stream

        try:
            end = self.next((RstStreamFrame, GoAwayFrame, HeadersFrame), ends)
        except TimeoutError:
            raise Failed(f"neither the stream nor the connection ended, but {' or '.join(map(name_of, codes))} was expected; "
                         f"came: {self.seen()}") from None
        if isinstance(end, HeadersFrame):
            if end.fields.get(":status") not in or_status:
                raise Failed(f"the stream was answered, but {' or '.join(map(name_of, codes))} was expected; came: {[*self.seen(), end.fields]}")
        elif end.error_code not in codes:
            raise Failed(f"{type(end).__name__} with {name_of(end.error_code)}, not {' or '.join(map(name_of, codes))}")

    def silent(self):
        """Nothing comes but the answer to a PING."""
        self.lives()
        others = [frame for frame in self.frames if not isinstance(frame, (WindowUpdateFrame, SettingsFrame))]
        if others:
            raise Failed(f"came: {self.seen()}")


def _integer(value, bits):
    """An integer of HPACK (RFC 7541, section 5.1) in a first byte whose other bits are 0."""
    if value < 2**bits - 1:
        return bytes([value])
    out = bytes([2**bits - 1])
    value -= 2**bits - 1
    while value >= 128:
        out += bytes([value % 128 + 128])
        value //= 128
    return out + bytes([value])
