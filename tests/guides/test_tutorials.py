"""The commands of the tutorials run as they stand there, one tutorial after the other, on a few digits."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from PIL import Image

import selfmask
from selfmask.cli import main

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
ORDER = ("first-mask", "no-labels", "own-loop", "many-sites", "share")
_BLOCK = re.compile(r"(?:^(<!-- not run: [^>]+ -->)\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

# What makes a run short: a tutorial's own would take minutes.
SHORT = {"adapt": ["--size", "32", "--steps", "3", "--threads", "1", "--no-statistics"]}


def commands(name: str) -> list[str]:
    """The lines to run; a block that is not run says why."""
    text = (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")
    blocks = _BLOCK.findall(text)
    return [
        line
        for why_not, language, block in blocks
        if not (why_not or language)
        for line in block.strip().splitlines()
    ]


def pictures(folder: Path, count: int, *, classes: bool) -> None:
    images = selfmask.open_data("digits").train
    chosen = [place for place, label in enumerate(images.labels.tolist()) if label in (0, 1)][:count]
    for place in chosen:
        where = folder / str(int(images.labels[place])) if classes else folder
        where.mkdir(parents=True, exist_ok=True)
        pixels = images.image(place).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).resize((32, 32)).save(where / f"{images.names[place]}.png")


def test_every_tutorial_is_tried() -> None:
    assert {path.stem for path in TUTORIALS.glob("*.md")} == set(ORDER)


@pytest.mark.slow
def test_the_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "site-1", "site-2"):
        pictures(tmp_path / name, 30, classes=True)
    pictures(tmp_path / "new", 3, classes=False)
    next((tmp_path / "new").iterdir()).rename(tmp_path / "new" / "a.png")
    ran = 0
    for tutorial in ORDER:
        for line in commands(tutorial):
            words = shlex.split(line.replace("64,128", "16,32"))  # the smaller, the sooner
            if words[0] == "selfmask":
                status = main([*words[1:], *SHORT.get(words[1], [])])
                assert status == 0, (tutorial, line, capfd.readouterr().err)
            else:
                assert words[0] in ("mkdir", "cp")
                subprocess.run(words, check=True)
            ran += 1
    assert ran == 18
    assert selfmask.load("half.mask.safetensors").bytes()["file"] > 0
    with selfmask.Bank("package:efficientnet_lite0", "masks/") as bank:
        assert bank.names == ("site-1", "site-2")
