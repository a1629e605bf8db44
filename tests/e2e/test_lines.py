"""The line port: text lines for people, JSON lines for programs."""

import json
import re
import subprocess

import pytest

from helpers import Deadline, JsonLineClient, TextClient, is_free


@pytest.fixture
def alice(server):
    return server.text_line("alice")


@pytest.fixture
def bob(server, alice):
    bob = server.text_line("bob")
    alice.expect_text("[lobby] * bob joined")
    return bob


# Coming in.


def test_silence_is_greeted_and_asked_for_a_nickname(server):
    server.text_line().expect(r".*nickname.*")


def test_a_refused_nickname_is_answered_and_asked_again(server, alice):
    client = server.text_line()
    client.expect(r".*nickname.*")
    client.type("two words")
    client.expect(r"! 400 bad_name: .+")
    client.type("alice")
    client.expect(r"! 409 nickname_in_use: .+")
    client.type("ALICE")
    client.expect(r"! 409 nickname_in_use: .+")
    client.type("carol")
    alice.expect_text("[lobby] * carol joined")


def test_everyone_starts_in_the_lobby(server, alice, bob):
    bob.type("/who")
    assert bob.expect(r"\* lobby has .*") == "* lobby has 2 members: alice, bob"


def test_commands_that_come_before_the_greeting_are_obeyed(server):
    client = server.connect("line")
    client.send(b"eager\nhello from eager\n/who\n")
    client.until(b"* lobby has 1 member: eager\n")


# Speaking.


def test_a_line_is_a_message_that_its_sender_does_not_hear(alice, bob):
    alice.type("good morning")
    bob.expect_text("[lobby] alice: good morning")
    assert not [line for line in alice.until_pong() if "good morning" in line]


def test_an_empty_line_is_nothing(alice, bob):
    alice.type("")
    alice.raw.send(b"\r\n")
    alice.type("after")
    assert bob.next() == "[lobby] alice: after"
    assert alice.until_pong() == []


def test_two_slashes_say_one(alice, bob):
    alice.type("//etc/hosts")
    bob.expect_text("[lobby] alice: /etc/hosts")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_both_line_ends_end_a_line(alice, bob, end):
    alice.raw.send(b"one" + end + b"two" + end)
    assert [bob.next(), bob.next()] == ["[lobby] alice: one", "[lobby] alice: two"]


def test_a_line_may_come_one_byte_at_a_time(alice, bob):
    alice.raw.send_slowly("caffè und 餃子 🦆\r\n".encode())
    bob.expect_text("[lobby] alice: caffè und 餃子 🦆")


def test_telnet_negotiation_is_skipped(alice, bob):
    will_echo, subnegotiation = b"\xff\xfb\x01", b"\xff\xfa\x18\x00xterm\xff\xf0"
    alice.raw.send(b"he" + will_echo + b"llo" + subnegotiation + b" there\r\n")
    bob.expect_text("[lobby] alice: hello there")


def test_control_characters_never_reach_a_terminal(server, alice):
    program = server.json_line("program", "lobby")
    program.send("message", room="lobby", content="a\u001b[31mred\u0007\u007f\u0085\u009b2Jb\u0000c")
    program.send("message", room="lobby", content="up\ndown")
    line = alice.expect(r"\[lobby\] program: a.*")
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line), line
    assert "red" in line
    alice.expect_text("[lobby] program: up⏎down")


def test_what_is_not_utf8_is_refused_and_the_connection_stays(alice, bob):
    alice.raw.send(b"caf\xe9\n")
    alice.expect(r"! 400 bad_utf8: .+")
    alice.type("still here")
    assert bob.next() == "[lobby] alice: still here"


def test_a_line_too_long_is_skipped_to_its_end(alice, bob):
    alice.raw.send(b"x" * 300_000 + b"\nshort\n")
    alice.expect(r"! 413 too_large: .+")
    assert bob.next() == "[lobby] alice: short"


def test_content_too_long_is_refused(alice, bob):
    alice.type("x" * 65_537)
    alice.expect(r"! 413 too_large: .+")
    alice.type("y" * 65_536)
    assert bob.next() == "[lobby] alice: " + "y" * 65_536


# Commands.


def test_nick_changes_the_nickname(alice, bob):
    alice.type("/nick al")
    bob.expect(r"\[lobby\] \* alice .*\bal\b.*")
    alice.type("it is me")
    bob.expect_text("[lobby] al: it is me")
    alice.type("/nick BOB")
    alice.expect(r"! 409 nickname_in_use: .+")


def test_join_makes_a_room_current_and_keeps_the_others(alice, bob):
    alice.type("/join birds")
    alice.type("/who")
    alice.expect_text("* birds has 1 member: alice")
    bob.type("/join birds")
    alice.expect_text("[birds] * bob joined")
    bob.type("tweet")
    alice.expect_text("[birds] bob: tweet")
    alice.type("/leave")
    bob.expect(r"\[birds\] \* alice left.*")
    alice.type("back in the lobby")
    bob.expect_text("[lobby] alice: back in the lobby")


def test_rooms_are_listed(alice, bob):
    bob.type("/join birds")
    bob.until_pong()
    alice.type("/rooms")
    lines = alice.until_pong()
    assert "* room lobby: 2 members" in lines
    assert "* room birds: 1 member" in lines


def test_msg_is_heard_by_one_alone(server, alice, bob):
    carol = server.text_line("carol")
    alice.type("/msg bob psst, over here")
    bob.expect_text("[private] alice: psst, over here")
    assert not [line for line in carol.until_pong() if "psst" in line]
    alice.type("/msg nobody hello?")
    alice.expect(r"! 404 no_such_user: .+")


def test_ping_and_help_are_answered(alice):
    assert alice.until_pong() == []
    alice.type("/help")
    answer = "\n".join(alice.until_pong())
    for command in ["/nick", "/join", "/leave", "/rooms", "/who", "/msg", "/ping", "/help", "/quit"]:
        assert command in answer


def test_quit_ends_the_connection_and_frees_the_nickname(server, alice, bob):
    alice.type("/quit")
    bob.expect_text("[lobby] * alice left (quit)")
    alice.raw.rest()
    assert is_free(server, "alice")


@pytest.mark.parametrize("line", ["/dance", "/msg bob", "/join", "/join two rooms", "/nick", "/"])
def test_what_is_no_command_costs_an_error_only(alice, bob, line):
    alice.type(line)
    alice.expect(r"! 400 \w+: .+")
    alice.type("still here")
    assert bob.next() == "[lobby] alice: still here"


def test_leaving_without_a_word_is_lost(alice, bob):
    alice.close()
    bob.expect_text("[lobby] * alice left (lost)")
    bob.type("/who")
    bob.expect_text("* lobby has 1 member: bob")


def test_commands_that_arrive_with_the_end_are_obeyed_and_answered(server, bob):
    client = server.connect("line")
    client.send(b"hasty\nlast words\n/ping\n")
    client.finish()
    bob.expect_text("[lobby] hasty: last words")
    assert b"pong" in client.rest()


def test_netcat_is_client_enough(server, bob):
    chat = subprocess.run(["nc", "-N", *map(str, server.line)], input=b"cat\nhello from nc\n/who\n/quit\n", capture_output=True,
                          timeout=20, check=True)
    bob.expect_text("[lobby] cat: hello from nc")
    assert b"* lobby has 3 members: alice, bob, cat\n" in chat.stdout


# Programs.


def test_a_first_brace_makes_it_json_without_a_greeting(server):
    client = server.connect("line")
    client.send(b'{"type":"hello","nickname":"prog","id":"1"}\n')
    first = json.loads(client.until(b"\n"))
    assert (first["type"], first["nickname"], first["id"]) == ("welcome", "prog", "1")


def test_json_and_text_meet_in_a_room(server, alice):
    program = server.json_line("prog", "lobby")
    alice.expect_text("[lobby] * prog joined")
    ack = program.call("message", room="lobby", content="1 + 1 = 2")
    alice.expect_text("[lobby] prog: 1 + 1 = 2")
    alice.type("so it is")
    heard = program.expect("message", sender="alice")
    assert (heard["content"], heard["offset"]) == ("so it is", ack["offset"] + 1)


def test_json_lines_survive_nonsense(server):
    program = server.json_line("prog", "lobby")
    program.send_text("{ this is not JSON")
    program.expect("error", code=400, reason="bad_json")
    program.send_text("not even a brace")
    program.expect("error", code=400)
    program.send_text(json.dumps({"type": "message", "room": "lobby", "content": "x" * 262_144}))
    program.expect("error", code=413, reason="too_large")
    program.raw.send(b'{"type":"ping","id":"\xff"}\n')
    program.expect("error", code=400)
    assert program.call("ping")["type"] == "pong"


def test_json_lines_take_both_line_ends_and_single_bytes(server):
    client = server.keep(JsonLineClient(server.line))
    client.raw.send(b'{"type":"ping","id":"a"}\r\n')
    client.raw.send_slowly(b'{"type":"ping","id":"b"}\n')
    assert [client.next()["id"], client.next()["id"]] == ["a", "b"]


def test_json_quit_says_bye(server):
    program = server.json_line("prog")
    bye = program.call("quit")
    assert (bye["type"], bye["code"], bye["reason"], bye["resumable"], bye["after_ms"]) == ("bye", 1000, "quit", False, 0)
    assert program.raw.is_ended(Deadline())


def test_a_late_brace_is_said_by_a_person(server, bob):
    client = server.keep(TextClient(server.line)).enter("late")
    client.type('{"type":"ping"}')
    bob.expect_text('[lobby] late: {"type":"ping"}')


@pytest.mark.parametrize("repetition", range(10))
def test_who_quits_hears_all_that_came_before(server, repetition):
    """The example of the README, in one packet: the room's own core may be another one."""
    client = server.connect("line")
    room = f"quit-{repetition}"
    client.send(
        b'{"type":"hello","nickname":"bot"}\n\n'
        + f'{{"type":"join","room":"{room}"}}\n'.encode()
        + f'{{"type":"message","room":"{room}","content":"build 42 is green","id":"1"}}\n'.encode()
        + b'{"type":"quit"}\n'
    )
    events = [json.loads(line)["type"] for line in client.rest().splitlines()]
    assert sorted(events) == ["ack", "bye", "joined", "message", "welcome"], "and an empty line is nothing"
    assert events[-1] == "bye"


def test_acknowledgements_of_typing_keep_their_ids(server):
    client = server.json_line("quick")
    for number in range(16):
        client.call("join", room=f"r{number}")
        client.raw.send(b"".join(
            json.dumps(command).encode() + b"\n"
            for command in [
                {"type": "message", "room": f"r{number}", "content": "x"},
                {"type": "typing", "room": f"r{number}", "id": "t1"},
                {"type": "typing", "room": f"r{number}", "id": "t2"},
            ]
        ))
        assert [client.expect("ack")["id"] for _ in range(2)] == ["t1", "t2"]


def test_a_room_without_messages_says_so(server):
    alice = server.text_line("alice")
    alice.type("/history")
    assert alice.until_pong() == ["* lobby has no messages to show"]
    alice.type("hello")
    alice.type("/history")
    assert alice.until_pong() == ["[lobby] alice: hello"]
