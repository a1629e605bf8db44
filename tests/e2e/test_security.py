"""What docs/security.md says: that a server which root starts becomes another user, whose files are whose; and that the page names what is
there."""

import os
import pwd
import re
import signal
import socket
import stat
from pathlib import Path

import pytest

import named
from helpers import LISTENERS, JsonLineClient, binary, run

USER = pwd.getpwnam("nobody")
IS_ROOT = os.geteuid() == 0


def test_the_page_names_what_is_there():
    page = named.Page("security.md")
    assert len(page.functions()) > 20
    page.check_links()


def test_what_a_server_makes_is_its_own(start_server, tmp_path):
    umask = os.umask(0)
    try:
        server = start_server(store__kind="sqlite", data_dir=str(tmp_path / "data"), log__file=str(tmp_path / "log"))
    finally:
        os.umask(umask)
    server.ws("ann", "den").say("den", "hello")
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    made = list((tmp_path / "data").iterdir())
    mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
    journals = [Path(path) for path in set(re.findall(r"/dev/shm/starling-\S+", mapped))]
    assert len(made) >= 2 and journals
    for file in [*made, *journals]:
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


def test_a_certificate_is_made_where_nobody_else_can_put_another(tmp_path):
    umask = os.umask(0)
    try:
        made = run([binary(), "cert", "--out", str(tmp_path / "tls")])
    finally:
        os.umask(umask)
    assert made.returncode == 0, made.stderr
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "tls" / "key.pem").stat().st_mode) == 0o600


def low_port():
    """A port that only root may listen on, and nobody does."""
    for port in range(1023, 512, -1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise AssertionError("no port is free")


def facts(status):
    return dict(line.split(":\t", 1) for line in Path(status).read_text().splitlines() if ":\t" in line)


@pytest.mark.skipif(not IS_ROOT, reason="only root becomes another user")
def test_a_server_that_root_starts_is_another_user_once_its_ports_are_open(start_server, place, tmp_path):
    data, path, port = place / "data", place / "line", low_port()
    file = tmp_path / "starling.toml"
    tcp = {kind: f"127.0.0.1:{port if kind == 'web' else 0}" for kind in LISTENERS}
    listeners = [f'{{ kind = "{kind}", address = "{address}" }}' for kind in LISTENERS for address in (tcp[kind], f"unix:{place / kind}")]
    file.write_text(f"user = 'nobody'\nlisten = [{', '.join(listeners)}]\n")
    # It begins with groups that it is to lose, whichever root has here.
    groups = os.getgroups()
    os.setgroups([0, 4, 12_345])
    try:
        server = start_server(_flags=["--config", str(file)], _has_listeners=True, store__kind="sqlite", data_dir=str(data))
    finally:
        os.setgroups(groups)
    server.said("this is nobody from here on")
    threads = list(Path(f"/proc/{server.process.pid}/task").iterdir())
    assert len(threads) > 3
    for thread in threads:
        status = facts(thread / "status")
        assert set(status["Uid"].split()) == {str(USER.pw_uid)} and set(status["Gid"].split()) == {str(USER.pw_gid)}, thread
        assert set(status["Groups"].split()) == {str(group) for group in os.getgrouplist(USER.pw_name, USER.pw_gid)}, thread
        assert all(int(status[name], 16) == 0 for name in ("CapEff", "CapPrm", "CapAmb")), status
    for made in (data, data / "starling.db", path):
        assert made.stat().st_uid == USER.pw_uid, made
    # It serves, knows itself, and hears signals.
    assert server.web[1] == port
    ann = server.ws("ann", "den")
    assert ann.say("den", "hello")[0]["offset"] == 1
    assert JsonLineClient(str(path)).enter("bob").call("ping")["type"] == "pong"
    metrics = server.get("/metrics").body.decode()
    assert int(re.search(r"^process_open_fds (\d+)$", metrics, re.M)[1]) > 5
    server.process.send_signal(signal.SIGHUP)
    server.said("the configuration has not changed")
    server.terminate()
    assert server.exit_code() == 0
    assert not path.exists()
    server = start_server(user="nobody", store__kind="sqlite", data_dir=str(data))
    assert server.ws("eve").call("join", room="den")["offset"] == 1


def test_a_user_that_there_is_not_is_refused(tmp_path):
    done = run([binary(), "serve", "--user", "no-such-user", "--data-dir", str(tmp_path / "data"), "--web", "127.0.0.1:0"], text=True)
    assert done.returncode == 1
    assert 'user: there is no user "no-such-user" here' in done.stderr and "useradd" in done.stderr
    file = tmp_path / "starling.toml"
    file.write_text('user = "no-such-user"\n')
    done = run([binary(), "check", str(file)], text=True)
    assert done.returncode == 2 and "there is no user" in done.stderr
