"""The real weights and images in the folder `shared` beside the repository, as settings of `selfmask adapt`; and where
results are kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"
SHARED = DOCS.parents[1] / "shared"
Settings = dict[str, Any]


def _weights(backbone: str, file: str) -> Settings:
    return {"backbone": backbone, "weights": SHARED / "weights" / file}


EFFICIENTNET: Settings = {}
"""The default, whose weights come with a package."""
RESNET_18 = _weights("timm:resnet18", "resnet18_in1k.safetensors")
RESNET_50 = _weights("keras:resnet50", "resnet50_in1k.safetensors")
VIT_S14 = _weights("timm:vit_small_patch14_dinov2", "vit_small_patch14_dinov2_224.safetensors")

CIFAR10: Settings = {"data": str(SHARED / "data/cifar10")}
CLOTHING: Settings = {"data": str(SHARED / "data/clothing")}
DTD: Settings = {"data": str(SHARED / "data/dtd10")}
SIGNS: Settings = {"data": str(SHARED / "data/gtsrb"), "mirror": False}
DIGITS: Settings = {"data": "digits"}
