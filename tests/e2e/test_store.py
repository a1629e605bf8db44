"""What outlives the process: rooms, sessions, inboxes and promises, across restarts, kills and a machine that fails."""

import json
import pathlib
import re
import sqlite3

import pytest

from helpers import binary, run, wait_until

LEVELS = ["sequenced", "stored", "synced"]


def resume(server, client, **options):
    again = server.ws(**options)
    again.enter(None, resume=client.welcome["resume"])
    assert again.welcome["resumed"] is True
    assert again.welcome["session"] == client.welcome["session"]
    return again


def messages(client, count):
    return [client.expect("message") for _ in range(count)]


def history(client, room, **fields):
    return client.call("history", room=room, limit=1000, **fields)


@pytest.mark.parametrize("level", LEVELS)
def test_messages_come_back_with_their_places(disk, restart, level):
    server = disk()
    alice = server.ws("alice", "den")
    acks = [alice.call("message", room="den", content=f"{level} {n}", ack=level) for n in range(50)]
    assert [ack["level"] for ack in acks] == [level] * 50
    before = history(alice, "den")

    server = restart(server)
    bob = server.ws("bob")
    after = history(bob, "den")
    assert (after["epoch"], after["messages"]) == (before["epoch"], before["messages"])
    assert [m["offset"] for m in after["messages"]] == [ack["offset"] for ack in acks] == list(range(1, 51))
    joined = bob.call("join", room="den", history=3)
    assert [m["content"] for m in joined["messages"]] == [f"{level} {n}" for n in (47, 48, 49)]
    [ack] = bob.say("den", "next")
    assert (ack["offset"], ack["epoch"]) == (51, before["epoch"])


def test_a_client_that_resumes_gets_exactly_what_it_missed(disk, restart):
    server = disk()
    alice, bob = server.ws("alice", "den", "club"), server.ws("bob", "den")
    epoch = bob.call("history", room="den")["epoch"]
    bob.say("den", "1", "2")
    assert [m["offset"] for m in messages(alice, 2)] == [1, 2]
    alice.drop()
    bob.expect("presence", event="away", nickname="alice")
    bob.say("den", *(str(n) for n in range(3, 31)))

    server = restart(server)
    alice, bob = resume(server, alice), resume(server, bob)
    joined = alice.call("join", room="den", since={"epoch": epoch, "offset": 2})
    assert (joined["recovered"], joined["offset"], joined["epoch"]) == (True, 30, epoch)
    bob.call("join", room="den", since={"epoch": epoch, "offset": 30})
    bob.say("den", "31")
    assert [m["content"] for m in messages(alice, 29)] == [str(n) for n in range(3, 32)]
    ahead = server.ws("carol").call("join", room="den", since={"epoch": epoch, "offset": 99})
    assert ahead["recovered"] is False


def test_rooms_come_back_as_they_were(disk, restart):
    server = disk()
    host = server.ws("host", "den")
    for name in ("bob", "muted", "reader", "second"):
        server.ws(name, "den")
    for command in [("state", {"key": "topic", "value": {"a": [1, "é"]}}), ("state", {"key": "gone", "value": 1}),
                    ("state", {"key": "gone", "value": None}), ("ban", {"target": "bob", "reason": "spam"}),
                    ("mute", {"target": "muted", "seconds": 3600}), ("role", {"target": "reader", "role": "guest"}),
                    ("role", {"target": "second", "role": "host"}), ("message", {"content": "kept"})]:
        assert host.call(command[0], room="den", **command[1])["type"] == "ack"
    before = host.call("join", room="other")

    server = restart(server)
    eve = server.ws("eve")
    joined = eve.call("join", room="DEN")
    assert joined["state"] == {"topic": {"value": {"a": [1, "é"]}, "version": 1}}
    assert joined["room"] == "den" and joined["role"] == "member"
    members = {m["nickname"]: (m["role"], m["connected"]) for m in eve.call("members", room="den")["members"]}
    assert members == {"host": ("host", False), "muted": ("member", False), "reader": ("guest", False),
                       "second": ("host", False), "eve": ("member", True)}
    refused = server.ws("someone")
    refused.refused(409, "nickname_in_use", "nick", nickname="bob")
    host = resume(server, host)
    assert host.call("join", room="other", since={"epoch": before["epoch"], "offset": 0})["recovered"] is True
    assert host.call("join", room="den")["role"] == "host"
    assert host.call("state", room="den", key="topic", value=2)["version"] == 4
    host.refused(404, "no_such_user", "unban", room="den", target="muted")
    assert host.call("unban", room="den", target="bob")["type"] == "ack"
    assert host.call("unmute", room="den", target="muted")["type"] == "ack"


def test_an_id_gets_its_first_answer_after_a_restart_too(disk, restart):
    server = disk()
    alice, bob = server.ws("alice", "den"), server.ws("bob", "den")
    said = alice.call("message", room="den", content="once", id="m1", ack="stored")
    told = alice.call("private", target="bob", content="psst", id="p1")
    bob.expect("private")

    server = restart(server)
    alice = resume(server, alice)
    again = alice.call("message", room="den", content="once", id="m1")
    assert {**again, "level": None} == {**said, "level": None}
    assert alice.call("private", target="bob", content="psst", id="p1") == told
    assert len(history(alice, "den")["messages"]) == 1


def test_an_idempotency_key_of_http_too(disk, restart):
    keys = '[{ name = "ci", key = "hush" }]'
    request = (b"POST /api/rooms/den/messages HTTP/1.1\r\nHost: x\r\nX-API-Key: hush\r\nIdempotency-Key: k1\r\n"
               b"Content-Length: 15\r\n\r\n{\"content\":\"x\"}")
    server = disk(auth__api_keys=keys)

    def post(server):
        connection = server.connect()
        connection.send(request)
        response = connection.response()
        assert response.status == 200, response
        return json.loads(response.body)

    first = post(server)
    server = restart(server, auth__api_keys=keys)
    assert post(server) == first


def test_private_messages_wait_for_a_session_across_a_restart(disk, restart):
    server = disk()
    alice, bob = server.ws("alice", "den"), server.ws("bob", "den")
    bob.drop()
    alice.expect("presence", event="away", nickname="bob")
    for n in range(5):
        ack = alice.call("private", target="bob", content=f"p{n}")
        assert (ack["delivered"], ack["stored"]) == (0, True)

    server = restart(server)
    bob = resume(server, bob)
    heard = [bob.expect("private") for _ in range(5)]
    assert [(m["content"], m["offset"], m["sender"]) for m in heard] == [(f"p{n}", n + 1, "alice") for n in range(5)]
    assert bob.call("received", offset=3)["type"] == "ack"

    server = restart(server)
    bob = resume(server, bob)
    assert [bob.expect("private")["offset"] for _ in range(2)] == [4, 5]
    assert [e for e in bob.until_pong() if e["type"] == "private"] == []
    alice = resume(server, alice)
    bob.drop()
    wait_until(lambda: alice.call("private", target="bob", content="later")["stored"], "bob to be away")
    bob = resume(server, bob)
    assert bob.expect("private", content="later")["offset"] >= 6, "no place is given twice"


def test_a_session_that_has_quit_does_not_come_back(disk, restart):
    server = disk()
    alice = server.ws("alice", "den")
    assert alice.call("quit")["type"] == "bye"
    server = restart(server)
    again = server.ws()
    assert again.call("hello", nickname="alice", resume=alice.welcome["resume"])["resumed"] is False


def test_a_session_that_moved_over_cores_comes_back(disk, restart):
    server = disk()
    client = server.ws("alice", "a")
    for room in "bcdefgh":
        client = resume(server, client)
        assert client.call("join", room=room)["type"] == "joined"
    assert client.call("leave", room="c")["type"] == "left"
    assert client.call("nick", nickname="alicia")["type"] == "ack"
    server = restart(server)
    client = resume(server, client)
    assert client.welcome["nickname"] == "alicia"
    rooms = {room["room"]: room["members"] for room in client.call("rooms")["rooms"]}
    assert rooms == {room: 1 for room in "abdefgh"}


def test_other_core_counts_find_everything_again(disk, restart):
    server = disk(cores=3)
    clients = [server.ws(f"user{n}", f"room{n}") for n in range(12)]
    for n, client in enumerate(clients):
        client.say(f"room{n}", "one", "two")
    for cores in (1, 4):
        server = restart(server, cores=cores)
        clients = [resume(server, client) for client in clients]
        for n, client in enumerate(clients):
            page = history(client, f"room{n}")
            joined = client.call("join", room=f"room{n}", since={"epoch": page["epoch"], "offset": 1})
            assert (joined["recovered"], joined["role"]) == (True, "host")
            assert client.expect("message")["content"] == "two"


def test_history_beyond_memory_is_read_from_the_store(disk):
    server = disk(history__memory_count=10, history__count=5000)
    alice, bob = server.ws("alice", "den"), server.ws("bob", "den")
    for n in range(1, 301):
        alice.send("message", room="den", content=str(n))
    epoch = alice.call("message", room="den", content="301", ack="stored")["epoch"]
    carol = server.ws("carol")

    def offsets(**fields):
        page = carol.call("history", room="den", **fields)
        assert page["epoch"] == epoch and all(m["content"] == str(m["offset"]) for m in page["messages"])
        return [m["offset"] for m in page["messages"]]

    assert offsets() == list(range(252, 302))
    assert offsets(limit=1000) == list(range(1, 302))
    assert offsets(after=0, limit=5) == [1, 2, 3, 4, 5]
    assert offsets(after=288, limit=9) == list(range(289, 298))
    assert offsets(before=5, limit=3) == [2, 3, 4]
    assert offsets(before=295, limit=10) == list(range(285, 295))
    assert offsets(after=2, before=6) == [3, 4, 5]
    assert offsets(after=290, before=300, limit=100) == list(range(291, 300))
    assert offsets(before=1) == offsets(after=301) == offsets(after=2**53) == []
    joined = carol.call("join", room="den", history=40)
    assert [m["offset"] for m in joined["messages"]] == list(range(262, 302))
    dave = server.ws("dave")
    joined = dave.call("join", room="den", since={"epoch": epoch, "offset": 0})
    assert (joined["recovered"], joined["offset"]) == (True, 301)
    assert [m["offset"] for m in messages(dave, 301)] == list(range(1, 302))
    bob.say("den", "302")
    assert dave.expect("message")["offset"] == 302


def test_what_is_over_the_bounds_is_deleted(disk):
    server = disk(history__count=100, history__memory_count=10)
    alice = server.ws("alice", "den")
    for n in range(1, 1001):
        alice.send("message", room="den", content=str(n))
    epoch = alice.call("message", room="den", content="last", ack="synced")["epoch"]
    page = history(alice, "den")["messages"]
    assert [m["offset"] for m in page] == list(range(902, 1002))
    bob = server.ws("bob")
    assert bob.call("join", room="den", since={"epoch": epoch, "offset": 500})["recovered"] is False
    server.close()
    with sqlite3.connect(f"file:{disk_of(server)}?mode=ro", uri=True) as db:
        kept = db.execute("SELECT count(*), min(offset) FROM messages").fetchone()
        assert kept[0] <= 100 + 64, kept
    server = disk(history__count=5)
    carol = server.ws("carol")
    assert [m["offset"] for m in history(carol, "den")["messages"]] == list(range(997, 1002)), "the bounds of today"


def test_a_room_without_members_goes_when_its_messages_are_too_old(disk):
    server = disk(history__age_s=1)
    alice = server.ws("alice", "den")
    alice.say("den", "old")
    assert alice.call("leave", room="den")["type"] == "left"
    wait_until(lambda: alice.call("history", room="den")["type"] == "error", "the room to go")
    alice.refused(404, "no_such_room", "history", room="den")


def disk_of(server):
    args = server.process.args
    directory = next(arg for arg in args if str(arg).startswith("data_dir="))
    return directory.removeprefix("data_dir=") + "/starling.db"


def test_a_machine_that_fails_is_told_by_a_new_epoch(disk, tmp_path):
    """What is in shared memory goes with the machine. Nothing that was announced may then be taken for something else."""
    server = disk()
    alice = server.ws("alice", "den")
    acks = [alice.call("message", room="den", content=str(n), ack="synced") for n in range(5)]
    server.kill()
    with sqlite3.connect(disk_of(server)) as db:
        [identity] = db.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()
    journals = list(pathlib.Path("/dev/shm").glob(f"starling-{identity}-*"))
    assert journals
    for journal in journals:
        journal.unlink()
    server = disk()
    alice = resume(server, alice)
    page = history(alice, "den")
    assert page["epoch"] != acks[0]["epoch"]
    assert [m["content"] for m in page["messages"]] == [str(n) for n in range(5)], "what was synced is there"
    joined = alice.call("join", room="den", since={"epoch": acks[0]["epoch"], "offset": 3})
    assert joined["recovered"] is False
    server.kill()
    server = disk()
    assert history(server.ws("bob"), "den")["epoch"] == page["epoch"], "a kill alone changes nothing"


def test_a_second_server_is_refused_by_the_name_of_the_first(disk, tmp_path):
    server = disk()
    command = [binary(), "serve", "--data-dir", str(tmp_path / "data"), "--web", "127.0.0.1:0", "--line", "127.0.0.1:0",
               "--frame", "127.0.0.1:0"]
    ended = run(command)
    assert ended.returncode == 1
    words = ended.stderr.decode()
    assert f"process {server.process.pid}" in words and "starling" in words and "--data-dir" in words, words


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    command = [binary(), "serve", "--data-dir", str(tmp_path / "file" / "data"), "--web", "127.0.0.1:0", "--line", "127.0.0.1:0",
               "--frame", "127.0.0.1:0"]
    ended = run(command)
    assert ended.returncode == 1 and b"file/data" in ended.stderr, ended


def test_a_damaged_file_is_not_served(disk, tmp_path):
    server = disk()
    alice = server.ws("alice", "den")
    for n in range(500):
        alice.send("message", room="den", content="x" * 500)
    alice.call("message", room="den", content="last", ack="synced")
    server.close()
    path = tmp_path / "data" / "starling.db"
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = '0' WHERE key = 'clean'")
    data = bytearray(path.read_bytes())
    for page in range(20, 60):
        data[page * 4096:page * 4096 + 64] = b"\xa5" * 64
    path.write_bytes(data)
    command = [binary(), "serve", "--data-dir", str(tmp_path / "data"), "--web", "127.0.0.1:0", "--line", "127.0.0.1:0",
               "--frame", "127.0.0.1:0"]
    ended = run(command)
    words = ended.stderr.decode()
    assert ended.returncode == 1 and "damaged" in words and re.search("backup", words), words


def publish_and_kill(disk, *contents, **settings):
    """Publishes, each on the disk, and returns where each is; then the server is killed."""
    server = disk(**settings)
    carol = server.ws("carol", "den")
    acks = [carol.call("message", room="den", content=content, ack="synced") for content in contents]
    server.kill()
    return [(ack["epoch"], ack["offset"]) for ack in acks]


def test_a_file_that_is_lost_is_missed(disk, tmp_path):
    server = disk()
    server.ws("alice", "den").say("den", "hello")
    server.close()
    store = tmp_path / "data" / "starling.db"
    store.write_bytes(b"")
    refused = run([binary(), "serve", "--data-dir", str(tmp_path / "data"), "--web", "127.0.0.1:0", "--line", "127.0.0.1:0", "--frame",
                   "127.0.0.1:0", "--grpc", "127.0.0.1:0"])
    assert refused.returncode == 1 and b"is empty" in refused.stderr and b"remove it" in refused.stderr, refused.stderr
    store.unlink()
    server = disk()
    server.said("is not there", "WARN")
    assert server.ws("bob", "den").welcome


def test_a_store_that_is_moved_away_promises_nothing(disk, tmp_path):
    server = disk()
    alice = server.ws("alice", "den")
    alice.say("den", "before")
    store = tmp_path / "data" / "starling.db"
    store.rename(tmp_path / "elsewhere")
    wait_until(lambda: alice.call("message", room="den", content="x", ack="synced").get("reason") == "store_down", "the loss to be noticed")
    assert server.get("/health").body == b"OK store_down"
    (tmp_path / "elsewhere").rename(store)
    wait_until(lambda: alice.call("message", room="den", content="y", ack="synced").get("level") == "synced", "the store to be back")
    server.close()
    assert "before" in [m["content"] for m in history(disk().ws("bob"), "den")["messages"]]


def remove_log(disk, tmp_path, *contents, **settings):
    """Removes the log that messages are in which a killed server has synced, and returns where these had been."""
    server = disk()
    server.ws("alice", "den").call("message", room="den", content="old", ack="synced")
    server.close()  # the file says that all is well
    told = publish_and_kill(disk, *contents, **settings)
    (tmp_path / "data" / "starling.db-wal").unlink()
    return told


def test_a_log_that_was_removed_is_told_by_a_new_epoch(disk, tmp_path):
    # More than the journals have place for: what they say of it has been written over.
    lost = remove_log(disk, tmp_path, *(f"lost {number} {'x' * 20_000}" for number in range(70)), store__queue_bytes=1_048_576)
    server = disk()
    server.said("it has been written over; what follows is lost")
    bob = server.ws("bob", "den")
    ack = bob.call("message", room="den", content="other", ack="synced")
    page = history(bob, "den")
    assert [(m["offset"], m["content"]) for m in page["messages"]] == [(1, "old"), (2, "other")] and ack["epoch"] == page["epoch"]
    assert page["epoch"] not in [epoch for epoch, _ in lost]
    for epoch, offset in (lost[0], lost[-1]):
        joined = server.ws(f"late{offset}").call("join", room="den", since={"epoch": epoch, "offset": offset})
        assert (joined["recovered"], joined["epoch"]) == (False, page["epoch"])


def test_a_log_that_was_removed_is_no_loss_while_the_journals_have_what_was_in_it(disk, tmp_path):
    told = remove_log(disk, tmp_path, "first", "second")
    bob = disk().ws("bob")
    page = history(bob, "den")
    assert [(page["epoch"], m["offset"]) for m in page["messages"][1:]] == told
    assert [m["content"] for m in page["messages"]] == ["old", "first", "second"]
    assert bob.call("join", room="den", since={"epoch": told[0][0], "offset": 1})["recovered"] is True


def test_a_file_that_was_put_back_is_told_by_a_new_epoch(disk, tmp_path):
    file = tmp_path / "data" / "starling.db"
    server = disk()
    server.ws("alice", "den").call("message", room="den", content="old", ack="synced")
    server.close()
    before = file.read_bytes()
    lost = publish_and_kill(disk, "lost")
    server = disk()
    server.close()
    file.write_bytes(before)
    server = disk()
    ack = server.ws("bob", "den").call("message", room="den", content="other", ack="synced")
    assert ack["epoch"] not in [epoch for epoch, _ in lost]
    server.said("not the file that the last server here had")
    epoch = ack["epoch"]
    server.close()
    # And only once: the same file is the same history.
    assert disk().ws("dora", "den").call("history", room="den")["epoch"] == epoch


def test_what_a_running_server_uses_is_no_place_for_a_backup_or_another_server(disk, tmp_path):
    server = disk()
    alice = server.ws("alice", "den")
    alice.call("message", room="den", content="x", ack="synced")
    data = tmp_path / "data"
    for name in ("starling.db-wal", "starling.db-shm", "starling.db-journal", "starling.lock"):
        ended = run([binary(), "store", "backup", str(data / name), "--force", "--data-dir", str(data)])
        assert ended.returncode == 1 and b"belongs to the store itself" in ended.stderr, ended
    other = tmp_path / "other"
    other.mkdir()
    (other / "starling.db").symlink_to(data / "starling.db")
    command = [binary(), "serve", "--data-dir", str(other), "--web", "127.0.0.1:0", "--line", "127.0.0.1:0", "--frame", "127.0.0.1:0"]
    ended = run(command)
    assert ended.returncode == 1 and b"is a link" in ended.stderr, ended
    server.kill()
    assert [m["content"] for m in disk().ws("bob", "den").call("history", room="den")["messages"]] == ["x"]


def test_free_pages_are_given_back(disk, tmp_path):
    server = disk(history__count=1000)
    alice = server.ws("alice", "den")
    file = tmp_path / "data" / "starling.db"
    for _ in range(30):
        alice.say("den", *["x" * 60_000] * 10)
    alice.call("message", room="den", content="last", ack="synced")
    server.close()
    assert file.stat().st_size > 15_000_000
    server = disk(history__count=10)
    wait_until(lambda: any("messages are deleted: the bounds" in line for line in server.log), "the deletion to be told")
    wait_until(lambda: file.stat().st_size < 8_000_000, "most of the file to be given back", 40)


def test_in_memory_no_level_beyond_sequenced_is_given(start_server):
    server = start_server(store__kind="memory")
    alice = server.ws("alice", "den")
    for level in ("stored", "synced"):
        alice.refused(400, "ack_unavailable", "message", room="den", content="x", ack=level)
    alice.refused(400, "bad_request", "message", room="den", content="x", ack="sure")


def test_the_default_level_is_configured(disk):
    server = disk(store__ack="synced")
    alice = server.ws("alice", "den")
    [ack] = alice.say("den", "x")
    assert ack["level"] == "synced"
    assert alice.call("message", room="den", content="y", ack="sequenced")["level"] == "sequenced"


def test_clients_of_a_server_that_stops_are_told_that_they_may_resume(disk):
    server = disk()
    alice = server.ws("alice", "den")
    server.terminate()
    bye = alice.expect("bye")
    assert (bye["code"], bye["resumable"]) == (4300, True)
    server.close()
    resume(disk(), alice)
