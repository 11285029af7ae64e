"""What a mask file says of its backbone, checked before a backbone is built from it: a file may come from anybody."""

from __future__ import annotations

import os
from pathlib import Path

from selfmask.artifact import Mask
from selfmask.errors import MaskFileError

_KINDS = {"spec": str, "weights": str, "image_size": int}
_WORDS = {str: "a text", int: "a whole number"}


def check_recorded_base(mask: Mask) -> None:
    """Raise `MaskFileError` where an entry that a backbone is rebuilt from is of the wrong type."""
    described = mask.metadata.get("backbone")
    if not isinstance(described, dict):
        return
    for key, kind in _KINDS.items():
        value = described.get(key)
        if value is not None and type(value) is not kind:
            raise MaskFileError(
                f"{mask.path.name}: its metadata's backbone has {key} = {value!r}, expected {_WORDS[kind]} or null: "
                "the file was not written by selfmask as it is; ask whoever made it"
            )


def recorded_weights(mask: Mask) -> list[Path]:
    """The files that the backbone's weights may be read from unasked: their name in each folder of SELFMASK_WEIGHTS."""
    described = mask.metadata.get("backbone")
    name = described.get("weights") if isinstance(described, dict) else None
    folders = [one for one in os.environ.get("SELFMASK_WEIGHTS", "").split(os.pathsep) if one]
    return [Path(folder) / name for folder in folders] if isinstance(name, str) else []
