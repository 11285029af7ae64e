"""How an expert's mask lies in the cascade file: tensor by tensor, itself or its difference from the dispatcher's.

Both are coded as a mask file's masks are, inside a mask file of their own. A difference is 1 where
the two agree: an expert starts from the dispatcher's scores, so that most of its bits are the dispatcher's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from selfmask._common.entropy import entropy_bits
from selfmask.errors import MaskFileError
from selfmask.maskfile.index import Base
from selfmask.maskfile.loading import parse_mask
from selfmask.maskfile.mask import Mask
from selfmask.maskfile.quantised import Quantised
from selfmask.maskfile.saving import mask_bytes

RELATIVE = "relative"
"""Key of the metadata that names the tensors stored as differences."""


def pack_member(
    base: Base,
    dispatcher: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    statistics: Mapping[str, Tensor],
    norms: Mapping[str, Quantised],
) -> bytes:
    """An expert's bytes. `dispatcher` and `masks`: bool by parameter name; `statistics`, `norms`: its own."""
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
    own = _of_the_base(base, [*masks, *norms])
    return mask_bytes(own, stored, statistics, {}, {}, {RELATIVE: names}, norms=norms)


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
    for name in member.names:
        if member.shape(name) != masks[name].shape:  # before they are decoded, to as much as they say
            raise MaskFileError(f"{path.name}: an expert's mask of {name!r} has another shape")
    steps = {name: change.steps for name, change in member.norms.items()}
    for kind, members in (("norm", steps), ("statistic", member.statistics)):
        for name, tensor in members.items():
            if name not in base.tensors or base.tensors[name].shape != tuple(tensor.shape):
                raise MaskFileError(f"{path.name}: an expert's {kind} {name!r} is none of the base's")
    differences = {everything[place] for place in relative}
    restored = {
        name: stored == masks[name] if name in differences else stored
        for name, stored in member.masks().items()
    }
    metadata = dict(dispatcher.metadata)
    training = metadata.pop("training", None)
    if isinstance(training, Mapping):  # of an expert's own images the file says no more
        metadata["training"] = {key: training[key] for key in ("data", "objective") if key in training}
    whole = mask_bytes(base, restored, member.statistics, {}, {}, metadata, norms=member.norms, packed=True)
    return parse_mask(whole, path)


def _bits(mask: Tensor) -> float:
    """About what a mask takes when coded: the entropy of its share of zeros, times its weights."""
    return entropy_bits(int(torch.count_nonzero(mask)), mask.numel())


def _of_the_base(base: Base, names: Sequence[str]) -> Base:
    """Names and shapes of the tensors `names`, without their fingerprints, which the dispatcher's part has."""
    return Base.of({name: base.tensors[name] for name in names}, free=frozenset(names))
