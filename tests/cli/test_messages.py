"""Tried as a new user would: whatever goes wrong ends in one clear line and a status that is not zero."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from PIL import Image

from selfmask.cli import COMMANDS, main, named


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1, err
    return err


def folder_of(path: Path, classes: dict[str, int]) -> Path:
    for name, count in classes.items():
        (path / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (24, 24), (i * 7 % 255, 80, 120)).save(path / name / f"{i}.png")
    return path


def test_wrong_path(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    line = said(capsys, "adapt", str(tmp_path / "fotos"), "--out", str(tmp_path / "out"))
    assert "fotos" in line
    assert not (tmp_path / "out").exists()


def test_empty_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in said(capsys, "adapt", str(tmp_path / "empty"), "--out", str(tmp_path / "out"))


def test_one_class(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = folder_of(tmp_path / "one", {"cat": 12})
    line = said(capsys, "adapt", str(data), "--objective", "supervised", "--out", str(tmp_path / "out"))
    assert "only one class" in line
    assert not (tmp_path / "out").exists()


def test_unknown_backbone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = said(capsys, "adapt", "digits", "--backbone", "timm:resnet81", "--out", str(tmp_path / "out"))
    assert "resnet18" in line
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not touch")
    line = said(capsys, "adapt", "digits", "--out", str(tmp_path))
    assert "not empty" in line
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_resume_where_there_is_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "holds no run" in said(capsys, "adapt", "digits", "--out", str(tmp_path / "none"), "--resume")
    assert not (tmp_path / "none").exists()


def test_resume_with_other_settings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from selfmask.run.folder import RunFolder
    from selfmask.run.settings import AdaptSettings

    folder = RunFolder(tmp_path / "run")
    with folder.held():
        folder.open(AdaptSettings("digits", steps=5).recorded(), resume=False)
    line = said(capsys, "adapt", "digits", "--steps", "6", "--out", str(tmp_path / "run"), "--resume")
    assert "steps: 5 there, 6 here" in line


def test_a_mask_for_another_base(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import timm

    import selfmask

    model = timm.create_model("test_resnet", num_classes=0)
    path = selfmask.MaskSet(model).save(
        tmp_path / "a.safetensors", backbone={"spec": "package:efficientnet_lite0"}
    )
    line = said(capsys, "apply", str(path), str(tmp_path / "w.safetensors"))
    assert "base" in line
    assert not (tmp_path / "w.safetensors").exists()


def test_a_damaged_mask(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "mask.safetensors"
    path.write_bytes(b"not a mask at all")
    assert "mask.safetensors" in said(capsys, "inspect", str(path))


def test_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adopt"]) == 2
    assert "did you mean 'adapt'" in capsys.readouterr().err


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    said = capsys.readouterr().out
    assert "--json" in said
    shown = [f.name for f in fields(named(COMMANDS[name].settings)) if f.name != "objective_settings"]
    assert [f for f in shown if f"--{f.replace('_', '-')}" not in said] == []


@pytest.mark.parametrize(
    "words", [["adapt", "digits"], ["evaluate", "m", "--data", "digits"], ["embed", "m", "digits"]]
)
def test_no_threads_at_all(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "--threads must be at least 1, got 0" in said(capsys, *words, "--threads", "0")


def test_inspect_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import timm

    import selfmask

    masks = selfmask.MaskSet(timm.create_model("test_resnet", num_classes=0))
    masks.set_scores({n: torch.randn_like(s) for n, s in masks.scores.items()})
    path = masks.save(tmp_path / "a.safetensors")
    assert main(["inspect", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["bytes"]) == {"masks", "statistics", "norms", "head", "metadata", "file"}
    assert document["bytes"]["file"] == path.stat().st_size


def test_the_version_is_the_packages_own(capsys: pytest.CaptureFixture[str]) -> None:
    import selfmask

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"selfmask {selfmask.__version__}\n"
