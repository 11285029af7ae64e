"""From images to a cascade: dispatcher, router, experts, fusion, one file. What is finished is never made again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor

from selfmask._common.processes import by_the_first
from selfmask.cascades.cascade_file import load_cascade, write_cascade
from selfmask.cascades.evaluation import make_up, measure_cascade, storage
from selfmask.cascades.experts import Start, train_expert
from selfmask.cascades.fusion import MODES, Fusion, Mode, fit_fusion, fusion_images, joined
from selfmask.cascades.network import Cascade
from selfmask.cascades.router import Router, check_support, fit_router
from selfmask.cascades.settings import CascadeSettings
from selfmask.errors import RunError
from selfmask.features.features import features
from selfmask.features.passes import showing
from selfmask.features.rows import NOT_MEASURED, Rows
from selfmask.images.batches import check_shared
from selfmask.run.adapt import learn_mask
from selfmask.run.build import build_objective
from selfmask.run.checkpoint import damage_named, read_checkpoint, write_checkpoint
from selfmask.run.folder import RunFolder
from selfmask.run.measuring import sparing
from selfmask.run.plan import Plan, make_plan
from selfmask.run.process import accelerator_for, console_for
from selfmask.run.provenance import command_of, machine, versions
from selfmask.run.result import CascadePart, Cluster, Result, Seconds
from selfmask.run.settings import AdaptSettings
from selfmask.run.split import Trained, put_on_record, rule_of


@dataclass(frozen=True)
class CascadeRun:
    """How it ended. `result` is None where it was interrupted, and in all of several processes but the first."""

    folder: Path
    interrupted: bool
    experts: int = 0
    result: Result | None = None

    @property
    def file(self) -> Path:
        """The cascade file."""
        return RunFolder(self.folder).cascade_file

    @property
    def rows(self) -> Rows | None:
        """What was measured; None where nothing could be."""
        return None if self.result is None else self.result.rows

    def document(self) -> dict[str, Any]:
        """What --json prints of it."""
        return {
            "folder": str(self.folder),
            "interrupted": self.interrupted,
            "experts": self.experts,
            "cascade": None if self.interrupted else str(self.file),
            "result": None if self.result is None else self.result.document(),
        }

    @property
    def clusters(self) -> tuple[Cluster, ...]:
        """What the clusters are made of."""
        return () if self.result is None or self.result.cascade is None else self.result.cascade.clusters


def learn_cascade(settings: CascadeSettings, console: Console | None = None) -> CascadeRun:
    """Learn a cascade as `settings` say; everything is written into `settings.folder()`.

    With `resume`, whatever part is finished is kept (dispatcher, router, experts one by one) and an unfinished one
    goes on from its checkpoint. Raises a `SelfmaskError` for whatever a user can mend.
    """
    plan = make_plan(settings)
    accelerator = accelerator_for(plan.backbone.module)
    console = console_for(accelerator, console)
    # Before the folder is opened and the dispatcher trained, not after it.
    check_support(len(plan.train), settings.experts)
    check_shared(plan.fit.batch, accelerator.num_processes)
    build_objective(plan)
    folder = RunFolder(settings.folder())
    with showing(console), folder.held() if accelerator.is_main_process else nullcontext():
        by_the_first(accelerator.device, lambda: folder.open(settings.recorded(), resume=settings.resume))
        return _learn(settings, plan, folder, accelerator, console)


def _learn(
    settings: CascadeSettings, plan: Plan, folder: RunFolder, accelerator: Accelerator, console: Console
) -> CascadeRun:
    began = time.perf_counter()
    if not _dispatcher(settings, folder.dispatcher, console):
        return CascadeRun(folder.path, interrupted=True)
    by_the_first(
        accelerator.device, lambda: put_on_record(folder.dispatcher, plan.train, **plan.beside_train())
    )

    plan.backbone.module.eval()
    router, assignment = _router(settings, plan, folder, accelerator, console)
    start = Start.of(folder.dispatcher)
    experts = [folder.expert(number) for number in range(1, router.experts + 1)]
    places = [(assignment == number).nonzero().flatten() for number in range(router.experts)]
    for number, (expert, mine) in enumerate(zip(experts, places, strict=True), 1):
        if expert.mask_file.is_file():
            console.print(f"expert {number}: finished before", highlight=False)
            continue
        console.print(
            f"expert {number} of {router.experts}: {len(mine)} images", highlight=False, soft_wrap=True
        )
        try:
            finished = train_expert(
                plan, plan.train.subset(mine), start, expert, title=f"expert {number}",
                steps=settings.expert_steps, rate=settings.expert_lr, accelerator=accelerator, console=console,
            )  # fmt: skip
        except RunError as error:
            raise RunError(
                f"expert {number}: {error}. What is finished is kept: go on by --resume, with a smaller "
                f"--expert-lr ({(settings.expert_lr or plan.fit.rate) / 4:.2g} say) if its rate was the reason"
            ) from error
        if not finished:
            return CascadeRun(folder.path, interrupted=True, experts=router.experts)
    learnt = time.perf_counter() - began

    if not accelerator.is_main_process:
        return CascadeRun(folder.path, interrupted=False, experts=router.experts)
    fusions = _write(settings, plan, folder, router, experts)
    cascade = load_cascade(folder.cascade_file)
    whole = replace(cascade, fusions=fusions)
    rows: Rows | None = None
    passes: dict[str, int] = {}
    warnings = list(plan.splits.notes)
    if settings.evaluate:
        with sparing("measuring the cascade", warnings, console):
            rows, passes = measure_cascade(plan, whole, console)
    clusters = make_up(assignment, plan.train.labels, plan.train.classes, router.experts)
    files = [folder.dispatcher.mask_file, *(expert.mask_file for expert in experts)]
    result = Result(
        data=plan.train.name,
        backbone=plan.backbone.spec,
        objective=plan.objective,
        seed=settings.seed,
        size=plan.size,
        training=_record(plan, folder),
        rows=rows,
        bytes=cascade.bytes(),
        # Of this call alone: what a resumed cascade had before is not counted.
        seconds=Seconds(round(learnt, 1), round(time.perf_counter() - began, 1)),
        command=tuple(command_of(settings, "cascade")),
        versions=versions(),
        machine=machine(accelerator.device),
        verdict=NOT_MEASURED if rows is None else rows.verdict("conditional", "The cascade"),
        cascade=CascadePart(
            experts=router.experts,
            router=settings.router,
            expert_training=tuple(
                _trained(expert, folder.dispatcher, len(mine))
                for expert, mine in zip(experts, places, strict=True)
            ),
            passes=passes,
            storage=storage(cascade, files),
            clusters=tuple(clusters),
        ),
        warnings=tuple(warnings),
    )
    result.write(folder.result_file)
    return CascadeRun(folder.path, False, router.experts, result)


def _dispatcher(settings: CascadeSettings, folder: RunFolder, console: Console) -> bool:
    """Train it, or go on with it, as an ordinary adaptation in its own folder; False where it was interrupted."""
    if folder.mask_file.is_file() and folder.checkpoint.is_file():
        console.print("dispatcher: finished before", highlight=False)
        return True
    values = {f.name: getattr(settings, f.name) for f in fields(AdaptSettings)}
    # It is measured with the cascade, on the same images.
    own = AdaptSettings(
        **values
        | {"out": folder.path, "evaluate": False, "held_out": 0.0, "resume": folder.settings.is_file()}
    )
    return not learn_mask(own, console=console).interrupted


def _router(
    settings: CascadeSettings, plan: Plan, folder: RunFolder, accelerator: Accelerator, console: Console
) -> tuple[Router, Tensor]:
    """The router and the experts of the training images: fitted once, by one process, and read by all."""
    path = folder.router

    def make() -> None:
        if path.is_file():
            return
        with folder.dispatcher.mask().apply(plan.backbone.module):
            x = features(plan.backbone, plan.train, channels_last=plan.channels_last, what="for the router")
        router, assignment, lines = fit_router(x, settings.experts, kind=settings.router, seed=settings.seed)
        sizes = ", ".join(str(size) for size in torch.bincount(assignment).tolist())
        for line in [*lines, f"router: clusters of {sizes} images"]:
            console.print(line, highlight=False, soft_wrap=True)
        write_checkpoint(path, {"kind": router.kind, "router": router.tensors(), "assignment": assignment})

    by_the_first(accelerator.device, make)
    state = read_checkpoint(path)
    with damage_named(path):
        return Router.from_tensors(state["kind"], state["router"]), state["assignment"]


def _record(plan: Plan, folder: RunFolder) -> dict[str, Any]:
    """What is kept of the training. The images are the dispatcher's, which has put them on record."""
    trained = Trained.read(folder.dispatcher.split_file)
    return {**plan.record(), "split": rule_of(plan.settings, trained, held_out=plan.held_out is not None)}


def _trained(expert: RunFolder, dispatcher: RunFolder, images: int) -> dict[str, float]:
    """How `expert` was trained on so many images, and the density that it found. One that is the dispatcher itself,
    since its images are of one class, was trained no further: 0 steps."""
    mask = expert.mask()
    if expert.mask_file.read_bytes() == dispatcher.mask_file.read_bytes():
        return {"images": images, "batch": 0, "steps": 0, "rate": 0.0, "density": mask.density()}
    training = mask.metadata["training"]
    return {name: training[name] for name in ("images", "batch", "steps", "rate")} | {
        "density": mask.density()
    }


def _write(
    settings: CascadeSettings, plan: Plan, folder: RunFolder, router: Router, experts: list[RunFolder]
) -> dict[Mode, Fusion]:
    """Write the cascade file; returns both fusions, also one that the file does not keep."""

    def write(path: Path, fusions: Mapping[Mode, Fusion]) -> Cascade:
        write_cascade(
            path,
            dispatcher=folder.dispatcher.mask_file.read_bytes(),
            experts=[expert.mask() for expert in experts],
            router=router,
            fusions=fusions,
            metadata={"training": _record(plan, folder)},
        )
        return load_cascade(path)

    # Beside the file, which may be there already, until there is a whole one.
    draft = folder.path / ".draft.cascade.safetensors"
    images = fusion_images(plan.train, settings.seed)
    try:
        first, own, assignment = write(draft, {}).member_features(
            images, plan.backbone, everything=True, channels_last=plan.channels_last
        )
    finally:
        draft.unlink(missing_ok=True)
    width = settings.width or plan.backbone.width
    fusions: dict[Mode, Fusion] = {
        mode: fit_fusion(joined(first, own, assignment, mode), width, mode) for mode in MODES
    }
    write(folder.cascade_file, {mode: fusions[mode] for mode in settings.modes()})
    return fusions
