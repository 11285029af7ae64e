"""The same images seen by the pretrained and by the masked network: the source of embeddings and neighbours."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from selfmask.backbones.backbone import Backbone
from selfmask.errors import DataError
from selfmask.features.features import features
from selfmask.images.image_set import ImageSet
from selfmask.images.opening import open_data
from selfmask.images.splits import Splits, at_most
from selfmask.maskfile.mask import Mask
from selfmask.reports.reading import ReadRun
from selfmask.run.split import open_as_recorded, open_images, recorded_rule


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


def images_of(run: ReadRun, limit: int, data: str | None = None) -> tuple[ImageSet, str]:
    """Up to `limit` images of the run's test part (else validation, else training), drawn evenly, seeded.

    `data` replaces the place that the run recorded, for a folder that has moved.
    """
    splits = _splits(run, data)
    part, images = next(
        (name, found)
        for name, found in (
            ("test", splits.test),
            ("validation", splits.validation),
            ("training", splits.train),
        )
        if found is not None and len(found)
    )
    return at_most(images, limit, seed=0), part


def _splits(run: ReadRun, data: str | None) -> Splits:
    """The parts that the run had, so that what is shown as a test image was never trained on."""
    if run.settings is not None:
        return open_images(replace(run.settings, data=data or run.settings.data)).splits
    if data is None:
        raise DataError("the run does not say where its images lie; name them with --data")
    if run.mask is not None and recorded_rule(run.mask) is not None:
        return open_as_recorded(run.mask, data).splits
    return open_data(data)
