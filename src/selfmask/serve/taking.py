"""Masks that come in over the network: checked whole before they lie in the folder under their name."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from selfmask._common.files import write_atomically
from selfmask.bank.bank import Bank
from selfmask.bank.folder import checked_name, is_folder_of_masks
from selfmask.errors import SelfmaskError
from selfmask.serve.intake import Refused
from selfmask.serve.settings import BASE


def take_mask(bank: Bank, folder: Path, name: str, content: bytes) -> bool:
    """Write `content` as the mask `name` into the folder that the bank watches; returns whether it is a new one.

    Checked as `Bank.add` checks a file: damaged or hostile ones, and those of another base, are `Refused` (422), and
    what was there before stays. A mask of that name that lies elsewhere is not replaced (409).
    """
    try:
        checked_name(name)
    except SelfmaskError as error:
        raise Refused(422, str(error)) from None
    if name == BASE or name.startswith("."):
        raise Refused(422, f"a mask here cannot be called {name!r}")
    if not is_folder_of_masks(folder):
        raise Refused(409, "this service was started with single masks, and has no folder to put others in")
    path = Path(os.path.abspath(folder / f"{name}.mask.safetensors"))
    if path.is_symlink():
        raise Refused(409, f"the mask {name!r} is a link, whose file may be others' too: replace it by hand")
    there = name in bank
    if there and Path(bank.path(name)) != path:
        raise Refused(409, f"the mask {name!r} lies elsewhere, and is not replaced from here")
    if not there and path.exists():  # the bank has refused it, or has not looked yet
        bank.refresh()
        there = name in bank
        if not there:
            why = bank.refused.get(str(path), "it is no mask of this backbone")
            raise Refused(409, f"a file of that name lies there already, and is not written over: {why}")
    try:
        with tempfile.TemporaryDirectory(prefix="selfmask") as aside:
            trial = Path(aside) / "mask.safetensors"
            trial.write_bytes(content)
            try:
                bank.check(trial)
            except SelfmaskError as error:
                raise Refused(
                    422, str(error).replace(f"{trial}", "the file").replace(trial.name, "the file")
                ) from None
        write_atomically(path, content)
        bank.refresh()
    except OSError as error:
        raise Refused(507, f"the mask cannot be written: {error.strerror}") from None
    if name not in bank:
        if not there:
            with contextlib.suppress(OSError):
                os.unlink(path)
        raise Refused(409, f"the mask {name!r} could not be taken")
    return not there
