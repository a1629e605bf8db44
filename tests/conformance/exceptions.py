"""What a judge does not pass, and why the server stays as it is: by judge and case. The table counts these as explained, and shows the reasons.

A case that is listed here and passes, on a server of the judge's own, is a failure too: then its line goes."""

# HTTP/1.1 (RFC 9112, and RFC 9110).

FRAGMENT = "A target has no fragment (RFC 9112, 3.2), and what is no target SHOULD be answered with 400 (3)."
CONNECT = "The server is no proxy. The authority form is for CONNECT alone (RFC 9112, 3.2.3), which it does not do, and says with 400."
HOST = "Of HTTP/1.1 without Host, with two, or with one that is none, 400 MUST be said (RFC 9112, 3.2). The parser leaves that to who uses it."
HTTP_1_0_CHUNKED = "The framing of an HTTP/1.0 message with Transfer-Encoding is faulty (RFC 9112, 6.1): it MUST be treated so."
TWO_LENGTHS = "A request with both lengths MAY be refused (RFC 9112, 6.1), and 6.3 calls it an attempt at smuggling: it is."
BARE_LF = "A recipient MAY take a single LF for the end of a line (RFC 9112, 2.2), and need not: where readers differ on it, requests are smuggled."
CONTROL = "Values with control characters are invalid, and MAY be kept (RFC 9110, 5.5): they are refused."
HTTP_0_9 = "Major version 0 is not spoken here; 505 says so (RFC 9110, 15.6.6)."

H11 = {
    "h11 test_io.py:266": "A folded line MUST be refused with 400, or unfolded (RFC 9112, 5.2): it is refused.",
    "h11 test_io.py:456": "The grammar has white space behind a chunk's size before an extension alone (RFC 9112, 7.1.1). h11 says that it takes it for old servers.",
    "h11 test_io.py:563": CONTROL,
    "ours: length and chunked": TWO_LENGTHS,
    "ours: chunked and length": TWO_LENGTHS,
    "ours: a folded line": "A folded line MUST be refused with 400, or unfolded (RFC 9112, 5.2): it is refused.",
    "ours: a bare LF in the head": BARE_LF,
    "ours: bare LFs alone": BARE_LF,
    "ours: a target without a slash": "It has none of the four forms of a target (RFC 9112, 3.2), and SHOULD be answered with 400 (3).",
    "ours: a host with a space": HOST,
    "ours: chunked in HTTP/1.0": HTTP_1_0_CHUNKED,
    "ours: empty lines before a request": "At least one empty line before a request SHOULD be ignored (RFC 9112, 2.2). h11 does not.",
    "ours: DEL in a value": CONTROL,
    "ours: a control character in a value": CONTROL,
    "ours: the version HTTP/1.2": "Another minor version SHOULD be processed as 1.1 (RFC 9110, 2.5). There is none, nobody sends it, and httparse, which the server "
                                  "reads heads with, refuses it, as llhttp does; 505 says so.",
    "ours: the version HTTP/0.9": HTTP_0_9,
}

LLHTTP = {
    "httptools test.c:181": FRAGMENT,
    "httptools test.c:263": FRAGMENT,
    "httptools test.c:375": "White space around the `;` of a chunk's extension is to be read over (BWS; RFC 9112, 7.1.1, and RFC 9110, 5.6.3). llhttp does not.",
    "httptools test.c:526": CONNECT,
    "httptools test.c:590": "The asterisk is for OPTIONS alone (RFC 9112, 3.2.4).",
    "httptools test.c:743": CONNECT,
    "httptools test.c:789": CONNECT,
    "httptools test.c:910": "A user in an http URI SHOULD be treated as an error (RFC 9110, 4.2.4).",
    "httptools test.c:1082": CONNECT,
    "ours: two spaces in the first line": "Words of the first line have one space between; others MAY be taken (RFC 9112, 3), and need not.",
    "ours: no version": HTTP_0_9,
    "ours: no host": HOST,
    "ours: two hosts": HOST,
    "ours: a host with a space": HOST,
    "ours: chunked in HTTP/1.0": HTTP_1_0_CHUNKED,
    "ours: the version HTTP/0.9": HTTP_0_9,
}

# HTTP/2 (RFC 9113, and RFC 7541). The server's framing is that of the crate h2.

COMPRESSION = "The connection ends, as it MUST (RFC 9113, 4.3), but the crate h2 says PROTOCOL_ERROR of every block that it cannot read."
CLOSED = "An error of the stream may be treated as one of the connection (RFC 9113, 5.4.2), and is; the crate h2 says PROTOCOL_ERROR of it."

H2 = {
    "4.3 a block that is no HPACK": COMPRESSION,
    **{f"RFC 7541 {case}": COMPRESSION for case in [
        "2.3.3 an indexed field beyond the tables", "2.3.3 a literal whose name is beyond the tables", "4.2 a change of the table's size behind a field",
        "5.1 an integer without end", "5.1 an integer that overflows", "5.2 a string that ends beyond the block",
        "5.2 a Huffman code padded with more than 7 bits", "5.2 a Huffman code padded with zeros", "5.2 a Huffman code with EOS in it",
        "6.1 the index 0", "6.3 a table larger than SETTINGS allow"]},
    "5.1 half-closed: DATA is STREAM_CLOSED": CLOSED,
    "5.1 half-closed: HEADERS is STREAM_CLOSED": CLOSED,
    "6.5.2 INITIAL_WINDOW_SIZE above 2^31-1": "The connection ends, as it MUST (RFC 9113, 6.5.2), but the crate h2 says PROTOCOL_ERROR of it.",
    "8.1 trailers with a pseudo-header field": "A known deviation: it MUST be treated as malformed (RFC 9113, 8.1). The crate h2 takes such a field out of "
                                               "the trailers and tells nobody; the server looks at no trailers at all.",
}

# WebSocket (RFC 6455).

WSPROTO = {
    "handshake: test_handshake.py::test_h11_multiple_headers_handshake":
        "Its target is a wss:// URI. A handshake asks for a path, or for an http or https URI (RFC 6455, 4.2.1).",
}

# The others.

SLOWHTTPTEST = {
    "slow read: no connection is left":
        "Who takes nothing for `heartbeat.timeout_ms` (90 s) is ended, which is longer than the attack lasts; who takes a little now and then may go "
        "on. What is held for each is bounded, as the cases beside it say, and how many an address may have by `limits.connections_per_address`.",
}

TESTSSL = {
    "cert_chain_of_trust": "The judge's certificate signs itself. What a server shows is its operator's.",
    "cert_revocation": "A certificate that signs itself names nobody who could revoke it. What a server shows is its operator's.",
}

EXPLAINED = {"wsproto": WSPROTO, "h11": H11, "llhttp": LLHTTP, "h2": H2, "slowhttptest": SLOWHTTPTEST, "testssl": TESTSSL}
