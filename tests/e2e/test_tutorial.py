"""The tutorial, as it stands there but for the ports."""

import os
import pathlib
import re
import subprocess

from helpers import binary, environment, free_ports

TUTORIAL = pathlib.Path(__file__).parents[2] / "docs" / "tutorial.md"


def test_the_tutorial_does_what_it_says(tmp_path):
    blocks = re.findall(r"^```sh\n(.*?)^```$", TUTORIAL.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 8, "a block a step"
    ports = dict(zip(["8080", "9000", "9001", "50051", "8081", "8082", "6379"], free_ports(7)))
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "starling").symlink_to(os.path.abspath(binary()))
    commands = "".join(f"printf '\\n== %s\\n' {number}\n{block}" for number, block in enumerate(blocks, 1))
    listeners = "".join(f" --listen {kind}=127.0.0.1:{port}" for kind, port in [("web", 8080), ("line", 9000), ("frame", 9001), ("grpc", 50051)])
    commands = commands.replace("starling serve &", f"starling serve{listeners} &").replace("starling serve", "starling serve --cores 1 --set drain.spread_ms=0")
    for before, port in ports.items():
        commands = re.sub(rf"\b{before}\b", str(port), commands)
    script = "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n" + commands
    empty = tmp_path / "empty"
    empty.mkdir()
    ran = subprocess.run(["bash", "-c", script], cwd=empty, env=environment() | {"PATH": f"{directory}:{os.environ['PATH']}"}, stdin=subprocess.DEVNULL,
                         capture_output=True, text=True, timeout=85)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said = dict(re.findall(r"^== (\d)\n(.*?)(?=^== |\Z)", ran.stdout, re.DOTALL | re.MULTILINE))
    assert "* lobby has 1 member: alice" in said["1"]
    assert '"content":"hello, world","offset":1' in said["2"] and '"level":"sequenced"' in said["2"]
    assert '"content":"hi from a program","offset":2' in said["3"] and "hello" not in said["3"]
    assert '"resumed":true' in said["4"] and '"recovered":true' in said["4"] and '"content":"bob, are you there?","offset":3' in said["4"]
    assert re.findall(r'"offset":(\d)', said["5"]) == ["1", "2", "3"]
    assert said["6"].count('"offset":4') == 2 and '"content":"build 42 is green"' in said["6"]
    assert re.search(r"^audit +ok: \d+ deliveries, none missing", said["7"], re.MULTILINE)
    assert '"content":"said on one node","offset":1' in said["8"]
