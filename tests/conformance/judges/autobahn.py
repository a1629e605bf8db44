"""The Autobahn WebSocket suite, crossbar.io's fuzzing client, against /echo.

It asks 517 cases: framing, pings, reserved bits, opcodes, fragments, UTF-8, closing, limits, compression. All run with compression
switched on, as it is served where it is: nothing refers to earlier messages. Those about compression then run once more with contexts
kept. A server at --url must have compression switched on; it is asked once.

A pass: OK or INFORMATIONAL, both for what was sent back and for how the connection was closed. NON-STRICT is a failure here, because the
wire contract asks for the strict reading.

The suite only runs on Python 2.7; it is installed beside the others' packages at its first run."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from helpers import environment
from judge import TARGET, Case

SCHEME = "ws"
SUITE = TARGET / "autobahn"
# These exact versions work together; the newest of each that still runs on 2.7 do not. incremental and setuptools come first: the
# set-up scripts of the others import them.
FIRST = ["setuptools==44.1.1", "incremental==21.3.0"]
PACKAGES = ["autobahntestsuite==0.8.2", "twisted==20.3.0", "autobahn==0.10.9", "txaio==2.1.0", "pyopenssl==19.1.0", "cryptography==3.3.2",
            "service_identity==18.1.0", "wsaccel==0.6.2"]
VIRTUALENV = "virtualenv==20.15.1"

PASSES = {"OK", "INFORMATIONAL"}
CASES, CASES_EXPECTED = ["*"], 517
COMPRESSION_CASES, COMPRESSION_CASES_EXPECTED = ["12.*", "13.*"], 216
# More than the suite has connections at a time.
CONTEXTS = 16
# Minutes, on an idle machine.
SUITE_TIMEOUT_S = 3600


def python27():
    try:
        root = subprocess.run(["pyenv", "root"], capture_output=True, text=True, timeout=30).stdout.strip()
    except OSError:
        root = ""
    for candidate in [pathlib.Path(root) / "versions/2.7.18/bin/python" if root else None, shutil.which("python2.7")]:
        # A pyenv shim exists without the version behind it being selected, so each candidate must prove itself.
        check = "import sys; sys.exit(sys.version_info[:2] != (2, 7))"
        if candidate and os.path.exists(candidate) and subprocess.run([candidate, "-c", check], capture_output=True, timeout=30).returncode == 0:
            return str(candidate)
    return None


def missing():
    return [] if python27() else ["Python 2.7 (pyenv's 2.7.18, or python2.7)"]


def version():
    return PACKAGES[0].replace("==", " ")


def install():
    helper = TARGET / "autobahn-virtualenv"
    for old in (SUITE, helper):
        shutil.rmtree(old, ignore_errors=True)
    quiet = ["-q", "--disable-pip-version-check"]
    options = {"check": True, "stdin": subprocess.DEVNULL, "env": environment() | {"PYTHONWARNINGS": "ignore"}}
    subprocess.run([sys.executable, "-m", "venv", helper], **options)
    subprocess.run([helper / "bin/python", "-m", "pip", "install", *quiet, VIRTUALENV], **options)
    subprocess.run([helper / "bin/virtualenv", "-q", "-p", python27(), SUITE], **options)
    for packages in (FIRST, PACKAGES):
        subprocess.run([SUITE / "bin/python", "-m", "pip", "install", *quiet, *packages], **options)
    (SUITE / "complete").touch()


def run(bench):
    if not (SUITE / "complete").exists():
        bench.say("installing the suite")
        install()
    with bench.server(web__deflate="true") as server:
        yield from suite(bench, server.url("/echo"), CASES, CASES_EXPECTED)
    if not bench.url:
        with bench.server(web__deflate="true", limits__deflate_contexts=CONTEXTS) as server:
            yield from suite(bench, server.url("/echo"), COMPRESSION_CASES, COMPRESSION_CASES_EXPECTED, ", contexts kept")


def suite(bench, url, cases, expected, suffix=""):
    bench.say(f"{expected} cases against {url}")
    with tempfile.TemporaryDirectory(prefix="starling-autobahn-") as work:
        work = pathlib.Path(work)
        settings = {"outdir": str(work / "reports"), "servers": [{"agent": "starling", "url": url}], "cases": cases, "exclude-cases": [],
                    "exclude-agent-cases": {}}
        (work / "fuzzingclient.json").write_text(json.dumps(settings))
        done = subprocess.run([SUITE / "bin/wstest", "-m", "fuzzingclient", "-s", "fuzzingclient.json"], cwd=work, stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=SUITE_TIMEOUT_S, env=environment() | {"PYTHONWARNINGS": "ignore"})
        # The suite exits 0 whatever it found, so its report decides.
        report = work / "reports" / "index.json"
        if done.returncode != 0 or not report.exists():
            raise RuntimeError(f"the suite itself failed:\n{done.stderr.decode(errors='replace')[-2000:]}")
        results = next(iter(json.loads(report.read_text()).values()), {})
    for name in sorted(results, key=lambda name: [int(part) for part in name.split(".")]):
        behavior, close = results[name]["behavior"], results[name]["behaviorClose"]
        yield Case(name + suffix, None if {behavior, close} <= PASSES else f"{behavior}, close: {close}")
    if len(results) != expected:
        yield Case(f"all cases{suffix}", f"{len(results)} cases ran instead of {expected}")
