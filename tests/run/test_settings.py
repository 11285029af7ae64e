"""The schedule and the defaults."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from selfmask.backbones.backbone import Backbone
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.errors import SettingsError
from selfmask.images.image_set import ImageSet
from selfmask.objectives.supervised import Supervised
from selfmask.objectives.swav import Swav
from selfmask.objectives.text import Text
from selfmask.run import adapt
from selfmask.run.plan import view_size
from selfmask.run.schedule import FitSettings, default_rate, path_length, rate_at, step_count
from selfmask.run.settings import AdaptSettings


@settings(deadline=None, max_examples=80)
@given(steps=st.integers(1, 400), warmup=st.floats(0, 0.9))
def test_the_rate_rises_then_falls(steps: int, warmup: float) -> None:
    fit = FitSettings(steps=steps, rate=2.0, warmup=warmup)
    rates = [rate_at(step, fit) for step in range(steps)]
    assert all(0 <= rate <= 2.0 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_the_papers_schedule() -> None:
    """λ = 50, linear to epoch 40 of 150, then a cosine to 0 (PAPER §6)."""
    fit = FitSettings(steps=1500, method="sgd", rate=50.0, warmup=40 / 150)
    assert math.isclose(rate_at(199, fit), 25.0, rel_tol=0.01)
    assert math.isclose(rate_at(400, fit), 50.0)
    assert math.isclose(rate_at(950, fit), 25.0, rel_tol=1e-9)
    assert rate_at(1499, fit) < 0.001


def test_the_papers_constants() -> None:
    resnet = Supervised.paper("resnet")
    assert (resnet.lr, resnet.epochs, resnet.warmup) == (50.0, 150.0, 40 / 150)
    assert (Text.paper("clip").lr, Text.paper("clip").epochs) == (10.0, 32.0)
    assert (Swav.paper("resnet").lr, Swav.paper("resnet").warmup) == (50.0, 0.0)


@pytest.mark.parametrize(
    ("side", "native", "family", "expected"),
    [
        (8, 224, "resnet", 48),
        (32, 224, "resnet", 64),
        (192, 224, "resnet", 128),
        (32, 224, "vit", 56),
    ],
)
def test_view_sizes(side: int, native: int, family: str, expected: int) -> None:
    images = ImageSet.from_array(torch.zeros(3, 3, side, side, dtype=torch.uint8))
    backbone = Backbone(nn.Conv2d(3, 1, 14, stride=14), None, family, 1, Preprocessing(size=native))
    assert view_size(images, backbone, on_cpu=True) == expected


def test_steps() -> None:
    assert step_count(640, 64, None, 7, 4) == 7
    assert step_count(640, 64, 3, None, 4) == 30
    assert step_count(64, 64, None, None, 4) == 150
    assert step_count(64_000, 64, None, None, 4) == 4000
    assert step_count(64_000, 64, None, None, 8) == 8000


@pytest.mark.parametrize(
    "bad",
    [{"steps": 0}, {"rate": 0.0}, {"rate": math.inf}, {"warmup": 1.0}, {"batch": 1}, {"method": "lion"}],
)
def test_bad_training_settings(bad: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        replace(FitSettings(steps=5), **bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"data": ""},
        {"epochs": 2.0, "steps": 5},
        {"objective_settings": {"crop": 1.5}, "objective": "distil"},
        {"lr": -1.0},
        {"rule": "progressive"},
        {"density": 0.5},
        {"rule": "topk", "spread": 0.5},
        {"finetune_lr": 0.1},
        {"finetune": True, "evaluate": False},
        {"norms_alone": True, "evaluate": False},
    ],
)
def test_bad_adapt_settings(bad: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        AdaptSettings(**{"data": "digits", **bad})  # pyright: ignore[reportArgumentType]


def test_the_first_step_of_a_warm_up_moves() -> None:
    fit = FitSettings(steps=100, rate=2.0, warmup=0.1)
    assert rate_at(0, fit) == pytest.approx(2.0 / 11)


def test_a_short_run_takes_no_higher_rate_than_the_recipe_s() -> None:
    assert default_rate(FitSettings(steps=10), path=2.6, most=0.06) == 0.06
    assert default_rate(FitSettings(steps=1000), path=2.6, most=0.06) < 0.06


def test_an_accelerator_takes_the_native_size() -> None:
    backbone = Backbone(nn.Identity(), None, "resnet", 3, Preprocessing(size=224))
    images = ImageSet.from_array(torch.zeros(2, 3, 200, 200, dtype=torch.uint8))
    assert view_size(images, backbone, on_cpu=False) == 224
    assert view_size(images, backbone, on_cpu=True) == 128


@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_so_many_steps_are_enough(warmup: float) -> None:
    fit = FitSettings(steps=4, rate=0.015, warmup=warmup)
    steps = adapt._enough(fit, 0.05)
    assert path_length(replace(fit, steps=steps)) >= 0.05
    assert path_length(replace(fit, steps=steps - 1)) < 0.05
