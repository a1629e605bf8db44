"""The numbers at /metrics, read by the parsers that Prometheus's own Python client has."""

import json
import pathlib
import re

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from helpers import slow_reader, wait_until

ROOT = pathlib.Path(__file__).parents[2]
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def scrape(server, accept="text/plain", parse=parse_text):
    response = server.http(f"GET /metrics HTTP/1.1\r\nHost: test\r\nAccept: {accept}\r\nConnection: close\r\n\r\n".encode())
    assert response.status == 200
    families = {family.name: family for family in parse(response.body.decode())}
    return response, families


def value(families, name, **labels):
    family = families[re.sub("_(total|bucket|count|sum)$", "", name)]
    return sum(sample.value for sample in family.samples if sample.name == name and labels.items() <= sample.labels.items())


def test_both_forms_are_what_they_say(start_server):
    server = start_server()
    response, text = scrape(server)
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    # As Prometheus asks.
    asks = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3"
    response, open_metrics = scrape(server, asks, parse_open_metrics)
    assert response.headers["content-type"] == OPEN_METRICS
    assert response.body.endswith(b"# EOF\n")
    assert set(text) == set(open_metrics)
    assert all(family.documentation and family.type != "unknown" for family in text.values())
    for refused in ["application/openmetrics-text;q=0", "text/plain, application/openmetrics-text; version=1.0.0; q=0.000", "*/*", "text/plain;of=application/openmetrics-text"]:
        response, _ = scrape(server, refused)
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8", refused
    assert value(text, "starling_build_info") == 1
    assert value(text, "process_resident_memory_bytes") > 1 << 20
    assert 3 < value(text, "process_open_fds") < value(text, "process_max_fds")
    assert open_metrics["process_cpu_seconds"].samples, "which may be none yet, in ticks of the kernel"


def test_what_happens_is_counted(start_server):
    server = start_server()
    _, before = scrape(server)
    alice, bob = server.ws("alice", "den"), server.ws("bob", "den")
    alice.say("den", *map(str, range(7)))
    for client in (alice, bob):
        for _ in range(7):
            client.expect("message")
    assert server.get("/nowhere").status == 404
    assert server.get("/health").status == 200

    def counted():
        _, after = scrape(server)
        grown = lambda name, **labels: value(after, name, **labels) - value(before, name, **labels)
        wanted = [grown("starling_published_total") == 7, grown("starling_deliveries_total") >= 14, value(after, "starling_rooms") >= 1,
                  grown("http_requests_total", method="GET", code="404") == 1, grown("http_requests_total", method="GET", code="101") == 2]
        return after if all(wanted) else None

    after = wait_until(counted, "all to be counted")
    # Two chats and the scrape itself, and those whose ends have not been heard of.
    assert value(after, "starling_connections") >= 3
    for name in ("connections", "busy_seconds_total", "turns_total"):
        # Both are made of the same readings.
        assert value(after, f"starling_core_{name}") == pytest.approx(value(after, f"starling_{name}"))
    answered = value(after, "http_requests_total")
    assert value(after, "http_request_duration_seconds_count") == answered
    assert value(after, "http_request_duration_seconds_bucket", le="+Inf") == answered
    assert 0 < value(after, "http_request_duration_seconds_sum") < 10
    assert 0 < value(after, "starling_busy_seconds_total")


def test_memory_is_told_by_class(start_server):
    """What comes in and is not complete, what waits to be taken, what rooms keep, and the places of those who are here."""
    server = start_server(limits__send_queue_bytes=16_777_216, auth__api_keys='[{ name = "ci", key = "one key" }]')

    def of_class(name):
        return value(scrape(server)[1], "starling_memory_bytes", **{"class": name})

    before = {name: of_class(name) for name in ("connections", "sessions", "histories", "send_queues", "input")}
    assert before["send_queues"] == before["histories"] == 0
    many = [server.ws("speaker", "den"), *(server.ws(f"user-{number}") for number in range(40))]
    each = of_class("connections") / value(scrape(server)[1], "starling_connections")
    assert 300 < each < 4000 and of_class("connections") > before["connections"], "places double when they are used up"
    assert of_class("sessions") >= 40 * 200
    many[0].say("den", "x" * 10_000)
    many[0].expect("message")
    assert of_class("histories") > 10_000

    line, frames, request = (server.connect(kind).socket for kind in ("line", "frame", "web"))
    half = b'{"type":"ping","padding":"' + b"x" * 100_000
    line.sendall(half)
    frames.sendall(b"\xca\xfe\xba\xbe\x01" + (150_000).to_bytes(4, "big") + b"\0\x15" + b"y" * 100_000)
    request.sendall(b"POST /api/rooms/den/messages HTTP/1.1\r\nHost: a\r\nX-API-Key: one key\r\nContent-Type: application/json\r\n"
                    b"Content-Length: 150000\r\n\r\n" + b" " * 100_000)
    wait_until(lambda: 300_000 <= of_class("input") < 900_000, "what is not complete to be counted")
    all_three = of_class("input")
    line.sendall(b'"}\n')
    while b"pong" not in line.recv(4096):
        pass
    # How far over its content a buffer has grown is decided by the pieces in which it came.
    wait_until(lambda: 200_000 <= of_class("input") <= all_three - 100_000, "a complete line to be let go")
    for connection in (line, frames, request):
        connection.close()
    wait_until(lambda: of_class("input") == 0, "all of it to be let go")

    slow = slow_reader(server, 100)
    wait_until(lambda: of_class("send_queues") > 1_000_000, "what waits to be counted")
    slow.raw.close()
    wait_until(lambda: of_class("send_queues") == 0, "it to be let go")


KEYS = {"auth__api_keys": '[{ name = "ci", key = "one key" }, { name = "root", key = "another", admin = true }]'}
OF_ADMIN, OF_NO_ADMIN, OF_NOBODY, PROXIED = "X-API-Key: another", "X-API-Key: one key", "X-API-Key: none", "X-Forwarded-For: 10.0.0.1"


@pytest.mark.parametrize(("access", "statuses"), [
    ("all", [200, 200, 200, 200, 200]), ("local", [200, 401, 200, 403, 401]), ("admin", [401, 401, 200, 403, 401]), ("off", [404] * 5)])
def test_who_may_read_them_is_decided_by_a_key(start_server, access, statuses):
    server = start_server(web__metrics=access, **KEYS)

    def asked(header):
        return server.http(f"GET /metrics HTTP/1.1\r\nHost: localhost\r\n{header}\r\nConnection: close\r\n\r\n".encode())

    answers = [asked(header) for header in ("Accept: */*", PROXIED, OF_ADMIN, OF_NO_ADMIN, OF_NOBODY)]
    assert [answer.status for answer in answers] == statuses
    assert all((b"starling_turns_total" in answer.body) == (answer.status == 200) for answer in answers)


def test_many_ask_at_once_on_one_connection(start_server):
    server = start_server()
    client = server.connect()
    request = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n"
    client.send(request * 20 + b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n" + request.replace(b"GET", b"HEAD"))
    for _ in range(20):
        response = client.response()
        # More may wait than there is place for: then that is said.
        assert response.status in (200, 503)
        assert response.status == 503 or b"starling_turns_total" in response.body
    assert client.response().body == b"OK", "answers come in order"
    head = client.response(has_body=False)
    assert head.status == 200 and int(head.headers["content-length"]) > 1000
    refused = server.http(b"POST /metrics HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    assert refused.status == 405 and refused.headers["allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize("file", ["packaging/grafana/starling.json", "packaging/prometheus/alerts.yml", "docs/metrics.md"])
def test_what_is_asked_for_elsewhere_exists(start_server, file):
    text = (ROOT / file).read_text()
    if file.endswith(".json"):
        board = json.loads(text)
        text = "\n".join(target["expr"] for panel in board["panels"] for target in panel.get("targets", []))
    names = set(re.findall(r"\b(?:starling|http|process)_[a-z0-9_]+", text)) - {"http_requests", "starling_core_"}
    assert len(names) > 5
    _, families = scrape(start_server())
    known = {sample.name for family in families.values() for sample in family.samples}
    known |= {name for family in families.values() for name in (family.name, f"{family.name}_total")}
    # Told by the nodes of a cluster alone: test_cluster.py looks at it.
    known.add("starling_backplane_up")
    assert names <= known, names - known
