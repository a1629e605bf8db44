"""What pages of docs/ name, and whether it is there: functions and tests as `file::function`, and other files as links."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]


class Page:
    def __init__(self, name):
        self.text = (ROOT / "docs" / name).read_text()

    def functions(self):
        """The functions that are named, each of which must be where the page says."""
        named = re.findall(r"`((?:src|client|tests|scripts|benches)/[\w./-]+)::(\w+)`", self.text)
        for file, name in named:
            text = (ROOT / file).read_text()
            assert re.search(rf"\b(fn|def) {name}\b", text), f"there is no {name} in {file}"
        return named

    def check_links(self):
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", self.text):
            assert (ROOT / "docs" / link).exists(), link

    def sections(self):
        """What stands below each heading, by the heading."""
        parts = re.split(r"^## (.+)$", self.text, flags=re.MULTILINE)[1:]
        return dict(zip(parts[::2], parts[1::2]))


def rows(section):
    """The cells of a section's tables, row by row, without the heads."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    heads = [number - 1 for number, row in enumerate(cells) if set("".join(row)) <= set("-:")]
    return [row for number, row in enumerate(cells) if number not in heads and number - 1 not in heads]
