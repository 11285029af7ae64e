"""What a plan describes, made: the objective and the mask set."""

from __future__ import annotations

import torch

from selfmask.maskset import MaskSet
from selfmask.objectives.base import Job, Objective
from selfmask.objectives.registry import objective_class
from selfmask.run.plan import Plan


def build_objective(plan: Plan) -> Objective:
    """The objective of `plan`, as it is before `prepare`. Raises where the plan's data or network cannot serve it."""
    seed = plan.settings.seed
    job = Job(plan.backbone, plan.train, plan.size, plan.native, plan.fit.batch, seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # a head or prototypes may start at random
        return objective_class(plan.objective).make(job, plan.objective_settings)


def build_masks(plan: Plan) -> MaskSet:
    """The mask set of `plan`, on its backbone as it is now."""
    return MaskSet(
        plan.backbone.module,
        select=plan.selection,
        rule=plan.rule,
        norm_stats=plan.norm_stats,
        seed=plan.settings.seed,
        train_norms=plan.train_norms,
    )
