"""Required values by place or by name: both forms parse to the same settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from selfmask.cli import main
from selfmask.cli.positions import placed


@dataclass(frozen=True)
class One:
    mask: Path
    data: str
    out_file: Path
    size: int | None = None


@dataclass(frozen=True)
class Many:
    masks: tuple[Path, ...]
    out: Path


@pytest.mark.parametrize(
    "line",
    [
        "m d o --size 3",
        "m --data d --out-file o --size 3",
        "m --size 3 --data=d --out-file=o",
        "--out-file o --mask m --size 3 --data d",
        "m o --data d --size 3",
        "m d --out-file o --size 3",
    ],
)
def test_every_form_is_the_same(line: str) -> None:
    assert placed(One, line.split()) == ["m", "d", "o", "--size", "3"]


@pytest.mark.parametrize("line", ["a b c --out o", "--masks-not x", "a b c o"])
def test_several_values(line: str) -> None:
    expected = line.split() if "--out" not in line else ["a", "b", "c", "o"]
    assert placed(Many, line.split()) == expected


@pytest.mark.parametrize("line", ["m --data d", "m d o x --data d", "--help", "m d o --data", ""])
def test_what_does_not_fit_is_left_to_the_parser(line: str) -> None:
    assert placed(One, line.split()) == line.split()


def test_the_commands_as_they_are_written_in_the_guides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each gets as far as the missing file: the arguments themselves were understood."""
    none = str(tmp_path / "none")
    for line in (
        ["evaluate", none, "--data", "digits"],
        ["compact", none, "--data", "digits", "--max-drop", "0.3", "--out", "x"],
        ["compact", none, "--data", "digits"],
        ["compact", none, "digits", "--out", "x"],
        ["apply", none, "--out", "model.safetensors"],
        ["combine", none, none, "--out", "x"],
    ):
        assert main(line) == 2, line
        assert "No such file" in capsys.readouterr().err, line
