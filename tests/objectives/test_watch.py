"""Runs that go wrong are ended in words; runs that go well, and resumed ones, are left alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from selfmask.backbones.backbone import Backbone
from selfmask.errors import RunError
from selfmask.images.image_set import ImageSet
from selfmask.objectives.base import Batch, Job, Objective
from selfmask.objectives.contrast import Contrast, ContrastSettings
from selfmask.objectives.registry import objective_class, objective_settings
from selfmask.objectives.swav import Swav, SwavSettings
from selfmask.objectives.watch import RunWatch, spread_of

CHANCE = math.log(50)


def run(watch: RunWatch, losses: list[float], spread: float = 0.8, start: int = 0) -> None:
    for step, loss in enumerate(losses, start):
        watch.observe(step, 200, loss, spread)


def test_a_falling_loss_is_left_alone() -> None:
    run(RunWatch(CHANCE), [CHANCE * (1 - step / 300) for step in range(200)])


def test_a_loss_that_stays_at_chance_ends_the_run() -> None:
    watch = RunWatch(CHANCE)
    run(watch, [CHANCE] * 80)  # patience: 40 % of the run
    with pytest.raises(RunError, match=r"still at chance after 80 of 200 steps.*Take more steps"):
        run(watch, [CHANCE], start=80)


def test_a_loss_without_a_chance_level_may_stay() -> None:
    run(RunWatch(), [0.4] * 200)


def test_harm_ends_the_run() -> None:
    with pytest.raises(RunError, match=r"rose from 0\.400 to .*smaller score rate"):
        run(RunWatch(), [0.4] * 60 + [0.7] * 100)


def test_a_dip_that_heals_in_time_is_forgiven() -> None:
    run(RunWatch(), [0.4] * 20 + [0.8] * 20 + [0.3] * 160)


def test_collapse_ends_the_run_at_once() -> None:
    watch = RunWatch(CHANCE)
    run(watch, [3.0] * 50)
    with pytest.raises(RunError, match=r"collapsed at step .*every image gets the same"):
        run(watch, [3.0] * 150, spread=1e-6, start=50)
    assert int(watch.seen) < 200


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_the_loops_to_tell(loss: float) -> None:
    watch = RunWatch()
    run(watch, [0.4] * 60)
    watch.observe(60, 200, loss, 0.5)
    assert math.isfinite(float(watch.recent))
    assert int(watch.seen) == 60


def test_the_spread_of_features() -> None:
    x = F.normalize(torch.randn(1, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    assert spread_of(x.expand(8, -1)) == pytest.approx(0, abs=1e-6)
    assert spread_of(torch.cat([x, -x])) == pytest.approx(1)


def test_the_spread_is_that_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image a process is no collapse."""
    x = F.normalize(torch.randn(1, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    monkeypatch.setattr("selfmask.objectives.watch.gathered", lambda mine: torch.cat([mine, -mine]))
    assert spread_of(x) == pytest.approx(1)


@pytest.mark.parametrize("objective", ["contrast", "swav"])
def test_a_network_that_gives_one_feature_ends_the_run(objective: str) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.weight.expand(len(x), -1)

    made: Objective = Contrast(16, 8, 32, ContrastSettings(pull=0, whiten=False))
    if objective == "swav":
        made = Swav(16, 64, 32, SwavSettings(prototypes=4, queue=0))
        assert made.watch.chance == pytest.approx(math.log(4))
    batch = Batch([torch.zeros(8, 3, 4, 4)] * len(made.views), torch.zeros(8).long(), torch.arange(8))
    for step in range(39):  # two memories' length
        made.loss(Constant(), batch, step, 1000)
    made.loss(Constant(), batch, 39, 1000)
    with pytest.raises(RunError, match="every image gets the same one"):
        made.loss(Constant(), batch, 40, 1000)


def test_a_resumed_run_remembers() -> None:
    one, other = RunWatch(), RunWatch()
    run(one, [0.4] * 60)
    other.load_state_dict(one.state_dict())
    with pytest.raises(RunError, match=r"rose from 0\.400"):
        run(other, [0.7] * 100, start=60)


def test_a_third_more_is_harm() -> None:
    with pytest.raises(RunError, match="rose from"):
        run(RunWatch(), [0.4] * 60 + [0.52] * 140)


@pytest.mark.parametrize("kind", ["contrast", "distil", "swav"])
def test_each_objective_without_labels_is_watched(
    kind: str,
    backbone: Backbone,
    images: ImageSet,
    batch_for: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(
        RunWatch, "observe", lambda self, step, steps, loss, spread: seen.append((step, steps))
    )
    objective = objective_class(kind).make(
        Job(backbone, images, 12, 24, batch=8), objective_settings(kind, {})
    )
    objective.prepare(backbone, images)
    objective.loss(backbone.module, batch_for(objective, 3), 3, 10)
    assert seen == [(3, 10)]
