"""The precision of the head that a mask file carries: half of it is enough for most, and half the bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from selfmask.errors import SettingsError

HeadDtype = Literal["float32", "float16"]


def head_as(head: Mapping[str, Tensor], dtype: HeadDtype) -> dict[str, Tensor]:
    """`head` with its floating-point tensors rounded to `dtype`; whole numbers stay as they are.

    Raises `SettingsError` for another dtype, and where a value is beyond the range of `dtype` (65 504 for float16).
    """
    if dtype not in get_args(HeadDtype):
        raise SettingsError(f"the dtype of a head is one of {', '.join(get_args(HeadDtype))}, got {dtype!r}")
    target = torch.float16 if dtype == "float16" else torch.float32
    rounded = {name: t.to(target) if t.is_floating_point() else t for name, t in head.items()}
    for name, tensor in head.items():
        if bool(tensor.isfinite().all()) and not bool(rounded[name].isfinite().all()):
            raise SettingsError(
                f"the head's {name!r} reaches {float(tensor.abs().max()):.4g}, beyond {dtype}: store it as float32"
            )
    return rounded
