"""Where a command writes: never over what it reads, and into a file."""

from __future__ import annotations

import os
from pathlib import Path

from selfmask.errors import SettingsError


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


def _same(a: Path, b: Path) -> bool:
    if a.exists() and b.exists():
        return a.samefile(b)
    return os.path.realpath(a) == os.path.realpath(b)
