"""From the flags --rule, --density, --density-from, --scores to the rule of the mask set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from selfmask.errors import SettingsError
from selfmask.masking.rules import Progressive, Threshold, TopK
from selfmask.maskset import MaskSet
from selfmask.run.build import build_masks
from selfmask.run.plan import make_plan
from selfmask.run.settings import AdaptSettings


def test_flags_make_the_rule(tmp_path: Path) -> None:
    start = AdaptSettings("digits", objective="supervised", steps=7)
    plan = make_plan(start)
    masks = MaskSet(plan.backbone.module)
    masks.set_scores({n: torch.randn_like(s) for n, s in masks.scores.items()})
    found = {t.name: t.density for t in masks.status().tensors}
    mask = masks.save(tmp_path / "mask")
    masks.remove()

    expected = [
        ({}, Threshold(spread=0.95)),
        ({"optimizer": "sgd", "lr": 1.0}, Threshold()),
        ({"rule": "topk"}, TopK(0.5)),
        ({"rule": "topk", "density": 0.9, "scores": "magnitude"}, TopK(0.9, "magnitude")),
        ({"rule": "topk", "density_from": mask}, TopK(found)),
        ({"rule": "progressive", "density": 0.9}, TopK(Progressive(end=0.9, steps=7))),
        ({"rule": "progressive", "density_from": mask}, TopK(Progressive(end=found, steps=7))),
    ]
    for flags, rule in expected:
        masks = build_masks(make_plan(replace(start, **flags)))  # pyright: ignore[reportArgumentType]
        assert masks.rule == rule
        masks.remove()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"rule": "progressive"}, "--density-from MASK"),
        ({"rule": "progressive", "density": 0.9, "density_from": Path("a")}, "not both"),
        ({"rule": "topk", "density": 0.9, "density_from": Path("a")}, "not both"),
        ({"density_from": Path("a")}, "goes with --rule topk"),
        ({"scores": "magnitude"}, "goes with --rule topk"),
    ],
)
def test_flags_that_do_not_go_together(flags: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        AdaptSettings("digits", **flags)  # pyright: ignore[reportArgumentType]
