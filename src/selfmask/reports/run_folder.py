"""A run's folder, whole or interrupted, as far as it can be read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfmask.cascades.cascade_file import load_cascade
from selfmask.cascades.network import Cascade
from selfmask.errors import MaskFileError, RunError, SelfmaskError
from selfmask.features.rows import Rows
from selfmask.maskfile.loading import load
from selfmask.maskfile.mask import Mask
from selfmask.reports.subjects import MASK_FILE
from selfmask.reports.training_log import TrainingLog, read_log

SETTINGS, LOG, RESULT = "settings.json", "log.jsonl", "result.json"
CASCADE, DISPATCHER = "cascade.safetensors", "dispatcher"


@dataclass(frozen=True)
class RunFolder:
    """What a folder holds; whatever is missing is None, and said in `problems`.

    Attributes:
        path: the folder.
        settings: as settings.json has them (empty where there is none).
        log: the training log.
        result: result.json as it is (empty where there is none).
        rows: the table of results in it.
        mask: the mask file; of a cascade, the dispatcher's mask.
        cascade: the cascade file, if the run is one.
        problems: what is missing or unreadable, one sentence each, for the reader.
    """

    path: Path
    settings: dict[str, Any]
    log: TrainingLog | None
    result: dict[str, Any]
    rows: Rows | None
    mask: Mask | None
    cascade: Cascade | None
    problems: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether the run came to its end: it has written a mask and a result."""
        return self.mask is not None and bool(self.result)

    @property
    def is_cascade(self) -> bool:
        """Whether the run is, or was to become, a cascade."""
        return self.cascade is not None or (self.path / DISPATCHER).is_dir()

    def bytes(self) -> dict[str, int]:
        """Bytes by part of the file that the run is about: the cascade's, else the mask's."""
        holder = self.cascade or self.mask
        return holder.bytes() if holder is not None else {}

    def setting(self, name: str) -> Any:
        """The setting `name` as it was chosen (result.json, the mask), else as it was given; or None."""
        training = self.mask.metadata.get("training") if self.mask is not None else None
        for source in (self.result, training, self.settings):
            found = _find(source, name)
            if found is not None:
                return found
        return None


def read_run(path: Path) -> RunFolder:
    """Read the run in `path` (a folder, or a mask file by itself).

    Raises `RunError` where nothing of a run is there at all.
    """
    if path.is_file():
        alone = ("Only the file was given: no log, no results.",)
        mask, cascade = _read_file(path)
        return RunFolder(path.parent, {}, None, {}, None, mask, cascade, alone)
    # A cascade keeps its dispatcher's log and mask in a folder of their own.
    inner = path / DISPATCHER if (path / DISPATCHER).is_dir() else path
    files = {SETTINGS: path, LOG: inner, RESULT: path, MASK_FILE: inner, CASCADE: path}
    present = [name for name, folder in files.items() if (folder / name).is_file()]
    if not present:
        what = f"holds none of {', '.join(files)}" if path.is_dir() else "does not exist"
        raise RunError(f"{path} {what}; name the folder of a run (--out of selfmask adapt), or a mask file")
    problems: list[str] = []
    settings = _json(path / SETTINGS, problems)
    result = _json(path / RESULT, problems)
    log = mask = cascade = None
    try:
        log = read_log(inner / LOG) if LOG in present else None
    except SelfmaskError as error:
        problems.append(str(error))
    try:
        if CASCADE in present:
            mask, cascade = _read_file(path / CASCADE)
        elif MASK_FILE in present:
            mask = load(inner / MASK_FILE)
    except SelfmaskError as error:
        problems.append(str(error))
    rows = _rows(result, problems)
    if mask is None and not {MASK_FILE, CASCADE} & set(present):
        reached = f" after step {log.steps[-1]['step'] + 1}" if log is not None and log.steps else ""
        problems.insert(
            0,
            f"The run stopped{reached} before it wrote a mask: there are no results yet. "
            "“selfmask adapt … --resume” goes on where it stopped.",
        )
    elif inner != path and CASCADE not in present:
        done = len(list(path.glob(f"expert-*/{MASK_FILE}")))
        problems.insert(
            0,
            f"The cascade is not finished: the dispatcher and {done} experts are learnt. "
            "What follows is about the dispatcher; “selfmask cascade … --resume” goes on.",
        )
    elif mask is not None and not result:
        problems.append("The run wrote its mask but no results: it was stopped before the evaluation.")
    elif result and rows is None:
        problems.append(
            "The results hold no table: the run had no labelled test images, or was told not to evaluate."
        )
    if log is not None and log.torn:
        problems.append("The last line of the log was cut off: the process was killed while writing it.")
    return RunFolder(path, settings, log, result, rows, mask, cascade, tuple(problems))


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


def _json(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} cannot be read ({error}).")
        return {}
    return content if isinstance(content, dict) else {"content": content}


def _rows(result: dict[str, Any], problems: list[str]) -> Rows | None:
    """The table of results, at the top of result.json or one level below."""
    for candidate in (result, *result.values()):
        if isinstance(candidate, dict) and candidate.get("rows") and "images" in candidate:
            try:
                return Rows.from_json(candidate)
            except (TypeError, KeyError, ValueError) as error:
                problems.append(f"The table in {RESULT} cannot be read ({error}).")
                return None
    return None


def _find(source: Any, name: str) -> Any:
    if not isinstance(source, dict):
        return None
    if source.get(name) is not None:
        return source[name]
    for value in source.values():
        if isinstance(value, dict) and value.get(name) is not None:
            return value[name]
    return None
