"""What the untouched network itself makes of the images, at a better resolution than it will be used at.

A network that was pretrained at 224 px knows much more of a small picture that is shown to it enlarged than of the
same picture at 64 px. Nobody has to label anything for that knowledge to become a training signal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from selfmask.backbones.backbone import measured_width
from selfmask.errors import BackboneError, SettingsError
from selfmask.features.features import eval_mode, module_device, view_batches
from selfmask.objectives.defaults import Choice

if TYPE_CHECKING:
    from selfmask.backbones.backbone import Backbone
    from selfmask.images.image_set import ImageSet

_BATCH = 64
_TRANSFORMERS = ("vit", "clip", "swin")


def target_size(asked: int | None, size: int, native: int, backbone: Backbone) -> Choice[int]:
    """What was asked for, else `target_size_for`. Raises `SettingsError` where the network does not take it."""
    if asked is None:
        return target_size_for(size, native, backbone)
    if not _takes(backbone, asked):
        raise SettingsError(
            f"target_size {asked}: {backbone.spec or 'the network'} does not take images of {asked} × {asked} pixels; "
            f"leave it out, or give one that it takes ({size}, the views' size, is one)"
        )
    return Choice(asked, "asked for")


def target_size_for(size: int, native: int, backbone: Backbone) -> Choice[int]:
    """Pixels at which the targets are taken, for views of `size` pixels and a network pretrained at `native`.

    Two and a half times the views' size, up to the native size; a quarter more than the views' where these have the
    native size already (convolutional networks are at their best a little above it). With a transformer, whose
    patches are to be whole in both, twice the views' size within the native size. Never a size that the network
    does not take.
    """
    if backbone.family in _TRANSFORMERS:
        if 2 * size > native:
            return Choice(
                size, f"the views' size: a transformer trained at {native} px is not at home at twice that"
            )
        wanted = Choice(2 * size, f"twice the views' {size} px, for a transformer")
    elif size >= native:
        wanted = Choice(round(size * 1.25 / 32) * 32, f"a quarter above the views' {size} px")
    else:
        wanted = Choice(
            min(native, round(size * 2.5 / 32) * 32), f"above the views' {size} px, within {native}"
        )
    if wanted.value == size or _takes(backbone, wanted.value):
        return wanted
    return Choice(size, f"the views' size: the network does not take {wanted.value} px")


@torch.no_grad()
def clean_features(backbone: Backbone, images: ImageSet, size: int, *, mirrored: bool) -> Tensor:
    """Features float32 (N, width) on the CPU of the whole images at `size` pixels, in evaluation mode.

    mirrored: the mean with those of the mirror images, which is a better estimate of what is in the picture.
    """
    module, parts = backbone.module, []
    device = module_device(module)
    parameter = next(module.parameters())
    layout = torch.channels_last if _is_channels_last(parameter) else torch.contiguous_format
    with eval_mode(module):
        for batch in view_batches(backbone, images, size, _BATCH, what="targets"):
            x = backbone.preprocessing.normalise(batch.to(device)).contiguous(memory_format=layout)
            found = module(x).float()
            parts.append((found if not mirrored else (found + module(x.flip(3)).float()) / 2).cpu())
    return torch.cat(parts)


def _takes(backbone: Backbone, size: int) -> bool:
    try:
        measured_width(backbone.module, size)
    except BackboneError:
        return False
    return True


def _is_channels_last(weight: Tensor) -> bool:
    return weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
