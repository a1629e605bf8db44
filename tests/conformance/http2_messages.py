"""HTTP/2: header fields (RFC 9113, section 8) and their compression (RFC 7541). `judges/h2.py` asks these.

A request that is malformed is an error of its stream, PROTOCOL_ERROR (section 8.1.1), and may be answered with 400 before; one whose
compression is wrong ends the connection with COMPRESSION_ERROR (section 4.3)."""

from http2 import *  # noqa: F403 (the names of the RFC)
from judge import Failed


def malformed(section, title, fields=None, frames=None):
    """A check that the request with these fields, or of these frames, is malformed."""
    @check(section, title)
    def ask(peer):
        peer.send(frames(peer) if frames else peer.request(fields=fields))
        peer.stream_error(1, PROTOCOL_ERROR, or_status=("400",))


# 8.1: messages.


@check("8.1", "a request in HEADERS, DATA and trailers is answered")
def _(peer):
    peer.send(peer.headers(1) + frame(DATA, 0, 1, MESSAGE) + peer.headers(1, [("x-trailer", "1")], END_HEADERS | END_STREAM))
    peer.answered()


@check("8.1", "a request that is no call is answered with its status")
def _(peer):
    peer.send(peer.request(fields=[(":method", "GET"), SCHEME, AUTHORITY, (":path", "/")], body=None))
    peer.answered(status="415")


malformed("8.1", "HEADERS behind DATA without END_STREAM", frames=lambda peer: peer.headers(1, OPEN) + peer.headers(1, [("x-trailer", "1")]))
malformed("8.1", "trailers with a pseudo-header field",
          frames=lambda peer: peer.headers(1) + frame(DATA, 0, 1, MESSAGE) + peer.headers(1, [METHOD], END_HEADERS | END_STREAM))
malformed("8.1.1", "content-length above what comes", [*CALL, ("content-length", "6")])
malformed("8.1.1", "content-length below what comes", [*CALL, ("content-length", "4")])
malformed("8.1.1", "content-length that is not what several DATA have",
          frames=lambda peer: peer.headers(1, [*CALL, ("content-length", "9")]) + frame(DATA, 0, 1, b"\0\0\0") + frame(DATA, END_STREAM, 1, b"\0\0"))
malformed("8.1.1", "content-length and no DATA", frames=lambda peer: peer.headers(1, [*CALL, ("content-length", "5")], END_HEADERS | END_STREAM))


@check("8.1.1", "content-length that is right")
def _(peer):
    peer.send(peer.request(fields=[*CALL, ("content-length", "5")]))
    peer.answered()


# 8.2: fields.


malformed("8.2.1", "a name in upper case", [*CALL, ("X-Upper", "1")])
malformed("8.2.1", "an empty name", [*CALL, ("", "1")])
malformed("8.2.1", "a name with a space", [*CALL, ("x y", "1")])
malformed("8.2.1", "a name with a colon inside", [*CALL, ("x:y", "1")])
malformed("8.2.1", "a name with a control character", [*CALL, ("x\x01y", "1")])
malformed("8.2.1", "a name with DEL", [*CALL, ("x\x7fy", "1")])
malformed("8.2.1", "a name beyond ASCII", [*CALL, ("x\xe4", "1")])
malformed("8.2.1", "a value with NUL", [*CALL, ("x", "a\0b")])
malformed("8.2.1", "a value with LF", [*CALL, ("x", "a\nb")])
malformed("8.2.1", "a value with CR", [*CALL, ("x", "a\rb")])
malformed("8.2.1", "a value with a space before it", [*CALL, ("x", " a")])
malformed("8.2.1", "a value with a tab behind it", [*CALL, ("x", "a\t")])
for name, value in [("connection", "keep-alive"), ("keep-alive", "timeout=5"), ("proxy-connection", "keep-alive"), ("transfer-encoding", "chunked"),
                    ("upgrade", "h2c")]:
    malformed("8.2.2", f"a field of the connection: {name}", [*CALL, (name, value)])
malformed("8.2.2", "te other than trailers", [METHOD, SCHEME, AUTHORITY, PATH, ("content-type", "application/grpc"), ("te", "trailers, deflate")])


@check("8.2.3", "cookies in several fields are one")
def _(peer):
    peer.send(peer.request(fields=[*CALL, ("cookie", "a=1"), ("cookie", "b=2")]))
    peer.answered()


# 8.3: pseudo-header fields.


malformed("8.3", "a pseudo-header field that is none", [METHOD, SCHEME, AUTHORITY, PATH, (":judge", "1"), *FIELDS])
malformed("8.3", "a pseudo-header field of answers", [METHOD, SCHEME, AUTHORITY, PATH, (":status", "200"), *FIELDS])
malformed("8.3", "a pseudo-header field behind another field", [METHOD, SCHEME, AUTHORITY, FIELDS[0], PATH])
malformed("8.3.1", "an empty :path", [METHOD, SCHEME, AUTHORITY, (":path", ""), *FIELDS])
for at, (name, _) in enumerate([METHOD, SCHEME, AUTHORITY, PATH]):
    if name != ":authority":
        malformed("8.3.1", f"no {name}", CALL[:at] + CALL[at + 1:])
    malformed("8.3.1", f"{name} twice", CALL[:at + 1] + CALL[at:])
malformed("8.3.1", "a :path without a slash", [METHOD, SCHEME, AUTHORITY, (":path", "grpc.health.v1.Health/Check"), *FIELDS])
malformed("8.3.1", ":authority with a user", [METHOD, SCHEME, (":authority", "user@judge"), PATH, *FIELDS])
malformed("8.3.1", ":authority and host that differ", [*CALL, ("host", "another")])
malformed("8.5", "CONNECT with a :path", [(":method", "CONNECT"), AUTHORITY, PATH])
malformed("8.5", "CONNECT without :authority", [(":method", "CONNECT")])


# RFC 7541.


def block(section, title, data):
    each((f"RFC 7541 {section}", title, lambda peer: frame(HEADERS, END_HEADERS | END_STREAM, 1, data(peer)), [COMPRESSION_ERROR]))


block("2.3.3", "an indexed field beyond the tables", lambda peer: b"\xc6" + peer.block(CALL))
block("2.3.3", "a literal whose name is beyond the tables", lambda peer: b"\x7f\x07\x01a" + peer.block(CALL))
block("4.2", "a change of the table's size behind a field", lambda peer: peer.block(CALL) + b"\x20")
block("5.1", "an integer without end", lambda peer: peer.block(CALL) + b"\xff" + b"\x80" * 20 + b"\x01")
block("5.1", "an integer that overflows", lambda peer: peer.block(CALL) + b"\x7f" + b"\xff" * 9 + b"\x7f")
block("5.2", "a string that ends beyond the block", lambda peer: peer.block(CALL) + b"\x10\x05ab")
block("5.2", "a Huffman code padded with more than 7 bits", lambda peer: peer.block(CALL) + b"\x10\x01a\x82\x1f\xff")
block("5.2", "a Huffman code padded with zeros", lambda peer: peer.block(CALL) + b"\x10\x01a\x81\x18")
block("5.2", "a Huffman code with EOS in it", lambda peer: peer.block(CALL) + b"\x10\x01a\x84\xff\xff\xff\xff")
block("6.1", "the index 0", lambda peer: b"\x80" + peer.block(CALL))
block("6.3", "a table larger than SETTINGS allow", lambda peer: b"\x3f\xe1\xff\xff\x03" + peer.block(CALL))


@check("RFC 7541 2.3.2", "fields that were indexed are found again, by both tables")
def _(peer):
    for stream in (1, 3, 5):
        peer.send(frame(HEADERS, END_HEADERS, stream, peer.encoder.encode([*CALL, ("x-again", "and again")], huffman=stream == 3)))
        peer.send(frame(DATA, END_STREAM, stream, MESSAGE))
        peer.answered(stream)


@check("RFC 7541 4.3", "the table may be made smaller, and larger again")
def _(peer):
    for stream, size in ((1, 4096), (3, 0), (5, 4096)):
        peer.encoder.header_table_size = size
        peer.send(frame(HEADERS, END_HEADERS, stream, peer.encoder.encode([*CALL, ("x-again", "and again")])))
        peer.send(frame(DATA, END_STREAM, stream, MESSAGE))
        peer.answered(stream)
    if len(peer.encoder.header_table.dynamic_entries) == 0:
        raise Failed("the library has indexed nothing")


@check("RFC 7541 6.2.3", "a field that is never indexed is taken")
def _(peer):
    peer.send(peer.request(fields=[*CALL, ("authorization-like", "secret")]))
    peer.answered()
