"""A small network and made-up images whose classes are easy to see when large, and hard when small."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from selfmask.backbones.backbone import Backbone
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.images.image_set import ImageSet
from selfmask.objectives.base import Batch, Objective

WIDTH = 16


@pytest.fixture
def backbone() -> Backbone:
    """A random convolutional network, 16 features, native size 32 px."""
    torch.manual_seed(5)
    module = nn.Sequential(
        nn.Conv2d(3, 12, 3, stride=2), nn.ReLU(), nn.Conv2d(12, WIDTH, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )  # fmt: skip
    recipe = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), size=32, crop=1.0)
    return Backbone(module.eval(), None, "generic", WIDTH, recipe)


@pytest.fixture
def images() -> ImageSet:
    """90 images of 24 px in three kinds: three colours under noise."""
    generator = torch.Generator().manual_seed(2)
    colours = torch.tensor([[200, 60, 60], [60, 200, 60], [60, 60, 200]]).repeat_interleave(30, dim=0)
    noise = torch.randn(90, 3, 24, 24, generator=generator) * 40
    return ImageSet.from_array((colours[:, :, None, None] + noise).clamp(0, 255).to(torch.uint8))


@pytest.fixture
def batch_for(backbone: Backbone, images: ImageSet) -> Callable[[Objective, int], Batch]:
    """Batches of 15 with the whole images as views: enough for a loss, without the data room's machinery."""

    def make(objective: Objective, step: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        chosen = torch.randperm(len(images), generator=generator)[:15]
        part = images.subset(chosen)
        views: list[Tensor] = [
            backbone.preprocessing.normalise(part.resized(v.size)) for v in objective.views
        ]
        return Batch(views, torch.full((15,), -1), chosen)

    return make
