"""The site: it builds without a warning, asks no other host for anything, and its pages open without an error."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "index.html",
    "tutorials/first-mask.html",
    "reference/cli.html",
    "reference/api.html",
    "method.html",
    "results.html",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it."""
    where = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(where)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
    built = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return where


class _Loads(HTMLParser):
    """What a page loads by itself; a link to click on is none of it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") == "canonical":
            return
        if tag in ("script", "link", "img", "iframe", "source", "video"):
            self.found += [address for name in ("src", "href") if (address := given.get(name))]


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        seen = _Loads()
        seen.feed(page.read_text(encoding="utf-8"))
        assert seen.found
        assert not [address for address in seen.found if "//" in address], page


@pytest.mark.slow
def test_references_name_every_command_and_public_name(site: Path) -> None:
    import selfmask
    from selfmask.cli import COMMANDS

    commands = (site / "reference/cli.html").read_text(encoding="utf-8")
    assert not [name for name in COMMANDS if f"selfmask {name}" not in commands]
    names = (site / "reference/api.html").read_text(encoding="utf-8")
    heads = set(re.findall(r'<h2[^>]* id="[^"]*?([A-Za-z_]+)"', names))
    assert not [name for name in selfmask.__all__ if name not in heads and f"selfmask{name}" not in heads]


@pytest.mark.slow
def test_examples_in_docstrings_are_code(site: Path) -> None:
    page = (site / "reference/api.html").read_text(encoding="utf-8")
    assert "<blockquote>" not in page
    assert page.count('<span class="gp">&gt;&gt;&gt; ') > 30


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1400])
def test_opens_from_the_disk(site: Path, browser: Any, width: int) -> None:
    for name in PAGES:
        browser.open(site / name, width)
        asked = [
            e["params"]["request"]["url"]
            for e in browser.events
            if e.get("method") == "Network.requestWillBeSent"
        ]
        assert not [address for address in asked if address.startswith(("http:", "https:"))]
        errors = [e for e in browser.events if e.get("method") == "Log.entryAdded"
                  and e["params"]["entry"]["level"] == "error"]  # fmt: skip
        assert not errors
        assert not [e for e in browser.events if e.get("method") == "Runtime.exceptionThrown"]
        assert browser.evaluate("document.documentElement.scrollWidth") <= width, name


def test_every_section_of_the_paper_that_is_cited_is_there() -> None:
    method = (ROOT / "docs/method.md").read_text(encoding="utf-8")
    cited = {
        number
        for path in (ROOT / "src").rglob("*.py")
        for number in re.findall(r"PAPER §([0-9.]*[0-9])", path.read_text(encoding="utf-8"))
    }
    assert cited
    assert not [number for number in cited if f"§{number}" not in method]
    equations = {"Main Eq. 1", "Main Eq. 2", "Main Eq. 9"}
    assert not [equation for equation in equations if equation not in method]


@pytest.mark.slow
def test_the_examples_stand_in_the_tutorials(site: Path) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (site / "tutorials").glob("*.html"))
    # The highlighter puts its own marks between the words.
    said = re.sub(r"<[^>]+>", "", pages)
    for script in (ROOT / "examples").glob("*.py"):
        assert script.read_text(encoding="utf-8").splitlines()[0].strip('"') in said, script.name
    assert "--8" not in said


@pytest.mark.slow
@pytest.mark.parametrize(("dark", "scheme"), [(False, "default"), (True, "slate")])
def test_is_dark_where_the_system_is(site: Path, browser: Any, dark: bool, scheme: str) -> None:
    browser.open(site / "howto/bytes.html", 1400, dark=dark)
    assert browser.evaluate("document.body.dataset.mdColorScheme") == scheme


@pytest.mark.slow
def test_what_scrolls_can_be_reached_by_the_keyboard(site: Path, browser: Any) -> None:
    browser.open(site / "howto/bytes.html", 400)
    assert browser.evaluate("[...document.querySelectorAll('pre > code')].every(one => one.tabIndex === 0)")


@pytest.mark.slow
def test_no_heading_of_a_table_says_nothing(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not re.search(r"<th[^>]*></th>", page.read_text(encoding="utf-8")), page
