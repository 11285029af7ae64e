"""The checks that k-NN and the probes make on features and labels before they use them."""

from __future__ import annotations

import torch
from torch import Tensor

from selfmask.errors import DataError


def check_features(x: Tensor, what: str) -> None:
    """Raises `DataError` unless `x` is a finite floating-point matrix (N, width) with N, width ≥ 1."""
    if x.ndim != 2 or not x.is_floating_point() or 0 in x.shape:
        raise DataError(
            f"{what}: expected floating-point features (N, width) of at least one image, "
            f"got {x.dtype} {tuple(x.shape)}"
        )
    finite = torch.isfinite(x).all(dim=1)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        raise DataError(
            f"{what}: the features of {bad} of {len(x)} images are not finite, so the network has gone wrong "
            "(often a score rate that is too high): nothing can be measured on it"
        )


def check_labels(x: Tensor, y: Tensor, what: str) -> None:
    """Raises `DataError` unless `y` holds one class index ≥ 0 for each row of `x`."""
    if y.shape != (len(x),) or y.is_floating_point() or y.dtype == torch.bool:
        raise DataError(
            f"{what}: expected one integer label for each of {len(x)} images, got {y.dtype} {tuple(y.shape)}"
        )
    if bool((y < 0).any()):
        raise DataError(
            f"{what}: {int((y < 0).sum())} of {len(y)} images have no label (-1): "
            "leave them out, for example with `images.labelled()`"
        )
