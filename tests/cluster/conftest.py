"""Ray on this machine, started once for this room, and something to embed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from selfmask.backbones.spec import build
from selfmask.cluster.connection import LOCAL, connected
from selfmask.maskset import MaskSet

SPEC = "timm:test_resnet"


@pytest.fixture(scope="session")
def ray() -> Iterator[Any]:
    """Connected to a cluster of two cores, which listens at 127.0.0.1 only and ends with the tests."""
    if find_spec("ray") is None:
        pytest.skip("needs Ray: pip install 'selfmask[ray]'")
    with connected(LOCAL, 2) as found:
        yield found


@dataclass(frozen=True)
class Photos:
    """A folder of 48 pictures, one of which cannot be read, and a mask for `weights`."""

    folder: Path
    mask: Path
    weights: Path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Photos:
    root, random = tmp_path_factory.mktemp("cluster"), np.random.default_rng(5)
    found = Photos(root / "photos", root / "m.safetensors", weights)
    found.folder.mkdir()
    for number in range(47):
        pixels = random.integers(0, 255, (32 + number % 5, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(found.folder / f"{number:02}.png")
    (found.folder / "30-bad.png").write_bytes(b"no image")
    write_mask(found.mask, weights, 1)
    return found


def write_mask(path: Path, weights: Path, seed: int) -> None:
    """A mask of views of 32 px, with a few per cent of the weights off."""
    backbone = build(SPEC, weights=weights)
    masks = MaskSet(backbone.module, norm_stats="frozen")
    generator = torch.Generator().manual_seed(seed)
    masks.set_scores({n: torch.rand(s.shape, generator=generator) - 0.03 for n, s in masks.scores.items()})
    recipe = backbone.preprocessing.at(32)
    masks.save(path, backbone=backbone.describe(), preprocessing=recipe.describe())
    masks.remove()


@pytest.fixture(name="write_mask", scope="session")
def _write_mask() -> Callable[[Path, Path, int], None]:
    """See `write_mask`."""
    return write_mask
