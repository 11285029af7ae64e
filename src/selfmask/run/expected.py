"""How long a whole run will take, said before it begins: from one timed pass over a few images."""

from __future__ import annotations

import time

from selfmask.features.features import features
from selfmask.objectives.base import Objective
from selfmask.run.agreement import passes
from selfmask.run.best_views import MOST_FOR_SIZE, larger_sizes
from selfmask.run.plan import Plan

_TIMED = 32
_BACKWARD = 2.0
"""Of a training step's passes the forward one is timed; the backward one, and the new weights, cost twice that."""


def expected_seconds(plan: Plan, objective: Objective, rows: int) -> float:
    """Seconds in all: `rows` networks measured (0: none), the preparation, the training, and what it is compared with.

    A few images are passed through the network twice; the second pass counts, as the first has memory to find.
    """
    some = plan.train.subset(range(min(_TIMED, len(plan.train))))
    an_image = 0.0
    for _ in range(2):
        began = time.perf_counter()
        features(
            plan.backbone, some, size=plan.size, channels_last=plan.channels_last, what="how long it takes"
        )
        an_image = (time.perf_counter() - began) / len(some)
    test = 0 if plan.splits.test is None else len(plan.splits.test)
    measured = rows * (len(plan.labelled) + test)
    looks = passes(plan)
    if larger := larger_sizes(plan):
        areas = [(size / plan.size) ** 2 for size in larger]
        if rows:  # a few images at some sizes, all at one that is not known yet
            measured += sum(areas) * min(MOST_FOR_SIZE, len(plan.labelled))
            measured += areas[len(areas) // 2] * (len(plan.labelled) + test)
        elif looks:  # two views of each
            looks += 2 * (1 + sum(areas)) * min(MOST_FOR_SIZE, len(plan.train))
    held_out = 0 if plan.held_out is None else len(plan.train) + 2 * len(plan.held_out)
    views = sum((view.size / plan.size) ** 2 for view in objective.views)
    trainings = (3 if plan.settings.search_lr else 1) + plan.settings.finetune + plan.settings.norms_alone
    training = plan.fit.steps * plan.fit.batch * views * (1 + _BACKWARD) * trainings
    return an_image * (measured + looks + held_out + len(plan.train) + training)


def in_words(seconds: float) -> str:
    """The line that is said."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return "about a minute in all" if seconds > 45 else "less than a minute in all"
    return f"about {minutes} minutes in all" if minutes < 120 else f"about {seconds / 3600:.0f} hours in all"
