"""TLS on every kind of listener, by clients that others wrote: curl, OpenSSL, Python's ssl, websockets, grpcio, and a browser."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import ssl
import subprocess
import threading

import pytest
from websockets.exceptions import InvalidStatus

from helpers import DEADLINE_S, Deadline, JsonLineClient, RawClient, Server, WsClient, binary, environment, run, wait_until

HOST = "localhost"


class Identity:
    """A certificate of `starling cert`, with its key, in a directory of its own."""

    def __init__(self, directory, *flags):
        self.directory = directory
        made = run([binary(), "cert", "--out", str(directory), *flags])
        assert made.returncode == 0, made
        self.told = made.stdout.decode()
        self.cert, self.key = directory / "cert.pem", directory / "key.pem"

    def fingerprint(self):
        return ssl.PEM_cert_to_DER_cert(self.cert.read_text())


@pytest.fixture
def identity(tmp_path):
    return Identity(tmp_path / "own")


@pytest.fixture
def start(start_server, identity):
    """Starts servers all of whose listeners are encrypted."""

    def start(**settings):
        return start_server(**({"tls__cert": identity.cert, "tls__key": identity.key} | settings))

    return start


class OneAtATime(ssl.SSLSocket):
    """Lets one thread at a time use the connection. `websockets` reads on one and writes on another, and before its version 3.13 Python lets
    both into OpenSSL at once: now and then, one connection in a thousand on a busy machine, what is written is lost."""

    def do_handshake(self, *arguments):
        super().do_handshake(*arguments)
        self._limit = super().gettimeout()
        super().settimeout(0)  # whoever waits does not do so in OpenSSL, where the other thread could not follow
        self._turns = threading.Lock()

    def settimeout(self, limit):
        if hasattr(self, "_turns"):
            self._limit = limit
        else:
            super().settimeout(limit)

    def _in_turn(self, work, *arguments):
        deadline = None
        while True:
            with self._turns:
                try:
                    return work(*arguments)
                except ssl.SSLWantReadError:
                    wanted = select.POLLIN
                except ssl.SSLWantWriteError:
                    wanted = select.POLLOUT
            if self._limit is not None:
                deadline = deadline or Deadline(self._limit)
                deadline.left()
            poll = select.poll()
            with contextlib.suppress(ValueError):  # it has been closed meanwhile
                poll.register(self, wanted)
                poll.poll(50)

    def recv(self, *arguments):
        return self._in_turn(super().recv, *arguments)

    def send(self, *arguments):
        return self._in_turn(super().send, *arguments)

    def sendall(self, data, *arguments):
        rest = memoryview(data)
        while rest:
            rest = rest[self.send(rest, *arguments):]


def trusting(identity, version=None, alpn=None):
    context = ssl.create_default_context(cafile=str(identity.cert))
    context.sslsocket_class = OneAtATime
    if version:
        context.minimum_version = context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


class TlsClient(RawClient):
    """A socket with TLS around it."""

    def __init__(self, address, context, **options):
        super().__init__(address, **options)
        self.socket = context.wrap_socket(self.socket, server_hostname=HOST)


class TlsJsonClient(JsonLineClient):
    def __init__(self, address, context):
        super().__init__(address)
        self.raw.socket = context.wrap_socket(self.raw.socket, server_hostname=HOST)


def json_line(server, identity, nickname, *rooms):
    return server.keep(TlsJsonClient(server.line, trusting(identity))).enter(nickname, *rooms)


def ws(server, identity, nickname=None, *rooms, **options):
    url = f"wss://{HOST}:{server.web[1]}/ws"
    client = server.keep(WsClient(url, ssl=trusting(identity), sock=socket.create_connection(server.web), **options))
    return client.enter(nickname, *rooms)


def curl(server, identity, path, *flags):
    return run(["curl", "--silent", "--show-error", "--cacert", str(identity.cert), *flags, f"https://{HOST}:{server.web[1]}{path}"])


def s_client(address, *flags, said=b""):
    command = ["openssl", "s_client", "-connect", f"{address[0]}:{address[1]}", "-servername", HOST, *flags]
    done = run(command, input=said)
    return (done.stdout + done.stderr).decode(errors="replace")


def served(server):
    """The certificate that a newcomer is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = TlsClient(server.web, context)
    shown = client.socket.getpeercert(binary_form=True)
    client.close()
    return shown


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_lines_in_both_versions(start, identity, version):
    server = start()
    context = trusting(identity, version)
    alice, bob = (server.keep(TlsJsonClient(server.line, context)).enter(name, "lobby") for name in ["alice", "bob"])
    assert alice.raw.socket.version() == {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}[version]
    # More than a record, and more than a socket takes at once.
    content = "é" * 30_000
    alice.say("lobby", content)
    assert bob.expect("message", sender="alice")["content"] == content


def client_hello(version):
    """What a client says first that speaks no newer version than this one, by hand, as no library offers old ones any more (RFC 5246, 7.4.1.2)."""
    def with_length(octets, data):
        return len(data).to_bytes(octets, "big") + data

    ciphers = b"\xc0\x2b\xc0\x09\xc0\x13\x00\x2f"  # ECDHE-ECDSA-AES128-GCM-SHA256 for 1.2, and AES128-SHA by all exchanges of keys
    extensions = {0: with_length(2, b"\0" + with_length(2, HOST.encode())),  # server_name
                  10: with_length(2, b"\0\x1d\0\x17"),  # supported_groups: x25519, secp256r1
                  11: with_length(1, b"\0"),  # ec_point_formats: uncompressed
                  13: with_length(2, b"\x04\x03\x04\x01\x02\x03\x02\x01")}  # signature_algorithms: ECDSA and RSA, with SHA-256 and SHA-1
    told = b"".join(kind.to_bytes(2, "big") + with_length(2, data) for kind, data in extensions.items())
    hello = version.to_bytes(2, "big") + bytes(range(32)) + with_length(1, b"") + with_length(2, ciphers) + b"\x01\0" + with_length(2, told)
    return b"\x16\x03\x01" + with_length(2, b"\x01" + with_length(3, hello))


def test_older_versions_are_refused(start, identity):
    server = start()
    for version in [0x0300, 0x0301, 0x0302]:
        old = server.connect()
        old.send(client_hello(version))
        # A fatal alert (2) which says that it is the version (70), and the end.
        answer = old.rest()
        assert (answer[:1], answer[3:]) == (b"\x15", b"\0\x02\x02\x46"), (hex(version), answer)
    # The same of a client that knows 1.2 is answered: with a ServerHello, in that version.
    client = server.connect()
    client.send(client_hello(0x0303))
    head = client.exactly(11)
    assert (head[0], head[5], head[9:]) == (0x16, 2, b"\x03\x03"), head


@pytest.mark.parametrize("version, flag", [("-tls1_2", "-cipher"), ("-tls1_3", "-ciphersuites")])
def test_the_server_says_which_cipher(start, identity, version, flag):
    names = {"-tls1_2": ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"],
             "-tls1_3": ["TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"]}[version]
    server = start()
    chosen = []
    for wish in (names, names[::-1]):
        told = s_client(server.web, version, flag, ":".join(wish))
        chosen.append(re.search(r"New, TLSv1\.[23], Cipher is (\S+)", told)[1])
    assert chosen[0] == chosen[1] and chosen[0] in names


def test_http_and_websocket(start, identity):
    server = start()
    health = curl(server, identity, "/health")
    assert (health.returncode, health.stdout) == (0, b"OK"), health
    alice, bob = (ws(server, identity, name, "lobby") for name in ["alice", "bob"])
    for number in range(200):
        alice.send("message", room="lobby", content=f"{number} " + "x" * (number * 7 % 3000))
    for number in range(200):
        assert bob.expect("message")["content"].split()[0] == str(number)
    alice.call("quit")
    assert alice.closed_with() == 1000


def test_the_origin_of_a_page_is_that_of_https(start, identity):
    server = start()
    own = f"https://{HOST}:{server.web[1]}"
    assert ws(server, identity, "alice", origin=own).nickname == "alice"
    with pytest.raises(InvalidStatus) as refused:
        ws(server, identity, "bob", origin=own.replace("https", "http"))
    assert refused.value.response.status_code == 403


def test_listeners_may_differ(start_server, identity):
    """Those that are named so are encrypted, and no others; standard output says which."""
    command = [binary(), "serve", "--cores", "1", "--set", "store.kind=memory", "--tls-cert", identity.cert, "--tls-key", identity.key,
               "--listen", "web+tls=127.0.0.1:0", "--listen", "web=127.0.0.1:0"]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        lines = [process.stdout.readline().decode().split() for _ in range(2)]
        assert [line[1:2] + line[3:] for line in lines] == [["web", "tls"], ["web"]], lines
        secure, plain = (line[2] for line in lines)
        assert run(["curl", "-s", "--cacert", str(identity.cert), f"https://{secure.replace('127.0.0.1', HOST)}/health"]).stdout == b"OK"
        assert run(["curl", "-s", f"http://{plain}/health"]).stdout == b"OK"
    finally:
        process.terminate()
        assert process.wait(DEADLINE_S) == 0


def test_alpn(start, identity):
    server = start()
    for listener, offers, chosen in [("web", "http/1.1,h2", "http/1.1"), ("grpc", "h2", "h2"), ("line", "h2", None)]:
        told = s_client(getattr(server, listener), "-alpn", offers, "-CAfile", str(identity.cert))
        expected = f"ALPN protocol: {chosen}" if chosen else "No ALPN negotiated"
        assert expected in told, told
    assert "no application protocol" in s_client(server.web, "-alpn", "h2")


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_sessions_are_resumed(start, identity, tmp_path, version):
    """On any core: the tickets are sealed by keys that all of them have."""
    server = start()
    session = str(tmp_path / "session")
    # TLS 1.3 sends its tickets with the first answer at the latest.
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    flags = [version, "-CAfile", str(identity.cert), "-ign_eof"]
    first = s_client(server.web, *flags, "-sess_out", session, said=request)
    assert "New, TLS" in first and "Verify return code: 0" in first, first
    for _ in range(4):
        again = s_client(server.web, *flags, "-sess_in", session, said=request)
        assert "Reused, TLS" in again and "OK" in again, again


def test_grpc(start, identity):
    grpc = pytest.importorskip("grpc")
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    server = start()
    credentials = grpc.ssl_channel_credentials(identity.cert.read_bytes())
    with grpc.secure_channel(f"{HOST}:{server.grpc[1]}", credentials, options=[("grpc.enable_http_proxy", 0)]) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("auth", ["optional", "required"])
def test_clients_show_certificates(start, identity, tmp_path, auth):
    """A client's certificate may be signed by itself: then it is its own root."""
    openssl = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    for name in ["known", "stranger"]:
        made = run([*openssl, "-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:FALSE", "-addext",
                    "extendedKeyUsage=clientAuth", "-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.pem")])
        assert made.returncode == 0, made.stderr
    server = start(tls__client_ca=tmp_path / "known.pem", tls__client_auth=auth)
    shown = {name: ["--cert", str(tmp_path / f"{name}.pem"), "--key", str(tmp_path / f"{name}.key")] for name in ["known", "stranger"]}
    assert curl(server, identity, "/health", *shown["known"]).stdout == b"OK"
    assert curl(server, identity, "/health", *shown["stranger"]).returncode != 0
    assert (curl(server, identity, "/health").returncode == 0) == (auth == "optional")


def test_certificates_are_read_again(start, identity, tmp_path):
    server = start()
    alice = ws(server, identity, "alice", "lobby")
    old = identity.fingerprint()
    assert served(server) == old
    new = Identity(tmp_path / "new").fingerprint()
    for name in ["cert.pem", "key.pem"]:
        os.replace(tmp_path / "new" / name, identity.directory / name)
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: served(server) == new, "the new certificate")
    # Who was there is still there, and hears those who have come since.
    bob = ws(server, identity, "bob", "lobby")
    bob.say("lobby", "hello")
    assert alice.expect("message", sender="bob")["content"] == "hello"

    # A mistake changes nothing.
    identity.key.write_text("no key")
    server.process.send_signal(signal.SIGHUP)
    error = wait_until(lambda: [line for line in server.log if "stays as it was" in line], "the error")
    assert str(identity.key) in error[0] and "no private key" in error[0], error
    assert served(server) == new
    bob.say("lobby", "still there")
    assert alice.expect("message", content="still there")


def test_a_terminal_that_is_closed_takes_its_server_along(identity):
    command = [binary(), "serve", "--cores", "1", "--set", "store.kind=memory", "--web", "127.0.0.1:0", "--line", "127.0.0.1:0", "--frame",
               "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--tls-cert", str(identity.cert), "--tls-key", str(identity.key)]
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe(command[0], command, environment())
    said = b""
    while said.count(b" tls\r\n") < 4:
        said += os.read(terminal, 65_536)
    os.close(terminal)
    assert wait_until(lambda: os.waitpid(process, os.WNOHANG)[0], "the server's end") == process


@pytest.mark.parametrize("listener", ["web", "line", "frame", "grpc"])
def test_what_is_no_tls_is_told_so(start, identity, listener):
    server = start()
    for said in [b"GET / HTTP/1.1\r\nHost: test\r\n\r\n", b"\x00" * 100, b"hello\n" * 5000, b'{"type":"hello","nickname":"alice"}\n',
                 b"\x16\x03\x01\x00\x05hello"]:
        client = server.connect(listener)
        client.send(said)
        # An alert (RFC 8446 section 6), and the end.
        answer = client.rest()
        assert answer[:2] == b"\x15\x03" and len(answer) == 7, answer
        client.close()
    # Whoever says half of something, or nothing, and goes.
    for said in [b"", b"\x16\x03\x01\x02\x00\x01"]:
        client = server.connect(listener)
        client.send(said)
        client.finish()
        assert client.is_ended()
    assert curl(server, identity, "/health").stdout == b"OK"


def test_a_handshake_has_its_time(start, identity):
    server = start(limits__tls_handshake_ms=200)
    silent = server.connect("line")
    assert silent.rest() in [b"", b"\x15\x03\x03\x00\x02\x01\x00", b"\x15\x03\x01\x00\x02\x01\x00"]
    # What is awaited of others does not count it.
    assert json_line(server, identity, "alice").nickname == "alice"


def test_an_end_that_is_not_said_may_be_somebody_elses(start, identity):
    """A line without its end is obeyed if the client has ended its side behind it, and not if the connection was cut there."""
    server = start()
    bob = json_line(server, identity, "bob", "lobby")
    for is_said, nickname in [(True, "alice"), (False, "carol")]:
        client = json_line(server, identity, nickname, "lobby")
        client.raw.send(b'{"type":"message","room":"lobby","content":"whole"}\n{"type":"message","room":"lobby","content":"cut"}')
        if is_said:
            # What the library makes of answers that come behind its own end is its own affair.
            with contextlib.suppress(ssl.SSLError):
                client.raw.socket.unwrap()
        else:
            client.raw.socket.shutdown(socket.SHUT_WR)
        heard = []
        # Until it has gone: what it has said is told before that.
        while (event := bob.next()).get("type") != "presence" or event["event"] == "join":
            heard += [event["content"]] if event["type"] == "message" else []
        assert heard == (["whole", "cut"] if is_said else ["whole"]), nickname


def test_a_slow_reader_is_closed_with_its_last_words(start, identity):
    server = start(limits__send_queue_bytes=100_000)
    slow = server.keep(TlsClient(server.line, trusting(identity), receive_buffer_bytes=4096))
    slow.send(b'{"type":"hello","nickname":"slow"}\n{"type":"join","room":"lobby"}\n')
    slow.until(b'"joined"')
    fast = json_line(server, identity, "fast")
    fast.call("join", room="lobby", echo=False)
    for _ in range(400):
        fast.send("message", room="lobby", content="x" * 20_000)
    fast.call("ping")
    last = slow.rest().splitlines()[-1]
    assert json.loads(last)["code"] == 4201, last[:200]


def test_many_at_once(start, identity):
    """A storm of handshakes: each is served, and those that are there are heard meanwhile."""
    server = start(limits__tls_handshakes_per_turn=1)
    alice = json_line(server, identity, "alice")
    context = trusting(identity)
    context.check_hostname = False
    sockets = []
    for _ in range(60):
        raw = socket.create_connection(server.line)
        raw.setblocking(False)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname=HOST)
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        sockets.append((raw, incoming, outgoing, tls))
    for raw, _, outgoing, _ in sockets:
        raw.sendall(outgoing.read())
    assert alice.call("ping")["type"] == "pong"
    for raw, incoming, outgoing, tls in sockets:
        deadline = Deadline()
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                raw.settimeout(deadline.left())
                incoming.write(raw.recv(65_536))
        raw.sendall(outgoing.read())
        raw.close()


def test_starling_cert(identity, tmp_path):
    assert identity.key.stat().st_mode & 0o777 == 0o600
    serve, ask = identity.told.splitlines()
    assert serve.startswith("starling serve --tls-cert ") and ask.startswith("curl --cacert ")
    again = run([binary(), "cert", "--out", str(identity.directory)])
    assert again.returncode == 1 and b"--force" in again.stderr
    before = identity.cert.read_text()
    assert run([binary(), "cert", "--out", str(identity.directory), "--force", "--host", "chat.example", "--host", "10.0.0.5"]).returncode == 0
    assert identity.cert.read_text() != before and identity.key.stat().st_mode & 0o777 == 0o600
    shown = run(["openssl", "x509", "-noout", "-text", "-in", str(identity.cert)]).stdout.decode()
    assert "DNS:chat.example, IP Address:10.0.0.5" in shown and "CA:FALSE" in shown


def test_mistakes_are_told_at_the_start(identity, tmp_path):
    other = Identity(tmp_path / "other")

    def attempt(*flags):
        failed = run([binary(), "serve", "--set", "store.kind=memory", "--web", "127.0.0.1:0", *map(str, flags)])
        assert failed.returncode in [1, 2], failed
        return failed.stderr.decode()

    missing = tmp_path / "missing.pem"
    assert f"{missing}" in (told := attempt("--tls-cert", missing, "--tls-key", identity.key)) and "starling cert" in told
    told = attempt("--tls-cert", identity.cert, "--tls-key", other.key)
    assert str(other.key) in told and "not the key of the certificate" in told
    told = attempt("--tls-cert", identity.key, "--tls-key", identity.key)
    assert str(identity.key) in told and "no certificate" in told
    assert "tls.key" in attempt("--tls-cert", identity.cert)
    assert "--tls-cert" in attempt("--listen", "web+tls=127.0.0.1:0")


def test_a_browser_comes_by_https(start, identity, tmp_path):
    selenium = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    from browser import FLAGS

    server = start()
    options = selenium.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in [*FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--ignore-certificate-errors"]:
        options.add_argument(flag)
    driver = selenium.Chrome(options=options, service=selenium.ChromeService("/usr/bin/chromedriver"))
    try:
        driver.get(f"https://127.0.0.1:{server.web[1]}/")
        field = wait_until(lambda: [field for field in driver.find_elements(By.ID, "nickname") if field.is_displayed()], "the question")[0]
        field.send_keys(Keys.CONTROL + "a")
        field.send_keys("eve" + Keys.ENTER)
        wait_until(lambda: driver.execute_script("return document.body.dataset.connection") == "online", "the connection over wss")
    finally:
        driver.quit()


def test_a_file_that_does_not_answer_keeps_nobody_waiting(start, identity):
    """A pipe that nobody writes to stands for whatever a path may lead to."""
    server = start()
    context = trusting(identity)
    identity.cert.unlink()
    os.mkfifo(identity.cert)
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: any("no regular file" in line for line in server.log), "the complaint")
    # With the certificate from before.
    assert server.keep(TlsJsonClient(server.line, context)).enter("alice").nickname == "alice"
    server.close()
    refused = run([binary(), "serve", "--tls-cert", str(identity.cert), "--tls-key", str(identity.key), "--set", "store.kind=memory"])
    assert refused.returncode == 1 and b"no regular file" in refused.stderr, refused.stderr
