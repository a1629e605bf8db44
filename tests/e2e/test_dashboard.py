"""The dashboard: who may look, what is told, the page in a real browser, and `starling top` at a terminal."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import threading
import time

import pytest
from websockets.exceptions import InvalidStatus

from browser import Tab, chromium, contrast  # noqa: F401
from helpers import LISTENERS, Deadline, WsClient, binary, cores, environment, free_ports, run, slow_reader, wait_until
from tokens import SETTINGS, token

LIVE = "/dashboard/live"
# The code of `expired_token`.
EXPIRED = 4205
KEYS = {"auth__api_keys": '[{ name = "ci", key = "one key" }, { name = "root", key = "another", admin = true }]'}
UPGRADE = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]


def watch(server, path=LIVE, **options):
    return server.keep(WsClient(server.url(path), **options))


def snapshot(client):
    return json.loads(client.receive_text(Deadline()))


def until(client, condition, what):
    deadline = Deadline()
    while not condition(told := json.loads(client.receive_text(deadline))):
        assert deadline.left(), what
    return told


def asked(server, *headers, path=LIVE, host="127.0.0.1", before=b""):
    """What a request to become a dashboard is answered."""
    client = server.connect()
    client.send(before + "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *UPGRADE, *headers, "", ""]).encode())
    response = client.response(has_body=False)
    client.close()
    return response.status


@pytest.fixture
def start_at(directory, start_server):
    """Starts servers whose web listener is on a certain port, one after the other."""

    def start(port, more="", **settings):
        file = os.path.join(directory, "starling.toml")
        with open(file, "w") as out:
            for kind in LISTENERS:
                out.write(f'[[listen]]\nkind = "{kind}"\naddress = "127.0.0.1:{port if kind == "web" else 0}"\n{more if kind == "web" else ""}')
                out.write(f'[[listen]]\nkind = "{kind}"\naddress = "unix:{directory}/{kind}"\n')
        return start_server(_flags=["--config", file], _has_listeners=True, **settings)

    return start


# What is told.


def test_what_happens_is_told_once_a_second(start_server):
    server = start_server()
    dashboard = watch(server)
    first = snapshot(dashboard)
    assert len(first["cores"]) == cores()
    alice, bob = server.ws("alice", "den"), server.json_line("bob", "den")
    alice.say("den", *map(str, range(50)))
    told = until(dashboard, lambda told: told["rates"]["messages"] > 0, "messages")
    assert 0.9 < told["interval_s"] < 3
    told = until(dashboard, lambda told: told["connections"]["line"] == 1 and told["sessions"] == 2, "who is there")
    assert told["connections"]["web"] >= 2 and told["dashboards"] == 1
    assert told["memory"]["resident_bytes"] > 1 << 20
    assert all(core["turn_max_us"] > 0 and core["turn_us"] > 0 and not core["is_silent"] for core in told["cores"])
    told = until(dashboard, lambda told: told["rooms_by_members"], "rooms")
    assert told["rooms_by_members"][0]["room"] == "den" and told["rooms_by_members"][0]["members"] == 2
    assert (told["store"] is None) == (os.environ.get("STARLING_TEST_STORE", "memory") == "memory")
    for client in (alice, bob):
        client.call("quit")
    until(dashboard, lambda told: told["sessions"] == 0 and told["connections"]["line"] == 0, "the end of them")


def test_who_does_not_read_is_told_of_with_what_the_kernel_knows(start_server):
    server = start_server(limits__send_queue_bytes=67_108_864)
    dashboard = watch(server)
    slow_reader(server, 250)

    # Whoever writes waits too, for a moment, where the look falls between its message and its own copy of that.
    def only_the_slow_one_waits(told):
        return [client["nickname"] for client in told["slow"]] == ["slow"] and told["slow"][0]["queued_bytes"] > 100_000

    told = until(dashboard, only_the_slow_one_waits, "the slow one")
    [client] = told["slow"]
    assert client["transport"] == "websocket" and client["peer"] == "127.0.0.1"
    assert client["tcp"]["rtt_ms"] > 0 and client["tcp"].keys() == {"rtt_ms", "rtt_var_ms", "retransmits", "unacked"}
    assert told["memory"]["classes"]["send_queues"] > 100_000


def test_limits_that_are_hit_are_told(start_server):
    server = start_server(rate__commands_per_second=5, rate__burst=5)
    dashboard = watch(server)
    eager = server.ws("eager")
    for _ in range(20):
        eager.send("ping")
    told = until(dashboard, lambda told: told["limits"], "limits")
    [limit] = [limit for limit in told["limits"] if limit["name"] == "rate_limited_connections"]
    assert limit["all"] > 0 and "Commands refused" in limit["about"]


# Who may look.


def test_only_admins_look_from_elsewhere(start_server):
    server = start_server(**SETTINGS, **KEYS)
    assert asked(server) == 101
    # As a proxy of HTTP asks, and by a name that leads here.
    for header in ("X-Forwarded-For: 10.0.0.1", "Forwarded: for=10.0.0.1", "X-Real-IP: 10.0.0.1", "Via: 1.1 proxy"):
        assert asked(server, header) == 401
        assert asked(server, header, f"Authorization: Bearer {token('root', admin=True)}") == 101
        assert asked(server, header, path=f"{LIVE}?token={token('root', admin=True)}") == 101
        assert asked(server, header, "X-API-Key: another") == 101
        assert asked(server, header, f"Authorization: Bearer {token('alice')}") == 403
        assert asked(server, header, "X-API-Key: one key") == 403
        assert asked(server, header, "X-API-Key: no key") == 401
    # What is shown counts, also here.
    assert asked(server, "X-API-Key: one key") == 403
    for host, status in (("localhost:1", 101), ("[::1]", 101), ("evil.example", 401), ("127.0.0.1.evil.example", 401), ("10.0.0.1", 401)):
        assert asked(server, host=host) == status, host


@pytest.mark.parametrize(("access", "page", "statuses"), [("admin", 200, [401, 401, 101]), ("off", 404, [404, 404, 404])])
def test_whoever_is_of_this_machine_may_be_nobody(start_server, access, page, statuses):
    server = start_server(web__dashboard=access, **KEYS)
    assert [asked(server), asked(server, "Via: 1.1 a"), asked(server, "X-API-Key: another")] == statuses
    assert server.get("/dashboard").status == page


def test_pages_of_other_sites_do_not_look(start_server):
    server = start_server(web__allowed_origins='["http://friend.example"]', **KEYS)
    own = f"http://127.0.0.1:{server.web[1]}"
    host = f"127.0.0.1:{server.web[1]}"
    assert asked(server, f"Origin: {own}", host=host) == 101
    assert asked(server, "Origin: http://evil.example", host=host) == 403
    # A name of theirs that leads here (DNS rebinding): then the page is of the host that it asks.
    assert asked(server, "Origin: http://evil.example", host="evil.example") == 401
    # A site whose pages may chat may not look without being an admin's.
    assert asked(server, "Origin: http://friend.example", host=host) == 401
    assert asked(server, "Origin: http://friend.example", "X-API-Key: another", host=host) == 101


def test_whoever_comes_through_a_proxy_or_by_a_path_is_not_of_this_machine(start_at):
    server = start_at(0, 'proxies = ["127.0.0.1"]\n', **KEYS)
    for source in (b"PROXY TCP4 127.0.0.1 127.0.0.1 1000 80\r\n", b"PROXY TCP4 10.0.0.1 10.0.0.2 1000 80\r\n"):
        assert asked(server, before=source) == 401
        assert asked(server, "X-API-Key: another", before=source) == 101
    server.web = server.paths["web"]
    assert asked(server) == 401
    assert asked(server, "X-API-Key: another") == 101


def test_there_are_only_so_many(start_server):
    server = start_server(limits__dashboard_watchers=2)
    first, _ = watch(server), watch(server)
    with pytest.raises(InvalidStatus) as refused:
        watch(server)
    assert refused.value.response.status_code == 503
    assert json.loads(refused.value.response.body)["retryable"]
    told = until(first, lambda told: told["limits"], "limits")
    assert [limit["all"] for limit in told["limits"] if limit["name"] == "dashboard_watchers_refused"] == [1]
    first.close()
    wait_until(lambda: asked(server) == 101, "a place to become free")


def test_a_dashboard_ends_with_its_token_and_says_nothing(start_server):
    server = start_server(**SETTINGS)
    short = watch(server, f"{LIVE}?token={token('root', admin=True, exp=int(time.time()) + 2)}")
    assert short.closed_with() == EXPIRED
    talker = watch(server)
    talker.send_text("hello")
    assert talker.closed_with() == 1003


def test_a_server_that_stops_says_so(start_server):
    server = start_server()
    dashboard = watch(server)
    snapshot(dashboard)
    server.terminate()
    assert dashboard.closed_with() == 1001
    assert server.exit_code() == 0


# The page.


class Page(Tab):
    def __init__(self, driver, url):
        self._driver = driver
        self._handle = driver.current_window_handle
        self._url = url

    def state(self):
        return self.driver.execute_script("return document.body.dataset.state")

    def total(self, name):
        return self.driver.execute_script("""
            const term = [...document.querySelectorAll('dt')].find((term) => term.textContent === arguments[0]);
            return term?.nextElementSibling.firstChild.data""", name)


def talk(server, ended):
    """A few who talk, until it is enough."""
    alice = server.ws("alice", "lobby", "birds")
    others = [server.ws(f"listener-{number}", "lobby") for number in range(4)] + [server.json_line("terminal", "birds")]
    while not ended.wait(0.02):
        alice.send("message", room="lobby", content="hello")
        alice.send("message", room="birds", content="tweet")
        alice.until_pong()
        for other in others:
            other.until_pong()


@pytest.fixture
def talking():
    """Has some talk on a server until the test is over."""
    ended, threads = threading.Event(), []

    def talking(server):
        threads.append(threading.Thread(target=talk, args=(server, ended)))
        threads[-1].start()

    yield talking
    ended.set()
    for thread in threads:
        thread.join()


def test_the_page_shows_what_happens(start_server, chromium, talking):
    server = start_server()
    page = Page(chromium, server.url("/dashboard", "http"))
    page.emulate()
    page.driver.get_log("browser")
    page.open()
    page.wait(lambda: page.state() == "live", "the first snapshot")
    before = page.driver.execute_script("return [...document.querySelectorAll('.card, .plot, .totals')].map((part) => part.offsetTop)")
    assert len(page.texts("#cores tbody tr")) == cores()
    assert page.texts("#limits tbody") == ["None since the server was started."]
    talking(server)
    page.wait(lambda: int(page.total("Messages / s").split(".")[0]) > 5, "messages")
    page.wait(lambda: page.texts("#busy-rooms tbody tr td:first-child") and "birds" in page.texts("#busy-rooms tbody tr td:first-child"), "the rooms")
    page.wait(lambda: page.total("Sessions") == "6", "those who talk")
    after = page.driver.execute_script("return [...document.querySelectorAll('.card, .plot, .totals')].map((part) => part.offsetTop)")
    assert before == after, "nothing jumps"
    label = page.driver.execute_script("return document.querySelectorAll('canvas')[1].getAttribute('aria-label')")
    assert label.startswith("Messages a second: now ") and "at most" in label
    drawn = page.driver.execute_script("""
        return [...document.querySelectorAll('canvas')].map((canvas) =>
            canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value > 0))""")
    assert len(drawn) == 8 and all(drawn)
    page.wait(lambda: page.driver.execute_script("return performance.now()") > 9_000, "some lines")
    for scheme in ("light", "dark"):
        page.emulate(scheme)
        page.screenshot(f"dashboard-{scheme}")
        for selector in ("h2", "dt", "dd", "dd small", "th", "td", "#state"):
            assert contrast(page, selector) >= 4.5, (scheme, selector)
        page.emulate(scheme, width=390, height=844, is_phone=True)
        overflow = page.driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0, "a phone must not scroll sideways"
        page.screenshot(f"dashboard-phone-{scheme}")
    assert page.complaints() == []
    page.driver.get("about:blank")


def test_the_page_asks_for_a_token_says_when_it_is_stale_and_comes_back(start_at, chromium):
    (port,) = free_ports(1)
    server = start_at(port, web__dashboard="admin", **SETTINGS)
    page = Page(chromium, f"http://127.0.0.1:{port}/dashboard")
    page.emulate()
    page.open()
    page.wait(lambda: page.state() == "refused", "the refusal")
    field = page.find("token")
    assert field.is_displayed() and page.driver.switch_to.active_element == field
    page.screenshot("dashboard-token")
    field.send_keys(token("alice") + "\n")
    page.wait(lambda: "admin" in page.find("token-problem").text, "the refusal of who is no admin")
    field.send_keys(token("root", admin=True) + "\n")
    page.wait(lambda: page.state() == "live" and not field.is_displayed(), "the first snapshot")
    server.process.send_signal(signal.SIGSTOP)
    page.wait(lambda: page.state() == "stale" and "Stale" in page.find("state-text").text, "staleness")
    server.process.send_signal(signal.SIGCONT)
    page.wait(lambda: page.state() == "live", "life again")
    server.close()
    page.wait(lambda: page.state() == "retry", "the loss")
    start_at(port, web__dashboard="admin", **SETTINGS)
    page.wait(lambda: page.state() == "live", "another server", seconds=30)
    # What fails to connect is logged by the browser itself.
    assert not [line for line in page.complaints() if LIVE not in line]
    page.driver.get("about:blank")


# The terminal.


def top(*arguments, **options):
    return run([binary(), "top", *arguments], stdin=subprocess.DEVNULL, **options)


def test_one_snapshot_as_text_or_json(start_server):
    server = start_server()
    server.ws("alice", "den")
    url = server.url("", "http")
    shown = top("--once", url)
    assert (shown.returncode, shown.stderr) == (0, b"")
    text = shown.stdout.decode()
    assert text.startswith("starling ") and "CORE" in text and "den" in text and "\x1b" not in text
    # What is no terminal gets one snapshot.
    assert b"CORE" in top(url).stdout
    shown = top("--json", "--once", f"{url}/")
    assert json.loads(shown.stdout)["rooms"] == 1 and shown.stdout.count(b"\n") == 1
    lines = subprocess.Popen([binary(), "top", "--json", url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert [json.loads(lines.stdout.readline())["rooms"] for _ in range(3)] == [1, 1, 1]
    lines.stdout.close()
    assert lines.wait(10) == 0, "nobody reads any more"
    assert lines.stderr.read() == b""


def test_errors_say_what_would_help(start_server, tmp_path):
    (port,) = free_ports(1)
    failed = top(f"http://127.0.0.1:{port}")
    assert failed.returncode == 1 and b"is the server running" in failed.stderr and str(port).encode() in failed.stderr
    assert top("nonsense").returncode == 2
    assert top("https://127.0.0.1:1").returncode == 2
    server = start_server(web__dashboard="admin", **SETTINGS)
    url = server.url("", "http")
    failed = top(url)
    assert failed.returncode == 1 and b"401" in failed.stderr and b"--token" in failed.stderr
    assert b"not an admin" in top(url, "--token", token("alice")).stderr
    file = tmp_path / "token"
    file.write_text(token("root", admin=True) + "\n")
    assert top(url, "--token-file", str(file)).returncode == 0
    server.close()
    server = start_server(web__dashboard="off")
    failed = top(server.url("", "http"))
    assert failed.returncode == 1 and b"web.dashboard" in failed.stderr


class Terminal:
    """`starling top` at a terminal of a certain size."""

    def __init__(self, *arguments, size=(24, 80), **more):
        self.main, side = pty.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(side)
        self.process = subprocess.Popen([binary(), "top", *arguments], stdin=side, stdout=side, stderr=side, start_new_session=True,
                                        env=environment() | {"TERM": "xterm-256color"} | more,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        self.side = side
        self.output = b""

    def resize(self, rows, columns):
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read_until(self, text, what):
        deadline = Deadline()
        while text not in self.output:
            assert self.can_be_read(deadline.left()), what
            self.output += os.read(self.main, 65_536)
        return self.output

    def can_be_read(self, seconds):
        # Not select(2), which has no number for a process with many files open.
        poll = select.poll()
        poll.register(self.main, select.POLLIN)
        return bool(poll.poll(max(0, seconds) * 1000))

    def press(self, keys):
        os.write(self.main, keys)

    def ended(self):
        """How it ended; the terminal must be as it was."""
        code = self.process.wait(10)
        while self.can_be_read(0.2):
            self.output += os.read(self.main, 65_536)
        assert termios.tcgetattr(self.side) == self.before, "the terminal is left as it was"
        if b"\x1b[?1049h" in self.output:
            assert self.output.rindex(b"\x1b[?1049l") > self.output.rindex(b"\x1b[?1049h")
            assert self.output.rindex(b"\x1b[?25h") > self.output.rindex(b"\x1b[?25l")
        os.close(self.main)
        os.close(self.side)
        return code


@pytest.mark.parametrize("key", [b"q", b"\x1b", b"\x03"])
def test_keys_end_it(start_server, key):
    terminal = Terminal(start_server().url("", "http"))
    terminal.read_until(b"CORE", "the screen")
    terminal.press(key)
    assert terminal.ended() == 0


def test_the_screen_is_drawn_anew_and_for_its_size(start_server, talking):
    server = start_server()
    talking(server)
    terminal = Terminal(server.url("", "http"), size=(50, 120))
    terminal.read_until(b"ROOM, MOST MESSAGES", "the rooms")
    assert b"\x1b[32mlive" in terminal.output and "█".encode() in terminal.output
    terminal.output = b""
    terminal.resize(5, 40)
    terminal.read_until(b"\x1b[J", "the next screen")
    terminal.output = b""
    drawn = terminal.read_until(b"\x1b[J", "a small screen").split(b"\x1b[J")[0]
    assert drawn.count(b"\r\n") == 4
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.ended() == 0


def test_no_colour_is_no_colour(start_server):
    terminal = Terminal(start_server().url("", "http"), NO_COLOR="1")
    terminal.read_until(b"CORE", "the screen")
    terminal.press(b"q")
    assert terminal.ended() == 0
    assert b"\x1b[32m" not in terminal.output and b"\x1b[2m" not in terminal.output and b"q ends" in terminal.output


def test_a_server_that_comes_back_is_found_again(start_at):
    (port,) = free_ports(1)
    server = start_at(port)
    terminal = Terminal(f"http://127.0.0.1:{port}")
    terminal.read_until(b"q ends", "the screen")
    server.close()
    terminal.read_until(b"cannot be reached", "the loss")
    terminal.output = b""
    start_at(port)
    terminal.read_until(b"q ends", "the other server")
    terminal.press(b"q")
    assert terminal.ended() == 0


def test_a_failure_is_told_after_the_screen_is_as_it_was(start_at):
    (port,) = free_ports(1)
    server = start_at(port)
    terminal = Terminal(f"http://127.0.0.1:{port}")
    terminal.read_until(b"q ends", "the screen")
    server.close()
    start_at(port, web__dashboard="admin")
    terminal.read_until(b"refuses (401)", "the refusal")
    assert terminal.ended() == 1
    assert terminal.output.rindex(b"refuses (401)") > terminal.output.rindex(b"\x1b[?1049l")
