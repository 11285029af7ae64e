"""What is chosen where the user does not say: view size, number of steps, and the rate of the scores.

The reasons and the measurements behind these numbers stand in docs/defaults.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from selfmask.images.image_set import ImageSet
from selfmask.run.settings import FitSettings, Method, path_length


@dataclass(frozen=True)
class ScoreRecipe:
    """How scores are moved where the user does not say.

    method: the optimizer.
    path: how far, in scores, a score may be carried over the whole run: with adam one whose gradient never changes
        sign, with tensor-adam one whose gradient is its tensor's root mean square. A score has to travel 1 to cross
        the threshold, and the gradients of batches agree only in part.
    most: the highest peak rate. Above it a score crosses on the word of a few batches.
    warmup: share of the steps over which the rate rises.
    spread: scores start between 1 - spread and 1 + spread, so that they do not all cross in the same few steps.
    """

    method: Method
    path: float
    most: float
    warmup: float
    spread: float = 0.0


WITH_LABELS = ScoreRecipe("adam", path=4.5, most=0.06, warmup=0.3, spread=0.5)
"""At a rate of 0.1 a set of 800 photographs lost five points, at 0.05 one. Without the spread a rate of 0.07
left EfficientNet-Lite0 at 35 % on CIFAR-10, with it at 77 %. Adam's scores all near the threshold at once: the slower
they arrive there the better."""

FROM_TARGETS = ScoreRecipe("adam", path=2.4, most=0.015, warmup=0.1, spread=0.95)
"""For the targets of distil and selflabel, whose gradients agree from one image to the next: slower, and the
crossings spread over nearly the whole run."""

PROPORTIONAL = ScoreRecipe("tensor-adam", path=1.0, most=0.06, warmup=0.1)
"""For SwAV's moving targets, and where tensor-adam is asked for."""

_RECIPES = {"distil": FROM_TARGETS, "selflabel": FROM_TARGETS, "swav": PROPORTIONAL}


def score_recipe(objective: str, method: Method | None) -> ScoreRecipe:
    """What suits the objective, or the `method` that was asked for."""
    found = _RECIPES.get(objective, WITH_LABELS)
    if method is None or method == found.method:
        return found
    if method == "sgd":
        return ScoreRecipe("sgd", path=math.inf, most=math.inf, warmup=0.0)
    return PROPORTIONAL if method == "tensor-adam" else WITH_LABELS


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


def default_rate(settings: FitSettings, recipe: ScoreRecipe) -> float:
    """The peak rate at which the steps of `settings` add up to the recipe's path, within its bound."""
    return min(recipe.most, recipe.path / path_length(replace(settings, rate=1.0)))


def prefers_channels_last(family: str) -> bool:
    """Convolutional networks run faster with channels last, most of all those with depthwise convolutions."""
    return family in ("resnet", "efficientnet", "mobilenet", "convnext", "generic")


def short_side(images: ImageSet) -> int:
    """Pixels: the median short side of up to 64 of the images, spread over the set."""
    places: Sequence[int] = torch.linspace(0, len(images) - 1, min(64, len(images))).round().int().tolist()
    sides = sorted(min(images.image(i).shape[1:]) for i in places)
    return int(sides[len(sides) // 2])
