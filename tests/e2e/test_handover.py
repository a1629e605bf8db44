"""Sockets that outlive the server (systemd's socket activation), and what a restart is then for its clients."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess

import pytest

from handover import Trial, listen, start
import helpers
from helpers import DEADLINE_S, binary, cores, wait_until


@pytest.fixture
def trial(tmp_path):
    with contextlib.closing(Trial(binary(), tmp_path, clients=200, rooms=5, cores=cores(), spread_ms=300)) as trial:
        yield trial


def test_nobody_is_refused_and_nothing_is_lost(trial):
    asyncio.run(trial.run(2))
    counts = trial.counts
    assert counts["messages"] > 0
    assert counts["resumed"] == counts["recovered"] == 2 * 200, counts
    lost = ["refused", "not resumed", "not recovered", "gaps and repeats", "connections lost without a word"]
    assert not {name: counts[name] for name in lost if counts[name]}, counts


def run(sockets, *flags):
    process = start(sockets, [binary(), "serve", "--set", "store.kind=memory", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, err.decode()


def test_sockets_that_cannot_be_served_are_told():
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(one) for one in listen(2)]
        place = f"127.0.0.1:{sockets[0].getsockname()[1]}"
        code, said = run(sockets, "--listen", "line=127.0.0.1:0")
        assert code == 1 and place in said and "--listen" in said, said
        code, said = run(sockets, "--listen", f"line={place}", "--cores", "1")
        assert code == 1 and "1 cores" in said and "2 sockets" in said, said
        stream, peer = map(stack.enter_context, socket.socketpair())
        code, said = run([stream], "--listen", "line=127.0.0.1:0")
        assert code == 1 and "ListenStream" in said, said


def test_cores_may_share_a_socket(tmp_path):
    """One for two cores: they accept from the same queue."""
    (one,) = listen(1)
    with one:
        host, port = one.getsockname()
        command = [binary(), "serve", "--cores", "2", "--no-pin", "--listen", f"line={host}:{port}", "--set", "store.kind=memory"]
        with open(tmp_path / "log", "wb") as log:
            process = start([one], command, stdout=log, stderr=log)
        try:
            async def hello(number):
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(json.dumps({"type": "hello", "nickname": f"n{number}"}).encode() + b"\n")
                welcome = json.loads(await reader.readline())
                writer.close()
                return welcome["type"]

            async def all():
                return await asyncio.gather(*(hello(number) for number in range(100)))

            assert asyncio.run(all()) == ["welcome"] * 100
            wait_until(lambda: b"share a socket" in (tmp_path / "log").read_bytes(), "the warning")
        finally:
            process.terminate()
            assert process.wait(DEADLINE_S) == 0


def test_sockets_of_another_process_are_not_taken(start_server):
    server = start_server(_environment={"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "3"})
    assert server.get("/ready").status == 200


@pytest.mark.parametrize("count", [1, 2])
def test_sockets_that_were_not_passed_are_missed(tmp_path, count):
    """Nothing that the server has opened itself is taken for them, such as its log."""
    started = f"LISTEN_PID=$$ LISTEN_FDS={count} exec {binary()} serve --web 127.0.0.1:0 --log-file {tmp_path}/log --set store.kind=memory"
    ended = helpers.run(["sh", "-c", started])
    assert ended.returncode == 1 and ended.stdout == b"", ended
    told = ended.stderr.decode().splitlines()[-1]
    assert f"LISTEN_FDS={count} " in told and "are not there" in told and "unset LISTEN_FDS" in told, told
