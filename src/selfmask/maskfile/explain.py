"""Why a model is not the base that a mask belongs to: the first tensor that differs, and the likely cause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from selfmask._common.units import counted
from selfmask.maskfile.fingerprint import SHORT_BYTES, Signature
from selfmask.maskfile.index import FREE, Base

_HEAD = 4  # tensors that a classifier left on the network has at most: two layers
_WRAPPERS = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.")


def model_name(model: nn.Module) -> str | None:
    """What `model` says of its own origin, "timm resnet50.a1_in1k" say, or None."""
    for attribute in ("pretrained_cfg", "default_cfg"):
        settings = getattr(model, attribute, None)
        if isinstance(settings, Mapping) and isinstance(settings.get("architecture"), str):
            tag = settings.get("tag")
            return f"timm {settings['architecture']}{f'.{tag}' if tag else ''}"
    settings = getattr(model, "config", None)
    path = getattr(settings, "_name_or_path", None)
    return f"transformers {path}" if isinstance(path, str) and path else None


def difference(
    base: Base,
    found: Mapping[str, Signature],
    extra: Mapping[str, Signature],
    masked: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    learnt_on: str | None,
    model: nn.Module,
) -> str | None:
    """The first difference and its likely cause in one sentence or two, or None where there is none.

    Args:
        base: the mask's base.
        found: the model's tensors that the base names.
        extra: the model's tensors that the base does not name.
        masked: the names of the masked tensors.
        tensors: the model's tensors by name.
        learnt_on: what the file says of its base's origin.
        model: the model, for what it says of its own.
    """
    different = [n for n, s in base.tensors.items() if n not in found or not _equal(s, found[n])]
    if not different:
        if extra:
            first = next(iter(extra))
            return (
                f"the model has {counted(len(extra), 'tensor')} that the base has not, {first!r} first; build it "
                "without the head (timm: num_classes=0), or apply the mask to the part of the model that is the base"
            )
        return None
    name = different[0]
    expected, actual = base.tensors[name], found.get(name)
    if actual is None:
        first = f"the first tensor that differs is {name!r}: the model has none of that name"
        cause = _missing(name, expected, base, extra, different)
    elif actual.shape != expected.shape:
        first = f"the first tensor that differs is {name!r}: its shape is {actual.shape}, the base's {expected.shape}"
        cause = "this is another architecture or another input size"
    elif actual.dtype != expected.dtype:
        first = f"the first tensor that differs is {name!r}: its dtype is {actual.dtype}, the base's {expected.dtype}"
        cause = f"load the base in {expected.dtype} and apply the mask before casting it"
    else:
        first = f"the first tensor that differs is {name!r}: its values are not the base's"
        odd = [n for n in different if n not in found or found[n].shape != base.tensors[n].shape]
        if odd:
            cause = _architecture(odd, base)
        elif len(extra) > _HEAD and len(different) > len(base.tensors) / 2:
            cause = (
                f"it also has {len(extra)} tensors that the base has not, {next(iter(extra))!r} first: this is "
                "another, larger architecture"
            )
        else:
            cause = _values(different, base, masked, tensors)
    return f"{first}. {_origin(learnt_on, model_name(model))}{cause[0].upper()}{cause[1:]}"


def _equal(expected: Signature, actual: Signature) -> bool:
    if (expected.dtype, expected.shape) != (actual.dtype, actual.shape):
        return False
    return expected.digest == FREE or expected.digest == actual.digest[:SHORT_BYTES]


def _origin(learnt_on: str | None, own: str | None) -> str:
    if own is None or learnt_on is None:
        return ""
    one, other = own.split()[-1], learnt_on.split()[-1]
    if one.startswith(other) or other.startswith(one):
        return ""
    return f"This looks like {own}; the mask was learnt on {learnt_on}. "


def _missing(
    name: str, expected: Signature, base: Base, extra: Mapping[str, Signature], different: list[str]
) -> str:
    for other, signature in extra.items():
        for wrapper in _WRAPPERS:
            if other == wrapper + name:
                return (
                    f"it is there as {other!r}: the base sits inside a wrapper; apply the mask to the model's "
                    f".{wrapper[:-1]}"
                )
            if wrapper + other == name:
                return f"it is there as {other!r}: the mask was learnt with the base inside another module"
        if _equal(expected, signature) and expected.digest != FREE:
            return f"the same values are there under the name {other!r}: the layer was renamed; use the base's names"
    return _architecture(different, base)


def _architecture(odd: list[str], base: Base) -> str:
    return (
        f"{len(odd)} of the base's {len(base.tensors)} tensors are missing or have another shape: this is another "
        "architecture, or another version of it"
    )


def _values(
    different: list[str], base: Base, masked: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> str:
    off = {n: int((tensors[n] == 0).sum()) for n in different if n in masked and n in tensors}
    zeros = sum(off.values())
    total = sum(tensors[n].numel() for n in off)
    if set(different) <= set(masked) and total and zeros / total > 1e-3:
        return (
            f"{zeros} of the {total} weights of the tensors that differ are exactly 0: the model seems to carry a "
            "mask already; reload the base, or remove that mask first"
        )
    if all(n.endswith(("running_mean", "running_var")) for n in different):
        return (
            "only running statistics differ: the model ran in training mode; reload the base, and call model.eval() "
            "before running it"
        )
    checked = [n for n, s in base.tensors.items() if s.digest != FREE]
    if len(different) > len(checked) / 2:
        return (
            f"{len(different)} of {len(checked)} tensors have other values: these are other weights of the same "
            "architecture (another training, or fine-tuned); load the weights that the mask was learnt on"
        )
    halves = {n for n in different if _is_rounded(tensors.get(n))}
    if halves == set(different):
        return "the values were rounded to half precision once; reload the base in its own precision"
    return (
        f"{counted(len(different), 'tensor')} of {len(checked)} changed: the base was fine-tuned or edited; reload its "
        "original weights"
    )


def _is_rounded(tensor: Tensor | None) -> bool:
    if tensor is None or tensor.dtype != torch.float32:
        return False
    return bool((tensor.half().float() == tensor).all()) or bool((tensor.bfloat16().float() == tensor).all())
