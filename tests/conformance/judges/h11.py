"""h11, the parser of HTTP/1.1 of Python's python-hyper, and the bytes that its own tests send.

The vectors are the requests in h11's tests (read out of its source distribution, which is fetched and not kept in this repository), its
tests of chunked bodies behind a head, and cases of our own. h11 itself says of each how many requests are whole, and whether what
follows is none.

A pass: as many requests are taken as h11 takes, and nothing is taken behind what it refuses."""

import ast

import h11

import http1
from judge import missing_modules, missing_sources, module_version, sources

SCHEME = "http"
CHUNKED = b"POST /health HTTP/1.1\r\nHost: judge\r\nTransfer-Encoding: chunked\r\n\r\n"


def missing():
    return missing_modules("h11", "pytest") + missing_sources("h11")


def version():
    return module_version("h11")


def run(bench):
    return http1.run(bench, vectors(), parse)


def vectors():
    tests = sorted((sources("h11") / "h11" / "tests").glob("test_*.py"))
    found = [vector for path in tests for vector in http1.requests_of_python(path)]
    found += [vector for path in tests for vector in chunked_bodies(path)]
    return http1.named("h11", found) + http1.ours()


def chunked_bodies(path):
    """What the tests give to the reader of chunked bodies alone."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Name) and node.args[0].id == "ChunkedReader":
            for argument in node.args[1:]:
                if (value := http1.folded(argument)) is not None:
                    yield f"{path.name}:{node.lineno}", CHUNKED + value


def parse(data):
    methods = []
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    method = None
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                method = event.method.decode("latin-1")
            elif isinstance(event, h11.EndOfMessage):
                methods.append(method)
                connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is h11.MUST_CLOSE:
                    # The client asked for the end: what follows counts no more, for nobody.
                    return http1.Verdict(methods)
                connection.start_next_cycle()
            elif event is h11.NEED_DATA:
                return http1.Verdict(methods, is_partial=connection.their_state is h11.SEND_BODY or connection.trailing_data[0] != b"")
            elif event is h11.PAUSED:
                return http1.Verdict([*methods, method])
    except h11.RemoteProtocolError:
        return http1.Verdict(methods, is_refused=True)
