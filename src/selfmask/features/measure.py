"""From a network and two labelled sets to one row: features, k-NN, probe, and the head if there is one.

And what it costs to store that head rounded: the same features under the exact head and under the one in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from selfmask.errors import DataError
from selfmask.features.features import features
from selfmask.features.intervals import paired_interval
from selfmask.features.knn import knn
from selfmask.features.probe import fit_probe
from selfmask.features.rows import WHITENED, Outcome
from selfmask.features.whitening import Whitening
from selfmask.maskfile.head import logits, predicts

if TYPE_CHECKING:
    from selfmask.backbones.backbone import Backbone
    from selfmask.images.image_set import ImageSet

Head = tuple[Tensor, Tensor]


def measure(
    name: str,
    backbone: Backbone,
    train: ImageSet,
    test: ImageSet,
    *,
    size: int | None = None,
    head: Head | None = None,
    seed: int = 0,
    channels_last: bool = False,
) -> Outcome:
    """The outcome called `name` of the network as it is now, on the labelled images of both sets.

    `head` is a trained linear layer (weight (classes, width), bias (classes,)), if there is one. The class indices
    of the two sets must mean the same. Other arguments as for `features`.
    """
    train, train_x, test, test_x = _both(name, backbone, train, test, size, channels_last)
    return measure_features(name, train_x, train.labels, test_x, test.labels, head=head, seed=seed)


@torch.no_grad()
def measure_both(
    name: str,
    backbone: Backbone,
    train: ImageSet,
    test: ImageSet,
    *,
    size: int | None = None,
    head: Head | None = None,
    seed: int = 0,
    channels_last: bool = False,
) -> list[Outcome]:
    """As `measure`, and a second outcome from the same features whitened, which costs nothing but them."""
    train, train_x, test, test_x = _both(name, backbone, train, test, size, channels_last)
    found = [measure_features(name, train_x, train.labels, test_x, test.labels, head=head, seed=seed)]
    whitening = Whitening.of(train_x)
    if len(whitening.axes):  # none where all features are the same
        # k-NN alone: a probe stretches them as it likes anyway.
        nearest = knn(whitening.apply(train_x), train.labels, whitening.apply(test_x))
        found.append(Outcome(f"{name}, {WHITENED}", knn=nearest == test.labels))
    return found


def _both(
    name: str, backbone: Backbone, train: ImageSet, test: ImageSet, size: int | None, channels_last: bool
) -> tuple[ImageSet, Tensor, ImageSet, Tensor]:
    """The labelled images of both sets, each with its features."""
    if train.classes != test.classes:
        raise DataError(
            f"the training set's classes ({', '.join(train.classes[:5])} …) and the test set's "
            f"({', '.join(test.classes[:5])} …) differ: both must come from one class list"
        )
    train, test = _labelled(train), _labelled(test)
    train_x, test_x = (
        features(backbone, part, size=size, channels_last=channels_last, what=name) for part in (train, test)
    )
    return train, train_x, test, test_x


def _labelled(images: ImageSet) -> ImageSet:
    """The same object where every image has a label: its cached views serve the next row too."""
    return images if bool((images.labels >= 0).all()) else images.labelled()


@torch.no_grad()
def measure_features(
    name: str,
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    *,
    head: Head | None = None,
    seed: int = 0,
) -> Outcome:
    """As `measure`, from features (N, width) and (M, width) with labels int64 (N,) and (M,) ≥ 0."""
    return Outcome(
        name,
        knn=knn(train_x, train_y, test_x) == test_y,
        probe=fit_probe(train_x, train_y, seed=seed).predict(test_x) == test_y,
        head=None if head is None else F.linear(test_x, head[0].cpu(), head[1].cpu()).argmax(dim=1) == test_y,
    )


@dataclass(frozen=True)
class HeadCost:
    """Top-1 in [0, 1] with the exact and with the stored head, and the 95 % interval of the paired difference.

    `changed` is how many of the `images` test images are classified otherwise.
    """

    dtype: str
    exact: float
    stored: float
    interval: tuple[float, float]
    changed: int
    images: int

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        return {**vars(self), "interval": list(self.interval)}

    def __str__(self) -> str:
        low, high = (100 * end for end in self.interval)
        return (
            f"head as {self.dtype}: top-1 {100 * self.stored:.2f}, exact {100 * self.exact:.2f} "
            f"({low:+.2f} to {high:+.2f}), {self.changed} of {self.images} test images classified otherwise"
        )


def head_cost(
    backbone: Backbone,
    test: ImageSet,
    exact: Mapping[str, Tensor],
    stored: Mapping[str, Tensor],
    dtype: str,
    *,
    size: int | None = None,
    channels_last: bool = False,
) -> HeadCost | None:
    """The cost on the labelled images of `test`, with the network as it is now. `dtype`: as what the head is stored.

    None where there is nothing to measure: no labels, or a head of which nobody knows what it says (`maskfile.head`).
    """
    test = test.labelled()
    if len(test) == 0 or not predicts(exact):
        return None
    x = features(backbone, test, size=size, channels_last=channels_last, what="for the rounded head")
    said = [logits(x, head) for head in (exact, stored)]
    if said[0] is None or said[1] is None:
        return None
    before, after = said[0].argmax(1), said[1].argmax(1)
    right = [guess == test.labels for guess in (before, after)]
    _, low, high = paired_interval(right[1], right[0])
    accuracy = [float(r.double().mean()) for r in right]
    return HeadCost(dtype, accuracy[0], accuracy[1], (low, high), int((before != after).sum()), len(test))
