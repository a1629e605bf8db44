"""schemathesis, which makes requests of an OpenAPI document, right ones and wrong ones, and checks every answer against it.

tests/e2e/test_openapi.py has it explore the HTTP API as an admin with a key, an admin with a token and nobody, and past the rates; this
judge runs those tests. Thousands of requests each, from a fixed seed.

A pass: no answer that the document does not describe, no 5xx, nothing taken that it forbids, nothing refused that it allows."""

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

from helpers import environment
from judge import ROOT, Case, missing_modules, module_version

SCHEME = None
TIMEOUT_S = 1200


def missing():
    return missing_modules("schemathesis", "pytest")


def version():
    return module_version("schemathesis")


def run(bench):
    bench.say("tests/e2e/test_openapi.py")
    with tempfile.NamedTemporaryFile(prefix="starling-openapi-", suffix=".xml") as report:
        command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report.name}", "tests/e2e/test_openapi.py"]
        variables = {name: value for name, value in os.environ.items() if name in ("STARLING_BIN", "STARLING_TEST_CORES")}
        done = subprocess.run(command, cwd=ROOT, env=environment() | variables, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S)
        if done.returncode not in (0, 1):
            raise RuntimeError(done.stdout.decode(errors="replace")[-2000:])
        for test in xml.etree.ElementTree.parse(report.name).iter("testcase"):
            wrong = test.find("failure") if test.find("failure") is not None else test.find("error")
            skipped = test.find("skipped")
            yield Case(test.get("name"), wrong.text if wrong is not None else None, skipped.get("message") if skipped is not None else None)
