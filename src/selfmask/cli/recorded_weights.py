"""The files that a backbone's weights may be read from because a mask file names them."""

from __future__ import annotations

from pathlib import Path

from selfmask.backbones.spec import weight_places
from selfmask.cli.destination import check_out
from selfmask.maskfile.mask import Mask


def recorded_weights(mask: Mask) -> list[Path]:
    """The files that the backbone's weights may be read from unasked: their name in each folder of SELFMASK_WEIGHTS."""
    described = mask.metadata.get("backbone")
    name = described.get("weights") if isinstance(described, dict) else None
    return weight_places(name) if isinstance(name, str) else []


def check_recorded_weights(out: Path, mask: Mask) -> None:
    """Raise `SettingsError` where `out` is one of `recorded_weights`."""
    for path in recorded_weights(mask):
        check_out(out, file_of_weights=path)
