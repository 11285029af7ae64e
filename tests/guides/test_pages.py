"""The commands and the Python of the README, the tutorials and the how-tos run as they stand there, on a few digits."""

from __future__ import annotations

import glob
import itertools
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import selfmask
from selfmask.cli import main

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TUTORIALS = ("first-mask", "no-labels", "own-loop", "many-sites", "share")

# What makes a run short: a page's own would take minutes.
SHORT = {
    "adapt": ["--size", "32", "--steps", "3", "--threads", "1", "--no-evaluate"],
    "cascade": ["--size", "32", "--steps", "2", "--threads", "1", "--no-evaluate", "--no-pictures"],
    "report": ["--images", "0"],
}
LONG = {"--size", "--steps", "--epochs", "--images", "--threads"}


@dataclass(frozen=True)
class Block:
    """A block of code. why_not: the reason not to run it, where the page says one in a comment above it."""

    language: str
    lines: tuple[str, ...]
    why_not: str


def blocks(text: str) -> list[Block]:
    """Those in fences, and those that are indented by four spaces."""
    found: list[Block] = []
    why_not, before = "", ""
    lines = iter(text.splitlines())
    for line in lines:
        if comment := re.fullmatch(r"<!-- not run: (.+) -->", line):
            why_not = comment[1]
        elif line.startswith("```"):
            found.append(
                Block(line[3:], tuple(itertools.takewhile(lambda one: one != "```", lines)), why_not)
            )
            why_not = ""
        elif line.startswith("    ") and not before:
            found.append(Block("", (line[4:],), why_not))
            why_not = ""
        elif line.startswith("    ") and found and before.startswith("    "):
            found[-1] = replace(found[-1], lines=(*found[-1].lines, line[4:]))
        elif line:
            why_not = ""
        before = line
    return found


def commands(block: Block) -> list[str]:
    """Its command lines: those behind a $ where there are some, the rest being what they print, else all of them."""
    text = "\n".join(block.lines).replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip()]
    prompted = [line[2:] for line in lines if line.startswith("$ ")]
    return prompted or lines


NOT_RUN = {
    r"pip install": "it installs",
    r"make ": "it makes an environment, installs and downloads; CI runs each",
    r"selfmask serve|curl": "it serves until it is stopped: tests/serve",
    r"hf auth|selfmask (push|pull)|theirs\.": "it needs a hub: tests/cli/test_hub.py",
    r".*--ray": "it starts processes that stay: tests/cluster",
    r"torchrun ": "it needs several processes: tests/run/test_processes.py",
    r".*--backbone (clip|hf:)|.*--weights": "its weights are elsewhere: tests/backbones",
    r"selfmask embed cascade": "it needs a cascade: tests/embeddings",
    r".*--track (wandb|mlflow)": "it needs that tracker: tests/run/test_tracking.py",
    r"tensorboard ": "it serves until it is stopped",
    r"python benchmarks/": "it measures for minutes or hours",
}
"""Commands that are not run here, and why."""

INSTEAD = {
    "64,128,224": "16,32", "64,128": "16,32", "128,224": "32,48", "resnet18": "package:efficientnet_lite0",
    "shorts.jpg": "new/a.png", "photo.jpg": "new/a.png", "runs/clothing": "runs/photos",
    "flat:clothing/train": "photos/", "--query folder/": "--query new/", "06248e28….jpg": "a.png",
    "--experts 5": "--experts 2",
}  # fmt: skip
"""The digits' names for a page's."""


def reason_against(line: str) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if re.match(pattern, line)), None)


def run(line: str) -> bool:
    """Run one command line, shortened; False where it is one of `NOT_RUN`."""
    if reason_against(line) is not None:
        return False
    for name, other in INSTEAD.items():
        line = line.replace(name, other)
    words = shlex.split(line, comments=True)
    if words[0] != "selfmask":
        assert words[0] in ("mkdir", "cp", "head", "ls"), line
        subprocess.run(words, check=True, capture_output=True)
        return True
    short = SHORT.get(words[1], [])
    if words[1] in SHORT:
        for flag in LONG & set(words):
            place = words.index(flag)
            del words[place : place + 2]
    expanded = [str(path) for word in words[1:] for path in (glob.glob(word) if "*" in word else [word])]
    assert main([*expanded, *short]) == 0, line
    return True


def run_page(page: Path, names: dict[str, Any]) -> int:
    """Run what a page says, from top to bottom; how many command lines were run. Its Python shares `names`."""
    ran = 0
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.why_not or block.language not in ("", "python"):
            continue
        if block.language == "python":
            exec(compile("\n".join(block.lines), page.name, "exec"), names)
        else:
            ran += sum(map(run, commands(block)))
    return ran


def how_tos() -> list[str]:
    """The pages of the How-to shelf."""
    shelves = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)["nav"]
    shelf = next(shelf["How-to"] for shelf in shelves if "How-to" in shelf)
    return [path for entry in shelf for path in entry.values()]


def test_every_tutorial_is_tried() -> None:
    assert {path.stem for path in (DOCS / "tutorials").glob("*.md")} == set(TUTORIALS)


def test_no_reason_is_left_over() -> None:
    pages = [ROOT / "README.md", *(DOCS / "tutorials").glob("*.md"), *(DOCS / page for page in how_tos())]
    lines = [
        line
        for page in pages
        for block in blocks(page.read_text(encoding="utf-8"))
        if not block.language and not block.why_not
        for line in commands(block)
    ]
    assert not [pattern for pattern in NOT_RUN if not any(re.match(pattern, line) for line in lines)]


@pytest.mark.slow
def test_the_tutorials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "site-1", "site-2"):
        pictures(tmp_path / name, 30)
    pictures(tmp_path / "new", 3, classes=False)
    next((tmp_path / "new").iterdir()).rename(tmp_path / "new" / "a.png")
    assert sum(run_page(DOCS / "tutorials" / f"{name}.md", {}) for name in TUTORIALS) == 19
    assert selfmask.load("half.mask.safetensors").bytes()["file"] > 0
    with selfmask.Bank("package:efficientnet_lite0", "masks/") as bank:
        assert bank.names == ("site-1", "site-2")


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_the_readme() -> None:
    shutil.rmtree("runs")
    lines = [
        line
        for block in blocks((ROOT / "README.md").read_text(encoding="utf-8"))
        if not block.language and block.lines[0].startswith(("$ selfmask ", "make "))
        for line in commands(block)
    ]
    assert sum(map(run, lines)) == 5  # its Python: test_readme.py


@pytest.mark.slow
@pytest.mark.parametrize("page", how_tos())
@pytest.mark.usefixtures("here")
def test_the_how_to(page: str) -> None:
    run_page(DOCS / page, {"selfmask": selfmask})
