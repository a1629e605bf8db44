"""Every field of every command, in every way wrong: a clear code, the connection stays, and nothing has happened."""

import json

import pytest

from binary import CARRIERS, COMMANDS, ProtoWsClient, schema
from helpers import Server
from tokens import SETTINGS, enter

# A good command of each type, as its sender in `den` would send it; `!` marks the fields that it cannot do without.
GOOD = {
    "hello": {"nickname": "alice", "token": "x", "resume": "x"},
    "join": {"room!": "hall", "history": 1, "since": {"epoch": "x", "offset": 1}, "echo": True, "overflow": "close"},
    "leave": {"room!": "den"},
    "switch": {"from!": "den", "to!": "hall", "history": 1, "since": {"epoch": "x", "offset": 1}, "echo": True, "overflow": "close"},
    "message": {"room!": "den", "content!": "hi", "ack": "sequenced"},
    "private": {"target!": "bob", "content!": "hi"},
    "received": {"offset!": 1},
    "broadcast": {"content!": "hi", "rooms": ["den"], "tags": ["beta"]},
    "members": {"room!": "den", "limit": 1, "after": "a"},
    "rooms": {"limit": 1, "after": "a"},
    "history": {"room!": "den", "before": 1, "after": 1, "limit": 1},
    "state": {"room!": "den", "key!": "k", "value": 1},
    "role": {"room!": "den", "target!": "bob", "role!": "host"},
    "kick": {"room!": "den", "target!": "bob", "reason": "x"},
    "ban": {"room!": "den", "target!": "bob", "reason": "x", "seconds": 1},
    "unban": {"room!": "den", "target!": "bob", "reason": "x"},
    "mute": {"room!": "den", "target!": "bob", "reason": "x", "seconds": 1},
    "unmute": {"room!": "den", "target!": "bob", "reason": "x"},
    "typing": {"room!": "den"},
    "ping": {},
    "quit": {},
    "pong": {},
    "nick": {"nickname!": "al"},
}
TEXTS = ["nickname", "token", "resume", "room", "from", "to", "content", "target", "after", "key", "role", "reason", "ack", "overflow"]
NUMBERS = ["history", "limit", "before", "after", "offset", "seconds"]
NAMES = ["nickname", "room", "from", "to", "target"]

# All that a field may be confused with; JSON text, because Python's dictionaries would not hold some of it.
TEXT, NUMBER, FLAG, LIST, OBJECT = '"x"', "5", "true", '["x"]', '{"x":1}'
WRONG_NUMBERS = ["-1", "1.5", "1e3", "18446744073709551616", "-0.0", '"5"', TEXT, FLAG, LIST, OBJECT]
WRONG_TEXTS = [NUMBER, FLAG, "false", LIST, OBJECT, "1.5", "[]", "{}"]


def fields_of(type):
    """Name, whether it is required, and a good value."""
    for name, value in GOOD[type].items():
        yield name.rstrip("!"), name.endswith("!"), value


def wrong_values(type, name):
    if name == "echo":
        return [TEXT, NUMBER, LIST, OBJECT, '"true"', "0"]
    if name == "since":
        return [TEXT, NUMBER, FLAG, LIST, "[]", "{}", '{"epoch":"x"}', '{"offset":1}', '{"epoch":1,"offset":1}', '{"epoch":"x","offset":"1"}',
                '{"epoch":"x","offset":-1}', '{"epoch":"x","offset":null}', '{"epoch":null,"offset":1}', '{"epoch":"x","epoch":"x","offset":1}']
    if name in ("rooms", "tags"):
        return [TEXT, NUMBER, FLAG, OBJECT, "[1]", '["x",null]', '[["x"]]', '[{}]']
    if name == "value":
        return []
    if name in NUMBERS and not (name == "after" and type in ("members", "rooms")):
        return WRONG_NUMBERS
    assert name in TEXTS, name
    return WRONG_TEXTS


def text_of(type, fields, id="it", extra=""):
    members = [f'"type":{json.dumps(type)}', f'"id":{json.dumps(id)}', *(f"{json.dumps(name)}:{value}" for name, value in fields.items())]
    return "{" + ",".join(members) + extra + "}"


def good_fields(type, required_only=False):
    return {name: json.dumps(value) for name, is_required, value in fields_of(type) if is_required or not required_only}


@pytest.fixture(scope="module")
def world():
    """One server for all: nothing that is sent here changes anything. `alice` is an admin and the host of `den`, with bob in it."""
    server = Server(store__kind="memory", limits__errors_per_window=1_000_000, **SETTINGS)
    alice = enter(server.ws(), "alice", "den", admin=True)
    bob = server.ws("bob", "den")
    bob.call("join", room="other")
    yield World(server, alice, bob)
    server.close()


class World:
    def __init__(self, server, alice, bob):
        self.server, self.alice, self.bob = server, alice, bob
        for client in (alice, bob):
            client.until_pong()

    def error(self, text, code=400, reasons=("bad_request",), id="it", is_guest=False):
        """Sends what must be refused, and nothing but that must come of it."""
        sender, other = (self.bob, self.alice) if is_guest else (self.alice, self.bob)
        sender.send_text(text)
        events = sender.until_pong()
        assert len(events) == 1, (text[:300], events)
        error = events[0]
        assert (error["type"], error["code"]) == ("error", code) and error["reason"] in reasons, (text[:300], error)
        assert error.get("id") == id and error["retryable"] is False and error["message"], error
        assert other.until_pong() == [], "nobody hears anything of it"
        return error


def test_the_table_is_complete():
    assert set(GOOD) == set(COMMANDS)


@pytest.mark.parametrize("type", GOOD)
def test_wrong_types(world, type):
    for name, _, _ in fields_of(type):
        for value in wrong_values(type, name):
            error = world.error(text_of(type, good_fields(type) | {name: value}))
            assert name in error["message"] or name == "since", error


@pytest.mark.parametrize("type", GOOD)
def test_missing_fields(world, type):
    required = [name for name, is_required, _ in fields_of(type) if is_required]
    for name in required:
        fields = good_fields(type)
        del fields[name]
        assert name in world.error(text_of(type, fields))["message"]
        assert name in world.error(text_of(type, fields | {name: "null"}))["message"], "null is absent"


@pytest.mark.parametrize("type", GOOD)
def test_repeated_fields(world, type):
    for name, _, value in fields_of(type):
        world.error(text_of(type, good_fields(type), extra=f",{json.dumps(name)}:{json.dumps(value)}"))
    world.error(text_of(type, good_fields(type), extra=f',"type":"{type}"'))
    # Which of two ids the reply should carry nobody can tell.
    world.error(text_of(type, good_fields(type), extra=',"id":"other"'), id=None)


@pytest.mark.parametrize("type", GOOD)
def test_ids(world, type):
    for id in ["5", "true", "[]", "{}", '"' + "x" * 65 + '"', '"' + "é" * 33 + '"', '"\\ud800"']:
        world.error(f'{{"type":"{type}","id":{id}}}', id=None)


def test_the_longest_id_is_echoed(world):
    for id in ["x" * 64, "é" * 32, "🦆" * 16, "\u0000\n\"\\\u007f", " ", "null"]:
        assert world.alice.call("ping", id=id)["type"] == "pong"


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_none(world, name):
    for type in (type for type in GOOD if type != "hello" and name in good_fields(type)):
        # Only guests choose their nickname.
        is_guest = type == "nick"
        longest = 32 if name in ("nickname", "target") else 64
        for bad in ["", " ", "a b", "_a", "\u0301", "a\u0000", "a\n", "😀", "a\u200bb", "\u202ea", "\ufeff", "x" * (longest + 1), "𓀀" * (longest + 1),
                    "x" * 100_000, "a*", "*", "\uffff", "\ue000", "a/b", "é" * 65, "\U000e0041", "½" + "\u2028"]:
            world.error(text_of(type, good_fields(type) | {name: json.dumps(bad)}), reasons=("bad_name",), is_guest=is_guest)
        world.error(text_of(type, good_fields(type) | {name: '"\\ud83d"'}), reasons=("bad_name", "bad_request"), is_guest=is_guest)


@pytest.mark.parametrize("type", ["message", "private", "broadcast"])
def test_contents_that_are_none(world, type):
    world.error(text_of(type, good_fields(type) | {"content": '""'}))
    world.error(text_of(type, good_fields(type) | {"content": '"\\udc00\\ud800"'}))
    for content in ["x" * 65_537, "é" * 32_769, "🦆" * 16_385, "\n" * 65_537, "x" * 200_000]:
        world.error(text_of(type, good_fields(type) | {"content": json.dumps(content, ensure_ascii=False)}), 413, ("too_large",))


@pytest.mark.parametrize("type, fields, code, reasons", [
    ("message", {"ack": '"fast"'}, 400, ("bad_request",)), ("message", {"ack": '""'}, 400, ("bad_request",)),
    ("message", {"ack": '"stored"'}, 400, ("ack_unavailable",)), ("message", {"ack": '"synced"'}, 400, ("ack_unavailable",)),
    ("message", {"ack": '"SEQUENCED"'}, 400, ("bad_request",)),
    ("join", {"overflow": '"drop"'}, 400, ("bad_request",)), ("join", {"overflow": '""'}, 400, ("bad_request",)),
    ("role", {"role": '"king"'}, 400, ("bad_request",)), ("role", {"role": '""'}, 400, ("bad_request",)),
    ("role", {"role": '"HOST"'}, 400, ("bad_request",)),
    ("state", {"key": '""'}, 400, ("bad_request",)), ("state", {"key": '"' + "k" * 65 + '"'}, 400, ("bad_request",)),
    ("state", {"key": '"a\\u0000"'}, 400, ("bad_request",)), ("state", {"value": '"' + "v" * 5000 + '"'}, 413, ("too_large",)),
    ("kick", {"reason": '"' + "r" * 257 + '"'}, 413, ("too_large",)), ("ban", {"reason": '"' + "r" * 257 + '"'}, 413, ("too_large",)),
    ("mute", {"reason": '"' + "r" * 257 + '"'}, 413, ("too_large",)),
    ("kick", {"target": '"alice"'}, 400, ("bad_request",)), ("kick", {"target": '"nobody"'}, 404, ("no_such_user",)),
    ("private", {"target": '"nobody"'}, 404, ("no_such_user",)), ("nick", {"nickname": '"bob"'}, 403, ("forbidden",)),
    ("broadcast", {"rooms": '["a b"]'}, 400, ("bad_name", "bad_request")), ("broadcast", {"rooms": '[""]'}, 400, ("bad_name", "bad_request")),
    ("broadcast", {"rooms": json.dumps(["x"] * 65)}, 400, ("bad_request",)), ("broadcast", {"tags": json.dumps(["x"] * 65)}, 400, ("bad_request",)),
    ("hello", {}, 409, ("already_said_hello",)), ("message", {"room": '"nowhere"'}, 404, ("no_such_room",)),
    ("message", {"room": '"other"'}, 403, ("not_a_member",)), ("join", {"room": '"DEN"'}, 409, ("already_joined",)),
])
def test_values_that_cannot_be(world, type, fields, code, reasons):
    world.error(text_of(type, good_fields(type, required_only=True) | fields), code, reasons)


@pytest.mark.parametrize("text, reason", [
    ("", "bad_json"), ("{", "bad_json"), ("}", "bad_json"), ("{}", "bad_request"), ("[]", "bad_request"), ("null", "bad_request"), ("5", "bad_request"),
    ('"ping"', "bad_request"), ('{"type":5}', "bad_request"), ('{"type":null}', "bad_request"), ('{"type":""}', "unknown_type"),
    ('{"type":"PING"}', "unknown_type"), ('{"type":"ping "}', "unknown_type"), ('{"type":"' + "x" * 10_000 + '"}', "unknown_type"),
    ('{"type":"p\\u0000ing"}', "unknown_type"), ('{"type":"welcome"}', "unknown_type"), ('{"type":"joined"}', "unknown_type"),
    ('{"type":"ping"', "bad_json"), ('{"type":"ping",}', "bad_json"), ("{'type':'ping'}", "bad_json"), ('{"type":"ping"}{', "bad_json"),
    ('{"type":"ping"} {"type":"ping"}', "bad_json"), ('{"type":"ping","x":01}', "bad_json"), ('{"type":"ping","x":NaN}', "bad_json"),
    ('{"type":"ping","x":+1}', "bad_json"), ('{"type":"ping","x":"\t"}', "bad_json"), ('{"type":"ping","x":"\\x"}', "bad_json"),
    ("\ufeff{\"type\":\"ping\"}", "bad_json"),
    ('{"type":"ping"/**/}', "bad_json"), ('{type:"ping"}', "bad_json"), ('{"type":"\\ud800"}', "bad_request"),
])
def test_what_is_no_command(world, text, reason):
    world.error(text, reasons=(reason,), id=None)


@pytest.mark.parametrize("text", [
    '{"type":"ping","id":"it","x":1,"y":{"z":[null]}}', '{"id":"it","type":"ping"}', ' {"type" : "ping" , "id" : "it" } ', '\t{"type":"ping","id":"it"}\r',
    '{"ty\\u0070e":"\\u0070ing","id":"it"}', '{"type":"ping","id":"it","room":5}', '{"type":"ping","id":"it","\\ud800":1}',
    '{"type":"ping","id":"it","x":1,"x":2}', '{"type":"ping","id":"it","room":null}', '{"type":"ping","id":"it","x":1e999}',
    '{"type":"ping","id":"it","x":' + "[" * 100_000 + "]" * 100_000 + "}", '{"type":"ping","id":"it","' + "x" * 100_000 + '":1}',
])
def test_what_is_unusual_and_a_command_all_the_same(world, text):
    world.alice.send_text(text)
    assert world.alice.next()["type"] == "pong"


@pytest.mark.parametrize("content", [
    "\u0000", "\ufeff", "\ufffe\uffff", "\u202e\u2066", "e\u0301\u0301\u0301", "a\u200d\u200d", "👩\u200d👩\u200d👧", "\U0010ffff", "\ue000", "\u2028\u2029",
    "\r\n\t\b\f", "</script>", "\u0085", "\u00ad", "ﷺ", "𒐫", "\ufff9\ufffa\ufffb", "\U000e0041", "x\u0300" * 5000, "\ufffd", "\"\\/'`", "\u007f",
])
@pytest.mark.parametrize("carrier", CARRIERS)
def test_unusual_contents_are_exact(world, content, carrier):
    client = CARRIERS[carrier](world.server).enter(f"u-{carrier.replace('_', '-')}")
    client.call("join", room="unicode")
    client.say("unicode", content)
    assert client.expect("message")["content"] == content
    assert client.call("history", room="unicode", limit=1)["messages"][0]["content"] == content
    assert client.call("private", target=client.nickname, content=content)["delivered"] == 1
    assert client.expect("private")["content"] == content
    client.call("state", room="unicode", key="k", value=content[:1000])
    assert client.expect("state")["value"] == content[:1000]
    client.call("quit")


@pytest.mark.parametrize("type", GOOD)
def test_protobuf_without_fields_is_as_json_without_them(world, type):
    """In Protobuf every field is there and empty, so what is required must be looked at."""
    if not any(is_required for _, is_required, _ in fields_of(type)) or type == "received":
        return
    client = ProtoWsClient(world.server)
    if type == "nick":
        client.enter("proto", "other")
    else:
        enter(client, "zoe", "other", admin=True)
    command = schema(world.server).Command(id="it")
    getattr(command, type).SetInParent()
    client.socket.send(command.SerializeToString())
    error = client.expect(id="it")
    client.call("quit")
    assert (error["type"], error["code"]) == ("error", 400), error


def test_after_all_that_the_room_is_as_it_was(world):
    members = world.alice.call("members", room="den")["members"]
    assert [(member["nickname"], member["role"]) for member in members] == [("alice", "host"), ("bob", "member")]
    joined = world.server.ws("late").call("join", room="den")
    assert (joined["offset"], joined["state"]) == (0, {})
    assert world.alice.call("history", room="den")["messages"] == []
