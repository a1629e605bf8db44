"""HTTP/2: the preface, frames, the states of streams, windows (RFC 9113, sections 3 to 7). `judges/h2.py` asks these."""

import struct

from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, PingFrame, SettingsFrame

from http2 import *  # noqa: F403 (the names of the RFC)
from judge import Failed, Skipped


# 3.4, 4: the preface, the layout of frames, header blocks.


@check("3.4", "a connection preface is answered with SETTINGS, first of all", greet=False)
def _(peer):
    peer.send(PREFACE + frame(SETTINGS))
    peer.next(SettingsFrame, lambda settings: "ACK" in settings.flags)
    first = peer.frames[0]
    if not isinstance(first, SettingsFrame) or "ACK" in first.flags:
        raise Failed(f"came first: {peer.seen()}")


@check("3.4", "a call may come with the preface, before the server's SETTINGS", greet=False)
def _(peer):
    peer.send(PREFACE + frame(SETTINGS) + peer.request())
    peer.answered()


@check("3.4", "a preface that is none ends the connection", greet=False)
def _(peer):
    peer.send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + frame(SETTINGS))
    peer.connection_error(PROTOCOL_ERROR, silent=True)


@check("3.4", "a preface without SETTINGS behind it ends the connection", greet=False)
def _(peer):
    peer.send(PREFACE + frame(PING, payload=b"12345678"))
    peer.connection_error(PROTOCOL_ERROR, silent=True)


@check("4.1", "a frame of an unknown type is ignored")
def _(peer):
    peer.send(frame(UNKNOWN, 0xFF, 0, b"x" * 100) + frame(UNKNOWN, 0, 1, b"x") + peer.request())
    peer.answered()


@check("4.1", "flags without a meaning are ignored")
def _(peer):
    peer.send(frame(PING, 0xFE, 0, b"12345678"))
    peer.next(PingFrame, lambda ping: "ACK" in ping.flags)


@check("4.1", "the reserved bit is ignored")
def _(peer):
    peer.send(frame(PING, 0, 1 << 31, b"12345678"))
    peer.next(PingFrame, lambda ping: "ACK" in ping.flags)


@check("4.2", "a frame of 2^14 bytes is taken")
def _(peer):
    peer.send(peer.headers(1) + frame(DATA, 0, 1, b"\0" * 16_384))
    peer.lives()
    if found := [frame for frame in peer.frames if isinstance(frame, GoAwayFrame)]:
        raise Failed(f"came: {found}")


@check("4.2", "DATA longer than MAX_FRAME_SIZE is FRAME_SIZE_ERROR")
def _(peer):
    size = peer.settings.get(MAX_FRAME_SIZE, 16_384)
    peer.send(peer.headers(1) + frame(DATA, END_STREAM, 1, b"\0" * (size + 1)))
    peer.stream_error(1, FRAME_SIZE_ERROR)


@check("4.2", "HEADERS longer than MAX_FRAME_SIZE end the connection with FRAME_SIZE_ERROR")
def _(peer):
    size = peer.settings.get(MAX_FRAME_SIZE, 16_384)
    peer.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\0" * (size + 1)))
    peer.connection_error(FRAME_SIZE_ERROR)


each(
    ("4.2", "SETTINGS longer than MAX_FRAME_SIZE", frame(SETTINGS, 0, 0, b"\0\x09\0\0\0\0" * 2731), [FRAME_SIZE_ERROR]),
    ("4.3", "a block that is no HPACK", frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), [COMPRESSION_ERROR]),
    ("4.3", "PRIORITY in the middle of a block",
     lambda peer: peer.headers(1, flags=0) + frame(PRIORITY, 0, 1, b"\0\0\0\0\0"), [PROTOCOL_ERROR]),
    ("4.3", "HEADERS of another stream in the middle of a block",
     lambda peer: peer.headers(1, flags=0) + peer.headers(3), [PROTOCOL_ERROR]),
    ("4.3", "SETTINGS in the middle of a block", lambda peer: peer.headers(1, flags=0) + frame(SETTINGS), [PROTOCOL_ERROR]),
)


# 5.1: the states of streams.


each(
    ("5.1", "idle: DATA", frame(DATA, END_STREAM, 1, b"x"), [PROTOCOL_ERROR]),
    ("5.1", "idle: RST_STREAM", frame(RST_STREAM, 0, 1, struct.pack(">I", CANCEL)), [PROTOCOL_ERROR]),
    ("5.1", "idle: WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 100)), [PROTOCOL_ERROR]),
    ("5.1", "idle: CONTINUATION", frame(CONTINUATION, END_HEADERS, 1, b""), [PROTOCOL_ERROR]),
    ("5.1", "half-closed: CONTINUATION",
     lambda peer: peer.request() + frame(CONTINUATION, END_HEADERS, 1, peer.block(FIELDS)), [STREAM_CLOSED, PROTOCOL_ERROR]),
    ("5.1.1", "a stream with an even number", lambda peer: peer.request(2), [PROTOCOL_ERROR]),
    ("5.1.1", "a stream on stream 0", lambda peer: peer.request(0), [PROTOCOL_ERROR]),
)


@check("5.1", "half-closed: DATA is STREAM_CLOSED")
def _(peer):
    peer.send(peer.request(body=MESSAGE) + frame(DATA, END_STREAM, 1, b"x"))
    peer.stream_error(1, STREAM_CLOSED)


@check("5.1", "half-closed: HEADERS is STREAM_CLOSED")
def _(peer):
    peer.send(peer.request(body=MESSAGE) + peer.headers(1, flags=END_HEADERS | END_STREAM))
    peer.stream_error(1, STREAM_CLOSED)


@check("5.1", "half-closed: WINDOW_UPDATE, PRIORITY and RST_STREAM are taken")
def _(peer):
    peer.send(peer.request() + frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 100)) + frame(PRIORITY, 0, 1, b"\0\0\0\0\1")
              + frame(RST_STREAM, 0, 1, struct.pack(">I", CANCEL)) + peer.request(3))
    peer.answered(3)
    peer.lives()


def closed_by_both(peer):
    peer.send(peer.request())
    peer.answered()


def closed_by_reset(peer):
    peer.send(peer.headers(1, OPEN) + frame(RST_STREAM, 0, 1, struct.pack(">I", CANCEL)))
    peer.lives()


for close, how in [(closed_by_both, "closed"), (closed_by_reset, "closed by RST_STREAM")]:
    @check("5.1", f"{how}: DATA is STREAM_CLOSED")
    def _(peer, close=close):
        close(peer)
        peer.send(frame(DATA, END_STREAM, 1, b"x"))
        peer.stream_error(1, STREAM_CLOSED)

    @check("5.1", f"{how}: HEADERS are STREAM_CLOSED")
    def _(peer, close=close):
        close(peer)
        peer.send(peer.headers(1, flags=END_HEADERS | END_STREAM))
        # "Unexpected stream identifier" (5.1.1) is as right: the number is not greater than those before it.
        peer.stream_error(1, STREAM_CLOSED, PROTOCOL_ERROR)

    @check("5.1", f"{how}: CONTINUATION ends the connection")
    def _(peer, close=close):
        close(peer)
        peer.send(frame(CONTINUATION, END_HEADERS, 1, peer.block(FIELDS)))
        peer.connection_error(STREAM_CLOSED, PROTOCOL_ERROR)

    @check("5.1", f"{how}: WINDOW_UPDATE, RST_STREAM and PRIORITY are ignored")
    def _(peer, close=close):
        close(peer)
        peer.send(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)) + frame(RST_STREAM, 0, 1, struct.pack(">I", CANCEL))
                  + frame(PRIORITY, 0, 1, b"\0\0\0\0\1") + peer.request(3))
        peer.answered(3)
        peer.lives()


@check("5.1.1", "a stream with a number below one before it")
def _(peer):
    peer.send(peer.request(5))
    peer.answered(5)
    peer.send(peer.request(3))
    peer.connection_error(PROTOCOL_ERROR, STREAM_CLOSED)


@check("5.1.2", "a stream above MAX_CONCURRENT_STREAMS is refused")
def _(peer):
    limit = peer.settings.get(MAX_CONCURRENT_STREAMS)
    if limit is None or limit > 1000:
        raise Skipped(f"the server announces {limit}")
    peer.send(*[peer.headers(2 * n + 1, OPEN) for n in range(limit + 1)])
    peer.stream_error(2 * limit + 1, REFUSED_STREAM, PROTOCOL_ERROR)


# 5.3, 5.4, 5.5.


@check("5.3", "priorities are of no consequence: PRIORITY of idle streams is taken")
def _(peer):
    peer.send(frame(PRIORITY, 0, 3, b"\0\0\0\x01\x10") + peer.request() + frame(PRIORITY, 0, 99, b"\x80\0\0\x05\xff") + peer.request(3))
    peer.answered(1)
    peer.answered(3)


@check("5.3", "HEADERS with a priority are taken")
def _(peer):
    peer.send(frame(HEADERS, END_HEADERS | PRIORITIZED, 1, b"\0\0\0\0\x10" + peer.block(CALL)) + frame(DATA, END_STREAM, 1, MESSAGE))
    peer.answered()


@check("5.4.1", "behind a GOAWAY for an error the connection is closed")
def _(peer):
    peer.send(peer.request())
    peer.answered()
    peer.send(frame(PING, 0, 0, b"short"))
    peer.connection_error(FRAME_SIZE_ERROR)
    last = [found for found in peer.frames if isinstance(found, GoAwayFrame)][-1].last_stream_id
    if last != 1:
        raise Failed(f"the last stream was 1, GOAWAY says {last}")


each(("5.5", "a frame of an unknown type in the middle of a block",
      lambda peer: peer.headers(1, flags=0) + frame(UNKNOWN, 0, 1, b"x") + frame(CONTINUATION, END_HEADERS, 1, b""), [PROTOCOL_ERROR]))


# 6: the frames.


for kind, prefix, what in [(DATA, b"", "DATA"), (HEADERS, None, "HEADERS")]:
    @check("6.1" if kind == DATA else "6.2", f"{what} with padding is taken")
    def _(peer, kind=kind):
        if kind == DATA:
            peer.send(peer.headers(1) + frame(DATA, END_STREAM | PADDED, 1, b"\x20" + MESSAGE + b"\0" * 32))
        else:
            peer.send(frame(HEADERS, END_HEADERS | PADDED, 1, b"\x20" + peer.block(CALL) + b"\0" * 32) + frame(DATA, END_STREAM, 1, MESSAGE))
        peer.answered()


each(
    ("6.1", "DATA on stream 0", frame(DATA, END_STREAM, 0, b"x"), [PROTOCOL_ERROR]),
    ("6.1", "DATA with more padding than it is long", lambda peer: peer.headers(1) + frame(DATA, PADDED | END_STREAM, 1, b"\x06hello"),
     [PROTOCOL_ERROR]),
    ("6.1", "DATA with padding and no length of it", lambda peer: peer.headers(1) + frame(DATA, PADDED | END_STREAM, 1, b""),
     [PROTOCOL_ERROR, FRAME_SIZE_ERROR]),
    ("6.2", "HEADERS on stream 0", lambda peer: peer.headers(0), [PROTOCOL_ERROR]),
    ("6.2", "HEADERS with more padding than they are long",
     lambda peer: frame(HEADERS, PADDED | END_HEADERS, 1, b"\xff" + peer.block(CALL)), [PROTOCOL_ERROR]),
    ("6.2", "HEADERS with a priority and no room for it", frame(HEADERS, PRIORITIZED | END_HEADERS, 1, b"\0\0"),
     [PROTOCOL_ERROR, FRAME_SIZE_ERROR]),
    ("6.3", "PRIORITY on stream 0", frame(PRIORITY, 0, 0, b"\0\0\0\1\1"), [PROTOCOL_ERROR]),
    ("6.4", "RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, b"\0\0\0\x08"), [PROTOCOL_ERROR]),
    ("6.4", "RST_STREAM of another length than 4", lambda peer: peer.headers(1) + frame(RST_STREAM, 0, 1, b"\0\0\x08"), [FRAME_SIZE_ERROR]),
    ("6.5", "SETTINGS with ACK and a payload", frame(SETTINGS, ACK, 0, setting(ENABLE_PUSH, 0)), [FRAME_SIZE_ERROR]),
    ("6.5", "SETTINGS on a stream", frame(SETTINGS, 0, 1), [PROTOCOL_ERROR]),
    ("6.5", "SETTINGS of a length that is no multiple of 6", frame(SETTINGS, 0, 0, b"\0\3\0"), [FRAME_SIZE_ERROR]),
    ("6.5.2", "ENABLE_PUSH that is neither 0 nor 1", frame(SETTINGS, 0, 0, setting(ENABLE_PUSH, 2)), [PROTOCOL_ERROR]),
    ("6.5.2", "INITIAL_WINDOW_SIZE above 2^31-1", frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 2**31)), [FLOW_CONTROL_ERROR]),
    ("6.5.2", "MAX_FRAME_SIZE below 2^14", frame(SETTINGS, 0, 0, setting(MAX_FRAME_SIZE, 2**14 - 1)), [PROTOCOL_ERROR]),
    ("6.5.2", "MAX_FRAME_SIZE above 2^24-1", frame(SETTINGS, 0, 0, setting(MAX_FRAME_SIZE, 2**24)), [PROTOCOL_ERROR]),
    ("6.6", "PUSH_PROMISE from a client", lambda peer: frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + peer.block(CALL)), [PROTOCOL_ERROR]),
    ("6.6", "PUSH_PROMISE from a client, on an open stream",
     lambda peer: peer.headers(1) + frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + peer.block(CALL)), [PROTOCOL_ERROR]),
    ("6.7", "PING on a stream", frame(PING, 0, 1, b"12345678"), [PROTOCOL_ERROR]),
    ("6.7", "PING of another length than 8", frame(PING, 0, 0, b"123456"), [FRAME_SIZE_ERROR]),
    ("6.8", "GOAWAY on a stream", frame(GOAWAY, 0, 1, b"\0" * 8), [PROTOCOL_ERROR]),
    ("6.8", "GOAWAY that is too short", frame(GOAWAY, 0, 0, b"\0" * 7), [FRAME_SIZE_ERROR]),
    ("6.9", "WINDOW_UPDATE of the connection by 0", frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\0"), [PROTOCOL_ERROR]),
    ("6.9", "WINDOW_UPDATE of another length than 4", frame(WINDOW_UPDATE, 0, 0, b"\0\0\1"), [FRAME_SIZE_ERROR]),
    ("6.9.1", "the connection's window above 2^31-1",
     frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1)) * 2, [FLOW_CONTROL_ERROR]),
    ("6.10", "CONTINUATION on stream 0", lambda peer: peer.headers(1, flags=0) + frame(CONTINUATION, END_HEADERS, 0, b""), [PROTOCOL_ERROR]),
    ("6.10", "another frame than CONTINUATION in the middle of a block",
     lambda peer: peer.headers(1, flags=0) + frame(DATA, END_STREAM, 1, b"x"), [PROTOCOL_ERROR]),
    ("6.10", "CONTINUATION of another stream", lambda peer: peer.headers(1, flags=0) + frame(CONTINUATION, END_HEADERS, 3, b""), [PROTOCOL_ERROR]),
    ("6.10", "CONTINUATION behind HEADERS with END_HEADERS",
     lambda peer: peer.headers(1) + frame(CONTINUATION, END_HEADERS, 1, peer.block(FIELDS)), [PROTOCOL_ERROR]),
    ("6.10", "CONTINUATION behind the one with END_HEADERS",
     lambda peer: peer.headers(1, flags=0) + frame(CONTINUATION, END_HEADERS, 1, b"") * 2, [PROTOCOL_ERROR]),
    ("6.10", "CONTINUATION behind DATA",
     lambda peer: peer.headers(1) + frame(DATA, 0, 1, b"x") + frame(CONTINUATION, END_HEADERS, 1, b""), [PROTOCOL_ERROR]),
)


@check("6.1", "DATA of no bytes and no end is taken")
def _(peer):
    peer.send(peer.headers(1) + frame(DATA, 0, 1) * 3 + frame(DATA, END_STREAM, 1, MESSAGE))
    peer.answered()


@check("6.3", "PRIORITY of another length than 5 is FRAME_SIZE_ERROR")
def _(peer):
    peer.send(peer.headers(1, OPEN) + frame(PRIORITY, 0, 1, b"\0\0\0\0"))
    peer.stream_error(1, FRAME_SIZE_ERROR)


@check("6.4", "RST_STREAM with an unknown code is taken")
def _(peer):
    peer.send(peer.headers(1, OPEN) + frame(RST_STREAM, 0, 1, b"\0\0\xff\xff") + peer.request(3))
    peer.answered(3)


@check("6.5", "SETTINGS are acknowledged, each")
def _(peer):
    peer.send(frame(SETTINGS, 0, 0, setting(MAX_CONCURRENT_STREAMS, 100)) + frame(SETTINGS) + frame(SETTINGS, 0, 0, setting(ENABLE_PUSH, 0)))
    for _ in range(3):
        peer.next(SettingsFrame, lambda settings: "ACK" in settings.flags)


@check("6.5.2", "settings that nobody knows are ignored")
def _(peer):
    peer.send(frame(SETTINGS, 0, 0, setting(0xFF, 1) + setting(0, 2)))
    peer.next(SettingsFrame, lambda settings: "ACK" in settings.flags)
    peer.send(peer.request())
    peer.answered()


@check("6.5.2", "a table of no bytes for header fields is respected", settings=[(HEADER_TABLE_SIZE, 0)])
def _(peer):
    peer.decoder.max_allowed_table_size = 0
    for stream in (1, 3):
        peer.send(peer.request(stream))
        peer.answered(stream)


@check("6.5.3", "of one setting twice the last counts")
def _(peer):
    peer.send(frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 100) + setting(INITIAL_WINDOW_SIZE, 1)) + peer.request())
    data = peer.next(DataFrame, lambda data: data.stream_id == 1)
    if len(data.data) != 1:
        raise Failed(f"DATA of {len(data.data)} bytes into a window of 1")


@check("6.7", "PING is answered with its payload")
def _(peer):
    peer.send(frame(PING, 0, 0, b"h2 judge"))
    peer.next(PingFrame, lambda ping: "ACK" in ping.flags and ping.opaque_data == b"h2 judge")


@check("6.7", "PING with ACK is not answered")
def _(peer):
    peer.send(frame(PING, ACK, 0, b"not mine"))
    peer.silent()


@check("6.8", "behind a GOAWAY of the client what is open is answered")
def _(peer):
    peer.send(peer.headers(1) + frame(GOAWAY, 0, 0, b"\0" * 8) + frame(DATA, END_STREAM, 1, MESSAGE))
    peer.answered()


@check("7", "GOAWAY with an unknown code is no error of ours")
def _(peer):
    peer.send(peer.headers(1) + frame(GOAWAY, 0, 0, b"\0\0\0\0\0\0\xff\xff") + frame(DATA, END_STREAM, 1, MESSAGE))
    peer.connection_error(NO_ERROR, silent=True)


# 6.9: windows.


@check("6.9", "WINDOW_UPDATE of a stream by 0 is PROTOCOL_ERROR")
def _(peer):
    peer.send(peer.headers(1, OPEN) + frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\0"))
    peer.stream_error(1, PROTOCOL_ERROR)


@check("6.9.1", "a stream's window above 2^31-1 is FLOW_CONTROL_ERROR")
def _(peer):
    peer.send(peer.headers(1, OPEN) + frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 2**31 - 1)) * 2)
    peer.stream_error(1, FLOW_CONTROL_ERROR)


@check("6.9.1", "no more is sent than a stream's window takes", settings=[(INITIAL_WINDOW_SIZE, 3)])
def _(peer):
    peer.send(peer.request())
    sizes = [len(peer.next(DataFrame).data)]
    peer.lives()
    if any(isinstance(found, (DataFrame, HeadersFrame)) and "END_STREAM" in found.flags for found in peer.frames) or sizes != [3]:
        raise Failed(f"{sizes} bytes into a window of 3; came besides: {peer.seen()}")
    peer.send(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 100)))
    if len(peer.next(DataFrame).data) != 4:
        raise Failed("the rest of 4 bytes did not come behind WINDOW_UPDATE")
    peer.answered()


@check("6.9.1", "no more is sent than the connection's window takes", settings=[(INITIAL_WINDOW_SIZE, 2**20)])
def _(peer):
    # What reflection tells of a service is some kilobytes long.
    reflection = [METHOD, SCHEME, AUTHORITY, (":path", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"), *FIELDS]
    question = b"\x22\x10chat.ChatService"
    message = struct.pack(">BI", 0, len(question)) + question
    peer.send(*[peer.request(stream, reflection, message) for stream in range(1, 61, 2)])
    got = 0
    while got < 65_535:
        got += len(peer.next(DataFrame).data)
    peer.lives()
    if got != 65_535 or any(isinstance(found, DataFrame) and found.data for found in peer.frames):
        raise Failed(f"{got} bytes into a window of 65,535; came besides: {peer.seen()}")
    peer.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 100)))
    if (size := len(peer.next(DataFrame).data)) > 100:
        raise Failed(f"{size} bytes into a window of 100")


@check("6.9.2", "a window that grows by SETTINGS grows for streams that are open", settings=[(INITIAL_WINDOW_SIZE, 0)])
def _(peer):
    peer.send(peer.request())
    peer.lives()
    if any(isinstance(found, DataFrame) and found.data for found in peer.frames):
        raise Failed(f"DATA into a window of 0; came: {peer.seen()}")
    peer.send(frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 1)))
    if (size := len(peer.next(DataFrame).data)) != 1:
        raise Failed(f"{size} bytes into a window of 1")


@check("6.9.2", "a window may become negative, and is respected", settings=[(INITIAL_WINDOW_SIZE, 3)])
def _(peer):
    peer.send(peer.request())
    peer.next(DataFrame, lambda data: len(data.data) == 3)
    # 3 of 3 used: with 1 it is -2, and with 2 more 0.
    peer.send(frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 1)) + frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 2)))
    peer.lives()
    if any(isinstance(found, DataFrame) for found in peer.frames):
        raise Failed(f"DATA into a window of 0; came: {peer.seen()}")
    peer.send(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)))
    if (size := len(peer.next(DataFrame).data)) != 1:
        raise Failed(f"{size} bytes into a window of 1")


@check("6.9.2", "SETTINGS that bring an open stream's window above 2^31-1 are FLOW_CONTROL_ERROR")
def _(peer):
    peer.send(peer.headers(1, OPEN) + frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1000))
              + frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 2**31 - 1)))
    peer.connection_error(FLOW_CONTROL_ERROR)


@check("6.9", "more DATA than the server's windows take is FLOW_CONTROL_ERROR")
def _(peer):
    size = peer.settings.get(INITIAL_WINDOW_SIZE, 65_535)
    # A message that is longer than any may be, so that nobody takes it out of the window before its end has come.
    message = struct.pack(">BI", 0, 2**31) + b"x" * size
    peer.send(peer.headers(1, OPEN), *[frame(DATA, 0, 1, message[at:at + 16_384]) for at in range(0, len(message), 16_384)] * 64)
    peer.stream_error(1, FLOW_CONTROL_ERROR, or_status=("200",))


# 6.10: blocks in parts.


@check("6.10", "a block may come in several parts")
def _(peer):
    block = peer.block(CALL)
    # In five: more CONTINUATION than the fields that are allowed would take are a flood (section 10.5).
    parts = [block[at:at + len(block) // 4] for at in range(0, len(block), len(block) // 4)]
    frames = [frame(HEADERS, 0, 1, parts[0])] + [frame(CONTINUATION, 0, 1, part) for part in parts[1:]]
    peer.send(*frames, frame(CONTINUATION, END_HEADERS, 1), frame(DATA, END_STREAM, 1, MESSAGE))
    peer.answered()
