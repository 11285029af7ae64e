"""The page in a real browser: an image is dropped, a specialist chosen, and what both networks see is shown."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from selfmask.backbones.backbone import Backbone

pytestmark = pytest.mark.slow

BAD = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Network.loadingFailed")
WIDEST = "Math.max(...[...document.querySelectorAll('body *')].map(e => e.getBoundingClientRect().right))"
DROP = """(() => {
  const bytes = Uint8Array.from(atob('%s'), c => c.charCodeAt(0)), data = new DataTransfer();
  data.items.add(new File([bytes], '%s', {type: 'image/png'}));
  const drop = new DragEvent('drop', {bubbles: true, cancelable: true, dataTransfer: data});
  document.getElementById('drop').dispatchEvent(drop);
  return 1 })()"""
CHOOSE = """(() => { const s = document.getElementById('mask'); s.value = '%s';
  s.dispatchEvent(new Event('change')); return 1 })()"""


def wait(browser: Any, condition: str) -> None:
    """Until a JavaScript expression is true."""
    deadline = time.monotonic() + 20
    while not browser.evaluate(condition):
        assert time.monotonic() < deadline, (condition, browser.evaluate("document.body.innerText"))
        time.sleep(0.02)


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_in_chromium(
    serving: Callable[..., Any], picture: Callable[..., bytes], browser: Any, width: int, tmp_path: Path,
    embedded: Callable[..., Path], masks: Path, backbone: Backbone,
) -> None:  # fmt: skip
    image = picture(3, 40)
    photos = tmp_path / "photos"
    photos.mkdir()
    for k in range(6):
        (photos / f"<i>{k}.png").write_bytes(picture(k, 40))
    gallery = (
        embedded(backbone, masks / "b.mask.safetensors", photos, tmp_path / "b.parquet"),
        embedded(backbone, None, photos, tmp_path / "base.parquet"),
    )
    with serving(gallery=gallery) as running:
        browser.open(f"{running.live.address}/", width)
        wait(browser, "document.getElementById('mask').options.length === 3")
        browser.evaluate(DROP % (base64.b64encode(image).decode(), "one.png"))
        browser.evaluate(CHOOSE % "b")
        wait(browser, "!document.getElementById('labels').hidden")
        wait(browser, "document.getElementById('status').textContent === ''")
        for place in ("near-ours", "near-base"):
            found = browser.evaluate(
                f"[...document.querySelectorAll('#{place} li span')].map(e => e.textContent)"
            )
            assert found[0] == "<i>3.png"
            assert len(found) == 6
        labels = browser.evaluate("[...document.querySelectorAll('#bars li span')].map(e => e.textContent)")
        expected = running.bank.predict([image], "b")[0]
        assert labels[0].startswith(expected.label[:3])
        assert sorted(labels) == sorted(["cat", "<b>dog</b>", "fish\\u202e\\x1b[31m"])
        assert browser.evaluate("document.querySelectorAll('#bars b b').length") == 0
        x = running.bank.embed([image, image], ["b", None])
        alike = float(F.cosine_similarity(x[:1], x[1:])[0])
        said = browser.evaluate("document.getElementById('alike').textContent")
        assert float(said.split()[-1].rstrip(".")) == pytest.approx(alike, abs=0.001)
        assert not torch.allclose(x[0], x[1])
        if folder := os.environ.get("SELFMASK_SHOTS"):
            (Path(folder) / f"serve-{width}.png").write_bytes(base64.b64decode(browser.screenshot()))
        browser.evaluate(CHOOSE % "a")  # brings no head: no labels
        wait(browser, "document.getElementById('labels').hidden && !document.getElementById('seen').hidden")
        assert browser.evaluate("document.getElementById('near').hidden")
        assert [event for event in browser.events if event.get("method") in BAD] == []
        asked = [
            event["params"]["request"]["url"]
            for event in browser.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        own = (running.live.address, "data:", f"blob:{running.live.address}")
        assert [url for url in asked if not url.startswith(own)] == []
        assert browser.evaluate(WIDEST) <= width
        browser.evaluate(DROP % (base64.b64encode(b"no image").decode(), "bad.png"))
        wait(browser, "document.getElementById('status').textContent.includes('not an image')")
        assert browser.evaluate("document.getElementById('seen').hidden")
