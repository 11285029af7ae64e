"""How an expert's mask lies in the cascade file: tensor by tensor, itself or its difference from the dispatcher's.

Both are coded as a mask file's masks are, inside a mask file of their own. A difference is 1 where
the two agree: an expert starts from the dispatcher's scores, so that most of its bits are the dispatcher's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from selfmask._common.entropy import entropy_bits
from selfmask.errors import MaskFileError
from selfmask.maskfile.index import Base
from selfmask.maskfile.loading import parse_mask
from selfmask.maskfile.mask import Mask
from selfmask.maskfile.saving import mask_bytes

RELATIVE = "relative"
"""Key of the metadata that names the tensors stored as differences."""


def pack_member(
    base: Base,
    dispatcher: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    statistics: Mapping[str, Tensor],
) -> bytes:
    """An expert's bytes. `dispatcher` and `masks`: bool by parameter name; `statistics`: its running statistics."""
    stored: dict[str, Tensor] = {}
    relative: list[str] = []
    for name, mask in masks.items():
        same = mask == dispatcher[name]
        if _bits(same) < _bits(mask):
            relative.append(name)
            stored[name] = same
        else:
            stored[name] = mask
    everything = [*base.tensors]
    names = [everything.index(name) for name in relative]
    return mask_bytes(_masked_only(base, masks), stored, statistics, {}, {}, {RELATIVE: names})


def unpack_member(content: bytes, path: Path, dispatcher: Mask, masks: Mapping[str, Tensor]) -> Mask:
    """The expert as a mask of its own, that applies to the base like any other.

    `masks` are the dispatcher's, decoded. Raises `MaskFileError` where the expert does not belong to it.
    """
    member = parse_mask(content, path)
    base = dispatcher.index.base
    relative = member.metadata.get(RELATIVE)
    everything = [*base.tensors]
    if not isinstance(relative, list) or not all(
        type(place) is int and 0 <= place < len(everything) for place in relative
    ):
        raise MaskFileError(f"{path.name}: an expert does not say which of its masks are differences")
    if set(member.names) != set(masks):
        raise MaskFileError(f"{path.name}: an expert masks other tensors than the dispatcher")
    differences = {everything[place] for place in relative}
    restored: dict[str, Tensor] = {}
    for name, stored in member.masks().items():
        if stored.shape != masks[name].shape:
            raise MaskFileError(f"{path.name}: an expert's mask of {name!r} has another shape")
        restored[name] = stored == masks[name] if name in differences else stored
    metadata = {key: value for key, value in dispatcher.metadata.items() if key != "training"}
    whole = mask_bytes(base, restored, member.statistics, {}, {}, metadata, packed=True)
    return parse_mask(whole, path)


def _bits(mask: Tensor) -> float:
    """About what a mask takes when coded: the entropy of its share of zeros, times its weights."""
    return entropy_bits(int(torch.count_nonzero(mask)), mask.numel())


def _masked_only(base: Base, masks: Mapping[str, Tensor]) -> Base:
    """Names and shapes of the masked tensors, without their fingerprints, which the dispatcher's part has."""
    return Base.of({name: base.tensors[name] for name in masks}, free=frozenset(masks))
