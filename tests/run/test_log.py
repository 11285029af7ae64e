"""The log, whole, torn and with steps taken twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfmask.errors import RunError
from selfmask.run.log import Log


def write(path: Path, *lines: object, tail: str = "") -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail, encoding="utf-8")
    return path


def test_curves_are_the_numbers_of_the_file(tmp_path: Path) -> None:
    log = Log.read(
        write(
            tmp_path / "log.jsonl",
            {"step": 0, "loss": 2.0, "off": 0.0},
            {"step": 5, "loss": float("nan"), "accuracy": 0.5},
            {"step": 10, "loss": 1, "accuracy": 0.75, "off": 0.125},
            {"note": "a line that is no step"},
        )
    )
    assert log.curve("loss") == ([0, 10], [2.0, 1.0])
    assert log.curve("accuracy") == ([5, 10], [0.5, 0.75])
    assert log.keys == ("loss", "off", "accuracy")
    assert log.curve("nothing") == ([], [])
    assert len(log.steps) == 3
    assert not log.torn


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    log = Log.read(write(tmp_path / "log.jsonl", {"step": 0, "loss": 2.0}, tail='{"step": 1, "lo'))
    assert log.torn
    assert len(log.steps) == 1


def test_of_a_step_taken_twice_the_later_counts(tmp_path: Path) -> None:
    lines = [{"step": s, "loss": value} for s, value in ((0, 9.0), (1, 8.0), (2, 7.0), (1, 6.0), (2, 5.0))]
    log = Log.read(write(tmp_path / "log.jsonl", *lines))
    assert log.curve("loss") == ([0, 1, 2], [9.0, 6.0, 5.0])


@pytest.mark.parametrize(("line", "why"), [("{broken", "not JSON"), ("[1, 2]", "holds a list")])
def test_damage_inside_is_named_by_line(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"step": 0}}\n{line}\n{{"step": 1}}\n', encoding="utf-8")
    with pytest.raises(RunError, match=f"line 2.*{why}"):
        Log.read(path)
