"""Order, and each message once: what people say on several nodes, while nodes and Redis are killed and paused."""

import random
import threading

from websockets.exceptions import WebSocketException

from helpers import DEADLINE_S, Deadline, wait_until
from test_cluster import redis, start_node, start_redis  # noqa: F401  (fixtures)

# Nobody's time is over before the test is, and no message is too old for it: Redis and the history have all that was said.
SETTINGS = {"session__grace_ms": 600_000, "history__count": 1_000_000, "history__bytes": 0}


class Talk:
    """What all are told, and what must not be."""

    def __init__(self, nodes):
        self.nodes = nodes
        self.ended = threading.Event()
        self.errors, self.acks, self.heard = [], [], []

    def require(self, holds, *what):
        if not holds:
            self.errors.append(what)


class Chatter(threading.Thread):
    """Says one message after the other, and comes back on whichever node there is, with what has not been acknowledged."""

    def __init__(self, number, talk):
        super().__init__(daemon=True)
        self.nickname, self.talk, self.random = f"c{number}", talk, random.Random(number)
        self.token = self.place = None
        self.unanswered = {}  # the ids, in order
        self.said = self.acknowledged = 0

    def run(self):
        try:
            while not self.talk.ended.wait(0.05):
                try:
                    self.live(self.random.choice(list(self.talk.nodes)))
                except (OSError, EOFError, WebSocketException):
                    pass  # The node is killed, or does not answer.
        except Exception as error:
            self.talk.errors.append((self.nickname, repr(error)))

    def live(self, node):
        client = node.ws_at("/ws")
        try:
            if self.hello(client) and self.enter(client):
                for id in list(self.unanswered):
                    self.say(client, id)
                while not self.talk.ended.is_set() and self.chat(client):
                    pass
        finally:
            client.drop()

    def ask(self, client, type, **fields):
        """The answer, unless what is asked cannot be had now."""
        client.send(type, id="asked", **fields)
        deadline = Deadline(5)
        while (answer := client.next(deadline)).get("id") != "asked":
            self.talk.require(answer["type"] != "message", self.nickname, answer, "before it has joined")
        if answer["type"] == "error":
            self.talk.require(answer["retryable"], self.nickname, answer)
            return None
        return answer

    def hello(self, client):
        welcome = self.ask(client, "hello", **({"resume": self.token} if self.token else {"nickname": self.nickname}))
        if welcome:
            self.talk.require(welcome["resumed"] == bool(self.token), self.nickname, welcome)
            self.token = welcome["resume"]
        return welcome

    def enter(self, client):
        since = {"since": {"epoch": self.place[0], "offset": self.place[1]}} if self.place else {}
        joined = self.ask(client, "join", room="den", **since)
        if joined and self.place:
            # Nothing is lost, so that nothing may be missed.
            self.talk.require(joined["recovered"] and joined["epoch"] == self.place[0], self.nickname, joined, self.place)
        elif joined:
            self.place = (joined["epoch"], joined["offset"])
        return joined

    def say(self, client, id):
        client.send("message", room="den", content=f"m{id}", id=id)

    def chat(self, client):
        """Hears one event, and says whether the connection goes on."""
        if len(self.unanswered) < 3:
            self.said += 1
            id = f"{self.nickname}-{self.said}"
            self.unanswered[id] = True
            self.say(client, id)
        event = client.next(Deadline(5))
        if event["type"] == "message":
            epoch, offset = self.place
            self.talk.require(event["offset"] == offset + 1, self.nickname, event, "after", offset)
            self.place = (epoch, event["offset"])
            self.talk.heard.append((*self.place, event["content"]))
        elif event["type"] == "ack":
            # One that has been said again may be answered twice.
            self.unanswered.pop(event["id"], None)
            self.acknowledged += 1
            self.talk.acks.append((event["epoch"], event["offset"], f"m{event['id']}"))
        elif event["type"] == "error" and event["id"] in self.unanswered:
            self.talk.require(event["retryable"], self.nickname, event)
            self.talk.ended.wait(0.02)
            self.say(client, event["id"])
        return event["type"] != "bye"


def test_order_and_exactly_once_through_kills(start_node, redis):  # noqa: F811
    """Three nodes, clients that come back wherever they can, while nodes and Redis are killed and paused."""
    talk = Talk([start_node(redis, **SETTINGS) for _ in range(3)])
    chatters = [Chatter(number, talk) for number in range(6)]
    for chatter in chatters:
        chatter.start()
    chance = random.Random(7)

    def progress():
        before = [chatter.acknowledged for chatter in chatters]
        wait_until(lambda: talk.errors or all(chatter.acknowledged > count + 5 for chatter, count in zip(chatters, before)),
                   "everybody's messages to be acknowledged", 60)
        assert not talk.errors, talk.errors[:5]

    progress()
    # What a node has not written down when it is killed is lost, and with it a session that has just begun.
    redis.wait_until_kept("den", *(chatter.nickname for chatter in chatters))
    for step in range(6):
        if step % 3 == 0:
            victim = talk.nodes.pop(chance.randrange(len(talk.nodes)))
            victim.kill()
            talk.nodes.append(start_node(redis, **SETTINGS))
        elif step % 3 == 1:
            redis.kill()
            redis.start()
        else:
            before = losses_of(talk.nodes)
            redis.pause()
            wait_until(lambda: losses_of(talk.nodes) > before, "a node to notice")
            redis.go_on()
        progress()
    talk.ended.set()
    for chatter in chatters:
        chatter.join(DEADLINE_S)
        assert not chatter.is_alive()
    assert not talk.errors, talk.errors[:5]
    # Nothing twice, nothing lost, everything where it was said to be.
    epoch, stored = wait_until(lambda: whole_history(talk.nodes[0]), "the history")
    assert sorted(stored) == list(range(1, len(stored) + 1))
    assert len(set(stored.values())) == len(stored), "a message is there twice"
    for told in (talk.acks, talk.heard):
        assert [(epoch, offset, stored.get(offset)) for _, offset, _ in told] == told
    assert len(talk.acks) > 200


def losses_of(nodes):
    """How often these nodes have lost Redis."""
    return sum("backplane is down" in line for node in nodes for line in list(node.log))


def whole_history(node):
    """The epoch and the messages by their offsets, or None where Redis is not back yet."""
    client = node.ws()
    if client.call("hello", nickname="probe")["type"] == "error":
        return None
    stored, before = {}, {}
    while True:
        page = client.call("history", room="den", limit=1000, **before)
        if page["type"] == "error":
            return client.call("quit") and None
        if not page["messages"]:
            return page["epoch"], stored
        stored |= {message["offset"]: message["content"] for message in page["messages"]}
        before = {"before": page["messages"][0]["offset"]}
