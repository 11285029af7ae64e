"""What a rounded head costs: the same features under the exact head and under the one that is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from selfmask.features.features import features
from selfmask.features.intervals import paired_interval

if TYPE_CHECKING:
    from selfmask.backbones.backbone import Backbone
    from selfmask.images.image_set import ImageSet


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
    *,
    size: int | None = None,
    channels_last: bool = False,
) -> HeadCost | None:
    """The cost on the labelled images of `test`, with the network as it is now.

    None where there is nothing to measure: no labels, or no linear head ("weight" and "bias").
    """
    test = test.labelled()
    if len(test) == 0 or not {"weight", "bias"} <= set(exact):
        return None
    x = features(backbone, test, size=size, channels_last=channels_last, what="for the rounded head")
    before, after = (
        F.linear(x, head["weight"].cpu().float(), head["bias"].cpu().float()).argmax(1)
        for head in (exact, stored)
    )
    right = [guess == test.labels for guess in (before, after)]
    _, low, high = paired_interval(right[1], right[0])
    accuracy = [float(r.double().mean()) for r in right]
    dtype = str(stored["weight"].dtype).removeprefix("torch.")
    return HeadCost(dtype, accuracy[0], accuracy[1], (low, high), int((before != after).sum()), len(test))
