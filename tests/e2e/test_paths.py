"""Listeners on paths (Unix domain sockets), by clients that others wrote: curl, nc, websockets and grpcio."""

import contextlib
import os
import signal
import socket
import stat
import subprocess

import pytest

from helpers import DEADLINE_S, JsonLineClient, RawClient, WsClient, binary, cores, run, wait_until

HELLO = b'{"type":"hello","nickname":"%s"}\n'


def connected(path):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(DEADLINE_S)
    client.connect(path)
    return client


def ws(server, nickname, *rooms):
    client = WsClient("ws://localhost/ws", unix=True, path=server.paths["web"])
    return server.keep(client).enter(nickname, *rooms)


def json_line(server, nickname, *rooms):
    return server.keep(JsonLineClient(server.paths["line"])).enter(nickname, *rooms)


def sockets(server):
    """How many sockets the server has open, in all the tables of its threads."""
    pid = server.process.pid
    count = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        directory = f"/proc/{pid}/task/{task}/fd"
        for number in os.listdir(directory):
            with contextlib.suppress(OSError):  # it has been closed meanwhile
                count += os.readlink(f"{directory}/{number}").startswith("socket:")
    return count


# Each kind of listener.


def test_the_same_rooms_on_ports_and_paths(start_on_paths):
    server = start_on_paths()
    alice, bob = ws(server, "alice", "den"), server.ws("bob", "den")
    carol, dave = json_line(server, "carol", "den"), server.json_line("dave", "den")
    for number, client in enumerate([alice, bob, carol, dave]):
        client.say("den", f"message {number}")
    for client in [alice, bob, carol, dave]:
        heard = [client.expect("message", room="den")["content"] for _ in range(4)]
        assert heard == [f"message {number}" for number in range(4)]


def test_curl(start_on_paths):
    server = start_on_paths()
    done = run(["curl", "-sS", "--unix-socket", server.paths["web"], "http://x/health"], stdin=subprocess.DEVNULL)
    assert done.stdout == b"OK", done


def test_nc(start_on_paths):
    server = start_on_paths()
    typed = run(["nc", "-N", "-U", server.paths["line"]], input=b"alice\n/ping\n/quit\n")
    assert typed.stdout.startswith(b"* welcome to starling"), typed
    assert b"* pong" in typed.stdout and b"! 1000 quit" in typed.stdout, typed


def test_frames(start_on_paths):
    from binary import JSON, FrameClient

    server = start_on_paths()
    server.frame = server.paths["frame"]
    alice = FrameClient(server, JSON).enter("alice", "den")
    assert alice.say("den", "x")[0]["offset"] == 1


def test_grpc(start_on_paths):
    grpc = pytest.importorskip("grpc")
    from grpc_client import GrpcClient, OPTIONS

    server = start_on_paths()
    # Of itself it would send a path's name as the authority, which HTTP/2 has no form for.
    options = [*OPTIONS, ("grpc.default_authority", "localhost")]
    with grpc.insecure_channel("unix:" + server.paths["grpc"], options=options) as channel:
        alice = GrpcClient(server, channel).enter("alice", "den")
        bob = server.ws("bob", "den")
        bob.say("den", "hello")
        assert alice.expect("message", room="den")["content"] == "hello"


def test_tls(start_on_paths, tmp_path):
    made = run([binary(), "cert", "--out", str(tmp_path)])
    assert made.returncode == 0, made
    server = start_on_paths(tls__cert=tmp_path / "cert.pem", tls__key=tmp_path / "key.pem")
    done = run(["curl", "-sS", "--unix-socket", server.paths["web"], "--cacert", str(tmp_path / "cert.pem"), "https://localhost/health"],
               stdin=subprocess.DEVNULL)
    assert done.stdout == b"OK", done


def test_many_clients_on_all_cores(start_on_paths):
    """Those who were handed on are at home like the others, and their ends are heard."""
    server = start_on_paths()
    before = sockets(server)
    clients = [json_line(server, f"user{number}", "den") for number in range(8 * cores())]
    clients[0].say("den", "to all")
    for client in clients:
        assert client.expect("message", room="den")["content"] == "to all"
    for client in clients:
        client.close()
    wait_until(lambda: sockets(server) <= before, "the ends of all connections")


def test_a_proxy_tells_for_whom_it_connects(start_on_paths):
    server = start_on_paths(more='proxies = ["127.0.0.1"]\n', limits__connections_per_address=1)
    for number in range(3):
        client = server.keep(RawClient(server.paths["line"]))
        client.send(b"PROXY TCP4 192.0.2.%d 10.0.0.1 4660 80\r\n" % number + HELLO % b"user%d" % number)
        assert b'"type":"welcome"' in client.until(b"\n")
    again = server.keep(RawClient(server.paths["line"]))
    again.send(b"PROXY TCP4 192.0.2.1 10.0.0.1 4660 80\r\n" + HELLO % b"another")
    assert b"4105" in again.until(b"\n")


def test_a_slow_consumer_is_put_out(start_on_paths):
    server = start_on_paths(limits__send_queue_bytes=65_536)
    slow, bob = json_line(server, "slow", "den"), server.ws("bob", "den")
    # More than its kernel and its queue hold, which nobody reads.
    bob.say("den", *["x" * 4000] * 400)
    bob.expect("presence", event="away", nickname="slow")
    assert slow.expect("bye")["reason"] == "slow_consumer"


def test_clients_are_told_of_a_drain(start_on_paths):
    server = start_on_paths()
    alice, bob = json_line(server, "alice"), ws(server, "bob")
    server.terminate()
    for client in [alice, bob]:
        assert client.expect("bye")["code"] == 4300


def test_descriptors_that_are_passed_along_are_not_kept(start_on_paths):
    server = start_on_paths()
    client = server.keep(RawClient(server.paths["line"]))
    client.send(HELLO % b"alice")
    assert b"welcome" in client.until(b"\n")
    before = sockets(server)
    for _ in range(50):
        socket.send_fds(client.socket, [b'{"type":"ping"}\n'], [client.socket.fileno()] * 30)
        assert b"pong" in client.until(b'"pong"')
    assert sockets(server) <= before


# The file.


def mode_of(path):
    status = os.stat(path)
    assert stat.S_ISSOCK(status.st_mode)
    return stat.S_IMODE(status.st_mode)


def test_its_mode(start_on_paths):
    server = start_on_paths()
    assert {mode_of(path) for path in server.paths.values()} == {0o660}
    server.close()
    assert not any(os.path.exists(path) for path in server.paths.values()), "it goes with the server"


def test_a_mode_of_ones_own(start_on_paths):
    assert {mode_of(path) for path in start_on_paths(more='mode = "600"\n').paths.values()} == {0o600}


def test_what_a_killed_server_left_is_replaced(start_on_paths):
    server = start_on_paths()
    server.kill()
    assert mode_of(server.paths["line"]) == 0o660
    with pytest.raises(ConnectionRefusedError):
        connected(server.paths["line"])
    assert json_line(start_on_paths(), "alice").nickname == "alice"


def test_leaving_at_once_takes_the_file_along(start_on_paths):
    server = start_on_paths(drain__timeout_ms=60_000, drain__delay_ms=60_000)
    json_line(server, "alice")
    server.terminate()
    wait_until(lambda: any("draining" in line for line in server.log), "the drain")
    server.process.send_signal(signal.SIGTERM)
    assert server.exit_code() == 128 + signal.SIGTERM
    assert not any(os.path.exists(path) for path in server.paths.values())
    server._is_killed = True


def serve(path, tmp_path):
    """A server that cannot start."""
    return run([binary(), "serve", "--web", f"unix:{path}", "--line", "127.0.0.1:0", "--frame", "127.0.0.1:0", "--grpc", "127.0.0.1:0",
                "--data-dir", str(tmp_path / "data")])


def test_a_live_one_is_refused_by_name(start_on_paths, tmp_path):
    server = start_on_paths()
    refused = serve(server.paths["web"], tmp_path)
    assert refused.returncode == 1
    for word in [b"unix:" + server.paths["web"].encode(), b"(process %d)" % server.process.pid, b"stop it"]:
        assert word in refused.stderr, refused.stderr
    assert ws(server, "alice").nickname == "alice"


def test_what_is_no_socket_is_left_alone(directory, tmp_path):
    path = os.path.join(directory, "precious")
    with open(path, "w") as out:
        out.write("precious")
    refused = serve(path, tmp_path)
    assert refused.returncode == 1 and b"no socket" in refused.stderr, refused.stderr
    with open(path) as file:
        assert file.read() == "precious"


@pytest.mark.parametrize(("path", "code", "word"), [
    ("/nonexistent/directory/s", 1, b"does not exist"), ("/tmp/" + "s" * 200, 2, b"at most 107 bytes"), ("/etc/passwd/s", 1, b"cannot listen")])
def test_a_path_that_cannot_be(path, code, word, tmp_path):
    refused = serve(path, tmp_path)
    assert refused.returncode == code and word in refused.stderr, refused.stderr
