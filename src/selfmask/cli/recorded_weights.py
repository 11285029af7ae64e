"""The files that a backbone's weights may be read from because a mask file names them."""

from __future__ import annotations

import os
from pathlib import Path

from selfmask.artifact import Mask


def recorded_weights(mask: Mask) -> list[Path]:
    """The files that the backbone's weights may be read from unasked: their name in each folder of SELFMASK_WEIGHTS."""
    described = mask.metadata.get("backbone")
    name = described.get("weights") if isinstance(described, dict) else None
    folders = [one for one in os.environ.get("SELFMASK_WEIGHTS", "").split(os.pathsep) if one]
    return [Path(folder) / name for folder in folders] if isinstance(name, str) else []
