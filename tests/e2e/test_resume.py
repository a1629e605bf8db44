"""A session that outlives its connection: what was missed comes exactly, and what cannot come is told."""

import pytest
from websockets.exceptions import ConnectionClosed

from binary import CARRIERS
from helpers import is_free, wait_until

# Each kind of connection goes on over itself and over the next kind.
NAMES = list(CARRIERS)
PATHS = [(name, name) for name in NAMES] + list(zip(NAMES, NAMES[1:] + NAMES[:1]))


def resume(server, session, carrier="ws"):
    """A new connection on which the session of an earlier client goes on."""
    client = CARRIERS[carrier](server).enter(None, resume=session.welcome["resume"])
    assert client.welcome["resumed"] is True
    assert [client.welcome[key] for key in ("nickname", "session")] == [session.welcome[key] for key in ("nickname", "session")]
    return client


def drop(client, witness):
    """Breaks a connection, and waits until the others have noticed."""
    client.drop()
    witness.expect("presence", event="away", nickname=client.nickname)


def messages(events):
    return [event for event in events if event["type"] == "message"]


@pytest.fixture
def bob(server):
    return server.ws("bob", "den")


@pytest.mark.parametrize("first, second", PATHS)
def test_what_was_missed_is_replayed_and_live_messages_follow(server, bob, first, second):
    alice = CARRIERS[first](server).enter("alice")
    epoch = alice.call("join", room="den")["epoch"]
    bob.say("den", "1", "2", "3")
    assert [alice.expect("message")["offset"] for _ in range(3)] == [1, 2, 3]
    drop(alice, bob)
    bob.say("den", *(f"missed {number}" for number in range(4, 10)))

    alice = resume(server, alice, second)
    bob.say("den", "10 of a room not yet joined again")
    joined = alice.call("join", room="den", since={"epoch": epoch, "offset": 3})
    assert (joined["type"], joined["recovered"], joined["offset"], joined["epoch"]) == ("joined", True, 10, epoch)
    bob.say("den", "11 live")
    heard = [alice.expect("message") for _ in range(8)]
    assert [message["offset"] for message in heard] == list(range(4, 12)), "each once, the missed ones first"
    said = [bob.expect("message", offset=message["offset"]) for message in heard]
    assert heard == said, "exactly what the others heard"
    assert messages(alice.until_pong()) == []


def test_nothing_of_a_room_comes_before_it_is_joined_again(server, bob):
    alice = server.ws("alice", "den", "club")
    epoch = bob.call("history", room="den")["epoch"]
    carol = server.ws("carol", "club")
    drop(alice, bob)
    alice = resume(server, alice)
    bob.say("den", "early")
    carol.say("club", "never heard")
    alice.send("join", room="den", since={"epoch": epoch, "offset": 0}, id="join")
    while (event := alice.next()).get("id") != "join":
        assert event.get("room") is None, event
    assert alice.expect("message")["content"] == "early"
    bob.say("den", "late")
    assert alice.expect("message")["content"] == "late"
    assert not [event for event in alice.until_pong() if event.get("room") == "club"]


def test_a_join_after_a_resume_needs_no_since(server, bob):
    alice = server.ws("alice", "den")
    drop(alice, bob)
    bob.say("den", "missed")
    alice = resume(server, alice)
    joined = alice.call("join", room="den", history=5)
    assert (joined["offset"], [message["content"] for message in joined["messages"]]) == (1, ["missed"])
    assert "recovered" not in joined
    bob.say("den", "live")
    assert [message["content"] for message in [alice.expect("message")]] == ["live"]


@pytest.mark.parametrize("case", ["epoch", "too old", "ahead", "far ahead"])
@pytest.mark.parametrize("carrier", ["ws", "proto_frame"])
def test_what_cannot_be_recovered_is_told_and_none_is_replayed(start_server, case, carrier):
    server = start_server(history__count=3)
    bob = server.ws("bob", "den")
    alice = CARRIERS[carrier](server).enter("alice")
    epoch = alice.call("join", room="den")["epoch"]
    drop(alice, bob)
    bob.say("den", *map(str, range(1, 11)))
    alice = resume(server, alice, carrier)
    since = {"epoch": {"epoch": "another", "offset": 9}, "too old": {"epoch": epoch, "offset": 6},
             "ahead": {"epoch": epoch, "offset": 11}, "far ahead": {"epoch": epoch, "offset": 2**64 - 1}}[case]
    joined = alice.call("join", room="den", since=since)
    assert (joined["type"], joined["recovered"], joined["offset"]) == ("joined", False, 10)
    bob.say("den", "live")
    assert alice.expect("message")["offset"] == 11
    assert messages(alice.until_pong()) == []


@pytest.mark.parametrize("offset", [7, 9, 10])
def test_a_history_that_just_reaches_back_is_enough(start_server, offset):
    server = start_server(history__count=3)
    bob = server.ws("bob", "den")
    alice = server.ws("alice", "den")
    epoch = bob.call("history", room="den")["epoch"]
    drop(alice, bob)
    bob.say("den", *map(str, range(1, 11)))
    alice = resume(server, alice)
    assert alice.call("join", room="den", since={"epoch": epoch, "offset": offset})["recovered"] is True
    bob.say("den", "live")
    expected = list(range(offset + 1, 12))
    assert [alice.expect("message")["offset"] for _ in expected] == expected


def test_a_newcomer_may_know_where_it_was_too(server, bob):
    epoch = bob.call("history", room="den")["epoch"]
    bob.say("den", "1", "2", "3")
    carol = server.ws("carol")
    assert carol.call("join", room="den", since={"epoch": epoch, "offset": 1})["recovered"] is True
    assert [carol.expect("message")["offset"] for _ in range(2)] == [2, 3]


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_session_taken_over_elsewhere_ends_the_old_connection(server, bob, carrier):
    old = CARRIERS[carrier](server).enter("alice", "den")
    new = resume(server, old)
    bye = old.expect("bye")
    assert (bye["code"], bye["reason"], bye["resumable"]) == (4103, "replaced", False)
    if hasattr(old, "closed_with"):
        assert old.closed_with() == 4103
    else:
        assert old.raw.is_ended()
    assert new.call("join", room="den")["members"] == 2
    bob.say("den", "to the new one")
    assert new.expect("message")["content"] == "to the new one"
    assert not is_free(server, "alice"), "4103 does not free the nickname"


def test_two_takeovers_in_a_row(server, bob):
    clients = [server.ws("alice", "den")]
    for _ in range(5):
        clients.append(resume(server, clients[-1]))
    assert all(client.closed_with() == 4103 for client in clients[:-1])
    last = clients[-1]
    assert last.call("join", room="den")["members"] == 2
    assert last.say("den", "still me")[0]["offset"] == 1


@pytest.mark.parametrize("spoil", [
    lambda token: "x", lambda token: "x" * 10_000, lambda token: token[:-1], lambda token: token[1:], lambda token: "." + token,
    lambda token: token + "A", lambda token: token.swapcase(), lambda token: token.split(".")[0] + ".", lambda token: "\U0001f986",
    lambda token: "a.b.c", lambda token: token + "\u0000",
])
def test_a_token_that_is_none_is_refused(server, bob, spoil):
    alice = server.ws("alice", "den")
    drop(alice, bob)
    thief = server.ws()
    thief.refused(401, "bad_token", "hello", resume=spoil(alice.welcome["resume"]))
    assert thief.enter("carol").welcome["resumed"] is False, "and another hello may follow"
    resume(server, alice)


def test_a_token_of_another_server_is_refused(start_server):
    one, another = start_server(), start_server()
    another.ws().refused(401, "bad_token", "hello", resume=one.ws("alice").welcome["resume"])


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_session_that_has_ended_begins_anew(server, carrier):
    alice = CARRIERS[carrier](server).enter("alice", "den")
    alice.call("quit")
    again = CARRIERS[carrier](server).enter(None, resume=alice.welcome["resume"])
    assert again.welcome["resumed"] is False and again.welcome["nickname"] == "alice"
    assert again.welcome["session"] != alice.welcome["session"]
    assert again.call("join", room="den")["type"] == "joined"


def test_one_cannot_begin_anew_under_a_nickname_that_somebody_else_has(server):
    alice = server.ws("alice")
    alice.call("quit")
    server.ws("alice")
    server.ws().refused(409, "nickname_in_use", "hello", resume=alice.welcome["resume"])


@pytest.mark.parametrize("first, second", PATHS)
def test_the_same_id_is_done_once_across_a_resume(server, bob, first, second):
    alice = CARRIERS[first](server).enter("alice", "den")
    said = alice.call("message", room="den", content="once", id="m-1")
    told = {"stored": False} | alice.call("private", target="bob", content="psst", id="p-1")
    assert alice.call("message", room="den", content="once", id="m-1") == said, "and on the same connection"
    drop(alice, bob)
    alice = resume(server, alice, second)
    alice.call("join", room="den")
    assert alice.call("message", room="den", content="once", id="m-1") == said
    assert {"stored": False} | alice.call("private", target="bob", content="psst", id="p-1") == told
    assert alice.say("den", "end")[0]["offset"] == said["offset"] + 1
    bob.expect("message", content="end")
    assert [event["content"] for event in bob._unread if event["type"] in ("message", "private")] == ["once", "psst"]


def test_private_messages_wait_until_they_are_received(server, bob):
    alice = server.ws("alice", "den")
    drop(alice, bob)
    for number in range(1, 4):
        ack = bob.call("private", target="alice", content=f"letter {number}")
        assert (ack["type"], ack["delivered"], ack["stored"]) == ("ack", 0, True)

    def letters(client):
        return [(event["offset"], event["sender"], event["content"]) for event in client.until_pong() if event["type"] == "private"]

    alice = resume(server, alice)
    first, second, third = letters(alice)
    assert [content for _, _, content in (first, second, third)] == ["letter 1", "letter 2", "letter 3"]
    assert first[0] < second[0] < third[0] and first[1] == "bob"
    assert alice.call("received", offset=second[0])["type"] == "ack"
    alice.call("join", room="den")
    drop(alice, bob)
    alice = resume(server, alice)
    assert letters(alice) == [third], "told again until it is received"
    alice.call("received", offset=third[0])
    alice.call("join", room="den")
    drop(alice, bob)
    assert letters(resume(server, alice)) == []


def test_others_see_who_is_away_and_back(server, bob):
    def shown():
        return {member["nickname"]: member["connected"] for member in bob.call("members", room="den")["members"]}

    alice = server.ws("alice", "den")
    bob.expect("presence", event="join", nickname="alice")
    assert shown() == {"alice": True, "bob": True}
    drop(alice, bob)
    assert shown() == {"alice": False, "bob": True}
    server.ws().refused(409, "nickname_in_use", "hello", nickname="ALICE")
    back = resume(server, alice)
    assert bob.expect("presence", nickname="alice")["event"] == "back"
    assert shown() == {"alice": True, "bob": True}
    assert back.call("join", room="den")["role"] == "member"
    back.call("quit")
    assert bob.expect("presence", nickname="alice")["reason"] == "quit", "and rejoining was no coming"


def test_roles_survive_a_resume(server):
    host = server.ws("host", "hall")
    guest = server.ws("guest", "hall")
    drop(host, guest)
    guest.refused(403, "forbidden", "kick", room="hall", target="host")
    host = resume(server, host)
    assert host.call("join", room="hall")["role"] == "host"
    assert host.call("kick", room="hall", target="guest")["type"] == "ack"


@pytest.mark.parametrize("carrier", CARRIERS)
def test_who_stays_away_too_long_leaves(start_server, carrier):
    server = start_server(session__grace_ms=300)
    bob = server.ws("bob", "den")
    alice = CARRIERS[carrier](server).enter("alice", "den")
    drop(alice, bob)
    gone = bob.expect("presence", event="leave")
    assert (gone["nickname"], gone["reason"]) == ("alice", "timeout")
    wait_until(lambda: is_free(server, "alice"), "the nickname to be free")
    again = CARRIERS[carrier](server).enter(None, resume=alice.welcome["resume"])
    assert again.welcome["resumed"] is False


def test_without_grace_a_broken_connection_ends_its_session(start_server):
    server = start_server(session__grace_ms=0)
    bob = server.ws("bob", "den")
    server.ws("alice", "den").drop()
    gone = bob.expect("presence", event="leave")
    assert (gone["nickname"], gone["reason"]) == ("alice", "lost")


def test_a_room_lives_while_somebody_may_come_back(start_server):
    server = start_server(history__count=0)
    alice = server.ws("alice", "den")
    epoch = alice.call("members", room="den") and alice.call("history", room="den")["epoch"]
    alice.say("den", "1")
    alice.drop()
    watcher = server.ws("watcher")
    wait_until(lambda: not watcher.call("members", room="den")["members"][0]["connected"], "alice to be away")
    joined = resume(server, alice).call("join", room="den", since={"epoch": epoch, "offset": 1})
    assert (joined["epoch"], joined["offset"], joined["recovered"]) == (epoch, 1, True)


def test_a_slow_consumer_loses_nothing(start_server):
    server = start_server(limits__send_queue_bytes=65_536)
    slow = CARRIERS["json_line"](server).enter("slow")
    epoch = slow.call("join", room="den")["epoch"]
    bob = server.ws()
    bob.enter("bob")
    bob.call("join", room="den", echo=False)
    count = 0
    while not any(event.get("event") == "away" for event in bob._unread):
        bob.say("den", "x" * 32_000)
        count += 1
        assert count < 1000, "the server waits for a reader that does not read"
    heard = 0
    while (event := slow.next())["type"] != "bye":
        heard = event.get("offset", heard) if event["type"] == "message" else heard
    assert (event["code"], event["resumable"]) == (4201, True)
    fast = resume(server, slow)
    assert fast.call("join", room="den", since={"epoch": epoch, "offset": heard})["recovered"] is True
    assert [fast.expect("message")["offset"] for _ in range(heard, count)] == list(range(heard + 1, count + 1))


def test_a_client_that_wants_gaps_stays_and_is_told_of_them(start_server):
    # What is said is more than a room keeps, and the first hole may be early.
    server = start_server(limits__send_queue_bytes=65_536, history__bytes=0)
    slow = CARRIERS["json_line"](server).enter("slow")
    slow.call("join", room="den", overflow="gap")
    bob = server.ws()
    bob.enter("bob")
    bob.call("join", room="den", echo=False)
    count = 600
    bob.say("den", *["x" * 32_000] * count)
    heard, gaps = [], []
    while len(heard) < count:
        event = slow.next()
        assert event["type"] in ("message", "gap", "presence"), event
        if event["type"] == "message":
            heard.append(event["offset"])
        elif event["type"] == "gap":
            gaps.append((event["from"], event["to"]))
            heard += range(event["from"], event["to"] + 1)
    assert gaps and heard == list(range(1, count + 1)), "every message came, or was in a gap, in order"
    first, last = gaps[0]
    page = slow.call("history", room="den", after=first - 1, limit=1)
    assert page["messages"][0]["offset"] == first <= last


@pytest.mark.parametrize("carrier", CARRIERS)
def test_the_same_id_while_the_first_still_waits(server, bob, carrier):
    alice = CARRIERS[carrier](server).enter("alice", "den")
    for round in range(10):
        for _ in range(5):
            alice.send("message", room="den", content=f"round {round}", id=f"m-{round}")
        acks = [alice.expect(id=f"m-{round}") for _ in range(5)]
        assert all(ack == acks[0] for ack in acks) and acks[0]["type"] == "ack", acks
        for _ in range(3):
            alice.send("private", target="bob", content=f"round {round}", id=f"p-{round}")
        acks = [alice.expect(id=f"p-{round}") for _ in range(3)]
        assert all(ack == acks[0] for ack in acks) and acks[0]["type"] == "ack", acks
    assert [message["offset"] for message in alice.call("history", room="den")["messages"]] == list(range(1, 11))
    for type in ("message", "private"):
        assert [bob.expect(type)["content"] for _ in range(10)] == [f"round {round}" for round in range(10)]
    assert not [event for event in bob.until_pong() if event["type"] in ("message", "private")]


def test_ids_are_one_space_for_messages_and_private_ones(server, bob):
    alice = server.ws("alice", "den")
    ack = alice.call("message", room="den", content="x", id="one")
    assert alice.call("private", target="bob", content="y", id="one") == ack
    assert alice.call("message", room="den", content="z", id="one") == ack
    alice.refused(404, "no_such_user", "private", target="nobody", content="x", id="two")
    assert alice.call("private", target="bob", content="errors are not remembered", id="two")["type"] == "ack"
    assert bob.expect("private")["content"] == "errors are not remembered"
    again = server.ws("carol", "den").call("message", room="den", content="another session's", id="one")
    assert again["offset"] == ack["offset"] + 1


def test_as_many_ids_are_remembered_as_configured(start_server):
    server = start_server(limits__idempotency_ids=3)
    alice = server.ws("alice", "den")
    first = alice.call("message", room="den", content="x", id="1")
    for id in "23":
        alice.call("message", room="den", content="x", id=id)
    assert alice.call("message", room="den", content="x", id="1") == first
    for id in "456":
        alice.call("message", room="den", content="x", id=id)
    assert alice.call("message", room="den", content="x", id="1")["offset"] == 7


def test_no_more_is_kept_for_who_is_away_than_configured(start_server):
    server = start_server(limits__private_kept=2)
    bob, alice = server.ws("bob", "den"), server.ws("alice", "den")
    drop(alice, bob)
    for content in ("1", "2"):
        assert bob.call("private", target="alice", content=content)["stored"] is True
    refusal = bob.call("private", target="alice", content="3")
    assert refusal["type"] == "error", "no message is lost without its sender being told"
    alice = resume(server, alice)
    assert [alice.expect("private")["content"] for _ in range(2)] == ["1", "2"]
    assert not [event for event in alice.until_pong() if event["type"] == "private"]


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_resumed_session_leaves_like_any_other(server, bob, carrier):
    alice = CARRIERS[carrier](server).enter("alice", "den", "hall")
    drop(alice, bob)
    alice = resume(server, alice, carrier)
    # Also a room that it has not joined again.
    assert alice.call("leave", room="den")["type"] == "left"
    assert bob.expect("presence", event="leave")["reason"] == "left"
    alice.call("quit")
    assert is_free(server, "alice")
    assert bob.call("members", room="hall").get("total", 0) == 0


def test_a_nickname_may_be_changed_and_the_session_resumed(server, bob):
    alice = server.ws("alice", "den")
    assert alice.call("nick", nickname="alicia")["type"] == "ack"
    alice.nickname = "alicia"
    drop(alice, bob)
    again = server.ws().enter(None, resume=alice.welcome["resume"])
    assert (again.welcome["nickname"], again.welcome["resumed"]) == ("alicia", True)
    assert is_free(server, "alice")


def test_of_many_takeovers_at_once_one_stays(server, bob):
    alice = server.ws("alice", "den")
    heirs = [CARRIERS[name](server) for name in NAMES * 2]
    for heir in heirs:
        heir.send("hello", resume=alice.welcome["resume"], id="hello")
    assert alice.closed_with() == 4103
    # A takeover may come before the welcome of the one before; when each has heard either, all of them are done.
    left = []
    for heir in heirs:
        while (event := heir.next()).get("id") != "hello" and event["type"] != "bye":
            pass
        if event["type"] == "welcome":
            assert event["resumed"] is True
            left.append(heir)
        else:
            assert event["code"] == 4103
    for heir in list(left):
        try:
            heir.send("ping", id="end")
        except (ConnectionClosed, OSError):
            pass  # It has been replaced; what it was told can still be read.
        while (event := heir.next())["type"] not in ("bye", "pong"):
            pass
        if event["type"] == "bye":
            assert event["code"] == 4103
            left.remove(heir)
    assert len(left) == 1
    assert left[0].call("join", room="den")["members"] == 2
    assert left[0].say("den", "one of many")[0]["offset"] == 1


@pytest.mark.parametrize("carrier", CARRIERS)
def test_what_is_sent_again_after_a_takeover_is_done_once(server, bob, carrier):
    """Nobody knows which of the first hundred were obeyed; sent again under their ids, each is in the room once, in order."""
    contents = [str(number) for number in range(100)]
    alice = CARRIERS[carrier](server).enter("alice", "den")
    for content in contents:
        alice.send("message", room="den", content=content, id=f"m{content}")
    alice = resume(server, alice, carrier)
    assert alice.call("join", room="den")["type"] == "joined"
    acks = [alice.call("message", room="den", content=content, id=f"m{content}") for content in contents]
    assert [ack["offset"] for ack in acks] == list(range(1, 101))
    assert [bob.expect("message")["content"] for _ in contents] == contents
    assert messages(bob.until_pong()) == []


def test_an_empty_id_is_repeated_in_the_answer_and_tells_no_commands_apart(server, bob):
    alice = server.ws("alice", "den")
    for offset, content in enumerate(["one", "two", "three"], 1):
        alice.send("message", room="den", content=content, id="")
        ack = alice.expect("ack", id="")
        assert ack["offset"] == offset, "an empty id is no promise that the message is the same one"
        assert bob.expect("message")["content"] == content
    for content in ["psst", "and another thing"]:
        alice.send("private", target="bob", content=content, id="")
        alice.expect("ack", id="")
        assert bob.expect("private")["content"] == content


@pytest.mark.parametrize("carrier", ["proto_ws", "proto_frame"])
def test_in_protobuf_an_empty_id_is_none(server, bob, carrier):
    alice = CARRIERS[carrier](server).enter("alice", "den")
    for content in ["one", "two"]:
        alice.send("message", room="den", content=content, id="")
        assert bob.expect("message")["content"] == content
    assert [event["type"] for event in alice.until_told("den")] == ["message", "message"], "an ack is for whoever gave an id"


def test_a_switch_to_the_same_room_is_refused_also_before_it_is_joined_again(server, bob):
    alice = server.ws("alice", "den")
    drop(alice, bob)
    alice = resume(server, alice)
    for to in ["den", "DEN"]:
        alice.refused(409, "already_joined", "switch", **{"from": "Den", "to": to})
    assert bob.call("members", room="den")["total"] == 2
    assert not [event for event in bob.until_pong() if event.get("event") == "leave"]
    assert alice.call("join", room="den")["type"] == "joined"
    alice.refused(409, "already_joined", "switch", **{"from": "den", "to": "den"})
