"""The page in a real browser: no console error, nothing leaves it, every picture has a size, no sideways scrolling."""

from __future__ import annotations

import base64
import struct

import pytest

from selfmask.reports.neighbours import strips
from selfmask.reports.page import Material, build_report
from selfmask.reports.reading import read_run
from selfmask.reports.similarity import OffBits, similarity

pytestmark = pytest.mark.slow

BAD = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Network.loadingFailed")
PICTURES = """[...document.querySelectorAll('img, svg')].filter(e => e.getClientRects().length).map(e => {
  const box = e.getBoundingClientRect();
  return [box.width, box.height, e.tagName === 'IMG' ? e.naturalWidth : 1] })"""
# Long tables scroll inside a frame of their own; nothing else may be wider than the window.
WIDEST = """Math.max(...[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll > *')).map(
  e => e.getBoundingClientRect().right))"""


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_in_chromium(tiny_run, browser, width: int, dark: bool) -> None:
    seen = tiny_run.seen()
    theta = dict(tiny_run.backbone.module.named_parameters())
    alike = similarity(
        [OffBits.of(tiny_run.masks), OffBits.of({n: m.flip(0) for n, m in tiny_run.masks.items()})], "ab"
    )
    material = Material(
        masks=tiny_run.masks, theta=theta, seen=seen, strips=strips(seen), members=alike, notes=["a note"]
    )
    path = tiny_run.path / "report.html"
    build_report(read_run(tiny_run.path), material).save(path)
    browser.open(path, width, dark=dark)
    assert [event for event in browser.events if event.get("method") in BAD] == []
    requests = [
        e["params"]["request"]["url"]
        for e in browser.events
        if e.get("method") == "Network.requestWillBeSent"
    ]
    assert [url for url in requests if not url.startswith("data:")] == [path.resolve().as_uri()]
    pictures = browser.evaluate(PICTURES)
    assert len(pictures) > 60
    assert all(w > 8 and h > 8 and natural > 0 for w, h, natural in pictures)
    assert browser.evaluate(WIDEST) <= width
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    channels = [int(part) for part in ground.removeprefix("rgb(").removesuffix(")").split(",")]
    assert (max(channels) < 60) is dark
    shot = base64.b64decode(browser.screenshot())
    across, down = struct.unpack(">II", shot[16:24])
    assert across == width
    assert down > 2000
