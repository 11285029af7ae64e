"""What is measured of a run, before it and after it. Nothing here may lose what was trained: see `sparing`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console
from torch import Tensor

from selfmask._common.escape import one_line
from selfmask.features.measure import measure
from selfmask.features.rows import PRETRAINED, STATISTICS_ONLY, Outcome
from selfmask.features.statistics import moved_statistics
from selfmask.run.checkpoint import read_checkpoint, write_checkpoint
from selfmask.run.folder import RunFolder
from selfmask.run.plan import Plan


@contextmanager
def sparing(what: str, warnings: list[str], console: Console) -> Iterator[None]:
    """Inside, an exception ends `what` and not the run: it becomes one of the `warnings`, and is said."""
    try:
        yield
    except Exception as error:
        warn(f"{what} failed: {one_line(str(error)) or type(error).__name__}", warnings, console)


def warn(text: str, warnings: list[str], console: Console) -> None:
    """Keep a warning for the result, and say it at once."""
    warnings.append(text)
    console.print(f"warning: {text}", highlight=False, markup=False, soft_wrap=True)


def can_be_measured(plan: Plan) -> bool:
    """A probe and k-NN need labels on both sides."""
    test = plan.splits.test
    return test is not None and len(plan.labelled) > 0 and len(test.labelled()) > 0


def measure_plan(name: str, plan: Plan, head: tuple[Tensor, Tensor] | None = None) -> Outcome:
    """The row `name` of the network as it is now, on the plan's images. The plan `can_be_measured`."""
    assert plan.splits.test is not None
    return measure(
        name, plan.backbone, plan.labelled, plan.splits.test,
        size=plan.size, head=head, seed=plan.settings.seed, channels_last=plan.channels_last,
    )  # fmt: skip


def measure_base(plan: Plan, folder: RunFolder | None, console: Console) -> list[Outcome]:
    """The rows "pretrained" and, if wanted, "statistics only"; the backbone is left as it was.

    What `folder` has of them from before its run was stopped is taken from there.
    """
    known = _read_outcomes(folder) if folder is not None and plan.settings.resume else {}
    outcomes = [known.get(PRETRAINED) or measure_plan(PRETRAINED, plan)]
    if plan.settings.statistics:
        if STATISTICS_ONLY in known:
            outcomes.append(known[STATISTICS_ONLY])
        else:
            outcomes.append(_measure_statistics(plan, outcomes[0], console))
    if folder is not None and any(outcome.name not in known for outcome in outcomes):
        write_checkpoint(folder.measured, {outcome.name: vars(outcome) for outcome in outcomes})
    return outcomes


def _measure_statistics(plan: Plan, pretrained: Outcome, console: Console) -> Outcome:
    with moved_statistics(plan.backbone, plan.train, size=plan.size, seed=plan.settings.seed) as moved:
        if moved:
            return measure_plan(STATISTICS_ONLY, plan)
    console.print(
        "statistics only: the backbone has no running statistics, so this row is the pretrained one"
    )
    return replace(pretrained, name=STATISTICS_ONLY)


def _read_outcomes(folder: RunFolder) -> dict[str, Outcome]:
    if not folder.measured.is_file():
        return {}
    return {name: Outcome(**values) for name, values in read_checkpoint(folder.measured).items()}


def linear(head: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """A linear head's weight and bias as float32; None where the objective has no such head."""
    return (head["weight"].float(), head["bias"].float()) if {"weight", "bias"} <= set(head) else None
