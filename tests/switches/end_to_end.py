"""What no Rust test notices, the end-to-end tests are asked about: with the server that has all mutants, and those tests alone whose server
comes by the mutant. They take seconds, so that this is for what has survived the others."""

import collections
import json
import os
import pathlib
import subprocess
import time

import switched

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# The run that looks: tests at a time, and seconds for all of them.
WORKERS, LOOK_S = 4, 3600
# Tests that take longer are not asked.
TEST_S = 6


class Server:
    """The program with the mutants, and the Python that has the tests' packages."""

    def __init__(self, binary):
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
        self.binary, self.python, self.npm = binary, target / "venv" / "bin" / "python", target / "npm"
        if not self.python.exists():
            raise OSError("the end-to-end tests have no packages: scripts/setup installs them")

    def command(self, *words):
        return [str(self.python), "-B", "-m", "pytest", "-p", "no:cacheprovider", "-p", "reached", "-q", *words]

    def environment(self, **variables):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STARLING_")}
        return kept | {"STARLING_BIN": str(self.binary), "STARLING_TEST_CORES": "2", "STARLING_TEST_STORE": "sqlite", "STARLING_TEST_NPM": str(self.npm),
                       "PYTHONPATH": str(HERE)} | variables


class Test:
    def __init__(self, name, seconds, reached):
        self.name, self.seconds, self.reached = name, seconds, set(reached)


def look(server, directory):
    """Runs all tests once without a mutant, and gives those that pass, with what their servers come by."""
    directory.mkdir(exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    words = server.command("-n", str(WORKERS), "--dist", "loadfile", "tests/e2e")
    with open(directory.parent / "end-to-end.log", "wb") as log:
        subprocess.run(words, cwd=ROOT, env=server.environment(REACHED_DIRECTORY=str(directory)), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                       timeout=LOOK_S)
    tests = []
    for told in sorted(directory.glob("*.json")):
        test = json.loads(told.read_text())
        seen = told.with_suffix(".reached")
        if test["passed"] and test["seconds"] < TEST_S and seen.exists():
            content = seen.read_bytes()
            reached = {int.from_bytes(content[at:at + 4], "little") for at in range(0, len(content), 4)}
            tests.append(Test(test["name"], test["seconds"], reached))
    return tests


def try_mutant(number, first, module, server, tests, budget_s):
    """As switched.try_mutant. The test that notices is not told apart from those that were asked with it."""
    mine = sorted((test for test in tests if first in test.reached), key=lambda test: test.seconds)
    if not mine:
        return "unreached", ""
    del module
    chosen, spent = [], 0
    for test in mine:
        spent += test.seconds
        if chosen and spent > budget_s:
            break
        chosen.append(test.name)
    process = subprocess.Popen(server.command("-x", *chosen), cwd=ROOT, env=server.environment(**{switched.SWITCH: str(number)}),
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                               start_new_session=True)
    with switched.LOCK:
        switched.RUNNING.add(process)
    try:
        said, _ = process.communicate(timeout=60 + switched.SLOWER * budget_s)
    except subprocess.TimeoutExpired:
        return "timeout", ""
    finally:
        switched.end(process)
    # 1: a test has failed. More is pytest's own trouble.
    if process.returncode == 1:
        failed = [line.split(" ")[1] for line in said.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        return "killed", (failed or [""])[0]
    return ("survives" if process.returncode == 0 else "untried"), ""


def try_all(mutants, server, tests, jobs, budget_s, told):
    """As switched.try_all."""
    began, counts = time.monotonic(), collections.Counter()

    def attempt(number, asks, module, tests, budget_s):
        return try_mutant(number, asks, module, server, tests, budget_s)

    def count(number, outcome, test):
        counts[outcome] += 1
        told(number, outcome, test)

    switched.try_all(mutants, tests, jobs, budget_s, count, attempt)
    switched.say(f"end to end: {dict(counts)}, {time.monotonic() - began:.0f} s")
