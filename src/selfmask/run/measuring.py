"""What is measured of a run, before it and after it. Nothing here may lose what was trained: see `sparing`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from selfmask._common.console import tell
from selfmask._common.escape import one_line
from selfmask.errors import StoppedError
from selfmask.features.features import features
from selfmask.features.measure import measure, measure_both
from selfmask.features.rows import MASKED, PRETRAINED, STATISTICS_ONLY, WHITENED, Outcome
from selfmask.features.statistics import moved_statistics
from selfmask.maskfile.head import linear_layer
from selfmask.objectives.registry import objective_class
from selfmask.run.best_views import CHOSEN, best_size
from selfmask.run.checkpoint import damage_named, read_checkpoint, write_checkpoint
from selfmask.run.folder import RunFolder
from selfmask.run.plan import Plan
from selfmask.run.result import Check


@contextmanager
def sparing(what: str, warnings: list[str], console: Console) -> Iterator[None]:
    """Inside, an exception ends `what` and not the run: it becomes one of the `warnings`, and is said.

    But for `StoppedError`: who sends a signal wants the run to end.
    """
    try:
        yield
    except StoppedError:
        raise
    except Exception as error:
        warn(f"{what} failed: {one_line(str(error)) or type(error).__name__}", warnings, console)


def warn(text: str, warnings: list[str], console: Console) -> None:
    """Keep a warning for the result, and say it at once."""
    warnings.append(text)
    tell(console, f"warning: {text}")


def measure_plan(name: str, plan: Plan, head: tuple[Tensor, Tensor] | None = None) -> Outcome:
    """The row `name` of the network as it is now, on the plan's images. The plan can be measured."""
    assert plan.splits.test is not None
    return measure(
        name, plan.backbone, plan.labelled, plan.splits.test,
        size=plan.size, head=head, seed=plan.settings.seed, channels_last=plan.channels_last,
    )  # fmt: skip


def measure_masked(plan: Plan, head: tuple[Tensor, Tensor] | None) -> list[Outcome]:
    """The rows of the masked network, as it is now: "masked", and the same whitened. The plan can be measured."""
    return _measure_both(MASKED, plan, plan.size, head)


def _measure_both(
    name: str, plan: Plan, size: int, head: tuple[Tensor, Tensor] | None = None
) -> list[Outcome]:
    assert plan.splits.test is not None
    return measure_both(
        name, plan.backbone, plan.labelled, plan.splits.test,
        size=size, head=head, seed=plan.settings.seed, channels_last=plan.channels_last,
    )  # fmt: skip


def measure_base(plan: Plan, folder: RunFolder | None, console: Console) -> list[Outcome]:
    """The rows that can be had without a mask: "pretrained", whitened, at the best larger size, "statistics only".

    The last two if wanted. The backbone is left as it was. What `folder` has of them from before its run was stopped
    is taken from there.
    """
    known = _read_outcomes(folder) if folder is not None and plan.settings.resume else {}
    sizes = {PRETRAINED: plan.size}
    if (best := best_size(plan, console, folder)) > plan.size:
        sizes[f"{PRETRAINED}, {best} px"] = best
    outcomes: list[Outcome] = []
    for name, size in sizes.items():
        both = [known[row] for row in (name, f"{name}, {WHITENED}") if row in known]
        outcomes += both or _measure_both(name, plan, size)
    if plan.settings.statistics:
        moved = known.get(STATISTICS_ONLY) or _measure_statistics(plan, console)
        outcomes += [] if moved is None else [moved]
    if folder is not None and any(outcome.name not in known for outcome in outcomes):
        _write_outcomes(folder, known | {outcome.name: outcome for outcome in outcomes})
    return outcomes


def measure_held_out(plan: Plan, folder: RunFolder) -> Outcome | None:
    """Which of the images held out the untouched network gets right; None where there are none.

    The probe is fitted on the images that the mask is to be trained on. Kept in `folder` as `measure_base` does.
    """
    if plan.held_out is None:
        return None
    known = _read_outcomes(folder)
    if _HELD_OUT not in known:
        known[_HELD_OUT] = measure(
            _HELD_OUT, plan.backbone, plan.train, plan.held_out,
            size=plan.size, seed=plan.settings.seed, channels_last=plan.channels_last,
        )  # fmt: skip
        _write_outcomes(folder, known)
    return known[_HELD_OUT]


_HELD_OUT = "held out"


def to_gain(plan: Plan, outcomes: Sequence[Outcome], held_out: Outcome | None) -> str | None:
    """A line for a run with labels whose untouched network is nearly always right, or often wrong; else None.

    By its probe on the images held out, or where there are none on the test images of `outcomes`.
    """
    measured = [held_out] if held_out is not None else list(outcomes[:1])
    right = next((outcome.probe for outcome in measured if outcome.probe is not None), None)
    if right is None or objective_class(plan.objective).labels != "needed":
        return None
    share = float(right.float().mean())
    which = "test images" if held_out is None else "images held out"
    said = f"a linear probe of the untouched network is right on {100 * share:.1f} % of {len(right)} {which}"
    if share >= _NEARLY_RIGHT:
        return f"little to gain: {said} already"
    if (
        share < _OFTEN_WRONG
        and held_out is not None
        and plan.settings.lr is None
        and not plan.settings.search_lr
    ):
        return f"much to gain: {said}. A rate that suits such images may bring more: --search-lr finds it"
    return None


_NEARLY_RIGHT, _OFTEN_WRONG = 0.97, 0.8


def check_mask(plan: Plan, untouched: Outcome, head: dict[str, Tensor]) -> Check | None:
    """How the masked network, as it is now, does beside `measure_held_out`; None for an objective without a head."""
    right = held_out_right(plan, head)
    return None if right is None or untouched.probe is None else Check.of(right, untouched.probe)


def held_out_right(plan: Plan, head: dict[str, Tensor]) -> Tensor | None:
    """Which of the images held out the network as it is now gets right, bool (N,); None as `held_out_logits`."""
    logits = held_out_logits(plan, head)
    if plan.held_out is None or logits is None:
        return None
    return logits.argmax(dim=1) == plan.held_out.labels


def held_out_logits(plan: Plan, head: dict[str, Tensor]) -> Tensor | None:
    """What a linear head says of the images held out, by the network as it is now: float32 (N, classes).

    None where there is no such head, or no image is held out.
    """
    layer = linear_layer(head)
    if plan.held_out is None or layer is None:
        return None
    x = features(
        plan.backbone, plan.held_out, size=plan.size, channels_last=plan.channels_last, what="held out"
    )
    return F.linear(x, layer[0].cpu(), layer[1].cpu())


def _measure_statistics(plan: Plan, console: Console) -> Outcome | None:
    with moved_statistics(plan.backbone, plan.train, size=plan.size, seed=plan.settings.seed) as moved:
        if moved:
            return measure_plan(STATISTICS_ONLY, plan)
    console.print("statistics only: the backbone has no running statistics, so there is no such row")
    return None


def _read_outcomes(folder: RunFolder) -> dict[str, Outcome]:
    if not folder.measured.is_file():
        return {}
    kept = read_checkpoint(folder.measured)
    with damage_named(folder.measured):
        return {name: _outcome(name, values) for name, values in kept.items() if name not in CHOSEN}


def _outcome(name: str, values: dict[str, Any]) -> Outcome:
    found = Outcome(**values)
    right = (found.knn, found.probe, found.head)
    if found.name != name or not all(
        x is None or (isinstance(x, Tensor) and x.dtype == torch.bool and x.dim() == 1) for x in right
    ):
        raise ValueError(f"{name!r} is no row")
    return found


def _write_outcomes(folder: RunFolder, outcomes: Mapping[str, Outcome]) -> None:
    kept = read_checkpoint(folder.measured) if folder.measured.is_file() else {}
    write_checkpoint(folder.measured, kept | {name: vars(outcome) for name, outcome in outcomes.items()})
