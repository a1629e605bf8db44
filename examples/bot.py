#!/usr/bin/env python3
"""A bot that misses nothing: it says back what begins with "!echo ", and goes on where it was after a broken connection.

    python3 examples/bot.py [--url ws://127.0.0.1:8080/ws] [--nickname parrot] [--room lobby]

What it shows is the whole of coming back (docs/protocol.md, "Losing a connection, and resuming"): the resume token, `since` with the last
epoch and offset, ids under which a message that is sent again is published once, and what each `bye` asks of a client.
"""

import argparse
import itertools
import json
import random
import sys
import time

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

BACKOFF_BASE_S, BACKOFF_MAX_S = 0.5, 30.0


class Refused(Exception):
    """The server wants this client to stop."""


class Bot:
    def __init__(self, url, nickname, room):
        self.url, self.nickname, self.room = url, nickname, room
        self.resume = None  # the token that the last welcome gave
        self.since = None  # {"epoch", "offset"} of the last message that was heard
        self.ids = itertools.count(1)
        self.unanswered = {}  # what was said and not acknowledged: said again, under the same id, after a resume
        self.tries = 0

    def run(self):
        """Connects, again and again, until the server says that it is enough."""
        while True:
            wait_s = self.backoff()
            try:
                with connect(self.url, subprotocols=["starling.json.v1"], max_size=1 << 20) as ws:
                    self.enter(ws)
                    wait_s = self.hear(ws)
            except (OSError, WebSocketException) as error:
                print(f"lost: {error}", file=sys.stderr)
            print(f"back in {wait_s:.1f} s", file=sys.stderr)
            time.sleep(wait_s)

    def enter(self, ws):
        ws.send(json.dumps({"type": "hello", "id": "hello", "nickname": self.nickname, "resume": self.resume}))
        welcome = json.loads(ws.recv())
        if welcome["type"] == "error":
            if welcome["reason"] == "bad_token" and self.resume:  # another server, or one that has begun anew
                self.resume = self.since = None
                return self.enter(ws)
            if not welcome["retryable"] and not (welcome["reason"] == "nickname_in_use" and self.tries > 1):
                raise Refused(welcome["message"])
            raise OSError(welcome["message"])
        self.resume = welcome["resume"]
        if not welcome["resumed"]:
            self.unanswered.clear()  # nobody knows any more whether it was published: better unsaid than said twice
        ws.send(json.dumps({"type": "join", "room": self.room, "since": self.since}))
        for message in self.unanswered.values():
            ws.send(json.dumps(message))

    def hear(self, ws):
        """Handles what comes until the connection ends, and says how long to wait before the next one."""
        for text in ws:
            event = json.loads(text)
            self.tries = 0
            if event["type"] == "joined":
                if not self.since or event["epoch"] != self.since["epoch"] or not event.get("recovered"):
                    self.since = {"epoch": event["epoch"], "offset": event["offset"]}
                print(f"in {event['room']} with {event['members']}, as {self.nickname}", flush=True)
            elif event["type"] == "message" and event["room"] == self.room:
                self.since["offset"] = event["offset"]
                if event["sender"] != self.nickname and event["content"].startswith("!echo "):
                    self.say(ws, event["content"].removeprefix("!echo "))
            elif event["type"] in ("ack", "error"):
                self.unanswered.pop(event.get("id"), None)
            elif event["type"] == "ping":
                ws.send('{"type":"pong"}')
            elif event["type"] == "bye":
                if 4100 <= event["code"] < 4200:
                    raise Refused(event["reason"])
                if 4300 <= event["code"] < 4400:
                    return event["after_ms"] / 1000
        return self.backoff()

    def say(self, ws, content):
        message = {"type": "message", "id": f"bot-{next(self.ids)}", "room": self.room, "content": content}
        self.unanswered[message["id"]] = message
        ws.send(json.dumps(message))

    def backoff(self):
        """Full jitter, so that many clients do not come back together."""
        self.tries += 1
        return random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2 ** self.tries))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="ws://127.0.0.1:8080/ws")
    parser.add_argument("--nickname", default="parrot")
    parser.add_argument("--room", default="lobby")
    options = parser.parse_args()
    try:
        Bot(options.url, options.nickname, options.room).run()
    except Refused as refused:
        sys.exit(f"bot: {refused}")
    except KeyboardInterrupt:
        pass
