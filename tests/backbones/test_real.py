"""The real weights on real photographs: features that mean something, where the weights are at hand."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from selfmask.backbones.backbone import Backbone
from selfmask.backbones.spec import build

CASES = {
    "package:efficientnet_lite0": (None, 96),
    "timm:resnet18": ("resnet18_in1k.safetensors", 96),
    "keras:resnet50": ("resnet50_in1k.safetensors", 96),
}


@cache
def photographs(folder: Path, each: int, size: int) -> tuple[Tensor, Tensor]:
    """uint8 (10 · each, 3, size, size) and classes, the first `each` images of every class of CIFAR-10."""
    classes = sorted(folder.iterdir())
    files = [file for one in classes for file in sorted(one.iterdir())[:each]]
    images = [
        np.asarray(Image.open(file).convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
        for file in files
    ]
    stack = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return stack, torch.arange(len(classes)).repeat_interleave(each)


def nearest_class_mean(backbone: Backbone, data: Path, size: int) -> float:
    means: Tensor | None = None
    accuracy = 0.0
    for split, each in (("train", 15), ("test", 10)):
        images, classes = photographs(data / split, each, size)
        with torch.no_grad():
            x = F.normalize(
                torch.cat([backbone.module(backbone.preprocessing.normalise(k)) for k in images.split(50)])
            )
        if means is None:
            means = F.normalize(torch.stack([x[classes == k].mean(0) for k in range(10)]))
        else:
            accuracy = float(((x @ means.T).argmax(1) == classes).float().mean())
    return accuracy


@pytest.mark.slow
@pytest.mark.parametrize("spec", CASES)
def test_features_tell_classes_apart(spec: str, shared: Path) -> None:
    file, size = CASES[spec]
    backbone = build(spec, weights=file and shared / "weights" / file, image_size=size)
    assert nearest_class_mean(backbone, shared / "data" / "cifar10", size) > 0.5  # by chance: 0.1


@pytest.mark.slow
def test_the_wrong_form_of_resnet50_is_worse(shared: Path) -> None:
    data, file = shared / "data" / "cifar10", shared / "weights" / "resnet50_in1k.safetensors"
    right, wrong = (
        nearest_class_mean(build(spec, weights=file), data, 64)
        for spec in ("keras:resnet50", "timm:resnet50")
    )
    assert right > wrong


def test_the_vit_s_weights_fit_at_their_own_and_another_size(shared: Path) -> None:
    file = shared / "weights" / "vit_small_patch14_dinov2_224.safetensors"
    own, small = (
        build("timm:vit_small_patch14_dinov2", weights=file, image_size=size) for size in (None, 56)
    )
    assert (own.preprocessing.size, own.width, own.family) == (224, 384, "vit")
    table = own.module.state_dict()["pos_embed"]
    assert table.shape == (1, 1 + 16 * 16, 384)
    assert torch.equal(small.module.state_dict()["pos_embed"], table)
    assert small.module(torch.zeros(1, 3, 56, 56)).shape == (1, 384)
