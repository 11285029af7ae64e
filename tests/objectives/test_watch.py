"""Runs that go wrong are ended in words; runs that go well, and resumed ones, are left alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from selfmask.backbones.backbone import Backbone
from selfmask.errors import DivergedError, RunError
from selfmask.images.image_set import ImageSet
from selfmask.objectives.base import Job
from selfmask.objectives.registry import objective_class, objective_settings
from selfmask.objectives.watch import RunWatch

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
def test_a_loss_that_is_no_number_ends_the_run(loss: float) -> None:
    with pytest.raises(DivergedError, match=r"at step 0: the scores moved too fast"):
        RunWatch().observe(0, 200, loss, 0.5)


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
