"""`selfmask compare`: how alike two masks of one base are: agreement of the bits, and overlap of what is off."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfmask._common.calls import call
from selfmask.maskfile.derive import same_base
from selfmask.maskfile.mask import Mask
from selfmask.reports.overlap import Overlap
from selfmask.tasks.opening import open_mask


@dataclass(frozen=True)
class CompareSettings:
    """Compare two masks of one backbone: bits that differ, and how much of what is off they share."""

    a: Path
    """A mask file, or a run's folder."""
    b: Path
    """Another one, learnt on the same base."""
    tensors: bool = False
    """Also a line for each masked tensor."""


@dataclass(frozen=True)
class Comparison:
    """The overlap of the masks in the files `a` and `b`, over all weights and by tensor."""

    a: str
    b: str
    overall: Overlap
    tensors: dict[str, Overlap]
    each: bool = False
    """Whether each tensor is to be shown."""

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        return {
            "a": self.a,
            "b": self.b,
            "overall": self.overall.describe(),
            "tensors": {n: o.describe() for n, o in self.tensors.items()},
        }


def compare_masks(a: Mask, b: Mask) -> Comparison:
    """Compare two masks of one base. Raises `WrongBaseError` if their bases or masked tensors differ."""
    same_base(a, b)
    ours, theirs = a.masks(), b.masks()
    tensors = {name: overlap(ours[name], theirs[name]) for name in ours}
    return Comparison(str(a.path), str(b.path), Overlap.over(tensors.values()), tensors)


def overlap(a: Tensor, b: Tensor) -> Overlap:
    """The overlap of two bool masks of one shape."""
    off_a, off_b = ~a, ~b
    counts = (int(torch.count_nonzero(off)) for off in (off_a, off_b, off_a & off_b))
    return Overlap.of_tensor(a.numel(), *counts)


def run(settings: CompareSettings) -> Comparison:
    """Decode both and count.

    >>> found = selfmask.compare("runs/photos", "runs/photos")
    >>> found.overall.off_both == found.overall.off_a == found.overall.off_b
    True
    """
    found = compare_masks(open_mask(settings.a), open_mask(settings.b))
    return replace(found, each=settings.tensors)


compare = call(CompareSettings, run)
