"""What is measured at each number of cores, connections, rooms and heartbeats, and how one run of it goes."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
from dataclasses import dataclass

from compare import peers as descriptions, workloads
from compare.processes import Failed, Neighbours, Server, free_port, prepare, run

ROOT = descriptions.ROOT
TIMEOUT_S = 120
# Held rooms: fewer a connection than limits.rooms_per_session.
ROOMS_OF_ONE = 100
# The rooms that speak while others are held or idle.
SPEAKING, SPEAKING_MEMBERS = 10, 10
RATE = 1000
# Said in each run of the rooms in memory; an emulated processor takes fifty times as long for each, and for making the rooms.
MESSAGES, MESSAGES_EMULATED = 100_000, 2_000
ROOMS_EMULATED_MAX = 1000
# Nineteen thousand connections at this interval have as many heartbeats a second as a million at the default one.
PROBE_MS = 600
PROBE_MS_DEFAULT = 30_000
# Probes are put off by up to an eighth of their interval (PROBE_SPREAD in src/shard/timers.rs), a sixteenth on average.
PROBE_SPREAD = 8


@dataclass
class Column:
    figure: str
    title: str
    is_compared: bool = False
    """Whether the first row's figure is what the others' should be."""
    is_counted: bool = False
    """Memory, or a count: next to the same in each round, so that there is no range to tell."""


@dataclass
class Load:
    name: str
    section: str
    """cores, connections, rooms or heartbeats."""
    title: str
    variable: str
    """What grows."""
    sizes: tuple
    quick: tuple
    columns: list
    run: object
    """(size, options) -> figures."""
    note: str = ""


def loads():
    cpu = Column("cpu_us_per_delivery", "µs of CPU a delivery", True)
    connection = Column("private_bytes_per_connection", "private bytes a connection", is_counted=True)
    per_s = Column("deliveries_per_s", "deliveries/s")
    cores = {"section": "cores", "variable": "cores", "sizes": (1, 2, 4), "quick": (1, 2)}
    connections = {"section": "connections", "variable": "connections", "sizes": (100, 300, 1000, 3000, 10_000, 19_000), "quick": (100, 1000)}
    rooms = {"section": "rooms", "variable": "rooms", "sizes": (1, 10, 100, 1000, 10_000, 100_000), "quick": (1, 1000)}
    return [
        Load("cores-fixed", title="One room of 1,000 (--quick: 200), 50 messages a second (open loop)", columns=[cpu], **cores,
             run=lambda cores, options: bench(options, ("fanout", "-c", 200 if options.quick else 1000, "-p", 1, "-r", 50), cores=cores)),
        Load("cores-full", title="One room of 1,000 (--quick: 200), saturated: 10 publishers with 8 messages under way each", columns=[cpu, per_s], **cores,
             run=lambda cores, options: bench(options, ("fanout", "-c", 200 if options.quick else 1000, "-p", 10, "-i", 8), cores=cores)),
        Load("connections-idle", title=f"{SPEAKING} rooms of {SPEAKING_MEMBERS} speak, {RATE:,} messages a second; all other connections are in silent rooms",
             columns=[cpu, connection], **connections,
             run=lambda count, options: bench(options, ("rooms", "-c", count, "--rooms", count // SPEAKING_MEMBERS, "-p", SPEAKING, "-r", RATE))),
        Load("connections-all", title=f"All rooms of {SPEAKING_MEMBERS} speak in turn, {RATE:,} messages a second in all", columns=[cpu, connection], **connections,
             run=lambda count, options: bench(options, ("rooms", "-c", count, "--rooms", count // SPEAKING_MEMBERS, "-r", RATE))),
        Load("rooms-held", title=f"Held by real connections in {ROOMS_OF_ONE} rooms each; {SPEAKING} other rooms of {SPEAKING_MEMBERS} speak, {RATE:,} messages a second",
             columns=[cpu, Column("private_bytes_per_room", "private bytes a room with one member", is_counted=True)], **rooms, run=held_rooms,
             note="Pages are counted, so that bytes a room of few rooms say nothing; they are left out below 1,000."),
        Load("rooms-simulated", title=f"Simulated: {SPEAKING_MEMBERS} members a room, over a kernel in memory",
             columns=[Column("cpu_us_one", "µs of CPU a message, all in one room", True), Column("cpu_us_all", "µs of CPU a message, all rooms in turn", True),
                      Column("instructions_one", "instructions a message, all in one room", True, True), Column("instructions_all", "instructions a message, all rooms in turn", True, True),
                      Column("allocations_all", "allocations a message", is_counted=True),
                      Column("bytes_per_room", "bytes a room, empty", is_counted=True), Column("bytes_per_full_room", "bytes a room with 16 messages of 128 bytes", is_counted=True)],
             **rooms, run=simulated_rooms,
             note="A message is read, published and written to ten members; the kernel's work is not in it. Each connection is in up to 125 rooms. Instructions are counted by callgrind, in one round, and for up to 1,000 rooms."),
        Load("heartbeats", "heartbeats", f"Idle connections, a heartbeat each {PROBE_MS} ms", "connections", (1000, 10_000, 19_000), (1000,),
             [Column("cpu_us_per_heartbeat", "µs of CPU a heartbeat", True), Column("heartbeats_per_s", "heartbeats/s (computed)", is_counted=True), connection],
             heartbeats),
        Load("hold", "heartbeats", f"Idle connections, no heartbeat in the measured time (each {PROBE_MS_DEFAULT // 1000} s)", "connections",
             (1000, 10_000, 19_000), (1000,), [Column("cpu_ms_per_s", "ms of CPU a second"), connection], hold),
    ]


def server_of(options, cores=1, settings=()):
    """A starling to be started, as the comparison has them."""

    def command(port):
        flags = [flag for setting in ("rate.commands_per_second=0", "store.kind=memory", *settings) for flag in ("--set", setting)]
        return [options.starling, "serve", "--cores", cores, "--log-level", "error", *flags,
                "--web", f"127.0.0.1:{port}", "--line", f"127.0.0.1:{free_port()}", "--frame", "127.0.0.1:0"]

    return descriptions.Peer("starling", "", command, None, chat=("ws://127.0.0.1:{port}/ws",))


def workload_of(flags):
    return workloads.Workload("scaling", "", "", "", False, "chat", flags=flags, quick=flags)


def bench(options, flags, cores=1, settings=()):
    """One run of `starling bench` against a server of its own."""
    return workloads.measure(workload_of(flags), server_of(options, cores, settings), options)


def held_rooms(count, options):
    """Other connections hold the rooms while `starling bench` makes a load that does not depend on them."""
    peer = server_of(options, settings=("limits.rooms=1000000",))
    port = free_port()
    command = peer.command(port)
    line_port = int(command[command.index("--line") + 1].rsplit(":", 1)[1])
    with Server(command, port, options.server_cpus, descriptions.OUTPUT / "starling.log") as server, contextlib.ExitStack() as held:
        holders = [held.enter_context(Holder(line_port, number)) for number in range(-(-count // ROOMS_OF_ONE))]
        before = private_bytes(server.pid)
        for holder in holders:
            first = holder.number * ROOMS_OF_ONE
            holder.join(range(first, min(first + ROOMS_OF_ONE, count)))
        grown = private_bytes(server.pid) - before
        neighbours = Neighbours(options.server_cpus | options.client_cpus, server)
        flags = ("rooms", "-c", SPEAKING * SPEAKING_MEMBERS, "--rooms", SPEAKING, "-r", RATE)
        figures = workloads.bench(workload_of(flags), peer, server, options)
        return figures | {"private_bytes_per_room": grown / count if count >= 1000 else None, "others_share": neighbours.share()}


class Holder:
    """A connection that joins rooms and is silent then. It answers no heartbeat: it is gone before one is due twice."""

    def __init__(self, port, number):
        self.number = number
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        self.reader = self.connection.makefile("rb")
        self.connection.sendall(b'{"type":"hello","nickname":"holder%d"}\n' % number)
        self._wait_for(b'"welcome"', 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.reader.close()
        self.connection.close()

    def join(self, rooms):
        self.connection.sendall(b"".join(b'{"type":"join","room":"held%d"}\n' % room for room in rooms))
        self._wait_for(b'"joined"', len(rooms))

    def _wait_for(self, what, count):
        while count:
            line = self.reader.readline()
            if not line or b'"error"' in line:
                raise Failed(f"a connection that holds rooms was told {line!r}")
            count -= what in line


def private_bytes(pid):
    rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kib) for kib in re.findall(r"Private_(?:Dirty|Clean):\s+(\d+)", rollup)) * 1024


def simulated_rooms(count, options):
    """A core in the process of benches/rooms.rs; and the same on an emulated processor, which counts, once."""
    messages = MESSAGES // 10 if options.quick else MESSAGES
    watched = Nobody()
    neighbours = Neighbours(options.server_cpus, watched)
    measured = json.loads(run([options.rooms_bench, count, messages], TIMEOUT_S, preexec_fn=prepare(options.server_cpus)))
    figures = {
        "cpu_us_one": measured["one"]["cpu_us_per_message"],
        "cpu_us_all": measured["all"]["cpu_us_per_message"],
        "allocations_all": measured["all"]["allocations_per_message"],
        "bytes_per_room": measured["bytes_per_room"],
        "bytes_per_full_room": measured["bytes_per_full_room"],
        "others_share": neighbours.share(),
        "whole": measured,
    }
    if options.round_number == 0 and count <= ROOMS_EMULATED_MAX and shutil.which("callgrind_annotate"):
        figures |= instructions(count, options)
    return figures


def instructions(count, options):
    out = descriptions.OUTPUT / "run" / "callgrind.out"
    out.parent.mkdir(parents=True, exist_ok=True)
    run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", options.rooms_bench, count, MESSAGES_EMULATED], TIMEOUT_S,
        preexec_fn=prepare(options.server_cpus))
    annotated = run(["callgrind_annotate", "--inclusive=yes", "--threshold=100", out], TIMEOUT_S)
    return {f"instructions_{name}": inclusive(annotated, f"speak_in_{name}") / MESSAGES_EMULATED for name in ("one", "all")}


def inclusive(annotated, function):
    """The instructions of a function and all that it calls, from callgrind_annotate."""
    found = re.search(rf"^\s*([\d,]+) .*\b{function}\b", annotated, re.M)
    if not found:
        raise Failed(f"callgrind tells nothing of {function}")
    return int(found[1].replace(",", ""))


class Nobody:
    """For Neighbours where what is measured is a child that has been waited for."""

    def cpu_s(self):
        return 0.0, 0.0


def heartbeats(count, options):
    figures = bench(options, ("idle", "-c", count), settings=(f"heartbeat.probe_ms={PROBE_MS}",))
    per_s = heartbeats_per_s(count, PROBE_MS)
    return figures | {"heartbeats_per_s": per_s, "cpu_us_per_heartbeat": cpu_s_per_s(figures) / per_s * 1e6}


def hold(count, options):
    figures = bench(options, ("idle", "-c", count))
    return figures | {"cpu_ms_per_s": cpu_s_per_s(figures) * 1e3}


def cpu_s_per_s(figures):
    return figures["whole"]["server"]["cpu_seconds"] / figures["whole"]["seconds"]


def heartbeats_per_s(connections, probe_ms):
    """How many there are of idle connections. The time to the answer, and timers' ticks, are small beside it and left out."""
    return connections / (probe_ms / 1e3 * (1 + 1 / PROBE_SPREAD / 2))


def build(options):
    """Builds what is measured; whoever has a starling already names it."""
    if options.binary is None:
        run(["cargo", "build", "--release", "--bin", "starling"], descriptions.INSTALL_S, cwd=ROOT)
    if "rooms" in options.only:
        told = run(["cargo", "bench", "--bench", "rooms", "--no-run", "--message-format", "json"], descriptions.INSTALL_S, cwd=ROOT)
        options.rooms_bench = executable(told)


def executable(told):
    """Where cargo has put the benchmark, from its JSON."""
    messages = (json.loads(line) for line in told.splitlines() if line.startswith("{"))
    paths = [message["executable"] for message in messages if message.get("executable") and message["target"]["name"] == "rooms"]
    if not paths:
        raise Failed("cargo does not tell where the benchmark is")
    return paths[-1]


def machine():
    """What a table has to say of where it was made."""
    return f"{processor()}, {os.cpu_count()} processors"


def processor():
    names = (line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    return next(names, os.uname().machine)
