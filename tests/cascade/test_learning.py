"""A whole cascade on digits with the default backbone: its parts, its files, a stop between experts, and resume."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from selfmask.artifact import load
from selfmask.cascade import CascadeRun, CascadeSettings, learn_cascade, load_cascade
from selfmask.cascade import experts as experts_module
from selfmask.cli.cascade import run
from selfmask.data import open_data
from selfmask.errors import DataError, RunError
from selfmask.training.loop import fit

QUIET = Console(quiet=True)


def tiny(folder: Path, **changed: Any) -> CascadeSettings:
    """Three steps at a rate at which weights do cross, on digits of 32 pixels."""
    values: dict[str, Any] = {
        "data": "digits", "out": folder, "objective": "supervised", "images": 150, "size": 32, "steps": 3, "batch": 16,
        "lr": 0.6, "warmup": 0.0, "experts": 2, "width": 20, "evaluate": False, "pictures": False, "threads": 1,
    }  # fmt: skip
    return CascadeSettings(**(values | changed))


@pytest.mark.slow
def test_a_cascade_stopped_between_experts_ends_as_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = learn_cascade(tiny(tmp_path / "whole"), console=QUIET)
    assert not whole.interrupted
    assert whole.experts == 2

    calls: list[Path] = []

    def stopping(
        backbone: Any, masks: Any, objective: Any, images: Any, settings: Any, folder: Path, **kw: Any
    ) -> Any:
        calls.append(folder)
        if len(calls) == 2:
            watch = lambda step: signal.raise_signal(signal.SIGTERM) or {}  # noqa: E731
            return fit(backbone, masks, objective, images, settings, folder, **kw, watch=watch)
        return fit(backbone, masks, objective, images, settings, folder, **kw)

    monkeypatch.setattr(experts_module, "fit", stopping)
    part = learn_cascade(tiny(tmp_path / "part"), console=QUIET)
    assert part.interrupted
    assert (tmp_path / "part" / "expert-1" / "mask.safetensors").is_file()
    assert not (tmp_path / "part" / "expert-2" / "mask.safetensors").is_file()
    assert (tmp_path / "part" / "expert-2" / "checkpoint.safetensors").is_file()
    finished = (tmp_path / "part" / "expert-1" / "mask.safetensors").stat().st_mtime_ns
    with pytest.raises(RunError, match="not empty"):
        learn_cascade(tiny(tmp_path / "part"), console=QUIET)
    with pytest.raises(RunError, match="experts = 2, not 3"):
        learn_cascade(tiny(tmp_path / "part", experts=3, resume=True), console=QUIET)

    assert run(tiny(tmp_path / "part", resume=True, evaluate=True, json=True)) == 0
    document = json.loads(capsys.readouterr().out)
    assert (tmp_path / "part" / "expert-1" / "mask.safetensors").stat().st_mtime_ns == finished
    assert len(calls) == 3  # only the unfinished expert was trained again
    _same_masks(whole, tmp_path / "part")
    _what_it_says(document)
    _embeds(tmp_path / "part")


def _same_masks(whole: CascadeRun, folder: Path) -> None:
    one, other = load_cascade(whole.file), load_cascade(folder / "cascade.safetensors")
    for number in range(3):
        mine, theirs = one.member(number).masks(), other.member(number).masks()
        assert all(torch.equal(mask, theirs[name]) for name, mask in mine.items())
        assert number == 0 or any(
            not torch.equal(mask, one.dispatcher.masks()[name]) for name, mask in mine.items()
        )


def _what_it_says(document: dict[str, Any]) -> None:
    result = document["result"]
    names = [row["name"] for row in result["rows"]["rows"]]
    assert names == [
        "pretrained", "statistics only", "self-masked", "self-masked, whitened", "conditional", "unconditional",
    ]  # fmt: skip
    assert [result["passes"][name] for name in names] == [1, 1, 1, 1, 2, 3]
    assert sum(cluster["images"] for cluster in result["clusters"]) == 150
    assert all(cluster["covered"][-1] == pytest.approx(1) for cluster in result["clusters"])
    assert result["storage"]["masks"] < result["storage"]["separate"]


def _embeds(folder: Path) -> None:
    """Without being told the backbone, from the file alone."""
    cascade = load_cascade(folder / "cascade.safetensors")
    test = open_data("digits").test
    assert test is not None
    images = test.subset(range(12))
    x = cascade.embed(images)
    # The rate of this test leaves the features few directions; the fusion keeps no more than there are.
    assert x.shape == (12, cascade.fusions["conditional"].width)
    assert 1 <= x.shape[1] <= 20
    assert float((cascade.embed(images.subset([3])) - x[3]).abs().max()) < 1e-3
    assert load(folder / "dispatcher" / "mask.safetensors").names == cascade.dispatcher.names


@pytest.mark.slow
def test_more_experts_than_the_images_support(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="40 experts need at least 640 images"):
        learn_cascade(tiny(tmp_path / "many", experts=40, steps=1), console=QUIET)
    # The dispatcher is kept: with fewer experts only the router and the experts are still to be made.
    assert (tmp_path / "many" / "dispatcher" / "mask.safetensors").is_file()
