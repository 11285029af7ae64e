"""What the commands on masks share: the mask that a path means, and where a result may be written."""

from __future__ import annotations

import os
from pathlib import Path

from selfmask.backbones.spec import weight_places
from selfmask.errors import SettingsError
from selfmask.maskfile.loading import load
from selfmask.maskfile.mask import Mask
from selfmask.run.folder import RunFolder


def open_mask(path: Path) -> Mask:
    """The mask in a file, or that of a run's folder.

    Raises `RunError` for a folder without one (and says whether a checkpoint lies there), `MaskFileError` for a file
    that is none, `SettingsError` where there is nothing.
    """
    if not path.exists():
        raise SettingsError(f"there is no {path}: name a mask file, or the folder of a run")
    return RunFolder(path).mask() if path.is_dir() else load(path)


def check_out(out: Path, **inputs: Path | None) -> None:
    """Raise `SettingsError` where `out` is a folder, or one of `inputs` by whatever path or link.

    The inputs' keywords are what the message calls them, with _ for a space; None is one that was not given.
    """
    for what, path in inputs.items():
        if path is not None and _same(out, path):
            link = "" if out == path else f" (it is {path})"
            raise SettingsError(
                f"{out}{link}: out is the {what.replace('_', ' ')} itself: name another, so that the old one stays"
            )
    if out.is_dir():
        raise SettingsError(f"{out}: out is a folder: name a file in it, {out / 'NAME'} say")


def check_recorded_weights(out: Path, mask: Mask) -> None:
    """Raise `SettingsError` where `out` is a file that the backbone's weights may be read from because `mask` names it:
    its name in each folder of SELFMASK_WEIGHTS."""
    described = mask.metadata.get("backbone")
    name = described.get("weights") if isinstance(described, dict) else None
    for path in weight_places(name) if isinstance(name, str) else []:
        check_out(out, file_of_weights=path)


def check_size(size: int | None) -> None:
    """Raise `SettingsError` where `size`, the side in pixels, is no size; None is the one a mask was learnt at."""
    if size is not None and size < 1:
        raise SettingsError(f"size is the side of the images in pixels, 1 or more, got {size}")


def learnt_at(mask: Mask) -> int | None:
    """The side of the images that the mask was learnt at, in pixels, where the file says it."""
    training = mask.metadata.get("training")
    size = training.get("size") if isinstance(training, dict) else None
    return size if type(size) is int and size > 0 else None


def learnt_classes(mask: Mask) -> tuple[str, ...] | None:
    """The names of the classes that the mask was learnt on, where the file says them."""
    training = mask.metadata.get("training")
    classes = training.get("classes") if isinstance(training, dict) else None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        return None
    return tuple(classes)


def _same(a: Path, b: Path) -> bool:
    if a.exists() and b.exists():
        return a.samefile(b)
    return os.path.realpath(a) == os.path.realpath(b)
