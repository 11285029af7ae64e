"""From images to a cascade: dispatcher, router, experts, fusion, one file. What is finished is never made again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor

from selfmask.cascade.cascade_file import load_cascade, write_cascade
from selfmask.cascade.evaluation import measure_cascade, storage
from selfmask.cascade.experts import Start, train_expert
from selfmask.cascade.fusion import MODES, Fusion, Mode, fit_fusion, joined
from selfmask.cascade.makeup import Cluster, make_up
from selfmask.cascade.network import Cascade
from selfmask.cascade.router import Router, check_support, fit_router
from selfmask.cascade.settings import CascadeSettings
from selfmask.errors import RunError
from selfmask.features.features import features
from selfmask.features.passes import showing
from selfmask.features.rows import Rows
from selfmask.maskfile.loading import load
from selfmask.run.adapt_settings import AdaptSettings
from selfmask.run.adaptation import adapt, recorded
from selfmask.run.checkpoint import read_checkpoint, write_checkpoint
from selfmask.run.distribution import accelerator_for, by_the_first, console_for
from selfmask.run.folder import MASK, RESULT, SETTINGS, open_folder, write_json
from selfmask.run.loop import CHECKPOINT
from selfmask.run.plan import Plan, make_plan
from selfmask.run.provenance import record

CASCADE, ROUTER, DISPATCHER_FOLDER = "cascade.safetensors", "router.safetensors", "dispatcher"

# The fusion's axes are fitted on so many images at most: their Gram matrix is decomposed in float64, a minute's work
# at this size, and the leading axes of thousands of images are those of all.
FUSION_IMAGES = 4096

# What a resumed cascade may change, besides what an adaptation may. The experts' rate and steps: an expert may have
# been stopped because it did harm. Finished experts stay as they are, and the result says how each was trained.
_FREE = ("keep", "width", "pictures", "expert_lr", "expert_steps")


@dataclass(frozen=True)
class CascadeRun:
    """How it ended. `rows` is None where nothing could be measured; `result` is what result.json holds."""

    folder: Path
    interrupted: bool
    experts: int = 0
    rows: Rows | None = None
    clusters: tuple[Cluster, ...] = ()
    result: Mapping[str, Any] | None = None

    @property
    def file(self) -> Path:
        """The cascade file."""
        return self.folder / CASCADE


def learn_cascade(settings: CascadeSettings, *, console: Console | None = None) -> CascadeRun:
    """Learn a cascade as `settings` say; everything is written into `settings.folder()`.

    With `resume`, whatever part is finished is kept (dispatcher, router, experts one by one) and an unfinished one
    goes on from its checkpoint. Raises a `SelfmaskError` for whatever a user can mend.
    """
    plan = make_plan(settings)
    accelerator = accelerator_for(plan.backbone.module)
    console = console_for(accelerator, console)
    with showing(console):
        return _learn(settings, plan, accelerator, console)


def _learn(settings: CascadeSettings, plan: Plan, accelerator: Accelerator, console: Console) -> CascadeRun:
    folder = settings.folder()
    # Before the folder is opened and the dispatcher trained, not after it.
    check_support(len(plan.train), settings.experts)
    plan.make_objective()
    plan.check_masks()
    described = {name: value for name, value in recorded(settings).items() if name not in _FREE}
    by_the_first(accelerator, lambda: open_folder(folder, described, resume=settings.resume))
    began = time.perf_counter()
    if not _dispatcher(settings, folder / DISPATCHER_FOLDER, console):
        return CascadeRun(folder, interrupted=True)

    plan.backbone.module.eval()
    router, assignment = _router(settings, plan, folder, accelerator, console)
    start = Start.of(folder / DISPATCHER_FOLDER)
    paths: list[Path] = []
    for expert in range(router.experts):
        mine = (assignment == expert).nonzero().flatten()
        paths.append(folder / f"expert-{expert + 1}")
        if (paths[-1] / MASK).is_file():
            console.print(f"expert {expert + 1}: finished before", highlight=False)
            continue
        console.print(
            f"expert {expert + 1} of {router.experts}: {len(mine)} images", highlight=False, soft_wrap=True
        )
        try:
            finished = train_expert(
                plan, plan.train.subset(mine), start, paths[-1], title=f"expert {expert + 1}",
                steps=settings.expert_steps, rate=settings.expert_lr, accelerator=accelerator, console=console,
            )  # fmt: skip
        except RunError as error:
            raise RunError(
                f"expert {expert + 1}: {error}. What is finished is kept: go on by --resume, with a smaller "
                f"--expert-lr ({(settings.expert_lr or plan.fit.rate) / 4:.2g} say) if its rate was the reason"
            ) from error
        if not finished:
            return CascadeRun(folder, interrupted=True, experts=router.experts)
    learnt = time.perf_counter() - began

    if not accelerator.is_main_process:
        return CascadeRun(folder, interrupted=False, experts=router.experts)
    fusions = _write(settings, plan, folder, router, paths)
    cascade = load_cascade(folder / CASCADE)
    whole = replace(cascade, fusions=fusions)
    rows, passes = measure_cascade(plan, whole, console) if settings.evaluate else (None, {})
    clusters = make_up(assignment, plan.train.labels, plan.train.classes, router.experts)
    result = {
        "data": plan.train.name,
        "backbone": plan.backbone.spec,
        "objective": plan.objective,
        "seed": settings.seed,
        "size": plan.size,
        "experts": router.experts,
        "router": settings.router,
        "training": plan.record(),
        "expert_training": [_trained(path) for path in paths],
        "rows": None if rows is None else rows.to_json(),
        "passes": passes,
        "bytes": cascade.bytes(),
        "storage": storage(cascade, [folder / DISPATCHER_FOLDER / MASK, *(path / MASK for path in paths)]),
        "clusters": [cluster.to_json() for cluster in clusters],
        # Of this call alone: what a resumed cascade had before is not counted.
        "seconds": {"learning": round(learnt, 1), "total": round(time.perf_counter() - began, 1)},
        "resumed": settings.resume,
        **record(settings, accelerator.device, "cascade"),
    }
    write_json(folder / RESULT, result)
    return CascadeRun(folder, False, router.experts, rows, tuple(clusters), result)


def _dispatcher(settings: CascadeSettings, folder: Path, console: Console) -> bool:
    """Train it, or go on with it, as an ordinary adaptation in its own folder; False where it was interrupted."""
    if (folder / MASK).is_file() and (folder / CHECKPOINT).is_file():
        console.print("dispatcher: finished before", highlight=False)
        return True
    values = {f.name: getattr(settings, f.name) for f in fields(AdaptSettings)}
    # It is measured with the cascade, on the same images.
    own = AdaptSettings(
        **values | {"out": folder, "evaluate": False, "resume": (folder / SETTINGS).is_file()}
    )
    return not adapt(own, console=console).interrupted


def _router(
    settings: CascadeSettings, plan: Plan, folder: Path, accelerator: Accelerator, console: Console
) -> tuple[Router, Tensor]:
    """The router and the experts of the training images: fitted once, by one process, and read by all."""
    path = folder / ROUTER

    def make() -> None:
        if path.is_file():
            return
        with load(folder / DISPATCHER_FOLDER / MASK, plan.backbone.module).apply(plan.backbone.module):
            x = features(plan.backbone, plan.train, channels_last=plan.channels_last, what="for the router")
        router, assignment, lines = fit_router(x, settings.experts, kind=settings.router, seed=settings.seed)
        sizes = ", ".join(str(size) for size in torch.bincount(assignment).tolist())
        for line in [*lines, f"router: clusters of {sizes} images"]:
            console.print(line, highlight=False, soft_wrap=True)
        write_checkpoint(path, {"kind": router.kind, "router": router.tensors(), "assignment": assignment})

    by_the_first(accelerator, make)
    state = read_checkpoint(path)
    return Router.from_tensors(state["kind"], state["router"]), state["assignment"]


def _trained(folder: Path) -> dict[str, Any]:
    """How the expert in `folder` was trained, and the density that it found."""
    mask = load(folder / MASK)
    training = mask.metadata["training"]
    return {name: training[name] for name in ("images", "batch", "steps", "rate")} | {
        "density": mask.density()
    }


def _write(
    settings: CascadeSettings, plan: Plan, folder: Path, router: Router, experts: list[Path]
) -> dict[Mode, Fusion]:
    """Write the cascade file; returns both fusions, also one that the file does not keep."""
    module = plan.backbone.module

    def write(fusions: Mapping[Mode, Fusion]) -> Cascade:
        write_cascade(
            folder / CASCADE,
            dispatcher=(folder / DISPATCHER_FOLDER / MASK).read_bytes(),
            experts=[load(path / MASK, module) for path in experts],
            router=router,
            fusions=fusions,
            base=module,
            metadata={"training": plan.record()},
        )
        return load_cascade(folder / CASCADE, module)

    images = plan.train
    if len(images) > FUSION_IMAGES:
        generator = torch.Generator().manual_seed(settings.seed)
        images = images.subset(torch.randperm(len(images), generator=generator)[:FUSION_IMAGES].sort().values)
    first, own, assignment = write({}).member_features(
        images, plan.backbone, everything=True, channels_last=plan.channels_last
    )
    width = settings.width or plan.backbone.width
    fusions: dict[Mode, Fusion] = {
        mode: fit_fusion(joined(first, own, assignment, mode), width, mode) for mode in MODES
    }
    write({mode: fusions[mode] for mode in settings.modes()})
    return fusions
