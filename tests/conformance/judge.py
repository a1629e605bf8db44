"""What the judges have in common: cases and their outcomes, what is missing, servers, and the sources of others' tests.

A judge is a module of the package `judges` with

- a docstring: whose tool it is, what it asks, and what counts as a pass;
- `SCHEME`: of the `--url` that it can be pointed at, or None where it starts its own server;
- `missing()`: the programs and packages that it needs and that are not there, each with what has it;
- `version()`: of whatever judges;
- `run(bench)`: yields a Case for each thing that it has asked.
"""

import contextlib
import functools
import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import urllib.parse
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
SOURCES = TARGET / "conformance"
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from helpers import RawClient, Server, environment  # noqa: E402 (the path comes first)

# Whose own tests are used, as they were published. scripts/setup fetches them.
SDISTS = dict(line.split("==") for line in (ROOT / "tests/conformance/sdists.txt").read_text().split("\n") if "==" in line)


@dataclass
class Case:
    """One thing that was asked. `failure` is what was wrong, None if nothing was; `skipped` why it was not asked."""

    name: str
    failure: str | None = None
    skipped: str | None = None


class Failed(Exception):
    """What a judge has found to be wrong."""


class Skipped(Exception):
    """Why a case cannot be asked."""


def case(name, ask, *arguments):
    """The Case of a function that raises where something is wrong."""
    try:
        ask(*arguments)
    except Skipped as reason:
        return Case(name, skipped=str(reason))
    except (Failed, AssertionError, TimeoutError, EOFError, OSError) as error:
        return Case(name, f"{error}" if isinstance(error, Failed) else f"{type(error).__name__}: {error}")
    return Case(name)


class Bench:
    """Where a judge finds the server: its own, started for it, or the one at `url`."""

    def __init__(self, url=None, say=lambda text: None):
        self.url = urllib.parse.urlsplit(url) if url else None
        self.say = say

    @contextlib.contextmanager
    def server(self, **settings):
        """A server with these settings; `limits.…` that are not named are as they are by default."""
        if self.url:
            server = Remote(self.url)
            # One failure that says so instead of one a case.
            server.connect().close()
            yield server
            return
        with contextlib.closing(Server(**settings)) as server:
            yield server


class Remote:
    """A server that runs elsewhere, as far as judges need it."""

    def __init__(self, url):
        default = {"http": 80, "ws": 80, "https": 443, "grpc": 50051}[url.scheme]
        self.web = self.grpc = (url.hostname, url.port or default)
        self._clients = []

    def keep(self, client):
        return client

    def connect(self, listener="web", **options):
        return RawClient(self.web, **options)

    def url(self, path, scheme="ws"):
        return f"{scheme}://{self.web[0]}:{self.web[1]}{path}"

    get = Server.get
    http = Server.http


# What there is.


def missing_programs(**packages):
    """The programs of these that are not there, with the Debian package that has each."""
    return [f"{program} (Debian: {package})" for program, package in packages.items() if not shutil.which(program)]


def missing_modules(*names):
    missing = []
    for name in names:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(f"{name} (PyPI; scripts/setup installs it)")
    return missing


def npm_packages():
    return pathlib.Path(os.environ.get("STARLING_TEST_NPM") or TARGET / "npm") / "node_modules"


def missing_npm(*names):
    missing = missing_programs(node="nodejs")
    return missing + [f"{name} (npm; scripts/setup installs it)" for name in names if not (npm_packages() / name).exists()]


def sources(name):
    """The unpacked source distribution of a package, or None."""
    archive = SOURCES / f"{name}-{SDISTS[name]}.tar.gz"
    if not archive.exists():
        return None
    unpacked = SOURCES / f"{name}-{SDISTS[name]}"
    if not unpacked.exists():
        # By renaming, since several may do this at once.
        partial = SOURCES / f"{name}-{os.getpid()}"
        partial.mkdir(exist_ok=True)
        subprocess.run(["tar", "-xzf", archive, "-C", partial], check=True)
        try:
            (partial / unpacked.name).rename(unpacked)
        except OSError:
            pass
        shutil.rmtree(partial, ignore_errors=True)
    return unpacked


def missing_sources(*names):
    return [f"{name}-{SDISTS[name]}.tar.gz (PyPI, the source distribution; scripts/setup fetches it)" for name in names
            if not (SOURCES / f"{name}-{SDISTS[name]}.tar.gz").exists()]


def module_version(name):
    return f"{name} {importlib.metadata.version(name)}"


@functools.cache
def output(*command, timeout=60):
    """What a program says on both of its outputs."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, env=environment())
    return done.stdout.decode(errors="replace")
