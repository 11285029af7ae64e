"""The folder of a run: what lies where, and the rules that keep two runs from mixing.

settings.json (as given; result.json and the mask have what was chosen), log.jsonl, checkpoint.safetensors,
mask.safetensors, result.json, curves.png.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from selfmask._common.files import write_atomically
from selfmask.errors import RunError

SETTINGS, RESULT, MASK, CURVES = "settings.json", "result.json", "mask.safetensors", "curves.png"


def open_folder(folder: Path, settings: dict[str, Any], *, resume: bool) -> None:
    """Make `folder` for a new run, or check that it holds the run that `settings` describe.

    Raises `RunError` for a folder that is not empty (without `resume`), that holds no run, or that holds one
    made with other settings (the first that differs is named).
    """
    path = folder / SETTINGS
    if resume:
        if not path.is_file():
            raise RunError(
                f"--resume: {folder} holds no run (there is no {SETTINGS}); leave --resume out to start one"
            )
        before = read_json(path)
        for name, value in settings.items():
            if name not in before or before[name] != value:
                raise RunError(
                    f"--resume: the run in {folder} was made with {name} = {before.get(name)!r}, not {value!r}; "
                    "give the same settings, or start anew in another folder"
                )
        return
    if folder.is_dir() and any(folder.iterdir()):
        what = "a run; go on with it by --resume, or" if path.is_file() else "files that no run wrote;"
        raise RunError(f"the folder {folder} is not empty: it holds {what} name another with --out")
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; name a folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"the folder {folder} cannot be made: {error.strerror}; name another with --out"
        ) from error
    write_json(path, settings)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    try:
        write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + os.linesep).encode())
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {error.strerror}; make room and go on with --resume"
        ) from error


def read_json(path: Path) -> Any:
    """What `write_json` wrote. Raises `RunError` where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
