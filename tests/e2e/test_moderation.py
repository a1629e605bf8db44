"""Who may do what to whom: roles, kicks, bans, mutes, the state of a room, and what admins say to all."""

import pytest

from binary import CARRIERS
from helpers import wait_until
from tokens import SETTINGS, enter


@pytest.fixture
def server(start_server):
    return start_server(**SETTINGS)


@pytest.fixture
def host(server):
    return server.ws("host", "den")


@pytest.fixture
def bob(server, host):
    return server.ws("bob", "den")


@pytest.fixture
def carol(server, bob):
    return server.ws("carol", "den")


def done(client, type, **fields):
    ack = client.call(type, **fields)
    assert ack["type"] == "ack", ack
    return ack


def roles(client, room="den"):
    return {member["nickname"]: member["role"] for member in client.call("members", room=room)["members"]}


# Roles.


def test_the_first_member_is_host(host, bob, carol):
    assert roles(bob) == {"host": "host", "bob": "member", "carol": "member"}


def test_nobody_is_host_of_the_lobby(server):
    first, second = server.ws("first", "lobby"), server.ws("second", "lobby")
    assert roles(first, "lobby") == {"first": "member", "second": "member"}
    for command in ("kick", "ban", "mute", "unban", "unmute"):
        first.refused(403, "forbidden", command, room="LOBBY", target="second")
    first.refused(403, "forbidden", "role", room="lobby", target="second", role="host")
    first.call("leave", room="lobby")
    assert roles(second, "lobby") == {"second": "member"}, "nor does anybody inherit it"


def test_admins_moderate_the_lobby_and_every_room(server, host, bob):
    admin = enter(server.ws(), "boss", "lobby", "den", admin=True)
    victim = server.ws("victim", "lobby")
    done(admin, "kick", room="lobby", target="victim", reason="out")
    assert victim.expect("left")["reason"] == "kicked"
    done(admin, "kick", room="den", target="host")
    assert host.expect("left")["reason"] == "kicked"
    assert bob.expect("presence", event="role")["nickname"] == "bob"


def test_hosts_give_roles(host, bob, carol):
    bob.refused(403, "forbidden", "role", room="den", target="carol", role="host")
    done(host, "role", room="den", target="BOB", role="host")
    for client in (host, bob, carol):
        seen = client.expect("presence", event="role")
        assert (seen["room"], seen["nickname"], seen["role"]) == ("den", "bob", "host")
    done(bob, "role", room="den", target="host", role="member")
    host.refused(403, "forbidden", "kick", room="den", target="carol")
    assert roles(carol) == {"host": "member", "bob": "host", "carol": "member"}


def test_guests_only_read(host, bob):
    done(host, "role", room="den", target="bob", role="guest")
    bob.refused(403, "forbidden", "message", room="den", content="x")
    bob.refused(403, "forbidden", "state", room="den", key="topic", value="x")
    host.say("den", "can you read this?")
    bob.expect("message", content="can you read this?")
    bob.call("leave", room="den")
    assert bob.call("join", room="den")["role"] == "guest", "leaving is no way out"
    done(host, "role", room="den", target="bob", role="member")
    bob.say("den", "free")


@pytest.mark.parametrize("fields, code, reason", [
    ({"target": "nobody", "role": "host"}, 404, "no_such_user"), ({"target": "bob", "role": "king"}, 400, "bad_request"),
    ({"target": "bob"}, 400, "bad_request"), ({"role": "host"}, 400, "bad_request"), ({"target": "two words", "role": "host"}, 400, "bad_name"),
    ({"target": "bob", "role": "host", "room": "nowhere"}, 404, "no_such_room"),
])
def test_roles_that_cannot_be_given(host, bob, fields, code, reason):
    host.refused(code, reason, "role", **({"room": "den"} | fields))
    assert roles(bob) == {"host": "host", "bob": "member"}


def test_the_member_longest_present_succeeds(host, bob, carol):
    host.call("leave", room="den")
    for client in (bob, carol):
        seen = client.expect("presence", event="role")
        assert (seen["nickname"], seen["role"]) == ("bob", "host")
    assert roles(bob) == {"bob": "host", "carol": "member"}
    bob.call("quit")
    assert carol.expect("presence", event="role", nickname="carol")["role"] == "host"


def test_a_second_host_makes_succession_needless(host, bob, carol):
    done(host, "role", room="den", target="carol", role="host")
    host.call("quit")
    assert bob.expect("presence", nickname="host", event="leave")["reason"] == "quit"
    assert roles(bob) == {"bob": "member", "carol": "host"}


def test_a_host_that_is_away_is_host_until_it_has_left_for_good(start_server):
    server = start_server(session__grace_ms=500)
    host, bob = server.ws("host", "den"), server.ws("bob", "den")
    host.drop()
    assert bob.expect("presence", event="away")["nickname"] == "host"
    assert roles(bob) == {"host": "host", "bob": "member"}
    assert bob.expect("presence", event="leave")["reason"] == "timeout"
    assert bob.expect("presence", event="role")["nickname"] == "bob"


# Kick, ban, mute.


@pytest.mark.parametrize("command, past", [("kick", "kicked"), ("ban", "banned")])
@pytest.mark.parametrize("carrier", CARRIERS)
def test_who_is_put_out_hears_it_and_stays_connected(server, host, carol, command, past, carrier):
    victim = CARRIERS[carrier](server).enter("victim", "den", "hall")
    done(host, command, room="den", target="Victim", reason="spam")
    left = victim.expect("left")
    assert (left["room"], left["reason"]) == ("den", past) and "id" not in left
    for client in (host, carol):
        seen = client.expect("presence", event="leave")
        assert (seen["nickname"], seen["reason"]) == ("victim", past)
    host.say("den", "without you")
    victim.say("hall", "still here")
    assert not [event for event in victim.until_pong() if event.get("room") == "den"]
    victim.refused(403, "not_a_member", "message", room="den", content="x")
    if command == "kick":
        assert victim.call("join", room="den")["type"] == "joined"
    else:
        error = victim.refused(403, "banned", "join", room="den")
        assert error["retryable"] is False
        done(host, "unban", room="den", target="victim")
        assert victim.call("join", room="den")["type"] == "joined"


def test_a_ban_ends_by_itself(server, host, bob):
    done(host, "ban", room="den", target="bob", seconds=3)
    # Until its own core has put it out it is still in the room, and hears that.
    assert bob.expect("left")["reason"] == "banned"
    error = bob.refused(403, "banned", "join", room="den")
    assert 0 < error["retry_after_ms"] <= 3000
    wait_until(lambda: bob.call("join", room="den")["type"] == "joined", "the ban to end")


def test_a_ban_is_of_the_nickname_and_before_it_comes(server, host):
    done(host, "ban", room="den", target="Later")
    later = server.ws("later")
    later.refused(403, "banned", "join", room="den")
    later.refused(403, "banned", "join", room="DEN", history=5)
    later.call("join", room="hall")
    later.refused(403, "banned", "switch", **{"from": "hall", "to": "den"})
    assert roles(later, "hall") == {"later": "host"}, "still where it was"


def test_a_nickname_that_is_away_can_be_banned(server, host, bob):
    bob.drop()
    host.expect("presence", event="away")
    done(host, "ban", room="den", target="bob")
    assert host.expect("presence", event="leave")["reason"] == "banned"
    again = server.ws().enter(None, resume=bob.welcome["resume"])
    assert again.expect("left")["reason"] == "banned"
    again.refused(403, "banned", "join", room="den")


def test_a_nick_does_not_undo_a_mute(host, bob):
    done(host, "mute", room="den", target="bob")
    done(bob, "nick", nickname="robert")
    bob.refused(403, "muted", "message", room="den", content="x")


@pytest.mark.parametrize("carrier", CARRIERS)
def test_who_is_muted_reads_only(server, host, carol, carrier):
    victim = CARRIERS[carrier](server).enter("victim", "den")
    done(host, "mute", room="den", target="victim", reason="calm down")
    for client in (victim, host, carol):
        assert client.expect("presence", event="mute")["nickname"] == "victim"
    victim.refused(403, "muted", "message", room="den", content="x")
    host.say("den", "hear me")
    victim.expect("message", content="hear me")
    victim.call("leave", room="den")
    victim.call("join", room="den")
    victim.refused(403, "muted", "message", room="den", content="x")
    done(host, "unmute", room="den", target="victim")
    assert victim.expect("presence", event="unmute")["nickname"] == "victim"
    victim.say("den", "thank you")
    carol.expect("message", content="thank you")
    assert [event["content"] for event in carol._unread if event["type"] == "message"] == ["hear me"]


def test_a_mute_ends_by_itself(host, bob):
    done(host, "mute", room="den", target="bob", seconds=3)
    error = bob.refused(403, "muted", "message", room="den", content="x")
    assert 0 < error["retry_after_ms"] <= 3000
    wait_until(lambda: bob.call("message", room="den", content="y")["type"] == "ack", "the mute to end")


@pytest.mark.parametrize("command", ["kick", "ban", "unban", "mute", "unmute"])
def test_only_hosts_moderate(server, host, bob, carol, command):
    bob.refused(403, "forbidden", command, room="den", target="carol")
    server.ws("stranger").refused(403, "not_a_member", command, room="den", target="carol")
    host.refused(404, "no_such_room", command, room="nowhere", target="carol")
    host.refused(400, "bad_name", command, room="den", target="not a name")
    host.refused(400, "bad_request", command, room="den")
    assert set(roles(carol)) == {"host", "bob", "carol"}


@pytest.mark.parametrize("command", ["kick", "unban", "unmute"])
def test_what_is_not_there_cannot_be_undone(host, bob, command):
    host.refused(404, "no_such_user", command, room="den", target="nobody")


def test_all_sessions_of_a_user_are_put_out(server, host):
    sessions = [enter(server.ws(), "dora", "den") for _ in range(3)]
    done(host, "kick", room="den", target="dora")
    assert [session.expect("left")["reason"] for session in sessions] == ["kicked"] * 3
    assert set(roles(host)) == {"host"}


def test_people_kick_too(server):
    host = server.text_line("host")
    host.type("/join den")
    bob = server.text_line("bob")
    bob.type("/join den")
    host.expect_text("[den] * bob joined")
    host.type("/kick bob")
    host.expect_text("[den] * bob left (kicked)")
    bob.type("/kick host")
    bob.expect(r"! 403 .*")


# State.


@pytest.mark.parametrize("carrier", CARRIERS)
def test_state_is_told_to_all_and_to_who_joins(server, host, carrier):
    bob = CARRIERS[carrier](server).enter("bob", "den")
    values = ["Ducks 🦆", 0, False, [1, [2, {}]], {"a": {"b": None}}, 1.5, ""]
    for version, value in enumerate(values, 1):
        ack = done(bob, "state", room="den", key="topic", value=value)
        assert (ack["room"], ack["key"], ack["version"]) == ("den", "topic", version)
        for client in (bob, host):
            event = client.expect("state")
            assert (event["room"], event["key"], event["value"], event["version"], event["sender"]) == ("den", "topic", value, version, "bob")
    assert done(host, "state", room="den", key="colour", value="green")["version"] == 8, "one counter a room"
    late = CARRIERS[carrier](server).enter("late")
    state = late.call("join", room="den")["state"]
    assert state == {"topic": {"value": "", "version": 7}, "colour": {"value": "green", "version": 8}}
    done(bob, "state", room="den", key="topic", value=None)
    event = late.expect("state")
    assert (event["key"], event["value"], event["version"]) == ("topic", None, 9)
    late.call("leave", room="den")
    assert late.call("join", room="den")["state"] == {"colour": {"value": "green", "version": 8}}


def test_state_of_a_room_is_bounded(start_server):
    server = start_server(limits__state_keys=2, limits__state_value_bytes=20)
    alice = server.ws("alice", "den")
    for key in ("a", "b"):
        done(alice, "state", room="den", key=key, value="x" * 18)
    alice.refused(403, "forbidden", "state", room="den", key="c", value=1)
    alice.refused(413, "too_large", "state", room="den", key="a", value="x" * 19)
    done(alice, "state", room="den", key="a", value=None)
    assert done(alice, "state", room="den", key="c", value=1)["version"] == 4


def test_strangers_do_not_change_state(server, host):
    server.ws("stranger").refused(403, "not_a_member", "state", room="den", key="topic", value=1)
    host.refused(404, "no_such_room", "state", room="nowhere", key="topic", value=1)


def test_many_changes_reach_all_in_one_order(server, host, bob):
    late = server.ws("late", "den")
    for number in range(100):
        host.send("state", room="den", key="k", value=f"host {number}")
        bob.send("state", room="den", key="k", value=f"bob {number}")
    seen = [[(event["version"], event["value"]) for event in (client.expect("state") for _ in range(200))] for client in (host, bob, late)]
    assert seen[0] == seen[1] == seen[2]
    assert [version for version, _ in seen[0]] == list(range(1, 201))


def test_people_read_and_set_the_topic(server, host):
    person = server.text_line("person")
    person.type("/join den")
    person.type("/topic all about ducks")
    assert host.expect("state")["value"] == "all about ducks"
    person.type("/topic")
    person.expect(r".*all about ducks.*")


# Broadcast.


@pytest.fixture
def crowd(server):
    """Sessions by name, each in a room of its own and with tags of its own."""
    return {name: enter(carrier(server), name, room, tags=tags) for (name, room, tags), carrier in zip(
        [("ann", "ops", ["beta"]), ("ben", "team-a", []), ("cleo", "team-b", ["beta", "eu"]), ("dan", "hall", None), ("eve", "Ops-2", ["be"])],
        CARRIERS.values())}


@pytest.mark.parametrize("fields, who", [
    ({}, {"ann", "ben", "cleo", "dan", "eve", "boss"}), ({"rooms": ["ops"]}, {"ann"}), ({"rooms": ["OPS", "team-*"]}, {"ann", "ben", "cleo"}),
    ({"tags": ["beta"]}, {"ann", "cleo"}), ({"tags": ["eu", "be"]}, {"cleo", "eve"}), ({"rooms": ["hall"], "tags": ["be"]}, {"dan", "eve"}),
    ({"rooms": ["ops*"]}, {"ann", "eve"}), ({"rooms": ["*"]}, {"ann", "ben", "cleo", "dan", "eve"}), ({"tags": ["nobody"]}, set()),
    ({"rooms": ["nowhere"]}, set()),
])
def test_broadcasts_reach_those_they_are_for(server, crowd, fields, who):
    boss = enter(server.ws(), "boss", admin=True)
    ack = boss.call("broadcast", content="maintenance at 6", **fields)
    assert (ack["type"], ack["sessions"]) == ("ack", len(who)), ack
    everybody = crowd | {"boss": boss}
    for name in who:
        system = everybody[name].expect("system")
        assert (system["content"], system["sender"]) == ("maintenance at 6", "boss")
        assert abs(system["timestamp"] - boss.call("ping")["timestamp"]) < 60_000
    boss.call("broadcast", content="end")
    for client in everybody.values():
        assert client.expect("system")["content"] == "end", "once, and only to those"


def test_only_admins_broadcast(server, crowd, host):
    for client in (crowd["ann"], host):
        client.refused(403, "forbidden", "broadcast", content="x")
    boss = enter(server.ws(), "boss", admin=True)
    boss.refused(400, "bad_request", "broadcast", content="")
    boss.refused(413, "too_large", "broadcast", content="x" * 65_537)
    assert boss.call("broadcast", content="end")["sessions"] == 7
    assert crowd["ben"].expect("system")["content"] == "end"


def test_who_is_away_hears_it_when_back(server, host, bob):
    boss = enter(server.ws(), "boss", admin=True)
    bob.drop()
    host.expect("presence", event="away")
    assert boss.call("broadcast", content="x")["sessions"] == 2
    again = server.ws().enter(None, resume=bob.welcome["resume"])
    assert again.expect("system")["content"] == "x"


def test_people_hear_broadcasts(server):
    person = server.text_line("person")
    enter(server.ws(), "boss", admin=True).call("broadcast", content="maintenance at 6")
    person.expect(r".*maintenance at 6.*")


# Values that would break the parser of whoever hears them, or of whoever joins later.
@pytest.mark.parametrize("value", [
    "[" * 2000 + "]" * 2000, "[" * 33 + "]" * 33, '{"a":' * 33 + "1" + "}" * 33, "1e999", "-1e999", "[1,{\"a\":[2e400]}]", "1" + "0" * 400,
])
@pytest.mark.parametrize("carrier", ["ws", "proto_ws", "proto_frame"])
def test_values_that_others_cannot_read_are_refused(server, host, carrier, value):
    bob = CARRIERS[carrier](server).enter("bob", "den")
    if carrier == "ws":
        bob.send_text(f'{{"type":"state","room":"den","key":"k","value":{value},"id":"it"}}')
    else:
        schema = bob.classes
        command = schema.Command(id="it", state=schema.State(room="den", key="k", value_json=value))
        if carrier == "proto_ws":
            bob.socket.send(command.SerializeToString())
        else:
            payload = command.state.SerializeToString() + schema.Command(id="it").SerializeToString()
            bob.raw.send(bob.frame(bob.encoding, 12, payload))
    error = bob.expect(id="it")
    assert (error["type"], error["code"], error["reason"]) == ("error", 400, "bad_request"), error
    assert not [event for event in host.until_pong() if event["type"] == "state"]
    assert server.ws("late").call("join", room="den")["state"] == {}


def test_values_may_be_deep_and_large_within_reason(server, host):
    values = ["[" * 32 + "]" * 32, "1e308", "1e-999", '"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[ 1e999 \\" "']
    for version, value in enumerate(values, 1):
        host.send_text(f'{{"type":"state","room":"den","key":"k","value":{value},"id":"v{version}"}}')
        assert host.expect(id=f"v{version}")["version"] == version


# Admins.


def test_a_host_does_not_change_an_admins_role(server, host, bob):
    boss = enter(server.ws(), "boss", "den", admin=True)
    for role in ("guest", "member", "host"):
        host.refused(403, "forbidden", "role", room="den", target="boss", role=role)
    boss.say("den", "still here")
    other = enter(server.ws(), "other-boss", "den", admin=True)
    done(other, "role", room="den", target="boss", role="guest")
    assert roles(bob)["boss"] == "guest"
    boss.say("den", "and still speaking")


def test_what_is_held_against_a_nickname_does_not_silence_the_admin_who_has_it(server, host):
    squatter = server.ws("boss", "den")
    done(host, "role", room="den", target="boss", role="guest")
    done(host, "mute", room="den", target="boss")
    squatter.refused(403, "forbidden", "message", room="den", content="x")
    squatter.call("quit")
    boss = enter(server.ws(), "boss", "den", admin=True)
    boss.say("den", "hello")
    done(boss, "state", room="den", key="topic", value="order")
    another = enter(server.ws(), "boss", "den", admin=False)
    another.refused(403, "forbidden", "message", room="den", content="x")
    done(boss, "unmute", room="den", target="boss")


# How long.


@pytest.mark.parametrize("command", ["ban", "mute"])
def test_no_seconds_at_all_are_a_mistake(server, host, bob, command):
    error = host.refused(400, "bad_request", command, room="den", target="bob", seconds=0)
    assert error["message"] == "`seconds` is at least 1: leave it out for no end"
    bob.say("den", "neither banned nor muted")


@pytest.mark.parametrize("command", ["kick", "unban", "unmute"])
def test_what_has_no_end_takes_no_notice_of_seconds(server, host, bob, command):
    for other in ("ban", "mute"):
        done(host, other, room="den", target="bob")
    if command == "kick":
        bob = server.ws("dora", "den")
    done(host, command, room="den", target=bob.nickname, seconds=0)


def test_the_longest_time_is_one_that_every_client_can_count(server, host, bob):
    done(host, "mute", room="den", target="bob", seconds=2**64 - 1)
    error = bob.refused(403, "muted", "message", room="den", content="x")
    century_ms = 36_500 * 86_400 * 1000
    assert century_ms - 60_000 < error["retry_after_ms"] <= century_ms


@pytest.mark.parametrize("fields", [{"rooms": []}, {"tags": []}, {"rooms": [], "tags": []}, {"rooms": ["den"], "tags": []}])
def test_an_empty_list_is_not_everybody(server, bob, fields):
    boss = enter(server.ws(), "boss", admin=True)
    error = boss.refused(400, "bad_request", "broadcast", content="x", **fields)
    assert "at least one" in error["message"]
    boss.call("broadcast", content="end", rooms=None, tags=None)
    assert bob.expect("system")["content"] == "end"


def test_in_protobuf_an_empty_list_is_none(server, bob):
    boss = enter(CARRIERS["proto_ws"](server), "boss", admin=True)
    assert boss.call("broadcast", content="x", rooms=[], tags=[])["sessions"] == 3


# Large rooms.


@pytest.fixture
def large(start_server):
    """A room in which comings and goings are told together, and hardly ever."""
    server = start_server(presence__exact_members=2, presence__batch_ms=3_600_000, **SETTINGS)
    host = server.ws("host", "den")
    others = [server.ws(nickname, "den") for nickname in ("bob", "carol", "dora")]
    host.expect("presence", event="join", nickname="bob")
    host.until_pong()
    return server, host, others


def told(client):
    return [event for event in client.until_told("den") if event["type"] == "presence"]


@pytest.mark.parametrize("command, past", [("kick", "kicked"), ("ban", "banned")])
def test_a_large_room_counts_whoever_is_put_out_until_that_is_told(large, command, past):
    server, host, (bob, carol, dora) = large
    newcomer = server.ws("newcomer", "den")
    done(host, command, room="den", target="bob")
    batch, leave = told(host)
    assert (batch["event"], batch["joined"], batch["left"], batch["members"]) == ("batch", ["carol", "dora", "newcomer"], [], 5)
    assert (leave["event"], leave["nickname"], leave["reason"]) == ("leave", "bob", past)
    assert told(newcomer) == [batch, leave]


@pytest.mark.parametrize("command, fields", [("mute", {}), ("unmute", {}), ("role", {"role": "host"})])
def test_a_large_room_hears_of_a_newcomer_before_what_is_done_to_it(large, command, fields):
    server, host, _ = large
    if command == "unmute":
        done(host, "mute", room="den", target="newcomer")
        host.until_pong()
    server.ws("newcomer", "den")
    done(host, command, room="den", target="newcomer", **fields)
    batch, seen = told(host)
    assert (batch["event"], batch["members"]) == ("batch", 5) and "newcomer" in batch["joined"]
    assert (seen["event"], seen["nickname"]) == (command, "newcomer")


def test_what_is_refused_hurries_no_batch(large):
    server, host, (bob, _, _) = large
    bob.refused(403, "forbidden", "kick", room="den", target="carol")
    host.refused(404, "no_such_user", "kick", room="den", target="nobody")
    assert told(host) == []


def test_whoever_renames_itself_into_a_ban_is_counted_until_that_is_told(large):
    server, host, (bob, carol, dora) = large
    done(host, "ban", room="den", target="outlaw")
    host.until_pong()
    done(dora, "nick", nickname="outlaw")
    batch, leave = told(host)
    assert (batch["event"], batch["joined"], batch["members"]) == ("batch", ["carol", "outlaw"], 4)
    assert (leave["event"], leave["nickname"]) == ("leave", "outlaw")
