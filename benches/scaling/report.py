"""Medians, tables in Markdown, plots in SVG."""

import html
import math
import statistics

from compare.report import DISTURBED, cell, number

from . import loads

SECTIONS = {
    "cores": "CPU a delivery by cores",
    "connections": "What a connection costs, by how many there are",
    "rooms": "What a room costs, by how many there are",
    "heartbeats": "Idle connections and their heartbeats",
}
MILLION = 1_000_000
COLOURS = ("#d9480f", "#4c6ef5", "#2b8a3e", "#862e9c")
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 560, 190, 76, 26, 30, 40


class Results:
    """What was measured, by load and size, and why some of it was not."""

    def __init__(self, all_loads, sizes):
        self.loads = all_loads
        self.sizes = sizes
        """Load's name -> its sizes."""
        self.runs = {}
        self.failures = {}

    def add(self, load, size, figures):
        self.runs.setdefault((load.name, size), []).append(figures)

    def fail(self, load, size, why):
        self.failures[load.name, size] = str(why)

    def values(self, load, size, figure):
        values = (run.get(figure) for run in self.runs.get((load.name, size), []))
        return [value for value in values if value is not None]

    def median(self, load, size, figure):
        values = self.values(load, size, figure)
        return statistics.median(values) if values else None

    def ratio(self, load, size, figure):
        """This size's median by that of the smallest one."""
        first, this = self.median(load, self.sizes[load.name][0], figure), self.median(load, size, figure)
        return this / first if first and this is not None else None

    def marks(self, load, size):
        """What is to be known of a row; nothing for nothing."""
        runs = self.runs.get((load.name, size), [])
        marks = []
        for key, what in (("is_audit_failed", "AUDIT FAILED"), ("is_generator_bound", "generator-bound")):
            count = sum(bool(run.get(key)) for run in runs)
            if count:
                marks.append(f"{what} in {count} of {len(runs)}")
        reasons = [reason for run in runs for reason in run.get("reasons", [])]
        marks += reasons[:1]
        disturbed = [run["others_share"] for run in runs if run["others_share"] > DISTURBED]
        if disturbed:
            marks.append(f"disturbed in {len(disturbed)} of {len(runs)}: others took up to {max(disturbed):.0%} of the CPUs")
        if (load.name, size) in self.failures:
            marks.append(self.failures[load.name, size])
        elif not runs:
            marks.append("not measured: interrupted before its turn")
        return "; ".join(marks)


def table(results, about, server_cpus, heading="#"):
    """All of it. `heading` is what a section's title begins with."""
    lines = [f"- {name}: {value}" for name, value in about.items()] + [""]
    for section, title in SECTIONS.items():
        of_section = [load for load in results.loads if load.section == section]
        if not of_section:
            continue
        lines += [f"{heading} {title}", ""]
        for load in of_section:
            lines += load_table(results, load, server_cpus)
        if section == "heartbeats":
            lines += million(results)
    return "\n".join(lines) + "\n"


def load_table(results, load, server_cpus):
    heads = [load.variable]
    for column in load.columns:
        heads += [column.title] + ([] if column.is_counted else ["least to most"]) + (["to the first"] if column.is_compared else [])
    lines = [f"**{load.title}.** {load.note}".rstrip(), "", "| " + " | ".join([*heads, "runs", "remarks"]) + " |",
             "|" + "--:|" * (len(heads) + 1) + "---|"]
    for size in results.sizes[load.name]:
        cells = [f"{size:,}"]
        for column in load.columns:
            values = results.values(load, size, column.figure)
            cells.append(number(results.median(load, size, column.figure)))
            if not column.is_counted:
                cells.append(f"{number(min(values))} to {number(max(values))}" if values else "-")
            if column.is_compared:
                ratio = results.ratio(load, size, column.figure)
                cells.append("-" if ratio is None else f"{ratio:.2f}")
        remarks = [oversubscribed(size, server_cpus)] if load.section == "cores" else []
        remarks = "; ".join(remark for remark in (*remarks, results.marks(load, size)) if remark)
        lines.append("| " + " | ".join([*cells, str(len(results.runs.get((load.name, size), []))), cell(remarks)]) + " |")
    return lines + [""]


def oversubscribed(cores, server_cpus):
    """Cores that share processors take turns: what that costs is in their figures."""
    return f"oversubscribed: {cores} cores on {server_cpus} CPU{'s' if server_cpus > 1 else ''}" if cores > server_cpus else ""


def million(results):
    """What the heartbeats of a million connections would take, of the largest number measured."""
    load = next((load for load in results.loads if load.name == "heartbeats"), None)
    measured = load and [size for size in results.sizes[load.name] if results.median(load, size, "cpu_us_per_heartbeat") is not None]
    if not measured:
        return []
    size = measured[-1]
    each, per_s = results.median(load, size, "cpu_us_per_heartbeat"), loads.heartbeats_per_s(MILLION, loads.PROBE_MS_DEFAULT)
    return [f"Computed, not measured: {MILLION:,} idle connections at the default interval of {loads.PROBE_MS_DEFAULT // 1000} s have {per_s:,.0f} heartbeats a second;"
            f" at {number(each)} µs each, as with {size:,} connections, that is {each * per_s / 1e6:.0%} of one CPU.", ""]


def plots(results, about):
    """Section -> its picture: a panel a figure, in it a line a load."""
    pictures = {}
    for section in SECTIONS:
        panels = {}
        for load in results.loads:
            for column in load.columns if load.section == section else ():
                # What has one unit shares a panel; but a saturated delivery is so much cheaper that it would lie on the axis.
                unit = column.title.split(",")[0]
                panels.setdefault((unit, load.name if section == "cores" else ""), []).append((load, column))
        parts, y = [], 24
        for (title, _), lines in panels.items():
            panel = plot_panel(results, title, lines, y)
            if panel:
                parts, y = parts + panel, y + TOP + HEIGHT + BOTTOM + 14 * len(lines)
        if parts:
            what = html.escape(", ".join(f"{name} {value}" for name, value in about.items() if name in ("date", "machine")))
            pictures[section] = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" height="{y}" font-family="sans-serif" font-size="11">'
                                 f'<rect width="100%" height="100%" fill="white"/><text x="10" y="16" fill="#666">{what}</text>{"".join(parts)}</svg>\n')
    return pictures


def plot_panel(results, title, lines, top):
    """Medians with the least and the most, over a logarithm of what grows; from 0, so that what looks flat is."""
    points = {}
    for load, column in lines:
        sizes = [size for size in results.sizes[load.name] if results.values(load, size, column.figure)]
        points[load.name, column.figure] = [(size, results.values(load, size, column.figure)) for size in sizes]
    sizes = sorted({size for of in points.values() for size, _ in of})
    if not sizes:
        return []
    most = max(value for of in points.values() for _, values in of for value in values) or 1
    low, high = math.log(sizes[0]), math.log(max(sizes[-1], sizes[0] * 2))
    base = top + TOP + HEIGHT

    def x(size):
        return LEFT + (math.log(size) - low) / (high - low) * WIDTH

    def y(value):
        return base - value / most * HEIGHT

    parts = [f'<text x="10" y="{top + 16}" font-weight="bold">{html.escape(title)}</text>',
             f'<path d="M{LEFT} {base}h{WIDTH}M{LEFT} {base}v{-HEIGHT}" stroke="#868e96" fill="none"/>']
    for part in (0, 0.5, 1):
        parts.append(f'<text x="{LEFT - 6}" y="{y(most * part) + 4:.1f}" text-anchor="end">{number(most * part) if part else "0"}</text>')
    parts += [f'<text x="{x(size):.1f}" y="{base + 14}" text-anchor="middle">{size:,}</text>' for size in sizes]
    parts.append(f'<text x="{LEFT + WIDTH}" y="{base + 28}" text-anchor="end" fill="#666">{html.escape(lines[0][0].variable)}</text>')
    for number_of_line, (load, column) in enumerate(lines):
        colour = COLOURS[number_of_line % len(COLOURS)]
        of = points[load.name, column.figure]
        route = " ".join(f"{x(size):.1f},{y(statistics.median(values)):.1f}" for size, values in of)
        parts.append(f'<polyline points="{route}" stroke="{colour}" stroke-width="2" fill="none"/>')
        for size, values in of:
            parts.append(f'<path d="M{x(size):.1f} {y(min(values)):.1f}V{y(max(values)):.1f}" stroke="{colour}"/>'
                         f'<circle cx="{x(size):.1f}" cy="{y(statistics.median(values)):.1f}" r="3" fill="{colour}"/>')
        names_same_load = sum(other is load for other, _ in lines) > 1
        name = column.title if names_same_load else load.title
        parts.append(f'<text x="{LEFT}" y="{base + 42 + 14 * number_of_line}" fill="{colour}">{html.escape(name)}</text>')
    return parts
