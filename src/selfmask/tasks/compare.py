"""`selfmask compare`: how alike two masks of one base are: agreement of the bits, and overlap of what is off."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfmask._common.calls import call
from selfmask.maskfile.derive import same_base
from selfmask.maskfile.mask import Mask
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
class Overlap:
    """Counts of one tensor's weights, or of all: `total`, off in each mask, off in both."""

    total: int
    off_a: int
    off_b: int
    off_both: int

    @property
    def hamming(self) -> int:
        """The number of weights that are on in one mask and off in the other."""
        return self.off_a + self.off_b - 2 * self.off_both

    @property
    def jaccard(self) -> float:
        """Off in both over off in either, in [0, 1]; 1 where nothing is off in either."""
        either = self.off_a + self.off_b - self.off_both
        return self.off_both / either if either else 1.0

    @property
    def expected_jaccard(self) -> float:
        """What `jaccard` would be if each mask had drawn its off-weights at random."""
        both = self.off_a * self.off_b / self.total if self.total else 0.0
        either = self.off_a + self.off_b - both
        return both / either if either else 1.0

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        derived = {
            "hamming": self.hamming,
            "jaccard": self.jaccard,
            "expected_jaccard": self.expected_jaccard,
        }
        return {**asdict(self), **derived}


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
    fields = ("total", "off_a", "off_b", "off_both")
    overall = Overlap(*(sum(getattr(o, f) for o in tensors.values()) for f in fields))
    return Comparison(str(a.path), str(b.path), overall, tensors)


def overlap(a: Tensor, b: Tensor) -> Overlap:
    """The overlap of two bool masks of one shape."""
    off_a, off_b = ~a, ~b
    both = torch.count_nonzero(off_a & off_b)
    return Overlap(a.numel(), int(torch.count_nonzero(off_a)), int(torch.count_nonzero(off_b)), int(both))


def run(settings: CompareSettings) -> Comparison:
    """Decode both and count."""
    found = compare_masks(open_mask(settings.a), open_mask(settings.b))
    return replace(found, each=settings.tensors)


compare = call(CompareSettings, run)
