"""Small masks for the commands that need no backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from selfmask.maskset import MaskSet


@pytest.fixture(autouse=True)
def _quick_probe(quick_probe: None) -> None:
    """What a probe is worth is told elsewhere."""


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """a.safetensors and b.safetensors: masks of one convolution, each with its own 30 % off."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3))
    paths = []
    for seed, name in enumerate("ab"):
        masks = MaskSet(model, select="0.weight")
        random = torch.Generator().manual_seed(seed)
        masks.set_scores({n: torch.rand(s.shape, generator=random) - 0.3 for n, s in masks.scores.items()})
        paths.append(masks.save(tmp_path / f"{name}.safetensors"))
        masks.remove()
    return paths[0], paths[1]
