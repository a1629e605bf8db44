"""The end: SIGTERM sends everybody away in peace, a second one leaves at once."""

import time

from helpers import Server, wait_until


def test_sigterm_says_bye_to_all_and_spreads_them(start_server):
    server = start_server(drain__spread_ms=1000)
    clients = [server.ws(f"user{number}", "lobby") for number in range(10)]
    program, person = server.json_line("program", "lobby"), server.text_line("person")
    server.terminate()
    delays = []
    for client in [*clients, program]:
        bye = client.expect("bye")
        assert (bye["code"], bye["reason"], bye["resumable"].__class__) == (4300, "draining", bool)
        assert 0 <= bye["after_ms"] <= 1000
        delays.append(bye["after_ms"])
    assert len(set(delays)) > 1, f"all come back at once: {delays}"
    assert all(client.closed_with() == 4300 for client in clients)
    person.expect(r"! 4300 draining: .+")
    person.raw.rest()
    assert server.exit_code() == 0


def test_ready_says_no_while_draining_is_delayed(start_server):
    server = start_server(drain__delay_ms=1500)
    client = server.ws("alice", "lobby")
    assert server.get("/ready").status == 200
    server.terminate()
    refusal = wait_until(lambda: (response := server.get("/ready")).status == 503 and response, "/ready to say 503")
    assert refusal.status == 503
    assert server.get("/health").body == b"OK", "listeners stay open while draining"
    assert client.call("message", room="lobby", content="meanwhile")["type"] == "ack", "clients are served during the delay"
    assert client.expect("bye")["code"] == 4300
    assert server.exit_code() == 0


def test_messages_sent_before_the_end_arrive(start_server):
    server = start_server()
    alice, bob = server.ws("alice", "lobby"), server.ws("bob", "lobby")
    acks = [alice.call("message", room="lobby", content=f"{number}") for number in range(50)]
    server.terminate()
    assert [bob.expect("message")["offset"] for _ in acks] == [ack["offset"] for ack in acks]
    assert bob.expect("bye")["code"] == 4300


def test_clients_that_do_not_read_do_not_hold_the_end_up(start_server):
    server = start_server(drain__timeout_ms=1000)
    silent = [server.connect("line") for _ in range(3)]
    for number, client in enumerate(silent):
        client.send(b'{"type":"hello","nickname":"silent%d"}\n' % number)
        client.until(b"\n")
    began = time.monotonic()
    server.terminate()
    assert server.exit_code() == 0
    assert time.monotonic() - began < 8


def test_a_second_sigterm_leaves_at_once():
    server = Server(drain__delay_ms=60_000)
    try:
        server.ws("alice", "lobby")
        server.terminate()
        wait_until(lambda: server.get("/ready").status == 503, "/ready to say 503")
        server.terminate()
        server.exit_code(5)
    finally:
        server.process.kill()
