"""What a network is beside its tensors: the tree of its modules with their plain settings, as one digest."""

from __future__ import annotations

import json
from typing import Any

import xxhash
from torch import nn

from selfmask.masking.norm import own_class

LEFT_OUT = frozenset({"training", "inplace", "grad_checkpointing", "fused_attn", "name_or_path"})
"""What may change without another output in evaluation mode, or names a place on somebody's machine."""


def architecture(model: nn.Module) -> str:
    """32 hexadecimal digits over each module's path, class and plain attributes (docs/format.md §3).

    Two networks with equal tensors compute different things where a stride, an eps or an activation differs; their
    digests differ then. So may those of one network built by two versions of a library, which is why a difference is
    a warning and no refusal. Not covered: code (a class of the same name, functions, hooks) and what is not plain.

        >>> architecture(nn.ReLU()) == architecture(nn.ReLU(inplace=True)) != architecture(nn.GELU())
        True
    """
    digest = xxhash.xxh3_128()
    for path, module in model.named_modules():
        line = [path, own_class(module).__name__, _settings(module)]
        digest.update(json.dumps(line, separators=(",", ":"), ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()


def _settings(module: nn.Module) -> list[list[Any]]:
    return [
        [name, _plain(value)]
        for name, value in sorted(vars(module).items())
        if not name.startswith("_") and name not in LEFT_OUT and _is_plain(value)
    ]


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str)


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return repr(value) if isinstance(value, float) else value
