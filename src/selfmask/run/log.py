"""The log of a run, written and read: one JSON object a line, and the line of progress on the terminal."""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import TextColumn

from selfmask._common.console import tell
from selfmask.errors import RunError
from selfmask.features.passes import EVERY, progress_line

_ENDS = 5


@dataclass(frozen=True)
class Progress:
    """The objective's own `figure` (accuracy, cosine or loss) at both ends of a run: means of a few logged batches."""

    figure: str
    before: float
    after: float

    def __str__(self) -> str:
        return f"the {self.figure} on the batches trained on went from {self.before:.3g} to {self.after:.3g}"


@dataclass(frozen=True)
class Log:
    """What `log.jsonl` says.

    steps: one dictionary a step, in order, with "step" (from 0) and its figures; of a step that was taken twice (a run
        that was killed and resumed from its last checkpoint) the later one.
    torn: whether the last line was cut off, as a killed process leaves it.
    """

    steps: tuple[dict[str, Any], ...] = ()
    torn: bool = False

    @classmethod
    def read(cls, path: Path) -> Log:
        """Read `path`; empty where there is no such file.

        Raises `RunError`, naming the line, where anything but the last line is no JSON object.
        """
        if not path.is_file():
            return cls()
        steps: dict[int, dict[str, Any]] = {}
        torn = False
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError) as error:
                if number == len(lines):  # no newline after it: the process died while writing
                    torn = True
                    continue
                raise RunError(
                    f"{path}, line {number}, is not JSON ({error}); restore the file or leave it out"
                ) from error
            if not isinstance(entry, dict):
                raise RunError(
                    f"{path}, line {number}, holds a {type(entry).__name__}; a log line is a JSON object"
                )
            step = entry.get("step")
            if type(step) is int:
                steps[step] = {**steps.get(step, {}), **entry}
        return cls(tuple(steps[step] for step in sorted(steps)), torn)

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of the figure `key`, where it was logged and is finite."""
        steps: list[int] = []
        values: list[float] = []
        for entry in self.steps:
            value = entry.get(key)
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            with suppress(OverflowError):  # of a number of hundreds of digits
                if math.isfinite(value):
                    values.append(float(value))
                    steps.append(entry["step"])
        return steps, values

    def progress(self) -> Progress | None:
        """How far the objective came; None where nothing of it was logged."""
        for figure in ("accuracy", "cosine", "loss"):
            _, values = self.curve(figure)
            if values:
                some = min(_ENDS, max(len(values) // 3, 1))
                before, after = (sum(part) / some for part in (values[:some], values[-some:]))
                return Progress(figure, before, after)
        return None

    @property
    def keys(self) -> tuple[str, ...]:
        """The figures that some step has, in the order of their first appearance."""
        seen: dict[str, None] = {}
        for entry in self.steps:
            seen.update(dict.fromkeys(entry))
        return tuple(key for key in seen if key != "step" and self.curve(key)[0])


class LogWriter:
    """Writes `log.jsonl` and shows progress. On resume, lines of steps that will be made again are cut off.

    On a terminal the progress is a line that stays where it is; elsewhere a plain line now and then.
    """

    def __init__(
        self, path: Path, *, steps: int, start: int, batch: int, console: Console, title: str
    ) -> None:
        kept = [e for e in Log.read(path).steps if e["step"] < start] if start else []
        try:
            temporary = path.with_suffix(".jsonl.part")
            temporary.write_text("".join(json.dumps(e) + "\n" for e in kept), encoding="utf-8")
            os.replace(temporary, path)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise RunError(f"the log {path} cannot be written: {error.strerror}") from error
        self._batch, self._steps, self._title, self._console = batch, steps, title, console
        self._then, self._last = time.perf_counter(), start
        self._began, self._start = self._then, start
        self._said = self._then
        self._progress = progress_line(console, TextColumn("{task.fields[shown]}"))
        self._task = self._progress.add_task(title, total=steps, completed=start, shown="")

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Log the figures of step `step` (from 0) and show them."""
        now = time.perf_counter()
        rate = (step + 1 - self._last) * self._batch / max(now - self._then, 1e-9)
        self._then, self._last = now, step + 1
        entry = {
            "step": step,
            **{k: float(f"{v:.6g}") for k, v in figures.items()},
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
        if not self._console.is_terminal and now - self._said >= EVERY:
            self._said = now
            left = (now - self._began) / (step + 1 - self._start) * (self._steps - step - 1)
            tell(
                self._console,
                f"{self._title}: step {step + 1} of {self._steps}, {', '.join(shown)}, {left:.0f} s left",
            )

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
