"""A small network with its weights in a file, so that runs are real runs and still quick."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

BACKBONE = "timm:test_resnet"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of timm's `test_resnet` (0.5 M, random, batch norms that have seen something)."""
    torch.manual_seed(11)
    model = timm.create_model("test_resnet", num_classes=0).train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 3, 48, 48))
    path = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, str(path))
    return path
