"""`starling chat`, at a pseudo-terminal and in pipes."""

import signal
import subprocess
import threading

import pytest

from helpers import DEADLINE_S, binary, environment, run, wait_until
from terminal import Terminal

# Lines of a pipe, enough for many round trips, and for a server to be killed among them.
LINES = 10_000


def command(url, *arguments):
    return [binary(), "chat", url, *arguments]


@pytest.fixture
def chat():
    """Starts clients at terminals."""
    terminals = []

    def chat(url, nickname=None, *arguments, size=(80, 24), variables=None):
        arguments = [*(["--nickname", nickname] if nickname else []), *arguments]
        terminals.append(Terminal(command(url, *arguments), *size, variables=variables))
        return terminals[-1]

    yield chat
    for terminal in terminals:
        terminal.close()


@pytest.fixture
def url(server):
    return server.url("/ws")


def port_of(address):
    return f"127.0.0.1:{address[1]}"


# At a terminal.


def test_two_people_talk(url, chat):
    alice = chat(url, "alice")
    alice.shows("1 here", "online")
    bob = chat(url, "bob")
    bob.shows("2 here", "alice")
    alice.shows("* bob joined", "2 here")
    alice.enter("hello, 李明 🦜")
    bob.shows("alice: hello, 李明 🦜")
    alice.shows("alice: hello, 李明 🦜 ✓")
    bob.type("a")
    alice.shows("bob is typing")
    bob.press("tab")
    bob.shows("lobby> alice:")
    bob.enter("hi!")
    alice.shows("bob: alice: hi!")
    alice.shows_no_more("is typing")
    alice.enter("/topic big birds")
    bob.shows("lobby: big birds", "* alice set the topic: big birds")


def test_what_is_unread_is_counted(server, url, chat):
    alice = chat(url, "alice", "--room", "lobby", "--room", "ops")
    alice.shows("1 lobby", "2 ops", "online", "1 here")
    bob = server.ws("bob", "ops")
    for text in ["one", "two", "alice: three"]:
        bob.send(type="message", room="ops", content=text)
    alice.shows("2 ops        !3")
    alice.press("alt-2")
    alice.shows("── new ──", "bob: alice: three")
    assert "!3" not in alice.text()
    alice.press("ctrl-n")
    alice.shows("starling at ws://")
    alice.press("ctrl-p", "ctrl-p")
    alice.shows("lobby>")


def test_two_people_whisper(url, chat):
    alice, bob = chat(url, "alice"), chat(url, "bob")
    alice.shows("2 here")
    bob.shows("2 here")
    alice.enter("/msg bob psst")
    alice.shows("@bob>", "psst ✓")
    bob.shows("2 @alice     !1")
    bob.press("alt-a")
    bob.shows("between you and alice", "alice  psst")
    bob.enter("what?")
    alice.shows("bob  what?")
    alice.enter("/msg nobody hello?")
    alice.shows("not sent to nobody: hello?", "@bob>")
    assert "3 @nobody" not in alice.text()


def test_whoever_writes_to_nobody_stays_where_he_is(server, url, chat):
    alice = chat(url, "alice")
    alice.shows("1 here", "online")
    alice.enter("/msg nobody hi")
    alice.shows("not sent to nobody: hi", "lobby>")
    alice.enter("hello")
    alice.shows("alice: hello ✓")


def test_a_nickname_is_asked_for_until_it_is_free(server, url, chat):
    server.ws("alice", "lobby")
    terminal = chat(url)
    terminal.shows("nickname:")
    terminal.enter("alice")
    terminal.shows("; nickname:")
    terminal.enter("al ice")
    terminal.shows("! nickname: a name has letters", "nickname:")
    terminal.enter("alice2")
    terminal.shows("lobby>", "online", "2 here", "alice2")


def test_whose_nickname_is_taken_while_away_goes_on_with_another(start_server, chat):
    server = start_server()
    alice = chat(server.url("/ws"), "alice")
    alice.shows("1 here", "online")
    # Held, so that the other one comes first.
    alice.process.send_signal(signal.SIGSTOP)
    server.kill()
    server = start_server(_web=port_of(server.web))
    server.ws("alice", "lobby")
    alice.process.send_signal(signal.SIGCONT)
    alice.shows("nickname taken: /nick NAME (again in")
    alice.enter("/nick al")
    alice.shows("2 here", "online", "al  F1 help")


def test_scrolling_up_brings_the_whole_history(server, url, chat):
    bob = server.ws("bob", "lobby")
    for number in range(400):
        bob.send(type="message", room="lobby", content=f"message {number}.")
    bob.send(type="message", room="lobby", content="the last one", id="last")
    bob.expect("ack", id="last")
    alice = chat(url, "alice")
    alice.shows("bob: the last one")

    def pages_up():
        alice.press("pageup")
        return "message 0." in alice.text()

    wait_until(pages_up, "the first message")
    # Every message is there once, in order, on the way down.
    seen = []

    def pages_down():
        for line in alice.lines():
            if "message " in line and (number := int(line.split("message ")[1].split(".")[0])) not in seen:
                assert not seen or number == seen[-1] + 1, f"{number} after {seen[-1]}"
                seen.append(number)
        if "the last one" in alice.text():
            return True
        before = alice.text()
        alice.press("pagedown")
        wait_until(lambda: alice.text() != before, "another page")
        return False

    wait_until(pages_down, "the last message")
    assert seen == list(range(400))
    alice.press("home")
    alice.shows("↓ End")
    bob.send(type="message", room="lobby", content="unseen")
    alice.shows("↓ 1 new")
    alice.press("end")
    alice.shows("bob: unseen")


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_what_is_typed_without_a_server_arrives_once(disk, chat, end):
    server = disk()
    alice = chat(server.url("/ws"), "alice")
    alice.shows("1 here", "online")
    alice.enter("before")
    alice.shows("before ✓")
    if end == "killed":
        server.kill()
    else:
        server.close()
    alice.shows("reconnecting in")
    alice.enter("meanwhile")
    alice.shows("meanwhile …", "1 unsent")
    server = disk(_web=port_of(server.web))
    alice.shows("meanwhile ✓", "online")
    assert "unsent" not in alice.text()
    bob = server.ws("bob")
    bob.send(type="join", room="lobby", history=10)
    messages = bob.expect("joined")["messages"]
    assert [message["content"] for message in messages] == ["before", "meanwhile"]
    assert alice.count("meanwhile") == alice.count("before") == 1


def test_the_screen_follows_its_size(url, chat):
    alice = chat(url, "alice")
    alice.shows("1 here")
    alice.enter("one two three four five six seven eight nine ten")
    alice.shows("✓")
    for columns, rows in [(120, 40), (30, 10), (20, 5), (200, 60), (5, 2), (80, 24)]:
        alice.resize(columns, rows)
        if columns >= 20:
            alice.shows("●", "✓")
        if columns >= 30:
            alice.shows("lobby")
    alice.shows("1 here", "F1 help")
    assert len(alice.lines()[-1]) < 20, alice.text()
    alice.press("f1")
    alice.shows("/kick NAME")
    alice.press("escape")
    alice.shows("lobby>")


@pytest.mark.parametrize("is_coloured", [True, False])
def test_no_color_is_respected(server, url, chat, is_coloured):
    alice = chat(url, "alice", variables=None if is_coloured else {"NO_COLOR": "1"})
    alice.shows("1 here")
    bob = server.ws("bob", "lobby")
    bob.send(type="message", room="lobby", content="alice: hi")
    alice.shows("bob: alice: hi", "online")
    colours = {cell.fg for cell in alice.cells()} | {cell.bg for cell in alice.cells()}
    assert (colours != {"default"}) == is_coloured
    assert any(cell.reverse for cell in alice.cells())


def test_what_others_write_does_nothing_to_the_terminal(server, url, chat):
    alice = chat(url, "alice")
    alice.shows("1 here")
    bob = server.ws("bob", "lobby")
    bob.send(type="message", room="lobby", content="a\x1b[2J\x1b]0;title\x07b\u202etxt.exe\nbob: c\x9bd")
    alice.shows("bob: a␛[2J␛]0;title␇btxt.exe⏎", "1 lobby")
    assert b"title\x07" not in alice.output
    # A second line is no message of somebody else's.
    assert not any(line.split("│")[1].strip().startswith("bob: c") and ":" in line[:21] for line in alice.lines() if "bob: c" in line)


def test_lines_that_are_pasted_are_one_message(server, url, chat):
    bob = server.ws("bob", "lobby")
    alice = chat(url, "alice")
    alice.shows("2 here")
    alice.paste("one\rtwo\rthree")
    alice.shows("lobby> one⏎two⏎three")
    alice.press("enter")
    assert bob.expect("message")["content"] == "one\ntwo\nthree"


@pytest.mark.parametrize("scheme", ["wss", "https", "frames", "frame"])
def test_it_comes_by_tls_and_in_frames(start_server, chat, tmp_path, scheme):
    is_tls = scheme.endswith("s")
    settings = {}
    if is_tls:
        assert run([binary(), "cert", "--out", str(tmp_path)]).returncode == 0
        settings = {"tls__cert": tmp_path / "cert.pem", "tls__key": tmp_path / "key.pem"}
    server = start_server(**settings)
    port = (server.frame if scheme.startswith("frame") else server.web)[1]
    alice = chat(f"{scheme}://localhost:{port}", "alice", *(["--ca", str(tmp_path / "cert.pem")] if is_tls else []))
    alice.shows("1 here", "online")
    alice.enter("hello")
    alice.shows("hello ✓")


@pytest.mark.parametrize("end", ["ctrl-c", "/quit", signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_given_back(server, url, chat, end):
    bob = server.ws("bob", "lobby")
    alice = chat(url, "alice", "--mouse")
    alice.shows("2 here")
    if isinstance(end, signal.Signals):
        alice.process.send_signal(end)
    elif end == "ctrl-c":
        alice.type("half a message")
        alice.shows("half a message")
        alice.press("ctrl-c")
        alice.shows_no_more("half")
        alice.press("ctrl-c")
    else:
        alice.enter(end)
    assert alice.exit_code() == 0
    wait_until(alice.is_as_before, "a terminal as it was")
    left = bob.expect("presence", event="leave")
    assert left["reason"] in ("quit", "left")


def test_whoever_quits_is_asked_about_what_is_unsent(disk, chat):
    server = disk()
    alice = chat(server.url("/ws"), "alice")
    alice.shows("1 here", "online")
    server.kill()
    alice.shows("reconnecting in")
    alice.enter("one")
    alice.enter("two")
    alice.shows("2 unsent")
    alice.press("ctrl-c")
    alice.shows("2 messages are unsent", "y/n")
    alice.type("n")
    alice.shows("lobby>")
    alice.press("ctrl-c")
    alice.shows("y/n")
    alice.type("y")
    assert alice.exit_code() == 1
    wait_until(lambda: b"2 messages are unsent\r\n" in alice.output, "how many are unsent")
    assert alice.is_as_before()


def test_the_mouse_scrolls_and_chooses_rooms(server, url, chat):
    bob = server.ws("bob", "lobby")
    for number in range(50):
        bob.send(type="message", room="lobby", content=f"message {number}.")
    alice = chat(url, "alice", "--mouse", "--room", "lobby", "--room", "ops")
    alice.shows("message 49.", "2 ops")
    # At column 3, row 3, counted from 1.
    alice.type("\x1b[<0;3;3M\x1b[<0;3;3m")
    alice.shows("ops>")
    alice.type("\x1b[<0;3;2M\x1b[<0;3;2m")
    alice.shows("lobby>")
    alice.type(10 * "\x1b[<64;30;10M")
    alice.shows("message 15.", "↓ End")
    alice.type(20 * "\x1b[<65;30;10M")
    alice.shows("message 49.")


# In pipes.


def pipe(url, *arguments, lines=b"", **options):
    return subprocess.run(command(url, *arguments), input=lines, capture_output=True, timeout=60, env=environment(), **options)


def test_lines_are_messages_and_what_is_heard_are_lines(server, url):
    bob = server.ws("bob", "ops")
    process = subprocess.Popen(command(url, "--room", "ops", "--nickname", "bot"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=environment())
    process.stdin.write("one\n/two\n\n李明\r\n".encode())
    process.stdin.flush()
    assert [bob.expect("message")["content"] for _ in range(3)] == ["one", "/two", "李明"]
    bob.send(type="message", room="ops", content="a\nb\x1b")
    bob.send(type="private", target="bot", content="psst")
    told = [process.stdout.readline().decode() for _ in range(3)]
    # Rooms and people are told by different cores.
    assert sorted(told) == ["* joined ops: 2 members\n", "[ops] bob: a⏎b\n", "[private] bob: psst\n"]
    process.stdin.write(b"without an end")
    process.stdin.close()
    bob.expect("message", content="without an end")
    assert process.wait(DEADLINE_S) == 0
    assert process.stdout.read() == b""
    assert process.stderr.read() == b"starling: online as bot\n"
    process.stdout.close()
    process.stderr.close()


def test_ten_thousand_lines_arrive_once_and_in_order_although_the_server_is_killed(disk):
    server = disk(history__count=2 * LINES)
    process = subprocess.Popen(command(server.url("/ws"), "--room", "ops", "--nickname", "bot", "--quiet"), stdin=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment())

    def write():
        with process.stdin:
            process.stdin.writelines(b"line %d\n" % number for number in range(LINES))

    writer = threading.Thread(target=write)
    bob = server.ws("bob")
    bob.send(type="join", room="ops")
    epoch = bob.expect("joined")["epoch"]
    writer.start()
    heard = [bob.expect("message") for _ in range(LINES // 10)]
    server.kill()
    server = disk(_web=port_of(server.web), history__count=2 * LINES)
    carol = server.ws("carol")
    writer.join(DEADLINE_S)
    assert process.wait(DEADLINE_S) == 0, process.stderr.read()
    process.stderr.close()
    # What has come meanwhile may be more than is said to whoever joins.
    while len(heard) < LINES:
        carol.send(type="history", room="ops", after=heard[-1]["offset"], limit=1000)
        page = carol.expect("history")
        assert page["epoch"] == epoch and page["messages"], len(heard)
        heard += page["messages"]
    assert [message["content"] for message in heard] == [f"line {number}" for number in range(LINES)]


def test_what_cannot_be_sent_is_told(server, url):
    bob = server.ws("bob", "lobby")
    done = pipe(url, "--nickname", "bot", lines=b"a\n" + 65_537 * b"x" + b"\nb\xff\n" + 65_536 * b"y" + b"\nc\n")
    assert (done.returncode, [len(bob.expect("message")["content"]) for _ in range(3)]) == (1, [1, 65_536, 1])
    told = done.stderr.decode()
    assert "line 2 was not sent: it has 65537 bytes" in told and "line 3 was not sent" in told and "2 messages are unsent" in told


def test_who_hears_nothing_more_ends_quietly(server, url):
    bob = server.ws("bob", "lobby")
    process = subprocess.Popen(command(url, "--nickname", "ear", "--listen"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=environment())
    assert process.stdout.readline() == b"* joined lobby: 2 members\n"
    process.stdout.close()
    bob.send(type="message", room="lobby", content="is anybody there?")
    assert process.wait(DEADLINE_S) == 0
    assert process.stderr.read() == b"starling: online as ear\n"
    process.stderr.close()


@pytest.mark.parametrize("arguments, code, told", [
    (["ws://127.0.0.1:1/ws", "--nickname", "a", "--timeout", "0.3"], 1, "1 message is unsent from line 1 on"),
    (["ws://127.0.0.1:1/ws"], 2, "--nickname"),
    (["ws://127.0.0.1:1/ws", "--nickname", ""], 2, "--nickname"),
    (["gopher://x", "--nickname", "a"], 2, "gopher"),
    (["--timeout", "never", "--nickname", "a"], 2, "--timeout"),
    (["wss://127.0.0.1:1", "--nickname", "a", "--ca", "/does/not/exist"], 2, "/does/not/exist"),
])
def test_what_is_wrong_is_told(arguments, code, told):
    done = subprocess.run([binary(), "chat", *arguments], input=b"x\n", capture_output=True, timeout=30, env=environment())
    assert (done.returncode, told in done.stderr.decode()) == (code, True), done


def test_who_has_nothing_to_say_is_told_too_that_there_is_no_server():
    done = pipe("ws://127.0.0.1:1/ws", "--nickname", "a", "--timeout", "0.3", lines=b"")
    assert (done.returncode, b"the server has not been reached in time" in done.stderr) == (1, True), done


def test_a_name_or_a_room_that_is_refused_ends_it(server, url):
    server.ws("alice", "lobby")
    done = pipe(url, "--nickname", "alice", lines=b"x\n")
    assert done.returncode == 1 and b"nickname_in_use" in done.stderr, done
    done = pipe(url, "--nickname", "bot", "--room", "no room", lines=b"x\n")
    assert done.returncode == 1 and b"no room cannot be joined" in done.stderr, done


def test_who_is_put_out_of_the_room_he_speaks_in_ends(server, url):
    host = server.ws("host", "den", "side")
    process = subprocess.Popen(command(url, "--nickname", "bot", "--room", "den", "--room", "side"), stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    for _ in range(2):
        host.expect("presence", event="join", nickname="bot")
    host.send(type="kick", room="side", target="bot")
    assert process.stderr.readline() == b"starling: online as bot\n"
    assert process.stderr.readline() == b"starling: no more in side: kicked\n"
    process.stdin.write(b"still here\n")
    process.stdin.flush()
    host.expect("message", room="den", content="still here")
    host.send(type="kick", room="den", target="bot")
    assert process.wait(DEADLINE_S) == 1
    assert b"no more in den: kicked" in process.stderr.read()
    for file in [process.stdin, process.stdout, process.stderr]:
        file.close()


def test_a_signal_ends_a_pipe(server, url):
    bob = server.ws("bob", "lobby")
    process = subprocess.Popen(command(url, "--nickname", "bot"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, env=environment())
    process.stdin.write(b"hello\n")
    process.stdin.flush()
    bob.expect("message", content="hello")
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0
    bob.expect("presence", event="leave", reason="quit")
    process.stdin.close()


def test_a_journal_keeps_what_is_unsent_for_the_next_run(server, url, tmp_path):
    bob = server.ws("bob", "lobby")
    journal = str(tmp_path / "journal")
    done = pipe("ws://127.0.0.1:1/ws", "--nickname", "bot", "--timeout", "0", "--journal", journal, lines=b"one\ntwo\n")
    assert done.returncode == 1 and b"the journal keeps them" in done.stderr, done
    done = pipe(url, "--nickname", "bot", "--journal", journal, lines=b"three\n")
    assert done.returncode == 0, done
    assert [bob.expect("message")["content"] for _ in range(3)] == ["one", "two", "three"]


def test_a_token_in_the_environment_says_who_one_is(start_server):
    server = start_server(auth__jwt_secret="s3cret")
    token = run([binary(), "token", "--sub", "carol", "--set", "auth.jwt_secret=s3cret"]).stdout.decode().strip()
    bob = server.ws("bob", "lobby")
    done = subprocess.run(command(server.url("/ws")), input=b"hi\n", capture_output=True, timeout=30, env=environment() | {"STARLING_TOKEN": token})
    assert done.returncode == 0, done
    assert bob.expect("message", content="hi")["sender"] == "carol"
    assert b"does not count" not in done.stderr
    done = pipe(server.url("/ws"), "-n", "eve", "--token", token, lines=b"hi again\n")
    assert bob.expect("message", content="hi again")["sender"] == "carol"
    assert b"the token says who you are: --nickname eve does not count" in done.stderr, done


def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(tmp_path):
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear Bob,\n")
    done = pipe("ws://127.0.0.1:1/ws", "--nickname", "bot", "--journal", str(letter), lines=b"x\n")
    assert done.returncode == 2 and f"{letter} is not a journal of starling".encode() in done.stderr, done
    assert letter.read_text() == "Dear Bob,\n"
    assert list(tmp_path.iterdir()) == [letter]


def test_a_journal_that_is_damaged_loses_no_more_than_what_is_damaged(server, url, tmp_path):
    bob = server.ws("bob", "lobby")
    journal = tmp_path / "journal"
    done = pipe("ws://127.0.0.1:1/ws", "--nickname", "bot", "--timeout", "0", "--journal", str(journal), lines=b"one\ntwo\nthree\n")
    assert b"3 messages are unsent" in done.stderr, done
    damaged = journal.read_bytes().replace(b'"two"', b'"twp"')
    journal.write_bytes(damaged)
    done = pipe(url, "--nickname", "bot", "--journal", str(journal))
    assert done.returncode == 1 and done.stderr.count(b"the journal was damaged") == 2, done
    assert [bob.expect("message")["content"] for _ in range(2)] == ["one", "three"]
    assert (tmp_path / "journal.damaged").read_bytes() == damaged
    done = pipe(url, "--nickname", "bot", "--journal", str(journal))
    assert done.returncode == 0 and b"damaged" not in done.stderr, done


def test_who_interrupts_a_pipe_is_told_up_to_which_line_it_was_read(server, url, tmp_path):
    bob = server.ws("bob", "lobby")
    journal = tmp_path / "journal"
    lines = [f"line {number}" for number in range(1, 3001)]
    process = subprocess.Popen(command("ws://127.0.0.1:1/ws", "--nickname", "bot", "--journal", str(journal)), stdin=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment())
    process.stdin.write("".join(f"{line}\n" for line in lines).encode())
    process.stdin.flush()
    # As many as may wait; the rest stays in the pipe.
    wait_until(lambda: journal.exists() and b'"line 1024"' in journal.read_bytes(), "the last line that has a place")
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE_S) == 1
    told = process.stderr.read().decode().splitlines()[-1]
    assert "1024 messages are unsent from line 1 on; the journal keeps them for the next run; the input was read up to line 1024" in told
    process.stderr.close()
    process.stdin.close()
    done = pipe(url, "--nickname", "bot", "--journal", str(journal), lines="".join(f"{line}\n" for line in lines[1024:1030]).encode())
    assert done.returncode == 0, done
    assert [bob.expect("message")["content"] for _ in range(1030)] == lines[:1030]


def test_a_wrong_address_or_certificate_is_told_in_words_and_ends_it(start_server, server, tmp_path):
    assert run([binary(), "cert", "--out", str(tmp_path)]).returncode == 0
    encrypted = start_server(tls__cert=tmp_path / "cert.pem", tls__key=tmp_path / "key.pem")
    web, line, frame, tls = (port_of(address) for address in [server.web, server.line, server.frame, encrypted.web])
    for url, told in [
        (f"ws://{line}", "does not speak HTTP: the port is another listener's"),
        (f"ws://{frame}", "does not speak HTTP"),
        (f"ws://{tls}", "or it wants wss://"),
        (f"wss://{web}", "does not speak TLS: write ws:// for wss://"),
        (f"frame://{line}", "does not speak frames"),
        (f"wss://{tls}", "--ca FILE names the certificate"),
    ]:
        done = pipe(url, "--nickname", "bot", lines=b"x\n")
        assert done.returncode == 1 and told in done.stderr.decode() and b"again in" not in done.stderr, (url, done)
    process = subprocess.Popen(command(f"ws://{line}", "--nickname", "bot", "--wait"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, env=environment())
    for _ in range(2):
        assert b"does not speak HTTP" in process.stderr.readline()
    process.kill()
    process.wait()
    process.stdin.close()
    process.stderr.close()
