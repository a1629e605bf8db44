"""The PROXY protocol: proxies that tell for whom they connect, before TLS and everything else."""

import socket
import struct
import subprocess

import pytest

from helpers import DEADLINE_S, binary, environment, run

V2 = b"\r\n\r\n\0\r\nQUIT\n"
HELLO = b'{"type":"hello","nickname":"alice"}\n'


@pytest.fixture
def start(tmp_path, start_server):
    """Starts a server whose listeners are for proxies."""

    def start(proxies='["127.0.0.1", "10.0.0.0/8"]', **settings):
        path = tmp_path / "starling.toml"
        path.write_text("".join(f'[[listen]]\nkind = "{kind}"\naddress = "127.0.0.1:0"\nproxies = {proxies}\n'
                                for kind in ("web", "line", "frame", "grpc")))
        return start_server(_flags=["--config", str(path)], **settings)

    return start


def v1(source="192.0.2.1"):
    return f"PROXY TCP4 {source} 10.0.0.1 4660 80\r\n".encode()


def v2(source="192.0.2.1", command=1):
    return V2 + struct.pack(">BBH", 0x20 | command, 0x11, 12) + socket.inet_aton(source) + socket.inet_aton("10.0.0.1") + struct.pack(">HH", 1, 2)


@pytest.mark.parametrize("header", [v1(), v2(), v2(command=0), b"PROXY UNKNOWN\r\n"])
@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_a_header_stands_before_the_first_words(start, header, chunk):
    client = start().connect("line")
    data = header + HELLO
    for at in range(0, len(data), chunk):
        client.send(data[at:at + chunk])
    assert b'"type":"welcome"' in client.until(b"\n")


def test_people_are_greeted_when_it_is_known_who_they_are(start):
    client = start().connect("line")
    client.send(v1())
    assert client.until(b"\n").startswith(b"* welcome to")


def test_curl_and_http(start):
    server = start()
    command = ["curl", "-sS", "--haproxy-protocol", "http://%s:%d/health" % server.web]
    done = subprocess.run(command, capture_output=True, timeout=DEADLINE_S, env=environment(), stdin=subprocess.DEVNULL)
    assert done.stdout == b"OK", done.stderr


@pytest.mark.parametrize("header", [v1, v2])
def test_limits_are_of_the_client_and_not_of_the_proxy(start, header):
    server = start(limits__connections_per_address=1)
    first, second, third = (server.connect("line") for _ in range(3))
    first.send(header("192.0.2.1") + HELLO)
    assert b"welcome" in first.until(b"\n")
    second.send(header("192.0.2.2") + HELLO.replace(b"alice", b"bob"))
    assert b"welcome" in second.until(b"\n")
    third.send(header("192.0.2.1") + HELLO.replace(b"alice", b"carol"))
    assert b"4105" in third.until(b"\n")


@pytest.mark.parametrize("words", [HELLO, b"PROXY TCP4 nonsense\r\n", V2[:11] + b"x" * 20, b"GET / HTTP/1.1\r\n\r\n"])
def test_what_is_no_header_ends_the_connection(start, words):
    server = start()
    client = server.connect("line")
    client.send(words)
    assert client.is_ended()
    again = server.connect("line")
    again.send(v1() + HELLO)
    assert b"welcome" in again.until(b"\n")


def test_a_header_that_does_not_come(start):
    client = start(limits__tls_handshake_ms=200).connect("line")
    client.send(v1()[:10])
    assert client.is_ended()


def test_nobody_else_may_connect(start):
    server = start(proxies='["192.0.2.0/24"]')
    client = server.connect("line")
    assert client.is_ended()


@pytest.mark.parametrize("proxies", ['[]', '["here"]', '["10.0.0.0/33"]', '"10.0.0.1"'])
def test_what_cannot_be_proxies_is_told(tmp_path, proxies):
    path = tmp_path / "starling.toml"
    path.write_text(f'[[listen]]\nkind = "web"\naddress = "127.0.0.1:0"\nproxies = {proxies}\n')
    done = run([binary(), "config", "--config", str(path)])
    assert done.returncode == 2 and b"starling.toml:1: listen" in done.stderr, done.stderr
