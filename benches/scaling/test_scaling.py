"""Tests of scripts/scaling's own parts: python3 -m unittest discover -s benches -t benches"""

import json
import pathlib
import signal
import subprocess
import unittest
import xml.etree.ElementTree

from compare import peers, report as compared
from compare.processes import Failed
from scaling import loads, report


class Figures(unittest.TestCase):
    def test_heartbeats(self):
        self.assertAlmostEqual(loads.heartbeats_per_s(1_000_000, 30_000), 1_000_000 / 31.875)
        run = {"whole": {"server": {"cpu_seconds": 0.5}, "seconds": 2.0}}
        self.assertEqual(loads.cpu_s_per_s(run), 0.25)

    def test_instructions_are_of_a_function_with_all_that_it_calls(self):
        annotated = "1,234,567 (90.00%)  ???:rooms::main [rooms]\n  900,000 (60.00%)  ???:rooms::speak_in_one [rooms]\n 12 ( 0.0%) ???:rooms::speak_in_all'2\n"
        self.assertEqual(loads.inclusive(annotated, "speak_in_one"), 900_000)
        self.assertEqual(loads.inclusive(annotated, "speak_in_all"), 12)
        self.assertRaisesRegex(Failed, "nothing of", loads.inclusive, annotated, "speak")

    def test_the_benchmark_is_where_cargo_says(self):
        told = [{"executable": None, "target": {"name": "rooms"}}, {"executable": "/x/other", "target": {"name": "other"}},
                {"executable": "/x/rooms", "target": {"name": "rooms"}}, {"reason": "build-finished"}]
        lines = "\n".join(["Compiling", *map(json.dumps, told)])
        self.assertEqual(loads.executable(lines), "/x/rooms")
        self.assertRaises(Failed, loads.executable, "")


class Reports(unittest.TestCase):
    def setUp(self):
        self.loads = {load.name: load for load in loads.loads()}
        self.results = report.Results(list(self.loads.values()), {load.name: load.sizes for load in self.loads.values()})
        for cores, figures in {1: (8, 7, 9), 2: (8.8, 8.4, 20)}.items():
            for figure in figures:
                self.results.add(self.loads["cores-fixed"], cores, {
                    "cpu_us_per_delivery": figure, "others_share": 0.5 if figure == 20 else 0.0, "reasons": ["3 | missing"] if figure == 20 else []})
        self.results.fail(self.loads["cores-fixed"], 4, "did not listen")
        self.results.add(self.loads["heartbeats"], 10_000, {"cpu_us_per_heartbeat": 8.0, "others_share": 0.0})

    def test_medians_and_ratios(self):
        rows = self.rows_of("cores-fixed")
        self.assertEqual(rows["1"][1:4], ["8.00", "7.00 to 9.00", "1.00"])
        self.assertEqual(rows["2"][1:4], ["8.80", "8.40 to 20.0", "1.10"])

    def test_no_row_is_missing_and_each_says_what_is_wrong(self):
        rows = self.rows_of("cores-fixed")
        self.assertEqual(rows["1"][-1], "")
        self.assertEqual(rows["2"][-1], "oversubscribed: 2 cores on 1 CPU; 3 / missing; disturbed in 1 of 3: others took up to 50% of the CPUs")
        self.assertEqual(rows["4"][-2:], ["0", "oversubscribed: 4 cores on 1 CPU; did not listen"])
        self.assertEqual(self.rows_of("hold")["1,000"][-1], "not measured: interrupted before its turn")

    def test_a_million_is_computed_and_says_so(self):
        self.assertRegex(report.million(self.results)[0], "^Computed, not measured: .* 31,373 heartbeats a second; .* 10,000 connections, that is 25% of one CPU")

    def test_the_plots_are_well_formed(self):
        pictures = report.plots(self.results, {"date": "today & <here>"})
        self.assertEqual(set(pictures), {"cores", "heartbeats"})
        for picture in pictures.values():
            xml.etree.ElementTree.fromstring(picture)

    def test_the_measured_part_is_exchanged(self):
        document = f"before\n{compared.BEGIN}\nold\n{compared.END}\nafter\n"
        once = compared.written_into(document, "new\n")
        self.assertEqual(once, f"before\n{compared.BEGIN}\n\nnew\n\n{compared.END}\nafter\n")
        self.assertEqual(compared.written_into(once, "new\n"), once)
        self.assertRaises(ValueError, compared.written_into, "no such part", "new")
        compared.written_into((peers.ROOT / "docs" / "scaling.md").read_text(), "")

    def rows_of(self, name):
        lines = [line for line in report.load_table(self.results, self.loads[name], 1)[4:] if line]
        return {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[1:-1]] for line in lines}


class Script(unittest.TestCase):
    script = pathlib.Path(peers.ROOT / "scripts" / "scaling")

    def test_nonsense_is_refused(self):
        for flags in (["--only", "nothing"], ["--server-cpus", "x"], ["--server-cpus", "9999"], ["--write-docs", "--quick"]):
            with self.subTest(flags):
                self.assertEqual(subprocess.run([self.script, *flags], stderr=subprocess.DEVNULL).returncode, 2)

    def test_an_interrupt_ends_everything(self):
        with subprocess.Popen([self.script, "--quick"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as scaling:
            scaling.stderr.readline()
            scaling.send_signal(signal.SIGTERM)
            self.assertEqual(scaling.wait(20), 1)
            self.assertIn(b"interrupted", scaling.stderr.read())


if __name__ == "__main__":
    unittest.main()
