"""What a server that runs reads again, and `starling check`."""

import os
import signal

import pytest

from helpers import binary, run, wait_until


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "starling.toml"
    file.write_text('[log]\nlevel = "info"\n')
    return file


@pytest.fixture
def server(start_server, file):
    return start_server(_flags=["--config", str(file)])


def said(server, text):
    return wait_until(lambda: [line for line in server.log if text in line], text)


def hang_up(server):
    server.process.send_signal(signal.SIGHUP)


def test_the_level_of_the_log_changes_and_nobody_is_dropped(server, file):
    alice = server.ws("alice", "den")
    server.get("/health")
    assert not [line for line in server.log if "DEBUG" in line]
    file.write_text('[log]\nlevel = "debug"\n')
    hang_up(server)
    said(server, 'in effect: log.level = "debug"')
    response = server.http(b"GET /health HTTP/1.1\r\nHost: t\r\nX-Request-Id: seen\r\n\r\n")
    assert response.status == 200
    said(server, "request seen: GET /health")
    file.write_text('[log]\nlevel = "warn"\n')
    hang_up(server)
    # Of which it says nothing: that is what was asked for.
    wait_until(lambda: not still_talks(server), "the log to be quiet")
    assert alice.call("ping")["type"] == "pong"


def still_talks(server):
    """Whether a request is still logged."""
    before = len(server.log)
    server.http(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n")
    try:
        return bool(wait_until(lambda: len(server.log) > before, "a line", 0.3))
    except AssertionError:
        return False


def test_what_takes_a_restart_is_named(server, file):
    file.write_text('[limits]\ncontent_bytes = 1000\n[log]\nlevel = "info"\n[rate]\nburst = 7\n')
    hang_up(server)
    said(server, "changed, and in effect after a restart: limits.content_bytes, rate.burst")
    hang_up(server)
    wait_until(lambda: len([line for line in server.log if "after a restart" in line]) == 2, "it to be said again")


def test_a_mistake_changes_nothing(server, file):
    def complaints():
        return [line for line in server.log if "the configuration stays as it was" in line]

    def complained(why):
        """Of one signal at a time: where a reload has been asked for already, another one adds nothing."""
        before = len(complaints())
        hang_up(server)
        line = wait_until(lambda: complaints()[before:], why)[0]
        assert why in line and "ERROR" in line, line

    for text, why in [("[limits]\ncontent_byte = 1\n", "limits.content_byte"), ("level = ", "starling.toml"), ('[log]\nlevel = "loud"\n', "log.level")]:
        file.write_text(text)
        complained(why)
    file.unlink()
    complained(str(file))
    assert server.ws("alice").call("ping")["type"] == "pong"


def test_nothing_has_changed(server):
    hang_up(server)
    said(server, "the configuration has not changed")


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_the_log_goes_on_in_a_new_file(start_server, tmp_path, name):
    log, rotated = tmp_path / "starling.log", tmp_path / "starling.log.1"
    server = start_server(log__file=str(log))
    wait_until(lambda: log.read_text(), "the first lines")
    os.rename(log, rotated)
    server.process.send_signal(getattr(signal, name))
    wait_until(lambda: log.exists() and name in log.read_text(), "the new file")
    before = rotated.read_text()
    server.terminate()
    assert server.exit_code() == 0
    assert "drained" in log.read_text() and rotated.read_text() == before


# starling check


def check(file, *variables):
    return run(["env", *variables, binary(), "check", str(file)])


def test_check_says_whether_a_server_would_start(file, tmp_path):
    good = check(file)
    assert (good.returncode, good.stdout.decode().strip(), good.stderr) == (0, f"{file}: ok", b"")
    for text, why in [
        ("[limits]\ncontent_byte = 1\n", "limits.content_byte"), ("x", "starling.toml"), ('[auth]\njwt_key_file = "no.pem"\n', "no.pem"),
        (f'[[listen]]\nkind = "web"\naddress = "127.0.0.1:1"\ntls = {{ cert = "{tmp_path}/c.pem", key = "{tmp_path}/k.pem" }}\n', "c.pem"),
    ]:
        file.write_text(text)
        bad = check(file)
        assert bad.returncode == 2 and why in bad.stderr.decode() and bad.stderr.startswith(b"starling: "), bad
        assert bad.stdout == b""
    assert check(tmp_path / "nothing.toml").returncode == 2
    file.write_text("[auth]\nguests = false\n")
    warned = check(file)
    assert warned.returncode == 0 and b"warning: auth.guests" in warned.stderr
    file.write_text("")
    assert check(file, "STARLING_LOG_LEVEL=loud").returncode == 2
