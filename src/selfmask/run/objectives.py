"""Which objective a name stands for, made to fit the plan."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from selfmask.errors import DataError, SettingsError
from selfmask.images.image_set import UNLABELLED
from selfmask.objectives.base import Objective
from selfmask.objectives.distil import Distil, DistilSettings
from selfmask.objectives.selflabel import SelfLabel, SelfLabelSettings
from selfmask.objectives.supervised import Supervised, SupervisedSettings
from selfmask.objectives.swav import PAPER, Swav, SwavSettings
from selfmask.objectives.targets import target_size
from selfmask.objectives.text import Text, TextSettings
from selfmask.run.defaults import short_side

if TYPE_CHECKING:
    from selfmask.run.plan import Plan


def make_objective(name: str, plan: Plan) -> Objective:
    """The objective called `name`, before `prepare`. Raises where the plan's data cannot serve it."""
    asked = plan.settings.target_size
    if asked is not None:
        if name not in _WITH_TARGETS:
            raise SettingsError(
                f"--target-size goes with the objectives {' and '.join(_WITH_TARGETS)}, not with {name}"
            )
        # Here, and not only when the targets are made: by then a folder is open and the base is measured.
        target_size(asked, plan.size, plan.native, plan.backbone)
    return _MAKERS[name](plan)


def _supervised(plan: Plan) -> Objective:
    settings, train = plan.settings, plan.train
    present = len(train.labels[train.labels != UNLABELLED].unique())
    if present < 2:
        raise DataError(
            f"supervised training needs images of at least two classes, {train.name} has {present}; "
            "to adapt without labels use --objective distil"
        )
    paper = settings.preset == "paper"
    chosen = SupervisedSettings(
        label_smoothing=settings.label_smoothing,
        class_weights=settings.class_weights,
        head_start="random" if paper else "probe",
        crop=settings.crop or (0.08 if paper else least_crop(plan)),
    )
    return Supervised(
        plan.backbone.width, len(train.classes), plan.size, chosen,
        flips=train.flips, interpolation=plan.backbone.preprocessing.interpolation,
    )  # fmt: skip


def least_crop(plan: Plan) -> float:
    """Least share of an image's area in a training view. What must not be mirrored (digits, text) fills its
    picture, and half of it may be another thing."""
    return 0.35 if plan.train.flips else 0.7


def _of_targets(plan: Plan) -> dict[str, Any]:
    """What was given of the settings that selflabel and distil share; the rest is theirs to choose."""
    asked = {"target_size": plan.settings.target_size, "crop": plan.settings.crop}
    return {name: value for name, value in asked.items() if value is not None}


def _selflabel(plan: Plan) -> Objective:
    chosen = SelfLabelSettings(**_of_targets(plan))
    return SelfLabel(
        plan.backbone.width, len(plan.train), plan.size, chosen, native=plan.native, flips=plan.train.flips,
        interpolation=plan.backbone.preprocessing.interpolation, seed=plan.settings.seed,
    )  # fmt: skip


def _distil(plan: Plan) -> Objective:
    chosen = DistilSettings(**_of_targets(plan))
    return Distil(
        plan.backbone.width, len(plan.train), plan.size, chosen, native=plan.native, flips=plan.train.flips,
        interpolation=plan.backbone.preprocessing.interpolation,
    )  # fmt: skip


def _swav(plan: Plan) -> Objective:
    patch = re.search(r"patch(\d+)", plan.backbone.spec or "")
    return Swav(
        plan.backbone.width, len(plan.train), plan.size, PAPER if plan.settings.preset == "paper" else SwavSettings(),
        batch=plan.fit.batch, short_side=short_side(plan.train), flips=plan.train.flips,
        multiple=int(patch[1]) if patch else 16,
    )  # fmt: skip


def _text(plan: Plan) -> Objective:
    return Text(
        plan.backbone.width, plan.train.classes, plan.size,
        TextSettings(label_smoothing=plan.settings.label_smoothing, crop=plan.settings.crop or least_crop(plan)),
        images=len(plan.train), flips=plan.train.flips,
        interpolation=plan.backbone.preprocessing.interpolation,
    )  # fmt: skip


_WITH_TARGETS = ("distil", "selflabel")
_MAKERS: dict[str, Callable[[Plan], Objective]] = {
    "supervised": _supervised,
    "selflabel": _selflabel,
    "distil": _distil,
    "swav": _swav,
    "text": _text,
}
