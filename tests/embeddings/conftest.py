"""A small backbone, a mask and a cascade on it, and a folder of pictures in sub-folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from selfmask.backbones.backbone import Backbone
from selfmask.backbones.spec import build
from selfmask.cascades.cascade_file import write_cascade
from selfmask.cascades.fusion import MODES, Fusion, Mode, fit_fusion, joined
from selfmask.cascades.router import fit_router
from selfmask.features.features import features
from selfmask.images.image_set import ImageSet
from selfmask.images.opening import open_data
from selfmask.maskfile.loading import load
from selfmask.maskset import MaskSet

SPEC = "timm:test_resnet"


@dataclass(frozen=True)
class Used:
    """What there is to use: files, and the pictures in order."""

    root: Path
    photos: Path
    mask: Path
    cascade: Path
    weights: Path

    def base(self) -> Backbone:
        """The backbone, at the size that mask and cascade were learnt at."""
        backbone = build(SPEC, weights=self.weights)
        backbone.preprocessing = backbone.preprocessing.at(32)
        return backbone

    def images(self) -> ImageSet:
        return open_data(f"flat:{self.photos}").train


@pytest.fixture(scope="session")
def used(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Used:
    root, random = tmp_path_factory.mktemp("used"), np.random.default_rng(3)
    found = Used(root, root / "photos", root / "m.safetensors", root / "c.safetensors", weights)
    for number in range(48):
        kind = "cat" if number % 2 else "dog"
        pixels = random.integers(0, 90, (30 + number % 7, 40, 3), dtype=np.uint8)
        pixels[:, ::4, number % 2] += 150
        path = found.photos / kind / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    backbone = found.base()
    _learnt(backbone, found.mask, 1)
    _cascade(backbone, found)
    return found


def _learnt(backbone: Backbone, path: Path, seed: int, **more: Any) -> None:
    masks = MaskSet(backbone.module, norm_stats="frozen")
    generator = torch.Generator().manual_seed(seed)
    masks.set_scores({n: torch.rand(s.shape, generator=generator) - 0.03 for n, s in masks.scores.items()})
    about = {"backbone": backbone.describe(), "preprocessing": backbone.preprocessing.describe()}
    masks.save(path, training={"data": "photos", "size": 32}, **about, **more)
    masks.remove()


def _cascade(backbone: Backbone, used: Used) -> None:
    images, experts = used.images(), []
    for number in range(2):
        path = used.root / f"expert-{number}.safetensors"
        _learnt(backbone, path, 7 + number)
        experts.append(load(path))
    masks = [load(used.mask), *experts]
    x: list[Tensor] = []
    for mask in masks:
        with mask.apply(backbone.module):
            x.append(features(backbone, images))
    router, assignment, _ = fit_router(x[0], 2, components=4)
    assert router.experts == 2
    fusions: dict[Mode, Fusion] = {
        mode: fit_fusion(joined(x[0], x[1:], assignment, mode), 10, mode) for mode in MODES
    }
    write_cascade(
        used.cascade, dispatcher=used.mask.read_bytes(), experts=experts, router=router, fusions=fusions,
        metadata={"training": {"data": "photos"}},
    )  # fmt: skip
