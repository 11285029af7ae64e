"""Masks of one small network, in files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from torch import Tensor, nn

from selfmask.backbones.backbone import Backbone
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.maskfile.fingerprint import base_tensors
from selfmask.maskfile.quantised import quantised
from selfmask.maskfile.saving import save_mask

MASKED = ("conv1.weight", "conv2.weight", "conv3.weight", "fc.weight")
WIDTH = 10
CLASSES = ("cat", "dog", "fish")


@pytest.fixture
def backbone(model: nn.Module) -> Backbone:
    """The network of `model`: 10 features of images of 8 pixels."""
    return Backbone(model, None, "resnet", WIDTH, Preprocessing(size=8))


class Save(Protocol):
    """Writes a mask file of an untouched model: about `off` of the weights off, moved statistics and norm weights."""

    def __call__(self, path: Path, model: nn.Module, seed: int, off: float = ..., /, **more: Any) -> Path: ...


@pytest.fixture
def save() -> Save:
    """See `Save`; `more` are a head and metadata."""
    return _save


def _save(
    path: Path,
    model: nn.Module,
    seed: int,
    off: float = 0.02,
    /,
    head: Mapping[str, Tensor] | None = None,
    **metadata: Any,
) -> Path:
    tensors = base_tensors(model)
    generator = torch.Generator().manual_seed(seed)
    theta = {name: tensors[name] for name in MASKED}
    masks = {name: torch.rand(t.shape, generator=generator) >= off for name, t in theta.items()}
    for mask in masks.values():
        mask.view(-1)[0] = True
    moved = {
        name: t + torch.rand(t.shape, generator=generator).to(t) / 8
        for name, t in tensors.items()
        if name.startswith("norm1.running")
    }
    norms = {
        name: quantised(torch.randn(t.shape, generator=generator) / 20, 8, name)
        for name, t in tensors.items()
        if name in ("norm2.weight", "norm2.bias")
    }
    rest = {name: t for name, t in tensors.items() if name not in theta}
    return save_mask(
        path, theta=theta, masks=masks, rest=rest, statistics=moved, norms=norms, head=head, metadata=metadata
    )


def _head(seed: int) -> dict[str, Tensor]:
    """A linear head for the three `CLASSES`."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(len(CLASSES), WIDTH, generator=generator),
        "bias": torch.randn(len(CLASSES), generator=generator),
    }


@pytest.fixture
def folder(tmp_path: Path, model: nn.Module) -> Path:
    """Five masks a … e, of 1 to 40 % off; b and d have heads for `CLASSES`, and d another size."""
    folder = tmp_path / "masks"
    training = {"classes": list(CLASSES)}
    for seed, (name, off) in enumerate(zip("abcde", (0.01, 0.02, 0.4, 0.1, 0.01), strict=True)):
        extra: dict[str, Any] = {}
        if name in "bd":
            extra = {"head": _head(seed), "training": training}
        if name == "d":
            extra["preprocessing"] = Preprocessing(size=12).describe()
        _save(folder / f"{name}.mask.safetensors", model, seed, off, **extra)
    return folder
