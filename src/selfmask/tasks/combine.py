"""`selfmask combine`: set algebra of masks of one backbone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from selfmask._common.calls import call
from selfmask.maskfile.derive import Operation, combine_masks
from selfmask.maskfile.loading import load
from selfmask.tasks.inspect import Inspection
from selfmask.tasks.opening import check_out, open_mask


@dataclass(frozen=True)
class CombineSettings:
    """Make one mask of several of the same base: on where all have it on, where any has, or where half have."""

    masks: tuple[Path, ...]
    """Two mask files or more, or runs' folders."""
    out: Path
    """The new mask file."""
    operation: Operation = "majority"
    """"and": on where on in all. "or": on where on in any. "majority": on where on in at least half."""

    def __post_init__(self) -> None:
        for mask in self.masks:
            check_out(self.out, mask_file=mask)


def run(settings: CombineSettings) -> Inspection:
    """Decode, combine, write; what the new file holds.

    >>> both = selfmask.combine(("runs/photos", "runs/other"), "both.mask.safetensors", "and").mask
    >>> both.density() <= min(selfmask.load(f"runs/{name}/mask.safetensors").density() for name in ("photos", "other"))
    True
    """
    path = combine_masks(settings.out, settings.operation, [open_mask(path) for path in settings.masks])
    return Inspection(load(path))


combine = call(CombineSettings, run)
