"""The same images seen by the pretrained and by the masked network: the source of embeddings and neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from selfmask.backbones.backbone import Backbone
from selfmask.errors import DataError
from selfmask.features.features import features
from selfmask.images.image_set import ImageSet
from selfmask.images.opening import open_data
from selfmask.maskfile.mask import Mask
from selfmask.reports.run_folder import RunFolder


@dataclass(frozen=True)
class BeforeAfter:
    """N images and their features under the pretrained and the masked network.

    Attributes:
        images: the images, N of them.
        before, after: features, float32 (N, width).
        part: which part of the data they are: "test", "validation" or "training".
    """

    images: ImageSet
    before: Tensor
    after: Tensor
    part: str


def look(mask: Mask, backbone: Backbone, images: ImageSet, part: str = "test") -> BeforeAfter:
    """Features of `images` by `backbone` (the base) before and while `mask` is applied; the base is restored."""
    before = features(backbone, images)
    with mask.apply(backbone.module):
        after = features(backbone, images)
    return BeforeAfter(images, before, after, part)


def images_of(run: RunFolder, limit: int, data: str | None = None) -> tuple[ImageSet, str]:
    """Up to `limit` images of the run's test part (else validation, else training), drawn evenly, seeded.

    `data` replaces the place that the run recorded, for a folder that has moved.
    """
    spec = data or run.settings.get("data")
    if not isinstance(spec, str):
        raise DataError("the run does not say where its images lie; name them with --data")
    splits = open_data(
        spec,
        split_file=run.settings.get("split_file"),
        labels=run.settings.get("labels"),
        seed=int(run.settings.get("seed") or 0),
        test_share=float(run.settings.get("test_share") or 0.2),
    )
    part, images = next(
        (name, found)
        for name, found in (
            ("test", splits.test),
            ("validation", splits.validation),
            ("training", splits.train),
        )
        if found is not None and len(found)
    )
    if len(images) > limit:
        generator = torch.Generator().manual_seed(0)
        images = images.subset(torch.randperm(len(images), generator=generator)[:limit].sort().values)
    return images, part
