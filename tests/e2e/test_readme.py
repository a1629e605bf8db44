"""The READMEs: what the Chinese one shows stands in the English one as well, and all that they link to is there."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGES = ["README.md", "README.zh-CN.md", "examples/README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))]


def test_what_the_chinese_page_shows_is_what_the_english_one_shows():
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh-CN.md"))
    blocks = re.findall(r"^```\w+\n.*?^```$", chinese, re.DOTALL | re.MULTILINE)
    assert len(blocks) > 10
    for block in blocks:
        assert block in english, f"the English page has no such block:\n{block}"


def anchors(page):
    """The names that headings have on pages that show Markdown."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_what_is_linked_to_is_there(name):
    page = ROOT / name
    for link in re.findall(r"(?<!!)\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name} links to {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{name} links to {link}"
