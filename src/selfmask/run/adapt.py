"""The main job: images in, mask file out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor

from selfmask._common.calls import call
from selfmask._common.processes import by_the_first
from selfmask.features.measure import HeadCost, head_cost, measure
from selfmask.features.passes import showing
from selfmask.features.rows import FULL_FINE_TUNING, MASKED, PRETRAINED, STATISTICS_ONLY, Outcome, Rows
from selfmask.features.statistics import moved_statistics
from selfmask.maskfile.heads import head_as
from selfmask.maskfile.loading import load
from selfmask.masking import norm
from selfmask.masking.status import Status
from selfmask.objectives.base import Objective
from selfmask.run.build import build_masks, build_objective
from selfmask.run.checkpoint import read_checkpoint, write_checkpoint
from selfmask.run.curves import draw_curves
from selfmask.run.folder import RunFolder
from selfmask.run.loop import fit
from selfmask.run.plan import Plan, make_plan
from selfmask.run.process import accelerator_for, console_for
from selfmask.run.provenance import command_of, machine, versions
from selfmask.run.result import MaskSummary, Result, Seconds
from selfmask.run.settings import AdaptSettings
from selfmask.run.split import put_on_record, rule_of


@dataclass(frozen=True)
class Run:
    """How an adaptation ended. `result` is None where it was interrupted.

    Of several processes only the first measures and writes the results; each of the others keeps a log,
    log.RANK.jsonl, and has no `result`.
    """

    folder: Path
    interrupted: bool
    steps: int
    status: Status | None = None
    result: Result | None = None

    @property
    def silent(self) -> bool:
        """Whether this is one of several processes, and not the first, which says it all."""
        return self.result is None and not self.interrupted

    @property
    def mask(self) -> Path:
        """The mask file."""
        return RunFolder(self.folder).mask_file

    @property
    def rows(self) -> Rows | None:
        """What was measured; None where nothing could be, or the run was interrupted."""
        return None if self.result is None else self.result.rows

    def document(self) -> dict[str, Any]:
        """What --json prints of a run."""
        return {
            "folder": str(self.folder),
            "interrupted": self.interrupted,
            "steps": self.steps,
            "mask": None if self.interrupted else str(self.mask),
            "result": None if self.result is None else self.result.document(),
        }


def learn_mask(settings: AdaptSettings, console: Console | None = None) -> Run:
    """Learn a mask as `settings` say; everything is written into `settings.folder()`.

    Raises a `SelfmaskError` for whatever a user can mend. A first Ctrl-C writes a checkpoint and returns a `Run`
    that says so; with `resume` the run then goes on to the same masks.
    """
    plan = make_plan(settings)
    accelerator = accelerator_for(plan.backbone.module)
    console = console_for(accelerator, console)
    # Before the folder is opened: what cannot be would else lie in it, and block it for the right settings.
    objective = build_objective(plan)
    folder = RunFolder(settings.folder())
    with showing(console), folder.held() if accelerator.is_main_process else nullcontext():
        by_the_first(accelerator.device, lambda: folder.open(settings.recorded(), resume=settings.resume))
        return _adapt(plan, objective, folder, accelerator, console)


adapt = call(AdaptSettings, learn_mask)


def _adapt(
    plan: Plan, objective: Objective, folder: RunFolder, accelerator: Accelerator, console: Console
) -> Run:
    settings, first = plan.settings, accelerator.is_main_process
    resume = settings.resume and folder.checkpoint.is_file()
    for line in plan.lines():
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    started = time.perf_counter()
    training = plan.record()
    if first:
        training["split"] = rule_of(settings, put_on_record(plan.train, folder))
    measurable = first and settings.evaluate and can_be_measured(plan)
    outcomes = measure_base(plan, folder, console) if measurable else []
    if not resume:
        for line in objective.prepare(plan.backbone, plan.train):
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    masks = build_masks(plan)
    console.print(f"masked: {masks.why}", highlight=False, markup=False, soft_wrap=True)
    fitted = fit(
        plan.backbone, masks, objective, plan.train, plan.fit, folder,
        resume=resume, accelerator=accelerator, console=console, channels_last=plan.channels_last,
    )  # fmt: skip
    if fitted.interrupted:
        masks.remove()
        return Run(folder.path, interrupted=True, steps=fitted.steps)

    exact = objective.head()
    rounded = settings.head_dtype != "float32" and bool(exact)
    head = head_as(exact, settings.head_dtype) if rounded else exact
    status = masks.status()
    if first:
        masks.save(
            folder.mask_file,
            head=head,
            backbone=plan.backbone.describe(),
            preprocessing=plan.backbone.preprocessing.describe(),
            training=training,
        )
    cost: HeadCost | None = None
    if measurable:
        # The row is that of the head as it is stored: what a reader of the file will find.
        outcomes.append(measure_plan(MASKED, plan, head=linear(head)))
        if rounded and plan.splits.test is not None:
            cost = head_cost(
                plan.backbone,
                plan.splits.test,
                exact,
                head,
                size=plan.size,
                channels_last=plan.channels_last,
            )
            said = str(cost or "what the rounded head costs was not measured")
            console.print(said, highlight=False, markup=False, soft_wrap=True)
    masks.remove()
    if settings.finetune:
        outcomes += finetune(plan, folder, console, measurable)
    if not first:
        return Run(folder.path, interrupted=False, steps=fitted.steps, status=status)

    result = Result(
        data=plan.train.name,
        backbone=plan.backbone.spec,
        objective=plan.objective,
        seed=settings.seed,
        size=plan.size,
        training=training,
        rows=Rows.of(outcomes) if outcomes else None,
        bytes=load(folder.mask_file).bytes(),
        seconds=Seconds(round(fitted.seconds, 1), round(time.perf_counter() - started, 1)),
        command=tuple(command_of(settings)),
        versions=versions(),
        machine=machine(accelerator.device),
        masks=MaskSummary(**{k: v for k, v in status.as_dict().items() if k != "tensors"}),
        head_cost=cost,
        warnings=tuple(plan.splits.notes),
    )
    result.write(folder.result_file)
    draw_curves(folder.log(), folder.curves, f"{plan.train.name} on {plan.backbone.spec}")
    return Run(folder.path, interrupted=False, steps=fitted.steps, status=status, result=result)


def can_be_measured(plan: Plan) -> bool:
    """A probe and k-NN need labels on both sides."""
    test = plan.splits.test
    return test is not None and len(plan.labelled) > 0 and len(test.labelled()) > 0


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


def finetune(plan: Plan, folder: RunFolder, console: Console, measurable: bool) -> list[Outcome]:
    """The baseline: the same objective, views, steps and head, but all weights trained by SGD with momentum.

    Writes into `folder`/finetune. The backbone is the base again afterwards.
    """
    objective = build_objective(plan)
    objective.prepare(plan.backbone, plan.train)
    own = RunFolder(folder.path / "finetune")
    own.path.mkdir(parents=True, exist_ok=True)
    rate = plan.settings.finetune_lr or FINETUNE_RATE
    settings = replace(plan.fit, method="sgd", rate=rate, warmup=0.1, checkpoint_every=0)
    with base_restored(plan):
        fit(
            plan.backbone, None, objective, plan.train, settings, own,
            console=console, title="full fine-tuning", channels_last=plan.channels_last,
        )  # fmt: skip
        return [measure_plan(FULL_FINE_TUNING, plan, head=linear(objective.head()))] if measurable else []


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


def linear(head: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """A linear head's weight and bias as float32; None where the objective has no such head."""
    return (head["weight"].float(), head["bias"].float()) if {"weight", "bias"} <= set(head) else None


def measure_plan(name: str, plan: Plan, head: tuple[torch.Tensor, torch.Tensor] | None = None) -> Outcome:
    """The row `name` of the network as it is now, on the plan's images. The plan `can_be_measured`."""
    assert plan.splits.test is not None
    return measure(
        name, plan.backbone, plan.labelled, plan.splits.test,
        size=plan.size, head=head, seed=plan.settings.seed, channels_last=plan.channels_last,
    )  # fmt: skip
