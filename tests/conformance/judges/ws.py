"""Node.js's `ws`, a client that is strict about frames: reserved bits, opcodes, lengths, masks, UTF-8, compression.

Its package has no tests, so the cases are ours, as those of `websockets`: tests/conformance/ws_client.mjs has them.

A pass: the same comes back, the library finds nothing wrong with a frame, and the connection ends with the code that was said."""

import json
import subprocess

from helpers import environment
from judge import ROOT, Case, missing_npm, npm_packages, output

SCHEME = "ws"


def missing():
    return missing_npm("ws")


def version():
    package = json.loads((npm_packages() / "ws" / "package.json").read_text())
    return f"ws {package['version']}, node {output('node', '--version').strip().removeprefix('v')}"


def run(bench):
    # Contexts are kept for who asks, so that those parameters can be agreed on.
    with bench.server(web__deflate="true", limits__deflate_contexts=8) as server:
        command = ["node", ROOT / "tests/conformance/ws_client.mjs", server.url("/echo"), npm_packages()]
        process = subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            for line in process.stdout:
                found = json.loads(line)
                bench.say(found["name"])
                yield Case(found["name"], found["failure"])
        finally:
            process.kill()
            _, errors = process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"the client failed:\n{errors}")
