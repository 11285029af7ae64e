"""Which objective a name stands for, made to fit the plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfmask.errors import DataError, SettingsError
from selfmask.objectives.base import Objective
from selfmask.objectives.supervised import Supervised, SupervisedSettings

if TYPE_CHECKING:
    from selfmask.training.plan import Plan


def make_objective(name: str, plan: Plan) -> Objective:
    """The objective called `name`, before `prepare`. Raises where the plan's data cannot serve it."""
    settings, backbone = plan.settings, plan.backbone
    if name == "supervised":
        classes = len(plan.train.classes)
        if classes < 2:
            raise DataError(
                f"supervised training needs at least two classes, {plan.train.name} has {classes}; "
                "to adapt without labels use --objective selflabel"
            )
        paper = settings.preset == "paper"
        chosen = SupervisedSettings(
            label_smoothing=settings.label_smoothing,
            class_weights=settings.class_weights,
            head_start="random" if paper else "probe",
            crop=settings.crop or (0.08 if paper else 0.35),
        )
        return Supervised(
            backbone.width,
            classes,
            plan.size,
            chosen,
            flips=plan.train.flips,
            interpolation=backbone.preprocessing.interpolation,
        )
    raise SettingsError(f"unknown objective {name!r}")
