"""The untouched network's look at the images, taken before a run without labels, and the masked one's beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from torch import Tensor

from selfmask.features.agreement import Agreement, Look, look, nearest, shared
from selfmask.features.features import features
from selfmask.features.forecast import Forecast, forecast
from selfmask.images.image_set import ImageSet
from selfmask.objectives.distil import target_size_for
from selfmask.objectives.registry import objective_class
from selfmask.run.plan import Plan

MOST, FEWEST = 500, 50
"""Images that are looked at; of fewer nothing is said."""


@dataclass(frozen=True)
class FirstLook:
    """What the untouched network makes of some images.

    unseen: whether the run does not train on them. nearest: neighbours as of `Look`, on views of `larger` pixels; both
    None where the network takes no larger views.
    """

    images: ImageSet
    unseen: bool
    look: Look
    nearest: Tensor | None
    larger: int | None

    @classmethod
    def of(cls, plan: Plan) -> Self | None:
        """Of up to 500 test images, else training images; None for an objective with labels, or with fewer than 50."""
        if (chosen := _to_look_at(plan)) is None:
            return None
        images, unseen = chosen
        order = np.random.default_rng(plan.settings.seed).permutation(len(images))
        images = images.subset(np.sort(order[:MOST]).tolist())
        seen = _look(plan, images)
        at = target_size_for(plan.size, plan.native, plan.backbone).value
        if at == plan.size:
            return cls(images, unseen, seen, None, None)
        x = features(
            plan.backbone, images, size=at, channels_last=plan.channels_last, what=f"neighbours at {at} px"
        )
        return cls(images, unseen, seen, nearest(x), at)

    def forecast(self, objective: str) -> Forecast | None:
        """What is to be expected of `objective` on these images; None where nothing is known."""
        found = float(self.look.found.float().mean())
        neighbours = None if self.nearest is None else float(shared(self.look.nearest, self.nearest).mean())
        return forecast(objective, found, neighbours, self.larger)

    def beside(self, plan: Plan) -> Agreement:
        """The plan's network as it is now, masked, beside it."""
        return Agreement.of(
            self.look, _look(plan, self.images), self.nearest, larger=self.larger, unseen=self.unseen
        )


def passes(plan: Plan) -> float:
    """What both looks cost, in images passed through the network at the views' size; 0 where there are none."""
    if (chosen := _to_look_at(plan)) is None:
        return 0.0
    above = target_size_for(plan.size, plan.native, plan.backbone).value / plan.size
    return min(MOST, len(chosen[0])) * (6 + above**2)  # three views twice, and a larger one


def _to_look_at(plan: Plan) -> tuple[ImageSet, bool] | None:
    """The images to choose from, and whether the run does not train on them."""
    if not plan.settings.evaluate or objective_class(plan.objective).labels == "needed":
        return None
    sets = ((plan.splits.test, True), (plan.train, False))
    return next(
        ((images, unseen) for images, unseen in sets if images is not None and len(images) >= FEWEST), None
    )


def _look(plan: Plan, images: ImageSet) -> Look:
    return look(
        plan.backbone, images, size=plan.size, seed=plan.settings.seed, channels_last=plan.channels_last
    )
