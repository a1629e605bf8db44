"""Runs judges and makes the table of what they found. `scripts/conformance` calls it."""

import argparse
import os
import pathlib
import sys
import time
import traceback
import urllib.parse
from dataclasses import dataclass, field

from exceptions import EXPLAINED
from judge import TARGET, Bench, Case
from judges import NAMES, Unloadable, module

EPILOG = """examples:
  scripts/conformance                                  every judge that is there, each with a server of its own
  scripts/conformance h2 h11 --require                 these two; what they need has to be there
  scripts/conformance --url ws://127.0.0.1:8080/echo   those that can ask a server that runs
  scripts/conformance --list

Without STARLING_BIN the release binary is built, and asked.

exit codes: 0 nothing failed, 1 a case failed or (with --require) something is missing, 2 wrong arguments
"""


@dataclass
class Result:
    """What one judge found."""

    name: str
    version: str
    passed: int = 0
    failed: list = field(default_factory=list)
    explained: list = field(default_factory=list)
    skipped: list = field(default_factory=list)
    seconds: float = 0.0
    # Another server at --url may do better than what is explained of ours.
    is_ours: bool = True

    def count(self, case):
        reason = EXPLAINED.get(self.name, {}).get(case.name)
        if case.skipped:
            self.skipped.append(case)
        elif case.failure and reason:
            self.explained.append((case, reason))
        elif case.failure:
            self.failed.append(case)
        elif reason and self.is_ours:
            self.failed.append(Case(case.name, "it passes, but exceptions.py explains why it does not"))
        else:
            self.passed += 1

    @property
    def cases(self):
        return self.passed + len(self.failed) + len(self.explained) + len(self.skipped)


def judge(name, bench):
    """The Result of one judge."""
    judge = module(name)
    result = Result(name, judge.version(), is_ours=bench.url is None)
    began = time.monotonic()
    seen = set()
    try:
        for case in judge.run(bench):
            result.count(case)
            seen.add(case.name)
        for unknown in EXPLAINED.get(name, {}).keys() - seen if result.is_ours else ():
            result.failed.append(Case(unknown, "exceptions.py explains it, but there is no such case"))
    except Exception as error:
        # A judge that breaks off has not passed what it has not asked.
        result.failed.append(Case("the judge itself", "".join(traceback.format_exception(error))))
    result.seconds = time.monotonic() - began
    return result


def table(results):
    """The results as Markdown, which is a table in a terminal too."""
    rows = [["judge", "version", "cases", "passed", "failed", "explained", "skipped", "seconds"]]
    for result in results:
        counts = [result.cases, result.passed, len(result.failed), len(result.explained), len(result.skipped), round(result.seconds)]
        rows.append([result.name, result.version, *map(str, counts)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [text.ljust(width) if column < 2 else text.rjust(width) for column, (text, width) in enumerate(zip(row, widths))]
        lines.append("| " + " | ".join(cells) + " |")
    lines.insert(1, "|" + "|".join("-" * (width + 1) + ("-" if column < 2 else ":") for column, width in enumerate(widths)) + "|")
    return "\n".join(lines)


class Progress:
    """One line on a terminal, which is written over; nothing elsewhere."""

    def __init__(self):
        self.is_shown = sys.stderr.isatty()

    def say(self, text):
        if self.is_shown:
            width = os.get_terminal_size(sys.stderr.fileno()).columns
            print(f"\r\x1b[K{text[:width - 1]}", end="", file=sys.stderr, flush=True)

    def clear(self):
        if self.is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def list_judges():
    for name in NAMES:
        missing = module(name).missing()
        summary = module(name).__doc__.partition("\n\n")[0].replace("\n", " ")
        print(f"{name:<14}{summary}" + (f" Missing: {', '.join(missing)}." if missing else ""))


def explained():
    """What exceptions.py has, as Markdown: docs/conformance.md shows it."""
    lines = ["| judge | cases | why the server stays as it is |", "|---|---|---|"]
    for name, cases in EXPLAINED.items():
        by_reason = {}
        for case, reason in cases.items():
            by_reason.setdefault(reason, []).append(case)
        lines += [f"| {name} | {'<br>'.join(names)} | {reason} |" for reason, names in by_reason.items()]
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="scripts/conformance", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description="Has the server judged by what others wrote: docs/conformance.md.")
    parser.add_argument("judges", nargs="*", metavar="JUDGE", help="which (default: all): " + ", ".join(NAMES))
    parser.add_argument("--require", action="store_true", help="what is missing is an error; otherwise its judges are skipped, and that is said")
    parser.add_argument("--list", action="store_true", help="tell the judges, and what each needs that is not there")
    parser.add_argument("--explained", action="store_true", help="tell what is known not to pass, and why that is no fault")
    parser.add_argument("--url", action="append", default=[], metavar="URL",
                        help="a server that runs: ws://…/echo, http://…, https://… or grpc://…; may be repeated, once a kind")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.judges if name not in NAMES]:
        parser.error(f"there is no judge {unknown[0]}; there are {', '.join(NAMES)}")
    urls = {url.partition("://")[0]: url for url in options.url}
    if unknown := urls.keys() - {"ws", "http", "https", "grpc"}:
        parser.error(f"no judge asks {sorted(unknown)[0]}://")
    for url in options.url:
        if not urllib.parse.urlsplit(url).hostname:
            parser.error(f"{url} has no host")
    if options.explained:
        print(explained())
        return 0
    if options.list:
        list_judges()
        return 0
    os.environ.setdefault("STARLING_BIN", str(TARGET / "release" / "starling"))
    if not urls and not pathlib.Path(os.environ["STARLING_BIN"]).exists():
        parser.error(f"there is no {os.environ['STARLING_BIN']}")

    progress = Progress()
    results, lacking = [], []
    for name in options.judges or NAMES:
        scheme = module(name).SCHEME
        if urls and scheme not in urls and not isinstance(module(name), Unloadable):
            if options.judges:
                parser.error(f"{name} cannot ask any of {', '.join(urls.values())}")
            continue
        if missing := module(name).missing():
            lacking.append(name)
            print(f"{name}: {'missing' if options.require else 'skipped, missing'}: {', '.join(missing)}", flush=True)
            continue
        progress.say(name)
        results.append(judge(name, Bench(urls.get(scheme), lambda text, name=name: progress.say(f"{name}: {text}"))))
        progress.clear()
        tell(results[-1])
    if results:
        print("\n" + table(results))
    return int(any(result.failed for result in results) or (options.require and bool(lacking)))


def tell(result):
    """What did not pass, in full."""
    for case in result.failed:
        print(f"{result.name}: FAILED: {case.name}: {case.failure}")
    for case, reason in result.explained:
        print(f"{result.name}: explained: {case.name}: {case.failure}\n    {reason}")
    for case in result.skipped:
        print(f"{result.name}: skipped: {case.name}: {case.skipped}")
    sys.stdout.flush()
