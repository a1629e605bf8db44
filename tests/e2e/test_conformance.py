"""The judges of tests/conformance that take seconds: what others wrote finds nothing wrong that is not explained. docs/conformance.md has all."""

import pathlib
import re
import sys

import pytest

import named

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "conformance"))

import runner  # noqa: E402 (the path comes first)
from exceptions import EXPLAINED  # noqa: E402
from judge import Bench, Case  # noqa: E402
from judges import NAMES, module  # noqa: E402

JUDGES = ["websockets", "ws", "wsproto", "h11", "llhttp", "h2", "grpc-health"]

# How many cases each has passed, by the table of the page: what is asked is not to become less unnoticed.
PASSED = {row[0]: int(row[3]) for row in named.rows(named.Page("conformance.md").sections()["Results"]) if len(row) == 8}


@pytest.mark.parametrize("name", JUDGES)
def test_judge(name):
    assert not module(name).missing(), "scripts/setup installs what is missing"
    result = runner.judge(name, Bench())
    assert result.failed == [], "\n".join(f"{case.name}: {case.failure}" for case in result.failed)
    assert result.passed >= PASSED[name] > 0, f"it has asked {result.cases} cases: has that become less, or docs/conformance.md wrong?"


def test_what_is_explained_is_of_a_judge_and_in_the_documentation():
    assert EXPLAINED.keys() <= set(NAMES)
    page = (pathlib.Path(__file__).parents[2] / "docs/conformance.md").read_text()
    assert runner.explained() in page, "what scripts/conformance --explained says belongs into docs/conformance.md"


def test_a_case_that_passes_although_it_is_explained_is_a_failure():
    name, cases = next(iter(EXPLAINED.items()))
    case = next(iter(cases))
    result = runner.Result(name, "")
    result.count(Case(case, "wrong"))
    assert len(result.explained) == 1 and result.failed == []
    result.count(Case(case))
    result.count(Case("another", "wrong"))
    assert [failed.name for failed in result.failed] == [case, "another"]
    assert re.search(rf"\| {name} +\| +\| +3 \| +0 \| +2 \| +1 \| +0 \| +0 \|", runner.table([result]))
