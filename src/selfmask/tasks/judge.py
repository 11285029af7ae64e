"""How good a masked network is on images of one's own: what `selfmask compact` holds its tolerance against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from selfmask.backbones.backbone import Backbone
from selfmask.errors import DataError
from selfmask.features.features import features
from selfmask.features.intervals import paired_interval
from selfmask.features.knn import knn
from selfmask.images.image_set import ImageSet
from selfmask.images.splits import at_most, stratified
from selfmask.maskfile.mask import Mask
from selfmask.masking.importance import Masks
from selfmask.masking.weight import masked_weight

SATURATED = 0.995
"""From here on k-NN top-1 no longer tells one mask from a worse one."""


@dataclass(frozen=True)
class Tested:
    """Top-1 in [0, 1] on the same images before and after, and the 95 % interval of the paired difference."""

    before: float
    after: float
    interval: tuple[float, float]
    images: int

    @classmethod
    def of(cls, before: Tensor, after: Tensor) -> Tested:
        """From which of the images were right, bool (N,)."""
        _, low, high = paired_interval(after, before)
        return cls(float(before.float().mean()), float(after.float().mean()), (low, high), len(before))

    def document(self) -> dict[str, Any]:
        """JSON-able."""
        return {**vars(self), "interval": list(self.interval)}

    def __str__(self) -> str:
        low, high = (100 * end for end in self.interval)
        return f"{100 * self.before:.1f} before, {100 * self.after:.1f} after ({low:+.1f} to {high:+.1f})"


@dataclass(frozen=True)
class Judge:
    """Scores masks on one backbone, in points (100 is best), higher is better.

    With labels: k-NN top-1 of `held_out` among `reference`. Without (`by_cosine`), and where k-NN is saturated, as on
    images that the mask was learnt on: 100 × the mean cosine between the features now and those of the mask as it
    was, over `held_out`.
    """

    backbone: Backbone
    theta: Masks
    reference: ImageSet | None
    held_out: ImageSet
    size: int
    start: Tensor
    by_cosine: bool

    def score(self, masks: Masks) -> float:
        """The score of `masks`, whose weights the network wears from now on."""
        self.wear(masks)
        if self.by_cosine:
            return 100 * float(F.cosine_similarity(self.features(self.held_out), self.start).mean())
        return 100 * float(self.correct(self.held_out).float().mean())

    def correct(self, images: ImageSet) -> Tensor:
        """For each of `images` whether k-NN among the reference images is right: bool (N,)."""
        assert self.reference is not None
        reference = self.features(self.reference)
        return knn(reference, self.reference.labels, self.features(images)) == images.labels

    def features(self, images: ImageSet) -> Tensor:
        """Features of the network as it is now, float32 (N, width)."""
        return features(self.backbone, images, size=self.size)

    def batches(self, images: ImageSet, batch: int = 64) -> Iterator[Tensor]:
        """The normalised evaluation views of `images`, as the network takes them."""
        recipe = self.backbone.preprocessing
        for start in range(0, len(images), batch):
            part = images.subset(list(range(start, min(start + batch, len(images)))))
            yield recipe.normalise(part.resized(self.size, recipe.crop, recipe.interpolation))

    @torch.no_grad()
    def wear(self, masks: Masks) -> None:
        """Rewrite the weights from the base and `masks`."""
        for name, mask in masks.items():
            self.backbone.module.get_parameter(name).copy_(masked_weight(self.theta[name], mask))


@contextmanager
def judge(
    mask: Mask, backbone: Backbone, images: ImageSet, size: int, limit: int, seed: int
) -> Iterator[Judge]:
    """A `Judge` of `mask` on `images`: with labels a third is held out, where classes have more than one image.
    Afterwards the backbone is the base again.
    """
    if len(images) < 6:
        raise DataError(f"{images.name}: {len(images)} images are too few to judge by; 6 are the least")
    images = at_most(images, limit, seed)
    labelled = images.labelled()
    reference: ImageSet | None = None
    held_out = images
    if len(labelled) >= 6:
        rest, out = stratified(labelled.labels, 1 / 3, seed)
        if len(out) > 1:
            reference, held_out = labelled.subset(rest.tolist()), labelled.subset(out.tolist())
    theta = {name: backbone.module.get_parameter(name).detach().clone() for name in mask.names}
    with mask.apply(backbone.module):
        start = features(backbone, held_out, size=size)
        found = Judge(backbone, theta, reference, held_out, size, start, by_cosine=reference is None)
        if reference is not None and float(found.correct(held_out).float().mean()) >= SATURATED:
            found = replace(found, by_cosine=True)
        yield found
