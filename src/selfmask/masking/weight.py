"""The masked weight (PAPER Main Eq. 1): w = θ · M / α with α = sqrt(mean(M)), one α per tensor.

This is the only place where a masked weight is computed, so training, loading and the tests agree bit for
bit. The factor 1/α is `sqrt(N / on)`, taken in float64 and rounded once: both operations are correctly
rounded by IEEE 754, so a CPU and a GPU, Python and torch, arrive at the same bits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def alpha(on: int, total: int) -> float:
    """α = sqrt(on / total), in (0, 1], of a tensor with `on` of its `total` weights on.

    Raises `ValueError` where no weight is on: α would be 0 and the weight undefined (see `rules`, which
    never let a tensor get there). An empty tensor has α = 1.
    """
    if total == 0:
        return 1.0
    if not 0 < on <= total:
        raise ValueError(f"α needs 0 < on <= total, got on={on}, total={total}")
    return math.sqrt(on / total)


def scale(on: int, total: int) -> float:
    """1/α as `sqrt(total / on)`, the factor that `masked_weight` multiplies with; 1 for an empty tensor."""
    if total == 0:
        return 1.0
    if not 0 < on <= total:
        raise ValueError(f"1/α needs 0 < on <= total, got on={on}, total={total}")
    return math.sqrt(total / on)


def masked_weight(theta: Tensor, mask: Tensor, factor: float | None = None) -> Tensor:
    """w = θ · M / α: where `mask` (bool, θ's shape) is off, +0.0; elsewhere θ / α in θ's dtype.

    `factor` is 1/α if it is known already (from `scale`); otherwise the mask is counted. With every weight on
    the result equals θ exactly. float16 and bfloat16 are multiplied in float32 and rounded once.
    """
    if factor is None:
        factor = scale(int(mask.sum()), mask.numel())
    return scaled(theta, factor).masked_fill_(~mask, 0.0)


def scaled(theta: Tensor, factor: float | Tensor, out: Tensor | None = None) -> Tensor:
    """θ / α in θ's dtype, `factor` being 1/α: the masked weight before its weights are switched off.

    As a tensor, `factor` is float64 on the CPU, without dimensions; torch takes it a few microseconds sooner.
    Written to `out` where it is given (θ's shape, dtype and device; not θ itself), else to a new tensor.
    """
    wide = torch.promote_types(theta.dtype, torch.float32)
    if out is None:
        return (theta.to(wide) * factor).to(theta.dtype)
    return torch.mul(theta, factor, out=out) if wide == theta.dtype else out.copy_(theta.to(wide) * factor)
