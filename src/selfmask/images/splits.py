"""Train, validation and test; stratified splits; label budgets. All seeded, all independent of the
machine."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from selfmask.errors import DataError, SettingsError
from selfmask.images.image_set import UNLABELLED, ImageSet


@dataclass(frozen=True)
class Splits:
    """What `open_data` returns. `notes`: what a user should see (images skipped, how it was split)."""

    train: ImageSet
    validation: ImageSet | None = None
    test: ImageSet | None = None
    notes: tuple[str, ...] = ()

    def parts(self) -> dict[str, ImageSet]:
        """The splits that there are, by name, in the order train, validation, test."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: images for split, images in found.items() if images is not None}


def stratified(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split the labelled images: (rest, held out), sorted indices, int64.

    round(share · labelled) are held out, each class in proportion (largest remainders first), but never all
    of a class nor, where it has two images or more, none of it. Unlabelled images are all in the rest.
    """
    if not 0 < share < 1:
        raise SettingsError(f"a share to hold out must lie between 0 and 1, got {share}")
    known = labels[labels != UNLABELLED]
    classes, counts = (t.numpy() for t in torch.unique(known, return_counts=True))
    taken = _apportion(counts, round(share * len(known)))
    taken = np.clip(taken, np.minimum(1, counts - 1), counts - 1)
    held = [
        _shuffled(labels, int(label), seed)[:count]
        for label, count in zip(classes, taken.tolist(), strict=True)
    ]
    out = torch.zeros(len(labels), dtype=torch.bool)
    if held:
        out[torch.cat(held)] = True
    return (~out).nonzero().flatten(), out.nonzero().flatten()


def in_proportion(labels: Tensor, count: int, seed: int) -> Tensor:
    """`count` of the labelled images, in proportion to the classes: sorted indices, int64.

    Each class has one at least, where there are as many as classes.

    >>> in_proportion(torch.tensor([0] * 6 + [1] * 3 + [2]), 5, seed=0).shape
    torch.Size([5])
    """
    known = labels[labels != UNLABELLED]
    classes, counts = (t.numpy() for t in torch.unique(known, return_counts=True))
    taken = _apportion(counts, min(count, len(known)))
    while taken.sum() >= len(taken) and not taken.all():
        taken[taken.argmin()] += 1
        taken[taken.argmax()] -= 1
    drawn = [
        _shuffled(labels, int(label), seed)[:own] for label, own in zip(classes, taken.tolist(), strict=True)
    ]
    return torch.cat([torch.zeros(0, dtype=torch.int64), *drawn]).sort().values


def at_most(images: ImageSet, count: int, seed: int) -> ImageSet:
    """`images`, or where there are more `count` of them, drawn evenly by `seed` and in their order.

    >>> import torch
    >>> some = ImageSet.from_array(torch.zeros(10, 3, 8, 8, dtype=torch.uint8), torch.arange(10))
    >>> len(at_most(some, 4, seed=0)), at_most(some, 10, seed=0) is some
    (4, True)
    """
    if len(images) <= count:
        return images
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images.subset(order[:count].sort().values)


def label_budget(images: ImageSet, budget: str, seed: int = 0) -> ImageSet:
    """Keep the labels of only some images; the other images stay, unlabelled.

    budget: "all"; "5 per class"; "1 %" (of each class, at least one image of it). A larger budget with the
    same seed contains the smaller one. Raises `SettingsError` on another wording and `DataError` where
    there is no label to keep.
    """
    per_class = _budget(budget)
    labels = images.labels
    known = labels[labels != UNLABELLED]
    if len(known) == 0:
        raise DataError(f"a label budget of {budget!r} was asked for, but {images.name} has no labels")
    if per_class is None:
        return images
    kept = torch.full_like(labels, UNLABELLED)
    for label in torch.unique(known).tolist():
        order = _shuffled(labels, label, seed)
        chosen = order[: per_class(len(order))]
        kept[chosen] = label
    return images.with_labels(kept)


def _budget(text: str) -> Callable[[int], int] | None:
    """How many labels to keep of a class of a given size; None: all."""
    wording = " ".join(text.split()).lower()
    if wording == "all":
        return None
    if match := re.fullmatch(r"(\d+) ?(?:per|/|a) ?class", wording):
        count = int(match[1])
        if count >= 1:
            return lambda size: count
    if match := re.fullmatch(r"(\d+(?:\.\d+)?) ?%", wording):
        share = float(match[1]) / 100
        if 0 < share <= 1:
            return lambda size: max(1, round(share * size))
    raise SettingsError(f'a label budget reads "5 per class", "1 %" or "all"; got {text!r}')


def _apportion(counts: np.ndarray, total: int) -> np.ndarray:
    """Divide `total` among classes in proportion to `counts`, by largest remainders (ties: the first)."""
    if counts.sum() == 0:
        return counts
    exact = counts * (total / counts.sum())
    parts = np.floor(exact).astype(np.int64)
    missing = total - int(parts.sum())
    parts[np.argsort(-(exact - parts), kind="stable")[:missing]] += 1
    return parts


def _shuffled(labels: Tensor, label: int, seed: int) -> Tensor:
    """Indices of a class in an order that depends on seed and class only."""
    members = (labels == label).nonzero().flatten().numpy()
    order = np.random.Generator(np.random.PCG64([seed % 2**64, label])).permutation(len(members))
    return torch.from_numpy(members[order])
