"""Registration with a Consul agent, as its HTTP API is documented; the agent is played."""

import contextlib
import http.server
import json
import threading
import time
import urllib.parse
import urllib.request

import pytest

from helpers import DEADLINE_S, Deadline, binary, free_ports, run, wait_until


class Agent:
    """Keeps services, and says what it was asked. `answer` is the status that it answers with instead of doing anything, and `words`
    what it says then."""

    def __init__(self, port=0):
        self.services, self.asked, self.answer, self.hangs = {}, [], None, threading.Event()
        self.words = b""
        agent = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def say(self, status, body=b""):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def handle_one(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = urllib.parse.urlsplit(self.path).path
                agent.asked.append((self.command, path, self.headers.get("X-Consul-Token")))
                deadline = Deadline()
                while agent.hangs.is_set() and deadline.left():
                    time.sleep(0.01)
                if agent.answer:
                    return self.say(agent.answer, agent.words)
                what, *name = path.removeprefix("/v1/agent/service/").split("/")
                if (self.command, what) == ("PUT", "register"):
                    service = json.loads(body)
                    agent.services[service["ID"]] = service
                    return self.say(200)
                if (self.command, what) == ("PUT", "deregister"):
                    return self.say(200 if agent.services.pop(urllib.parse.unquote(name[0]), None) else 404)
                service = agent.services.get(urllib.parse.unquote(what))
                return self.say(200, json.dumps(service).encode()) if service else self.say(404, b"unknown service")

            do_GET = do_PUT = handle_one

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads, block_on_close = True, False

        self.server = Quiet(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def agent():
    with contextlib.closing(Agent()) as agent:
        yield agent


def test_a_node_is_registered_and_taken_back_when_it_drains(start_server, agent):
    server = start_server(consul__agent=agent.url, consul__token="hush", consul__id="a/b", consul__tags='["blue"]',
                          drain__spread_ms=0)
    wait_until(lambda: "a/b" in agent.services, "the registration")
    service = agent.services["a/b"]
    assert (service["Name"], service["Tags"], service["Address"], service["Port"]) == ("starling", ["blue"], *server.web)
    assert service["Meta"]["line"] == str(server.line[1])
    with urllib.request.urlopen(service["Check"]["HTTP"], timeout=DEADLINE_S) as health:
        assert (health.status, health.read().strip()) == (200, b"OK")
    assert {token for _, _, token in agent.asked} == {"hush"}
    alice = server.ws("alice")
    server.terminate()
    # Before those who are there have gone.
    wait_until(lambda: not agent.services, "the node to be taken back")
    alice.expect("bye", code=4300)
    assert server.exit_code() == 0


def test_clients_are_told_to_go_when_the_agent_has_heard(start_server, agent):
    server = start_server(consul__agent=agent.url, consul__deadline_ms=10_000, drain__spread_ms=0)
    wait_until(lambda: agent.services, "the registration")
    alice = server.ws("alice")
    agent.hangs.set()
    server.terminate()
    wait_until(lambda: any("draining" in line for line in server.log), "the drain to begin")
    alice.call("ping")
    assert server.get("/ready").status == 200, "somebody may be sent here still"
    agent.hangs.clear()
    alice.expect("bye", code=4300)
    assert not agent.services
    assert server.exit_code() == 0


def test_an_agent_that_comes_late_or_forgets(start_server):
    (port,) = free_ports(1)
    server = start_server(consul__agent=f"127.0.0.1:{port}", consul__look_ms=100, consul__address="chat.example")
    server.ws("alice").call("ping")
    with contextlib.closing(Agent(port)) as agent:
        wait_until(lambda: agent.services, "the registration")
        (service,) = agent.services.values()
        assert service["ID"].startswith("starling-") and service["ID"].endswith(f"-{server.web[1]}")
        assert service["Address"] == "chat.example"
        agent.services.clear()
        wait_until(lambda: agent.services, "the registration to come back")


DENIED = "Permission denied: token with AccessorID 'f2' lacks permission 'service:write' on \"starling\""


@pytest.mark.parametrize("token, hint", [("hush", "the policy of consul.token must allow service:write for starling"),
                                         (None, "consul.token is not set: its policy must allow service:write for starling")])
def test_a_refusal_says_why(start_server, agent, token, hint):
    agent.answer, agent.words = 403, DENIED.encode()
    server = start_server(consul__agent=agent.url, **({"consul__token": token} if token else {}))
    line = wait_until(lambda: next((line for line in server.log if "does not register this node" in line), None), "the reason")
    assert "it answered 403 Forbidden: Permission denied: token with AccessorID" in line and hint in line, line
    assert "hush" not in line
    server.terminate()
    assert server.exit_code() == 0
    assert not any("deregister" in path for _, path, _ in agent.asked), "it was never registered"


def test_a_refusal_that_comes_after_another_trouble_is_told_too(start_server, agent):
    agent.answer, agent.words = 500, b"No cluster leader"
    server = start_server(consul__agent=agent.url, consul__look_ms=100)

    def told(*words):
        return wait_until(lambda: next((line for line in server.log if all(word in line for word in words)), None), words)

    told("does not register this node", "500", "No cluster leader")
    # An agent may say much, and what is no text: that is cut off, and made one line.
    agent.answer, agent.words = 403, b"denied\n\x1b[31m\xff" + b"x" * 5000
    line = told("does not register this node", "403", "denied\\n\\u{1b}[31m")
    assert line.isprintable() and len(line) < 800, line
    # The same again is not.
    wait_until(lambda: len(agent.asked) > 5, "it to be asked again")
    assert len([line for line in server.log if "does not register" in line]) == 2
    agent.answer = None
    told("does what it is asked again")
    # Who is registered is not told to be none.
    agent.answer, agent.words = 403, DENIED.encode()
    told("does not say whether it still knows this node", "403 Forbidden: Permission denied")
    assert len([line for line in server.log if "does not register" in line]) == 2
    agent.answer = None
    wait_until(lambda: len([line for line in server.log if "does what it is asked again" in line]) == 2, "it to be well again")


def test_an_agent_that_hangs_holds_nothing_up(start_server, agent):
    server = start_server(consul__agent=agent.url, consul__deadline_ms=300, consul__look_ms=100)
    wait_until(lambda: agent.services, "the registration")
    agent.hangs.set()
    server.ws("alice").call("ping")
    server.terminate()
    assert server.exit_code() == 0
    server.said("until its checks fail")


def test_a_server_without_a_web_listener_on_a_port_cannot_be_registered(start_server, agent):
    ran = run([binary(), "serve", "--listen", "line=127.0.0.1:0", "--set", f"consul.agent={agent.url}", "--set", "store.kind=memory"])
    assert ran.returncode == 1 and b"needs a web listener" in ran.stderr
    ran = run([binary(), "serve", "--set", "consul.agent=https://consul"])
    assert ran.returncode == 2 and b"http://127.0.0.1:8500" in ran.stderr
