"""All mutants of a layer in one program, each behind a switch that a variable of the environment sets, so that one build does for all of
them. Each test is run once by itself to see which mutants it comes by; a mutant is then tried with those tests alone."""

import collections
import concurrent.futures
import hashlib
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent

# Which mutant is on, and where to tell what a run comes by.
SWITCH, REACHED = "MUTANT_ON", "MUTANTS_REACHED"

MODULE = """//! Which mutant is on. Made by scripts/mutants.
#![allow(missing_docs)]

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

const UNREAD: u32 = u32::MAX;
const TELLS: u32 = u32::MAX - 1;

static ACTIVE: AtomicU32 = AtomicU32::new(UNREAD);
static TOLD: [AtomicBool; COUNT] = [const { AtomicBool::new(false) }; COUNT];

/// The number of the mutant that is on, or 0. `first` is the first of those that ask.
#[inline]
pub fn active(first: u32) -> u32 {
    let active = ACTIVE.load(Relaxed);
    if active < TELLS { active } else { find(active, first) }
}

#[cold]
#[inline(never)]
fn find(active: u32, first: u32) -> u32 {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    let is_told = std::env::var_os("MUTANTS_REACHED");
    if active == UNREAD {
        let found = number("MUTANT_ON").unwrap_or(if is_told.is_some() { TELLS } else { 0 });
        ACTIVE.store(found, Relaxed);
        if found != TELLS {
            return found;
        }
    }
    if !TOLD[first as usize].swap(true, Relaxed) {
        if let Some(mut file) = is_told.and_then(|path| std::fs::OpenOptions::new().create(true).append(true).open(path).ok()) {
            let _ = file.write_all(&first.to_le_bytes());
        }
    }
    0
}
"""

# A run of a mutant that takes so many times what the test takes without it, and these seconds more, hangs.
SLOWER, SECONDS = 8, 8
MEMORY = 8 << 30
# Tests of one program that are run at once: what they take together.
TOGETHER_S = 1.5
# Seeds of each kind that are run before the tests that were not written for what is changed.
SEEDS_FIRST = 8
# Builds until all that does not compile is left out.
BUILDS = 20
# Lines from an error in which its mutant is looked for, where it is not on the error's own.
NEAR = 10


class Program:
    """Where tests are: what is built, which of its tests are run, and how they are told."""

    def __init__(self, name, flags, skipped=()):
        self.name, self.flags, self.skipped = name, flags, skipped
        self.path = self.cwd = None


class Test:
    """A test, or a seed of the simulator."""

    def __init__(self, program, words, environment=()):
        self.program, self.words, self.environment = program, words, dict(environment)
        self.seconds, self.reached = None, set()

    def __str__(self):
        return " ".join([self.program.name, *self.words, *(f"{key}={value}" for key, value in self.environment.items())])


def build_all(scratch, crate, listed, programs, lists):
    """Makes the programs, and tells where each mutant is, or why it is nowhere. `crate` makes the sources as they are."""
    switches = lists / "switches"
    if subprocess.run(["cargo", "build", "--quiet", "--release", "--target-dir", switches], cwd=HERE).returncode != 0:
        raise OSError("the program that writes the switches cannot be built")
    text, list_file, without_file = json.dumps(listed), lists / "list.json", lists / "without"
    is_known = list_file.exists() and without_file.exists() and list_file.read_text() == text
    without = {int(number) for number in without_file.read_text().split()} if is_known else set()
    list_file.write_text(text)
    for turn in range(BUILDS):
        crate()
        without_file.write_text("".join(f"{number}\n" for number in sorted(without)))
        subprocess.run([switches / "release" / "switches", list_file, scratch, lists / "map.json", without_file], check=True)
        places = {int(number): place for number, place in json.loads((lists / "map.json").read_text()).items()}
        library = scratch / "src" / "lib.rs"  # made anew each time
        library.write_text(library.read_text() + "\n#[doc(hidden)]\npub mod mutants;\n")
        (scratch / "src" / "mutants.rs").write_text(MODULE.replace("COUNT", f"{len(listed) + 1}"))
        say(f"build {turn + 1}: {sum('first' in place for place in places.values())} mutants")
        wrong = compile_errors(scratch, programs)
        if not wrong:
            return places
        fresh = set()
        for file, line in wrong:
            of_file = {number: place for number, place in places.items() if "first" in place and place["file"] == file}
            here = [(place["last"] - place["first"], number) for number, place in of_file.items() if place["first"] <= line <= place["last"]]
            near = [(max(place["first"] - line, line - place["last"]), number) for number, place in of_file.items()]
            if here:
                fresh.add(min(here)[1])
            elif near and min(near)[0] <= NEAR:
                # What was there does not compile beside what has come: all of the nearest place goes.
                asks = of_file[min(near)[1]]["asks"]
                fresh |= {number for number, place in of_file.items() if place["asks"] == asks}
        if not fresh - without:
            raise OSError(f"what does not compile is no mutant: {sorted(wrong)[:5]}")
        without |= fresh
    raise OSError(f"after {BUILDS} builds some mutants still do not compile")


def compile_errors(scratch, programs):
    """File and line of each error; none, and the programs have their paths."""
    wrong, last = set(), ""
    for program in programs:
        program.cwd = scratch
        command = ["cargo", "test", "--no-run", "--message-format=json", *program.flags]
        process = subprocess.run(command, cwd=scratch, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for line in process.stdout.splitlines():
            message = json.loads(line)
            if message["reason"] == "compiler-artifact" and message.get("executable") and message["profile"]["test"]:
                program.path = message["executable"]
            if message["reason"] != "compiler-message" or message["message"]["level"] != "error":
                continue
            last = message["message"]["rendered"]
            for span in message["message"]["spans"]:
                if span["is_primary"]:
                    wrong.add((span["file_name"], span["line_start"]))
        if process.returncode != 0:
            if not wrong:
                raise OSError(f"it does not compile: {last or process.stderr[-2000:]}")
            return wrong
    return set()


def environment():
    inherited = {key: value for key, value in os.environ.items() if key != "CARGO_TARGET_DIR" and not key.startswith("STARLING_")}
    return inherited | {"CARGO_PROFILE_DEV_DEBUG": "0", "CARGO_PROFILE_DEV_OPT_LEVEL": "2", "CARGO_INCREMENTAL": "0", "RUSTFLAGS": "--cap-lints allow"}


def tests_of(programs):
    for program in programs:
        listed = subprocess.run([program.path, "--list", "--format", "terse"], capture_output=True, text=True, check=True, cwd=program.cwd)
        names = [line.removesuffix(": test") for line in listed.stdout.splitlines() if line.endswith(": test")]
        yield from (Test(program, (name,)) for name in names if not any(part in name for part in program.skipped))


def limit():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(program, words, variables, seconds):
    """The exit code of some tests of a program, or None if they hang."""
    command = [program.path, *words, "--exact", "--test-threads", "1"]
    process = subprocess.Popen(command, cwd=program.cwd, env=environment() | variables, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True, preexec_fn=limit)
    with LOCK:
        RUNNING.add(process)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        end(process)


def end(process):
    """Ends a process, and what it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    with LOCK:
        RUNNING.discard(process)


RUNNING, LOCK = set(), threading.Lock()


def look(test, directory):
    """Runs a test without any mutant: how long it takes, and what it comes by. Whether it can be used."""
    file = directory / hashlib.sha256(str(test).encode()).hexdigest()[:16]
    file.unlink(missing_ok=True)
    began = time.monotonic()
    code = run(test.program, test.words, test.environment | {REACHED: str(file)}, 120)
    test.seconds = time.monotonic() - began
    if file.exists():
        content = file.read_bytes()
        test.reached = {int.from_bytes(content[at:at + 4], "little") for at in range(0, len(content), 4)}
        file.unlink()
    return code == 0


def look_at_all(tests, directory, jobs):
    directory.mkdir(exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        are_well = list(progress(pool.map(lambda test: look(test, directory), tests), len(tests), "looked at, of the tests"))
    failed = [test for test, is_well in zip(tests, are_well) if not is_well]
    for test in failed:
        say(f"without any mutant this fails, and is left out: {test}")
    return [test for test, is_well in zip(tests, are_well) if is_well and test.reached]


def try_mutant(number, first, module, tests, budget_s):
    """`killed` with the test, `timeout`, `survives`, or `unreached`. `module` is where the mutant is: what was written for it comes first."""
    mine = sorted((test for test in tests if first in test.reached), key=lambda test: test.seconds)
    if not mine:
        return "unreached", ""
    own = [test for test in mine if f"{module}::" in f"{test.program.name}::{test.words[0]}"]
    others = [test for test in mine if test not in own and not test.environment]
    # Seeds say most for their time, up to some of each kind.
    kinds = collections.defaultdict(list)
    for test in mine:
        if test.environment:
            kinds[test.words].append(test)
    first_seeds = [seed for seeds in kinds.values() for seed in seeds[:SEEDS_FIRST]]
    more_seeds = [seed for seeds in kinds.values() for seed in seeds[SEEDS_FIRST:]]
    spent = 0
    for group in [*groups(own), *groups(first_seeds), *groups(others), *groups(more_seeds)]:
        if spent > budget_s:
            break
        seconds = sum(test.seconds for test in group)
        spent += seconds
        words = [word for test in group for word in test.words]
        code = run(group[0].program, words, group[0].environment | {SWITCH: str(number)}, SECONDS + SLOWER * seconds)
        if code != 0:
            return ("timeout" if code is None else "killed"), str(group[0])
    return "survives", ""


def groups(tests):
    """Tests of one program without variables of their own are run at once, quick ones first."""
    open_groups, done = {}, []
    for test in tests:
        if test.environment:
            done.append([test])
            continue
        group = open_groups.setdefault(test.program.name, [])
        group.append(test)
        if sum(one.seconds for one in group) > TOGETHER_S or len(group) == 50:
            done.append(open_groups.pop(test.program.name))
    done += open_groups.values()
    return sorted(done, key=lambda group: sum(test.seconds for test in group))


def try_all(mutants, tests, jobs, budget_s, told, attempt=try_mutant):
    """Tries mutants, given with what their places ask by and their modules, and calls told(number, outcome, test) for each."""
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(attempt, number, *where, tests, budget_s): number for number, where in mutants.items()}
        counts = collections.Counter()
        try:
            for future in progress(concurrent.futures.as_completed(waiting), len(waiting), "tried, of the mutants", counts):
                outcome, test = future.result()
                counts[outcome] += 1
                told(waiting[future], outcome, test)
        except KeyboardInterrupt:
            # What is killed says nothing of its mutant: nothing is told from here on.
            for future in waiting:
                future.cancel()
            with LOCK:
                for process in RUNNING:
                    process.kill()
            raise


def progress(items, count, what, counts=None):
    began = told = time.monotonic()
    is_terminal = sys.stderr.isatty()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - told > (1 if is_terminal else 60):
            told = now
            more = "".join(f", {count} {name}" for name, count in sorted((counts or {}).items()))
            text = f"{done} {what} {count}, {(now - began) / done * (count - done):.0f} s left{more}"
            if is_terminal:
                sys.stderr.write(f"\r\033[Kmutants: {text}")
            else:
                say(text)
    if is_terminal:
        sys.stderr.write("\r\033[K")


def say(text):
    print(f"mutants: {text}", file=sys.stderr, flush=True)
