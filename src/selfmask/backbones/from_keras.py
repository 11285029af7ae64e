"""ResNet-50 as Keras computes it, under timm's names.

The weights of He et al. that Keras distributes belong to the first form of the network: the stride of a stage is
in its first 1 × 1 convolution (timm and torchvision put it in the 3 × 3), and a batch norm adds 1e-3 to the
variance. With timm's own form the same tensors load and give wrong features, hence a name of its own.
"""

from __future__ import annotations

from pathlib import Path

import timm
from torch import nn

from selfmask._common.near import did_you_mean
from selfmask.backbones.backbone import Backbone, measured_width, weights_name
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.backbones.state import load_strict, read_state_dict
from selfmask.errors import BackboneError


def build_from_keras(
    name: str, weights: str | Path | None, image_size: int | None, pretrained: bool
) -> Backbone:
    """`keras:resnet50`; `weights` is a file in timm's names. Without `pretrained` the weights are random."""
    if name != "resnet50":
        raise BackboneError(
            f"unknown Keras network {name!r}{did_you_mean(name, ['resnet50'])}; known: resnet50"
        )
    if weights is None and pretrained:
        raise BackboneError("keras:resnet50 needs its weights as a file: --weights resnet50_in1k.safetensors")
    module = timm.create_model("resnet50", num_classes=0)
    for stage in ("layer2", "layer3", "layer4"):
        _convolution(module, f"{stage}.0.conv1").stride = (2, 2)
        _convolution(module, f"{stage}.0.conv2").stride = (1, 1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 1e-3
    if weights is not None:
        load_strict(module, read_state_dict(weights), str(weights), "keras:resnet50")
    return Backbone(
        module.eval(),
        "keras:resnet50",
        "resnet",
        measured_width(module, 32),
        Preprocessing().at(image_size),
        weights_name(weights),
        image_size,
        weights is not None,
    )


def _convolution(module: nn.Module, name: str) -> nn.Conv2d:
    found = module.get_submodule(name)
    assert isinstance(found, nn.Conv2d)
    return found
