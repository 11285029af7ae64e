"""Fixtures that every room's tests share."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

SHARED = Path(__file__).resolve().parents[2] / "shared"

FORKED = multiprocessing.get_context("forkserver")
# New processes are forked from one that has imported what takes longer than most of the tests that start one. None of
# it is ours: each command still imports its own modules.
FORKED.set_forkserver_preload([
    "torch", "torchvision", "timm", "accelerate", "cyclopts", "rich.progress", "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "scipy.cluster.hierarchy", "scipy.stats", "sklearn.datasets", "sklearn.cluster", "sklearn.mixture",
    "pyarrow.parquet",
])  # fmt: skip


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    """Tests draw the same numbers, on as many threads, wherever they run and whatever ran before them."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)  # a run takes as many as it is told


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real weights and images beside the repository, which only some machines have."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real weights and images of {SHARED}, which are not on this machine")
    return SHARED


class Command:
    """`selfmask …` in a process of its own; what it prints goes to a file.

    That a command imports all that it needs is what tests/cli/test_process.py is for.
    """

    def __init__(self, words: list[str], said: Path, **environment: str) -> None:
        code = (
            f"import os, sys; os.environ.update({environment!r})\n"
            f"said = os.open({os.fspath(said)!r}, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)\n"
            "os.dup2(said, 1); os.dup2(said, 2)\n"
            f"from selfmask.cli import main; sys.exit(main({words!r}))"
        )
        self.said = said
        self.process = FORKED.Process(target=exec, args=(code, {"__name__": "selfmask command"}))
        self.process.start()

    @property
    def running(self) -> bool:
        return self.process.exitcode is None

    def send(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self) -> tuple[int, str]:
        """Wait; the exit status, and all that was printed."""
        self.process.join(timeout=240)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"it did not end: {self.said.read_text()}")
        return self.process.exitcode, self.said.read_text()


@pytest.fixture(scope="session")
def start() -> Callable[..., Command]:
    """`start(words, said, **environment)`: a command in a process of its own."""
    return Command


@pytest.fixture
def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Small(nn.Module):
    """3 × 8 × 8 images to 10 numbers: convolutions, batch norms and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 64, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(64)
        self.conv3 = nn.Conv2d(64, 32, 3, stride=2, bias=False)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        x = self.norm2(self.conv2(x)).relu()
        return self.fc(self.conv3(x).mean((2, 3)))


@pytest.fixture
def model() -> nn.Module:
    """A network that is quick to mask, save and apply."""
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture
def quick_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The linear probe has two penalties to choose from; that it chooses well is for tests/features/test_probe.py."""
    monkeypatch.setattr("selfmask.features.probe.PENALTIES", (0.1, 0.01))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of timm's `test_resnet` (0.5 M, random, batch norms that have seen something) in a file, so that runs are
    real runs and still quick."""
    import timm

    torch.manual_seed(11)
    model = timm.create_model("test_resnet", num_classes=0).train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 3, 48, 48))
    path = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, str(path))
    return path


FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """A headless Chromium, driven over a pipe (DevTools protocol), to open pages with.

    One page at a time. Chromium reads commands from file descriptor 3 and answers on 4, each ended by a NUL.
    """

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

    def open(self, page: Path | str, width: int, *, dark: bool = False) -> None:
        """Open `page`, a file or an address, in a window of this width and wait until it is loaded.

        `events` starts afresh.
        """
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        self.events = []
        self.call("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
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
