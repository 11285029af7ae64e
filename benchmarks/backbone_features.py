"""Do the weights at hand give features that mean something? k-NN on a few images for each.

    python benchmarks/backbone_features.py [--data cifar10] [--only resnet50] [--shared ../shared]

Prints one line for each backbone: its specification, input size, and k-NN accuracy (k = 20) with its 95 % interval.
The last ResNet-50 line is a wrong form of the network on purpose: what it loses is why `keras:resnet50` exists.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from selfmask.backbones.backbone import Backbone
from selfmask.backbones.spec import build
from selfmask.features.intervals import accuracy_interval
from selfmask.features.knn import knn

CASES = (
    ("package:efficientnet_lite0", None, 128),
    ("timm:resnet18", "resnet18_in1k.safetensors", 128),
    ("keras:resnet50", "resnet50_in1k.safetensors", 128),
    ("timm:resnet50", "resnet50_in1k.safetensors", 128),
    ("timm:vit_small_patch14_dinov2", "vit_small_patch14_dinov2_224.safetensors", 126),
)


def few(folder: Path, each: int) -> tuple[list[Image.Image], torch.Tensor]:
    """The first `each` images of every class folder, and their classes; no other file is read."""
    classes = sorted(folder.iterdir())
    files = [file for one in classes for file in sorted(one.iterdir())[:each]]
    return [Image.open(file).convert("RGB") for file in files], torch.arange(len(classes)).repeat_interleave(
        each
    )


def seen_by(backbone: Backbone, images: list[Image.Image], size: int) -> torch.Tensor:
    views = [np.asarray(ImageOps.fit(one, (size, size), Image.Resampling.BICUBIC)) for one in images]
    pixels = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)
    with torch.no_grad():
        return torch.cat(
            [backbone.module(backbone.preprocessing.normalise(part)) for part in pixels.split(50)]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", default="cifar10", help="a folder of class folders under SHARED/data")
    parser.add_argument("--only", default="", help="only the backbones whose specification has this in it")
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[2] / "shared")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    folder = settings.shared / "data" / settings.data
    (train, train_classes), (test, test_classes) = few(folder / "train", 40), few(folder / "test", 20)
    for spec, file, size in (case for case in CASES if settings.only in case[0]):
        backbone = build(spec, weights=file and settings.shared / "weights" / file, image_size=size)
        one, other = (seen_by(backbone, images, size) for images in (train, test))
        share, low, high = accuracy_interval(knn(one, train_classes, other, k=20) == test_classes)
        print(
            f"{spec:32} {size:4} px  k-NN {share:.3f} ({low:.3f} to {high:.3f}), {len(train)} + {len(test)} images"
        )


if __name__ == "__main__":
    main()
