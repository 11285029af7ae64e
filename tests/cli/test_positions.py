"""Required values by place or by name: both forms parse to the same settings."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from selfmask.cli import main
from selfmask.cli.positions import placed
from selfmask.maskfile.loading import load


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


@dataclass(frozen=True)
class Flags(One):
    loud: bool = False
    quiet: bool = True
    way: str = ""


@dataclass(frozen=True)
class ManyFlags(Many):
    way: str = ""
    loud: bool = False


@pytest.mark.parametrize(
    "line",
    [
        "m d o --size 3",
        "m --data d --out-file o --size 3",
        "m --size 3 --data=d --out-file=o",
        "--out-file o --mask m --size 3 --data d",
        "m o --data d --size 3",
        "m d --out-file o --size 3",
        "--size 3 m d o",
        "m --size 3 d o",
        "--size 3 m --out-file o d",
        "--size 3 -- m d o",
    ],
)
def test_every_form_is_the_same(line: str) -> None:
    assert placed(One, line.split()) == ["m", "d", "o", "--size", "3"]


@pytest.mark.parametrize("line", ["a b c --out o", "--masks-not x", "a b c o"])
def test_several_values(line: str) -> None:
    expected = line.split() if "--out" not in line else ["a", "b", "c", "o"]
    assert placed(Many, line.split()) == expected


@pytest.mark.parametrize(
    "line",
    [
        "m d o --loud --no-quiet --way x -h",
        "--loud m d o --no-quiet --way x -h",
        "--loud --no-quiet m d --way x o -h",
        "--loud m --no-quiet --data d --way x -h --out-file o",
    ],
)
def test_options_without_a_value_take_none(line: str) -> None:
    assert placed(Flags, line.split()) == ["m", "d", "o", "--loud", "--no-quiet", "--way", "x", "-h"]


@pytest.mark.parametrize(
    "line",
    [
        "a b c o --way x --loud",
        "a b c --way x --loud --out o",
        "--way x --loud a b c o",
        "--way x --out o --loud a b c",
        "a --way x b --loud c o",
        "--out o --masks a b c --way x --loud",
        "--masks a b c --way x --loud --out=o",
    ],
)
def test_several_values_among_options(line: str) -> None:
    assert placed(ManyFlags, line.split()) == ["--way", "x", "--loud", "a", "b", "c", "o"]


def test_values_that_look_like_options() -> None:
    assert placed(One, ["m", "d", "--out-file=-o"]) == ["--", "m", "d", "-o"]
    assert placed(One, ["--size", "3", "--", "-m", "d", "o"]) == ["--size", "3", "--", "-m", "d", "o"]
    assert placed(One, ["m", "-", "--out-file", "-1"]) == ["m", "-", "-1"]


@pytest.mark.parametrize(
    "line",
    [
        "m --data d",
        "m d o x --data d",
        "--help",
        "m d o --data",
        "",
        "m d --out-file --size 3",
        "m d o --size",
    ],
)
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


@pytest.mark.parametrize("operation", ["and", "or"])
@pytest.mark.parametrize(
    "line",
    [
        "A B --out OUT --operation WHICH --json",
        "A B --operation WHICH --out OUT --json",
        "A B --json --out OUT --operation WHICH",
        "A B OUT --operation=WHICH --json",
        "--json --operation WHICH A B OUT",
        "--out OUT --json A B --operation WHICH",
        "--operation WHICH A --json B --out=OUT",
        "--masks A B --json --out OUT --operation WHICH",
    ],
)
def test_combine_in_any_order(
    line: str, operation: str, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = pair[0].with_name("made")
    words = {"A": str(pair[0]), "B": str(pair[1]), "OUT": str(out), "WHICH": operation}
    for name, value in words.items():
        line = re.sub(rf"\b{name}\b", value, line)
    assert main(["combine", *line.split()]) == 0
    a, b = (load(path).masks()["0.weight"] for path in pair)
    expected = a & b if operation == "and" else a | b
    assert json.loads(capsys.readouterr().out)["on"] == int(expected.sum())
    assert torch.equal(load(out).masks()["0.weight"], expected)


@pytest.mark.parametrize(
    "line",
    [
        "apply --json M --out X",
        "apply --head M --out X",
        "apply --head --json --backbone resnet18 M X",
        "apply --out X --head M",
        "apply M --head X --json",
        "export --head M --size 32 --out X",
        "compact --json --max-drop 0.3 M --out X --data digits",
        "compare --json M --b M",
        "push --no-private M --repo me/x",
        "analyze --base M M --json",
        "inspect --json M",
    ],
)
def test_options_first_in_every_command(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each gets as far as the missing file: the arguments themselves were understood."""
    words = {"M": str(tmp_path / "none"), "X": str(tmp_path / "x")}
    assert main([words.get(word, word) for word in line.split()]) == 2
    error = capsys.readouterr().err
    assert "no such file" in error.lower(), error
    assert "none" in error
