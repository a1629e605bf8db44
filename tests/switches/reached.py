"""For pytest: has the servers of each test tell which mutants they come by, in a file of the test's own."""

import hashlib
import json
import os
import pathlib
import time

import pytest


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    directory = os.environ.get("REACHED_DIRECTORY")
    if directory is None:
        yield
        return
    file = pathlib.Path(directory) / hashlib.sha256(item.nodeid.encode()).hexdigest()[:16]
    os.environ["MUTANTS_REACHED"] = str(file.with_suffix(".reached"))
    item.is_well = True
    began = time.monotonic()
    yield
    told = {"name": item.nodeid, "seconds": time.monotonic() - began, "passed": item.is_well}
    file.with_suffix(".json").write_text(json.dumps(told))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.outcome != "passed" and hasattr(item, "is_well"):
        item.is_well = False
