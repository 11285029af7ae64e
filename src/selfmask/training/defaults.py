"""What is chosen where the user does not say: view size, number of steps, and the rate of the scores.

The reasons and the measurements behind these numbers stand in docs/defaults.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import torch

from selfmask.data import ImageSet
from selfmask.training.settings import FitSettings, path_length

PATHS = {"adam": 4.5, "tensor-adam": 1.0}
"""How far, in scores, a score may be carried over the whole run: with adam one whose gradient never changes sign,
with tensor-adam one whose gradient is its tensor's root mean square. A score has to travel 1 to cross the threshold,
and the gradients of batches agree only in part."""

WARMUPS = {"adam": 0.3, "tensor-adam": 0.1, "sgd": 0.0}
"""Shares of the run. Adam's scores all near the threshold at once: the slower they arrive there the better."""

SPREAD = 0.5
"""With adam, scores start between 1 - SPREAD and 1 + SPREAD, so that they do not all cross in the same few steps.
Without it the same rate left EfficientNet-Lite0 at 35 % on CIFAR-10, with it at 77 %."""

MOST_RATE = 0.06
"""Above this a score crosses in a dozen steps, on the word of a dozen batches: at 0.1 a set of 800 photographs lost
five points, at 0.05 one."""

MIN_STEPS, EPOCHS = 150, 4.0


def view_size(images: ImageSet, native: int, *, on_cpu: bool, spec: str) -> int:
    """Pixels of the square view: twice the images' short side (more shows nothing new), within what the
    backbone was trained at, and at most 128 on a CPU; a multiple of 16, or of a transformer's patch.
    """
    short = short_side(images)
    most = min(native, 128) if on_cpu else native
    size = max(min(2 * short, most), min(48, native))
    patch = re.search(r"patch(\d+)", spec)
    step = int(patch[1]) if patch else 16
    return max(step, size // step * step)


def step_count(images: int, batch: int, epochs: float | None, steps: int | None) -> int:
    """Optimizer steps: as told, or four epochs but at least 150 steps."""
    if steps is not None:
        return steps
    per_epoch = max(images / batch, 1)
    if epochs is not None:
        return max(1, round(epochs * per_epoch))
    return max(MIN_STEPS, round(EPOCHS * per_epoch))


def default_rate(settings: FitSettings) -> float:
    """The peak rate at which the steps of `settings` add up to its method's path, at most `MOST_RATE`."""
    return min(MOST_RATE, PATHS[settings.method] / path_length(replace(settings, rate=1.0)))


def prefers_channels_last(family: str) -> bool:
    """Convolutional networks run faster with channels last, most of all those with depthwise convolutions."""
    return family in ("resnet", "efficientnet", "mobilenet", "convnext", "generic")


def short_side(images: ImageSet) -> int:
    """Pixels: the median short side of up to 64 of the images, spread over the set."""
    places: Sequence[int] = torch.linspace(0, len(images) - 1, min(64, len(images))).round().int().tolist()
    sides = sorted(min(images.image(i).shape[1:]) for i in places)
    return int(sides[len(sides) // 2])
