"""The README's first deployment, as it stands there but for the ports."""

import os
import pathlib
import re
import subprocess

from helpers import binary, environment, free_ports

README = pathlib.Path(__file__).parents[2] / "README.md"


def test_the_first_deployment_of_the_readme(tmp_path):
    (commands,) = re.findall(r"^```sh\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    web, *others = free_ports(4)
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "starling").symlink_to(os.path.abspath(binary()))
    listeners = "".join(f' --listen {kind}=127.0.0.1:{port}' for kind, port in zip(["web", "line", "frame", "grpc"], [web, *others]))
    commands = commands.replace("127.0.0.1:8080", f"127.0.0.1:{web}")
    commands = commands.replace("starling serve ", f"starling serve{listeners} --set drain.spread_ms=0 --cores 1 ")
    # Who types this is slower: the next signal would find the server at the first one.
    commands = commands.replace("kill -HUP $! ", "kill -HUP $! && until grep -q 'in effect' starling.log; do sleep 0.1; done ")
    # A server that a failure leaves behind ends with the shell.
    script = "set -euxo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n" + commands
    variables = environment() | {"PATH": f"{directory}:{os.environ['PATH']}"}
    empty = tmp_path / "empty"
    empty.mkdir()
    ran = subprocess.run(["bash", "-c", script], cwd=empty, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "starling.toml: ok" in ran.stdout
    assert f"listening web 127.0.0.1:{web}" in ran.stdout
    assert ran.stdout.count('"content":"it is up"') == 2, "before and after"
    assert re.search(r"starling_published_total 1$", ran.stdout, re.MULTILINE), ran.stdout
    assert "in effect: limits.content_bytes = 4096" in (empty / "starling.log").read_text()
    assert (empty / "backup.db").stat().st_size > 0
