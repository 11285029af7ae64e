"""The training loop: from images and an objective to scores. It reads from top to bottom.

The loop knows nothing of masks but their optimizer: with ordinary parameters it is full fine-tuning, which is
what the baseline is trained with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import nn

from selfmask.backbones.backbone import Backbone
from selfmask.errors import RunError
from selfmask.images.batches import Batches
from selfmask.images.image_set import ImageSet
from selfmask.masking.tensor_adam import TensorAdam
from selfmask.maskset import MaskSet
from selfmask.objectives.base import Batch, Objective
from selfmask.run.checkpoint import read_checkpoint, rng_state, write_checkpoint
from selfmask.run.distribution import (
    accelerator_for,
    any_of,
    average_gradients,
    average_statistics,
    same_on_all,
)
from selfmask.run.flips import Flips
from selfmask.run.interrupt import Interruption
from selfmask.run.journal import Journal
from selfmask.run.memory import keep_freed_memory
from selfmask.run.settings import FitSettings, rate_at

CHECKPOINT = "checkpoint.safetensors"
LOG = "log.jsonl"


@dataclass(frozen=True)
class Fitted:
    """How a training ended. `interrupted`: a signal came; the checkpoint holds everything up to `steps`."""

    steps: int
    interrupted: bool


def fit(
    backbone: Backbone,
    masks: MaskSet | None,
    objective: Objective,
    images: ImageSet,
    settings: FitSettings,
    folder: Path,
    *,
    resume: bool = False,
    accelerator: Accelerator | None = None,
    console: Console | None = None,
    title: str = "masks",
    watch: Callable[[int], dict[str, float]] | None = None,
    channels_last: bool = False,
) -> Fitted:
    """Train `masks` (or with None all of the backbone's weights) and the objective's head on `images`.

    Writes `log.jsonl` and `checkpoint.safetensors` into `folder`. With `resume`, goes on from the checkpoint
    there: on the CPU with the same number of threads, to the same masks bit for bit. `watch(step)` may add
    figures to a line of the log, and stop a run by raising.

    Raises `RunError` where the loss is no longer finite; the last checkpoint is kept.
    """
    keep_freed_memory()
    accelerator = accelerator or accelerator_for(backbone.module)
    console = console or Console(stderr=True)
    module, device = backbone.module, accelerator.device
    module.to(device)
    objective.to(device)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    state = read_checkpoint(folder / CHECKPOINT) if resume else None
    if state is not None:
        # First, because an objective finds its own rate in `prepare` and keeps it in its state.
        objective.load_state_dict(state["objective"])
    optimizer = _score_optimizer(module, masks, settings)
    head = _head_optimizer(objective)
    trained = [p for group in optimizer.param_groups for p in group["params"]] + list(objective.parameters())
    start = 0
    if state is not None:
        start = _restore(state, module, optimizer, head, settings)
    else:
        same_on_all(accelerator, objective)
        torch.manual_seed(settings.seed)

    def save(step: int) -> None:
        if accelerator.is_main_process:
            write_checkpoint(folder / CHECKPOINT, _state(step, module, optimizer, head, objective, settings))

    batches = Batches(
        images,
        objective.views,
        batch=settings.batch,
        seed=settings.seed,
        start=start,
        stop=settings.steps,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        device=device,
    )
    journal = Journal(
        folder / LOG if accelerator.is_main_process else folder / f"log.{accelerator.process_index}.jsonl",
        steps=settings.steps, start=start, batch=settings.batch, console=console, title=title,
    )  # fmt: skip
    flips = None if masks is None else Flips(masks, start)
    module.train()
    objective.train()
    step = start
    with Interruption() as interruption, journal, batches:
        for step, raw in batches:
            views = [
                backbone.preprocessing.normalise(view.to(device)).contiguous(memory_format=layout)
                for view in raw.views
            ]
            batch = Batch(views, raw.labels.to(device), raw.indices)
            _set_rates(optimizer, head, objective, rate_at(step, settings) / settings.rate, settings)

            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                loss, figures = objective.loss(module, batch, step, settings.steps)
            if not math.isfinite(float(loss.detach())):
                raise RunError(_not_finite(step, settings, masks is None, (folder / CHECKPOINT).is_file()))
            optimizer.zero_grad(set_to_none=True)
            if head is not None:
                head.zero_grad(set_to_none=True)
            loss.backward()
            average_gradients(accelerator, trained)

            objective.before_step(step, settings.steps)
            optimizer.step()
            if head is not None:
                head.step()
            objective.after_step(step, settings.steps, module)
            average_statistics(accelerator, module)

            last = step + 1 == settings.steps
            stop = any_of(accelerator, interruption.requested)
            if last or step % settings.log_every == 0:
                entry = {"loss": float(loss.detach()), **figures, "rate": rate_at(step, settings)}
                if masks is not None and flips is not None:
                    entry |= {"off": 1 - masks.density(), "flipped": flips.share(step + 1)}
                if watch is not None:
                    entry |= watch(step)
                journal.write(step, entry)
            else:
                journal.advance(step)
            if last or stop or (
                settings.checkpoint_every and (step + 1) % settings.checkpoint_every == 0
            ):  # fmt: skip
                save(step + 1)
            if stop and not last:
                return Fitted(step + 1, interrupted=True)
    module.eval()
    return Fitted(settings.steps, interrupted=False)


def _score_optimizer(
    module: nn.Module, masks: MaskSet | None, settings: FitSettings
) -> torch.optim.Optimizer:
    cls = {"adam": torch.optim.Adam, "tensor-adam": TensorAdam, "sgd": torch.optim.SGD}[settings.method]
    options: dict[str, Any] = {"lr": settings.rate}
    options |= {"momentum": settings.momentum} if settings.method == "sgd" else {"betas": settings.betas}
    options["weight_decay"] = settings.weight_decay
    return masks.optimizer(cls, **options) if masks is not None else cls(module.parameters(), **options)


def _head_optimizer(objective: Objective) -> torch.optim.SGD | None:
    parameters = list(objective.parameters())
    if not parameters or objective.head_rate == 0:
        return None
    return torch.optim.SGD(
        parameters, lr=objective.head_rate, momentum=0.9, weight_decay=objective.head_decay
    )


def _set_rates(
    optimizer: torch.optim.Optimizer,
    head: torch.optim.Optimizer | None,
    objective: Objective,
    share: float,
    settings: FitSettings,
) -> None:
    """Both follow the one schedule; `share` is where it stands, in [0, 1] of the peak."""
    for group in optimizer.param_groups:
        group["lr"] = settings.rate * share
    if head is not None:
        for group in head.param_groups:
            group["lr"] = objective.head_rate * share


def _state(
    step: int,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    head: torch.optim.Optimizer | None,
    objective: Objective,
    settings: FitSettings,
) -> dict[str, Any]:
    return {
        "step": step,
        "settings": _comparable(settings),
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "head": None if head is None else head.state_dict(),
        "objective": objective.state_dict(),
        "rng": rng_state(),
    }


def _restore(
    state: dict[str, Any],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    head: torch.optim.Optimizer | None,
    settings: FitSettings,
) -> int:
    """Bring everything but the objective back to where the checkpoint was written; returns the step to go on with."""
    mine, theirs = _comparable(settings), state["settings"]
    for name, value in mine.items():
        if theirs.get(name) != value:
            raise RunError(
                f"the checkpoint was made with {name} = {theirs.get(name)!r}, this run has {value!r}; "
                "resume with the same settings, or start anew in another folder"
            )
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])  # after the module: it rewrites the masked weights
    if head is not None and state["head"] is not None:
        head.load_state_dict(state["head"])
    torch.set_rng_state(state["rng"])
    return int(state["step"])


def _comparable(settings: FitSettings) -> dict[str, Any]:
    """The settings that the next step depends on, as they come back from JSON."""
    free = ("checkpoint_every", "log_every")
    return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(settings).items() if k not in free}


def _not_finite(step: int, settings: FitSettings, full: bool, kept: bool) -> str:
    kind, flag = ("weights", "--finetune-lr") if full else ("scores", "--lr")
    return (
        f"the loss is not a finite number at step {step}: the {kind} moved too fast. "
        f"Start again with a smaller learning rate than {settings.rate:g}, {flag} {settings.rate / 4:.2g} say"
        + ("; the last checkpoint is kept" if kept else "")
    )
