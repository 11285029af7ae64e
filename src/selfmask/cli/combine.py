"""`selfmask combine`: set algebra of masks of one backbone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from selfmask.backbones.spec import backbone_of
from selfmask.cli.destination import check_out
from selfmask.cli.inspect import describe
from selfmask.cli.output import print_json
from selfmask.cli.recorded_weights import check_recorded_weights
from selfmask.maskfile.derive import Operation, combine
from selfmask.maskfile.loading import load


@dataclass(frozen=True)
class CombineSettings:
    """Make one mask of several of the same base: on where all have it on, where any has, or where half have."""

    masks: tuple[Path, ...]
    """Two mask files or more."""
    out: Path
    """The new mask file."""
    operation: Operation = "majority"
    """"and": on where on in all. "or": on where on in any. "majority": on where on in at least half."""
    backbone: str | None = None
    """The backbone, where a file can be read only beside it and does not say which it is."""
    weights: Path | None = None
    """The backbone's file of weights, if it had one."""
    json: bool = False
    """Print one JSON document instead of text."""

    def __post_init__(self) -> None:
        for mask in self.masks:
            check_out(self.out, mask_file=mask)
        check_out(self.out, file_of_weights=self.weights)


def run(settings: CombineSettings) -> int:
    """Decode, combine, write."""
    masks = [load(path) for path in settings.masks]
    base: nn.Module | None = None
    needing = next((m for m in masks if m.needs_base), None)
    if needing is not None:
        check_recorded_weights(settings.out, needing)
        base = backbone_of(needing, settings.backbone, settings.weights).module
    path = combine(settings.out, settings.operation, masks, base=base)
    made = load(path, base=base)
    if settings.json:
        print_json(describe(made))
    else:
        print(f"{path}: {100 * made.density():.2f} % on, {made.bytes()['file']:,} bytes")
    return 0
