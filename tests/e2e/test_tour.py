"""The reading tour names what is there: files, functions, tests, and headings of other pages."""

from named import Page, rows

TOUR = Page("tour.md")


def test_every_function_and_test_is_where_the_tour_says():
    assert len(TOUR.functions()) > 50


def test_every_file_is_there():
    TOUR.check_links()


def test_every_stop_has_a_claim_that_is_shown_by_something():
    stops = TOUR.sections()
    assert len(stops) == 10
    for name, stop in stops.items():
        assert rows(stop) and "Question:" in stop, name
        assert all("`" in shown or "](" in shown for _, shown in rows(stop)), rows(stop)
