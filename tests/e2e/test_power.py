"""Power cuts: the disk has what has been synced, and of all the rest what it pleases, a sector at a time."""

import random
import shutil

import pytest

from crash import journals_of
from helpers import binary, run, wait_until
from test_faults import Disk, shim  # noqa: F401  (a fixture)

# What a disk writes as a whole.
SECTOR = 512


class Machine(Disk):
    """A disk of which it is known what it has for sure."""

    def __init__(self, directory, shim, start_server):  # noqa: F811
        super().__init__(directory, shim, start_server)
        self.data, self._synced = directory / "data", directory / "synced"
        self._synced.mkdir()
        self._more = {"SYNCED": str(self._synced)}

    def start(self, **settings):
        return super().start(history__count=1_000_000, history__bytes=0, **settings)

    def has_for_sure(self, text):
        return any(text.encode() in path.read_bytes() for path in self._synced.iterdir() if path.suffix != ".part")

    def cut_power(self, server, keeps):
        """Ends the server with the machine. Of what has not been synced each sector is there if `keeps` says so."""
        journals = journals_of(self.data)  # while the server has the file open: who closes it last writes to it
        server.kill()
        for journal in journals:
            journal.unlink()
        for path in self.data.glob("starling.db*"):
            copy = self._synced / path.name
            synced, written = (file.read_bytes() if file.exists() else b"" for file in (copy, path))
            if path.name.endswith("-shm"):
                path.unlink()  # it is written anew by whoever opens the file first
            elif not copy.exists() and not keeps():
                path.unlink()
            else:
                path.write_bytes(mix(synced, written, keeps))
        # That is what the disk has when the next server begins.
        for copy in self._synced.iterdir():
            copy.unlink()
        for path in self.data.glob("starling.db*"):
            shutil.copy(path, self._synced)


def mix(synced, written, keeps):
    mixed = bytearray(synced)
    for at in range(0, len(written), SECTOR):
        sector = written[at : at + SECTOR]
        if synced[at : at + SECTOR] != sector and keeps():
            if len(mixed) < at + len(sector):
                mixed += bytes(at + len(sector) - len(mixed))
            mixed[at : at + len(sector)] = sector
    return bytes(mixed)


@pytest.fixture
def machine(tmp_path, shim, start_server):  # noqa: F811
    machine = Machine(tmp_path, shim, start_server)
    yield machine
    machine.be("ok")


def check(machine):
    done = run([binary(), "store", "check", "--data-dir", str(machine.data)])
    assert done.returncode == 0, done.stdout + done.stderr


def history(client, room):
    found = {}
    while page := client.call("history", room=room, after=max(found, default=0), limit=1000)["messages"]:
        found |= {message["offset"]: message["content"] for message in page}
    return found


def test_what_was_synced_outlives_a_power_cut_and_nothing_else_is_promised(machine):
    server = machine.start()
    alice = server.ws("alice", "den")
    alice.say("den", "1", "2")
    epoch = alice.call("message", room="den", content="3", ack="synced")["epoch"]
    machine.be("stall-sync")
    for number in range(20):
        alice.call("message", room="den", content=f"stored {number}", ack="stored")
    machine.cut_power(server, keeps=lambda: False)
    machine.be("ok")
    check(machine)
    server = machine.start()
    bob = server.ws("bob")
    assert history(bob, "den") == {1: "1", 2: "2", 3: "3"}
    joined = bob.call("join", room="den", since={"epoch": epoch, "offset": 3})
    assert joined["recovered"] is False and joined["epoch"] != epoch


@pytest.mark.parametrize(("seed", "messages"), [(1, 60), (2, 60), (3, 60), (4, 1200)])
def test_whatever_the_disk_has_kept_the_store_is_whole(machine, seed, messages):
    rng = random.Random(seed)
    synced, sent = {}, {}
    for cut in range(3):
        server = machine.start()
        alice = server.ws(f"alice{cut}", "den")
        before = history(alice, "den")
        for offset, content in synced.items():
            assert before[offset] == content, f"seed {seed}, cut {cut}"
        assert list(before) == list(range(1, len(before) + 1))
        assert set(before.values()) <= set(sent.values())
        # What is there has a place that nothing else will have.
        synced = dict(before)
        # So many go beyond the log into the file.
        for number in range(rng.randrange(messages // 2, messages)):
            content = f"{cut}.{number} {'x' * rng.randrange(2000)}"
            level = "synced" if rng.randrange(messages) < 20 else rng.choice(["sequenced", "stored"])
            offset = alice.call("message", room="den", content=content, ack=level)["offset"]
            sent[cut, offset] = content
            if level == "synced":
                # All that came before it is with it.
                synced |= {place: said for (which, place), said in sent.items() if which == cut and place <= offset}
        machine.cut_power(server, keeps=lambda: rng.random() < 0.5)
        check(machine)
    server = machine.start()
    last = history(server.ws("bob"), "den")
    assert all(last[offset] == content for offset, content in synced.items()), f"seed {seed}"


def test_what_was_stored_is_synced_though_nobody_asks_for_it(machine):
    sync_ms = 1000
    server = machine.start(store__sync_ms=sync_ms)
    alice = server.ws("alice", "den")
    for number in range(20):
        alice.call("message", room="den", content=f"stored {number}", ack="stored")
    # The rest is for a machine that is busy.
    wait_until(lambda: machine.has_for_sure("stored 19"), "a sync", sync_ms / 1000 + 3)
    machine.cut_power(server, keeps=lambda: False)
    check(machine)
    assert history(machine.start().ws("bob"), "den") == {number + 1: f"stored {number}" for number in range(20)}


def test_a_command_that_is_sent_again_for_a_sync_gets_one(machine):
    server = machine.start()
    alice = server.ws("alice", "den")
    stored = alice.call("message", room="den", content="1", id="the same", ack="stored")
    synced = alice.call("message", room="den", content="1", id="the same", ack="synced")
    assert (stored["level"], synced["level"], synced["offset"]) == ("stored", "synced", stored["offset"])
    machine.cut_power(server, keeps=lambda: False)
    check(machine)
    assert history(machine.start().ws("bob"), "den") == {1: "1"}
