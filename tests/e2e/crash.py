"""Publishers at each level, and a server that is killed under them again and again. What was promised must be there afterwards, once, in its
place, and no place may ever have meant two things. `scripts/crash` runs it for as long as one likes."""

import collections
import contextlib
import pathlib
import random
import socket
import sqlite3
import threading
import time

from helpers import DEADLINE_S, JsonLineClient, Server

LEVELS = ("sequenced", "stored", "synced")

# Commands of one publisher that may be under way, and how many it sends a second at most: all that was ever said is read again after each kill.
WINDOW = 16
RATE = 400


class Broken(AssertionError):
    """A promise that was not kept."""


class Record:
    """What anybody was ever told of a place, by all clients together."""

    def __init__(self):
        self._lock = threading.Lock()
        self.places = {}
        self.faults = []

    def note(self, room, epoch, offset, content):
        with self._lock:
            known = self.places.setdefault((room, epoch, offset), content)
            if known != content:
                self.faults.append(f"{room} {epoch}:{offset} was {known!r} and is {content!r}")


class Publisher(threading.Thread):
    """Publishes numbered messages in one room, over as many servers as it takes. What was not acknowledged is sent again, by the same id."""

    def __init__(self, address_of, record, room, name, level):
        super().__init__(daemon=True)
        self.address_of, self.record, self.room, self.nickname, self.level = address_of, record, room, name, level
        self.acked = {}
        self.sent = 0
        self.resume_token = None
        self.stops = False
        self.refused = 0
        self.resumed = 0
        self.error = None

    def run(self):
        self.began = time.monotonic()
        try:
            while not (self.stops and self._is_done()):
                try:
                    self._session()
                except (OSError, EOFError, TimeoutError, AssertionError):
                    time.sleep(0.01)  # the server is being killed, or started again
        except Exception as error:  # noqa: BLE001 - told by whoever waits for this thread
            self.error = error

    def _is_done(self):
        return len(self.acked) == self.sent

    def _session(self):
        client = JsonLineClient(self.address_of())
        try:
            hello = {"resume": self.resume_token} if self.resume_token else {}
            welcome = client.call("hello", nickname=self.nickname, **hello)
            if welcome["type"] != "welcome":
                raise Broken(f"{self.nickname}: {welcome}")
            if self.resume_token:
                if not welcome["resumed"]:
                    raise Broken(f"{self.nickname}: the session is gone")
                self.resumed += 1
            self.resume_token = welcome["resume"]
            joined = client.call("join", room=self.room)
            epoch = joined["epoch"]
            waiting = [n for n in range(self.sent) if n not in self.acked]
            for n in waiting:
                self._send(client, n)
            under_way = len(waiting)
            while not (self.stops and self._is_done()):
                while not self.stops and under_way < WINDOW and (under_way == 0 or self.sent < RATE * (time.monotonic() - self.began)):
                    self._send(client, self.sent)
                    self.sent += 1
                    under_way += 1
                event = client.next()
                if event["type"] == "message":
                    self.record.note(self.room, epoch, event["offset"], event["content"])
                elif event["type"] == "ack":
                    n = int(event["id"])
                    under_way -= n not in self.acked
                    self.acked[n] = (event["epoch"], event["offset"], event["level"])
                    self.record.note(self.room, event["epoch"], event["offset"], f"{self.nickname} {n}")
                elif event["type"] == "error":
                    self.refused += 1
                    if event["reason"] != "store_down":
                        raise Broken(f"{self.nickname}: {event}")
                    self._send(client, int(event["id"]))
        finally:
            client.close()

    def _send(self, client, n):
        client.send("message", room=self.room, content=f"{self.nickname} {n}", ack=self.level, id=str(n))


def run(directory, kills, seconds_between, seed, say=lambda text: None, rooms=3, loses_memory=False, **settings):
    """Runs publishers and kills servers; raises Broken when a promise was not kept. Returns what happened, in numbers."""
    rng = random.Random(seed)
    record = Record()
    current = {}

    def start():
        server = Server(store__kind="sqlite", data_dir=str(directory), **settings)
        current["address"] = server.line
        return server

    def address_of():
        address = current.get("address")
        if address is None:
            raise ConnectionRefusedError("there is no server now")
        return address

    server = start()
    publishers = [Publisher(address_of, record, f"room-{room}", f"{level}-{room}", level) for room in range(rooms) for level in LEVELS]
    for publisher in publishers:
        publisher.start()
    totals = collections.Counter()
    for kill in range(kills):
        time.sleep(rng.uniform(*seconds_between))
        current["address"] = None
        server.kill()
        server.close()
        if loses_memory:
            lose_memory(directory)
        acked = {publisher: dict(publisher.acked) for publisher in publishers}
        totals["kills"] += 1
        server = start()
        for room in {publisher.room for publisher in publishers}:
            told = {p: acks for p, acks in acked.items() if p.room == room and not (loses_memory and p.level == "sequenced")}
            check_places(server, room, told, has_same_epoch=not loses_memory)
        say(f"{kill + 1} of {kills} kills, {sum(len(p.acked) for p in publishers):,} messages acknowledged")
    for publisher in publishers:
        publisher.stops = True
    for publisher in publishers:
        publisher.join(DEADLINE_S)
        if publisher.is_alive() or publisher.error:
            raise Broken(f"{publisher.nickname} did not finish: {publisher.error}")
    server.close()
    check_whole(directory, publishers, record, loses_memory)
    totals["acked"] = sum(len(publisher.acked) for publisher in publishers)
    totals["resumed"] = sum(publisher.resumed for publisher in publishers)
    totals["places"] = len(record.places)
    return totals


def lose_memory(directory):
    """What a machine that fails takes along: shared memory."""
    for journal in journals_of(directory):
        journal.unlink()


def journals_of(directory):
    with contextlib.closing(sqlite3.connect(f"file:{directory}/starling.db?mode=ro", uri=True)) as db:
        [identity] = db.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()
    return list(pathlib.Path("/dev/shm").glob(f"starling-{identity}-*"))


def check_places(server, room, told, has_same_epoch):
    """What was acknowledged to the publishers of a room is where it was said to be."""
    reader = JsonLineClient(server.line).enter(f"reader-{time.time_ns()}")
    held, after = {}, 0
    while True:
        page = reader.call("history", room=room, after=after, limit=1000)
        if page["type"] == "error" and page["reason"] == "no_such_room" and not any(told.values()):
            break
        if page["type"] != "history":
            raise Broken(f"{room}: {page}")
        for message in page["messages"]:
            if message["offset"] <= after:
                raise Broken(f"{room}: {message['offset']} after {after}")
            after = message["offset"]
            held[after] = message["content"]
        if not page["messages"]:
            break
    for publisher, acks in told.items():
        for n, (epoch, offset, level) in acks.items():
            if held.get(offset) != f"{publisher.nickname} {n}":
                raise Broken(f"{publisher.nickname} {n} was acknowledged ({level}) at {epoch}:{offset}; there is {held.get(offset)!r}")
            if has_same_epoch and epoch != page["epoch"]:
                raise Broken(f"{room}: the epoch was {epoch} and is {page['epoch']}")
    reader.call("quit")
    reader.close()


def check_whole(directory, publishers, record, loses_memory):
    """At the end each message is there once, those of one publisher in order, the offsets without a gap."""
    if record.faults:
        raise Broken("; ".join(record.faults[:10]))
    with sqlite3.connect(f"file:{directory}/starling.db?mode=ro", uri=True) as db:
        rows = db.execute("SELECT r.name, m.offset, m.content, r.epoch FROM messages m JOIN rooms r ON r.id = m.room ORDER BY 1, 2").fetchall()
    by_room = collections.defaultdict(list)
    for room, offset, content, epoch in rows:
        by_room[room].append((offset, content))
        if record.places.get((room, epoch, offset), content) != content:
            raise Broken(f"{room} {epoch}:{offset} was {record.places[room, epoch, offset]!r} and is {content!r}")
    for room, held in by_room.items():
        if [offset for offset, _ in held] != list(range(1, len(held) + 1)):
            raise Broken(f"{room} has gaps")
        contents = [content for _, content in held]
        for publisher in publishers:
            if publisher.room != room:
                continue
            own = [int(content.split(" ")[1]) for content in contents if content.startswith(publisher.nickname + " ")]
            if len(own) != len(set(own)):
                raise Broken(f"{publisher.nickname}: some messages are there twice")
            wanted = set(range(publisher.sent))
            if set(own) != wanted and not (loses_memory and publisher.level == "sequenced"):
                raise Broken(f"{publisher.nickname}: {sorted(wanted - set(own))[:10]} are missing, {sorted(set(own) - wanted)[:10]} too many")
