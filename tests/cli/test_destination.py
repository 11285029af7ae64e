"""No command writes over what it reads, by whatever path or link, and none takes a folder for a file."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import selfmask
from selfmask.backbones.spec import weight_places
from selfmask.cli import main
from selfmask.errors import SelfmaskError, SettingsError
from selfmask.tasks.opening import check_out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What is said, without the spaces and frames that depend on how long this folder's name is."""
    try:
        status = main([str(a) for a in arguments])
    except SystemExit as ended:  # the parser's way, which also builds the settings
        status = ended.code
    assert status == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return squeezed(err)


def squeezed(text: str) -> str:
    return re.sub(r"[\s│]", "", text)


@pytest.mark.parametrize("link", [None, "symbolic", "hard", "roundabout"])
@pytest.mark.parametrize("command", ["apply", "export", "combine", "compact", "embed"])
def test_a_mask_is_not_written_over(
    command: str, link: str | None, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    mask, other = pair
    out = mask.with_name("link.onnx")
    if command == "embed":  # it takes no other ending
        mask = mask.rename(mask.with_suffix(".npy"))
        out = out.with_suffix(".npy")
    if link == "symbolic":
        out.symlink_to(mask)
    elif link == "hard":
        os.link(mask, out)
    else:
        out = mask if link is None else mask.parent / ".." / mask.parent.name / mask.name
    before = mask.read_bytes()
    inputs = {"combine": [other, mask], "compact": [mask, "digits"], "embed": [mask, "digits"]}.get(
        command, [mask]
    )
    line = refused(capsys, command, *inputs, "--out", out)
    assert squeezed("out is the mask file itself: name another") in line
    assert out.name in line
    assert mask.read_bytes() == before
    assert {p.name for p in mask.parent.iterdir()} <= {mask.name, other.name, out.name}


@pytest.mark.parametrize("command", ["apply", "export", "compact"])
def test_weights_are_not_written_over(
    command: str, pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, link = tmp_path / "weights.pth", tmp_path / "link.pt2"
    weights.write_bytes(b"years of work")
    link.symlink_to(weights)
    inputs = {"compact": [pair[0], "digits"]}.get(command, [pair[0]])
    line = refused(capsys, command, *inputs, "--weights", weights, "--out", link)
    assert squeezed("out is the file of weights itself") in line
    assert squeezed(str(weights)) in line
    assert weights.read_bytes() == b"years of work"
    assert link.is_symlink()


@pytest.mark.parametrize("command", ["apply", "export", "combine", "compact"])
def test_a_folder_is_no_file(
    command: str,
    pair: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    inputs = {"combine": list(pair), "compact": [pair[0], "digits"]}.get(command, [pair[0]])
    for out in (str(folder), "."):
        assert squeezed(f"{out}: out is a folder: name a file in it") in refused(
            capsys, command, *inputs, "--out", out
        )
    assert list(folder.iterdir()) == []


def test_a_list_of_images_is_not_written_over(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images.csv"
    images.write_text("path,label\n")
    for data in (str(images), f"list:{images}"):
        assert squeezed("list of images itself") in refused(capsys, "compact", pair[0], data, "--out", images)
        assert squeezed("list of images itself") in refused(capsys, "predict", pair[0], data, "--out", images)
    assert images.read_text() == "path,label\n"


def test_weights_that_are_found_unasked_are_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from selfmask.maskset import MaskSet

    weights = tmp_path / "weights.onnx"
    weights.write_bytes(b"years of work")
    monkeypatch.setenv("SELFMASK_WEIGHTS", os.pathsep.join(["", str(tmp_path / "none"), str(tmp_path)]))
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    path = MaskSet(model, select="0.weight").save(
        tmp_path / "m.safetensors", backbone={"spec": "timm:resnet18", "weights": weights.name}
    )
    assert weight_places(weights.name) == [tmp_path / "none" / weights.name, weights]
    for command in ("apply", "export"):
        assert squeezed("out is the file of weights itself") in refused(
            capsys, command, path, "--out", weights
        )
    assert weights.read_bytes() == b"years of work"


def test_another_file_may_be_written_over(tmp_path: Path) -> None:
    mask, old = tmp_path / "mask", tmp_path / "old"
    mask.write_text("same")
    old.write_text("same")
    check_out(old, mask_file=mask, file_of_weights=None)
    check_out(tmp_path / "new", mask_file=mask)
    with pytest.raises(SettingsError, match="mask file itself"):  # neither is there yet
        check_out(tmp_path / "none", mask_file=tmp_path / "x" / ".." / "none")


@pytest.mark.parametrize("name", ["half \ud800 character", "nul \0"])
def test_a_name_that_no_file_can_have_is_not_there(name: str, tmp_path: Path) -> None:
    """Found by ten thousand cases of test_fuzz.py: a UnicodeEncodeError."""
    check_out(tmp_path / "out", mask_file=Path(name))
    with pytest.raises(SelfmaskError):
        selfmask.apply(Path(name), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_page_is_not_written_over_what_it_is_about(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = pair[0]
    run = tmp_path / "run"
    run.mkdir()
    for name in ("mask.safetensors", "settings.json"):
        (run / name).write_bytes(mask.read_bytes() if name.endswith("tensors") else b"{}")
    for about, out in ((mask, mask), (run, run / "mask.safetensors"), (run, run / "settings.json")):
        before = out.read_bytes()
        line = refused(capsys, "report", about, "--images", "0", "--out", out)
        assert squeezed("out is the file of the run itself: name another") in line
        assert out.read_bytes() == before


def test_what_is_no_file_stays_what_it_is(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A device, say, which a program with all rights could replace for the whole machine."""
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    line = refused(capsys, "combine", *pair, "--operation", "and", "--out", pipe)
    assert squeezed("there is something else than a file in the way") in line
    assert pipe.is_fifo()
    link.symlink_to(target)
    assert main(["combine", *map(str, pair), "--operation", "and", "--out", str(link)]) == 0
    assert link.is_symlink()
    assert selfmask.load(target).names
