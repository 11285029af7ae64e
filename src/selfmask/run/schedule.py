"""Settings of one training: the score optimizer, its schedule, and how often things are written.

The reasons and the measurements behind what is chosen where the user does not say stand in docs/defaults.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, get_args

from selfmask.errors import SettingsError
from selfmask.objectives.base import Method

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class FitSettings:
    """
    steps: how many optimizer steps.
    batch: images a step, over all processes.
    method: "adam", whose rate is in scores a step whatever the network; "tensor-adam", one second moment a tensor
        (see `masking.tensor_adam`); or "sgd", the paper's.
    rate: the peak learning rate of the scores (of the weights, in full fine-tuning).
    warmup: share of the steps over which the rate rises linearly; it then falls as a cosine to 0.
    betas: Adam's. momentum: SGD's. weight_decay: 0 for masks (PAPER §3).
    precision: "bf16" runs the network under autocast; scores and losses stay float32.
    seed: of the order of the images and their views.
    checkpoint_every: steps between checkpoints; 0 writes one only when stopped and at the end.
    log_every: steps between lines of the log.
    """

    steps: int
    batch: int = 64
    method: Method = "adam"
    rate: float = 0.05
    warmup: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    momentum: float = 0.9
    weight_decay: float = 0.0
    precision: Precision = "fp32"
    seed: int = 0
    checkpoint_every: int = 200
    log_every: int = 5

    FREE: ClassVar[tuple[str, ...]] = ("checkpoint_every", "log_every")
    """What the next step does not depend on."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "log_every"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch < 2:
            raise SettingsError("a batch needs at least 2 images: a batch norm takes a variance over it")
        if self.checkpoint_every < 0:
            raise SettingsError(f"checkpoint_every must not be negative, got {self.checkpoint_every}")
        if not self.rate > 0 or not math.isfinite(self.rate):
            raise SettingsError(f"the learning rate must be positive, got {self.rate}")
        if not 0 <= self.warmup < 1:
            raise SettingsError(f"warmup is a share of the steps in [0, 1), got {self.warmup}")
        if self.method not in get_args(Method):
            raise SettingsError(f"the score optimizer is one of {get_args(Method)}, got {self.method!r}")
        if self.precision not in ("fp32", "bf16"):
            raise SettingsError(f"precision is 'fp32' or 'bf16', got {self.precision!r}")

    def recorded(self) -> dict[str, Any]:
        """As JSON, without what the next step does not depend on."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in self.FREE}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


MIN_STEPS = 150


def step_count(images: int, batch: int, epochs: float | None, steps: int | None, passes: float) -> int:
    """Optimizer steps: as told, or so many passes over the images but at least 150 steps."""
    if steps is not None:
        return steps
    per_epoch = max(images / batch, 1)
    if epochs is not None:
        return max(1, round(epochs * per_epoch))
    return max(MIN_STEPS, round(passes * per_epoch))


def rate_at(step: int, settings: FitSettings) -> float:
    """The learning rate of step `step` (from 0): a linear warm-up, then a cosine to 0 (PAPER §6)."""
    warm = settings.warmup * settings.steps
    if step < warm:
        return settings.rate * (step + 1) / (math.floor(warm) + 1)
    done = (step - warm) / max(settings.steps - warm, 1)
    return settings.rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def path_length(settings: FitSettings) -> float:
    """The sum of the rates over all steps: how far Adam can carry a score whose gradient never changes sign."""
    return sum(rate_at(step, settings) for step in range(settings.steps))


def default_rate(settings: FitSettings, path: float, most: float) -> float:
    """The peak rate at which the steps of `settings` add up to `path`, and at most `most`."""
    return min(most, path / path_length(replace(settings, rate=1.0)))
