"""Kills at random moments, for a few seconds. `scripts/crash` does the same for longer."""

import time

import pytest

import crash


@pytest.mark.parametrize("seed", [1, 2])
def test_what_was_acknowledged_survives_kills(tmp_path, seed):
    totals = crash.run(tmp_path / "data", kills=4, seconds_between=(0.1, 0.6), seed=seed, pin="false", history__count=10_000_000, history__bytes=0)
    assert totals["acked"] > 500 and totals["resumed"] >= 9, totals


def test_what_was_stored_survives_a_machine_that_fails(tmp_path):
    totals = crash.run(tmp_path / "data", kills=3, seconds_between=(0.1, 0.6), seed=time.time_ns(), loses_memory=True, pin="false",
                       history__count=10_000_000, history__bytes=0)
    assert totals["acked"] > 300, totals
