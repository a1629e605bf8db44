"""A reader that stops reading: it is sent away, and nobody else waits for it."""

import json

import pytest

from helpers import Deadline, JsonLineClient, RawWebSocket

CONTENT = "x" * 32_000
# Far more than the kernel's buffers and the server's queue hold together.
MESSAGES = 600


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


def test_whoever_asks_faster_than_it_reads_does_not_fill_the_memory(server):
    greedy = RawWebSocket(server, receive_buffer_bytes=4096)
    greedy.send("hello", nickname="greedy")
    ping = RawWebSocket.frame(RawWebSocket.TEXT, b'{"type":"ping","id":"%s"}' % (b"x" * 64))
    greedy.raw.socket.settimeout(3)
    try:
        for _ in range(3000):
            greedy.raw.send(ping * 100)
    except (TimeoutError, ConnectionError):
        pass  # The server stopped reading, or closed the connection.
    # /proc tells kilobytes.
    status = open(f"/proc/{server.process.pid}/status").read()
    peak_kib = int(status.split("VmHWM:")[1].split()[0])
    assert peak_kib < 200_000
    assert server.get("/health").body == b"OK"
