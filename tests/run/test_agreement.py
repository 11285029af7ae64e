"""A run without labels says what measures that need none come to, on images that it did not train on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from selfmask.errors import DataError
from selfmask.features.forecast import LIMITS
from selfmask.maskfile.loading import load
from selfmask.run import agreement as module
from selfmask.run.adapt import Run, learn_mask
from selfmask.run.agreement import FirstLook
from selfmask.run.folder import RunFolder
from selfmask.run.plan import make_plan
from selfmask.run.settings import AdaptSettings


def settings(weights: Path, out: Path) -> AdaptSettings:
    return AdaptSettings(
        "digits", out=out, backbone="timm:test_resnet", weights=weights, objective="contrast", size=32, batch=16,
        images=200, steps=8, threads=1, statistics=False, larger=False, lr=0.3,
    )  # fmt: skip


def learnt(chosen: AdaptSettings) -> Run:
    return learn_mask(chosen, Console(quiet=True))


def test_the_verdict_of_a_run_is_that_of_its_file(weights: Path, tmp_path: Path) -> None:
    chosen = settings(weights, tmp_path / "run")
    run = learnt(chosen)
    assert run.result is not None
    found = run.result.agreement
    assert found is not None
    assert (found.images, found.unseen, found.larger) == (500, True, 64)
    assert found.sentence in run.result.verdict.sentence
    assert run.result.forecast is not None
    assert run.result.forecast.helps == (found.shared is not None and found.shared[0] < LIMITS["contrast"][1])
    assert RunFolder(chosen.folder()).result() == run.result

    plan = make_plan(chosen)
    before = FirstLook.of(plan)
    assert before is not None
    assert not set(before.images.names) & set(plan.train.names)
    assert before.beside(plan).found_gain.value == 0
    with load(run.mask).apply(plan.backbone.module):
        assert before.beside(plan) == found


def test_labels_do_instead(weights: Path, tmp_path: Path) -> None:
    plan = make_plan(replace(settings(weights, tmp_path / "run"), objective="supervised"))
    assert FirstLook.of(plan) is None


def test_what_cannot_be_looked_at_loses_nothing(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> torch.Tensor:
        raise DataError("views: not finite")

    monkeypatch.setattr(module.FirstLook, "beside", broken)
    run = learnt(settings(weights, tmp_path / "run"))
    assert run.result is not None
    assert run.result.agreement is None
    assert "looking at the masked network without labels failed: views: not finite" in run.result.warnings
    assert load(run.mask).names
