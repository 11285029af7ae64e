"""Fixtures that every room's tests share."""

from __future__ import annotations

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
