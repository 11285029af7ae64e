"""The main job: images in, mask file out."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from warnings import catch_warnings

from accelerate import Accelerator
from rich.console import Console
from torch import Tensor

from selfmask._common.console import tell
from selfmask._common.processes import by_the_first, ended_on_all
from selfmask._common.units import byte_count
from selfmask.errors import EmptyMaskWarning, RunError, SelfmaskError, StoppedError
from selfmask.features.agreement import Agreement
from selfmask.features.measure import HeadCost, head_cost
from selfmask.features.passes import showing
from selfmask.features.rows import FULL_FINE_TUNING, NORMS_ALONE, NOT_MEASURED, STOPPED, Rows, Verdict
from selfmask.images.batches import check_shared
from selfmask.maskfile.head import linear_layer, predicts
from selfmask.maskfile.loading import load
from selfmask.maskfile.saving import head_as
from selfmask.masking.rules import Threshold
from selfmask.masking.status import Status
from selfmask.objectives.base import Objective
from selfmask.run.agreement import FirstLook
from selfmask.run.best_views import best_size, choose_crop
from selfmask.run.build import build_masks, build_objective
from selfmask.run.curves import draw_curves
from selfmask.run.expected import expected_seconds, in_words
from selfmask.run.finetuning import finetune, tune_norms
from selfmask.run.folder import RunFolder
from selfmask.run.loop import fit
from selfmask.run.measuring import (
    check_mask,
    measure_base,
    measure_held_out,
    measure_masked,
    sparing,
    to_gain,
    warn,
)
from selfmask.run.plan import Plan, make_plan
from selfmask.run.process import accelerator_for, console_for
from selfmask.run.provenance import command_of, machine, versions
from selfmask.run.rate_search import search_rate
from selfmask.run.result import Check, MaskSummary, RateTried, Result, Seconds, Spent
from selfmask.run.schedule import FitSettings, path_length
from selfmask.run.settings import HELD_OUT, AdaptSettings
from selfmask.run.spending import check_room, save_within
from selfmask.run.split import Trained, put_on_record, rule_of
from selfmask.run.tracking import figures_of, track, tracked, trackers_for


@dataclass(frozen=True)
class Run:
    """How an adaptation ended. `result` is None where it was interrupted.

    next: the words of the command that a user may want next: what is in capitals is to be filled in.

    Of several processes only the first measures and writes the results; each of the others keeps a log,
    log.RANK.jsonl, and has no `result`.
    """

    folder: Path
    interrupted: bool
    steps: int
    status: Status | None = None
    result: Result | None = None
    next: tuple[str, ...] = ()

    @property
    def silent(self) -> bool:
        """Whether this is one of several processes, and not the first, which says it all."""
        return self.result is None and not self.interrupted

    @property
    def mask(self) -> Path:
        """The mask file; where the mask is not kept, the one that it was put into instead."""
        folder = RunFolder(self.folder)
        return folder.mask_file if self.result is None or self.result.kept else folder.rejected_file

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
            "next": list(self.next),
            "result": None if self.result is None else self.result.document(),
        }


def learn_mask(settings: AdaptSettings, console: Console | None = None) -> Run:
    """Learn a mask as `settings` say; everything is written into `settings.folder()`.

    Raises a `SelfmaskError` for whatever a user can mend. A first Ctrl-C writes a checkpoint and returns a `Run`
    that says so; with `resume` the run then goes on to the same masks.
    """
    folder = RunFolder(settings.folder())
    if settings.resume and settings.held_out is None and folder.settings.is_file():
        share = folder.recorded().get("held_out")
        if not isinstance(share, int | float | None):
            raise RunError(f"{folder.settings} is damaged: its held_out is {share!r}")
        settings = replace(settings, held_out=HELD_OUT if share is None else share)
    plan = make_plan(settings)
    accelerator = accelerator_for(plan.backbone.module, **trackers_for(settings.track, folder.path))
    console = console_for(accelerator, console)
    # Before the folder is opened: what cannot be would else lie in it, and block it for the right settings.
    check_shared(plan.fit.batch, accelerator.num_processes)
    objective = build_objective(plan)
    with showing(console), folder.held() if accelerator.is_main_process else nullcontext():
        by_the_first(accelerator.device, lambda: folder.open(settings.recorded(), resume=settings.resume))
        with tracked(accelerator, folder.path, settings.recorded()):
            return _adapt(plan, objective, folder, accelerator, console)


def _adapt(
    plan: Plan, objective: Objective, folder: RunFolder, accelerator: Accelerator, console: Console
) -> Run:
    settings, first = plan.settings, accelerator.is_main_process
    resume = settings.resume and folder.checkpoint.is_file()
    for line in plan.lines():
        tell(console, line)

    started = time.perf_counter()
    by_the_first(accelerator.device, lambda: put_on_record(folder, plan.train, **plan.beside_train()))
    measurable = first and settings.evaluate and plan.can_be_measured
    if not resume:
        extra = settings.statistics + settings.finetune + settings.norms_alone
        rows = 2 + extra if measurable else 0
        said = in_words(expected_seconds(plan, objective, rows)) if first else ""
        tell(console, f"expected: {said}")
    choose_crop(plan, folder, console)
    outcomes = measure_base(plan, folder, console) if measurable else []
    untouched = measure_held_out(plan, folder) if first else None
    first_look = FirstLook.of(plan) if first else None
    foreseen = None if first_look is None else first_look.forecast(plan.objective)
    if not resume:
        if foreseen is not None:
            tell(console, f"will it help? {foreseen.sentence}")
        if first_look is not None and not measurable:
            best_size(plan, console, folder)  # what the mask will stand beside; with labels it is a row
        if said := to_gain(plan, outcomes, untouched):
            tell(console, said)
        for line in objective.prepare(plan.backbone, plan.train):
            tell(console, line)

    most = None if settings.max_bytes is None else byte_count(settings.max_bytes, "--max-bytes")
    if most is not None and not resume:
        # Before anything is trained; by each process, since one that ended alone would leave the others waiting.
        place = folder.path / f".room-{accelerator.process_index}.safetensors"
        check_room(plan, place, most, objective.head(), **_told(plan, folder, first=first))
    tried: tuple[RateTried, ...] = ()
    if settings.search_lr:
        search = search_rate(plan, objective, folder, accelerator.device, console)
        if search.interrupted:
            return Run(folder.path, interrupted=True, steps=search.steps)
        tell(console, str(search))
        # The best training is there, finished: what follows resumes it at its end.
        plan, tried, resume = plan.at_rate(search.best.rate), search.tried, True
    masks = build_masks(plan)
    tell(
        console,
        f"masked: {sum(t.numel() for t in masks.theta.values()):,} weights in {len(masks.names)} tensors, "
        f"{masks.why.partition(': ')[0]} (docs/rules.md)"
        + (f"; {masks.status().norms:,} norm weights trained beside them" if plan.train_norms else ""),
    )
    if not resume and (short := _too_short(plan)) is not None:
        tell(console, f"warning: {short}")
    fitted = fit(
        plan.backbone, masks, objective, plan.train, plan.fit, folder,
        resume=resume, accelerator=accelerator, console=console, channels_last=plan.channels_last,
    )  # fmt: skip
    if fitted.interrupted:
        masks.remove()
        return Run(folder.path, interrupted=True, steps=fitted.steps)

    masks.round_norms()  # what is checked and measured is what is stored
    exact = objective.head()
    rounded = settings.head_dtype != "float32" and bool(exact)
    head = head_as(exact, settings.head_dtype) if rounded else exact
    told = _told(plan, folder, first=first)
    kept: dict[str, Any] = {"head_dtype": settings.head_dtype if rounded else None, **told}
    spent: Spent | None = None
    with ended_on_all(accelerator.device, RunError("the first process could not save the mask; it says why")):
        if first and most is not None:
            # Before it is checked, and under the name that says that it is not.
            spent, head = save_within(masks, plan, folder.unchecked_file, most, exact, **kept)
            tell(console, f"in bytes: {spent}")
    status = masks.status()
    warnings, result, check = list(plan.splits.notes), None, None
    if untouched is not None:
        with sparing("checking the mask on images held out", warnings, console):
            check = check_mask(plan, untouched, head)
    if first:
        path, other = folder.mask_file, folder.rejected_file
        if check is not None and not check.kept:
            path, other = other, path
            warn(_rejected(check, plan, path), warnings, console)
        earlier = path.read_bytes() if path.is_file() else None
        if spent is not None:
            folder.unchecked_file.replace(path)
        for old in (other, folder.unchecked_file):  # of a run that was resumed after its end
            old.unlink(missing_ok=True)
        if spent is None:
            with catch_warnings(
                action="ignore", category=EmptyMaskWarning
            ):  # said below, by the flags' names
                masks.save(path, head=head, **kept)
        if status.off == 0 and not status.norms and plan.norm_stats == "frozen":
            warn(_NOTHING_OFF, warnings, console)
        result = Result(
            data=plan.train.name,
            backbone=plan.backbone.spec,
            objective=plan.objective,
            seed=settings.seed,
            size=plan.size,
            training=told["training"],
            rows=None,
            bytes=load(path).bytes(),
            seconds=Seconds(round(fitted.seconds, 1), round(time.perf_counter() - started, 1)),
            command=tuple(command_of(settings)),
            versions=versions(),
            machine=machine(accelerator.device),
            verdict=_unmeasured(measurable, settings),
            progress=folder.log().progress(),
            check=check,
            forecast=foreseen,
            rates=tried,
            spent=spent,
            crop=plan.backbone.preprocessing.crop,
            masks=MaskSummary(**{k: v for k, v in status.as_dict().items() if k != "tensors"}),
            warnings=tuple(warnings),
        )
        if _same_mask(earlier, path):
            result = _as_measured(result, folder)
        # Now, and again with what is measured: whatever comes in between, the run has a result.
        result.write(folder.result_file)

    cost: HeadCost | None = None
    agreement: Agreement | None = None

    def measured() -> Result | None:
        """The result with what is measured by now, written."""
        if result is None:
            return None
        rows = Rows.of(outcomes).with_rivals_of(result.rows) if outcomes else result.rows
        verdict = _unmeasured(measurable, settings) if rows is None else rows.verdict()
        look = agreement or result.agreement
        found = replace(
            result,
            rows=rows,
            verdict=verdict if look is None else look.beside(verdict),
            agreement=look,
            seconds=Seconds(result.seconds.training, round(time.perf_counter() - started, 1)),
            head_cost=cost or result.head_cost,
            warnings=tuple(warnings),
        )
        found.write(folder.result_file)
        return found

    if first_look is not None:
        with sparing("looking at the masked network without labels", warnings, console):
            agreement = first_look.beside(plan)
    if measurable:
        with sparing("measuring the masked network", warnings, console):
            # The row is that of the head as it is stored: what a reader of the file will find.
            outcomes += measure_masked(plan, linear_layer(head))
        if rounded and spent is None:
            with sparing("measuring the rounded head", warnings, console):
                cost = _head_cost(plan, exact, head, console)
    masks.remove()
    try:
        if settings.finetune:
            measured()
            with sparing(FULL_FINE_TUNING, warnings, console):
                outcomes += finetune(plan, folder, console, measurable)
        if settings.norms_alone:
            measured()
            with sparing(NORMS_ALONE, warnings, console):
                outcomes += tune_norms(plan, folder, console, measurable)
    except StoppedError as stopped:
        tell(console, f"{stopped}; the mask is learnt, and --resume measures it again")
        return Run(folder.path, interrupted=True, steps=fitted.steps)
    if result is None:
        return Run(folder.path, interrupted=False, steps=fitted.steps, status=status)

    with sparing("drawing the curves", warnings, console):
        draw_curves(folder.log(), folder.curves, f"{plan.train.name} on {plan.backbone.spec}")
    result = measured() or result
    track(accelerator, figures_of(result), console)
    worth_using = result.kept and result.verdict.kind != "worse"
    following = _next(settings, folder.path, predicts=predicts(head), kept=worth_using)
    return Run(
        folder.path, interrupted=False, steps=fitted.steps, status=status, result=result, next=following
    )


def _told(plan: Plan, folder: RunFolder, *, first: bool) -> dict[str, Any]:
    """What the mask file is told of the run."""
    training = plan.record()
    if first:  # who wrote down which images are trained on
        trained = Trained.read(folder.split_file)
        training["split"] = rule_of(plan.settings, trained, held_out=plan.held_out is not None)
    recipe = plan.backbone.preprocessing.describe()
    return {"backbone": plan.backbone.describe(), "preprocessing": recipe, "training": training}


def _next(settings: AdaptSettings, folder: Path, *, predicts: bool, kept: bool) -> tuple[str, ...]:
    """The command to use what was learnt by: with a head on new images; without one there is an embedding of each."""
    if not kept:
        return ("selfmask", "report", str(folder))
    weights = () if settings.weights is None else ("--weights", str(settings.weights))
    if predicts:
        return ("selfmask", "predict", str(folder), "NEW-IMAGES", "--out", "predictions.csv", *weights)
    return ("selfmask", "embed", str(folder), settings.data, "--out", "embeddings.parquet", *weights)


_NOTHING_OFF = (
    "no weight is off, so the mask changes nothing: the scores had too short a way to go. "
    "Train longer (--epochs, --steps) or at a higher --lr, into a new --out"
)


def _too_short(plan: Plan) -> str | None:
    """A line for a run whose steps cannot carry any score to the threshold; None where they can, or nobody knows.

    A step of Adam moves a score by the rate at most.
    """
    rule = plan.rule
    if plan.fit.method != "adam" or not isinstance(rule, Threshold):
        return None
    way, far = path_length(plan.fit), rule.start - rule.spread - rule.mu
    if way >= far:
        return None
    return (
        f"{plan.fit.steps} steps cannot switch any weight off: their rates add up to {way:.2g}, and the nearest score "
        f"has {far:.2g} to go. Take {_enough(plan.fit, far)} steps or more; the default is 150 or more"
    )


_MANY = 20_000


def _enough(fit: FitSettings, far: float) -> int:
    """How many steps at that rate can carry a score so far; of very many about so many."""
    steps = math.ceil(fit.steps * far / path_length(fit))
    while steps < _MANY and path_length(replace(fit, steps=steps)) < far:
        steps += max(1, steps // 50)
    return steps


def _rejected(check: Check, plan: Plan, path: Path) -> str:
    """What to do about a mask that does harm."""
    low, high = (f"{100 * end:+.1f}" for end in (check.gain.low, check.gain.high))
    other = "" if plan.settings.search_lr else f"--lr {plan.fit.rate / 3:.2g}, --search-lr, "
    return (
        f"on {check.images} labelled images held out, the masked network is worse than the untouched one with a probe "
        f"({100 * check.gain.value:+.1f} points, 95 % interval {low} to {high}), so the mask is kept as {path.name} "
        f"only. Keep the untouched network; or try {other}fewer --steps than {plan.fit.steps}, "
        f"or a larger --size than {plan.size}"
    )


def _same_mask(earlier: bytes | None, path: Path) -> bool:
    return earlier == path.read_bytes()


def _as_measured(result: Result, folder: RunFolder) -> Result:
    """The result of a run that was resumed after its end: what it had measured of the same mask stands until it is
    measured again."""
    with suppress(SelfmaskError):
        old = folder.result()
        return replace(
            result, rows=old.rows, verdict=old.verdict, agreement=old.agreement, head_cost=old.head_cost,
            forecast=result.forecast or old.forecast,
        )  # fmt: skip
    return result


def _unmeasured(measurable: bool, settings: AdaptSettings) -> Verdict:
    """What a result says until something is measured."""
    if not settings.evaluate:
        return Verdict("not measured", "Nothing was measured, as --no-evaluate asked.")
    return STOPPED if measurable else NOT_MEASURED


def _head_cost(
    plan: Plan, exact: dict[str, Tensor], head: dict[str, Tensor], console: Console
) -> HeadCost | None:
    """What it costs to store the head rounded, measured and said."""
    assert plan.splits.test is not None  # the plan can be measured
    cost = head_cost(
        plan.backbone,
        plan.splits.test,
        exact,
        head,
        plan.settings.head_dtype,
        size=plan.size,
        channels_last=plan.channels_last,
    )
    said = str(cost or "what the rounded head costs was not measured")
    tell(console, said)
    return cost
