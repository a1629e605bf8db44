"""HTTP/1.1: the page, health, and all that a proxy in front may be confused by."""

import re
import subprocess

import pytest


def curl(*arguments):
    return subprocess.run(["curl", "--silent", "--show-error", "--max-time", "10", "--path-as-is", *arguments], capture_output=True,
                          timeout=20, check=True).stdout.decode()


def request(line="GET /health HTTP/1.1", *headers, host="Host: test", body=b""):
    lines = [line, *([host] if host else []), *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


# What there is.


def test_health_is_small_and_fast(server):
    assert curl(server.url("/health", "http")) == "OK"
    assert curl("-o", "/dev/null", "-w", "%{http_code}", server.url("/ready", "http")) == "200"


def test_the_page_and_its_files_are_served(server):
    page = curl(server.url("/", "http"))
    assert page.startswith("<!doctype html>")
    files = {path for path in re.findall(r'(?:src|href)="(/[^"]+)"', page)}
    assert {"/app.js", "/style.css", "/favicon.svg"} <= files
    for path in files:
        response = server.get(path)
        assert (response.status, response.headers["x-content-type-options"]) == (200, "nosniff")
        assert response.headers["content-type"].split(";")[0] in ("text/javascript", "text/css", "image/svg+xml")
        assert response.body


def test_the_page_forbids_what_it_does_not_need(server):
    headers = server.get("/").headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"


def test_a_query_does_not_hide_the_page(server):
    assert server.get("/?room=birds").body == server.get("/").body


@pytest.mark.parametrize("path", ["/", "/health", "/style.css", "/nowhere"])
def test_head_is_get_without_the_body(server, path):
    client = server.connect()
    client.send(request(f"HEAD {path} HTTP/1.1") + request(f"GET {path} HTTP/1.1", "Connection: close"))
    head, get = client.response(has_body=False), client.response()
    assert head.status == get.status
    assert head.headers["content-length"] == get.headers["content-length"] == str(len(get.body))
    assert head.headers.get("content-type") == get.headers.get("content-type")


@pytest.mark.parametrize("raw, status", [
    (request("HEAD / HTTP/1.1", host=None), 400), (request("HEAD / HTTP/1.1", " folded"), 400), (request("HEAD / HTTP/1.1", "X: \0"), 400),
    (request("HEAD /" + "x" * 8192 + " HTTP/1.1"), 414), (request("HEAD / HTTP/1.1", "Content-Length: 262145"), 413),
    (request("HEAD / HTTP/1.1", "Transfer-Encoding: chunked", body=b"zz\r\n"), 400),
])
def test_a_head_that_is_refused_gets_no_body_either(server, raw, status):
    client = server.connect()
    client.send(raw)
    response = client.response(has_body=False)
    assert response.status == status and int(response.headers["content-length"]) > 0
    assert client.rest() == b""


@pytest.mark.parametrize("target", ["/", "/health", "*"])
def test_options_tells_the_methods(server, target):
    response = server.http(request(f"OPTIONS {target} HTTP/1.1"))
    assert response.status in (200, 204)
    assert {"GET", "HEAD", "OPTIONS"} <= set(response.headers["allow"].replace(" ", "").split(","))


# Refusals.


@pytest.mark.parametrize("path", ["/nowhere", "/health/", "/%2e%2e/etc/passwd", "/../Cargo.toml", "//", "/style.css/"])
def test_what_is_not_there_is_404(server, path):
    response = server.get(path)
    assert response.status == 404
    assert response.error()["reason"] == "not_found"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "QUERY"])
def test_a_wrong_method_is_405(server, method):
    response = server.http(request(f"{method} /health HTTP/1.1", "Content-Length: 2", body=b"{}"))
    assert response.status == 405
    assert "GET" in response.headers["allow"]
    assert response.error()["reason"] == "bad_request"


@pytest.mark.parametrize("raw, status", [
    (request("GET /" + "x" * 8192 + " HTTP/1.1"), 414),
    (request("GET /health HTTP/1.1", "X-Long: " + "x" * 33_000), 431),
    (request("GET /health HTTP/1.1", *[f"X-{number}: {'x' * 300}" for number in range(110)]), 431),
    (request("POST /health HTTP/1.1", "Content-Length: 262145"), 413),
    (request("POST /health HTTP/1.1", "Content-Length: 99999999999999999999999999"), (400, 413)),
    (request("BREW /pot HTTP/1.1"), 501),
    (request("GET /health HTTP/2.0"), 505),
    (request("GET /health HTTP/3.7"), 505),
], ids=lambda value: None if isinstance(value, bytes) else str(value))
def test_limits_and_versions(server, raw, status):
    client = server.connect()
    client.send(raw)
    response = client.response()
    assert response.status in (status if isinstance(status, tuple) else (status,))
    assert response.error()["code"] == response.status
    assert server.get("/health").status == 200


def test_a_long_target_within_the_limit_passes(server):
    assert server.get("/?" + "x" * 8000).status == 200


# Connections.


def test_keep_alive_is_the_default(server):
    client = server.connect()
    for _ in range(3):
        client.send(request())
        assert client.response().body == b"OK"


@pytest.mark.parametrize("raw", [
    request("GET /health HTTP/1.1", "Connection: close"), request("GET /health HTTP/1.1", "Connection: foo, Close"),
    request("GET /health HTTP/1.0"), request("GET /health HTTP/1.0", host=None),
])
def test_the_connection_ends_when_it_should(server, raw):
    client = server.connect()
    client.send(raw)
    assert client.response().body == b"OK"
    assert client.is_ended()


def test_curl_uses_one_connection(server):
    url = server.url("/health", "http")
    assert curl("-w", "%{num_connects},", *[url] * 3) == "OK1,OK0,OK0,"


def test_pipelined_requests_are_answered_in_order(server):
    client = server.connect()
    client.send(request("GET /health HTTP/1.1") + request("GET /nowhere HTTP/1.1") + request("GET / HTTP/1.1") + request() * 50)
    statuses = [client.response().status for _ in range(53)]
    assert statuses == [200, 404, 200] + [200] * 50


def test_pipelined_requests_with_the_end_are_all_answered(server):
    client = server.connect()
    client.send(request() * 20)
    client.finish()
    assert client.rest().count(b"HTTP/1.1 200 OK\r\n") == 20


def test_a_request_may_come_one_byte_at_a_time(server):
    client = server.connect()
    client.send_slowly(request("GET /health HTTP/1.1", "X-Slow: yes"))
    assert client.response().body == b"OK"


def test_a_body_is_read_over(server):
    client = server.connect()
    client.send(request("POST /health HTTP/1.1", "Content-Length: 20", body=b"GET /nowhere HTTP/1."))
    assert client.response().status == 405
    client.send(request())
    try:
        assert client.response().body == b"OK"
    except (EOFError, ConnectionError):
        pass  # To close after an error is allowed; to take the body for a request is not.


def test_the_absolute_form_is_understood(server):
    assert server.http(request("GET http://test/health HTTP/1.1")).body == b"OK"


def test_request_ids_are_taken_over_or_made(server):
    assert server.http(request("GET /health HTTP/1.1", "X-Request-Id: abc-123!~")).headers["x-request-id"] == "abc-123!~"
    for bad in ["", "with space", "x" * 129]:
        made = server.http(request("GET /health HTTP/1.1", f"X-Request-Id: {bad}")).headers["x-request-id"]
        assert made and made != bad


# Smuggling: two readers of one stream of bytes must never disagree about where a request ends (RFC 9112, section 11.2).

SMUGGLED = request("GET /style.css HTTP/1.1")

AMBIGUOUS = {
    "two lengths": request("POST / HTTP/1.1", "Content-Length: 0", f"Content-Length: {len(SMUGGLED)}"),
    "a list of lengths": request("POST / HTTP/1.1", f"Content-Length: 0, {len(SMUGGLED)}"),
    "length and chunked": request("POST / HTTP/1.1", f"Content-Length: {len(SMUGGLED)}", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "chunked and length": request("POST / HTTP/1.1", "Transfer-Encoding: chunked", "Content-Length: 4", body=b"0\r\n\r\n"),
    "a signed length": request("POST / HTTP/1.1", "Content-Length: +0"),
    "a negative length": request("POST / HTTP/1.1", "Content-Length: -1"),
    "a hexadecimal length": request("POST / HTTP/1.1", "Content-Length: 0x0"),
    "a length with a space inside": request("POST / HTTP/1.1", "Content-Length: 1 0"),
    "an empty length": request("POST / HTTP/1.1", "Content-Length:"),
    "a space before the colon": request("POST / HTTP/1.1", "Content-Length : 0"),
    "a tab before the colon": request("POST / HTTP/1.1", "Transfer-Encoding\t: chunked"),
    "a folded line": request("POST / HTTP/1.1", "X-Folded: a", " Content-Length: 0"),
    "a space before the first field": request("GET /health HTTP/1.1", host=" Host: test"),
    "a field without a name": request("GET /health HTTP/1.1", ": nameless"),
    "a field without a colon": request("GET /health HTTP/1.1", "nonsense"),
    "a NUL in a value": request("GET /health HTTP/1.1", "X-Nul: a\0b"),
    "a bare CR in a value": request("GET /health HTTP/1.1", "X-Return: a\rb"),
    "a bare LF in the head": b"GET /health HTTP/1.1\r\nHost: test\nX-Bare: yes\r\n\r\n",
    "bare LFs alone": b"GET /health HTTP/1.1\nHost: test\n\n",
    "two spaces in the first line": request("GET  /health HTTP/1.1"),
    "a tab in the first line": request("GET\t/health HTTP/1.1"),
    "a space in the target": request("GET /hea lth HTTP/1.1"),
    "a control character in the target": request("GET /hea\x01lth HTTP/1.1"),
    "a target without a slash": request("GET health HTTP/1.1"),
    "a lower-case version": request("GET /health http/1.1"),
    "no version": b"GET /health\r\nHost: test\r\n\r\n",
    "no host": request("GET /health HTTP/1.1", host=None),
    "two hosts": request("GET /health HTTP/1.1", "Host: other"),
    "a host with a space": request("GET /health HTTP/1.1", host="Host: te st"),
    "a chunk size that is none": request("POST / HTTP/1.1", "Transfer-Encoding: chunked", body=b"zz\r\n"),
    "a signed chunk size": request("POST / HTTP/1.1", "Transfer-Encoding: chunked", body=b"+0\r\n\r\n"),
    "a chunk size that overflows": request("POST / HTTP/1.1", "Transfer-Encoding: chunked", body=b"f" * 17 + b"\r\n"),
    "a chunk that ends in a bare LF": request("POST / HTTP/1.1", "Transfer-Encoding: chunked", body=b"1\nx\n0\n\n"),
    "chunked twice": request("POST / HTTP/1.1", "Transfer-Encoding: chunked, chunked"),
    "chunked in HTTP/1.0": request("POST / HTTP/1.0", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "an unknown coding": request("POST / HTTP/1.1", "Transfer-Encoding: xchunked"),
    "a coding after chunked": request("POST / HTTP/1.1", "Transfer-Encoding: chunked, identity"),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_an_ambiguous_request_is_the_last_of_its_connection(server, name):
    client = server.connect()
    client.send(AMBIGUOUS[name] + SMUGGLED)
    answer = client.rest()
    codings = ("an unknown coding", "a coding after chunked", "chunked twice")
    allowed = ("400", "501") if name in codings else ("400",)
    # A malformed chunk may be found out only after the head was answered.
    allowed += ("405",) if "chunk" in name else ()
    assert answer[9:12].decode() in allowed, answer[:80]
    assert b"text/css" not in answer, "the bytes after it were taken for a request"


def test_nothing_but_errors_for_another_protocol(server):
    for opening in [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"SSH-2.0-x\r\n\r\n"]:
        client = server.connect()
        client.send(opening)
        client.finish()
        answer = client.rest()
        assert answer == b"" or re.match(rb"HTTP/1\.1 (400|505) ", answer)
