"""Tests of scripts/soak's own parts: python3 -m unittest discover -s benches -t benches"""

import csv
import json
import pathlib
import tempfile
import unittest
import xml.etree.ElementTree

from soak import judge, plot, run, samples, trouble

QUIET = {"connections": 0, "sessions": 0, "away": 0, "nicknames": 0, "input_bytes": 0, "send_queues_bytes": 0, "open_files": 30, "timers": 1,
         "rooms": 400, "histories_bytes": 1000, "rss_bytes": 60e6}


def made_up(directory, minutes=60, sample=lambda seconds: {}, mix=lambda seconds: {}, log="", **about):
    """A run in which all is well but what the arguments say."""
    directory = pathlib.Path(directory)
    (directory / "log").mkdir()
    (directory / "log" / "server.log").write_text(f"2026-11-30T05:00:00.000Z INFO  starling::server: drained\n{log}")
    rest = {"before": QUIET, "after": QUIET, "emptied": QUIET | {"rooms": 0, "histories_bytes": 0}}
    (directory / "about.json").write_text(json.dumps(
        {"rest": rest, "rooms_max": 400, "histories_max": 2000, "done": {"stalled": 3}, "wrong": [], "reloads": 4, "exit_code": 0, "warm-up_from": 1.0,
         "measured_from": 600.0} | about))
    rows = []
    for seconds in range(5, minutes * 60, 5):
        phase = "warm-up" if seconds < 600 else "measured"
        # Up and down by a percent, as memory does.
        row = dict.fromkeys(samples.COLUMNS, 10) | {"seconds": seconds, "phase": phase, "rss_bytes": 60e6 + seconds // 5 % 7 * 1e5, "pss_bytes": 50e6}
        rows.append(row | dict.fromkeys(("refused_connections", "store_refused", "store_overdue"), 0) | sample(seconds))
    written(directory / "samples.csv", samples.COLUMNS, rows)
    rows = []
    for began in range(5, minutes * 60 - 30, 32):
        row = {"began": began, "ended": began + 30, "phase": "warm-up" if began < 600 else "measured", "profile": "mix", "target": "ws",
               "exit_code": 0, "verdict": "ok", "reasons": "", "p50_us": 400 + began // 32 % 5 * 10, "p99_us": 4000, "p999_us": 9000, "late_p99_us": 90,
               "looked_at": 1000}
        rows.append(row | mix(began))
    written(directory / "slices.csv", samples.SLICE_COLUMNS, rows)
    written(directory / "events.csv", samples.EVENT_COLUMNS, [{"seconds": 20, "event": "reload", "detail": "<none> & more"}])


def written(path, columns, rows):
    table = samples.Table(path, columns)
    for row in rows:
        table.add(row)
    table.close()


class Judged(unittest.TestCase):
    def failures(self, **made):
        with tempfile.TemporaryDirectory() as directory:
            made_up(directory, **made)
            return [line.text for line in judge.judge(directory) if line.is_well is False]

    def only(self, pattern, **made):
        failures = self.failures(**made)
        self.assertTrue(failures)
        for failure in failures:
            self.assertRegex(failure, pattern)

    def test_a_run_in_which_all_is_well_is_well(self):
        self.assertEqual(self.failures(), [])

    def test_memory_that_grows_slowly_fails(self):
        self.only("resident memory", sample=lambda seconds: {"rss_bytes": 60e6 * (1 + 0.04 * seconds / 3600)})
        self.assertEqual(self.failures(sample=lambda seconds: {"rss_bytes": 60e6 * (1 + 0.01 * seconds / 3600)}), [])

    def test_memory_that_grows_before_the_measured_time_or_that_jumps_once_and_comes_back_is_well(self):
        self.assertEqual(self.failures(sample=lambda seconds: {"rss_bytes": min(60e6, 1e5 * seconds)}), [])
        self.assertEqual(self.failures(sample=lambda seconds: {"rss_bytes": 90e6 if 2000 < seconds < 2100 else 60e6}), [])

    def test_a_step_of_memory_that_stays_fails_though_the_fit_does_not_see_it(self):
        self.only("resident memory.* quarter", sample=lambda seconds: {"rss_bytes": 63e6 if seconds > 2900 else 60e6})

    def test_tables_that_grow_fail(self):
        for table in judge.TABLES + judge.TABLES_BYTES:
            self.only(table.replace("_", " "), sample=lambda seconds, table=table: {table: 100 + seconds / 60})

    def test_little_time_is_not_judged_for_growth(self):
        self.assertEqual(self.failures(minutes=15, sample=lambda seconds: {"rss_bytes": 60e6 * (1 + seconds / 3600)}), [])

    def test_what_stays_at_rest_fails(self):
        for name in ("connections", "sessions", "away", "nicknames", "input_bytes", "send_queues_bytes"):
            rest = {"before": QUIET, "after": QUIET | {name: 1}, "emptied": QUIET | {"rooms": 0, "histories_bytes": 0}}
            self.only("at rest: 1 ", rest=rest)
        self.only("at rest: 40 open files", rest={"before": QUIET, "after": QUIET | {"open_files": 40}, "emptied": QUIET | {"rooms": 0, "histories_bytes": 0}})
        self.only("nothing is to be remembered: 3 rooms", rest={"before": QUIET, "after": QUIET, "emptied": QUIET | {"rooms": 3, "histories_bytes": 0}})
        self.only("did not come to that", rest={})

    def test_one_slice_that_failed_its_audit_fails(self):
        self.only("audit", mix=lambda began: {"exit_code": 1, "verdict": "failed", "reasons": "1 missing"} if began == 5 + 32 * 40 else {})

    def test_latency_that_rises_fails(self):
        self.only("latency p50", mix=lambda began: {"p50_us": 400 + began / 10})
        self.only("latency p99", mix=lambda began: {"p99_us": 4000 + began})

    def test_the_log(self):
        stall = "2026-11-30T05:00:01.000Z WARN  starling::reactor::stall: core 0: a turn took 50.3 ms, 21.2 ms of it step 6\n"
        more = "2026-11-30T05:00:02.000Z WARN  starling::reactor::stall: core 0: 3 more stalls, the last of them a while ago\n"
        self.assertEqual(self.failures(log=stall * 3 + more), [])
        self.only("log: ", log="2026-11-30T05:00:01.000Z ERROR starling::store: the store is down\n")
        self.only("log: ", log="2026-11-30T05:00:01.000Z WARN  starling::server: something else\n")
        self.only("log: ", log="thread 'core-0' panicked at src/shard/mod.rs:1:1:\n")

    def test_refusals_and_wrong_answers_fail(self):
        self.only("refused", sample=lambda seconds: {"store_refused": int(seconds == 900)})
        # Looking for the capacity is asking for too much.
        self.assertEqual(self.failures(sample=lambda seconds: {"store_refused": 9, "phase": "capacity"} if seconds < 60 else {}), [])
        self.only("beside it", wrong=["mail: Wrong('500')"])
        self.only("interrupted", failure="interrupted")

    def test_too_little_is_no_verdict(self):
        self.only("too few", minutes=10)


class Drawn(unittest.TestCase):
    def test_the_plot_is_xml_with_a_line_a_name(self):
        with tempfile.TemporaryDirectory() as directory:
            made_up(directory, minutes=20, command="scripts/soak --out '<&>'")
            picture = xml.etree.ElementTree.fromstring(plot.plot(directory))
        told = ["".join(text.itertext()) for text in picture.iter("{http://www.w3.org/2000/svg}text")]
        for name in ("resident", "histories", "p50", "p99.9", "messages", "sessions", "load average (1 min)", "reloads (1)", "warm-up", "minutes"):
            self.assertIn(name, told)

    def test_many_points_are_thinned_to_the_highest_of_each_few(self):
        points = [(x, 9 if x == 501 else 1) for x in range(1000)]
        self.assertEqual(len(plot.thinned(points)), 334)
        self.assertIn((501, 9), plot.thinned(points))
        self.assertEqual(plot.thinned(points[:300]), points[:300])

    def test_axes(self):
        self.assertEqual([plot.round_up(value) for value in (0.3, 1, 14, 21, 99)], [0.5, 1, 20, 50, 100])
        self.assertEqual(plot.minutes(300), [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5])
        self.assertEqual(plot.minutes(3600)[-1], 60)


class Parts(unittest.TestCase):
    def test_the_fit_is_not_turned_by_outliers(self):
        points = [(x, 5 + 2 * x) for x in range(50)]
        self.assertEqual(judge.slope(points), 2)
        self.assertEqual(judge.slope([*points[:20], (20, 9999), *points[21:]]), 2)

    def test_configuration(self):
        class Options:
            cores, store, grace_s = 1, "sqlite", 2.5

        text = run.settings(Options, {"log.level": "debug"}, **{"history.age_s": 1})
        self.assertIn('log.level = "debug"\n', text)
        self.assertIn("session.grace_ms = 2500\n", text)
        self.assertIn('auth.api_keys = [{ name = "program", key = "the-key-of-the-soak" }]\n', text)

    def test_a_frame_of_a_websocket(self):
        self.assertEqual(trouble.ws_text(a=1), b"\x81\x88\0\0\0\0" + b'{"a": 1}')
        self.assertEqual(trouble.ws_text(a="x" * 200)[:4], b"\x81\xfe\x00\xd1")

    def test_a_table_is_whole_after_each_row(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "table.csv"
            table = samples.Table(path, ["a", "b"])
            table.add({"a": 1.5, "b": "x,y"})
            self.assertEqual(samples.read_table(path), [{"a": 1.5, "b": "x,y"}])
            self.assertEqual(next(csv.reader(path.read_text().splitlines())), ["a", "b"])
            table.close()
