"""Names in a stranger's folder or file are shown by every command, and obeyed by no terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from selfmask.cli import main
from selfmask.errors import RunError
from selfmask.images.opening import open_data
from selfmask.maskfile.loading import load
from selfmask.maskset import MaskSet

ESCAPE = "\x1b]52;c;cm0gLXJm\x07\u202e"


def photos(folder: Path, *classes: str) -> Path:
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (24, 24), (30 * i, 100 * place, 120)).save(folder / name / f"{i}.png")
    return folder


def stop(*_: Any, **__: Any) -> Any:
    raise RunError(f"far enough{ESCAPE}\nin this folder")


def test_a_run_on_a_folder_of_odd_names(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("selfmask.run.adapt.fit", stop)
    data = photos(tmp_path / f"photos{ESCAPE}", f"cat{ESCAPE}", "[red]dog[/x]$x^{", os.fsdecode(b"\xff\xfe"))
    words = ["--backbone", "timm:test_resnet", "--weights", str(weights), "--size", "32", "--no-evaluate"]
    assert main(["adapt", str(data), "--out", str(tmp_path / "run"), *words]) == 2
    error = capsys.readouterr().err
    assert "photos\\x1b]52;c;cm0gLXJm" in error
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", error)
    # The message too has one line, whatever it quotes.
    assert error.splitlines()[-1].startswith("selfmask adapt: far enough\\x1b]52")
    assert error.splitlines()[-1].endswith("\\nin this folder")


def test_a_class_whose_name_is_not_utf_8_comes_to_the_end(tmp_path: Path, weights: Path) -> None:
    data = photos(tmp_path / "photos", "cat", os.fsdecode(b"\xff\xfe"))
    run = [
        "adapt",
        str(data),
        "--out",
        str(tmp_path / "run"),
        "--backbone",
        "timm:test_resnet",
        "--steps",
        "2",
    ]
    assert main([*run, "--weights", str(weights), "--size", "32", "--no-evaluate", "--batch", "8"]) == 0
    mask = load(tmp_path / "run/mask.safetensors")
    assert mask.classes == open_data(data).train.classes == ("cat", "\\udcff\\udcfe")


@pytest.mark.parametrize("command", ["inspect", "analyze", "push", "combine"])
def test_what_a_mask_file_says(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = MaskSet(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), select="0.weight")
    text = f"leaves{ESCAPE}[red]x[/y]"
    path = masks.save(
        tmp_path / f"m{ESCAPE}.safetensors", base=text, training={"data": text, "objective": text, "classes": [text]},
        rule={"name": text}, rows={"rows": [{"name": text, "knn": {"value": 0.5, "low": 0.4, "high": 0.6}}]},
    )  # fmt: skip
    rest = {"push": ["me/x", "--preview"], "combine": [str(path), "--out", str(tmp_path / f"o{ESCAPE}")]}
    for more in ([], ["--json"]):
        assert main([command, str(path), *rest.get(command, []), *more]) == 0
        out = capsys.readouterr().out
        assert "\\x1b]52" in out or (more and "\\u001b]52" in out)
        assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", out)


def test_a_terminal_of_few_letters(tmp_path: Path) -> None:
    """θ, × and any name, where standard output is ASCII: they ended in UnicodeEncodeError."""
    path = MaskSet(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), select="0.weight").save(
        tmp_path / "m.safetensors", training={"data": "größer θ 😀"}
    )
    ended = subprocess.run(
        [sys.executable, "-m", "selfmask", "inspect", str(path), "--tensors"], capture_output=True, check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert b"gr\\xf6\\xdfer \\u03b8" in ended.stdout
