"""A mask file in at most so many bytes, from one that takes more: `selfmask compact --max-bytes`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from selfmask._common.files import write_atomically
from selfmask.backbones.backbone import Backbone
from selfmask.errors import DataError
from selfmask.features.features import features
from selfmask.images.image_set import ImageSet
from selfmask.images.splits import at_most
from selfmask.maskfile.budget import Fitted, Worn, in_bytes, writer
from selfmask.maskfile.head import Head, logits, predicts
from selfmask.maskfile.loading import parse_mask
from selfmask.maskfile.mask import Mask
from selfmask.maskfile.trade import Learnt
from selfmask.run.split import RunImages
from selfmask.tasks.judge import Tested
from selfmask.tasks.opening import seen_by, seen_note


@dataclass(frozen=True)
class InBytes:
    """The new file, and what it cost.

    record: what its metadata has under "budget"; None where the whole file fits. before, after: bytes by part.
    moved: how far the outputs moved on the images that were judged by (`maskfile.budget.Worn.rounded`): in nats where
    `said`, what a head says, else their mean square.
    on_judged, tested: the top-1 of the mask's own linear head on the images that were judged by and on the test images,
    where it has one for their classes.
    seen: how many of the images that were judged by, and of the test images, the mask was learnt on; None: not known.
    judged: how many were judged by.
    """

    out: Path
    max_bytes: int
    record: dict[str, Any] | None
    before: dict[str, int]
    after: dict[str, int]
    moved: float
    said: bool
    on_judged: Tested | None
    tested: Tested | None
    seen: tuple[int | None, int | None]
    judged: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before believing the figures."""
        known = [seen_note(self.seen[0], self.judged, "images that were judged by")]
        if self.tested is not None:
            known.append(seen_note(self.seen[1], self.tested.images))
        return tuple(note for note in known if note is not None)

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        return {
            "out": str(self.out),
            "max_bytes": self.max_bytes,
            "bytes": {"before": self.before, "after": self.after},
            "budget": self.record,
            "moved": self.moved,
            "said": self.said,
            "judged": None if self.on_judged is None else self.on_judged.document(),
            "test": None if self.tested is None else self.tested.document(),
            "seen_in_training": {"judged": self.seen[0], "test": self.seen[1]},
            "notes": list(self.notes),
        }


def hold(
    path: Path,
    mask: Mask,
    head: Head,
    backbone: Backbone,
    opened: RunImages,
    max_bytes: int,
    out: Path,
    size: int,
    most: int,
) -> InBytes:
    """Write the file of at most `max_bytes` whose outputs on images held out are nearest to those of `mask`.

    `path` is where the mask was opened from, a file or the folder of a run. `head` is the mask's, as it is to be
    stored at most; at most `most` images of `size` pixels are judged by. Raises as `maskfile.budget.in_bytes` does;
    nothing is written then. The backbone is the base again afterwards.
    """
    images = opened.held_out or opened.splits.train
    if len(images) == 0:
        raise DataError(f"{images.name} has no images to judge by")
    images = at_most(images, most, opened.seed)
    recipe = backbone.preprocessing
    batches = [
        recipe.normalise(part) for part in images.resized(size, recipe.crop, recipe.interpolation).split(64)
    ]
    learnt = Learnt(mask.masks(), mask.norms, head, mask.metadata)
    test = opened.splits.test

    with _worn(mask, backbone, learnt, batches) as worn:
        parts = [part for part in (images, test) if part is not None]
        before = [_right(mask, mask.stored_head, backbone, part, size) for part in parts]
        found: Fitted = in_bytes(
            max_bytes, learnt, worn, writer(mask.index.base, mask.statistics, mask.trained)
        )
        after = [_right(mask, found.learnt.head, backbone, part, size) for part in parts]
    costs = [
        Tested.of(b, a) if b is not None and a is not None else None
        for b, a in zip(before, after, strict=True)
    ]
    write_atomically(out, found.content)
    return InBytes(
        out, max_bytes, found.record, mask.bytes(), parse_mask(found.content, out).bytes(), found.moved,
        worn.speaks,
        costs[0], costs[1] if test is not None else None,
        (seen_by(path, mask, images, opened), None if test is None else seen_by(path, mask, test, opened)),
        len(images),
    )  # fmt: skip


@contextmanager
def _worn(mask: Mask, backbone: Backbone, learnt: Learnt, batches: list[Tensor]) -> Iterator[Worn]:
    """The network with the mask on it; afterwards it is the base again."""
    module = backbone.module
    theta, bases = (
        {name: module.get_parameter(name).detach().clone() for name in names}
        for names in (mask.names, mask.norms)
    )
    with mask.apply(module):
        yield Worn(module, theta, bases, replace(learnt, head=mask.stored_head), batches)


def _right(mask: Mask, head: Head, backbone: Backbone, images: ImageSet, size: int) -> Tensor | None:
    """Which of the labelled images the head gets right, bool (N,); None where it is not for their classes."""
    images = images.labelled()
    if len(images) == 0 or mask.classes != images.classes or not predicts(head):
        return None
    said = logits(features(backbone, images, size=size), head)
    return None if said is None else said.argmax(1) == images.labels
