"""Medians and ratios, a table in Markdown, a plot in SVG."""

import html
import statistics

from .peers import peers as all_peers
from .workloads import title, why_not

# Others may take this much of the CPUs before a run is marked.
DISTURBED = 0.05
BEGIN, END = "<!-- begin of the measured part: --write-docs -->", "<!-- end of the measured part -->"
BAR, GAP, LABEL, WIDTH = 16, 6, 110, 420


class Results:
    """What was measured: runs by workload and peer, and why some have none."""

    def __init__(self, workloads, peers, loads, is_quick=False):
        self.workloads, self.peers = workloads, peers
        self.loads = loads
        """What makes the load of each workload, in words."""
        self.titles = {workload.name: title(workload, is_quick) for workload in workloads}
        self.runs = {}
        self.failures = {}
        self.versions = {}

    def add(self, workload, peer, figures):
        self.runs.setdefault((workload.name, peer.name), []).append(figures)

    def fail(self, workload, peer, why):
        self.failures[workload.name, peer.name] = str(why)

    def of(self, workload, peer):
        return self.runs.get((workload.name, peer.name), [])

    def median(self, workload, peer, figure=None):
        values = self.values(workload, peer, figure)
        return statistics.median(values) if values else None

    def values(self, workload, peer, figure=None):
        values = (run.get(figure or workload.figure) for run in self.of(workload, peer))
        return [value for value in values if value is not None]

    def marks(self, workload, peer):
        """What is wrong with its runs; nothing for nothing."""
        runs = self.of(workload, peer)
        marks = []
        for key, what in (("is_audit_failed", "AUDIT FAILED"), ("is_generator_bound", "generator-bound")):
            count = sum(bool(run.get(key)) for run in runs)
            if count:
                marks.append(what if count == len(runs) else f"{what} in {count} of {len(runs)}")
        reasons = [reason for run in runs for reason in run.get("reasons", [])]
        if reasons:
            marks.append(reasons[0])
        disturbed = [run["others_share"] for run in runs if run.get("others_share", 0) > DISTURBED]
        if disturbed:
            marks.append(f"disturbed in {len(disturbed)} of {len(runs)}: others took up to {max(disturbed):.0%} of the CPUs")
        values = self.values(workload, peer)
        if runs and not values:
            marks.append("the generator gave no such figure")
        if (workload.name, peer.name) in self.failures:
            marks.append(self.failures[workload.name, peer.name])
        elif not runs:
            marks.append("not measured: interrupted before its turn")
        return "; ".join(marks)

    def rows(self, workload):
        """(peer, why there is no figure): who is asked this at all."""
        rows = ((peer, why_not(workload, peer)) for peer in self.peers)
        return [(peer, why) for peer, why in rows if why != ""]


def table(results, about):
    return "# starling and its peers\n\n" + body(results, about)


def body(results, about, heading="##"):
    """All but the title."""
    lines = [f"- {name}: {value}" for name, value in about.items()]
    lines += ["", "Medians of the rounds, with the least and the most. \"to the floor\" and \"to starling\" are this row's figure divided by that one's. A row marked"
              " AUDIT FAILED or generator-bound is no result.", ""]
    for workload in results.workloads:
        lines += workload_table(results, workload, heading)
    lines += ["| peer | version | what it is |", "|---|---|---|"]
    lines += [f"| {peer.name} | {results.versions.get(peer.name, '-')} | {peer.what} |" for peer in results.peers]
    return "\n".join(lines) + "\n"


def workload_table(results, workload, heading="##"):
    lines = [f"{heading} {results.titles[workload.name]}", "", f"As run: `{results.loads[workload.name]}`", ""]
    better = "higher" if workload.higher_is_better else "lower"
    lines += [f"| peer | {workload.unit} ({better} is better) | least to most | to the floor | to starling | p50 | p99 | CPU (user + system) | deliveries a read | runs | remarks |",
              "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|"]
    by_name = {peer.name: peer for peer in all_peers()}
    bases = [results.median(workload, by_name[name]) for name in ("floor", "starling")]
    for peer, why in results.rows(workload):
        value, values = results.median(workload, peer), results.values(workload, peer)
        cells = [peer.name, number(value), f"{number(min(values))} to {number(max(values))}" if values else "-"]
        cells += [f"{value / base:.2f}" if value is not None and base else "-" for base in bases]
        cells += [microseconds(results.median(workload, peer, figure)) for figure in ("p50_us", "p99_us")]
        cells += [cpu(results, workload, peer), number(results.median(workload, peer, "deliveries_per_read")), str(len(results.of(workload, peer))), cell(why or results.marks(workload, peer))]
        lines.append("| " + " | ".join(cells) + " |")
    return lines + [""]


def written_into(document, measured):
    """The document with its measured part exchanged."""
    before, _, rest = document.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the document has no part between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{measured}\n{END}{after}"


def cpu(results, workload, peer):
    """What a delivery cost, and how much of it was the server's own (the rest is the kernel's)."""
    user, system = (results.median(workload, peer, figure) for figure in ("cpu_user_s", "cpu_system_s"))
    each = results.median(workload, peer, "cpu_us_per_delivery")
    if None in (user, system, each) or user + system == 0:
        return "-"
    return f"{each * user / (user + system):.2f} + {each * system / (user + system):.2f} µs"


def number(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def microseconds(value):
    if value is None:
        return "-"
    return f"{value / 1000:,.1f} ms" if value >= 1000 else f"{value:.0f} µs"


def cell(text):
    return text.replace("|", "/").replace("\n", " ")


def plot(results, about):
    """A panel a workload: a bar a peer, with the least and the most; grey where the run is no result."""
    parts, y = [], 30
    for workload in results.workloads:
        panel, y = plot_panel(results, workload, y)
        parts += panel
    title = html.escape(", ".join(f"{name} {value}" for name, value in about.items() if name in ("date", "processor", "kernel")))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABEL + WIDTH + 130}" height="{y}" font-family="sans-serif" font-size="11">'
            f'<rect width="100%" height="100%" fill="white"/><text x="10" y="16" fill="#666">{title}</text>{"".join(parts)}</svg>\n')


def plot_panel(results, workload, y):
    better = "higher" if workload.higher_is_better else "lower"
    parts = [f'<text x="10" y="{y + 14}" font-weight="bold">{html.escape(results.titles[workload.name])}: {html.escape(workload.unit)} ({better} is better)</text>']
    y += 24
    rows = [(peer, results.median(workload, peer), results.values(workload, peer)) for peer, _ in results.rows(workload)]
    most = max((max(values) for _, _, values in rows if values), default=0) or 1
    for peer, value, values in rows:
        middle = y + BAR / 2
        parts.append(f'<text x="{LABEL - 6}" y="{middle + 4}" text-anchor="end">{html.escape(peer.name)}</text>')
        marks = results.marks(workload, peer)
        if value is None:
            parts.append(f'<text x="{LABEL + 4}" y="{middle + 4}" fill="#999">no figure</text>')
        else:
            colour = "#bbb" if marks else "#d9480f" if peer.name.startswith("starling") else "#868e96" if peer.name.startswith("floor") else "#4c6ef5"
            low, high, end = (LABEL + amount / most * WIDTH for amount in (min(values), max(values), value))
            parts.append(f'<rect x="{LABEL}" y="{y}" width="{end - LABEL:.1f}" height="{BAR}" fill="{colour}"/>')
            parts.append(f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {y + 4}v8M{high:.1f} {y + 4}v8" stroke="black"/>')
            parts.append(f'<text x="{max(end, high) + 5:.1f}" y="{middle + 4}">{number(value)}{" !" if marks else ""}</text>')
        y += BAR + GAP
    return parts, y + 14
