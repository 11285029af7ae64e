"""What a mask did to the features, told without labels: the verdict where there are none, and one beside it elsewhere.

Two measures, on images that were not trained on where there are such:

- **found**: of two views of an image, cropped and their colours changed, whether the second is nearest to the first
  among the second views of all images. A network that tells these images apart finds them.
- **shared**: how many of an image's ten nearest neighbours are those of the untouched network on a larger view. A mask
  that forgets what the network knew loses them, however well it finds views: SwAV on photographs did.

docs/label-free.md holds both against k-NN with labels, run by run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selfmask._common.units import signed
from selfmask.backbones.backbone import Backbone
from selfmask.errors import DataError
from selfmask.features import knn
from selfmask.features.features import check_features, features, module_device, of_batches
from selfmask.features.intervals import paired_interval
from selfmask.features.passes import passing
from selfmask.features.rows import Estimate, Verdict
from selfmask.images.augment import augment
from selfmask.images.draws import hashed
from selfmask.images.image_set import ImageSet
from selfmask.images.views import coloured

_NEIGHBOURS = 10
_BATCH = 64
_FORGOTTEN = 0.85
"""Of the neighbours shared before, what a mask may leave: clear losses left 0.82 or less, clear gains 0.87 or more."""


@dataclass(frozen=True)
class Look:
    """What one network makes of N images.

    found: whether an image's second view is nearest to its first, bool (N,). nearest: the images nearest to each among
    the others, int64 (N, 10).
    """

    found: Tensor
    nearest: Tensor


@dataclass(frozen=True)
class Agreement:
    """A masked network beside the untouched one, by measures that need no labels, each a mean over the images.

    images: how many; unseen: whether they were not trained on. found, shared: of the untouched and of the masked
    network, in [0, 1]; their gains are paired. larger: pixels of the views that the neighbours are shared with; None,
    and nothing shared, where the untouched network takes none.
    """

    images: int
    unseen: bool
    found: tuple[float, float]
    found_gain: Estimate
    larger: int | None = None
    shared: tuple[float, float] | None = None
    shared_gain: Estimate | None = None

    @classmethod
    def of(
        cls, untouched: Look, masked: Look, nearest: Tensor | None, *, larger: int | None, unseen: bool
    ) -> Agreement:
        """nearest: as `Look.nearest`, of the untouched network at `larger` pixels; both None where it takes none."""
        found = Estimate(*paired_interval(masked.found, untouched.found))
        rates = (float(untouched.found.float().mean()), float(masked.found.float().mean()))
        if nearest is None:
            return cls(len(untouched.found), unseen, rates, found)
        before, after = (shared(seen.nearest, nearest) for seen in (untouched, masked))
        change = after - before
        value, margin = float(change.mean()), 1.96 * float(change.std()) / math.sqrt(len(change))
        gain = Estimate(value, value - margin, value + margin)
        shares = (float(before.mean()), float(after.mean()))
        return cls(len(untouched.found), unseen, rates, found, larger, shares, gain)

    @property
    def kind(self) -> Literal["better", "worse", "no different"]:
        """Worse where views are found less, or over 15 % of the neighbours are lost; better where either rises."""
        forgot = self.shared is not None and self.shared[1] < _FORGOTTEN * self.shared[0]
        if self.found_gain.high < 0 or forgot:
            return "worse"
        more = self.shared_gain is not None and self.shared_gain.low > 0
        return "better" if self.found_gain.low > 0 or more else "no different"

    @property
    def sentence(self) -> str:
        """What was found, and what it says."""
        low, high = signed(self.found_gain.low), signed(self.found_gain.high)
        said = (
            f"Told without labels, on {self.images} images that it was {'not ' if self.unseen else ''}trained on, "
            f"the masked network finds the other view of {100 * self.found[1]:.0f} % of them, untouched "
            f"{100 * self.found[0]:.0f} % (95 % interval of the difference {low} to {high})"
        )
        if self.shared is not None:
            said += (
                f" and shares {100 * self.shared[1]:.0f} % of their neighbours with the untouched network at "
                f"{self.larger} px, untouched {100 * self.shared[0]:.0f} %"
            )
        return f"{said}: that speaks {_SPEAKS[self.kind]}."

    def beside(self, verdict: Verdict) -> Verdict:
        """`verdict`, which counts where both differ, and this behind it; instead of it where nothing was measured.

        The base is to be kept unless labels say that the mask helped, or leave it open and this says so.
        """
        measured = verdict.kind != "not measured"
        kind = verdict.kind if measured else self.kind
        helped = kind == "better" or (kind == "no different" and self.kind == "better")
        said = f"{verdict.sentence} {self.sentence}" if measured else self.sentence
        return Verdict(kind, said if helped else f"{said} Keep the base.")


_SPEAKS = {
    "better": "for the mask",
    "worse": "against the mask",
    "no different": "neither for nor against it",
}


def look(backbone: Backbone, images: ImageSet, *, size: int, seed: int, channels_last: bool) -> Look:
    """How the backbone, as it is now, sees the images on views of `size` pixels; the views are those of the `seed`.

    Raises `DataError` where a feature is not finite, or there are too few images for ten neighbours.
    """
    whole = features(backbone, images, size=size, channels_last=channels_last, what="neighbours")
    found = views_found(backbone, images, size=size, seed=seed, channels_last=channels_last)
    return Look(found, nearest(whole))


def views_found(backbone: Backbone, images: ImageSet, *, size: int, seed: int, channels_last: bool) -> Tensor:
    """As `Look.found`, on views of `size` pixels drawn by `seed`: bool (N,). Raises `DataError` as `look` does."""
    one, other = (_of_views(backbone, images, size, seed, kind, channels_last) for kind in (0, 1))
    check_features(torch.cat([one, other]), "views")
    return (_unit(one) @ _unit(other).T).argmax(dim=1) == torch.arange(len(images))


def nearest(x: Tensor) -> Tensor:
    """The ten images nearest to each among the others by the cosine of their features (N, width): int64 (N, 10).

    Raises `DataError` where a feature is not finite, or there are no ten others.
    """
    check_features(x, "neighbours")
    if len(x) <= _NEIGHBOURS:
        raise DataError(f"ten neighbours of each image need 11 images or more, got {len(x)}")
    return knn.nearest(x, torch.arange(len(x)), _NEIGHBOURS)


def shared(one: Tensor, other: Tensor) -> Tensor:
    """Of the neighbours (N, k) of each image the share that is in both, float32 (N,)."""
    return (one[:, :, None] == other[:, None, :]).any(dim=2).float().mean(dim=1)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.float(), dim=1)


def _of_views(
    backbone: Backbone, images: ImageSet, size: int, seed: int, kind: int, channels_last: bool
) -> Tensor:
    """Features of one view of each image, the same view each time."""
    view = coloured(size, flips=images.flips, interpolation=backbone.preprocessing.interpolation)

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(images), _BATCH):
            places = range(start, min(start + _BATCH, len(images)))
            yield augment([images.image(at) for at in places], view, hashed(seed, kind, np.array(places)))

    return of_batches(
        backbone, backbone.module, passing(batches(), len(images), "views"),
        device=module_device(backbone.module), channels_last=channels_last,
    )  # fmt: skip
