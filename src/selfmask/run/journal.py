"""The log of a run: one JSON object a line, and the line of progress on the terminal."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import TextColumn

from selfmask.errors import RunError
from selfmask.features.passes import progress_line


class Journal:
    """Writes `log.jsonl` and shows progress. On resume, lines of steps that will be made again are cut off."""

    def __init__(
        self, path: Path, *, steps: int, start: int, batch: int, console: Console, title: str
    ) -> None:
        kept = [e for e in read_log(path) if e["step"] < start] if start else []
        try:
            temporary = path.with_suffix(".jsonl.part")
            temporary.write_text("".join(json.dumps(e) + "\n" for e in kept), encoding="utf-8")
            os.replace(temporary, path)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise RunError(f"the log {path} cannot be written: {error.strerror}") from error
        self._batch = batch
        self._then, self._last = time.perf_counter(), start
        self._progress = progress_line(console, TextColumn("{task.fields[shown]}"))
        self._task = self._progress.add_task(title, total=steps, completed=start, shown="")

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Log the figures of step `step` (from 0) and show them."""
        now = time.perf_counter()
        rate = (step + 1 - self._last) * self._batch / max(now - self._then, 1e-9)
        self._then, self._last = now, step + 1
        entry = {
            "step": step,
            **{k: _short(v) for k, v in figures.items()},
            "images_per_second": round(rate, 1),
        }
        try:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        except OSError as error:
            raise RunError(
                f"the log cannot be written: {error.strerror}; make room and go on with --resume"
            ) from error
        shown = [f"{k} {v:.3g}" for k, v in figures.items() if k in ("loss", "accuracy")]
        if "off" in figures:
            shown.append(f"off {100 * figures['off']:.2f} %")
        shown.append(f"{rate:.0f} images/s")
        self._progress.update(self._task, completed=step + 1, shown=" · ".join(shown))

    def advance(self, step: int) -> None:
        """Show that step `step` was made, between two lines of the log."""
        self._progress.update(self._task, completed=step + 1)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._file.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, oldest first; a last line that a crash cut short is left out."""
    if not path.is_file():
        return []
    entries: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


def _short(value: float) -> float:
    return float(f"{value:.6g}")
