"""The OpenAPI document, against what the server does: schemathesis makes requests of it, right ones and wrong ones, and checks every
answer. The seed is fixed and so is the number of examples, so that a run is as the one before."""

import json
import pathlib
import subprocess
import sys
from collections import defaultdict

import openapi_spec_validator
import pytest
import requests
import schemathesis
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from helpers import environment, wait_until
from test_publish import KEYS
from tokens import SETTINGS, token

HERE = pathlib.Path(__file__).parent
FILE = HERE.parents[1] / "src/web/openapi.json"
DOCUMENT = json.loads(FILE.read_text())
WEBSOCKETS = ["/ws", "/echo", "/dashboard/live"]
WITHOUT_END = [*WEBSOCKETS, "/api/rooms/{room}/stream"]
ADMIN_KEY = 'apiKey = { api_key = "another" }'

CONFIG = """
seed = 1
continue-on-failure = true
hooks = "openapi_hooks"
# How fast examples are made is a matter of the machine.
suppress-health-check = ["too_slow"]

[reports.junit]
enabled = false

[generation]
database = "none"
max-examples = EXAMPLES

[checks]
# Without 5xx, which is taken for a rejection otherwise, and with 413: what is too long is told so.
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 409, 413, 429]
# Without 5xx and the statuses that are not documented.
positive_data_acceptance.expected-statuses = ["2xx", 401, 403, 404, 409, 429]

[[operations]]
# They have tests of their own: the client that schemathesis has goes on with HTTP after a 101, and so does the next request; and it
# waits for the end of an event stream.
include-path = WITHOUT_END
enabled = false

[auth]
# Whoever is nobody is not to register.
auto-signup = false
"""

# What is done too fast is refused before anybody looks at who does it.
WITHOUT_AUTH_CHECK = ["--exclude-checks", "ignored_auth"]


# Thousands of requests each.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def explore(tmp_path):
    """Runs schemathesis, which must find nothing, and returns the statuses that each operation was answered with."""

    def explore(server, auth="", examples=10, flags=()):
        strict = tmp_path / "openapi.json"
        strict.write_text(json.dumps(strictly(DOCUMENT)))
        config = tmp_path / "schemathesis.toml"
        text = CONFIG.replace("EXAMPLES", str(examples)).replace("WITHOUT_END", json.dumps(WITHOUT_END))
        config.write_text(text + (f"[auth.openapi]\n{auth}\n" if auth else ""))
        answers = tmp_path / "answers"
        command = [pathlib.Path(sys.executable).with_name("st"), "--config-file", config, "run", strict, "--no-color", *flags,
                   "--url", server.url("", "http")]
        variables = {"PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1", "OPENAPI_ANSWERS": str(answers)}
        run = subprocess.run(command, cwd=tmp_path, env=environment() | variables, stdin=subprocess.DEVNULL, capture_output=True, timeout=80)
        assert run.returncode == 0, run.stdout.decode()
        statuses = defaultdict(set)
        for line in answers.read_text().splitlines():
            method, path, status = line.split(" ")
            statuses[f"{method} {path}"].add(int(status))
        return statuses

    return explore


def strictly(document):
    """The document with nothing allowed in an answer that it does not name. A client must take more, since a later server may say more."""
    document = json.loads(json.dumps(document))
    responses = [*document["components"]["responses"].values(), document["paths"]["/api/broadcast"]["post"]["responses"]["200"]]
    objects = [content["schema"] for response in responses for content in response.get("content", {}).values()]
    for schema in [*objects, *document["components"]["schemas"].values()]:
        if "properties" in schema:
            schema["additionalProperties"] = False
    return document


def operations():
    for path, item in DOCUMENT["paths"].items():
        if reference := item.get("$ref"):
            item = DOCUMENT["components"]["pathItems"][reference.rsplit("/", 1)[1]]
        for method in item.keys() - {"parameters"}:
            yield path, f"{method.upper()} {path}", item[method]


def fill(server):
    """So that there is something to read, and somebody to put out."""
    alice = server.ws(None).enter(None, "lobby", "den", token=token("alice"))
    alice.say("lobby", "one", "two")
    return alice, server.ws(None).enter(None, "den", token=token("bob"))


# The document itself.


def test_the_document_is_valid():
    openapi_spec_validator.validate(DOCUMENT)


def test_the_document_is_served_as_it_is(server):
    response = server.get("/openapi.json")
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    assert response.body == FILE.read_bytes()


# What is answered.


def test_an_admin_with_a_key_and_a_server_in_memory(start_server, explore):
    server = start_server(**SETTINGS, **KEYS, store__kind="memory")
    fill(server)
    statuses = explore(server, ADMIN_KEY)
    for path, operation, _ in operations():
        if path in ("/api/register", "/api/login"):
            assert 404 in statuses[operation] and 200 not in statuses[operation], (operation, statuses)
        elif path not in WITHOUT_END:
            assert statuses[operation] & {200, 204}, (operation, statuses)


def test_an_admin_with_a_token_and_a_server_with_accounts(start_server, explore):
    settings = {"rate__registrations_per_hour": 0, "rate__logins_per_minute": 0, "auth__guests": "false"}
    server = start_server(**SETTINGS, **settings, store__kind="sqlite")
    fill(server)
    statuses = explore(server, f'token = {{ bearer = "{token("ops", admin=True)}" }}')
    for path, operation, _ in operations():
        assert path in WITHOUT_END or statuses[operation] & {200, 204}, (operation, statuses)


def test_nobody_and_a_server_that_wants_to_know(start_server, explore):
    server = start_server(**SETTINGS, **KEYS, auth__guests="false", web__metrics="admin")
    fill(server)
    statuses = explore(server)
    for path, operation, described in operations():
        if described["security"] and path not in WITHOUT_END:
            assert 401 in statuses[operation] and not statuses[operation] & {200, 204}, (operation, statuses)


def test_the_default_rates(start_server, explore):
    server = start_server(**SETTINGS, **KEYS, rate__commands_per_second=100, rate__burst=200, store__kind="sqlite")
    fill(server)
    # More than the 20 registrations that an address has an hour; files have no rates.
    statuses = explore(server, ADMIN_KEY, 30, [*WITHOUT_AUTH_CHECK, "--include-path-regex", "^/api/"])
    for operation in ("POST /api/register", "POST /api/login"):
        assert 429 in statuses[operation], (operation, statuses)


def test_rates_that_are_soon_reached(start_server, explore):
    server = start_server(**SETTINGS, **KEYS, rate__address_commands_per_second=1, rate__address_burst=6, store__kind="sqlite", web__metrics="admin")
    statuses = explore(server, ADMIN_KEY, 5, WITHOUT_AUTH_CHECK)
    for path, operation, described in operations():
        if path not in WITHOUT_END:
            assert (429 in statuses[operation]) == ("429" in described["responses"]), (operation, statuses)


# What schemathesis does not ask by itself.


CONFORMANCE = [status_code_conformance, content_type_conformance, response_headers_conformance, response_schema_conformance]
HANDSHAKE = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}


@pytest.fixture(scope="module")
def described():
    return schemathesis.openapi.from_dict(strictly(DOCUMENT))


def conforms(described, method, path, response, status):
    """An answer to raw bytes is what the document says of its status."""
    assert response.status == status, response
    case = described[path][method].Case(path_parameters={"room": "den", "nickname": "alice"})
    request = requests.Request(method, "http://test" + path).prepare()
    headers = {name: [value] for name, value in response.headers.items()}
    response = Response(status_code=status, headers=headers, content=response.body, request=request, elapsed=0, verify=False)
    case.validate_response(response, checks=CONFORMANCE)


def raw(method, path, *lines, body=b"", version="1.1", **headers):
    target = path.format(room="den", nickname="alice")
    fields = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: localhost", *lines, *fields, "", ""]).encode() + body


FAULTS = [
    (400, "Accept : *"),
    (413, "Content-Length: 262145"),
    (417, "Expect: the worst"),
    (431, "X-Long: " + "x" * 33_000),
    (501, "Transfer-Encoding: gzip"),
]


def test_every_path_says_what_is_wrong_with_http(server, described):
    for path, operation, _ in operations():
        method = operation.split(" ")[0]
        for status, line in FAULTS:
            conforms(described, method, path, server.http(raw(method, path, line)), status)
        conforms(described, method, path, server.http(raw(method, path, version="2.0")), 505)
        conforms(described, method, path, server.http(raw(method, path + "?" + "x" * 8192)), 414)


def test_every_path_says_that_it_takes_another_method(server, described):
    for path, operation, _ in operations():
        method = operation.split(" ")[0]
        for other in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE"} - {method}:
            conforms(described, method, path, server.http(raw(other, path)), 405)


def test_every_path_says_that_nothing_came(start_server, described):
    server = start_server(limits__http_head_ms=300)
    clients = []
    for path, operation, _ in operations():
        method = operation.split(" ")[0]
        client = server.connect()
        client.send(raw(method, path)[:-2])
        clients.append((method, path, client))
    for method, path, client in clients:
        conforms(described, method, path, client.response(), 408)


def test_every_path_says_that_the_server_is_full(start_server, described):
    server = start_server(limits__connections_per_address=1)
    server.json_line("alice")
    for path, operation, _ in operations():
        method = operation.split(" ")[0]
        client = server.connect()
        conforms(described, method, path, client.response(), 503)


def test_a_body_has_its_length_and_no_coding(start_server, described):
    server = start_server(**KEYS, store__kind="sqlite")
    for path, operation, described_here in operations():
        if "requestBody" in described_here:
            conforms(described, "POST", path, server.http(raw("POST", path)), 411)
            coded = raw("POST", path, "Content-Encoding: gzip", "Content-Length: 2", body=b"{}")
            conforms(described, "POST", path, server.http(coded), 415)


@pytest.mark.parametrize("path", WEBSOCKETS)
def test_a_handshake(server, described, path):
    lines = {"Sec-WebSocket-Protocol": "x, starling.proto.v1"} if path == "/ws" else {}
    response = server.http(raw("GET", path, **HANDSHAKE, **lines), has_body=False)
    conforms(described, "GET", path, response, 101)
    assert response.headers.get("sec-websocket-protocol") == ("starling.proto.v1" if lines else None)


@pytest.mark.parametrize("path", WEBSOCKETS)
@pytest.mark.parametrize("status, headers", [
    (426, {"Upgrade": "h2c"}),
    (426, {"Sec-WebSocket-Version": "12"}),
    (400, {"Connection": "keep-alive"}),
    (400, {"Sec-WebSocket-Key": "short"}),
    (403, {"Origin": "http://elsewhere"}),
])
def test_a_handshake_that_is_none(server, described, path, status, headers):
    conforms(described, "GET", path, server.http(raw("GET", path, **(HANDSHAKE | headers))), status)
    # What stands in the document as required is.
    for name in headers.keys() & HANDSHAKE.keys():
        without = {key: value for key, value in HANDSHAKE.items() if key != name}
        conforms(described, "GET", path, server.http(raw("GET", path, **without)), status)


@pytest.mark.parametrize("status, query", [
    (101, "nickname=bob&room=den"), (101, "token={token}&other=1"), (400, "room=den"), (400, "nickname=no+name"), (401, "token=x"),
    (409, "nickname=alice"),
])
def test_a_hello_in_a_query(start_server, described, status, query):
    server = start_server(**SETTINGS)
    server.ws("alice")
    response = server.http(raw("GET", "/ws?" + query.replace("{token}", token("carol")), **HANDSHAKE), has_body=status != 101)
    conforms(described, "GET", "/ws", response, status)


@pytest.mark.parametrize("status, query, headers", [
    (200, "", {}), (200, "?last_event_id=x", {}), (200, "", {"Last-Event-ID": "x"}), (200, "?token={token}", {}), (401, "?token=x", {}),
    (400, "?other=1", {}), (403, "", {"Origin": "http://elsewhere"}),
])
def test_an_event_stream(start_server, described, status, query, headers):
    server = start_server(**SETTINGS)
    request = raw("GET", "/api/rooms/den/stream" + query.replace("{token}", token("carol")), **headers)
    conforms(described, "GET", "/api/rooms/{room}/stream", server.http(request, has_body=status != 200), status)


def test_an_echo_that_is_off(start_server, described):
    conforms(described, "GET", "/echo", start_server(web__echo="false").http(raw("GET", "/echo", **HANDSHAKE)), 404)


def test_a_server_that_drains(start_server, described):
    server = start_server(drain__delay_ms=1500)
    server.terminate()
    response = wait_until(lambda: (response := server.get("/ready")).status == 503 and response, "/ready to say 503")
    conforms(described, "GET", "/ready", response, 503)
    assert response.headers["content-type"].startswith("text/plain")
