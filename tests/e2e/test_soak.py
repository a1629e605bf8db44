"""`scripts/soak`, for half a minute instead of an hour: everything in it happens, only sooner. benches/soak/test_soak.py has the bounds."""

import csv
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree

import pytest

from helpers import binary, environment, wait_until

ROOT = pathlib.Path(__file__).parents[2]
SOAK = [sys.executable, "-B", ROOT / "scripts" / "soak"]


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture
def start():
    """Starts it. What fails does not leave it running: its server ends with it."""
    all_started = []

    def start(*arguments, before=()):
        all_started.append(subprocess.Popen([*before, *SOAK, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                            stderr=subprocess.PIPE, text=True, env=environment() | {"STARLING_BIN": os.path.abspath(binary())}))
        return all_started[-1]

    yield start
    for soak in all_started:
        soak.kill()
        soak.wait()


@pytest.mark.timeout(180)
def test_half_a_minute_of_it(tmp_path, start):
    soak = start("--minutes", 0.4, "--rate", 200, "--out", tmp_path)
    said, errors = soak.communicate(timeout=150)
    lines = said.splitlines()
    # What is told of growth is not judged, and nothing else has failed.
    assert soak.returncode == 0 and not [line for line in lines if line.startswith("FAILED")], (said, errors)
    assert (tmp_path / "verdict.txt").read_text() == said

    samples = rows(tmp_path / "samples.csv")
    assert len(samples) > 10
    assert not [(name, sample) for sample in samples for name, value in sample.items() if value == ""]
    most = {name: max(float(sample[name]) for sample in samples) for name in samples[0] if name != "phase"}
    for name in ("rss_bytes", "pss_bytes", "histories_bytes", "connections_bytes", "disk_bytes", "open_files", "timers", "sessions", "rooms",
                 "messages_per_s", "deliveries_per_s", "server_cpus", "slow_consumers", "resumed", "private_kept", "grace_expired", "tls_handshakes"):
        assert most[name] > 0, name
    assert {row["phase"] for row in samples} >= {"warm-up", "measured"}
    assert {row["profile"] for row in rows(tmp_path / "slices.csv")} >= {"mix", "churn", "resume"}
    events = rows(tmp_path / "events.csv")
    assert {row["event"] for row in events} >= {"phase", "reload", "rotated", "rest", "end"}
    plot = xml.etree.ElementTree.parse(tmp_path / "soak.svg").getroot()
    assert plot.tag.endswith("svg") and len(plot.findall("{*}path")) > 100

    # The same run with memory that grows is another verdict.
    for name in ("samples.csv", "slices.csv", "events.csv", "about.json"):
        shutil.copy(tmp_path / name, tmp_path / f"kept-{name}")
    with open(tmp_path / "samples.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, samples[0])
        writer.writeheader()
        for number in range(600):
            writer.writerow(samples[-1] | {"seconds": 5 * number, "phase": "measured", "rss_bytes": 60_000_000 + 5_000 * number})
    judged = subprocess.run([*SOAK, "--judge", tmp_path], capture_output=True, text=True, timeout=60)
    assert judged.returncode == 1, judged.stdout
    assert [line for line in judged.stdout.splitlines() if line.startswith("FAILED resident memory")], judged.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_running_and_tells_what_there_is(tmp_path, start, number):
    # As a shell without job control starts what is to run in the background.
    ignoring = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]
    soak = start("--minutes", 5, "--rate", 100, "--out", tmp_path, before=ignoring)
    wait_until(lambda: (tmp_path / "events.csv").exists() and "warm-up" in (tmp_path / "events.csv").read_text(), "the load", 30)
    soak.send_signal(number)
    said, errors = soak.communicate(timeout=40)
    assert soak.returncode == 130 and "interrupted" in said, (said, errors)
    assert "SIGTERM: draining" in (tmp_path / "log" / "server.log").read_text()
    found = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout
    assert not found, found
