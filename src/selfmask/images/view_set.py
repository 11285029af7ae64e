"""Images of which only the evaluation views are held: each is decoded once, and what cannot be read is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from selfmask.errors import DataError
from selfmask.images.augment import evaluation_view
from selfmask.images.decode import UnreadableImage
from selfmask.images.image_set import ImageSet, for_each
from selfmask.images.listing import Entry
from selfmask.images.sources import ArraySource, Reading, Skipped, decoded


class ViewSet(ImageSet):
    """An image set whose images are evaluation views already, so that it can give no others: made by `view_set`."""

    def __init__(self, source: ArraySource, view: tuple[float | str, ...], **rest: Any) -> None:
        super().__init__(source, **rest)
        self._view = view

    def resized(self, size: int, crop: float = 1.0, interpolation: str = "bicubic") -> Tensor:
        """The views, uint8 (N, 3, size, size). Raises `DataError` where others are asked for than were made."""
        if (size, crop, interpolation) != self._view:
            raise DataError(f"views {(size, crop, interpolation)} were asked for, these are {self._view}")
        return torch.stack([self.image(index) for index in range(len(self))])

    def _derived(self, **rest: Any) -> ViewSet:
        assert isinstance(self._source, ArraySource)
        return ViewSet(self._source, self._view, name=self.name, **rest)


def view_set(
    entries: Sequence[Entry], size: int, crop: float = 1.0, interpolation: str = "bicubic"
) -> tuple[ViewSet, tuple[Skipped, ...]]:
    """The evaluation views of `entries` (see `evaluation_view`) but for those that cannot be read, and these.

    uint8 (N, 3, size, size) for N readable images, in order; labels are not looked at. Decoding goes on in threads.
    """
    shape, short_side = (len(entries), 3, size, size), Reading().short_side
    views = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
    failed: dict[int, Skipped] = {}

    def fill(index: int) -> None:
        try:
            image = decoded(entries[index].content, short_side)
        except UnreadableImage as error:
            failed[index] = Skipped(entries[index].name, str(error))
            return
        views[index] = evaluation_view(image, size, crop, interpolation)

    for_each(fill, len(entries))
    kept = [index for index in range(len(entries)) if index not in failed]
    found = ViewSet(
        ArraySource(views), (size, crop, interpolation), names=[entries[index].name for index in kept], labels=None,
        name="views", positions=kept,
    )  # fmt: skip
    return found, tuple(failed[index] for index in sorted(failed))


def joined_views(sets: Sequence[ViewSet]) -> ViewSet:
    """The images of several sets of views of one kind, 1 or more sets. Raises `DataError` where they are of several."""
    view = sets[0]._view
    names = [name for one in sets for name in one.names]
    pixels = torch.cat([one.resized(*view) for one in sets])  # pyright: ignore[reportArgumentType]
    return ViewSet(ArraySource(pixels), view, names=names, labels=None, name="views")
