"""How alike two masks of one base are: agreement of the bits, and overlap of what is off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from selfmask.maskfile.derive import same_base
from selfmask.maskfile.mask import Mask
from selfmask.report.overlap import Overlap


@dataclass(frozen=True)
class Comparison:
    """The overlap of two masks, over all weights and by tensor."""

    overall: Overlap
    tensors: dict[str, Overlap]

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "overall": self.overall.describe(),
            "tensors": {n: o.describe() for n, o in self.tensors.items()},
        }


def compare(a: Mask, b: Mask, base: nn.Module | None = None) -> Comparison:
    """Compare two masks of one base. Raises `WrongBaseError` if their bases or masked tensors differ."""
    same_base(a, b)
    ours, theirs = a.masks(base), b.masks(base)
    tensors = {name: overlap(ours[name], theirs[name]) for name in ours}
    return Comparison(Overlap.over(tensors.values()), tensors)


def overlap(a: Tensor, b: Tensor) -> Overlap:
    """The overlap of two bool masks of one shape."""
    off_a, off_b = ~a, ~b
    counts = (int(torch.count_nonzero(off)) for off in (off_a, off_b, off_a & off_b))
    return Overlap.of_tensor(a.numel(), *counts)
