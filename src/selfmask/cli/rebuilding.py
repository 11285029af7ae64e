"""The backbone of a mask file, for the commands that need the network: its base, checked."""

from __future__ import annotations

from pathlib import Path

from selfmask.backbones.backbone import Backbone
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.backbones.spec import build, check_description, rebuild
from selfmask.errors import BackboneError
from selfmask.maskfile.mask import Mask


def backbone_of(mask: Mask, spec: str | None = None, weights: Path | None = None) -> Backbone:
    """The backbone that `mask` was learnt on, from its metadata, or as `spec` and `weights` say.

    Raises `BackboneError` where it cannot be built, `WrongBaseError` where what was built is not the mask's base.
    """
    described = mask.metadata.get("backbone")
    described = described if isinstance(described, dict) else {}
    if spec is None and not described.get("spec"):
        raise BackboneError(
            f"{mask.path.name} does not say which backbone it was learnt on: name it with --backbone, and its file of "
            "weights, if any, with --weights"
        )
    if spec is not None:
        check_description(described)
        backbone = build(spec, weights=weights, image_size=described.get("image_size"))
    else:
        backbone = rebuild(described, weights=weights)
    recipe = mask.metadata.get("preprocessing") or described.get("preprocessing")
    if isinstance(recipe, dict):
        backbone.preprocessing = Preprocessing.read(recipe)
    mask.check(backbone.module)
    return backbone
