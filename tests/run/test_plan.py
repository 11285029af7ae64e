"""What a plan works out beside the settings."""

import pytest
import torch

from selfmask.errors import SettingsError
from selfmask.run.adapt_settings import AdaptSettings, ObjectiveName
from selfmask.run.plan import make_plan


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


def test_a_size_that_the_network_does_not_take_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = make_plan(AdaptSettings("digits", objective="distil", target_size=80, steps=2))
    taken = plan.backbone.module.forward

    def fixed(x: torch.Tensor) -> torch.Tensor:
        assert x.shape[-1] == plan.size, "another size"
        return taken(x)

    monkeypatch.setattr(plan.backbone.module, "forward", fixed)
    with pytest.raises(
        SettingsError, match=r"target_size 80: package:efficientnet_lite0 does not take images"
    ):
        plan.make_objective()


def test_objectives_without_targets_refuse_their_size() -> None:
    plan = make_plan(AdaptSettings("digits", objective="supervised", target_size=80, steps=2))
    with pytest.raises(SettingsError, match="--target-size goes with the objectives distil and selflabel"):
        plan.make_objective()
    with pytest.raises(SettingsError, match="--target-size must be positive, got 0"):
        AdaptSettings("digits", target_size=0)
