"""Whitening: features turned and stretched so that no direction counts more than another, which k-NN can gain from.

It costs nothing but the features that are there already, so a gain of a mask counts only beside it. Whether it helps
can be told by the features alone (`Whitening.helps`; measured in docs/label-free.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from selfmask._common.clustering import principal_axes

UNEVEN = 0.1
"""Features of whose variance more than this share lies in one direction, are uneven: docs/label-free.md."""
FEWEST = 50
ENOUGH = 20_000
"""So many features are enough to whiten by; of more, some are taken evenly."""
SHRINKAGE = 0.1
"""Share of the mean variance that is added to each direction's: those that hardly vary are noise, better left small."""


@dataclass(frozen=True)
class Whitening:
    """mean: float64 (D,). axes: float64 (rank, D), the principal axes, each divided by its standard deviation.

    images: how many it is of.
    first: the share of the variance that lies in the first of them, in [0, 1]. Of images that a network knows it tells
    many things; of others mostly one, beside which what tells them apart is small. Then whitening helps.
    """

    mean: Tensor
    axes: Tensor
    first: float = 0.0
    images: int = 0

    @classmethod
    def of(cls, x: Tensor) -> Whitening:
        """Of the L2-normalised features x (N, D), of two images or more.

        >>> import torch
        >>> whitening = Whitening.of(torch.tensor([[3.0, 4.0], [4.0, 3.0], [5.0, 0.0]]))
        >>> whitening.apply(torch.tensor([[3.0, 4.0]])).shape
        torch.Size([1, 2])
        """
        found = principal_axes(F.normalize(x.double(), dim=1))
        variances = found.variances
        least = SHRINKAGE * variances.mean() if len(variances) else 0.0
        first = float(variances[0] / variances.sum()) if len(variances) else 0.0
        return cls(found.mean, found.axes / (variances + least).sqrt()[:, None], first, len(x))

    @classmethod
    def where_it_helps(cls, x: Tensor, asked: bool | None) -> Whitening | None:
        """`of` the features x if it is `asked` for, or if that is None and it `helps`; else None."""
        if asked is False:
            return None
        found = cls.of(x)
        return found if asked or found.helps else None

    @property
    def helps(self) -> bool:
        """Whether it is worth it, judged by the features alone: whether they are uneven, of 50 images or more.

        The first direction of a few images, or of a few dimensions, holds much whatever they show.
        """
        return self.first > UNEVEN and min(self.images, len(self.axes) + 1) >= FEWEST

    def apply(self, x: Tensor) -> Tensor:
        """Features (N, D) whitened: float32 (N, rank)."""
        return ((F.normalize(x.to(self.mean), dim=1) - self.mean) @ self.axes.T).float()
