"""A thousand connections are killed at random moments while fifty publishers keep on: nobody misses anything, and nobody hears anything twice."""

import asyncio
import base64
import contextlib
import json
import os
import random
import socket
import struct

import pytest

from binary import COMMAND_KINDS, HEADER, JSON, MAGIC

SEED = int(os.environ.get("STARLING_TEST_SEED", "7"))
MEMBERS = 1000
ROOMS = 20
PUBLISHERS = 50
KILLS = 2
# Over how long the kills are spread, and how long a publisher rests at most between two messages.
WINDOW_S = 8
REST_S = 0.5
# How long a killed client waits at most before it comes back.
PAUSE_S = 1
DEADLINE_S = 75


class Line:
    """JSON lines."""

    listener = "line"

    async def open(self, reader, writer):
        pass

    def encoded(self, command):
        return json.dumps(command).encode() + b"\n"

    async def read(self, reader):
        # A busy machine may greet a program before its first byte is there.
        while not (line := await reader.readuntil(b"\n")).startswith(b"{"):
            pass
        return line


class Frame:
    """Binary frames with JSON in them."""

    listener = "frame"

    async def open(self, reader, writer):
        pass

    def encoded(self, command):
        payload = json.dumps(command).encode()
        return HEADER.pack(MAGIC, 1, len(payload), JSON, COMMAND_KINDS[command["type"]]) + payload

    async def read(self, reader):
        _, _, length, _, _ = HEADER.unpack(await reader.readexactly(HEADER.size))
        return await reader.readexactly(length)


class Web:
    """WebSocket, as far as it is needed: a library would answer a kill in its own way."""

    listener = "web"

    async def open(self, reader, writer):
        key = base64.b64encode(os.urandom(16))
        writer.write(b"GET /ws HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: " + key
                     + b"\r\nSec-WebSocket-Version: 13\r\n\r\n")
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")

    def encoded(self, command):
        payload = json.dumps(command).encode()
        # All commands here are longer than 125 bytes or not, but never longer than 65,535.
        length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack(">H", len(payload))
        return b"\x81" + length + bytes(4) + payload

    async def read(self, reader):
        while True:
            first, length = await reader.readexactly(2)
            if length == 126:
                (length,) = struct.unpack(">H", await reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", await reader.readexactly(8))
            payload = await reader.readexactly(length)
            if first == 0x81:
                return payload


class Client:
    """Somebody in one room. `heard` is the transcript: (offset, sender, content)."""

    def __init__(self, server, nickname, room, carrier):
        self._server, self.nickname, self.room, self._carrier = server, nickname, room, carrier
        self.heard = []
        # Offsets that were told to be lost: `recovered` was false, and history did not reach back to them.
        self.lost = set()
        self.resumes = 0
        self._writer = None
        self._resume = None
        self._epoch = None
        self.last = 0

    def send(self, type, **fields):
        self._writer.write(self._carrier.encoded({"type": type} | fields))

    async def read(self):
        return json.loads(await self._carrier.read(self._reader))

    async def open(self):
        address = getattr(self._server, self._carrier.listener)
        self._reader, self._writer = await asyncio.open_connection(*address, limit=1 << 20)
        await self._carrier.open(self._reader, self._writer)

    async def enter(self):
        """Comes in, or comes back; what was missed is heard with the rest, unless the server says that it cannot tell."""
        await self.open()
        if self._resume is None:
            self.send("hello", nickname=self.nickname, id="hello")
            self.send("join", room=self.room, id="join")
        else:
            self.send("hello", resume=self._resume, id="hello")
            self.send("join", room=self.room, since={"epoch": self._epoch, "offset": self.last}, id="join")
        welcome = await self.reply("hello")
        assert welcome["type"] == "welcome" and welcome["resumed"] is (self._resume is not None), welcome
        joined = await self.reply("join")
        assert joined["type"] == "joined", joined
        if self._resume is None:
            self._resume, self._epoch, self.last = welcome["resume"], joined["epoch"], joined["offset"]
        else:
            self.resumes += 1
            assert joined["epoch"] == self._epoch
            if not joined["recovered"]:
                await self.catch_up(joined["offset"])

    async def reply(self, id):
        """Nothing of the room comes before it has been joined."""
        while (event := await self.read()).get("id") != id:
            assert event["type"] != "message", event
        return event

    async def catch_up(self, head):
        """Fetches from history what was not replayed. Live messages come meanwhile, and wait behind it."""
        self.send("history", room=self.room, after=self.last, before=head + 1, limit=1000, id="history")
        live = []
        while (event := await self.read()).get("id") != "history":
            live += [event] if event["type"] == "message" else []
        page = event["messages"]
        # Counted only when it is all there: a kill in between means that the same is asked for again.
        self.lost |= set(range(self.last + 1, head + 1)) - {message["offset"] for message in page}
        for message in page:
            self.heard.append((message["offset"], message["sender"], message["content"]))
        self.last = head
        for message in live:
            self.hear(message)

    def hear(self, message):
        assert message["room"] == self.room
        assert message["offset"] == self.last + 1, f"{self.nickname}: {message['offset']} after {self.last}"
        self.last = message["offset"]
        self.heard.append((message["offset"], message["sender"], message["content"]))

    def kill(self, generator):
        """Ends the connection wherever it is, with a reset or an end."""
        if self._writer is None:
            return
        if generator.random() < 0.5:
            with contextlib.suppress(OSError):
                self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def listen(self, is_done, generator):
        """Hears what is said until the end, however often the connection is killed."""
        while True:
            try:
                if self._writer is None:
                    await self.enter()
                while not is_done(self):
                    event = await self.read()
                    if event["type"] == "message":
                        self.hear(event)
                    else:
                        assert event["type"] not in ("error", "bye", "left"), event
                # Whatever came twice would come before the answer to this.
                self.send("ping", id="end")
                while (event := await self.read()).get("id") != "end":
                    assert event["type"] != "message", event
                return
            except (asyncio.IncompleteReadError, ConnectionError):
                self._writer.close()
                self._writer = None
                # As clients do that come back with a pause; meanwhile there is something to miss.
                await asyncio.sleep(generator.random() * PAUSE_S)


class Publisher(Client):
    """Speaks and hears all of it, and is never killed."""

    async def speak(self, generator, is_over):
        count = 0
        while not is_over():
            count += 1
            self.send("message", room=self.room, content=f"{self.nickname} {count}")
            # What a person does between two messages; nothing waits for it.
            await asyncio.sleep(generator.random() * REST_S)
        return count


async def storm(server, generator):
    carriers = [Line(), Frame(), Web()]
    rooms = [f"room-{number}" for number in range(ROOMS)]
    publishers = [Publisher(server, f"publisher-{number}", rooms[number % ROOMS], carriers[number % 3]) for number in range(PUBLISHERS)]
    members = [Client(server, f"member-{number}", rooms[number % ROOMS], carriers[number % 3]) for number in range(MEMBERS)]
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE_S):
        for client in [*publishers, *members]:
            await client.enter()
        said = {}
        kills_left = MEMBERS * KILLS
        spoken = dict.fromkeys(rooms, None)

        def kill(member):
            nonlocal kills_left
            kills_left -= 1
            member.kill(generator)

        for member in members:
            for _ in range(KILLS):
                loop.call_later(generator.random() * WINDOW_S, kill, member)

        def is_done(client):
            return kills_left == 0 and spoken[client.room] is not None and client.last == spoken[client.room]

        async def speak():
            counts = await asyncio.gather(*(publisher.speak(generator, lambda: kills_left == 0) for publisher in publishers))
            for publisher, count in zip(publishers, counts):
                said[publisher.nickname] = count
            for room in rooms:
                spoken[room] = sum(said[publisher.nickname] for publisher in publishers if publisher.room == room)
            # One more message a room, so that whoever has heard all looks up and sees that it is over.
            for publisher in publishers[:ROOMS]:
                spoken[publisher.room] += 1
                said[publisher.nickname] += 1
                publisher.send("message", room=publisher.room, content=f"{publisher.nickname} {said[publisher.nickname]}")

        await asyncio.gather(speak(), *(client.listen(is_done, generator) for client in [*publishers, *members]))
    for client in [*publishers, *members]:
        client._writer.close()
    return publishers, members, said


@pytest.mark.parametrize("remembered", [1000, 3])
def test_every_transcript_is_the_rooms(start_server, remembered):
    server = start_server(presence__exact_members=10, history__count=remembered)
    publishers, members, said = asyncio.run(storm(server, random.Random(SEED)))
    whole = {}
    for publisher in publishers:
        reference = whole.setdefault(publisher.room, publisher.heard)
        assert publisher.heard == reference
        assert [offset for offset, _, _ in reference] == list(range(1, len(reference) + 1))
        own = [content for _, sender, content in reference if sender == publisher.nickname]
        assert own == [f"{publisher.nickname} {number}" for number in range(1, said[publisher.nickname] + 1)], "all that it said, once"
    for member in members:
        expected = [message for message in whole[member.room] if message[0] not in member.lost]
        assert member.heard == expected, member.nickname
    # A kill may hit a client that has not come back from the one before.
    assert sum(member.resumes for member in members) > MEMBERS * KILLS * 0.8
    lost = sum(len(member.lost) for member in members)
    assert (lost > 0) is (remembered == 3), f"{lost} messages were told to be lost"
