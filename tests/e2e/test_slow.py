"""A reader that stops reading: it is sent away, and nobody else waits for it."""

import json
import socket

import pytest

from helpers import Deadline, JsonLineClient, RawWebSocket, peak_kib
from test_metrics import scrape, value
from test_unread import PAGE_BYTES, fill

CONTENT = "x" * 32_000
# Far more than the kernel's buffers and the server's queue hold together.
MESSAGES = 600
# What the kernel may hold of a connection between two sockets here, by far.
KERNEL_BYTES = 100_000_000


@pytest.fixture
def server(start_server):
    return start_server(limits__send_queue_bytes=131_072)


def flood(sender, others):
    """Sends until the slow one is thrown out; everybody else hears everything."""
    reason = None
    for number in range(1, MESSAGES + 1):
        sender.call("message", room="busy", content=CONTENT)
        sender.expect("message", offset=number)
        for other in others:
            assert other.expect("message")["offset"] == number
        gone = [event for event in sender._unread if event["type"] == "presence" and event.get("nickname") == "slow"]
        if gone:
            reason = gone[-1].get("reason", gone[-1]["event"])
            break
    assert reason == "away", f"after {number} messages: {reason}"
    return number


def test_a_slow_websocket_is_closed_and_others_do_not_wait(server):
    slow = RawWebSocket(server, receive_buffer_bytes=4096)
    slow.send("hello", nickname="slow")
    slow.send("join", room="busy")
    slow.expect("joined")
    fast = [server.ws(f"fast{number}", "busy") for number in range(2)]
    sender = server.ws("sender", "busy")
    sent = flood(sender, fast)

    heard = []
    bye = None
    deadline = Deadline()
    while bye is None:
        opcode, payload = slow.receive_frame(deadline)
        assert opcode == RawWebSocket.TEXT, "the queue is dropped at a frame boundary"
        event = json.loads(payload)
        if event["type"] == "message":
            heard.append(event["offset"])
        elif event["type"] == "bye":
            bye = event
    assert (bye["code"], bye["reason"], bye["resumable"]) == (4201, "slow_consumer", True)
    assert slow.closed_with() == 4201
    assert heard == list(range(1, len(heard) + 1)) and len(heard) < sent

    assert sender.call("message", room="busy", content="after")["offset"] == sent + 1
    for client in fast:
        assert client.expect("message", content="after")["offset"] == sent + 1


def test_a_slow_line_reader_is_closed_too(server):
    slow = server.keep(JsonLineClient(server.line, receive_buffer_bytes=4096)).enter("slow", "busy")
    flood(server.ws("sender", "busy"), [])
    lines = slow.raw.rest().splitlines()
    bye = json.loads(lines[-1])
    assert (bye["type"], bye["code"]) == ("bye", 4201)
    for line in lines:
        json.loads(line)


def test_whoever_asks_faster_than_it_reads_does_not_fill_the_memory(start_server):
    server = start_server()
    keeper = fill(server, "den")
    greedy = RawWebSocket(server, receive_buffer_bytes=4096)
    greedy.send("hello", nickname="greedy")
    greedy.expect("welcome")
    before = peak_kib(server)
    # 300 MB are asked for. What comes behind that is read only by who goes on reading.
    pages = 1500
    for number in range(pages):
        greedy.send("history", room="den", id=str(number))
    stuffing = RawWebSocket.frame(RawWebSocket.TEXT, b'{"type":"ping"}' + b" " * 200_000)
    greedy.raw.socket.settimeout(3)
    with pytest.raises(TimeoutError):
        # More than the kernel has place for, on both sides.
        for _ in range(KERNEL_BYTES // len(stuffing)):
            greedy.raw.socket.sendall(stuffing)
    assert keeper.call("ping")["type"] == "pong", "others are served meanwhile"
    _, families = scrape(server)
    assert value(families, "starling_output_pauses_total") > 0, "and it is the server that waits"
    # All of it is there once it is asked for: in order, and not in memory before.
    greedy.raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    deadline = Deadline(60)
    for number in range(pages):
        page = json.loads(greedy.expect_frame(RawWebSocket.TEXT, deadline))
        assert (page["type"], page["id"], len(page["messages"])) == ("history", str(number), 20)
    grown = peak_kib(server) - before
    assert grown < 32 * 1024 < pages * PAGE_BYTES // 1024 // 8, f"{grown} KiB"
