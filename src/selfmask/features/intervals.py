"""95 % intervals for an accuracy, and for the difference of two accuracies on the same images.

One accuracy: Wilson's score interval. It keeps its coverage at small counts and near 0 and 1, where the
usual p ± 1.96·s.e. leaves [0, 1] or has no width.

A paired difference: Newcombe's method 10 (R. G. Newcombe, Statistics in Medicine 17, 1998, 2635-2650). It
joins the two Wilson intervals by "square and add", corrected for the correlation of the pair, so it uses
the pairing as McNemar's test does, needs no random numbers (a bootstrap's interval changes with its seed),
and stays sensible where the two networks agree on every image (a bootstrap then claims no uncertainty).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from selfmask.errors import DataError


def accuracy_interval(correct: Tensor) -> tuple[float, float, float]:
    """(accuracy, low, high) in [0, 1] of `correct`, a bool tensor (N,): Wilson's 95 % interval.

    Raises `DataError` for an empty tensor.
    """
    right, total = _counts(correct)
    return right / total, *_wilson(right, total)


def paired_interval(correct_a: Tensor, correct_b: Tensor) -> tuple[float, float, float]:
    """(difference, low, high) in [-1, 1] of accuracy a minus accuracy b, both bool tensors (N,) in one order.

    Newcombe's method 10 at 95 %. Raises `DataError` where the two do not cover the same number of images.
    """
    if correct_a.shape != correct_b.shape:
        raise DataError(
            f"a paired interval needs the same images on both sides, got {tuple(correct_a.shape)} and "
            f"{tuple(correct_b.shape)}: evaluate both networks on one test set, in one order"
        )
    right_a, total = _counts(correct_a)
    right_b, _ = _counts(correct_b)
    both = int((correct_a & correct_b).sum())
    only_a, only_b = right_a - both, right_b - both
    neither = total - both - only_a - only_b

    accuracy_a, accuracy_b = right_a / total, right_b / total
    low_a, high_a = _wilson(right_a, total)
    low_b, high_b = _wilson(right_b, total)

    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    association = both * neither - only_a * only_b
    if association > 0:  # Newcombe's continuity correction, which keeps the coverage at small counts
        association = max(association - total / 2, 0.0)
    phi = association / math.sqrt(margins) if margins else 0.0

    down_a, up_a = accuracy_a - low_a, high_a - accuracy_a
    down_b, up_b = accuracy_b - low_b, high_b - accuracy_b
    below = math.sqrt(max(down_a**2 - 2 * phi * down_a * up_b + up_b**2, 0.0))
    above = math.sqrt(max(down_b**2 - 2 * phi * down_b * up_a + up_a**2, 0.0))
    difference = (right_a - right_b) / total
    return difference, max(difference - below, -1.0), min(difference + above, 1.0)


def _counts(correct: Tensor) -> tuple[int, int]:
    if correct.dtype != torch.bool or correct.ndim != 1:
        raise DataError(
            f"expected a bool tensor (N,) of right answers, got {correct.dtype} {tuple(correct.shape)}"
        )
    if correct.numel() == 0:
        raise DataError("an accuracy needs at least one test image, got none")
    return int(correct.sum()), correct.numel()


def _wilson(right: int, total: int) -> tuple[float, float]:
    from scipy.stats import binomtest  # here, because scipy.stats takes a second to import

    ends = binomtest(right, total).proportion_ci(0.95, method="wilson")
    # Rounding must not push a bound past the accuracy itself.
    return min(float(ends.low), right / total), max(float(ends.high), right / total)
