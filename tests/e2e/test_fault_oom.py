"""The kernel's OOM killer, in a cgroup that has too little memory: a row of docs/faults.md."""

import os
import signal
from pathlib import Path

import pytest

from helpers import wait_until
from test_cluster import resumed
from test_faults import speak_until_it_ends

ROOT = Path("/sys/fs/cgroup")
LIMIT = 64 << 20


class Group:
    """A memory cgroup of either version (cgroups(7))."""

    def __init__(self):
        self.is_second = (ROOT / "cgroup.controllers").exists()
        base = ROOT if self.is_second else ROOT / "memory"
        own = next((path for _, names, path in (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
                    if ("memory" in names.split(",")) or (self.is_second and not names)), "/")
        parent = base / own.strip("/")
        self.path = (parent if parent.is_dir() and not self.is_second else base) / f"starling-test-{os.getpid()}"
        self.path.mkdir()
        try:
            (self.path / ("memory.max" if self.is_second else "memory.limit_in_bytes")).write_text(str(LIMIT))
        except OSError:
            self.close()
            raise

    def take(self, process):
        (self.path / "cgroup.procs").write_text(str(process))

    def kills(self):
        events = (self.path / ("memory.events" if self.is_second else "memory.oom_control")).read_text()
        return int(dict(line.split() for line in events.splitlines())["oom_kill"])

    def close(self):
        # What has ended may be in it for a moment more.
        wait_until(lambda: not (self.path / "cgroup.procs").read_text(), "the cgroup to be empty")
        self.path.rmdir()


@pytest.fixture
def group():
    try:
        group = Group()
    except OSError as why:
        pytest.skip(f"no memory cgroup can be made here: {why}")
    yield group
    group.close()


def test_what_was_announced_outlives_the_oom_killer(disk, group):
    server = disk(history__count=100_000, history__memory_count=100_000, history__bytes=0)
    alice, bob = server.ws("alice", "den"), server.ws("bob", "den")
    last = alice.say("den", "first")[0]["offset"]
    assert bob.expect("message")["offset"] == last
    bob.drop()
    group.take(server.process.pid)
    last = speak_until_it_ends(alice, last)
    assert server.fail() == -signal.SIGKILL
    assert group.kills() == 1
    server = disk()
    bob = resumed(server, bob)
    page = bob.call("history", room="den", after=last - 1, limit=1)
    assert page["messages"][0]["offset"] == last, "what its sender knew to have a place"
