"""The latency ledger: messages that are followed, hop by hop; and the stall log."""

import os
import re
import signal
import threading
import time

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics

from helpers import Deadline, cores, wait_until
from test_metrics import scrape, value
from test_publish import KEYS
from test_sse import Stream, publish

HOPS = ["read_to_parsed", "parsed_to_sequenced", "sequenced_to_received", "received_to_written"]
NAME = "starling_message_latency_seconds"

pytestmark = pytest.mark.skipif("STARLING_TEST_REDIS" in os.environ, reason="in a cluster no message is followed")


def counts(families):
    return {hop: value(families, f"{NAME}_count", hop=hop) for hop in [*HOPS, "total"]}


def sums(families):
    return {hop: value(families, f"{NAME}_sum", hop=hop) for hop in [*HOPS, "total"]}


def until_counted(server, count):
    """Scrapes until so many messages have got to the end of their way."""

    def counted():
        _, families = scrape(server)
        return families if value(families, f"{NAME}_count", hop="total") == count else None

    return wait_until(counted, f"{count} messages to be followed to their ends")


def talk(server, members, rooms, messages):
    """Members on all cores, each of which speaks in each room so often, several at once under way."""
    clients = [server.json_line(f"member{n}", *rooms) for n in range(members)]
    for number, client in enumerate(clients):
        for room in rooms:
            for index in range(messages):
                client.send("message", room=room, content=f"{number} {index}")
    heard = members * len(rooms) * messages

    def hear(client, results):
        deadline = Deadline(60)
        for _ in range(heard):
            client.expect("message", deadline)
        results.append(client.nickname)

    results = []
    threads = [threading.Thread(target=hear, args=(client, results)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == members, "everybody hears everything"
    return heard


def test_every_hop_of_every_message_is_counted(start_server):
    server = start_server(observe__latency_sample_every=1)
    said = talk(server, members=8, rooms=["one", "two", "three", "four"], messages=60)
    assert said == 1920
    families = until_counted(server, said)
    assert counts(families) == dict.fromkeys([*HOPS, "total"], said)
    took = sums(families)
    # Whole nanoseconds, told exactly: what is left is how the parser's numbers are added.
    assert sum(took[hop] for hop in HOPS) == pytest.approx(took["total"], abs=1e-9 * said)
    assert 0 < took["total"] < 60 * said
    assert value(families, "starling_latency_samples_total") == said
    assert value(families, "starling_latency_unfollowed_total") == value(families, "starling_latency_lost_total") == 0
    for hop in [*HOPS, "total"]:
        assert took[hop] > 0, f"{hop} takes no time at all"
        for core in map(str, range(cores())):
            buckets = [sample for sample in families[NAME].samples
                       if sample.name == f"{NAME}_bucket" and sample.labels["hop"] == hop and sample.labels["core"] == core]
            assert len(buckets) == 23 and buckets[-1].labels["le"] == "+Inf"
            values = [bucket.value for bucket in buckets]
            assert values == sorted(values)
            assert values[-1] == value(families, f"{NAME}_count", hop=hop, core=core)
    if cores() > 1:
        on_cores = [value(families, f"{NAME}_count", hop="total", core=str(core)) for core in range(cores())]
        assert sum(on_cores) == said


def test_open_metrics_has_them_too(start_server):
    server = start_server(observe__latency_sample_every=1)
    alice = server.ws("alice", "den")
    alice.say("den", "hello")
    until_counted(server, 1)
    _, families = scrape(server, "application/openmetrics-text; version=1.0.0", parse_open_metrics)
    assert counts(families) == dict.fromkeys([*HOPS, "total"], 1)


def test_messages_by_http_are_followed(start_server):
    server = start_server(observe__latency_sample_every=1, auth__api_keys='[{ name = "ci", key = "a long random text" }]')
    bob = server.json_line("bob", "den")
    body = b'{"content":"build 42"}'
    request = (b"POST /api/rooms/den/messages HTTP/1.1\r\nHost: test\r\nX-API-Key: a long random text\r\n"
               b"Content-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    assert server.http(request).status == 200
    bob.expect("message")
    assert counts(until_counted(server, 1)) == dict.fromkeys([*HOPS, "total"], 1)


def test_event_streams_are_followed(start_server):
    server = start_server(observe__latency_sample_every=1, **KEYS)
    streams = [Stream(server, "den") for _ in range(2 * cores() + 1)]
    publish(server, "den", *map(str, range(20)))
    assert all(stream.offsets(20) == list(range(1, 21)) for stream in streams)
    families = until_counted(server, 20)
    assert counts(families) == dict.fromkeys([*HOPS, "total"], 20)
    assert value(families, "starling_latency_unfollowed_total") == value(families, "starling_latency_lost_total") == 0


def test_what_is_not_followed_to_its_end_is_told(start_server):
    server = start_server(observe__latency_sample_every=1)
    alice = server.json_line("alice")
    assert alice.call("join", room="attic", echo=False)["type"] == "joined"
    alice.say("attic", "is anybody here?")

    def told():
        _, families = scrape(server)
        return families if value(families, "starling_latency_unfollowed_total") == 1 else None

    families = wait_until(told, "the end of its way")
    assert value(families, "starling_latency_samples_total") == 1
    # Its sender's core took it in, and found nobody there to hear it.
    assert counts(families) == {"read_to_parsed": 1, "parsed_to_sequenced": 1, "sequenced_to_received": 1, "received_to_written": 0, "total": 0}


def test_another_number_counts_at_once_and_0_is_none(start_server, tmp_path):
    file = tmp_path / "starling.toml"
    file.write_text("[observe]\nlatency_sample_every = 0\n")
    server = start_server(_flags=["--config", str(file)])
    alice = server.json_line("alice", "den")
    alice.say("den", *map(str, range(200)))
    _, families = scrape(server)
    assert counts(families) == dict.fromkeys([*HOPS, "total"], 0)
    file.write_text("[observe]\nlatency_sample_every = 1\n")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: any("latency_sample_every" in line for line in server.log), "the file to be read again")

    def is_followed():
        alice.say("den", "and now?")
        _, families = scrape(server)
        return value(families, "starling_latency_samples_total") > 0

    wait_until(is_followed, "a message to be followed")


def test_dashboards_show_them(start_server):
    server = start_server(observe__latency_sample_every=1)
    dashboard = server.ws_at("/dashboard/live")
    alice = server.ws("alice", "den")
    alice.say("den", *map(str, range(50)))
    deadline = Deadline()

    def shown():
        snapshot = dashboard.next(deadline)
        latency = {hop["hop"]: hop for hop in snapshot["latency"]}
        assert list(latency) == [*HOPS, "total"]
        return latency if latency["total"]["count"] == 50 else None

    latency = wait_until(shown, "all of them to be shown")
    total = latency["total"]
    assert 0 < total["p50_us"] <= total["p99_us"] <= total["p999_us"]
    assert all(latency[hop]["p50_us"] <= total["p999_us"] for hop in HOPS)


STALL = (r"core (\d+): a turn took ([\d.]+) ms, ([\d.]+) ms of it step (\d+): ([a-z -]+)"
         r"(?:; commands: (\d+), the last (\w+) by conn=\d+\.\d+\.\d+)?(?:; mail from other cores: \d+)?"
         r"(?:; most fan-out: room (\S+), \d+ bytes to (\d+) members here)?(?:; (\d+) more stalls since the last that was told)?$")


def stalls(server):
    return [match for line in server.log if (match := re.search(STALL, line))]


def crowd(server, members):
    """One who speaks in a room, and many who read: on every core."""
    speaker = server.json_line("speaker")
    assert speaker.call("join", room="Plaza")["type"] == "joined"
    for n in range(members):
        member = server.connect("line")
        member.send(b'{"type":"hello","nickname":"m%d"}\n{"type":"join","room":"Plaza"}\n' % n)
        member.until(b'"type":"joined"')
    return speaker


def test_a_turn_that_takes_too_long_is_told_once_and_counted_always(start_server):
    # A message of 48 KiB to 300 members is some ten megabytes written within one turn.
    began = time.monotonic()
    server = start_server(observe__stall_ms=1, presence__exact_members=0, limits__send_queue_bytes=1 << 27)
    speaker = crowd(server, 300)

    def count():
        _, families = scrape(server)
        return value(families, "starling_stalls_total"), families

    content = "never to be told " + "x" * 49_000

    def speak():
        speaker.say("Plaza", content)
        return count()[0] >= 5

    wait_until(speak, "five stalls")
    told = wait_until(lambda: stalls(server), "the log to tell")
    assert not any("never to be told" in line for line in server.log)
    for match in told:
        core, took, of_it, step, _, _, _, room, members, _ = match.groups()
        assert float(took) >= 1 and float(of_it) <= float(took) and 3 <= int(step) <= 10
        assert int(core) < cores()
        assert room in (None, "Plaza") and (members is None or 0 < int(members) <= 301)
    number, families = count()
    per_core = [value(families, "starling_core_stalls_total", core=str(core)) for core in range(cores())]
    assert sum(per_core) == number
    # One line in ten seconds a core, whatever happens.
    told, lines_max = stalls(server), 1 + int((time.monotonic() - began) / 10)
    for core in range(cores()):
        assert min(per_core[core], 1) <= sum(int(match[1]) == core for match in told) <= lines_max


def test_no_threshold_no_stalls(start_server):
    server = start_server(observe__stall_ms=0, presence__exact_members=0, limits__send_queue_bytes=1 << 27)
    speaker = crowd(server, 100)
    for _ in range(5):
        speaker.say("Plaza", "x" * 49_000)
    _, families = scrape(server)
    assert value(families, "starling_stalls_total") == 0
    assert not stalls(server)
