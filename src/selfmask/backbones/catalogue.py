"""Short names for the backbones of the paper and for those that most people want."""

from __future__ import annotations

from dataclasses import dataclass

from selfmask.backbones.preprocessing import Preprocessing

DEFAULT = "package:efficientnet_lite0"

ALIASES = {
    "efficientnet_lite0": DEFAULT,
    "dinov2_vits14": "timm:vit_small_patch14_dinov2.lvd142m",
    "dinov2_vitb14": "timm:vit_base_patch14_dinov2.lvd142m",
    "clip_vit_b_32": "openclip:ViT-B-32-quickgelu:openai",
}


@dataclass(frozen=True)
class Published:
    """Weights as their authors published them, timm's network that they are for, and the authors' recipe."""

    architecture: str
    url: str
    what: str
    recipe: Preprocessing


_FAIR = "https://dl.fbaipublicfiles.com"

PUBLISHED = {
    "swav_resnet50": Published(
        "resnet50",
        f"{_FAIR}/deepcluster/swav_800ep_pretrain.pth.tar",
        "SwAV, 800 epochs of ImageNet",
        Preprocessing(interpolation="bilinear"),
    ),
    "dino_resnet50": Published(
        "resnet50",
        f"{_FAIR}/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth",
        "DINO on ImageNet",
        Preprocessing(),
    ),
    "dino_vits16": Published(
        "vit_small_patch16_224",
        f"{_FAIR}/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",
        "DINO on ImageNet",
        Preprocessing(),
    ),
    "dino_vitb16": Published(
        "vit_base_patch16_224",
        f"{_FAIR}/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
        "DINO on ImageNet",
        Preprocessing(),
    ),
}

ALIASES |= {"swav": "swav_resnet50"}
