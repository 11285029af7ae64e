"""What a plan works out beside the settings."""

import pytest

from selfmask.training import AdaptSettings, make_plan


@pytest.mark.parametrize("size", [None, 32])
def test_native_is_the_pretraining_size_whatever_the_views(size: int | None) -> None:
    plan = make_plan(AdaptSettings("digits", objective="distil", size=size, steps=2))
    assert plan.native == 224
    assert plan.size == (size or 48)
    assert plan.backbone.preprocessing.size == plan.size
