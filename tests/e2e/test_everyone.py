"""Two hundred people in twenty rooms, over text lines, JSON lines and WebSocket: every transcript complete, in one order, the same."""

import asyncio
import itertools
import json
import pathlib
import re

from websockets.asyncio.client import connect

ROOMS = ["room-1", "Room.2", "房间_3", "غرفة-4", "חדר-5", "कक्ष-6", "комната-7", "δωμάτιο-8", "部屋-9", "방-10", "oda-11", "zimmer-12",
         "stanza-13", "pokój-14", "кімната-15", "szoba-16", "huone-17", "rum-18", "ห้อง-19", "phòng-20"]
MEMBERS = 10
MESSAGES = 20
DEADLINE_S = 75
CONTENT_MAX_BYTES = 65_536
READ_MAX_BYTES = 1 << 20


def fixture():
    """The messages of the file: one a line, with `\\n` for a line end and `\\u{...}` for what an editor would hide or change."""
    text = (pathlib.Path(__file__).parent / "fixtures" / "messages.txt").read_text(encoding="utf-8")
    escape = re.compile(r"\\n|\\u\{([0-9A-F]+)\}")
    return [escape.sub(lambda match: chr(int(match[1], 16)) if match[1] else "\n", line) for line in text.split("\n") if line]


class Person:
    """Somebody in one room. `heard` is what reached them: (sender, content)."""

    def __init__(self, nickname, room, contents):
        self.nickname = nickname
        self.room = room
        self.contents = contents
        self.heard = []

    @staticmethod
    def as_shown(content):
        """How this kind of client gets to see a message."""
        return content

    def hears(self, sender):
        return True

    async def read_until(self, is_wanted):
        while not is_wanted(await self.read()):
            pass


class Program(Person):
    """Speaks the JSON events; also notes the offsets."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.offsets = []

    async def read(self):
        event = json.loads(await self.receive())
        assert event["type"] not in ("error", "bye"), event
        if event["type"] == "message":
            assert event["room"] == self.room
            self.heard.append((event["sender"], event["content"]))
            self.offsets.append(event["offset"])
        return event

    async def enter(self, server):
        await self.open(server)
        await self.send({"type": "hello", "nickname": self.nickname})
        await self.send({"type": "join", "room": self.room})
        await self.read_until(lambda event: event["type"] == "joined")

    async def speak(self):
        for number, content in enumerate(self.contents):
            await self.send({"type": "message", "room": self.room, "content": content, "id": f"m{number}"})

    async def finish(self):
        await self.send({"type": "ping", "id": "end"})
        await self.read_until(lambda event: event.get("id") == "end")


class LineProgram(Program):
    async def open(self, server):
        self._reader, self._writer = await asyncio.open_connection(*server.line, limit=READ_MAX_BYTES)

    async def send(self, command):
        self._writer.write(json.dumps(command, ensure_ascii=False).encode() + b"\n")
        await self._writer.drain()

    async def receive(self):
        # A busy machine may greet a program before its first byte is there.
        while not (line := await self._reader.readuntil(b"\n")).startswith(b"{"):
            pass
        return line

    async def leave(self):
        self._writer.close()


class Socket(Program):
    async def open(self, server):
        self._socket = await connect(server.url("/ws"), compression=None, ping_interval=None, max_size=None, open_timeout=DEADLINE_S)

    async def send(self, command):
        await self._socket.send(json.dumps(command))

    async def receive(self):
        return await self._socket.recv()

    async def leave(self):
        await self._socket.close()


class Terminal(Person):
    """Reads lines, which lose the line ends within a message, and does not hear itself."""

    @staticmethod
    def as_shown(content):
        return content.replace("\n", "⏎")

    def hears(self, sender):
        return sender != self.nickname

    async def read(self):
        line = (await self._reader.readuntil(b"\n")).decode().removesuffix("\n")
        assert not line.startswith("! "), line
        if match := re.fullmatch(rf"\[{re.escape(self.room)}\] (\S+): (.*)", line, re.DOTALL):
            self.heard.append((match[1], match[2]))
        return line

    async def write(self, line):
        self._writer.write(line.encode() + b"\n")
        await self._writer.drain()

    async def enter(self, server):
        self._reader, self._writer = await asyncio.open_connection(*server.line, limit=READ_MAX_BYTES)
        for line in [self.nickname, f"/join {self.room}", "/who"]:
            await self.write(line)
        await self.read_until(lambda line: line.startswith(f"* {self.room} has "))

    async def speak(self):
        for content in self.contents:
            await self.write("/" + content if content.startswith("/") else content)

    async def finish(self):
        await self.write("/ping")
        await self.read_until(lambda line: line.startswith("* pong"))

    async def leave(self):
        self._writer.close()


def everyone():
    """Who is there, each with what they will say."""
    messages = fixture()
    kinds = itertools.cycle([Terminal, LineProgram, Socket])
    lines = itertools.cycle([message for message in messages if "\n" not in message])
    all_messages = itertools.cycle(messages)
    people = []
    for room, number in itertools.product(ROOMS, range(MEMBERS)):
        kind = next(kinds)
        contents = list(itertools.islice(lines if kind is Terminal else all_messages, MESSAGES))
        people.append(kind(f"p{len(people)}-{room[:3].strip('-_.')}", room, contents))
    # One message of the greatest length in each room, of characters of three bytes and one to fill it up.
    for room in ROOMS:
        longest = "椋" * (CONTENT_MAX_BYTES // 3) + "!" * (CONTENT_MAX_BYTES % 3)
        next(person for person in people if person.room == room and isinstance(person, Program)).contents[3] = longest
    return people


async def chat(server, people):
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(person.enter(server) for person in people))

        async def listen(person):
            expected = sum(len(other.contents) for other in people if other.room == person.room and person.hears(other.nickname))
            while len(person.heard) < expected:
                await person.read()
            # Whatever came twice would come before the answer to this.
            await person.finish()

        # Everybody reads while they speak, or the sockets would fill up.
        await asyncio.gather(*(task for person in people for task in (person.speak(), listen(person))))
        await asyncio.gather(*(person.leave() for person in people))


def test_every_transcript_is_complete_and_in_one_order(start_server):
    server = start_server(presence__exact_members=500)
    people = everyone()
    asyncio.run(chat(server, people))
    for room in ROOMS:
        members = [person for person in people if person.room == room]
        reference = next(person for person in members if isinstance(person, Program)).heard
        assert len(reference) == MEMBERS * MESSAGES
        for person in members:
            said = [content for sender, content in reference if sender == person.nickname]
            assert said == person.contents, "complete, exact, and in the order of its sender"
            expected = [(sender, person.as_shown(content)) for sender, content in reference if person.hears(sender)]
            assert person.heard == expected, "everybody in the room sees one order"
            if isinstance(person, Program):
                assert person.offsets == list(range(1, len(reference) + 1))
