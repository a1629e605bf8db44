"""Runs tests of a mutant, and then those of the next one, as it is told by lines of JSON, and answers each with one."""

import contextlib
import io
import json
import os
import sys

import pytest

for line in sys.stdin:
    asked = json.loads(line)
    os.environ.update(asked["variables"])
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = pytest.main(["-p", "no:cacheprovider", "-p", "reached", "-q", "-x", *asked["tests"]])
    # What a module makes once for its parameters may be used up.
    for name in [name for name in sys.modules if name.startswith("test_")]:
        del sys.modules[name]
    failed = [line.split(" ")[1] for line in said.getvalue().splitlines() if line.startswith(("FAILED ", "ERROR "))]
    print(json.dumps({"code": int(code), "failed": failed}), flush=True)
