"""What a plan works out beside the settings."""

import pytest

from selfmask.errors import SettingsError
from selfmask.training import AdaptSettings, make_plan
from selfmask.training.adapt_settings import ObjectiveName


@pytest.mark.parametrize("size", [None, 32])
def test_native_is_the_pretraining_size_whatever_the_views(size: int | None) -> None:
    plan = make_plan(AdaptSettings("digits", objective="distil", size=size, steps=2))
    assert plan.native == 224
    assert plan.size == (size or 48)
    assert plan.backbone.preprocessing.size == plan.size


@pytest.mark.parametrize("objective", ["distil", "selflabel"])
def test_the_size_of_the_targets_reaches_the_objective(objective: ObjectiveName) -> None:
    plan = make_plan(AdaptSettings("digits", objective=objective, target_size=80, crop=0.5, steps=2))
    settings = plan.make_objective().settings
    assert (settings.target_size, settings.crop) == (80, 0.5)  # pyright: ignore[reportAttributeAccessIssue]


def test_objectives_without_targets_refuse_their_size() -> None:
    plan = make_plan(AdaptSettings("digits", objective="supervised", target_size=80, steps=2))
    with pytest.raises(SettingsError, match="--target-size goes with the objectives distil and selflabel"):
        plan.make_objective()
    with pytest.raises(SettingsError, match="--target-size must be positive, got 0"):
        AdaptSettings("digits", target_size=0)
