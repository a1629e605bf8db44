"""A server that root starts makes and opens files as the user that it becomes: who has broken into that user leaves links for root to
follow."""

import os
import pwd
import shutil
import sqlite3
import stat
import tempfile
from pathlib import Path

import pytest

from helpers import LISTENERS, JsonLineClient, binary, run

USER = pwd.getpwnam("nobody")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")


@pytest.fixture
def roots():
    """A directory that nobody but root can change, nor those that it is in."""
    directory = Path(tempfile.mkdtemp(dir="/run"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def refused(*flags):
    done = run([binary(), "serve", "--user", "nobody", "--web", "127.0.0.1:0", *map(str, flags)], text=True)
    assert done.returncode == 1, done
    return done.stderr


def test_a_link_that_the_user_has_left_leads_root_nowhere(place, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("root's\n")
    secret.chmod(0o600)
    link = place / "server.log"
    link.symlink_to(secret)
    said = refused("--log-file", link, "--data-dir", place / "data")
    assert "server.log" in said and "for nobody: it has to be nobody's" in said, said
    assert secret.read_text() == "root's\n"
    facts = secret.stat()
    assert (facts.st_uid, stat.S_IMODE(facts.st_mode)) == (0, 0o600)


def test_no_file_is_made_where_a_link_of_the_user_leads(place, roots):
    # That root alone can write there makes it no place that the user may choose.
    link = place / "logs"
    link.symlink_to(roots)
    assert "for nobody" in refused("--log-file", link / "server.log", "--data-dir", place / "data")
    assert "for nobody" in refused("--data-dir", link / "data")
    assert "for nobody" in refused("--data-dir", place / "data", "--line", f"unix:{link / 'socket'}")
    assert list(roots.iterdir()) == []


def test_what_it_makes_is_the_users_wherever_it_is(start_server, place, roots):
    data = place / "deep" / "down" / "data"
    addresses = [(kind, address) for kind in LISTENERS for address in ("127.0.0.1:0", f"unix:{roots / kind}")]
    file = place / "starling.toml"
    listeners = ", ".join(f"{{ kind = '{kind}', address = '{address}' }}" for kind, address in addresses)
    file.write_text(f"listen = [{listeners}]\n")
    server = start_server(_flags=["--config", str(file)], _has_listeners=True, user="nobody", store__kind="sqlite", data_dir=str(data),
                          log__file=str(roots / "server.log"))
    server.said("this is nobody from here on")
    for made in (roots / "line", roots / "server.log", data / "starling.db", data, data.parent, data.parent.parent):
        assert made.lstat().st_uid == USER.pw_uid, made
    assert JsonLineClient(str(roots / "line")).enter("ann").call("ping")["type"] == "pong"
    assert "this is nobody from here on" in (roots / "server.log").read_text()
    for thread in Path(f"/proc/{server.process.pid}/task").iterdir():
        assert "NoNewPrivs:\t1" in (thread / "status").read_text(), thread
    server.terminate()
    assert server.exit_code() == 0


def test_a_file_of_the_users_is_opened_again(start_server, place):
    log = place / "server.log"
    log.write_text("before\n")
    os.chown(log, USER.pw_uid, USER.pw_gid)
    server = start_server(user="nobody", store__kind="sqlite", data_dir=str(place / "data"), log__file=str(log))
    server.said("this is nobody from here on")
    assert log.read_text().startswith("before\n") and "nobody from here on" in log.read_text()


def test_journals_that_may_not_be_read_are_not_taken_for_gone(start_server, place):
    data = place / "data"
    settings = {"store__kind": "sqlite", "data_dir": str(data)}
    server = start_server(**settings)
    ann = JsonLineClient(server.line).enter("ann", "den")
    ann.say("den", *(f"m{n}" for n in range(20)))
    server.kill()
    for file in (data, *data.iterdir()):
        os.chown(file, USER.pw_uid, USER.pw_gid)
    said = refused("--data-dir", data)
    assert "the journal /dev/shm/starling-" in said and "Permission denied" in said and "chown" in said, said
    with sqlite3.connect(data / "starling.db") as store:
        (identity,) = store.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()
    store.close()
    for journal in Path("/dev/shm").glob(f"starling-{identity}-*"):
        os.chown(journal, USER.pw_uid, USER.pw_gid)
    server = start_server(user="nobody", **settings)
    history = JsonLineClient(server.line).enter("bob", "den").call("history", room="den", limit=100)
    assert [message["content"] for message in history["messages"]] == [f"m{n}" for n in range(20)]
