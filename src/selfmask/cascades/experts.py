"""One expert: the dispatcher's scores, trained on on the images of one cluster (PAPER §8.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from warnings import catch_warnings

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor

from selfmask._common.console import tell
from selfmask._common.files import write_atomically
from selfmask.errors import EmptyMaskWarning
from selfmask.images.image_set import ImageSet
from selfmask.maskfile.quantised import Quantised
from selfmask.maskset import MaskSet
from selfmask.objectives.base import Objective
from selfmask.objectives.registry import objective_class
from selfmask.run.build import build_masks, build_objective
from selfmask.run.checkpoint import damage_named, read_checkpoint
from selfmask.run.folder import RunFolder
from selfmask.run.loop import fit
from selfmask.run.plan import Plan
from selfmask.run.schedule import FitSettings


@dataclass(frozen=True)
class Start:
    """What experts start from: the dispatcher's mask file, its scores in the masks' order, its statistics and norm
    weights, its head's state."""

    mask: Path
    scores: tuple[Tensor, ...]
    statistics: Mapping[str, Tensor]
    norms: Mapping[str, Quantised]
    objective: Mapping[str, Any]
    steps: int

    @classmethod
    def of(cls, folder: RunFolder) -> Start:
        """Of the finished dispatcher in `folder`. Raises `RunError` where its checkpoint is missing or damaged."""
        state, mask = read_checkpoint(folder.checkpoint), folder.mask()
        with damage_named(folder.checkpoint):
            scores = state["optimizer"]["state"]
            return cls(
                folder.mask_file,
                tuple(scores[index]["score"] for index in sorted(scores) if "score" in scores[index]),
                mask.statistics,
                mask.norms,
                state["objective"],
                int(state["step"]),
            )

    @torch.no_grad()
    def put(self, masks: MaskSet) -> None:
        """Make the masked model the dispatcher."""
        # A schedule of the density is at its end, and stays there.
        masks.steps = self.steps
        masks.set_scores(dict(zip(masks.names, self.scores, strict=True)))
        buffers = dict(masks.model.named_buffers())
        for name, value in self.statistics.items():
            buffers[name].copy_(value)
        for name, change in self.norms.items():
            weight = masks.model.get_parameter(name)
            weight.copy_(change.added_to(masks.masked.base[name]))


def train_expert(
    plan: Plan,
    images: ImageSet,
    start: Start,
    folder: RunFolder,
    *,
    title: str,
    steps: int | None,
    rate: float | None,
    accelerator: Accelerator,
    console: Console,
) -> bool:
    """Train an expert on `images` and write its mask into `folder`; False where a signal stopped it before its end.

    Goes on from a checkpoint in `folder` if it has one of as many steps at the same rate, else starts anew: what an
    expert is stopped for (`RunError`: it does harm) is mended by another rate. Steps and rate are the dispatcher's
    unless given, so a small cluster is seen more often. With `supervised`, images of one class leave nothing to tell
    apart: the dispatcher's own mask is the expert then. The backbone is the base again afterwards.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    if _keeps_its_head(plan) and len(set(images.labels.tolist())) < 2:
        console.print(f"{title}: images of one class, so it is the dispatcher itself", highlight=False)
        if accelerator.is_main_process:
            write_atomically(folder.mask_file, start.mask.read_bytes())
        accelerator.wait_for_everyone()
        return True
    processes = accelerator.num_processes
    batch = max(min(plan.fit.batch, len(images)) // processes, 1) * processes
    settings = replace(
        plan.fit,
        batch=batch,
        steps=plan.fit.steps if steps is None else steps,
        rate=plan.fit.rate if rate is None else rate,
    )
    own = replace(plan, train=images, labelled=images.labelled(), fit=settings)
    asked, suiting = plan.objective_settings, {}
    if (getattr(asked, "queue", None) or 0) % batch:  # asked for, for whole batches: what suits these instead
        suiting["queue"] = None
    clusters = getattr(asked, "start", None) == "kmeans"  # of which there are no more than images
    if clusters and (getattr(asked, "prototypes", None) or 0) > len(images):
        suiting["prototypes"] = None
    if suiting:
        own = replace(own, objective_settings=replace(asked, **suiting))
    resume = _same_plan(folder.checkpoint, settings)
    objective = build_objective(own)
    if not resume:
        _prepare(objective, own, start, console)
    masks = build_masks(own)
    try:
        start.put(masks)
        fitted = fit(
            own.backbone, masks, objective, images, settings, folder,
            resume=resume, accelerator=accelerator, console=console, title=title, channels_last=own.channels_last,
        )  # fmt: skip
        if fitted.interrupted:
            return False
        if accelerator.is_main_process:
            if masks.density() == 1 and not own.train_norms and own.norm_stats == "frozen":
                tell(console, f"warning: {title}: no weight is off, so this mask changes nothing")
            with catch_warnings(action="ignore", category=EmptyMaskWarning):
                masks.save(
                    folder.mask_file,
                    backbone=own.backbone.describe(),
                    preprocessing=own.backbone.preprocessing.describe(),
                    training=own.record(),
                )
            # The mask is what is wanted of it; scores and momenta of all experts would fill a disk.
            folder.checkpoint.unlink(missing_ok=True)
        accelerator.wait_for_everyone()
        return True
    finally:
        masks.remove()
        own.backbone.module.eval()


def _same_plan(checkpoint: Path, settings: FitSettings) -> bool:
    """Whether there is a checkpoint that can be gone on with. Anything else that differs is refused by `fit`."""
    if not checkpoint.is_file():
        return False
    state = read_checkpoint(checkpoint)
    with damage_named(checkpoint):
        before = state["settings"]
        return all(before.get(name) == getattr(settings, name) for name in ("steps", "rate"))


def _keeps_its_head(plan: Plan) -> bool:
    """Whether the trained head means the same on every image, so that an expert's starts as the dispatcher's. Else it
    takes targets, prototypes or texts from the base, as for the dispatcher, but for the expert's images alone."""
    return objective_class(plan.objective).labels == "needed"


def _prepare(objective: Objective, plan: Plan, start: Start, console: Console) -> None:
    mine, theirs = objective.state_dict(), start.objective
    alike = mine.keys() == theirs.keys() and all(mine[name].shape == theirs[name].shape for name in mine)
    if _keeps_its_head(plan) and alike:  # an objective of the user's own may keep a row for each image
        objective.load_state_dict(theirs)
        return
    for line in objective.prepare(plan.backbone, plan.train):
        console.print(line, highlight=False, soft_wrap=True)
