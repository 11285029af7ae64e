"""Training features in their own principal axes, the form in which both linear probes are solved.

A linear probe with an L2 penalty and a free bias does not change under a shift or a rotation of the features,
and a common scale only rescales the penalty. So both probes work on centred features of unit mean square
length, rotated to their principal axes: there the curvature of the problem is close to diagonal (which makes
the solver fast), one grid of penalties suits features of any scale, and a set of fewer images than dimensions
costs no more than its rank. The result is carried back exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from selfmask._common.clustering import directions, is_one_point

Layer = tuple[Tensor, Tensor]
"""weight (classes, inputs) and bias (classes,)"""


@dataclass(frozen=True)
class Spectrum:
    """mean (width,), scale > 0 (root mean square length of a centred feature), axes (width, rank) orthonormal,
    variances (rank,) of the coordinates, summing to 1 (all 0 where every feature is the same); float64."""

    mean: Tensor
    scale: float
    axes: Tensor
    variances: Tensor

    def coordinates(self, x: Tensor) -> Tensor:
        """(N, rank) float64: x centred, scaled and rotated."""
        return (x.to(self.mean) - self.mean) @ (self.axes / self.scale)

    def on_features(self, weight: Tensor, bias: Tensor) -> Layer:
        """A layer on coordinates, weight (classes, rank) and bias (classes,), as the same layer on the features."""
        on_features = (weight / self.scale) @ self.axes.T
        return on_features, bias - on_features @ self.mean

    def on_coordinates(self, weight: Tensor, bias: Tensor) -> Layer:
        """The inverse of `on_features`, for a weight within the span of the axes; else the part within it."""
        return (weight @ self.axes) * self.scale, bias + weight @ self.mean


def spectrum(x: Tensor) -> Spectrum:
    """The principal axes of `x` (N, width), in float64 (on the CPU where the device has none)."""
    x = x.detach().to("cpu") if x.device.type == "mps" else x.detach()
    x = x.to(torch.float64)
    mean = x.mean(dim=0)
    centred = x - mean
    length = float(centred.square().sum(dim=1).mean().sqrt())
    if is_one_point(centred, mean):
        return Spectrum(mean, 1.0, centred.new_zeros(x.shape[1], 0), centred.new_zeros(0))
    centred /= length
    values, axes = directions(centred)
    return Spectrum(mean, length, axes.contiguous(), values / len(x))
