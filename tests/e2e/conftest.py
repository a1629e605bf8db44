"""The fixtures: one server a test, on free ports, stopped and checked at the test's end."""

import pytest

from helpers import Server


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
def server(start_server):
    return start_server()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """A failed test shows what its servers logged."""
    report = (yield).get_result()
    if report.failed:
        for server in getattr(item, "servers", []):
            report.sections.append(("server log", "\n".join(server.log[-40:])))
