"""What no Rust test notices, the end-to-end tests are asked about: with the server that has all mutants, and those tests alone whose server
comes by the mutant. They take seconds, so that this is for what has survived the others."""

import collections
import itertools
import json
import os
import pathlib
import queue
import select
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


class Worker:
    """A process that runs the tests of one mutant after the other: what they import takes longer than many of them."""

    def __init__(self, server, place):
        self.server, self.place = server, place
        self.process = None

    def ask(self, number, tests, seconds):
        """What pytest ends with, and the test that has failed; nothing if it hangs."""
        if self.process is None:
            self.process = subprocess.Popen([str(self.server.python), "-B", str(HERE / "worker.py")], cwd=ROOT,
                                            # What the ports of tests that run at a time are kept apart by.
                                            env=self.server.environment(PYTEST_XDIST_WORKER=f"gw{self.place}"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                            text=True, start_new_session=True)
            with switched.LOCK:
                switched.RUNNING.add(self.process)
        self.process.stdin.write(json.dumps({"variables": {switched.SWITCH: str(number)}, "tests": tests}) + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            self.end()
            return None
        said = self.process.stdout.readline()
        if not said:
            self.end()
            return {"code": -1, "failed": []}
        return json.loads(said)

    def end(self):
        if self.process is not None:
            switched.end(self.process)
            self.process = None


def try_mutant(number, first, module, workers, tests, budget_s):
    """As switched.try_mutant."""
    mine = [test for test in tests if first in test.reached]
    if not mine:
        return "unreached", ""
    chosen, spent = [], 0
    for test in in_turn(mine, module):
        spent += test.seconds
        if chosen and spent > budget_s:
            break
        chosen.append(f"tests/e2e/{test.name}")  # pytest names them from where its configuration is
    worker = workers.get()
    try:
        told = worker.ask(number, chosen, 60 + switched.SLOWER * budget_s)
        # The machine may have been to blame: what has failed has to do so again, and not without the mutant.
        if told is not None and told["code"] == 1:
            failed = [f"tests/e2e/{told['failed'][0].removeprefix('tests/e2e/')}"] if told["failed"] else chosen
            with_it, without = (worker.ask(one, failed, 120) for one in (number, 0))
            if (with_it or {"code": 1})["code"] != 1 or without is None or without["code"] != 0:
                return "untried", ""
    finally:
        workers.put(worker)
    if told is None:
        return "timeout", ""
    # 1: a test has failed. More is pytest's own trouble.
    if told["code"] == 1:
        return "killed", (told["failed"] or [""])[0]
    return ("survives" if told["code"] == 0 else "untried"), ""


def in_turn(tests, module):
    """One test of each file after the other, the quick ones first: tests of one file look at the same. Those of a file that is called as the
    module is come before all others."""
    files = collections.defaultdict(list)
    for test in sorted(tests, key=lambda test: test.seconds):
        files[test.name.partition("::")[0]].append(test)
    words = set(module.split("::")[1:])
    namesakes = [test for file, own in files.items() if words & set(file.removesuffix(".py").split("_")) for test in own]
    turns = itertools.zip_longest(*files.values())
    return list(dict.fromkeys([*namesakes, *(test for turn in turns for test in turn if test)]))


def try_all(mutants, server, tests, jobs, budget_s, told):
    """As switched.try_all."""
    began, counts = time.monotonic(), collections.Counter()
    workers = queue.SimpleQueue()
    everybody = [Worker(server, place) for place in range(jobs)]
    for worker in everybody:
        workers.put(worker)

    def attempt(number, asks, module, tests, budget_s):
        return try_mutant(number, asks, module, workers, tests, budget_s)

    def count(number, outcome, test):
        counts[outcome] += 1
        told(number, outcome, test)

    try:
        switched.try_all(mutants, tests, jobs, budget_s, count, attempt)
    finally:
        for worker in everybody:
            worker.end()
    switched.say(f"end to end: {dict(counts)}, {time.monotonic() - began:.0f} s")
