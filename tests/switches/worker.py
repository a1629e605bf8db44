"""Runs tests of a mutant, and then those of the next one, as it is told by lines of JSON, and answers each with one."""

import contextlib
import io
import json
import os
import sys

import pytest


class Failed:
    """Notes which tests fail."""

    def __init__(self):
        self.names = []

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.names.append(report.nodeid)


for line in sys.stdin:
    asked = json.loads(line)
    os.environ.update(asked["variables"])
    failed = Failed()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = pytest.main(["-p", "no:cacheprovider", "-p", "reached", "-q", "-x", *asked["tests"]], plugins=[failed])
    # What a module makes once for its parameters may be used up.
    for name in [name for name in sys.modules if name.startswith("test_")]:
        del sys.modules[name]
    print(json.dumps({"code": int(code), "failed": failed.names}), flush=True)
