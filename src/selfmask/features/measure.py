"""From a network and two labelled sets to one row: features, k-NN, probe, and the head if there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfmask.errors import DataError
from selfmask.features.features import features
from selfmask.features.knn import knn
from selfmask.features.probe import fit_probe
from selfmask.features.rows import Outcome

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
    module: nn.Module | None = None,
    head: Head | None = None,
    seed: int = 0,
    batch_size: int = 256,
    channels_last: bool = False,
) -> Outcome:
    """The outcome called `name` of the network as it is now, on the labelled images of both sets.

    `head` is a trained linear layer (weight (classes, width), bias (classes,)), if there is one. The class indices
    of the two sets must mean the same. Other arguments as for `features`.
    """
    if train.classes != test.classes:
        raise DataError(
            f"the training set's classes ({', '.join(train.classes[:5])} …) and the test set's "
            f"({', '.join(test.classes[:5])} …) differ: both must come from one class list"
        )
    train, test = _labelled(train), _labelled(test)
    train_x, test_x = (
        features(
            backbone,
            part,
            size=size,
            batch_size=batch_size,
            module=module,
            channels_last=channels_last,
            what=name,
        )
        for part in (train, test)
    )
    return measure_features(name, train_x, train.labels, test_x, test.labels, head=head, seed=seed)


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
