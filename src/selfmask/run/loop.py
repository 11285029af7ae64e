"""The training loop: from images and an objective to scores. It reads from top to bottom.

The loop knows nothing of masks but their optimizer: with ordinary parameters it is full fine-tuning, which is
what the baseline is trained with.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import nn

from selfmask._common.console import SafeConsole
from selfmask._common.processes import any_of, average, ended_on_all, same_on_all
from selfmask.backbones.backbone import Backbone
from selfmask.errors import DivergedError, RunError
from selfmask.features.rows import FULL_FINE_TUNING
from selfmask.images.batches import Batches
from selfmask.images.image_set import ImageSet
from selfmask.masking.norm import running_statistics
from selfmask.masking.tensor_adam import TensorAdam
from selfmask.maskset import MaskSet
from selfmask.objectives.base import Batch, Objective
from selfmask.run.checkpoint import damage_named, read_checkpoint, write_checkpoint
from selfmask.run.folder import RunFolder
from selfmask.run.log import LogWriter
from selfmask.run.process import Interruption, accelerator_for, keep_freed_memory
from selfmask.run.schedule import FitSettings, rate_at
from selfmask.run.tracking import track


@dataclass(frozen=True)
class Fitted:
    """How a training ended. `interrupted`: a signal came; the checkpoint holds everything up to `steps`.

    seconds: of training, those of the stretches before a resumption included.
    """

    steps: int
    interrupted: bool
    seconds: float


def fit(
    backbone: Backbone,
    masks: MaskSet | None,
    objective: Objective,
    images: ImageSet,
    settings: FitSettings,
    folder: RunFolder,
    *,
    resume: bool = False,
    accelerator: Accelerator | None = None,
    console: Console | None = None,
    title: str = "masks",
    watch: Callable[[int], dict[str, float]] | None = None,
    channels_last: bool = False,
) -> Fitted:
    """Train `masks` (or with None the backbone's weights that require a gradient) and the objective's head on `images`.

    Writes the log and the checkpoints into `folder`. With `resume`, goes on from the checkpoint there: on the CPU with
    the same number of threads, to the same masks bit for bit. `watch(step)` may add
    figures to a line of the log, and stop a run by raising.

    A step whose gradient is not finite is skipped for the tensor whose gradient it is, and counted in the log.
    Raises `DivergedError` where that goes on, or the loss is no longer finite; the last checkpoint is kept.
    """
    keep_freed_memory()
    accelerator = accelerator or accelerator_for(backbone.module)
    console = console or SafeConsole(stderr=True)
    module, device = backbone.module, accelerator.device
    module.to(device)
    objective.to(device)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    state = read_checkpoint(folder.checkpoint) if resume else None
    if state is not None:
        # First, because an objective finds its own rate in `prepare` and keeps it in its state.
        with damage_named(folder.checkpoint):
            objective.load_state_dict(state["objective"])
    optimizer = _score_optimizer(module, masks, settings)
    head = _head_optimizer(objective)
    peaks = [float(group["lr"]) for group in optimizer.param_groups]  # norm weights have a rate of their own
    trained = [p for group in optimizer.param_groups for p in group["params"]] + list(objective.parameters())
    start, spent = 0, 0.0
    if state is not None:
        with damage_named(folder.checkpoint):
            start, spent = _restore(state, module, optimizer, head, settings)
    else:
        same_on_all([*objective.parameters(), *objective.buffers()])
    began = time.perf_counter()

    def save(step: int) -> None:
        if accelerator.is_main_process:
            seconds = spent + time.perf_counter() - began
            state = _state(step, seconds, module, optimizer, head, objective, settings)
            write_checkpoint(folder.checkpoint, state)

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
    path = folder.log_file
    log = LogWriter(
        path if accelerator.is_main_process else path.with_name(f"log.{accelerator.process_index}.jsonl"),
        steps=settings.steps, start=start, batch=settings.batch, console=console, title=title,
    )  # fmt: skip
    skipped: dict[str, int] = {}  # steps that were skipped, by what was spared them
    flips = None if masks is None else _Flips(masks, start)
    gone_wrong = DivergedError("the run has gone wrong on another process, which says why")
    module.train()
    objective.train()
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), Interruption() as interruption, log, batches:
        if state is None:
            torch.manual_seed(settings.seed)
        else:
            with damage_named(folder.checkpoint):
                torch.set_rng_state(state["rng"])
        for step, raw in batches:
            views = [
                backbone.preprocessing.normalise(view.to(device)).contiguous(memory_format=layout)
                for view in raw.views
            ]
            batch = Batch(views, raw.labels.to(device), raw.indices)
            _set_rates(optimizer, peaks, head, objective, rate_at(step, settings) / settings.rate)

            with (
                ended_on_all(device, gone_wrong),
                torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"),
            ):
                with _named(None if masks is not None else title):
                    loss, figures = objective.loss(module, batch, step, settings.steps)
                if not math.isfinite(float(loss.detach())):
                    kept = folder.checkpoint.is_file()
                    raise DivergedError(_not_finite(step, settings, title if masks is None else None, kept))
            optimizer.zero_grad(set_to_none=True)
            if head is not None:
                head.zero_grad(set_to_none=True)
            loss.backward()
            # By hand and not by a wrapper around the model: an objective may pass through it several times a step.
            average([p.grad for p in trained if p.grad is not None])

            objective.before_step(step, settings.steps)
            with _told(step, folder.checkpoint):
                optimizer.step()
            if head is not None:
                _step_if_sound(head, skipped)
            objective.after_step(step, settings.steps, module)
            average(list(running_statistics(module).values()))

            last = step + 1 == settings.steps
            if last or step % settings.log_every == 0:
                entry = {"loss": float(loss.detach()), **figures, "rate": rate_at(step, settings)}
                if masks is not None and flips is not None:
                    entry |= {"off": 1 - masks.density(), "flipped": flips.share(step + 1)}
                skipped |= getattr(optimizer, "skipped", {})
                if skipped:
                    entry["skipped"] = float(sum(skipped.values()))
                if watch is not None:
                    entry |= watch(step)
                log.write(step, entry)
                track(accelerator, entry, console, step)
            else:
                log.advance(step)
            stop = any_of(interruption.requested, device)
            if last or stop or (
                settings.checkpoint_every and (step + 1) % settings.checkpoint_every == 0
            ):  # fmt: skip
                save(step + 1)
            if stop:  # after the last step too: there may be other trainings to come, and hours of measuring
                return Fitted(step + 1, True, spent + time.perf_counter() - began)
    module.eval()
    return Fitted(settings.steps, False, spent + time.perf_counter() - began)


@contextmanager
def _named(rival: str | None) -> Iterator[None]:
    """What an objective says of masks that do harm is not for a `rival`, which is trained in their place."""
    try:
        yield
    except RunError as error:
        if rival is None:
            raise
        flag = f" (its rate: {_RATE_OF[rival]})" if rival in _RATE_OF else ""
        raise type(error)(f"{error}. But that was {rival}{flag}, and not the masks") from error


@contextmanager
def _told(step: int, checkpoint: Path) -> Iterator[None]:
    """A mask optimizer that gives up says at which step, and what is kept."""
    try:
        yield
    except RunError as error:
        kept = f"; the checkpoint {checkpoint} is kept" if checkpoint.is_file() else ""
        raise type(error)(f"step {step}: {error}{kept}") from error


def _step_if_sound(head: torch.optim.Optimizer, skipped: dict[str, int]) -> None:
    """As the mask optimizer does it: one gradient that is not finite would destroy the head for good."""
    grads = [p.grad for group in head.param_groups for p in group["params"] if p.grad is not None]
    if grads and not bool(torch.stack([g.isfinite().all() for g in grads]).all()):
        skipped["head"] = skipped.get("head", 0) + 1
        return
    head.step()


def _score_optimizer(
    module: nn.Module, masks: MaskSet | None, settings: FitSettings
) -> torch.optim.Optimizer:
    cls = {"adam": torch.optim.Adam, "tensor-adam": TensorAdam, "sgd": torch.optim.SGD}[settings.method]
    options: dict[str, Any] = {"lr": settings.rate}
    options |= {"momentum": settings.momentum} if settings.method == "sgd" else {"betas": settings.betas}
    options["weight_decay"] = settings.weight_decay
    if masks is not None:
        return masks.optimizer(cls, **options)
    return cls([p for p in module.parameters() if p.requires_grad], **options)


def _head_optimizer(objective: Objective) -> torch.optim.SGD | None:
    parameters = list(objective.parameters())
    if not parameters or objective.head_rate == 0:
        return None
    return torch.optim.SGD(
        parameters, lr=objective.head_rate, momentum=0.9, weight_decay=objective.head_decay
    )


def _set_rates(
    optimizer: torch.optim.Optimizer,
    peaks: list[float],
    head: torch.optim.Optimizer | None,
    objective: Objective,
    share: float,
) -> None:
    """All follow the one schedule; `share` is where it stands, in [0, 1] of the peak."""
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["lr"] = peak * share
    if head is not None:
        for group in head.param_groups:
            group["lr"] = objective.head_rate * share


class _Flips:
    """How restless a mask is: counts flips between one line of the log and the next. Keeps one byte a weight."""

    def __init__(self, masks: MaskSet, step: int) -> None:
        self._masks, self._before, self._step = masks, masks.masks(), step

    def share(self, step: int) -> float:
        """Share of the bits, a step, that differ from the last call's (of the steps done by `step`), in [0, 1].

        A bit that flipped there and back in between is not seen.
        """
        now, total, flipped = self._masks.masks(), 0, 0
        for name, mask in now.items():
            total += mask.numel()
            flipped += int((mask != self._before[name]).sum())
        steps = max(step - self._step, 1)
        self._before, self._step = now, step
        return flipped / max(total, 1) / steps


def _state(
    step: int,
    seconds: float,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    head: torch.optim.Optimizer | None,
    objective: Objective,
    settings: FitSettings,
) -> dict[str, Any]:
    return {
        "step": step,
        "seconds": seconds,
        "settings": settings.recorded(),
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "head": None if head is None else head.state_dict(),
        "objective": objective.state_dict(),
        "rng": torch.get_rng_state(),  # torch's own on the CPU: dropout and stochastic depth draw from it
    }


def _restore(
    state: dict[str, Any],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    head: torch.optim.Optimizer | None,
    settings: FitSettings,
) -> tuple[int, float]:
    """Bring everything but objective and draws back to where the checkpoint was written.

    Returns the step to go on with, and the seconds spent by then.
    """
    theirs = state["settings"]
    for name, value in settings.recorded().items():
        if theirs.get(name) != value:
            raise RunError(
                f"the checkpoint was made with {name} = {theirs.get(name)!r}, this run has {value!r}; "
                "resume with the same settings, or start anew in another folder"
            )
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])  # after the module: it rewrites the masked weights
    if head is not None and state["head"] is not None:
        head.load_state_dict(state["head"])
    return int(state["step"]), float(state["seconds"])


_RATE_OF = {FULL_FINE_TUNING: "--finetune-lr"}
"""No flag sets the rate of norm weights alone."""


def _not_finite(step: int, settings: FitSettings, rival: str | None, kept: bool) -> str:
    """rival: what is trained in the masks' place, by its row's name; None where it is the scores."""
    flag = "--lr" if rival is None else _RATE_OF.get(rival)
    return (
        f"the loss is not a finite number at step {step}: the {'weights' if rival else 'scores'} moved too fast. "
        f"Start again with a smaller learning rate than {settings.rate:g}"
        + (f", {flag} {settings.rate / 4:.2g} say, into a new --out" if flag else "")
        + ("; the last checkpoint is kept" if kept else "")
    )
