"""What the judges of HTTP/1.1 have in common: bytes that somebody's tests send, what their parser makes of them, and what the server does.

The vectors stay where they were published: they are read out of the source distributions, by their syntax, and nothing of these is run."""

import ast
import re
from dataclasses import dataclass

from helpers import Deadline
from judge import Failed, case

# What a request that was understood may be answered with, and what one that was not; the others are of limits and of what is not
# implemented, and say neither.
REFUSED = {400, 505}
EITHER = {408, 411, 413, 414, 415, 417, 431, 501}

REQUEST_LINE = re.compile(rb"\s*[!-~]+\s+\S+\s+[A-Z]*/?[\d.]*[^\r\n]*\r?\n|[A-Z]+ /")


@dataclass
class Verdict:
    """What a parser makes of a stream of bytes: how many requests are whole, and whether what follows them is none, or the beginning of one."""

    methods: list
    is_refused: bool = False
    is_partial: bool = False


def run(bench, vectors, parse):
    """Asks the server each vector, and compares with the parser's verdict."""
    with bench.server() as server:
        for name, data in vectors:
            bench.say(name)
            yield case(name, ask, server, data, parse(data))
        yield case("afterwards others are answered", alive, server)


def ask(server, data, verdict):
    client = server.connect()
    try:
        try:
            client.send(data)
            client.finish()
        except ConnectionError:
            pass  # It was refused before all of it was sent.
        statuses = answers(client, verdict.methods)
    finally:
        client.close()
    taken = [status for status in statuses if status not in REFUSED | EITHER]
    wanted = len(verdict.methods)
    if len(taken) > wanted:
        raise Failed(f"{len(taken)} requests were taken ({statuses}), the judge takes {wanted}; {data[:200]!r}")
    if verdict.is_refused and len(statuses) > wanted + 1:
        raise Failed(f"behind what is no request there are answers ({statuses}), the judge takes {wanted}; {data[:200]!r}")
    # To one that breaks off 400 is an answer too (RFC 9112, section 8).
    may_be_refused = verdict.is_refused or verdict.is_partial
    if any(status in REFUSED for status in statuses[:wanted] if may_be_refused) or any(status in REFUSED for status in statuses if not may_be_refused):
        raise Failed(f"refused ({statuses}), the judge takes {wanted}; {data[:200]!r}")
    if not verdict.is_refused and len(statuses) < wanted and not set(statuses[-1:]) & (EITHER | {101}):
        raise Failed(f"{len(statuses)} answers ({statuses}) to {wanted} requests; {data[:200]!r}")


def answers(client, methods):
    """The statuses of all answers up to the end of the connection."""
    try:
        data = client.rest(Deadline(10))
    except ConnectionError:
        data = b""
    statuses = []
    while data:
        head, separator, rest = data.partition(b"\r\n\r\n")
        match = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        if not separator or not match:
            raise Failed(f"an answer that is none: {data[:100]!r}")
        status = int(match[1])
        if status == 101:
            return [*statuses, 101]
        length = re.search(rb"(?mi)^content-length: *(\d+)", head)
        has_body = length and not (len(statuses) < len(methods) and methods[len(statuses)] == "HEAD") and status not in (204, 304)
        data = rest[int(length[1]):] if has_body else rest
        if status >= 200:
            statuses.append(status)
    return statuses


def alive(server):
    if server.get("/health").status != 200:
        raise Failed("/health is not answered")


# Where vectors are.


def named(prefix, vectors):
    """Each of these bytes once, under the name of where it was found."""
    seen = {}
    for place, data in vectors:
        seen.setdefault(data, f"{prefix} {place}")
    return [(name, data) for data, name in seen.items()]


def requests_of_python(path):
    """The bytes in a Python source that look like requests: constant expressions of bytes, by their line."""
    found = []

    def visit(node):
        value = folded(node)
        if value is not None:
            if REQUEST_LINE.match(value):
                found.append((f"{path.name}:{node.lineno}", value))
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def folded(node):
    """The value of an expression of constant bytes, or None."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, bytes) else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = folded(node.left), folded(node.right)
        return left + right if left is not None and right is not None else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and isinstance(node.right, ast.Constant):
        left = folded(node.left)
        return left * node.right.value if left is not None and isinstance(node.right.value, int) and node.right.value < 10**6 else None
    return None


C_STRING = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
C_STRINGS = re.compile(rf'(?:{C_STRING.pattern}\s*)+')
C_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)")
C_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "b": "\b", "a": "\a"}


def with_host(vectors):
    """The same with a Host where HTTP/1.1 wants one (RFC 9112, section 3.2): for vectors of parsers that leave that to others."""
    for place, data in vectors:
        if not re.search(rb"(?im)^host *:", data) and b"CONNECT " not in data:
            data = re.sub(rb"HTTP/1\.1\r\n", b"HTTP/1.1\r\nHost: judge\r\n", data, count=1)
        yield place, data


def requests_of_c(path):
    """The string literals in a C source that look like requests, by their line."""
    text = path.read_text(encoding="latin-1")
    found = []
    for match in C_STRINGS.finditer(text):
        literal = "".join(C_STRING.findall(match[0]))
        value = C_ESCAPE.sub(unescape, literal).encode("latin-1")
        if REQUEST_LINE.match(value) and b"HTTP" in value:
            found.append((f"{path.name}:{text.count(chr(10), 0, match.start()) + 1}", value))
    return found


def unescape(match):
    code = match[1]
    if code[0] == "x":
        return chr(int(code[1:], 16))
    if code[0] in "01234567":
        return chr(int(code, 8) & 0xFF)
    return C_ESCAPES.get(code, code)


def ours():
    """The ambiguous requests of tests/e2e/test_http.py, and bodies and targets besides."""
    from test_http import AMBIGUOUS, request

    chunked = "Transfer-Encoding: chunked"
    more = {
        "a whole request": request(),
        "two whole requests": request() * 2,
        "empty lines before a request": b"\r\n\r\n" + request(),
        "a body with a length": request("POST /health HTTP/1.1", "Content-Length: 3", body=b"abc") + request(),
        "a body in chunks": request("POST /health HTTP/1.1", chunked, body=b"3\r\nabc\r\n0\r\n\r\n") + request(),
        "chunks with extensions": request("POST /health HTTP/1.1", chunked, body=b'3;a;b=c;d="e"\r\nabc\r\n0;last\r\n\r\n') + request(),
        "chunks with trailers": request("POST /health HTTP/1.1", chunked, body=b"3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n") + request(),
        "chunks with leading zeros": request("POST /health HTTP/1.1", chunked, body=b"0003\r\nabc\r\n000\r\n\r\n") + request(),
        "a chunk that is longer than it says": request("POST /health HTTP/1.1", chunked, body=b"3\r\nabcd\r\n0\r\n\r\n") + request(),
        "a chunk size with a space before it": request("POST /health HTTP/1.1", chunked, body=b" 3\r\nabc\r\n0\r\n\r\n") + request(),
        "a chunk size of 0x": request("POST /health HTTP/1.1", chunked, body=b"0x3\r\nabc\r\n0\r\n\r\n") + request(),
        "an LF in a chunk's extension": request("POST /health HTTP/1.1", chunked, body=b"3;a\nb\r\nabc\r\n0\r\n\r\n") + request(),
        "the absolute form": request("GET http://test/health HTTP/1.1"),
        "the asterisk form": request("OPTIONS * HTTP/1.1"),
        "every visible character in a value": request("GET /health HTTP/1.1", "X-Visible: " + "".join(map(chr, range(33, 127)))),
        "bytes beyond ASCII in a value": request("GET /health HTTP/1.1", "X-Text: \xe4\xff"),
        "DEL in a value": request("GET /health HTTP/1.1", "X-Text: \x7f"),
        "a control character in a value": request("GET /health HTTP/1.1", "X-Text: a\x01b"),
        "every character of a token in a name": request("GET /health HTTP/1.1", "!#$%&'*+-.^_`|~09azAZ: 1"),
        "an empty value": request("GET /health HTTP/1.1", "X-Empty:"),
        "tabs around a value": request("GET /health HTTP/1.1", "X-Tabs:\t a \t"),
        **{f"{character!r} in a name": request("GET /health HTTP/1.1", f"X{character}Y: 1") for character in '"(),/;<=>?@[\\]{} \x7f\x01\xe4'},
        **{f"the version {version}": request(f"GET /health {version}") for version in ["HTTP/1.2", "HTTP/1.10", "HTTP/01.1", "HTTP/0.9", "HTTP/1,1",
                                                                                       "HTTP/1", "HTP/1.1", "HTTPS/1.1", "HTTP /1.1"]},
    }
    return [(f"ours: {name}", data) for name, data in (AMBIGUOUS | more).items()]
