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

PATH = 8.0
"""How far, in scores, Adam may carry one whose gradient never changes sign, over the whole run. A score has to
travel 1 to cross the threshold; gradients from batches agree only in part."""

MOST_RATE = 0.1
"""Above this a score crosses in ten steps, on the word of ten batches."""

MIN_STEPS, EPOCHS = 200, 5.0


def view_size(images: ImageSet, native: int, *, on_cpu: bool, spec: str) -> int:
    """Pixels of the square view: twice the images' short side (more shows nothing new), within what the
    backbone was trained at, and at most 128 on a CPU; a multiple of 16, or of a transformer's patch.
    """
    short = _short_side(images)
    most = min(native, 128) if on_cpu else native
    size = max(min(2 * short, most), min(48, native))
    patch = re.search(r"patch(\d+)", spec)
    step = int(patch[1]) if patch else 16
    return max(step, size // step * step)


def step_count(images: int, batch: int, epochs: float | None, steps: int | None) -> int:
    """Optimizer steps: as told, or five epochs but at least 200 steps."""
    if steps is not None:
        return steps
    per_epoch = max(images / batch, 1)
    if epochs is not None:
        return max(1, round(epochs * per_epoch))
    return max(MIN_STEPS, round(EPOCHS * per_epoch))


def adam_rate(settings: FitSettings, path: float = PATH) -> float:
    """The peak rate at which the steps of `settings` add up to `path`, at most `MOST_RATE`."""
    return min(MOST_RATE, path / path_length(replace(settings, rate=1.0)))


def prefers_channels_last(family: str) -> bool:
    """Convolutional networks run faster with channels last, most of all those with depthwise convolutions."""
    return family in ("resnet", "efficientnet", "mobilenet", "convnext", "generic")


def _short_side(images: ImageSet) -> int:
    """The median short side of up to 64 of the images, spread over the set."""
    places: Sequence[int] = torch.linspace(0, len(images) - 1, min(64, len(images))).round().int().tolist()
    sides = sorted(min(images.image(i).shape[1:]) for i in places)
    return int(sides[len(sides) // 2])
