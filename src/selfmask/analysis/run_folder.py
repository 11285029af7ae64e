"""A run's folder, whole or interrupted, as far as it can be read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfmask.analysis.subjects import MASK_FILE
from selfmask.analysis.training_log import TrainingLog, read_log
from selfmask.artifact import Mask, load
from selfmask.errors import RunError, SelfmaskError
from selfmask.evaluation import Rows

SETTINGS, LOG, RESULT = "settings.json", "log.jsonl", "result.json"


@dataclass(frozen=True)
class RunFolder:
    """What a folder holds; whatever is missing is None, and said in `problems`.

    Attributes:
        path: the folder.
        settings: as settings.json has them (empty where there is none).
        log: the training log.
        result: result.json as it is (empty where there is none).
        rows: the table of results in it.
        mask: the mask file.
        problems: what is missing or unreadable, one sentence each, for the reader.
    """

    path: Path
    settings: dict[str, Any]
    log: TrainingLog | None
    result: dict[str, Any]
    rows: Rows | None
    mask: Mask | None
    problems: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether the run came to its end: it has written a mask and a result."""
        return self.mask is not None and bool(self.result)

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
        return RunFolder(
            path.parent,
            {},
            None,
            {},
            None,
            load(path),
            ("Only the mask file was given: no log, no results.",),
        )
    present = [name for name in (SETTINGS, LOG, RESULT, MASK_FILE) if (path / name).is_file()]
    if not present:
        what = (
            f"holds none of {SETTINGS}, {LOG}, {RESULT}, {MASK_FILE}" if path.is_dir() else "does not exist"
        )
        raise RunError(f"{path} {what}; name the folder of a run (--out of selfmask adapt), or a mask file")
    problems: list[str] = []
    settings = _json(path / SETTINGS, problems)
    result = _json(path / RESULT, problems)
    log = mask = None
    try:
        log = read_log(path / LOG) if LOG in present else None
    except SelfmaskError as error:
        problems.append(str(error))
    try:
        mask = load(path / MASK_FILE) if MASK_FILE in present else None
    except SelfmaskError as error:
        problems.append(str(error))
    rows = _rows(result, problems)
    if mask is None:
        reached = f" after step {log.steps[-1]['step'] + 1}" if log is not None and log.steps else ""
        problems.insert(
            0,
            f"The run stopped{reached} before it wrote a mask: there are no results yet. "
            "“selfmask adapt … --resume” goes on where it stopped.",
        )
    elif not result:
        problems.append("The run wrote its mask but no results: it was stopped before the evaluation.")
    elif rows is None:
        problems.append(
            "The results hold no table: the run had no labelled test images, or was told not to evaluate."
        )
    if log is not None and log.torn:
        problems.append("The last line of the log was cut off: the process was killed while writing it.")
    return RunFolder(path, settings, log, result, rows, mask, tuple(problems))


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
