"""The fixtures: one server a test, on free ports, stopped and checked at the test's end."""

import os
import pwd
import shutil
import socket
import stat
import subprocess
import tempfile

import pytest

from helpers import DEADLINE_S, LISTENERS, Server, environment, wait_until


@pytest.fixture
def start_server(request):
    """Starts servers with settings of the test's own."""
    servers = request.node.servers = []

    def start(**settings):
        servers.append(Server(**settings))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def directory():
    """One with a short name, as a path of a socket has at most 107 bytes, for any user, as a proxy may be another."""
    with tempfile.TemporaryDirectory(prefix="starling-") as name:
        os.chmod(name, 0o755)
        yield name


@pytest.fixture
def run_proxy(directory):
    """Runs a proxy until the test is over, and waits until it listens."""
    processes = []

    def run_proxy(command, ports):
        assert shutil.which(command[0]), f"{command[0]} is missing: scripts/setup installs it"
        process = subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        processes.append(process)

        def listens(port):
            assert process.poll() is None, process.stderr.read().decode()
            with socket.socket() as client:
                return client.connect_ex(("127.0.0.1", port)) == 0

        for port in ports:
            wait_until(lambda port=port: listens(port), f"{command[0]} on port {port}")

    yield run_proxy
    for process in processes:
        process.terminate()
        process.wait(DEADLINE_S)
        process.stderr.close()


@pytest.fixture
def start_on_paths(directory, start_server):
    """Starts servers that listen on a port and a path for each kind; `more` is said of the paths."""

    def start(more="", **settings):
        file = os.path.join(directory, "starling.toml")
        with open(file, "w") as out:
            for kind in LISTENERS:
                out.write(f'[[listen]]\nkind = "{kind}"\naddress = "127.0.0.1:0"\n')
                out.write(f'[[listen]]\nkind = "{kind}"\naddress = "unix:{directory}/{kind}"\n{more}')
        return start_server(_flags=["--config", file], _has_listeners=True, **settings)

    return start


@pytest.fixture
def place(tmp_path):
    """A directory of the user `nobody`, which root alone can make. Nobody but root may enter where pytest keeps its files."""
    for directory in [tmp_path, *tmp_path.parents]:
        if directory.stat().st_mode & stat.S_IXOTH == 0:
            directory.chmod(directory.stat().st_mode | stat.S_IXOTH)
    place = tmp_path / "place"
    place.mkdir()
    user = pwd.getpwnam("nobody")
    os.chown(place, user.pw_uid, user.pw_gid)
    return place


@pytest.fixture
def disk(tmp_path, start_server):
    """Starts servers one after the other on the same directory."""

    def start(**settings):
        settings = {"store__kind": "sqlite", "data_dir": str(tmp_path / "data"), "pin": "false"} | settings
        return start_server(**settings)

    return start


@pytest.fixture(params=["stopped", "killed"])
def restart(request, disk):
    """Ends a server, and starts the next one."""

    def restart(server, **settings):
        if request.param == "killed":
            server.kill()
        else:
            server.close()
        return disk(**settings)

    return restart


@pytest.fixture
def server(start_server):
    return start_server()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """A failed test shows what its servers logged."""
    report = (yield).get_result()
    if report.failed:
        for server in getattr(item, "servers", []):
            report.sections.append(("server log", "\n".join(server.log[-40:])))
