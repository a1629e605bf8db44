"""A server is replaced by the next one under its clients, as systemd does it with sockets of its own (LISTEN_FDS): nobody is refused,
everybody comes back by itself, and nobody misses or repeats a message. As a program it does so with as many clients as are asked for:

    python tests/e2e/handover.py --clients 10000
"""

import argparse
import asyncio
import collections
import contextlib
import itertools
import json
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time

# Puts sockets where systemd puts them, and says so to the program that it becomes.
LAUNCHER = """
import os, sys
passed, command = [int(fd) for fd in sys.argv[1].split(",")], sys.argv[2:]
moved = [os.dup2(fd, 1000 + index) for index, fd in enumerate(passed)]
for index, fd in enumerate(moved):
    os.dup2(fd, 3 + index)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(passed))}
os.execv(command[0], command)
"""


def listen(count, port=0, backlog=4096):
    """As many sockets that share a port."""
    sockets = []
    for _ in range(count):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(("127.0.0.1", port))
        one.listen(backlog)
        port = one.getsockname()[1]
        sockets.append(one)
    return sockets


def start(sockets, command, **options):
    """Starts a program with sockets."""
    fds = [one.fileno() for one in sockets]
    launcher = [sys.executable, "-c", LAUNCHER, ",".join(map(str, fds)), *command]
    # What begins so is a setting, and these are none.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("STARLING_")}
    return subprocess.Popen(launcher, pass_fds=fds, stdin=subprocess.DEVNULL, env=ours, **options)


class Client:
    """One on JSON lines, in one room, that comes back when it is told to."""

    def __init__(self, trial, number):
        self.trial, self.number = trial, number
        self.room = f"room-{number % trial.rooms}"
        self.token = self.place = None
        self.heard = []
        self.unanswered = {}
        self.ids = itertools.count()
        self.writer = None
        self.is_here = asyncio.Event()

    def send(self, type, **fields):
        self.writer.write(json.dumps({"type": type} | fields).encode() + b"\n")

    def say(self):
        """Says something, and again with the same id when it is back before it has been answered."""
        id = f"m{next(self.ids)}"
        self.unanswered[id] = f"{self.number} {id}"
        if self.is_here.is_set():
            self.send("message", id=id, room=self.room, content=self.unanswered[id])

    async def live(self):
        pause = 0
        while True:
            await asyncio.sleep(pause)
            try:
                reader, self.writer = await asyncio.open_connection(*self.trial.address)
            except OSError:
                self.trial.counts["refused"] += 1
                pause = 0.05
                continue
            try:
                pause = await self.talk(reader)
            except OSError:
                pause = 0
            self.is_here.clear()
            self.writer.close()
            self.trial.counts["connections lost without a word" if pause is None else "connections ended"] += 1
            pause = pause or 0

    async def talk(self, reader):
        self.send("hello", **({"resume": self.token} if self.token else {"nickname": f"c{self.number}"}))
        while line := await reader.readline():
            event = json.loads(line)
            match event["type"]:
                case "welcome":
                    if self.token:
                        self.trial.counts["resumed" if event["resumed"] else "not resumed"] += 1
                    self.token = event["resume"]
                    since = {"since": {"epoch": self.place[0], "offset": self.place[1]}} if self.place else {}
                    self.send("join", room=self.room, **since)
                case "joined":
                    if self.place:
                        self.trial.counts["recovered" if event.get("recovered") else "not recovered"] += 1
                    else:
                        self.place = event["epoch"], event["offset"]
                    self.is_here.set()
                    for id, content in self.unanswered.items():
                        self.send("message", id=id, room=self.room, content=content)
                case "message":
                    epoch, offset = self.place
                    if event["offset"] != offset + 1:
                        self.trial.counts["gaps and repeats"] += 1
                    self.place = epoch, event["offset"]
                case "ack":
                    self.unanswered.pop(event.get("id"), None)
                case "ping":
                    self.send("pong")
                case "error":
                    self.trial.counts[f"error {event['code']} {event['reason']}"] += 1
                    if event["reason"] in ("draining", "unavailable"):
                        # Too late for this server: the next one.
                        return (event.get("retry_after_ms") or 100) / 1000
                case "bye":
                    return event["after_ms"] / 1000
        return None


class Trial:
    """Clients, and the servers that follow each other."""

    def __init__(self, binary, directory, clients, rooms, cores, spread_ms):
        self.rooms, self.counts = rooms, collections.Counter()
        self.sockets = listen(cores)
        self.address = self.sockets[0].getsockname()
        place = f"{self.address[0]}:{self.address[1]}"
        self.command = [binary, "serve", "--cores", str(cores), "--listen", f"line={place}", "--data-dir", str(directory),
                        "--set", f"drain.spread_ms={spread_ms}", "--set", "rate.commands_per_second=0",
                        # So many clients of one program are late with their first words, and are no people.
                        "--set", "limits.detect_ms=10000"]
        self.log = open(pathlib.Path(directory) / "log", "ab")
        self.clients = [Client(self, number) for number in range(clients)]
        self.server = None

    def start(self):
        self.server = start(self.sockets, self.command, stdout=self.log, stderr=self.log)

    async def all_here(self, deadline_s=120):
        async with asyncio.timeout(deadline_s):
            for client in self.clients:
                await client.is_here.wait()

    async def replace(self):
        """Ends the server, and starts the next one when it has ended, as systemctl restart does. Returns how long it took: until that one
        is there, and until all clients are."""
        began = time.monotonic()
        for client in self.clients:
            client.is_here.clear()
        self.server.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(self.server.wait)
        assert code == 0, code
        self.start()
        ended = time.monotonic()
        await self.all_here()
        return ended - began, time.monotonic() - began

    async def run(self, replacements, pause_s=0.05):
        self.start()
        lives = []
        for client in self.clients:
            lives.append(asyncio.create_task(client.live()))
            if len(lives) % 100 == 0:
                await asyncio.sleep(0.01)
        await self.all_here()
        is_over = asyncio.Event()

        async def chat():
            for client in itertools.cycle(self.clients[: 4 * self.rooms]):
                if is_over.is_set():
                    return
                client.say()
                await asyncio.sleep(pause_s)

        chatting = asyncio.create_task(chat())
        times = []
        for _ in range(replacements):
            await asyncio.sleep(10 * pause_s)
            times.append(await self.replace())
        await asyncio.sleep(10 * pause_s)
        is_over.set()
        await chatting
        async with asyncio.timeout(60):
            while any(client.unanswered for client in self.clients):
                await asyncio.sleep(0.01)
            heads = collections.defaultdict(int)
            while True:
                for client in self.clients:
                    heads[client.room] = max(heads[client.room], client.place[1])
                if all(client.place[1] == heads[client.room] for client in self.clients):
                    break
                await asyncio.sleep(0.01)
        self.counts["messages"] = sum(heads.values())
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)
        return times

    def close(self):
        if self.server and self.server.poll() is None:
            self.server.terminate()
            self.server.wait(30)
        for one in self.sockets:
            one.close()
        self.log.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--rooms", type=int, default=100)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--replacements", type=int, default=2)
    parser.add_argument("--spread-ms", type=int, default=5000, help="drain.spread_ms")
    parser.add_argument("--binary", default=os.environ.get("STARLING_BIN", "target/release/starling"))
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="starling-") as directory:
        trial = Trial(os.path.abspath(arguments.binary), directory, arguments.clients, arguments.rooms, arguments.cores, arguments.spread_ms)
        with contextlib.closing(trial):
            times = asyncio.run(trial.run(arguments.replacements))
        print((pathlib.Path(directory) / "log").read_text())
    for ended_s, back_s in times:
        print(f"the next server was started after {ended_s:.2f} s, all clients were back after {back_s:.2f} s")
    for what, count in sorted(trial.counts.items()):
        print(f"{count:8} {what}")


if __name__ == "__main__":
    main()
