"""A run's folder in small, and a headless Chromium driven over a pipe (DevTools protocol) to open pages with."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from selfmask.backbones.from_module import from_module
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.features.rows import Outcome, Rows
from selfmask.images.image_set import ImageSet
from selfmask.maskfile.loading import load
from selfmask.maskfile.saving import save_mask
from selfmask.reports.before_after import BeforeAfter, look
from selfmask.run.result import Result, Seconds

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """One page at a time. Chromium reads commands from file descriptor 3 and answers on 4, each ended by a NUL."""

    def __init__(self, program: str, profile: Path) -> None:
        from_us, self._to = os.pipe()
        self._from, to_us = os.pipe()
        arguments = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        quiet = os.open(os.devnull, os.O_RDWR)
        self._process = os.posix_spawn(
            program, arguments, dict(os.environ),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, from_us, 3), (os.POSIX_SPAWN_DUP2, to_us, 4),
                (os.POSIX_SPAWN_DUP2, quiet, 1), (os.POSIX_SPAWN_DUP2, quiet, 2),
            ],
            setpgroup=0,
        )  # fmt: skip
        for descriptor in (from_us, to_us, quiet):
            os.close(descriptor)
        os.set_blocking(self._from, False)
        self._buffer, self._number, self.events = b"", 0, []
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and wait for its answer; events that come in between are kept in `events`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def open(self, page: Path, width: int, *, dark: bool = False) -> None:
        """Open `page` in a window `width` pixels wide and wait until it is loaded; `events` starts afresh."""
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        self.events = []
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, as JSON."""
        answer = self.call("Runtime.evaluate", expression=f"JSON.stringify({expression})")
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return json.loads(answer["result"]["value"])

    def screenshot(self) -> str:
        """The whole page as a PNG file, base64."""
        return self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]

    def close(self) -> None:
        """End the process group that was started here."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._to)
        os.close(self._from)

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while b"\0" not in self._buffer:
            try:
                chunk = os.read(self._from, 1 << 16)
                assert chunk, "the browser has closed its end"
                self._buffer += chunk
            except BlockingIOError:
                assert time.monotonic() < deadline, "the browser did not answer within a minute"
                time.sleep(0.01)
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs a Chromium on the path (Debian: apt-get install chromium)")
    found = Browser(program, tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


class TinyRun:
    """A run's folder as a training writes it, with a network of a few weights; parts can be left out."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(5)
        self.path = folder
        module = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 3))
        self.backbone = from_module(module, preprocessing=Preprocessing(size=16, crop=1.0))
        self.images = ImageSet.from_array(
            torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8),
            [i % 4 for i in range(40)],
            classes=["<b>ant</b>", "bee", "cat & dog", "elk"],
            name="tiny",
        )
        theta = {name: p.detach() for name, p in module.named_parameters() if p.ndim == 4}
        rest = {name: p.detach() for name, p in module.named_parameters() if p.ndim != 4}
        self.masks = {name: torch.rand(t.shape) < 0.9 for name, t in theta.items()}
        folder.mkdir()
        self.settings = {
            "data": "some/folder/tiny",
            "backbone": "timm:tiny",
            "seed": 3,
            "steps": 30,
            "lr": None,
        }
        self._write("settings.json", json.dumps(self.settings))
        lines = [
            {"step": s, "loss": 2 / (s + 1), "off": s / 300, "images_per_second": 50.0}
            for s in range(0, 30, 3)
        ]
        self._write("log.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        save_mask(
            folder / "mask.safetensors", theta=theta, masks=self.masks, rest=rest,
            metadata={"training": {"objective": "supervised", "data": "tiny", "images": 40, "steps": 30}},
        )  # fmt: skip
        self.rows = Rows.of(
            [
                Outcome("pretrained", knn=bits(500, 200), probe=bits(500, 250)),
                Outcome("statistics only", knn=bits(500, 180), probe=bits(500, 240)),
                Outcome("masked", knn=bits(500, 320), probe=bits(500, 300), head=bits(500, 350)),
            ]
        )
        Result(
            data="tiny", backbone="timm:tiny", objective="supervised", seed=3, size=16,
            training={"objective": "supervised", "data": "tiny", "images": 40, "steps": 30}, rows=self.rows,
            bytes=load(folder / "mask.safetensors").bytes(), seconds=Seconds(83.4, 99.0),
            command=("selfmask", "adapt", "some/folder/tiny", "--seed", "3"), versions={"torch": "2.0"},
            machine={"threads": "2"},
        ).write(folder / "result.json")  # fmt: skip

    def seen(self) -> BeforeAfter:
        """The images before and after."""
        return look(load(self.path / "mask.safetensors"), self.backbone, self.images)

    def _write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text, encoding="utf-8")


def bits(count: int, right: int) -> torch.Tensor:
    """The first `right` of `count` test images are right."""
    return torch.arange(count) < right


@pytest.fixture
def tiny_run(tmp_path: Path) -> TinyRun:
    return TinyRun(tmp_path / "run")
