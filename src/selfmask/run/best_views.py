"""The views at which the untouched network is at its best: their size in pixels, and what they show of an image.

Chosen on training images, by k-NN with labels where there are enough, else by views that find each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from rich.console import Console

from selfmask._common.console import tell
from selfmask._common.processes import place, same_on_all
from selfmask.features.agreement import views_found
from selfmask.features.features import features
from selfmask.features.knn import knn
from selfmask.images.image_set import ImageSet
from selfmask.images.splits import at_most, stratified
from selfmask.run.checkpoint import damage_named, read_checkpoint, write_checkpoint
from selfmask.run.folder import RunFolder
from selfmask.run.plan import Plan

_LARGER = (96, 128, 160, 224)
MOST_FOR_SIZE = 500


def larger_sizes(plan: Plan) -> list[int]:
    """The sides in pixels at which the untouched network may do better: those of a ladder, up to its pretraining's.

    None for a transformer, whose position embeddings are those of one size.
    """
    if not plan.settings.larger or plan.backbone.is_transformer:
        return []
    return [size for size in _LARGER if plan.size < size <= plan.native]


def best_size(plan: Plan, console: Console, folder: RunFolder | None) -> int:
    """The side in pixels at which the untouched network is at its best: the views', or one of `larger_sizes`.

    As long as the next is better, by k-NN on up to 500 labelled training images, each half by the other; where there
    are too few labels by how many second views the first views find (`features.agreement`; docs/label-free.md holds one
    against the other). No test image plays a part. The views' size where there are too few images for either. Kept in
    `folder`, and taken from there when its run is resumed.
    """
    kept = read_checkpoint(folder.measured) if folder is not None and folder.measured.is_file() else {}
    if folder is not None and plan.settings.larger and BEST_SIZE in kept:
        with damage_named(folder.measured):
            return int(kept[BEST_SIZE])
    larger, images, what = larger_sizes(plan), to_choose_by(plan, MOST_FOR_SIZE), "k-NN"
    labelled = images is not None
    if images is None:
        images, what = at_most(plan.train, MOST_FOR_SIZE, plan.settings.seed), "other views found"
    if not larger or len(images) < _FEWEST:
        return plan.size

    def measured(size: int) -> float:
        return (
            knn_by_halves(plan, images, size, f"{size} px") if labelled else found_share(plan, images, size)
        )

    found = climbed((plan.size, *larger), measured)
    best = max(found, key=lambda size: found[size])
    said = ", ".join(f"{value:.3f} at {size} px" for size, value in found.items())
    tell(console, f"untouched, best size: {best} px ({what} of {len(images)} training images: {said})")
    if folder is not None and place()[0] == 0:
        write_checkpoint(folder.measured, kept | {BEST_SIZE: best})
    return best


def climbed(sizes: Iterable[int], measured: Callable[[int], float]) -> dict[int, float]:
    """What was measured at each of the `sizes`, up to the first that is worse than one before it.

    >>> climbed((64, 96, 128, 160), {64: 0.3, 96: 0.5, 128: 0.4, 160: 0.9}.__getitem__)
    {64: 0.3, 96: 0.5, 128: 0.4}
    """
    found: dict[int, float] = {}
    for size in sizes:
        found[size] = measured(size)
        if found[size] < max(found.values()):
            break
    return found


def found_share(plan: Plan, images: ImageSet, size: int) -> float:
    """Of views of `size` pixels the share in [0, 1] whose other view the network as it is now finds."""
    found = views_found(
        plan.backbone, images, size=size, seed=plan.settings.seed, channels_last=plan.channels_last
    )
    return float(found.float().mean())


def to_choose_by(plan: Plan, most: int) -> ImageSet | None:
    """Labelled training images, at most so many, of classes with two or more, which a half each can have; None where
    they are too few to choose anything by."""
    images = _in_pairs(plan.labelled)
    if len(images) > most:
        some = stratified(images.labels, most / len(images), plan.settings.seed)[1]
        images = _in_pairs(images.subset(some))
    return None if len(images) < _FEWEST or len(images.labels.unique()) < 2 else images


def _in_pairs(images: ImageSet) -> ImageSet:
    _, own, counts = images.labels.unique(return_inverse=True, return_counts=True)
    alone = counts[own] < 2
    return images.subset((~alone).nonzero().flatten()) if bool(alone.any()) else images


def knn_by_halves(plan: Plan, images: ImageSet, size: int, what: str) -> float:
    """Top-1 of k-NN in [0, 1] of the network as it is now, each half of the images by the other."""
    halves = stratified(images.labels, 0.5, plan.settings.seed)
    x = features(plan.backbone, images, size=size, channels_last=plan.channels_last, what=what)
    guesses = (knn(x[a], images.labels[a], x[b]) == images.labels[b] for a, b in (halves, halves[::-1]))
    return float(torch.cat(list(guesses)).float().mean())


def choose_crop(plan: Plan, folder: RunFolder, console: Console) -> None:
    """Let evaluation views show what serves the untouched network better: all of an image, or its own crop.

    By k-NN on up to 1 000 labelled training images, each half by the other: no test image plays a part, and the rows
    of all networks then have the same views. Every process comes to the same choice, and so does a run that is resumed.
    """
    if folder.measured.is_file() and (known := read_checkpoint(folder.measured).get(CROP)) is not None:
        with damage_named(folder.measured):
            plan.backbone.preprocessing = replace(plan.backbone.preprocessing, crop=known)
        return
    images = to_choose_by(plan, _MOST_FOR_CROP)
    if not (plan.settings.evaluate and plan.can_be_measured) or len(plan.crops) < 2 or images is None:
        return
    found: list[float] = []
    for crop in plan.crops:
        plan.backbone.preprocessing = replace(plan.backbone.preprocessing, crop=crop)
        found.append(knn_by_halves(plan, images, plan.size, f"crop {crop:g}"))
    best = torch.tensor(max(range(len(found)), key=lambda at: found[at]))
    best = best.to(next(plan.backbone.module.parameters()).device)
    same_on_all([best])
    crop = plan.crops[int(best)]
    plan.backbone.preprocessing = replace(plan.backbone.preprocessing, crop=crop)
    if place()[0] == 0:
        write_checkpoint(folder.measured, {CROP: crop})
    said = ", ".join(f"{value:.3f} at {crop:g}" for crop, value in zip(plan.crops, found, strict=True))
    tell(console, f"evaluation views: crop {crop:g} (k-NN of {len(images)} training images: {said})")


CROP, BEST_SIZE = "crop", "best size"
CHOSEN = (CROP, BEST_SIZE)
"""Their names in `RunFolder.measured`, beside the rows'."""
_FEWEST, _MOST_FOR_CROP = 40, 1000
