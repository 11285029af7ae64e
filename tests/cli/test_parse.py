"""What a command cannot do without may be given by place or by name, before its options, after them or between."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from selfmask.cli import main
from selfmask.cli.parse import parse, words_of
from selfmask.errors import SettingsError
from selfmask.maskfile.loading import load
from selfmask.run.settings import HEADINGS, AdaptSettings


@dataclass(frozen=True)
class One:
    """Of three things."""

    mask: Path
    """A mask."""
    data: str
    """Some data."""
    out_file: Path
    """A file."""
    size: int | None = None
    """A size, in
    pixels."""
    loud: bool = False
    quiet: bool = True
    sides: tuple[int, ...] = ()


@pytest.mark.parametrize(
    "line",
    [
        "m d o --size 3",
        "--size 3 m d o",
        "m --size 3 d o",
        "m d --out-file o --size 3",
        "--out-file o --size=3 --data d --mask m",
    ],
)
def test_every_form_is_the_same(line: str) -> None:
    found = parse("x", One, line.split())
    assert found is not None
    assert found.settings == One(Path("m"), "d", Path("o"), 3)
    assert not found.json


@pytest.mark.parametrize(
    "line",
    ["m d o --loud --no-quiet --json", "--loud --json m d --no-quiet o", "--json --no-quiet --loud m d o"],
)
def test_options_without_a_value_take_none(line: str) -> None:
    found = parse("x", One, line.split())
    assert found is not None
    assert (found.settings.loud, found.settings.quiet, found.json) == (True, False, True)


@pytest.mark.parametrize("line", ["m d o --sides 1,2", "m d o --sides 1 2"])
def test_several_whole_numbers(line: str) -> None:
    found = parse("x", One, line.split())
    assert found is not None
    assert found.settings.sides == (1, 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("m d", "--out-file"),
        ("m d o x", "nothing is known to do with 'x'"),
        ("m d o --szie 3", "Did you mean --size"),
        ("m d o --size three", "--size"),
        ("m d o --size 3.5", "--size"),
        ("m d o --size", "--size"),
        ("m d o --sides 1,x", "--sides"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(line: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        parse("x", One, line.split())
    assert "\n" not in str(caught.value)


def test_help_has_the_words_of_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert words_of(One)["size"] == "A size, in pixels."
    assert parse("x", One, ["--help"]) is None
    assert "A size, in pixels." in capsys.readouterr().out


def test_help_of_adapt_shows_ten_flags_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse("adapt", AdaptSettings, ["--help"]) is None
    out = capsys.readouterr().out
    first = HEADINGS[""]
    assert len(first) == 10
    places = [out.index(f"--{name.replace('_', '-')}") for name in first]
    assert places == sorted(places)
    others = [name for heading, names in HEADINGS.items() if heading for name in names]
    assert min(out.index(f"--{name.replace('_', '-')} ") for name in others) > places[-1]
    assert set(first) | set(others) == set(words_of(AdaptSettings)) - {"objective_settings", "FREE"}
    # Settings of the objectives that auto takes, and of no other.
    assert "--contrast.crop" in out
    assert "--swav.prototypes" not in out
    assert parse("adapt", AdaptSettings, ["--objective", "swav", "--help"]) is None
    out = capsys.readouterr().out
    assert "--swav.prototypes" in out
    assert "--distil.crop" not in out


def test_settings_of_an_objective() -> None:
    found = parse(
        "adapt",
        AdaptSettings,
        [*["d", "--objective", "swav", "--swav.prototypes", "300", "--swav.count", "2", "0"]],
    )
    assert found is not None
    assert found.settings.objective_settings == {"prototypes": 300, "count": (2, 0)}
    for line, message in (
        ("d --swav.prototypes 300", "--objective is not given: say --objective swav"),
        (
            "d --objective distil --swav.prototypes 300",
            "is a setting of --objective swav, and --objective is distil",
        ),
        ("d --objective swav --swav.prototypes 1", "at least 2 prototypes"),
    ):
        with pytest.raises(SettingsError, match=message):
            parse("adapt", AdaptSettings, line.split())


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
        assert "there is no" in capsys.readouterr().err, line


@pytest.mark.parametrize("operation", ["and", "or"])
@pytest.mark.parametrize(
    "line",
    [
        "A B --out OUT --operation WHICH --json",
        "A B --operation WHICH --out OUT --json",
        "A B --json --out OUT --operation WHICH",
        "A B --out OUT --operation=WHICH --json",
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
    assert "there is no" in error.lower() or "no such file" in error.lower(), error
    assert "none" in error
