"""The reading tour names what is there: files, functions, tests, and headings of other pages."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
TOUR = (ROOT / "docs" / "tour.md").read_text()


def test_every_function_and_test_is_where_the_tour_says():
    named = re.findall(r"`((?:src|tests|scripts|benches)/[\w./-]+)::(\w+)`", TOUR)
    assert len(named) > 50
    for file, name in named:
        text = (ROOT / file).read_text()
        assert re.search(rf"\b(fn|def) {name}\b", text), f"there is no {name} in {file}"


def test_every_file_is_there():
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", TOUR):
        assert (ROOT / "docs" / link).exists(), link


def test_every_stop_has_a_claim_that_is_shown_by_something():
    stops = re.split(r"^## ", TOUR, flags=re.MULTILINE)[1:]
    assert len(stops) == 10
    for stop in stops:
        rows = re.findall(r"^\| (?!claim|---)(.+?) \| (.+?) \|$", stop, re.MULTILINE)
        assert rows and "Question:" in stop, stop[:40]
        assert all("`" in shown or "](" in shown for _, shown in rows), rows
