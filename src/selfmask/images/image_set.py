"""A set of images with names and, where known, labels: immutable, and lazy about pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from selfmask._common.escape import encodable
from selfmask.errors import DataError
from selfmask.images.augment import evaluation_view
from selfmask.images.sources import ArraySource, Reading, Skipped, Source

UNLABELLED = -1
"""The label of an image whose class is not known."""


class ImageSet:
    """Images, their names (stable from run to run), and their labels (`UNLABELLED` where not known).

    Subsets share the pixels (and the decoded ones kept in memory) with the set that they were taken from.

    classes: class names; a label is an index into them.
    labels: int64 (N,).
    name: what records call the data, for example "digits".
    flips: False where a mirror image is another thing (digits, text): default views then do not flip.
    skipped: the images that were left out when the set was opened, with reasons.

    >>> images = ImageSet.from_array(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), [0, 1, 1], classes=["cat", "dog"])
    >>> images
    ImageSet('array': 3 images, 2 classes, 3 labelled)
    >>> images.subset([2, 0]).labels
    tensor([1, 0])
    """

    def __init__(
        self,
        source: Source,
        *,
        names: Sequence[str],
        labels: Tensor | Sequence[int] | None,
        classes: Sequence[str] = (),
        name: str,
        flips: bool = True,
        skipped: Sequence[Skipped] = (),
        positions: Sequence[int] | None = None,
    ) -> None:
        self._source = source
        self._positions = tuple(range(len(names))) if positions is None else tuple(positions)
        self._names = tuple(names)
        self._labels = _checked_labels(labels, len(self._names), len(classes))
        self._classes = tuple(map(encodable, classes))  # a folder's name need not be UTF-8, and records are
        self._resized: dict[tuple[int, float, str], Tensor] = {}
        self.name = name
        self.flips = flips
        self.skipped = tuple(skipped)
        if len(self._positions) != len(self._names):
            raise DataError(f"{len(self._positions)} images but {len(self._names)} names")

    @classmethod
    def from_array(
        cls,
        images: Tensor,
        labels: Tensor | Sequence[int] | None = None,
        *,
        classes: Sequence[str] | None = None,
        name: str = "array",
        flips: bool = True,
    ) -> ImageSet:
        """Images in memory, uint8 (N, 3, H, W); classes are named "0", "1", … unless given."""
        if classes is None:
            top = -1 if labels is None else int(torch.as_tensor(labels).max()) if len(labels) else -1
            classes = [str(label) for label in range(top + 1)]
        names = [f"{position:06d}" for position in range(len(images))]
        return cls(ArraySource(images), names=names, labels=labels, classes=classes, name=name, flips=flips)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        known = len(self) - int((self._labels == UNLABELLED).sum())
        return f"ImageSet({self.name!r}: {len(self)} images, {len(self._classes)} classes, {known} labelled)"

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes

    @property
    def labels(self) -> Tensor:
        return self._labels.clone()

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def image(self, index: int) -> Tensor:
        """uint8 (3, H, W), RGB. Not a copy: do not write to it."""
        return self._source.read(self._positions[index])

    def short_side(self) -> int:
        """Pixels: the median short side of up to 64 of the images, spread over the set."""
        places = torch.linspace(0, len(self) - 1, min(64, len(self))).round().int().tolist()
        sides = sorted(min(self.image(place).shape[1:]) for place in places)
        return int(sides[len(sides) // 2])

    def subset(self, indices: Iterable[int] | Tensor) -> ImageSet:
        """The images at `indices` (in that order, each 0 … N - 1), or where a bool tensor (N,) is true."""
        if isinstance(indices, Tensor) and indices.dtype == torch.bool and indices.shape == (len(self),):
            indices = indices.nonzero().flatten()
        chosen = [
            _whole(index, len(self))
            for index in (indices.tolist() if isinstance(indices, Tensor) else indices)
        ]
        if chosen and not (min(chosen) >= 0 and max(chosen) < len(self)):
            wrong = min(chosen) if min(chosen) < 0 else max(chosen)
            raise DataError(f"{self.name} has images 0 to {len(self) - 1}: there is no image {wrong}")
        return self._derived(
            names=[self._names[index] for index in chosen],
            labels=self._labels[torch.tensor(chosen, dtype=torch.int64)],
            positions=[self._positions[index] for index in chosen],
        )

    def labelled(self) -> ImageSet:
        """The images whose class is known."""
        return self.subset((self._labels != UNLABELLED).nonzero().flatten())

    def with_labels(self, labels: Tensor) -> ImageSet:
        """The same images with other labels of the same classes."""
        return self._derived(names=self._names, labels=labels, positions=self._positions)

    def fingerprint(self) -> str:
        """Hexadecimal digest of names, labels and classes (not of pixels): equal for an equal set."""
        digest = hashlib.sha256()
        for part in (self._classes, self._names, [str(label) for label in self._labels.tolist()]):
            digest.update(f"{len(part)}:".encode())
            for text in part:
                encoded = text.encode("utf-8", "surrogatepass")
                digest.update(f"{len(encoded)}:".encode() + encoded)
        return digest.hexdigest()

    def resized(self, size: int, crop: float = 1.0, interpolation: str = "bicubic") -> Tensor:
        """The evaluation views of all images, uint8 (N, 3, size, size): see `evaluation_view`.

        Kept for the next call where it takes no more than `Reading.cache_bytes`' default, so do not write to it. For
        bounded memory call it on subsets.
        """
        key = (size, crop, interpolation)
        if key in self._resized:
            return self._resized[key]
        views = torch.empty((len(self), 3, size, size), dtype=torch.uint8)

        def fill(index: int) -> None:
            views[index] = evaluation_view(self.image(index), size, crop, interpolation)

        for_each(fill, len(self))
        if views.numel() <= Reading().cache_bytes:
            self._resized[key] = views
        return views

    def _derived(self, *, names: Sequence[str], labels: Tensor, positions: Sequence[int]) -> ImageSet:
        return ImageSet(
            self._source,
            names=names,
            labels=labels,
            classes=self._classes,
            name=self.name,
            flips=self.flips,
            skipped=self.skipped,
            positions=positions,
        )


def for_each(work: Callable[[int], None], count: int) -> None:
    """Call `work` for 0 … count - 1 in a few threads (decoding and resizing release Python's lock)."""
    threads = Reading().threads
    if count < 32 or threads == 1:
        for index in range(count):
            work(index)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, range(count), chunksize=16):
            pass


def _whole(index: Any, images: int) -> int:
    if isinstance(index, bool) or not hasattr(index, "__index__"):
        raise DataError(
            f"a subset of {images} images is told by whole numbers, or by a bool tensor of shape ({images},), "
            f"not by {index!r}"
        )
    return int(index)


def _checked_labels(labels: Tensor | Sequence[int] | None, count: int, classes: int) -> Tensor:
    if labels is None:
        return torch.full((count,), UNLABELLED)
    found = torch.as_tensor(labels)
    checked = found.to(torch.int64).clone()
    if found.is_floating_point() and not bool((checked == found).all()):
        raise DataError(
            "labels are whole numbers, and these have fractions: are they figures to predict? Give classes"
        )
    if checked.shape != (count,):
        raise DataError(f"{count} images need labels of shape ({count},), got {tuple(checked.shape)}")
    if count and not (checked.min() >= UNLABELLED and checked.max() < classes):
        raise DataError(
            f"labels must be -1 (unlabelled) or 0 to {classes - 1} (there are {classes} classes), "
            f"got {int(checked.min())} to {int(checked.max())}"
        )
    return checked
