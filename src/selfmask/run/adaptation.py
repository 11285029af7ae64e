"""The main job: images in, mask file out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console

from selfmask.errors import DataError
from selfmask.features.measure import HeadCost, head_cost, measure
from selfmask.features.passes import showing
from selfmask.features.rows import FULL_FINE_TUNING, MASKED, PRETRAINED, STATISTICS_ONLY, Outcome, Rows
from selfmask.features.statistics import moved_statistics
from selfmask.maskfile.heads import head_as
from selfmask.maskfile.loading import load
from selfmask.masking import norm
from selfmask.masking.status import Status
from selfmask.objectives.base import Objective
from selfmask.run.adapt_settings import AdaptSettings
from selfmask.run.curves import draw_curves
from selfmask.run.distribution import accelerator_for, by_the_first, console_for
from selfmask.run.folder import CURVES, MASK, RESULT, open_folder, write_json
from selfmask.run.loop import CHECKPOINT, LOG, fit
from selfmask.run.plan import Plan, make_plan
from selfmask.run.provenance import record


@dataclass(frozen=True)
class Run:
    """How an adaptation ended. `rows` is None where nothing could be measured, or the run was interrupted.

    Of several processes only the first measures and writes the results; each of the others keeps a log,
    log.RANK.jsonl, and has no `rows` and no `result`.
    """

    folder: Path
    interrupted: bool
    steps: int
    rows: Rows | None = None
    status: Status | None = None
    result: dict[str, Any] | None = None

    @property
    def mask(self) -> Path:
        """The mask file."""
        return self.folder / MASK


def adapt(settings: AdaptSettings, *, console: Console | None = None) -> Run:
    """Learn a mask as `settings` say; everything is written into `settings.folder()`.

    Raises a `SelfmaskError` for whatever a user can mend. A first Ctrl-C writes a checkpoint and returns a `Run`
    that says so; with `resume` the run then goes on to the same masks.
    """
    plan = make_plan(settings)
    accelerator = accelerator_for(plan.backbone.module)
    console = console_for(accelerator, console)
    with showing(console):
        return _adapt(settings, plan, accelerator, console)


def _adapt(settings: AdaptSettings, plan: Plan, accelerator: Accelerator, console: Console) -> Run:
    first = accelerator.is_main_process
    objective = plan.make_objective()
    # Before the folder is opened: settings that cannot be would else lie in it, and block it for the right ones.
    plan.check_masks()
    folder = settings.folder()
    by_the_first(accelerator, lambda: open_folder(folder, recorded(settings), resume=settings.resume))
    resume = settings.resume and (folder / CHECKPOINT).is_file()
    for line in plan.lines:
        console.print(line, highlight=False, soft_wrap=True)

    started = time.perf_counter()
    outcomes: list[Outcome] = []
    cost: HeadCost | None = None
    test = plan.splits.test
    # A probe and k-NN need labels on both sides.
    measurable = (
        first
        and settings.evaluate
        and test is not None
        and len(plan.labelled) > 0
        and len(test.labelled()) > 0
    )
    if measurable:
        outcomes += measure_base(plan, console)
    if not resume:
        for line in objective.prepare(plan.backbone, plan.train):
            console.print(line, highlight=False, soft_wrap=True)

    masks = plan.make_masks()
    console.print(f"masked: {masks.why}", highlight=False, soft_wrap=True)
    before_fit = time.perf_counter()
    fitted = fit(
        plan.backbone, masks, objective, plan.train, plan.fit, folder,
        resume=resume, accelerator=accelerator, console=console, channels_last=plan.channels_last,
    )  # fmt: skip
    fit_seconds = time.perf_counter() - before_fit
    if fitted.interrupted:
        masks.remove()
        return Run(folder, interrupted=True, steps=fitted.steps)

    exact = objective.head()
    rounded = settings.head_dtype != "float32" and bool(exact)
    head = head_as(exact, settings.head_dtype) if rounded else exact
    status = masks.status()
    if first:
        masks.save(
            folder / MASK,
            head=head,
            backbone=plan.backbone.describe(),
            preprocessing=plan.backbone.preprocessing.describe(),
            training=plan.record(),
        )
        draw_curves(folder / LOG, folder / CURVES, f"{plan.train.name} on {plan.backbone.spec}")
    if measurable:
        assert test is not None
        # The row is that of the head as it is stored: what a reader of the file will find.
        pair = (head["weight"].float(), head["bias"].float()) if {"weight", "bias"} <= set(head) else None
        outcomes.append(_measure(MASKED, plan, head=pair))
        if rounded:
            cost = head_cost(
                plan.backbone, test, exact, head, size=plan.size, channels_last=plan.channels_last
            )
            said = str(cost or "what the rounded head costs was not measured")
            console.print(said, highlight=False, soft_wrap=True)
    masks.remove()
    if settings.finetune:
        outcomes += finetune(plan, folder, console, measurable)

    if not first:
        return Run(folder, interrupted=False, steps=fitted.steps, status=status)
    rows = Rows.of(outcomes) if outcomes else None
    result = {
        "data": plan.train.name,
        "backbone": plan.backbone.spec,
        "objective": plan.objective,
        "seed": settings.seed,
        "size": plan.size,
        "training": plan.record(),
        "rows": None if rows is None else rows.to_json(),
        "masks": {k: v for k, v in status.as_dict().items() if k != "tensors"},
        "bytes": load(folder / MASK).bytes(),
        "head_cost": None if cost is None else cost.describe(),
        "seconds": {"training": round(fit_seconds, 1), "total": round(time.perf_counter() - started, 1)},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **record(settings, accelerator.device),
        "warnings": list(plan.splits.notes),
    }
    write_json(folder / RESULT, result)
    return Run(folder, interrupted=False, steps=fitted.steps, rows=rows, status=status, result=result)


def measure_base(plan: Plan, console: Console) -> list[Outcome]:
    """The rows "pretrained" and "statistics only"; the backbone is left as it was."""
    outcomes = [_measure(PRETRAINED, plan)]
    with moved_statistics(plan.backbone, plan.train, size=plan.size, seed=plan.settings.seed) as moved:
        outcomes.append(
            _measure(STATISTICS_ONLY, plan) if moved else replace(outcomes[0], name=STATISTICS_ONLY)
        )
    if not moved:
        console.print(
            "statistics only: the backbone has no running statistics, so this row is the pretrained one"
        )
    return outcomes


def finetune(plan: Plan, folder: Path, console: Console, measurable: bool) -> list[Outcome]:
    """The baseline: the same objective, views, steps and head, but all weights trained by SGD with momentum.

    Writes into `folder`/finetune. The backbone is the base again afterwards.
    """
    objective: Objective = plan.make_objective()
    objective.prepare(plan.backbone, plan.train)
    (folder / "finetune").mkdir(parents=True, exist_ok=True)
    rate = plan.settings.finetune_lr or FINETUNE_RATE
    settings = replace(plan.fit, method="sgd", rate=rate, warmup=0.1, checkpoint_every=0)
    with base_restored(plan):
        fit(
            plan.backbone, None, objective, plan.train, settings, folder / "finetune",
            console=console, title="full fine-tuning", channels_last=plan.channels_last,
        )  # fmt: skip
        head = objective.head()
        pair = (head["weight"], head["bias"]) if {"weight", "bias"} <= set(head) else None
        return [_measure(FULL_FINE_TUNING, plan, head=pair)] if measurable else []


FINETUNE_RATE = 3e-3
"""Not searched for beyond a trial in which 0.01 diverged on ResNet-18; `finetune_lr` sets another."""


@contextmanager
def base_restored(plan: Plan) -> Iterator[None]:
    """Inside, the backbone's weights and statistics may change; afterwards they are what they were, bit for bit."""
    module = plan.backbone.module
    state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    frozen = norm.freeze(module) if plan.norm_stats == "frozen" else []
    try:
        yield
    finally:
        norm.thaw(frozen)
        module.load_state_dict(state)
        module.eval()


def recorded(settings: AdaptSettings) -> dict[str, Any]:
    """The settings as JSON, but for those that a resumed run may change."""
    free = (
        "resume",
        "json",
        "threads",
        "checkpoint_every",
        "evaluate",
        "finetune",
        "finetune_lr",
        "out",
        "device",
        "head_dtype",
    )
    values = {k: v for k, v in asdict(settings).items() if k not in free}
    return {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}


def _measure(name: str, plan: Plan, head: tuple[torch.Tensor, torch.Tensor] | None = None) -> Outcome:
    if plan.splits.test is None:
        raise DataError("there are no test images to measure on")
    return measure(
        name, plan.backbone, plan.labelled, plan.splits.test,
        size=plan.size, head=head, seed=plan.settings.seed, channels_last=plan.channels_last,
    )  # fmt: skip
