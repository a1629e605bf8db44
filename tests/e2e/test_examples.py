"""The programs in examples/, as a reader would start them."""

import contextlib
import json
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import threading

import pytest

from helpers import DEADLINE_S, Deadline, environment, wait_until

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


class Program:
    """A program whose lines are read."""

    def __init__(self, *command):
        self.process = subprocess.Popen(list(map(str, command)), env=environment() | {"PYTHONUNBUFFERED": "1"}, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.lines, self.errors = queue.Queue(), []
        self._readers = [threading.Thread(target=self._read, args=(pipe, sink), daemon=True)
                         for pipe, sink in [(self.process.stdout, self.lines.put), (self.process.stderr, self.errors.append)]]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(pipe, sink):
        for line in pipe:
            sink(line.rstrip("\n"))

    def expect(self, pattern):
        """Waits for a line like this, and says what was before it."""
        deadline, before = Deadline(), []
        while True:
            try:
                line = self.lines.get(timeout=deadline.left())
            except (queue.Empty, TimeoutError):
                raise AssertionError(f"no line like {pattern}: {before}, {self.errors}") from None
            if re.search(pattern, line):
                return before, line
            before.append(line)

    def close(self):
        # What it has started as well: a curl that lives on would hold the pipes.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE_S)
        for reader in self._readers:
            reader.join(DEADLINE_S)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()


@pytest.fixture
def start_program():
    programs = []

    def start(*command):
        programs.append(Program(*command))
        return programs[-1]

    yield start
    for program in programs:
        program.close()


def test_the_list_names_all_of_them():
    told = re.findall(r"\]\(([^)]+)\) \|", (EXAMPLES / "README.md").read_text())
    assert all((EXAMPLES / file).exists() for file in told), told
    assert {file.name for file in EXAMPLES.iterdir()} - {"README.md"} <= set(told)


def test_the_bot_answers_and_goes_on_after_a_crash_of_the_server(disk, start_program):
    server = disk()
    bot = start_program(sys.executable, EXAMPLES / "bot.py", "--url", server.url("/ws"), "--nickname", "parrot", "--room", "den")
    bot.expect("^in den with")
    alice = server.ws("alice", "den")
    alice.say("den", "!echo hello")
    alice.expect("message", sender="parrot", content="hello")
    server.kill()
    wait_until(lambda: any("back in" in line for line in bot.errors), "the bot to notice")
    server = disk(_web="%s:%d" % server.web)
    # By somebody else, before the bot may be back: it hears what it has missed.
    bob = server.ws("bob", "den")
    bob.say("den", "!echo again")
    bob.expect("message", sender="parrot", content="again")


def test_the_bot_stops_when_it_is_told_to(start_server, start_program):
    server = start_server()
    server.ws("parrot", "den")
    bot = start_program(sys.executable, EXAMPLES / "bot.py", "--url", server.url("/ws"))
    assert bot.process.wait(DEADLINE_S) == 1
    wait_until(lambda: any(line.startswith("bot: ") for line in bot.errors), "the reason")


def test_the_bot_in_rust_answers_in_its_room_and_in_private(start_server, start_program):
    # `scripts/test` has built it with the tests of its crate.
    subprocess.run(["cargo", "build", "--quiet", "-p", "starling-client", "--example", "echo"], cwd=ROOT, check=True, timeout=80)
    server = start_server()
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    start_program(target / "debug" / "examples" / "echo", server.url("/ws"), "parrot", "den")
    alice = server.ws("alice", "den")
    wait_until(lambda: any(member["nickname"] == "parrot" for member in alice.call("members", room="den")["members"]), "the bot")
    alice.say("den", "echo hello")
    alice.expect("message", sender="parrot", content="hello")
    alice.send("private", target="parrot", content="psst")
    alice.expect("private", sender="parrot", content="psst")


def test_the_client_of_grpc_says_what_it_reads_and_prints_what_it_hears(start_server, start_program):
    server = start_server()
    client = start_program(sys.executable, EXAMPLES / "grpc_client.py", "--web", server.url("", "http"), "--grpc", "%s:%d" % server.grpc,
                           "--nickname", "erin", "--room", "den")
    client.expect("^in den with")
    alice = server.ws("alice", "den")
    client.process.stdin.write("hello from grpc\n")
    client.process.stdin.flush()
    alice.expect("message", sender="erin", content="hello from grpc")
    alice.say("den", "hello back")
    client.expect("^alice: hello back$")
    client.process.stdin.close()
    assert client.process.wait(DEADLINE_S) == 0, client.errors


def test_the_listener_goes_on_where_it_was(disk, start_program):
    server = disk()
    alice = server.ws("alice", "den")
    listener = start_program(EXAMPLES / "listen.sh", "den", server.url("", "http"))
    # Whether it listens already is not told: it is, when it has heard something.
    def hears():
        alice.say("den", "are you there")
        return not listener.lines.empty()

    wait_until(hears, "the listener")
    alice.say("den", "first")
    _, line = listener.expect('"content":"first"')
    first = json.loads(line)
    server.kill()
    server = disk(_web="%s:%d" % server.web)
    bob = server.ws("bob", "den")
    bob.say("den", "second", "third")
    before, line = listener.expect('"content":"third"')
    contents = [json.loads(line)["content"] for line in before]
    assert contents == ["second"] and json.loads(line)["offset"] == first["offset"] + 2


def test_the_listener_ends_where_it_is_refused(start_server, start_program):
    server = start_server(auth__guests="false", auth__jwt_secret="at-least-thirty-two-bytes-of-secret")
    listener = start_program(EXAMPLES / "listen.sh", "den", server.url("", "http"))
    assert listener.process.wait(DEADLINE_S) == 1
