"""What is held against the tables of a run. All bounds are here, and docs/soak.md repeats them."""

import dataclasses
import json
import pathlib
import re
import statistics

from .samples import read_table

# Growth of resident memory: by the fit, of an hour, and of the last quarter over the first.
MEMORY_GROWTH_MAX = 0.02
# A fit over less says more about the noise than about the hour.
FITTED_MINUTES_MIN = 10
# Samples of which all pairs are looked at.
FITTED_MAX = 400
# Tables: the last quarter over the first, and so many more, as few of them come and go.
TABLES_GROWTH_MAX, TABLES_MORE_MAX = 0.05, 5
TABLES = ["open_files", "sessions", "away", "rooms", "nicknames", "timers", "connections", "mailbox", "deferred"]
TABLES_BYTES = ["connections_bytes", "sessions_bytes", "histories_bytes"]
# At rest: what is opened once and then kept.
REST_MORE_MAX = 5
LATENCY_RATIO_MAX = 1.25
# Warnings and errors that belong to what is done here, and why.
EXPECTED = [
    (r"starling::reactor::stall: core \d+: (a turn took|\d+ more stalls)", "a turn of the core took long: others are at work on its processor"),
]


@dataclasses.dataclass
class Line:
    """A line of the verdict. `is_well` is None where it is not judged."""

    is_well: bool | None
    text: str

    def __str__(self):
        return f"{ {True: 'ok', False: 'FAILED', None: 'told'}[self.is_well]:7}{self.text}"


def judge(directory):
    """The verdict, line by line, on what a run has left in a directory."""
    directory = pathlib.Path(directory)
    about = json.loads((directory / "about.json").read_text()) if (directory / "about.json").exists() else {}
    samples, slices = read_table(directory / "samples.csv"), read_table(directory / "slices.csv")
    lines = [Line(False, f"the run did not come to its end: {about['failure']}")] if "failure" in about else []
    measured = [row for row in samples if row["phase"] == "measured"]
    if len(measured) < 8:
        return lines + [Line(False, f"{len(measured)} samples after the warm-up are too few to judge")]
    lines += memory(measured) + tables(measured) + at_rest(about) + audit(slices) + misbehaviour(about, samples)
    return lines + latency(slices, measured) + log(directory, about) + answered(directory)


def answered(directory):
    file = directory / "events.csv"
    in_vain = [row for row in read_table(file) if row["event"] == "unanswered"] if file.exists() else []
    return [Line(None, f"the server was looked at in vain at {row['seconds']:,.0f} s: {row['detail']}") for row in in_vain[:10]]


def memory(measured):
    is_long = minutes(measured) >= FITTED_MINUTES_MIN
    lines = [] if is_long else [Line(None, f"growth: not judged, {minutes(measured):.1f} min are too few")]
    for name, title in (("rss_bytes", "resident memory"), ("pss_bytes", "proportional memory")):
        is_judged = is_long and name == "rss_bytes"
        middle = statistics.median(row[name] for row in measured)
        some = measured[:: -(-len(measured) // FITTED_MAX)]
        growth = slope([(row["seconds"], row[name]) for row in some]) * 3600 / middle
        first, last = quarters(measured, lambda row, name=name: row[name])
        said = f"{title}: {megabytes(middle)} in the middle, the fit grows by {growth:+.2%} an hour (at most {MEMORY_GROWTH_MAX:.0%})"
        lines.append(Line(growth <= MEMORY_GROWTH_MAX if is_judged else None, said))
        said = f"{title}: {megabytes(first)} in the first quarter, {megabytes(last)} in the last: {last / first - 1:+.2%} (at most {MEMORY_GROWTH_MAX:.0%})"
        lines.append(Line(last / first - 1 <= MEMORY_GROWTH_MAX if is_judged else None, said))
    first, last = quarters(measured, lambda row: row["disk_bytes"])
    return lines + [Line(None, f"the store's files: {megabytes(first)} in the first quarter, {megabytes(last)} in the last")]


def minutes(rows):
    return (rows[-1]["seconds"] - rows[0]["seconds"]) / 60


def tables(measured):
    is_judged = minutes(measured) >= FITTED_MINUTES_MIN
    lines = []
    for name in TABLES + TABLES_BYTES:
        first, last = quarters(measured, lambda row, name=name: row[name])
        more = TABLES_MORE_MAX if name in TABLES else 0
        said = f"{name.replace('_', ' ')}: {first:,.0f} in the first quarter, {last:,.0f} in the last (at most {TABLES_GROWTH_MAX:.0%}{' and 5' if more else ''} more)"
        lines.append(Line(last <= first * (1 + TABLES_GROWTH_MAX) + more if is_judged else None, said))
    return lines


def at_rest(about):
    """With nobody there any more, and in the end with nothing to remember."""
    rest = about.get("rest", {})
    if not {"before", "after", "emptied"} <= rest.keys():
        return [Line(False, "at rest: it did not come to that")]
    before, after, emptied = rest["before"], rest["after"], rest["emptied"]
    lines = []
    for name in ("connections", "sessions", "away", "nicknames", "input_bytes", "send_queues_bytes"):
        lines.append(Line(after[name] == 0, f"at rest: {after[name]:,.0f} {name.replace('_', ' ')} (0)"))
    for name in ("open_files", "timers"):
        is_well = after[name] <= before[name] + REST_MORE_MAX
        lines.append(Line(is_well, f"at rest: {after[name]:,.0f} {name.replace('_', ' ')}, {before[name]:,.0f} before (at most {REST_MORE_MAX} more)"))
    lines.append(Line(after["rooms"] <= about["rooms_max"] + 1, f"at rest: {after['rooms']:,.0f} rooms (at most {about['rooms_max'] + 1}, the lobby with them)"))
    is_within = after["histories_bytes"] <= about["histories_max"]
    lines.append(Line(is_within, f"at rest: {megabytes(after['histories_bytes'])} of histories (at most {megabytes(about['histories_max'])})"))
    is_empty = emptied["rooms"] == 0 and emptied["histories_bytes"] == 0
    lines.append(Line(is_empty, f"when nothing is to be remembered: {emptied['rooms']:,.0f} rooms, {emptied['histories_bytes']:,.0f} bytes of histories (0)"))
    lines.append(Line(None, f"resident memory: {megabytes(before['rss_bytes'])} at rest before, {megabytes(after['rss_bytes'])} after, {megabytes(emptied['rss_bytes'])} with nothing to remember"))
    return lines


def audit(slices):
    judged = [row for row in slices if row["phase"] not in ("capacity",)]
    failed = [row for row in judged if row["exit_code"] != 0 or row["verdict"] != "ok"]
    looked_at = sum(row["looked_at"] for row in judged)
    lines = [Line(bool(judged) and not failed, f"audit: {len(judged)} runs of the load, {looked_at:,.0f} deliveries looked at, {len(failed)} runs failed")]
    lines += [Line(False, f"audit: {row['profile']} over {row['target']} at {row['began']:,.0f} s: {row['reasons'] or row['exit_code']}") for row in failed[:10]]
    return lines


def misbehaviour(about, samples):
    done, wrong = about.get("done", {}), about.get("wrong", [])
    told = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in sorted(done.items()))
    lines = [Line(bool(done) and not wrong, f"beside it: {told or 'nothing'}; {len(wrong)} were not answered as they should have been")]
    lines += [Line(False, f"beside it: {why}") for why in wrong[:10]]
    grown = {name: sum(row[name] for row in samples) for name in ("slow_consumers", "resumed", "grace_expired", "rooms_forgotten", "private_kept", "errors",
                                                                  "timeouts", "too_large", "stalls", "journal_waits")}
    # To find the capacity more is asked than can be done, and the store says no to some of it.
    names = ("refused_connections", "store_refused", "store_overdue")
    sought, lived = ([row for row in samples if (row["phase"] == "capacity") == is_sought] for is_sought in (True, False))
    refused, before = ({name: sum(row[name] for row in rows) for name in names} for rows in (lived, sought))
    lines.append(Line(not any(refused.values()), "refused: " + counted(refused)))
    lines.append(Line(None, "refused while the capacity was looked for: " + counted(before)))
    return lines + [Line(None, f"counted by the server: {counted(grown)}; {about.get('reloads', 0)} reloads, {about.get('rotations', 0)} log files")]


def latency(slices, measured):
    mixes = [row for row in slices if row["profile"] == "mix" and row["phase"] == "measured" and row["p50_us"] != ""]
    if len(mixes) < 8:
        return [Line(None, f"latency: not judged: {len(mixes)} slices are too few")]
    lines = []
    for name in ("p50", "p99", "p999"):
        first, last = quarters(mixes, lambda row, name=name: row[f"{name}_us"], "began")
        is_well = last / first <= LATENCY_RATIO_MAX if name != "p999" else None
        lines.append(Line(is_well, f"latency {name}: {first / 1000:.2f} ms in the first quarter, {last / 1000:.2f} ms in the last: {last / first:.2f} times (at most {LATENCY_RATIO_MAX})"))
    told = []
    for name, title in (("load_1m", "load average"), ("machine_cpus", "processors busy"), ("server_waits", "of the server's threads waiting for a processor")):
        first, last = quarters(measured, lambda row, name=name: row[name])
        told.append(f"{title} {first:.2f} and {last:.2f}")
    return lines + [Line(None, f"the machine in these quarters: {', '.join(told)}")]


def log(directory, about):
    """Every line of the log that is a warning or an error, and every panic."""
    counts, unexpected, lines_read = {}, {}, 0
    for file in sorted((directory / "log").glob("server.log*")) + [directory / "log" / "stderr"]:
        if not file.exists():
            continue
        with open(file, errors="replace") as text:
            for line in text:
                lines_read += 1
                is_bad = re.match(r"\S+ (WARN|ERROR)\b", line)
                # Standard error has the same lines, and what panics say.
                if (is_bad and file.name == "stderr") or not (is_bad or re.search(r"panicked at|RUST_BACKTRACE", line)):
                    continue
                why = next((why for pattern, why in EXPECTED if is_bad and is_bad[1] == "WARN" and re.search(pattern, line)), None)
                told = counts if why else unexpected
                key = why or re.sub(r"\d+", "N", line.split(" ", 1)[-1].strip())[:200]
                told[key] = told.get(key, 0) + 1
    lines = [Line(not unexpected and lines_read > 0, f"log: {lines_read:,} lines, {sum(unexpected.values())} errors, panics and warnings that are not expected")]
    lines += [Line(False, f"log: {count} times: {text}") for text, count in list(unexpected.items())[:10]]
    lines += [Line(None, f"log: expected, {count:,} times: {why}") for why, count in counts.items()]
    if "exit_code" in about:
        lines.append(Line(about["exit_code"] == 0, f"the server ended with {about['exit_code']} (0)"))
    return lines


def slope(points):
    """The median of the slopes between all pairs (Theil, Sen): outliers do not turn it."""
    slopes = [(y - y0) / (x - x0) for place, (x0, y0) in enumerate(points) for x, y in points[place + 1 :] if x > x0]
    return statistics.median(slopes)


def quarter(rows, which, time="seconds"):
    """The rows of the first (0) or last (3) quarter of the time."""
    begin, length = rows[0][time], (rows[-1][time] - rows[0][time]) / 4
    return [row for row in rows if begin + which * length <= row[time] <= begin + (which + 1) * length]


def quarters(rows, value, time="seconds"):
    """Medians of the first quarter and of the last."""
    return tuple(statistics.median(map(value, quarter(rows, which, time))) for which in (0, 3))


def counted(numbers):
    return ", ".join(f"{value:,.0f} {name.replace('_', ' ')}" for name, value in numbers.items())


def megabytes(count):
    return f"{count / 1e6:,.1f} MB"
