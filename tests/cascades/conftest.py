"""A small base, a dispatcher and experts with random masks on it, and images to embed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from selfmask.backbones.backbone import Backbone
from selfmask.backbones.from_module import from_module
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.cascades.cascade_file import load_cascade, write_cascade
from selfmask.cascades.fusion import MODES, Fusion, Mode, fit_fusion, joined
from selfmask.cascades.network import Cascade
from selfmask.cascades.router import Router, fit_router
from selfmask.features.features import features
from selfmask.images.image_set import ImageSet
from selfmask.maskfile.loading import load
from selfmask.maskfile.mask import Mask
from selfmask.maskset import MaskSet

EXPERTS = 3


class Small(nn.Module):
    """3 × 8 × 8 images to 16 features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.conv = nn.Conv2d(12, 24, 3, padding=1, bias=False)
        self.last = nn.Conv2d(24, 16, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        return self.last(self.conv(x).relu()).relu().mean((2, 3))


@dataclass
class Made:
    """The parts of a cascade, the file that they were written to, and its dispatcher's mask file."""

    backbone: Backbone
    images: ImageSet
    dispatcher: Path
    experts: list[Mask]
    router: Router
    cascade: Cascade


@pytest.fixture
def made(tmp_path: Path) -> Made:
    torch.manual_seed(0)
    backbone = from_module(Small(), preprocessing=Preprocessing(size=8, crop=1.0))
    images = pictures()
    x0 = features(backbone, images)
    dispatcher = tmp_path / "dispatcher.safetensors"
    first = _learnt(backbone, dispatcher, torch.Generator().manual_seed(1), 0.05, None)
    experts: list[Mask] = []
    for number in range(1, EXPERTS + 1):
        path = tmp_path / f"expert-{number}.safetensors"
        _learnt(backbone, path, torch.Generator().manual_seed(1 + number), 0.02, first)
        experts.append(load(path))
    with load(dispatcher).apply(backbone.module):
        x = features(backbone, images)
    assert not torch.equal(x, x0)
    router, assignment, _ = fit_router(x, EXPERTS, components=6)
    assert router.experts == EXPERTS
    own: list[Tensor] = []
    for expert in experts:
        with expert.apply(backbone.module):
            own.append(features(backbone, images))
    fusions: dict[Mode, Fusion] = {
        mode: fit_fusion(joined(x, own, assignment, mode), 16, mode) for mode in MODES
    }
    path = write_cascade(
        tmp_path / "cascade.safetensors",
        dispatcher=dispatcher.read_bytes(),
        experts=experts,
        router=router,
        fusions=fusions,
        metadata={"training": {"data": "squares"}},
    )
    return Made(backbone, images, dispatcher, experts, router, load_cascade(path))


def pictures() -> ImageSet:
    """150 images of three kinds, by colour and by which half is bright."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(150) % 3
    pixels = torch.randint(0, 90, (150, 3, 8, 8), generator=generator, dtype=torch.uint8)
    for label in range(3):
        pixels[labels == label, label] += 120
    pixels[labels == 0, :, :4] += 40
    return ImageSet.from_array(pixels, labels)


def _learnt(
    backbone: Backbone, path: Path, generator: torch.Generator, share: float, start: dict[str, Tensor] | None
) -> dict[str, Tensor]:
    """A mask file with about `share` of the weights flipped from `start` (all on), and other statistics."""
    masks = MaskSet(backbone.module, select=["conv.weight", "last.weight"])
    scores = {}
    for name, theta in masks.theta.items():
        on = torch.ones_like(theta, dtype=torch.bool) if start is None else start[name]
        flip = torch.rand(theta.shape, generator=generator) < share
        scores[name] = torch.where(on ^ flip, 1.0, -1.0)
    masks.set_scores(scores)
    backbone.module.get_buffer("norm.running_mean").add_(torch.rand(12, generator=generator) * 0.1)
    masks.save(path, preprocessing=backbone.preprocessing.describe())
    found = masks.masks()
    masks.remove()
    return found
