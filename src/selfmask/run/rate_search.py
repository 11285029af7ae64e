"""The rate of the scores, found by trying: whole trainings at rates twice apart, judged on the images held out.

No fixed rate serves all images. On some that the backbone knows, twice the derived rate destroys the network; on some
that it does not, a quarter of the best leaves it as it was (docs/defaults.md).
"""

from __future__ import annotations

import copy
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from selfmask._common.console import tell
from selfmask._common.processes import by_the_first, same_on_all
from selfmask.errors import DivergedError, SettingsError
from selfmask.maskfile.head import linear_layer
from selfmask.objectives.base import Objective
from selfmask.run.build import build_masks, build_objective
from selfmask.run.folder import RunFolder
from selfmask.run.loop import fit
from selfmask.run.measuring import held_out_logits
from selfmask.run.plan import Plan
from selfmask.run.result import RateTried, read_as, write_json

MOST = 6
"""Trainings at most."""


@dataclass(frozen=True)
class Searched:
    """tried: in their order. interrupted: a signal came; `steps` of the training at hand are in its checkpoint."""

    tried: tuple[RateTried, ...]
    interrupted: bool = False
    steps: int = 0

    @property
    def best(self) -> RateTried:
        """The one that the run goes on with."""
        return best_of(self.tried)

    def __str__(self) -> str:
        others = ", ".join(f"{one.right:.3f} at {one.rate:.3g}" for one in self.tried if one != self.best)
        return f"rate: {self.best.rate:.3g}, right on {self.best.right:.3f} of the images held out ({others})"


def next_rate(tried: Sequence[RateTried], first: float) -> float | None:
    """The rate to try next: twice the best so far, then half of it; None where both are known, or `MOST` were tried.

    >>> next_rate([RateTried(0.03, 0.7, 1.0), RateTried(0.06, 0.8, 0.7)], 0.03)
    0.12
    """
    if not tried:
        return first
    best = best_of(tried).rate
    known = {one.rate for one in tried}
    left = [rate for rate in (2 * best, best / 2) if rate not in known]
    return left[0] if left and len(tried) < MOST else None


def best_of(tried: Sequence[RateTried]) -> RateTried:
    """The one that is right most often, of equal ones that of the least loss."""
    return max(tried, key=lambda one: (one.right, -torch.inf if one.loss is None else -one.loss))


def search_rate(
    plan: Plan, objective: Objective, folder: RunFolder, device: torch.device, console: Console
) -> Searched:
    """Train `plan` at one rate after another, each from the base and from `objective` as it was prepared.

    Of the best the checkpoint and the log are then those of `folder`: a training that is to resume at its end. What
    `folder` has of a search that was stopped is not done again. Raises `DivergedError` where every rate diverged, and
    `SettingsError` for an objective without a linear head, which no image held out can judge.
    """
    if linear_layer(objective.head()) is None:
        raise SettingsError(
            "--search-lr judges by a linear head, and this objective has none: give the rate by --lr"
        )
    known = folder.rates_file
    tried = read_as(known, tuple[RateTried, ...], "is damaged") if known.is_file() else ()
    prepared = copy.deepcopy(objective.state_dict())
    while (rate := next_rate(tried, plan.fit.rate)) is not None:
        here = _of(folder, rate)
        here.path.mkdir(parents=True, exist_ok=True)
        found = _try(plan.at_rate(rate), prepared, here, device, console)
        if isinstance(found, int):
            return Searched(tried, interrupted=True, steps=found)
        tried = (*tried, found)
        said = "it diverged" if found.loss is None else f"{found.right:.3f} right, loss {found.loss:.3f}"
        tell(console, f"rate {rate:.3g}: {said} on the images held out")
        by_the_first(device, partial(_keep_best, folder, tried))
    searched = Searched(tried)
    if searched.best.loss is None:
        rate = searched.best.rate / 8
        raise DivergedError(f"every rate tried diverged; start again with --lr {rate:.2g}, into a new --out")
    by_the_first(device, partial(_move_in, folder, searched.best.rate))
    return searched


def _of(folder: RunFolder, rate: float) -> RunFolder:
    return RunFolder(folder.rates / f"{rate:.6g}")


def _keep_best(folder: RunFolder, tried: tuple[RateTried, ...]) -> None:
    """Put on record what was tried, and make room: a checkpoint is twelve bytes a weight."""
    write_json(folder.rates_file, msgspec.to_builtins(tried))
    best = best_of(tried)
    for one in tried:
        if one != best:
            _of(folder, one.rate).checkpoint.unlink(missing_ok=True)


def _move_in(folder: RunFolder, rate: float) -> None:
    best = _of(folder, rate)
    for mine, theirs in ((folder.log_file, best.log_file), (folder.checkpoint, best.checkpoint)):
        if theirs.is_file():  # else it was moved before the run was stopped
            os.replace(theirs, mine)
    shutil.rmtree(folder.rates, ignore_errors=True)


def _try(
    plan: Plan, prepared: dict[str, Tensor], here: RunFolder, device: torch.device, console: Console
) -> RateTried | int:
    """How the training of `plan` does; or, where it was interrupted, the steps that it had made."""
    objective, rate = build_objective(plan), plan.fit.rate
    objective.load_state_dict(prepared)
    masks = build_masks(plan)
    try:
        fitted = fit(
            plan.backbone, masks, objective, plan.train, plan.fit, here, resume=here.checkpoint.is_file(),
            console=console, title=f"rate {rate:.3g}", channels_last=plan.channels_last,
        )  # fmt: skip
        if fitted.interrupted:
            return fitted.steps
        logits = held_out_logits(plan, objective.head())
        assert logits is not None
        assert plan.held_out is not None
        labels = plan.held_out.labels
        right = (logits.argmax(1) == labels).double().mean()
        figures = torch.stack([right, F.cross_entropy(logits.double(), labels)])
        figures = figures.to(device, torch.float32)
        same_on_all([figures])
        loss = float(figures[1])
        if math.isfinite(loss):
            return RateTried(rate, float(figures[0]), loss)
    except DivergedError:
        pass
    finally:
        masks.remove()
    return RateTried(rate, 0.0, None)
