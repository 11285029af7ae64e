"""The log of a run as curves: `log.jsonl`, one JSON object a line, written while the run goes on."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfmask.errors import RunError


@dataclass(frozen=True)
class TrainingLog:
    """What `log.jsonl` says.

    Attributes:
        steps: one dictionary a step, with "step" and figures, by step; of a step that was taken twice (a run
            that was killed and resumed from its last checkpoint) the later one.
        events: the other lines ("started", "resumed", a warning …), in the order of the file.
        torn: whether the last line was cut off, as a killed process leaves it.
    """

    steps: tuple[dict[str, Any], ...]
    events: tuple[dict[str, Any], ...]
    torn: bool = False

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of the figure `key`, where it was logged and is finite."""
        steps: list[int] = []
        values: list[float] = []
        for entry in self.steps:
            value = entry.get(key)
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                steps.append(int(entry["step"]))
                values.append(float(value))
        return steps, values

    @property
    def keys(self) -> tuple[str, ...]:
        """The figures that some step has, in the order of their first appearance."""
        seen: dict[str, None] = {}
        for entry in self.steps:
            seen.update(dict.fromkeys(entry))
        return tuple(key for key in seen if key != "step" and self.curve(key)[0])


def read_log(path: Path) -> TrainingLog:
    """Read `path`. Raises `RunError`, naming the line, where anything but the last line is no JSON object."""
    steps: dict[int, dict[str, Any]] = {}
    events: list[dict[str, Any]] = []
    torn = False
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
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
        if isinstance(step, int) and "event" not in entry:
            steps[step] = {**steps.get(step, {}), **entry}
        else:
            events.append(entry)
    return TrainingLog(tuple(steps[step] for step in sorted(steps)), tuple(events), torn)
