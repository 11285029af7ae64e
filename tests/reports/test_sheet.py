"""The contact sheet: what it shows, what it says where a picture is not there, and how it looks in a browser."""

from __future__ import annotations

import base64
import re
import struct
from pathlib import Path

import pytest
from PIL import Image

from selfmask.embeddings.search import Hit
from selfmask.images.sources import Content
from selfmask.reports.sheet import MOST_QUERIES, Answer, contact_sheet

EVIL = '<img src=x onerror=alert(1)>" \x1b[31m\u202e.png'


def pictures(folder: Path, names: list[str]) -> dict[str, Content]:
    found: dict[str, Content] = {}
    for number, name in enumerate(names):
        found[name] = folder / f"{number}.png"
        Image.new("RGB", (90, 60), (40 * number % 256, 99, 120)).save(folder / f"{number}.png")
    return found


def test_names_are_shown_and_absent_pictures_said(tmp_path: Path) -> None:
    images = pictures(tmp_path, ["a.png", EVIL])
    (tmp_path / "0.png").write_bytes(b"no picture any more")
    answers = [Answer(EVIL, (Hit("a.png", 0.98765), Hit("gone & away.png", -0.25), Hit(EVIL, 0.1)))]
    page = contact_sheet(answers, images, images, searched=12345, network="mask m")
    assert "<img src=x" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert r"&lt;img src=x onerror=alert(1)&gt;&#34; \x1b[31m\u202e.png" in page
    assert "gone &amp; away.png" in page
    assert re.findall(r"<b>(.*?)</b>", page) == ["0.988", "-0.250", "0.100"]
    assert "2 images are not where they were" in page
    assert page.count('src="data:image/') == 2
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_no_more_queries_than_a_page_can_bear(tmp_path: Path) -> None:
    answers = [Answer(f"q{number}", (Hit("a", 1.0),)) for number in range(MOST_QUERIES + 1)]
    page = contact_sheet(answers, {}, {}, searched=1, network="mask m")
    assert page.count("<section") == MOST_QUERIES
    assert f"The first {MOST_QUERIES} of 101 queries are shown." in page


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1400])
def test_the_sheet_in_chromium(tmp_path: Path, browser, width: int) -> None:
    names = [f"{'folder/' * 4}{'x' * 60}{number}.png" for number in range(12)]
    images = pictures(tmp_path, [EVIL, *names])
    answers = [
        Answer(EVIL, tuple(Hit(name, 0.5) for name in names)),
        Answer(names[0], (Hit("gone.png", 0.1),)),
    ]
    path = tmp_path / "sheet.html"
    path.write_text(contact_sheet(answers, images, images, searched=13, network="mask m", notes=["a note"]))
    browser.open(path, width)
    assert not [e for e in browser.events if e.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")]
    requests = [e for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    asked = [e["params"]["request"]["url"] for e in requests]
    assert [url for url in asked if not url.startswith("data:")] == [path.resolve().as_uri()]
    sizes = browser.evaluate("[...document.images].map(e => [e.clientWidth, e.clientHeight, e.naturalWidth])")
    assert len(sizes) == 14
    assert all(60 < w <= 96 and w == h and natural for w, h, natural in sizes)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    shot = base64.b64decode(browser.screenshot())
    assert struct.unpack(">II", shot[16:24])[0] == width
