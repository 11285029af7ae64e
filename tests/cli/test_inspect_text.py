"""What `inspect` and `compare` print: right, whole, and for any metadata that a file may carry."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from selfmask._common.escape import printable
from selfmask.cli import main
from selfmask.cli.masks import show_comparison, show_inspection
from selfmask.cli.printing import print_rows
from selfmask.maskfile.loading import load
from selfmask.masking.rules import Progressive, TopK
from selfmask.maskset import MaskSet
from selfmask.tasks.compare import compare_masks
from selfmask.tasks.inspect import Inspection

LONG = "the_second_stage_of_the_network.downsample"


def saved(path: Path, seed: int = 0, **metadata: Any) -> Path:
    torch.manual_seed(0)
    inner = nn.Module()
    inner.add_module("downsample", nn.Linear(1100, 1000))
    model = nn.Sequential()
    model.add_module("the_second_stage_of_the_network", inner)
    masks = MaskSet(model, select=f"{LONG}.weight", rule=metadata.pop("rule", TopK(0.5)))
    masks.set_scores(
        {
            n: torch.rand(s.shape, generator=torch.Generator().manual_seed(seed))
            for n, s in masks.scores.items()
        }
    )
    masks.save(path, **metadata)
    masks.remove()
    return path


def test_bits_are_said_of_what_they_are_the_bits_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "m", head={"weight": torch.zeros(100, 1000)})
    assert main(["inspect", str(path)]) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    sizes, weights = load(path).bytes(), 1_100_000
    assert (
        f"file          {sizes['file']:,} bytes ({8 * sizes['file'] / weights:.3f} bits a masked weight)"
        in lines
    )
    assert (
        f"  masks       {sizes['masks']:,} bytes ({8 * sizes['masks'] / weights:.3f} bits a weight)" in lines
    )
    assert f"  head        {sizes['head']:,} bytes (float32)" in lines


def test_the_rule_is_shown_with_its_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "m", rule=TopK(Progressive(end=0.4, steps=70)))
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert "density 1.0 to 0.4 over 70 steps" in text
    assert "None" not in text


def test_a_training_record_in_ones_own_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "m", training="3 epochs on [bold]my[/bold] flowers")
    assert main(["inspect", str(path)]) == 0
    assert "3 epochs on [bold]my[/bold] flowers" in capsys.readouterr().out


class Strict(io.TextIOWrapper):
    """As standard output is: UTF-8, and an error where a text cannot be encoded."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", errors="strict")

    def text(self) -> str:
        self.flush()
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode()


def test_half_a_character_leaves_the_output_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "m")
    mask = load(path)
    mask.metadata["training"] = {"data": "flo\ud800wers", "\udc80": ["\udfff"]}
    monkeypatch.setattr("selfmask.tasks.inspect.open_mask", lambda path, **_: mask)
    out = Strict()
    monkeypatch.setattr("sys.stdout", out)
    assert main(["inspect", str(path), "--json"]) == 0
    assert json.loads(out.text())["training"] == {"data": "flo\\ud800wers", "\\udc80": ["\\udfff"]}
    out = Strict()
    monkeypatch.setattr("sys.stdout", out)
    assert main(["inspect", str(path)]) == 0
    assert "flo\\ud800wers" in out.text()


def test_printable_changes_nothing_else() -> None:
    document = {"a": [1, 2.5, None, True, "größer 😀 \\ud800"], "b": {"c": "θ"}}
    assert printable(document) == document


def test_tables_that_are_piped_are_not_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = saved(tmp_path / "a"), saved(tmp_path / "b", seed=1)
    assert main(["compare", str(a), str(b), "--tensors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    overall = compare_masks(load(a), load(b)).overall
    figures = [
        f"{n:,}" for n in (overall.total, overall.off_a, overall.off_b, overall.off_both, overall.hamming)
    ]
    for name in (f"{LONG}.weight", "all"):
        (line,) = (line for line in lines if line.startswith(name))
        assert line.split()[1:6] == figures
    assert main(["inspect", str(a), "--tensors"]) == 0
    assert any(
        line.startswith(f"{LONG}.weight ") and "1000 × 1100" in line
        for line in capsys.readouterr().out.splitlines()
    )


@pytest.mark.parametrize("width", [80, 60, 20])
def test_tables_on_a_narrow_terminal_are_folded_not_cut(width: int, tmp_path: Path) -> None:
    a, b = load(saved(tmp_path / "a")), load(saved(tmp_path / "b", seed=1))
    found = replace(compare_masks(a, b), each=True)
    for draw in (
        lambda console: show_comparison(found, console),
        lambda console: show_inspection(Inspection(a, True), console),
    ):
        out = io.StringIO()
        draw(Console(file=out, width=width, force_terminal=True, color_system=None, legacy_windows=False))
        text = out.getvalue()
        assert "…" not in text
        folded = "".join(line.split("  ")[0].strip() for line in text.splitlines())
        assert f"{LONG}.weight" in folded
    out = io.StringIO()
    show_comparison(found, Console(file=out, width=width, force_terminal=True, color_system=None))
    assert out.getvalue().count("1,100,000") == 2
    if width == 80:
        assert max(map(len, out.getvalue().splitlines())) <= 80


def test_names_are_not_read_as_markup(tmp_path: Path) -> None:
    out = io.StringIO()
    print_rows(("name", "n"), [("[red]x[/red]", "1")], folded=("name",), console=Console(file=out))
    assert "[red]x[/red]" in out.getvalue()
    print_rows(("name", "n"), [], folded=("name",), console=Console(file=out))
