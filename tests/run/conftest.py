"""What a run's file says, measured anew from the file."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch.nn.functional as F

from selfmask.features.features import features
from selfmask.maskfile.mask import Mask
from selfmask.run.plan import make_plan
from selfmask.run.settings import AdaptSettings


@pytest.fixture(autouse=True)
def _quick_probe(quick_probe: None) -> None:
    """What a probe is worth is told elsewhere."""


def top1_of(settings: AdaptSettings, mask: Mask) -> float:
    """Share of the test images of a run with `settings` that the head in the file gets right on the masked network."""
    plan = make_plan(settings)
    test = plan.splits.test
    assert test is not None
    with mask.apply(plan.backbone.module):
        plan.backbone.preprocessing = plan.backbone.preprocessing.__class__.read(
            mask.metadata["preprocessing"]
        )
        x = features(plan.backbone, test, size=plan.size, channels_last=plan.channels_last)
    right = F.linear(x, mask.head["weight"], mask.head["bias"]).argmax(dim=1) == test.labels
    return float(right.double().mean())


@pytest.fixture(name="top1_of")
def _top1_of() -> Callable[[AdaptSettings, Mask], float]:
    """See `top1_of`."""
    return top1_of
