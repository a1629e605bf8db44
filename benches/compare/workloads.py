"""What each peer is asked to do, which figure counts, and how one run of it goes."""

import json
import os
import pathlib
import re
import time
from dataclasses import dataclass

from . import check, peers as descriptions
from .processes import Failed, Neighbours, Server, free_port, prepare, run

ROOT = descriptions.ROOT
# What a run may take over its own time: connecting, the report at its end.
SLACK_S = 120
HTTP_CONNECTIONS = 64
PIPELINED = 16
SIZE_BYTES = 128
# A generator whose CPU was this busy measured itself.
BUSY = 0.9


@dataclass
class Workload:
    name: str
    title: str
    """With the load's numbers in braces, by the flags that make them; `members`: of a room."""
    figure: str
    """Which of a run's figures the table is about."""
    unit: str
    higher_is_better: bool
    target: str
    """The peer's attribute that says where it is reached: chat, echo or health."""
    flags: tuple = ()
    quick: tuple = ()
    """Flags of a quick run, instead."""
    needs_rooms: bool = False
    program: str = "wrk"
    """What asks for /health."""


def workloads():
    cost = {"figure": "cpu_us_per_delivery", "unit": "µs of CPU a delivery", "higher_is_better": False, "target": "chat"}
    served = {"figure": "requests_per_cpu_s", "unit": "requests a second of CPU", "higher_is_better": True, "target": "health"}
    return [
        Workload("fanout", "One room of {connections}, {rate} messages a second (open loop)", **cost,
                 flags=("fanout", "--connections", 1000, "--publishers", 1, "--rate", 50),
                 quick=("fanout", "--connections", 200, "--publishers", 1, "--rate", 50)),
        Workload("fanout-full", "One room of {connections}, {publishers} publishers with {in_flight} messages under way each", "deliveries_per_s", "deliveries/s",
                 True, "chat", flags=("fanout", "--connections", 1000, "--publishers", 10, "--in-flight", 8),
                 quick=("fanout", "--connections", 200, "--publishers", 10, "--in-flight", 8)),
        Workload("rooms", "{rooms} rooms of {members}, {rate} messages a second (open loop)", **cost, needs_rooms=True,
                 flags=("rooms", "--connections", 10000, "--rooms", 1000, "--rate", 2000),
                 quick=("rooms", "--connections", 1000, "--rooms", 100, "--rate", 500)),
        Workload("echo-1", "Echo, 1 connection, one round trip at a time", "p50_us", "µs a round trip (p50)", False, "echo",
                 flags=("echo", "--connections", 1, "--in-flight", 1), quick=("echo", "--connections", 1, "--in-flight", 1)),
        Workload("echo-100", "Echo, 100 connections, one round trip at a time each", "deliveries_per_s", "round trips/s", True, "echo",
                 flags=("echo", "--connections", 100, "--in-flight", 1), quick=("echo", "--connections", 100, "--in-flight", 1)),
        Workload("idle", "Memory of {connections} connections that have said hello and nothing since", "private_bytes_per_connection",
                 "private bytes a connection", False, "chat", flags=("idle", "--connections", 9000), quick=("idle", "--connections", 1000)),
        Workload("storm", "{connections} connections into one room as fast as they come", "connects_per_cpu_s", "connections a second of CPU", True,
                 "chat", flags=("storm", "--connections", 5000, "--rooms", 1), quick=("storm", "--connections", 500, "--rooms", 1)),
        Workload("health", f"GET /health with wrk, {HTTP_CONNECTIONS} connections", **served),
        Workload("health-pipelined", f"GET /health with wrk, {HTTP_CONNECTIONS} connections, {PIPELINED} pipelined", **served),
        Workload("health-h2load", f"GET /health with h2load (HTTP/1.1), {HTTP_CONNECTIONS} connections", program="h2load", **served),
    ]


def load_of(workload, options):
    """The load of a run, as flags of what makes it."""
    if workload.target == "health":
        if workload.program == "h2load":
            return ["--h1", "-t1", f"-c{HTTP_CONNECTIONS}", "-m1", f"-D{options.duration}"], []
        is_pipelined = workload.name == "health-pipelined"
        script = ["-s", ROOT / "benches" / "wrk" / "pipeline.lua"] if is_pipelined else []
        return ["-t1", f"-c{HTTP_CONNECTIONS}", f"-d{options.duration}s", "--latency", *script], ["--", PIPELINED] if is_pipelined else []
    load = workload.quick if options.quick else workload.flags
    return [*load, "--size", SIZE_BYTES, "--duration", f"{options.duration}s", "--warmup", f"{options.warmup}s"], []


def title(workload, is_quick=False):
    """The title, with the numbers of the load that is made."""
    load = workload.quick if is_quick else workload.flags
    numbers = {name.removeprefix("--").replace("-", "_"): value for name, value in zip(load[1::2], load[2::2])}
    if numbers.get("rooms"):
        numbers["members"] = numbers["connections"] // numbers["rooms"]
    return workload.title.format(**{name: f"{value:,}" for name, value in numbers.items()})


def described(workload, options):
    """The same in words, for the table."""
    flags, rest = load_of(workload, options)
    program = workload.program if workload.target == "health" else "starling bench"
    return " ".join([program, *(part.name if isinstance(part, pathlib.Path) else str(part) for part in flags + rest)])


def why_not(workload, peer):
    """Why a peer has no figure for a workload; None if it has one. Empty where it is not even asked."""
    if not getattr(peer, workload.target):
        return ""
    if workload.needs_rooms and not peer.has_rooms:
        return "has no rooms"
    return None


def measure(workload, peer, options):
    """One run: the peer starts afresh, and ends when it is over. Returns its figures."""
    port = free_port(options.ports)
    command = peer.echo_command if workload.target == "echo" and peer.echo_command else peer.command
    log = descriptions.OUTPUT / f"{peer.name}.log"
    with Server(command(port), port, options.server_cpus, log, peer.environment) as server:
        neighbours = Neighbours(options.server_cpus | options.client_cpus, server)
        figures = _requests(workload, server, options) if workload.target == "health" else bench(workload, peer, server, options)
        return figures | {"others_share": neighbours.share(), "command": figures["command"]}


def check_peer(peer, options):
    """Lets the small clients look at each thing that the peer is measured at."""
    log = descriptions.OUTPUT / f"{peer.name}.log"
    health = (check.check_health,) if peer.health else None
    for looks, command in ((peer.check_chat, peer.command), (peer.check_echo, peer.echo_command or peer.command), (health, peer.command)):
        if looks:
            port = free_port(options.ports)
            with Server(command(port), port, options.server_cpus, log, peer.environment):
                try:
                    looks[0](*looks[1:], port)
                except OSError as error:
                    raise Failed(f"check: {error}") from None


def bench(workload, peer, server, options):
    """`starling bench` looks at the server from outside and audits what arrives."""
    url, *flags = getattr(peer, workload.target)
    result = descriptions.OUTPUT / "run" / "bench.json"
    result.parent.mkdir(parents=True, exist_ok=True)
    result.unlink(missing_ok=True)
    (profile, *load), _ = load_of(workload, options)
    command = [options.starling, "bench", profile, "--target", url.format(port=server.port), *flags, *load]
    command += ["--cpus", ",".join(map(str, sorted(options.client_cpus))), "--pid", server.pid, "--label", peer.name, "--json", result]
    try:
        run(command, options.duration + options.warmup + SLACK_S, preexec_fn=prepare(options.client_cpus))
    except Failed:
        # It ends with 1 when its audit failed, and has written what it saw.
        if not result.exists():
            raise
    figures = bench_figures(json.loads(result.read_text()))
    figures["command"] = " ".join(str(part) for part in command)
    return figures


def bench_figures(report):
    """The table's figures, from a report of `starling bench` (src/bench/report.rs says what is in it)."""
    profile = report["plan"]["profile"]
    # Nothing is published in these: what is timed is the way in.
    times = report["entry" if profile in ("storm", "idle") else "latency"]
    server = report["server"] or {}
    cpu_s = server.get("cpu_seconds")
    return {
        "p50_us": times["p50_ns"] / 1000 if times["count"] else None,
        "p99_us": times["p99_ns"] / 1000 if times["count"] else None,
        "deliveries": report["received"],
        "deliveries_per_s": report["received_per_second"],
        "deliveries_per_read": report["deliveries_per_read"],
        "connects_per_s": report["entry"]["count"] / report["gathering_seconds"] if report["gathering_seconds"] else None,
        "connects_per_cpu_s": report["entry"]["count"] / cpu_s if cpu_s and report["entry"]["count"] else None,
        "cpu_user_s": server.get("user_seconds"),
        "cpu_system_s": server.get("system_seconds"),
        "cpu_us_per_delivery": server.get("cpu_us_per_delivery"),
        "private_bytes_per_connection": server.get("private_bytes_per_connection"),
        "is_audit_failed": report["verdict"] == "failed",
        "is_generator_bound": report["generator"]["is_bottleneck"],
        "reasons": report["reasons"],
        "whole": report,
    }


def _requests(workload, server, options):
    """wrk and h2load tell nothing of the server: that is read from /proc. One thread of theirs, on the generator's CPUs."""
    flags, rest = load_of(workload, options)
    command = [workload.program, *flags, f"http://127.0.0.1:{server.port}/health", *rest]
    before, own_before, began = server.cpu_s(), os.times(), time.monotonic()
    output = run(command, options.duration + SLACK_S, preexec_fn=prepare(options.client_cpus))
    took_s, own, after = time.monotonic() - began, os.times(), server.cpu_s()
    user_s, system_s = after[0] - before[0], after[1] - before[1]
    cpu_s = user_s + system_s
    program_s = own.children_user + own.children_system - own_before.children_user - own_before.children_system
    requests, per_s, is_wrong = {"wrk": wrk_figures, "h2load": h2load_figures}[workload.program](output)
    return {
        "requests_per_s": per_s,
        "requests_per_cpu_s": requests / cpu_s if cpu_s else None,
        "requests": requests,
        # wrk times batches, not requests, when it pipelines, and only some of them; h2load has no percentiles.
        "p50_us": None if rest else _wrk_us(output, "50%"),
        "p99_us": None if rest else _wrk_us(output, "99%"),
        "cpu_user_s": user_s,
        "cpu_system_s": system_s,
        "cpu_us_per_delivery": cpu_s / max(requests, 1) * 1e6,
        "is_audit_failed": is_wrong,
        "is_generator_bound": program_s / took_s > BUSY and cpu_s / took_s < BUSY,
        "command": " ".join(str(part) for part in command),
        "whole": output,
    }


def wrk_figures(output):
    """How many requests there were, how many a second, and whether something was wrong with any."""
    is_wrong = re.search(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)", output) is not None
    return int(re.search(r"(\d+) requests in", output)[1]), float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1]), is_wrong


def h2load_figures(output):
    """The same of h2load."""
    done, succeeded = map(int, re.search(r"(\d+) done, (\d+) succeeded", output).groups())
    return done, float(re.search(r"finished in [^,]+, ([\d.]+) req/s", output)[1]), done != succeeded or done == 0


def _wrk_us(output, percentile):
    found = re.search(rf"^\s+{percentile}\s+([\d.]+)(us|ms|s)$", output, re.M)
    return found and float(found[1]) * {"us": 1, "ms": 1e3, "s": 1e6}[found[2]]


def why_no_load(workload, options):
    """Gets what makes the load; returns why it cannot be had, or None."""
    try:
        if workload.target == "health":
            descriptions.debian({"h2load": "nghttp2-client"}.get(workload.program, workload.program), workload.program)
        else:
            run([options.starling, "bench", "--help"], 10)
    except Failed as error:
        return str(error)
    except OSError as error:
        return f"{options.starling}: {error.strerror}"
    return None
