"""The JavaScript module: its own tests, its types and its example, and what it does with a server that runs."""

import json
import os
import pathlib
import queue
import re
import subprocess
import threading

import pytest

from helpers import Deadline, environment, run

ROOT = pathlib.Path(__file__).parents[2]
CLIENT = ROOT / "client/js"
# Where scripts/setup installs packages: beside the binary's directory.
NPM = pathlib.Path(os.environ.get("STARLING_TEST_NPM", ROOT / "target/npm")) / "node_modules"


def node(*arguments, **options):
    return run(["node", *websocket_flag(), *arguments], **options)


def websocket_flag():
    """Node has WebSocket from version 22 on, and from 20.10 behind a flag."""
    major = int(re.match(r"v(\d+)", run(["node", "--version"]).stdout.decode())[1])
    return ["--experimental-websocket"] if major < 22 else []


class JavaScriptClient:
    """The module in a process of its own."""

    def __init__(self, server, nickname):
        command = ["node", *websocket_flag(), ROOT / "tests/e2e/javascript_client.mjs", CLIENT / "starling.js", server.url("/ws"), nickname]
        self._process = subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lines = queue.Queue()
        threading.Thread(target=lambda: [self._lines.put(json.loads(line)) for line in self._process.stdout], daemon=True).start()

    def send(self, call, *args):
        self._process.stdin.write(json.dumps({"call": call, "args": args}) + "\n")
        self._process.stdin.flush()

    def expect(self, heard, **fields):
        """The next event like this; others before it are passed over."""
        deadline = Deadline()
        while True:
            line = self._lines.get(timeout=deadline.left())
            if line["heard"] == heard and all(line.get(name) == value for name, value in fields.items()):
                return line

    def call(self, call, *args):
        self.send(call, *args)
        return self.expect("result", call=call).get("result")

    def close(self):
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture
def client(server):
    client = JavaScriptClient(server, "ann")
    yield client
    client.close()


def test_its_own_tests_pass():
    tests = sorted(map(str, (CLIENT / "test").glob("*.test.js")))
    result = node("--test", *tests)
    assert result.returncode == 0, result.stdout.decode()[-4000:]
    assert int(re.search(r"pass (\d+)", result.stdout.decode())[1]) >= 40


def test_its_types_hold(tmp_path):
    # As in a project that has installed the package.
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules/starling-client").symlink_to(CLIENT)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "types.ts").write_text((CLIENT / "test/types.ts").read_text())
    compiler = NPM / "typescript/bin/tsc"
    assert compiler.exists(), "typescript is missing: scripts/setup installs it"
    result = run(["node", compiler, "--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2023,dom", "types.ts"],
                 cwd=tmp_path)
    assert result.returncode == 0, result.stdout.decode()


def test_its_types_name_what_it_has():
    script = """
        const module = await import(process.argv[1]);
        const members = Object.getOwnPropertyNames(module.Client.prototype).filter((name) => name !== 'constructor');
        console.log(JSON.stringify([Object.keys(module), members, Object.keys(module.LIMITS)]))"""
    names, members, limits = json.loads(node("--input-type=module", "-e", script, str(CLIENT / "starling.js")).stdout)
    types = (CLIENT / "starling.d.ts").read_text()
    for name in names:
        assert re.search(rf"export (const|class) {name}\b", types), name
    for name in [*members, *limits]:
        assert re.search(rf"^    (readonly )?{name}[<(:]", types, re.MULTILINE), name


def test_its_page_of_documentation_names_all_of_it(server):
    script = """
        const module = await import(process.argv[1]);
        const members = Object.getOwnPropertyNames(module.Client.prototype).filter((name) => name !== 'constructor');
        console.log(JSON.stringify([...members, ...Object.keys(module.LIMITS)]))"""
    names = json.loads(node("--input-type=module", "-e", script, str(CLIENT / "starling.js")).stdout)
    events = re.search(r"interface Events \{(.*?)\n\}", (CLIENT / "starling.d.ts").read_text(), re.DOTALL)[1]
    names += re.findall(r"^    (\w+):", events, re.MULTILINE)
    page = (ROOT / "docs/javascript.md").read_text()
    assert [name for name in names if not re.search(rf"`[^`]*\b{name}\b[^`]*`", page)] == []
    assert len(names) > 40


def test_the_package_has_what_it_imports():
    listed = json.loads(run(["npm", "pack", "--dry-run", "--json"], cwd=CLIENT).stdout)[0]
    files = {file["path"] for file in listed["files"]}
    assert files == {"package.json", "README.md", "starling.js", "starling.d.ts", "connection.js", "leaving.js", "names.js"}
    for name in files:
        for imported in re.findall(r'from "\./(.+?)"', (CLIENT / name).read_text()):
            assert imported in files, (name, imported)


def test_a_server_has_all_of_it(server):
    for name in ("starling.js", "starling.d.ts", "connection.js", "leaving.js", "names.js"):
        response = server.get(f"/{name}")
        assert (response.status, response.body) == (200, (CLIENT / name).read_bytes()), name


def test_the_example_in_its_readme_runs(server, tmp_path):
    [example] = re.findall(r"```js\n(.*?)```", (CLIENT / "README.md").read_text(), re.DOTALL)
    address = "ws://127.0.0.1:8080/ws"
    assert address in example
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules/starling-client").symlink_to(CLIENT)
    (tmp_path / "example.mjs").write_text(example.replace(address, server.url("/ws")))
    result = node(tmp_path / "example.mjs")
    assert result.returncode == 0, result.stderr.decode()
    assert "hello has offset 1\n" in result.stdout.decode()


@pytest.mark.parametrize("page", ["README.md", "docs/javascript.md"])
def test_the_other_examples_run(server, tmp_path, page):
    """They end when they are told to: a bot goes on."""
    [example] = [code for code in re.findall(r"```js\n(.*?)```", (ROOT / page).read_text(), re.DOTALL) if "starling-client" in code]
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules/starling-client").symlink_to(CLIENT)
    (tmp_path / "example.mjs").write_text(example.replace("ws://127.0.0.1:8080/ws", server.url("/ws")))
    bob = server.ws("bob", "lobby")
    process = subprocess.Popen(["node", *websocket_flag(), tmp_path / "example.mjs"], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        bob.expect("presence", event="join", nickname="parrot")
        bob.call("message", room="lobby", content="hi")
        assert bob.expect("message", sender="parrot")["content"] in ("hello", "bob said: hi")
        assert process.poll() is None
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=10)
    assert b"Error" not in errors, errors


def test_it_misses_nothing_while_its_connection_is_broken(client, server):
    client.call("connect")
    client.call("join", "den")
    bob = server.ws("bob", "den")
    client.expect("presence", event="join", nickname="bob")
    client.send("break")
    bob.expect("presence", event="away")
    for content in ("one", "two"):
        bob.call("message", room="den", content=content)
    bob.call("private", target="ann", content="psst")
    client.send("send", "den", "three")
    assert client.expect("joined")["recovered"]
    assert [client.expect("message")["content"] for _ in range(3)] == ["one", "two", "three"]
    assert bob.expect("message", sender="ann")["content"] == "three"
    assert [event for event in bob.until_pong() if event.get("sender") == "ann"] == []


def test_private_messages_while_away_come_once(client, server):
    client.call("connect")
    client.call("join", "den")
    bob = server.ws("bob", "den")
    client.send("break")
    bob.expect("presence", event="away")
    bob.call("private", target="ann", content="psst")
    assert client.expect("private")["content"] == "psst"
    client.call("rooms")
    bob.expect("presence", event="back")
    client.send("break")
    bob.expect("presence", event="away")
    bob.call("private", target="ann", content="again")
    assert client.expect("private")["content"] == "again"


def test_a_room_that_is_left_while_offline_is_left(client, server):
    client.call("connect")
    client.call("join", "den")
    bob = server.ws("bob", "den")
    client.send("break")
    client.send("leave", "den")
    assert bob.expect("presence", event="leave")["nickname"] == "ann"


def test_it_moderates_and_sets_state(client, server):
    client.call("connect")
    assert client.call("join", "den")["role"] == "host"
    bob = server.ws("bob", "den")
    client.call("setState", "den", "topic", "birds")
    assert bob.expect("state", key="topic")["value"] == "birds"
    client.call("mute", "den", "bob", {"seconds": 60, "reason": "loud"})
    assert bob.expect("presence", event="mute")
    client.call("unmute", "den", "bob")
    client.call("kick", "den", "bob", {"reason": "off"})
    assert bob.expect("left")["reason"] == "kicked"
    client.call("ban", "den", "bob")
    client.call("unban", "den", "bob")
    assert [member["nickname"] for member in client.call("members", "den")["members"]] == ["ann"]
    assert client.call("history", "den")["messages"] == []
    client.send("kick", "den", "nobody")
    assert client.expect("failure", call="kick")["reason"] == "no_such_user"


def test_a_server_that_drains_is_left_and_what_is_written_waits(client, server):
    client.call("connect")
    client.call("join", "den")
    server.terminate()
    assert client.expect("connection", state="retry")["atMs"]
    client.send("send", "den", "later")
    assert client.expect("outbox")["status"] == "queued"
    assert server.exit_code() == 0
