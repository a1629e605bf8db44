"""Server-Sent Events: rooms heard by curl, by a client library, by a browser's EventSource, and by sockets that misbehave."""

import json
import re
import subprocess
import threading
import time

import httpx
import httpx_sse
import pytest

from helpers import Deadline, RawClient, RawWebSocket, cores, environment, wait_until
from test_browser import chromium  # noqa: F401  (a fixture)
from test_publish import KEYS, WITH_KEY, bearer, post, refused
from tokens import SETTINGS, enter, token


def request(room, *headers, query="", version="1.1", method="GET"):
    lines = [f"{method} /api/rooms/{room}/stream{query} HTTP/{version}", "Host: test", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


class Stream:
    """An event stream, read as the HTML standard says."""

    def __init__(self, server, room, *headers, query="", version="1.1", last=None, **options):
        self.raw = server.keep(RawClient(server.web, **options))
        self.raw.send(request(room, *headers, *([f"Last-Event-ID: {last}"] if last else []), query=query, version=version))
        self.answer = self.raw.response(has_body=False)
        assert self.answer.status == 200, self.answer
        assert self.answer.headers["content-type"] == "text/event-stream"
        self.last = last
        self.retry = None
        self.comments = []
        self._block(Deadline())  # it begins with the time to wait

    def _block(self, deadline):
        """Reads up to an empty line, and returns the event that is dispatched there, if one is."""
        event, data = "message", []
        for line in self.raw.until(b"\n\n", deadline).decode().split("\n")[:-2]:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            match name:
                case "":
                    if value:  # an empty one says that the server is there, at any time
                        self.comments.append(value)
                case "event":
                    event = value
                case "data":
                    data.append(value)
                case "id":
                    self.last = value
                case "retry":
                    self.retry = int(value)
        return (event, json.loads("\n".join(data))) if data else None

    def next(self, deadline=None):
        """The next event and its data; comments are left out."""
        deadline = deadline or Deadline()
        while (event := self._block(deadline)) is None:
            pass
        return event

    def message(self, deadline=None):
        event, data = self.next(deadline)
        assert event == "message" and data["type"] == "message", (event, data)
        assert self.last.rpartition(":")[2] == str(data["offset"]), (self.last, data)
        return data

    def offsets(self, count):
        deadline = Deadline(60)
        return [self.message(deadline)["offset"] for _ in range(count)]

    def rest(self):
        """The events up to the end of the stream."""
        events = []
        deadline = Deadline()
        try:
            while True:
                if event := self._block(deadline):
                    events.append(event)
        except EOFError:
            return events

    @property
    def epoch(self):
        return self.last.rpartition(":")[0]


@pytest.fixture
def open_server(start_server):
    return start_server(**KEYS)


def publish(server, room, *contents):
    """Says something from no member, and returns the offsets."""
    return [json.loads(server.http(post(room, content)).body)["offset"] for content in contents]


# What is heard.


def test_a_stream_hears_what_is_said_and_nothing_else(open_server):
    stream = Stream(open_server, "den")
    headers = stream.answer.headers
    assert (headers["cache-control"], headers["x-accel-buffering"], headers["connection"]) == ("no-store", "no", "close")
    assert "content-length" not in headers and "transfer-encoding" not in headers and "x-request-id" in headers
    assert 1000 <= stream.retry < 4000 and re.fullmatch(r"[A-Za-z0-9_-]+:0", stream.last)
    alice, bob = open_server.ws("alice", "den"), open_server.ws("bob", "den")
    alice.call("state", room="den", key="topic", value="x")
    alice.send("typing", room="den")
    bob.call("leave", room="den")
    contents = ["hi", "two\nlines\r\nand\rmore\0", "\u2028 data: x\n\nid: evil:9\n\n", "{}", "👋"]
    alice.say("den", *contents)
    heard = [stream.message() for _ in contents]
    assert [message["content"] for message in heard] == contents
    for offset, message in enumerate(heard, 1):
        assert set(message) == {"type", "room", "sender", "content", "offset", "timestamp"}
        assert (message["room"], message["sender"], message["offset"]) == ("den", "alice", offset)


def test_a_listener_is_no_member(open_server):
    stream = Stream(open_server, "den")
    alice = open_server.ws("alice", "den")
    assert alice.call("members", room="den")["total"] == 1
    rooms = {room["room"]: room["members"] for room in alice.call("rooms")["rooms"]}
    assert rooms == {"den": 1}
    other = Stream(open_server, "den")
    alice.say("den", "one")
    assert stream.message() == other.message()
    assert [event["type"] for event in alice.until_told("den")] == ["message"], "nobody hears of a listener"


def test_a_room_lives_as_long_as_somebody_listens(start_server):
    server = start_server(history__count=0, **KEYS)
    stream = Stream(server, "den")
    alice = server.ws("alice", "den")
    alice.say("den", "one")
    alice.call("leave", room="den")
    again = alice.call("join", room="den")
    assert (again["epoch"], again["offset"]) == (stream.epoch, 1)
    alice.call("leave", room="den")
    stream.raw.close()
    wait_until(lambda: metric(server, "starling_event_streams") == 0, "the stream to end")
    wait_until(lambda: alice.call("rooms")["rooms"] == [], "the room to end")


def metric(server, name):
    lines = server.get("/metrics").body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}(\{{| )", line))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_old_clients_and_new_ones_read_to_the_end(open_server, version):
    stream = Stream(open_server, "den", version=version)
    publish(open_server, "den", "one")
    assert stream.message()["content"] == "one"


def test_a_fast_publisher_is_heard_in_order_on_all_cores(start_server):
    server = start_server(**KEYS)
    count = 3000
    streams = [Stream(server, "busy") for _ in range(2 * cores() + 1)]
    sender = server.ws("sender", "busy")
    for number in range(1, count + 1):
        sender.send("message", room="busy", content=f"m{number}")
    for stream in streams:
        assert stream.offsets(count) == list(range(1, count + 1))


def test_a_thousand_streams_of_one_room(start_server):
    server = start_server(**KEYS)
    streams = [Stream(server, "hall") for _ in range(1000)]
    assert metric(server, "starling_event_streams") == 1000
    publish(server, "hall", "one", "two")
    for stream in streams:
        assert stream.offsets(2) == [1, 2]
    for stream in streams[1:]:
        stream.raw.drop()
    wait_until(lambda: metric(server, "starling_event_streams") == 1, "those that are gone to be forgotten")
    publish(server, "hall", "three")
    assert streams[0].offsets(1) == [3]


def test_dashboards_count_streams(open_server):
    stream = Stream(open_server, "den")
    top = open_server.ws_at("/dashboard/live")
    assert json.loads(top.receive_text(Deadline()))["connections"]["event_streams"] == 1
    stream.raw.close()


# Coming back.


def test_what_was_missed_comes_first(open_server):
    stream = Stream(open_server, "den")
    publish(open_server, "den", *"abc")
    assert stream.offsets(3) == [1, 2, 3]
    stream.raw.close()
    publish(open_server, "den", *"de")
    again = Stream(open_server, "den", last=stream.last)
    assert again.offsets(2) == [4, 5]
    publish(open_server, "den", "f")
    assert again.offsets(1) == [6]


def test_a_client_that_has_heard_nothing_knows_its_place_too(open_server):
    publish(open_server, "den", "before")
    stream = Stream(open_server, "den")
    stream.raw.close()
    publish(open_server, "den", "meanwhile")
    again = Stream(open_server, "den", last=stream.last)
    assert again.message()["content"] == "meanwhile"


def test_resuming_in_the_middle_of_a_burst_is_exact(start_server):
    server = start_server(**KEYS, history__count=100_000, history__bytes=1 << 30, limits__send_queue_bytes=65_536)
    count = 4000
    sender = server.ws("sender", "busy")
    padding = "x" * 200

    def speak():
        for number in range(1, count + 1):
            sender.send("message", room="busy", content=f"{number} {padding}")

    first = Stream(server, "busy")
    speaker = threading.Thread(target=speak)
    speaker.start()
    heard, resumes = [], 0
    stream = first
    deadline = Deadline(60)
    while len(heard) < count:
        for _ in range(min(250, count - len(heard))):
            try:
                heard.append(stream.message(deadline)["offset"])
            except EOFError:
                break  # it was too slow for its small queue: it comes back as any other
        stream.raw.close()
        stream = Stream(server, "busy", last=stream.last)
        resumes += 1
    speaker.join()
    assert heard == list(range(1, count + 1)) and resumes >= count // 250


def test_much_that_was_missed_comes_in_pages(start_server):
    server = start_server(**KEYS, history__count=100_000, history__bytes=1 << 30, limits__replay_page_bytes=4096)
    stream = Stream(server, "den")
    alice = server.ws("alice", "den")
    for number in range(2000):
        alice.send("message", room="den", content="x" * 100)
    alice.until_told("den")
    again = Stream(server, "den", last=stream.last)
    alice.say("den", "live")
    assert again.offsets(2001) == list(range(1, 2002))


@pytest.mark.parametrize("last", ["nonsense", "x:1", ":", "a:b:c", "%", "1", "x" * 2000, "e:18446744073709551616"])
def test_what_is_no_place_begins_anew(open_server, last):
    first = Stream(open_server, "den")
    publish(open_server, "den", "one")
    assert first.offsets(1) == [1]
    stream = Stream(open_server, "den", last=last)
    event, data = stream.next()
    assert event == "reset" and data == {"epoch": stream.epoch, "offset": 1} and stream.last == f"{data['epoch']}:1"
    publish(open_server, "den", "two")
    assert stream.offsets(1) == [2]


def test_what_is_forgotten_or_ahead_begins_anew(start_server):
    server = start_server(**KEYS, history__count=2)
    first = Stream(server, "den")
    publish(server, "den", *"abcd")
    for place, is_reset in [(0, True), (1, True), (2, False), (4, False), (5, True)]:
        stream = Stream(server, "den", last=f"{first.epoch}:{place}")
        if is_reset:
            assert stream.next() == ("reset", {"epoch": first.epoch, "offset": 4})
        else:
            assert stream.offsets(4 - place) == list(range(place + 1, 5))
        assert stream.last == f"{first.epoch}:4"
        stream.raw.close()
    assert metric(server, "starling_event_stream_resets_total") == 3
    assert metric(server, "starling_event_streams_recovered_total") == 2


def test_a_page_may_say_its_place_in_the_query(open_server):
    stream = Stream(open_server, "den")
    publish(open_server, "den", *"ab")
    assert Stream(open_server, "den", query=f"?last_event_id={stream.last}").offsets(2) == [1, 2]
    # The field of the head is newer.
    assert Stream(open_server, "den", query=f"?last_event_id={stream.last}", last=f"{stream.epoch}:1").offsets(1) == [2]
    refused(open_server.http(request("den", query="?since=1")), 400, "bad_request")
    refused(open_server.http(request("den", query="?token=a&token=b")), 400, "bad_request")


def test_a_restart_loses_nothing(restart, disk):
    server = disk(**KEYS)
    stream = Stream(server, "den")
    alice = server.ws("alice", "den")
    for content in "abc":
        assert alice.call("message", room="den", content=content, ack="synced")["level"] == "synced"
    assert stream.offsets(1) == [1]
    server = restart(server, **KEYS)
    publish(server, "den", "d")
    again = Stream(server, "den", last=stream.last)
    assert again.offsets(3) == [2, 3, 4]


def test_a_restart_without_a_store_is_told(start_server):
    first = start_server(**KEYS, store__kind="memory")
    stream = Stream(first, "den")
    publish(first, "den", "a")
    assert stream.offsets(1) == [1]
    first.close()
    second = start_server(**KEYS, store__kind="memory")
    again = Stream(second, "den", last=stream.last)
    event, data = again.next()
    assert event == "reset" and data["offset"] == 0 and data["epoch"] != stream.epoch


# The end.


def test_a_slow_reader_is_closed_and_comes_back(start_server):
    server = start_server(**KEYS, limits__send_queue_bytes=131_072, history__count=10_000, history__bytes=1 << 30)
    slow = Stream(server, "busy", receive_buffer_bytes=4096)
    fast = Stream(server, "busy")
    sender = server.ws("sender", "busy")
    content = "x" * 32_000
    sent = 0
    while metric(server, "starling_slow_consumers_total") == 0:
        sent += 1
        assert sent < 600, "it is not found out"
        sender.call("message", room="busy", content=content)
        assert fast.message()["offset"] == sent
    heard = [data["offset"] for _, data in slow.rest()]
    assert heard == list(range(1, len(heard) + 1)) and len(heard) < sent, "cut between events"
    assert slow.comments[-1] == "4201 slow_consumer"
    again = Stream(server, "busy", last=slow.last)
    assert again.offsets(sent - len(heard)) == list(range(len(heard) + 1, sent + 1))


def test_a_drain_ends_streams_and_spreads_them(start_server):
    server = start_server(**KEYS, drain__spread_ms=1000, drain__timeout_ms=5000)
    streams = [Stream(server, "den") for _ in range(10)]
    publish(server, "den", "last")
    server.terminate()
    for stream in streams:
        assert [data["content"] for _, data in stream.rest()] == ["last"]
        assert 0 <= stream.retry < 1000 and stream.comments == ["4300 draining"]
    assert len({stream.retry for stream in streams}) > 1, "all come back at once"
    assert server.exit_code() == 0


def test_who_comes_while_the_server_drains_is_told_when_to_come_again(start_server):
    server = start_server(drain__spread_ms=1000, drain__timeout_ms=5000)
    staying = RawWebSocket(server)  # her client does not end its side, so that the server stays for her
    staying.send("hello", nickname="alice")
    staying.expect("welcome")
    server.terminate()
    answered = wait_until(lambda: attempt(server), "the server to tell clients to go")
    assert b" 200 " in answered.split(b"\r\n")[0] and b"retry: " in answered and b": 4300 draining\n\n" in answered
    assert server.exit_code() == 0


def attempt(server):
    """All of the answer to a request for a stream, once that has an end."""
    client = RawClient(server.web)
    try:
        client.send(request("den"))
        return client.rest(Deadline(0.5))
    except (TimeoutError, ConnectionError):
        return None
    finally:
        client.close()


def test_who_ends_its_side_has_ended_the_stream(open_server):
    client = open_server.connect()
    publish(open_server, "den", "one")
    client.send(request("den", "Last-Event-ID: x:0"))
    client.finish()
    answer = client.rest()
    assert answer.startswith(b"HTTP/1.1 200 ") and b"event: reset\n" in answer and answer.endswith(b"\n\n")
    assert metric(open_server, "starling_event_streams") == 0


def test_what_a_client_says_behind_its_request_is_left_unread(open_server):
    stream = Stream(open_server, "den")
    stream.raw.send(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n" * 100)
    publish(open_server, "den", "one")
    assert stream.message()["content"] == "one"
    both = open_server.connect()
    both.send(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n" + request("den") + request("other"))
    assert both.response().body == b"OK"
    assert both.response(has_body=False).headers["content-type"] == "text/event-stream"
    both.until(b"\n\n")
    publish(open_server, "den", "two")
    assert b'"content":"two"' in both.until(b"\n\n")


# Who may listen.


def test_listening_is_as_open_as_hello(start_server):
    closed = start_server(**SETTINGS, **KEYS, auth__guests="false")
    refused(closed.http(request("den")), 401, "unauthenticated")
    refused(closed.http(request("den", "Authorization: Bearer x.y.z")), 401, "bad_token")
    refused(closed.http(request("den", query="?token=x.y.z")), 401, "bad_token")
    streams = [Stream(closed, "den", bearer("bob")), Stream(closed, "den", WITH_KEY), Stream(closed, "den", query=f"?token={token('bob')}")]
    publish(closed, "den", "one")
    assert all(stream.message()["content"] == "one" for stream in streams)


def test_a_token_holds_for_its_rooms(start_server):
    server = start_server(**SETTINGS, **KEYS)
    refused(server.http(request("den", bearer("bob", rooms=["lobby", "team-*"]))), 403, "forbidden")
    Stream(server, "team-a", bearer("bob", rooms=["lobby", "team-*"]))
    refused(server.http(request("%ff")), 400, "bad_name")
    refused(server.http(request("x" * 65)), 400, "bad_name")


def test_a_stream_ends_with_its_token(start_server):
    server = start_server(**SETTINGS, **KEYS)
    stream = Stream(server, "den", bearer("bob", exp=int(time.time()) + 4))
    assert stream.rest() == [] and stream.comments == ["4205 expired_token"]


def test_who_is_banned_listens_no_longer(start_server):
    server = start_server(**SETTINGS, **KEYS)
    host = enter(server.ws(), "host", "den")
    bob, guest = Stream(server, "den", bearer("Bob")), Stream(server, "den")
    elsewhere = Stream(server, "other", bearer("bob"))
    host.say("den", "one")
    host.call("ban", room="den", target="bob")
    host.say("den", "two")
    assert [data["content"] for _, data in bob.rest()] == ["one"] and bob.comments == ["4102 banned"]
    assert guest.offsets(2) == [1, 2]
    refused(server.http(request("den", bearer("bob"))), 403, "banned")
    host.call("unban", room="den", target="bob")
    assert Stream(server, "den", bearer("bob"), last=bob.last).offsets(1) == [2]
    publish(server, "other", "x")
    assert elsewhere.message()["content"] == "x"


def test_who_is_put_out_listens_no_longer(start_server):
    server = start_server(**SETTINGS, **KEYS)
    enter(server.ws(), "bob", "den")
    streams = [Stream(server, room, bearer("bob")) for room in ["den", "other"]]
    delete = f"DELETE /api/sessions/bob HTTP/1.1\r\nHost: test\r\n{bearer('ops', admin=True)}\r\n\r\n".encode()
    assert server.http(delete).status == 204
    for stream in streams:
        assert stream.rest() == [] and stream.comments == ["4107 kicked"]


def test_ending_streams_alone_is_having_ended_something(start_server):
    server = start_server(**SETTINGS, **KEYS)
    delete = f"DELETE /api/sessions/bob HTTP/1.1\r\nHost: test\r\n{bearer('ops', admin=True)}\r\n\r\n".encode()
    refused(server.http(delete), 404, "no_such_user")
    streams = [Stream(server, room, bearer("Bob")) for room in ["den", "other", "third"]]
    others = Stream(server, "den", bearer("carol"))
    assert server.http(delete).status == 204
    for stream in streams:
        assert stream.rest() == [] and stream.comments == ["4107 kicked"]
    refused(server.http(delete), 404, "no_such_user")
    publish(server, "den", "one")
    assert others.message()["content"] == "one"


def test_other_pages_may_not_listen(start_server):
    server = start_server(web__allowed_origins='["https://friend.example"]')
    refused(server.http(request("den", "Origin: https://evil.example")), 403, "forbidden")
    refused(server.http(request("den", "Origin: null")), 403, "forbidden")
    headers = Stream(server, "den", "Origin: https://friend.example").answer.headers
    assert (headers["access-control-allow-origin"], headers["vary"]) == ("https://friend.example", "Origin")
    assert "access-control-allow-origin" not in Stream(server, "den").answer.headers


@pytest.mark.parametrize("method", ["HEAD", "POST", "DELETE"])
def test_only_get_opens_a_stream(open_server, method):
    response = open_server.http(request("den", "Content-Length: 0", "Connection: close", method=method), has_body=False)
    assert response.status == 405 and response.headers["allow"] == "GET, OPTIONS"


# Clients that others wrote.


def test_curl_hears_a_room(open_server):
    curl = subprocess.Popen(["curl", "-sN", open_server.url("/api/rooms/den/stream", "http")], env=environment(), stdout=subprocess.PIPE)
    try:
        lines = iter(curl.stdout.readline, b"")
        assert next(lines).startswith(b"retry: ") and next(lines).startswith(b"id: ") and next(lines) == b"\n"
        publish(open_server, "den", "hi there")
        assert next(lines) == b"event: message\n"
        assert re.fullmatch(rb"id: [0-9a-f]{16}:1\n", next(lines))
        assert json.loads(next(lines).removeprefix(b"data: "))["content"] == "hi there"
        assert next(lines) == b"\n"
        open_server.terminate()
        assert curl.wait(15) == 0, "it takes the end for one"
    finally:
        curl.kill()
        curl.wait()
        curl.stdout.close()


def test_a_library_hears_a_room(open_server):
    url = open_server.url("/api/rooms/den/stream", "http")
    with httpx.Client(timeout=15) as client, httpx_sse.connect_sse(client, "GET", url) as source:
        events = source.iter_sse()
        begin = next(events)
        assert begin.data == "" and begin.retry >= 1000 and begin.id.endswith(":0")
        publish(open_server, "den", "one\ntwo\r\n", "three")
        heard = [next(events), next(events)]
    assert [(event.event, event.json()["content"]) for event in heard] == [("message", "one\ntwo\r\n"), ("message", "three")]
    publish(open_server, "den", "four")
    with httpx.Client(timeout=15) as client:
        with httpx_sse.connect_sse(client, "GET", url, headers={"Last-Event-ID": heard[0].id}) as source:
            events = (event for event in source.iter_sse() if event.data)
            assert [next(events).json()["content"] for _ in range(2)] == ["three", "four"]


LISTEN = """
window.heard = [];
window.source = new EventSource('/api/rooms/den/stream');
for (const name of ['message', 'reset']) {
    window.source.addEventListener(name, (event) => window.heard.push([name, event.lastEventId, JSON.parse(event.data)]));
}
"""


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
def test_a_browser_comes_back_by_itself(chromium, start_server, tmp_path, kind):  # noqa: F811
    def start(**more):
        return start_server(**KEYS, store__kind=kind, data_dir=str(tmp_path / kind), **more)

    server = start()
    chromium.get(server.url("/health", "http"))
    chromium.execute_script(LISTEN)
    wait_until(lambda: chromium.execute_script("return window.source.readyState") == 1, "the stream to be open")
    publish(server, "den", "a", "b")

    def heard():
        return chromium.execute_script("return window.heard")

    wait_until(lambda: len(heard()) == 2, "two messages")
    epoch = heard()[1][1].partition(":")[0]
    port = server.web[1]
    server.close()
    server = start(_web=f"127.0.0.1:{port}")
    publish(server, "den", "c", "d")
    wait_until(lambda: heard()[-1][2].get("content") == "d" or heard()[-1][0] == "reset", "the browser to come back")
    publish(server, "den", "e")
    wait_until(lambda: heard()[-1][2].get("content") == "e", "it to go on")
    names = [name if name == "reset" else data["content"] for name, _, data in heard()]
    if kind == "sqlite":
        assert names == ["a", "b", "c", "d", "e"]
        assert [id for _, id, _ in heard()] == [f"{epoch}:{offset}" for offset in range(1, 6)]
    else:
        assert names[:3] == ["a", "b", "reset"]
        place = heard()[2][2]
        assert place["epoch"] != epoch and names[3:] == list("cde")[place["offset"]:], "all that follows the place that it was told"
