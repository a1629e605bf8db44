"""The picture of a run: panels over one axis of time, with what happened when."""

import html
import json
import math
import pathlib

from .samples import read_table

# Points of a line: of more, the highest of each few is drawn.
POINTS_MAX = 400
LEFT, WIDTH, RIGHT, GAP = 70, 800, 240, 34
COLOURS = ["#d9480f", "#1c7ed6", "#2b8a3e", "#862e9c", "#f08c00", "#495057"]


class Panel:
    """One pair of axes. Lines are (name, colour, points); points are (seconds, value)."""

    def __init__(self, title, unit, lines, height=130, is_log=False, is_dotted=False):
        self.title, self.unit, self.lines, self.height, self.is_log, self.is_dotted = title, unit, lines, height, is_log, is_dotted


def plot(directory):
    """The SVG's text."""
    directory = pathlib.Path(directory)
    about = json.loads((directory / "about.json").read_text()) if (directory / "about.json").exists() else {}
    samples, slices = read_table(directory / "samples.csv"), read_table(directory / "slices.csv")
    events = read_table(directory / "events.csv") if (directory / "events.csv").exists() else []
    end = max([row["seconds"] for row in samples] + [row["ended"] for row in slices] + [1])
    parts, y = [], 46
    for panel in panels(samples, slices):
        piece, y = drawn(panel, y, end, about)
        parts += piece
    events += [{"seconds": row["seconds"], "event": "slow", "count": row["slow_consumers"]} for row in samples if row["slow_consumers"] > 0]
    piece, y = strip(events, y - 8, end)
    parts += piece
    title = f"{about.get('command', '')}: {about.get('rate', 0):,.0f} messages/s into {about.get('store', '?')}, {str(about.get('began', ''))[:10]}, {about.get('machine', '')}"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" height="{y}" font-family="sans-serif" font-size="11">'
            f'<rect width="100%" height="100%" fill="white"/><text x="10" y="16" fill="#666">{html.escape(title)}</text>'
            f'{"".join(parts)}</svg>\n')


def panels(samples, slices):
    samples = [row for row in samples if row["phase"] != "start"]

    def of(name, factor=1.0):
        return [(row["seconds"], row[name] * factor) for row in samples]

    def added(*names):
        return [(row["seconds"], sum(row[name] for name in names) / 1e6) for row in samples]

    mixes = [row for row in slices if row["profile"] == "mix" and row["p50_us"] != ""]
    lines = {"memory": [("resident", of("rss_bytes", 1e-6)), ("proportional", of("pss_bytes", 1e-6)), ("histories", of("histories_bytes", 1e-6)),
                        ("journals", of("journals_bytes", 1e-6)), ("tables of connections, sessions", added("connections_bytes", "sessions_bytes")),
                        ("send queues, input", added("send_queues_bytes", "input_bytes"))],
             "latency": [(f"{name}", [((row["began"] + row["ended"]) / 2, row[f"{column}_us"] / 1000) for row in mixes])
                         for name, column in (("p50", "p50"), ("p99", "p99"), ("p99.9", "p999"), ("p99 of the load's own delay", "late_p99"))],
             "rates": [("messages", of("messages_per_s")), ("deliveries", of("deliveries_per_s"))],
             "tables": [(name.replace("_", " "), of(name)) for name in ("connections", "sessions", "rooms", "timers", "open_files", "away")],
             "load": [("load average (1 min)", of("load_1m"))],
             "machine": [("busy, all programs together", of("machine_cpus")), ("the server", of("server_cpus")),
                         ("the server's threads wait for one", of("server_waits")), ("stolen by the hypervisor", of("steal_cpus"))],
             "disk": [("the store's files", of("disk_bytes", 1e-6))]}
    coloured = {panel: [(name, COLOURS[place], points) for place, (name, points) in enumerate(of)] for panel, of in lines.items()}
    return [Panel("Memory", "MB", coloured["memory"], 190), Panel("From due to heard, a slice of the mix each", "ms", coloured["latency"], 150, is_log=True, is_dotted=True),
            Panel("Messages and deliveries", "a second", coloured["rates"], 110, is_log=True), Panel("How many there are", "", coloured["tables"], 150),
            Panel("The machine, and what others do on it", "processors", coloured["machine"], 120),
            Panel("Programs that want a processor", "", coloured["load"], 70), Panel("On the disk", "MB", coloured["disk"], 80)]


def drawn(panel, y, end, about):
    """A panel's parts, and where the next one begins."""
    top, bottom = y + 8, y + 8 + panel.height
    values = [value for _, _, points in panel.lines for _, value in points if value > 0 or not panel.is_log]
    most = max(values, default=1) or 1
    least = min(values, default=1) if panel.is_log else 0
    if panel.is_log:
        low, high = math.floor(math.log10(least or 1)), math.ceil(math.log10(most))
        high = max(high, low + 1)
        marks = [10.0**power for power in range(low, high + 1)]
    else:
        step = round_up(most / 4)
        marks = [step * count for count in range(math.ceil(most / step) + 1)]
        low, high = 0, marks[-1]

    def place(value):
        share = (math.log10(max(value, 10.0**low)) - low) / (high - low) if panel.is_log else value / high
        return bottom - share * panel.height

    parts = [f'<text x="{LEFT}" y="{y}" font-weight="bold">{html.escape(panel.title)}</text>']
    if "warm-up_from" in about:
        first = across(about["warm-up_from"], end)
        last = across(about.get("measured_from", end), end)
        parts.append(f'<rect x="{LEFT}" y="{top}" width="{first - LEFT:.1f}" height="{panel.height}" fill="#e9ecef"/>')
        parts.append(f'<rect x="{first:.1f}" y="{top}" width="{last - first:.1f}" height="{panel.height}" fill="#f8f1e5"/>')
        if y < 60:
            parts.append(f'<text x="{(first + last) / 2:.1f}" y="{top + 12}" text-anchor="middle" fill="#997">warm-up</text>')
    for mark in marks:
        parts.append(f'<path d="M{LEFT} {place(mark):.1f}h{WIDTH}" stroke="#ddd"/><text x="{LEFT - 5}" y="{place(mark) + 4:.1f}" text-anchor="end">{shown(mark)}</text>')
    if panel.unit:
        parts.append(f'<text transform="translate(14 {(top + bottom) / 2:.0f}) rotate(-90)" text-anchor="middle" fill="#666">{html.escape(panel.unit)}</text>')
    parts.append(f'<path d="M{LEFT} {top}V{bottom}h{WIDTH}" stroke="#868e96" fill="none"/>')
    for minute in minutes(end):
        x = across(minute * 60, end)
        parts.append(f'<path d="M{x:.1f} {bottom}v4" stroke="#868e96"/><text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{shown(minute)}</text>')
    for number, (name, colour, points) in enumerate(panel.lines):
        if points:
            points = thinned(points if not panel.is_log else [(x, value) for x, value in points if value > 0])
            path = "M" + "L".join(f"{across(x, end):.1f} {place(value):.1f}" for x, value in points)
            parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.1"/>')
            if panel.is_dotted:
                parts += [f'<circle cx="{across(x, end):.1f}" cy="{place(value):.1f}" r="1.6" fill="{colour}"/>' for x, value in points]
        key = top + 8 + number * 15
        parts.append(f'<path d="M{LEFT + WIDTH + 8} {key}h12" stroke="{colour}" stroke-width="2"/><text x="{LEFT + WIDTH + 24}" y="{key + 4}">{html.escape(name)}</text>')
    return parts, bottom + GAP


def strip(events, y, end):
    """What happened when: a row of marks each."""
    rows = [("reloads", "reload", "#1c7ed6"), ("new log files", "rotated", "#868e96"), ("slow consumers closed", "slow", "#f08c00"), ("failed", "failed", "#e03131"), ("wrong answers", "wrong", "#e03131")]
    parts = []
    for title, event, colour in rows:
        found = [row["seconds"] for row in events if row["event"] == event]
        parts.append(f'<path d="M{LEFT} {y + 10}h{WIDTH}" stroke="#eee"/>')
        parts += [f'<path d="M{across(x, end):.1f} {y + 4}v10" stroke="{colour}"/>' for x in found]
        parts.append(f'<text x="{LEFT + WIDTH + 24}" y="{y + 14}">{title} ({sum(row.get("count", 1) for row in events if row["event"] == event):,.0f})</text>')
        y += 17
    parts.append(f'<text x="{LEFT + WIDTH / 2}" y="{y + 14}" text-anchor="middle" fill="#666">minutes</text>')
    return parts, y + 24


def thinned(points):
    few = -(-len(points) // POINTS_MAX) or 1
    return [max(points[place : place + few], key=lambda point: point[1]) for place in range(0, len(points), few)]


def across(seconds, end):
    return LEFT + seconds / end * WIDTH


def minutes(end):
    step = next(step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, math.inf) if end / 60 / step <= 14)
    return [round(step * count, 1) for count in range(int(end / 60 / step) + 1)] if step != math.inf else []


def round_up(value):
    """The next of 1, 2, 5, 10 and so on."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value * 0.999)


def shown(value):
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"

