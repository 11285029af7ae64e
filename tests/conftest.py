"""Fixtures that every room's tests share."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    """Tests draw the same numbers wherever they run and whatever ran before them."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real weights and images beside the repository, which only some machines have."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real weights and images of {SHARED}, which are not on this machine")
    return SHARED


class Command:
    """`selfmask …` in a process of its own; what it prints goes to a file.

    The process is forked from one that has imported torch and timm, which takes as long as most of these tests. That
    a command imports all that it needs is what tests/cli/test_process.py is for.
    """

    def __init__(self, words: list[str], said: Path, **environment: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "torchvision", "timm", "accelerate"])
        code = (
            f"import os, sys; os.environ.update({environment!r})\n"
            f"said = os.open({os.fspath(said)!r}, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)\n"
            "os.dup2(said, 1); os.dup2(said, 2)\n"
            f"from selfmask.cli import main; sys.exit(main({words!r}))"
        )
        self.said = said
        self.process = context.Process(target=exec, args=(code, {"__name__": "selfmask command"}))
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
