"""What a plan describes, made: the objective and the mask set."""

from __future__ import annotations

from selfmask.maskset import MaskSet
from selfmask.objectives.base import Job, Objective
from selfmask.objectives.registry import objective_class
from selfmask.run.plan import Plan


def build_objective(plan: Plan) -> Objective:
    """The objective of `plan`, as it is before `prepare`. Raises where the plan's data or network cannot serve it."""
    job = Job(plan.backbone, plan.train, plan.size, plan.native, plan.fit.batch, plan.settings.seed)
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
