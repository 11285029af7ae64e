"""New mask files from old ones: the same base and companions with other bits, and set algebra on the off-weights."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from selfmask._common.files import write_atomically
from selfmask.errors import SettingsError, WrongBaseError
from selfmask.maskfile.head import Head
from selfmask.maskfile.mask import Mask
from selfmask.maskfile.quantised import Quantised
from selfmask.maskfile.saving import mask_bytes

Operation = Literal["and", "or", "majority"]


def save_derived(
    path: str | os.PathLike[str],
    mask: Mask,
    masks: Mapping[str, Tensor],
    *,
    note: Mapping[str, Any],
    statistics: Mapping[str, Tensor] | None = None,
    trained: Mapping[str, Tensor] | None = None,
    norms: Mapping[str, Quantised] | None = None,
    head: Head | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a mask of `mask`'s base with other bits, whole or not at all. Returns the path.

    Args:
        path: where to.
        mask: what the base, the metadata and (unless given) the companions are taken from.
        masks: bool by parameter name, for exactly `mask`'s names and shapes.
        note: JSON-able entries that are added to the metadata.
        statistics: running statistics in place of `mask`'s; likewise `trained`, `norms`, `head` (as it is to be
            stored) and `metadata`.

    Raises:
        SettingsError: the bits do not fit.
    """
    if list(masks) != list(mask.names):
        raise SettingsError("the new bits must be for the mask's own tensors, in its order")
    for name, bits in masks.items():
        if bits.dtype != torch.bool or tuple(bits.shape) != mask.shape(name):
            raise SettingsError(
                f"{name}: the mask must be bool of shape {mask.shape(name)}, got {tuple(bits.shape)}"
            )
    path = Path(path)
    # How many bits a training flipped, what was measured and what was given up is no longer true of other bits.
    told = mask.metadata if metadata is None else metadata
    kept = {key: value for key, value in told.items() if key not in ("flipped", "rows", "budget")}
    content = mask_bytes(
        mask.index.base,
        masks,
        mask.statistics if statistics is None else statistics,
        mask.trained if trained is None else trained,
        mask.stored_head if head is None else head,
        {**kept, **note},
        norms=mask.norms if norms is None else norms,
    )
    write_atomically(path, content)
    return path


def combine_masks(path: str | os.PathLike[str], operation: Operation, masks: Sequence[Mask]) -> Path:
    """Write the mask that `operation` makes of several masks of one base. Returns the path.

    "and": a weight is on where all have it on. "or": where any has. "majority": where at least half have. Running
    statistics, norm weights and heads are kept where all masks have the same ones and dropped elsewhere, since there is
    no meaning in mixing them; so is what the metadata says. What was measured on one mask is
    true of it alone and dropped; `derived` names the masks, what each was learnt on, and what was `dropped`.

    Raises:
        SettingsError: fewer than two masks, an unknown operation, or a tensor would have no weight on.
        WrongBaseError: the masks belong to different bases, mask different tensors, or were learnt beside trained
            parameters that are not the same: what these were in the base no file says.
    """
    if operation not in get_args(Operation):
        raise SettingsError(f"the operation is one of {', '.join(get_args(Operation))}, got {operation!r}")
    if len(masks) < 2:
        raise SettingsError(f"{operation!r} needs at least two masks, got {len(masks)}")
    first = masks[0]
    for other in masks[1:]:
        same_base(first, other)
    bits = [mask.masks() for mask in masks]
    combined: dict[str, Tensor] = {}
    for name in first.names:
        stack = torch.stack([b[name] for b in bits])
        if operation == "and":
            combined[name] = stack.all(0)
        elif operation == "or":
            combined[name] = stack.any(0)
        else:
            combined[name] = 2 * stack.sum(0) >= len(masks)
        if combined[name].numel() and not bool(combined[name].any()):
            raise SettingsError(f"{operation!r} of these masks turns every weight of {name!r} off")
    if any(m.trained for m in masks) and not _common([m.trained for m in masks]):
        names = sorted({name for m in masks for name in m.trained})
        raise WrongBaseError(
            f"these masks were learnt beside other trained parameters ({names[0]!r}), so their bits cannot be "
            "combined: what these were in the base no file says"
        )
    parts = {
        "statistics": [m.statistics for m in masks],
        "trained": [m.trained for m in masks],
        "norms": [m.norms for m in masks],
        "head": [m.stored_head for m in masks],
    }
    kept = {kind: _common(members) for kind, members in parts.items()}
    dropped = [kind for kind, members in parts.items() if not kept[kind] and any(members)]
    derived = {"operation": operation, "from": [_described(m) for m in masks]}
    note = {"derived": derived | ({"dropped": dropped} if dropped else {})}
    return save_derived(
        path,
        first,
        combined,
        note=note,
        **kept,
        metadata=_agreed(masks),
    )


def same_base(a: Mask, b: Mask) -> None:
    """Raises `WrongBaseError` unless both mask the same tensors of the same base."""
    if a.index.base.fingerprint != b.index.base.fingerprint:
        raise WrongBaseError(
            f"{a.path.name} and {b.path.name} were learnt on different bases "
            f"({a.learnt_on or 'unnamed'}, {b.learnt_on or 'unnamed'}): their bits cannot be combined"
        )
    if a.names != b.names:
        odd = sorted(set(a.names) ^ set(b.names)) or ["their order"]
        raise WrongBaseError(
            f"{a.path.name} and {b.path.name} mask different tensors of their base: {odd[0]!r}"
        )


def _common(members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = members[0]
    for other in members[1:]:
        if first.keys() != other.keys() or not all(_alike(first[n], other[n]) for n in first):
            return {}
    return dict(first)


def _alike(one: Tensor | Quantised, other: Tensor | Quantised) -> bool:
    if isinstance(one, Quantised) or isinstance(other, Quantised):
        return isinstance(one, Quantised) and isinstance(other, Quantised) and one.equals(other)
    return torch.equal(one, other)


_OF_ONE = ("rows", "budget", "compaction", "derived")  # measured on one mask, so true of it alone
_IN_PARTS = ("training", "rule", "selection")


def _agreed(masks: Sequence[Mask]) -> dict[str, Any]:
    """The metadata that all masks have alike; of the training, the rule and the selection the parts that are."""
    first, others = masks[0].metadata, [mask.metadata for mask in masks[1:]]
    found: dict[str, Any] = {}
    for key, value in first.items():
        values = [other.get(key) for other in others]
        # It is one base, by its fingerprint, however it was built: the size of its images may differ.
        if key == "backbone" or (key not in _OF_ONE and all(one == value for one in values)):
            found[key] = value
        elif key in _IN_PARTS and isinstance(value, Mapping):
            parts = [one for one in values if isinstance(one, Mapping)]
            if len(parts) == len(values):
                found[key] = {k: v for k, v in value.items() if all(k in p and p[k] == v for p in parts)}
    return found


def _described(mask: Mask) -> dict[str, Any]:
    return {"file": mask.path.name, "digest": mask.index.digest, "training": mask.metadata.get("training")}
