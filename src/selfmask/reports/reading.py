"""A run's folder, whole, interrupted or damaged, as far as it can be read: what cannot is said, never raised."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfmask.cascades.cascade_file import load_cascade
from selfmask.cascades.network import Cascade
from selfmask.cascades.settings import CascadeSettings
from selfmask.errors import MaskFileError, RunError, SelfmaskError, SettingsError
from selfmask.features.rows import STOPPED, Rows
from selfmask.maskfile.loading import load
from selfmask.maskfile.mask import Mask
from selfmask.run.folder import RunFolder
from selfmask.run.log import Log
from selfmask.run.provenance import command_of
from selfmask.run.result import Result
from selfmask.run.settings import AdaptSettings


@dataclass(frozen=True)
class ReadRun:
    """What a folder holds; whatever is missing is None or empty, and said in `problems`.

    Attributes:
        path: the folder.
        recorded: its settings as they stand there.
        log: the training log; of a cascade, the dispatcher's.
        result: what was found.
        mask: the mask; of a cascade, the dispatcher's.
        cascade: the cascade file, if the run is one.
        is_cascade: whether the run is, or was to become, a cascade.
        problems: what is missing or unreadable, one sentence each, for the reader.
    """

    path: Path
    recorded: dict[str, Any]
    log: Log
    result: Result | None
    mask: Mask | None
    cascade: Cascade | None
    is_cascade: bool
    problems: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether the run came to its end: it has written a mask and what it measured, where it was to measure."""
        return self.mask is not None and self.result is not None and self.result.verdict != STOPPED

    @property
    def rows(self) -> Rows | None:
        """The table of results."""
        return self.result.rows if self.result is not None else None

    @property
    def settings(self) -> AdaptSettings | None:
        """The recorded settings, where they are ones that a command of today takes."""
        kind = CascadeSettings if self.is_cascade or "experts" in self.recorded else AdaptSettings
        try:
            return kind.read(self.recorded)
        except SettingsError:
            return None

    @property
    def command(self) -> str | None:
        """The command that made the run, else one that makes it from the recorded settings."""
        if self.result is not None:
            return shlex.join(self.result.command)
        settings = self.settings
        if settings is None:
            return None
        return shlex.join(
            command_of(settings, "cascade" if isinstance(settings, CascadeSettings) else "adapt")
        )

    @property
    def training(self) -> dict[str, Any]:
        """How it was trained: the result's or the mask's summary, else the settings as they were given."""
        told = self.result.training if self.result is not None else None
        if told is None and self.mask is not None:
            told = self.mask.metadata.get("training")
        return told if isinstance(told, dict) else self.recorded

    @property
    def data(self) -> str:
        """The name of the data; "" where nothing says it."""
        return (
            self.result.data if self.result else _text(self.training, "data") or _text(self.recorded, "data")
        )

    @property
    def backbone(self) -> str:
        """The backbone; "" where nothing says it."""
        described = self.mask.metadata.get("backbone") if self.mask is not None else None
        told = self.result.backbone if self.result is not None else None
        return told or _text(described, "spec") or _text(self.recorded, "backbone")

    @property
    def objective(self) -> str:
        """The objective; "" where nothing says it."""
        return self.result.objective if self.result else _text(self.training, "objective")

    def bytes(self) -> dict[str, int]:
        """Bytes by part of the file that the run is about: the cascade's, else the mask's."""
        holder = self.cascade or self.mask
        return holder.bytes() if holder is not None else {}


def read_run(path: Path) -> ReadRun:
    """Read the run in `path` (a folder, or a mask file by itself).

    Raises `RunError` where nothing of a run is there at all.
    """
    if path.is_file():
        mask, cascade = _read_file(path)
        alone = ("Only the file was given: no log, no results.",)
        return ReadRun(path.parent, {}, Log(), None, mask, cascade, cascade is not None, alone)
    folder = RunFolder(path)
    is_cascade = folder.dispatcher.path.is_dir() or folder.cascade_file.is_file()
    # A cascade keeps its dispatcher's log and mask in a folder of their own.
    inner = folder.dispatcher if folder.dispatcher.path.is_dir() else folder
    files = (folder.settings, inner.log_file, folder.result_file, inner.mask_file, folder.cascade_file)
    if not any(file.is_file() for file in files):
        names = ", ".join(file.name for file in files)
        what = f"holds none of {names}" if path.is_dir() else "does not exist"
        raise RunError(f"{path} {what}; name the folder of a run (--out of selfmask adapt), or a mask file")
    problems: list[str] = []
    recorded, log, result, mask, cascade = {}, Log(), None, None, None
    try:
        recorded = folder.recorded() if folder.settings.is_file() else {}
    except SelfmaskError as error:
        problems.append(str(error))
    try:
        log = inner.log()
    except SelfmaskError as error:
        problems.append(str(error))
    try:
        result = folder.result() if folder.result_file.is_file() else None
    except SelfmaskError as error:
        problems.append(str(error))
    try:
        if folder.cascade_file.is_file():
            mask, cascade = _read_file(folder.cascade_file)
        elif inner.mask_file.is_file():
            mask = inner.mask()
        elif inner.rejected_file.is_file():
            mask = load(inner.rejected_file)
    except SelfmaskError as error:
        problems.append(str(error))
    unfinished = _unfinished(folder, inner, log)
    if unfinished:
        problems.insert(0, unfinished)
    elif mask is not None and not folder.result_file.is_file():
        problems.append("The run wrote its mask but no results: it was stopped before the evaluation.")
    elif result is not None and result.rows is None:
        problems.append(f"The results hold no table. {result.verdict.sentence}")
    if log.torn:
        problems.append("The last line of the log was cut off: the process was killed while writing it.")
    return ReadRun(path, recorded, log, result, mask, cascade, is_cascade, tuple(problems))


def _unfinished(folder: RunFolder, inner: RunFolder, log: Log) -> str:
    """What is said of a run that was stopped before its end; "" for any other."""
    if folder.cascade_file.is_file():
        return ""
    if not (inner.mask_file.is_file() or inner.rejected_file.is_file()):
        reached = f" after step {log.steps[-1]['step'] + 1}" if log.steps else ""
        return (
            f"The run stopped{reached} before it wrote a mask: there are no results yet. "
            f"“selfmask {'adapt' if inner is folder else 'cascade'} … --resume” goes on where it stopped."
        )
    if inner is not folder:
        done = len(list(folder.path.glob(f"expert-*/{folder.mask_file.name}")))
        return (
            f"The cascade is not finished: the dispatcher and {done} experts are learnt. "
            "What follows is about the dispatcher; “selfmask cascade … --resume” goes on."
        )
    return ""


def _read_file(path: Path) -> tuple[Mask, Cascade | None]:
    """The mask in a mask file, or the dispatcher's of a cascade file and the cascade."""
    try:
        return load(path), None
    except MaskFileError as not_a_mask:
        try:
            cascade = load_cascade(path)
        except MaskFileError:
            raise not_a_mask from None
        return cascade.dispatcher, cascade


def _text(source: object, key: str) -> str:
    value = source.get(key) if isinstance(source, dict) else None
    return value if isinstance(value, str) else ""
