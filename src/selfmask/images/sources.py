"""Where the pixels of an image set come from: files (or bytes from elsewhere), or one array in memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from selfmask.errors import DataError, SettingsError
from selfmask.images.decode import UnreadableImage, decode, reduced_size, shrink

Content = Path | Callable[[], "bytes | np.ndarray"]
"""One image: a file, or a function that returns its bytes or its pixels (uint8, (H, W, 3))."""


@dataclass(frozen=True)
class Reading:
    """How image files are read.

    short_side: pixels; larger pictures are kept at this length of their shorter side (None: as they are).
    skip_limit: largest share of unreadable images, in [0, 1], beyond which opening stops.
    cache_bytes: decoded pixels kept in memory, per opened data set.
    workers: threads that decode (None: one per processor).
    """

    short_side: int | None = 640
    skip_limit: float = 0.05
    cache_bytes: int = 2**30
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.short_side is not None and self.short_side < 1:
            raise SettingsError(f"short_side must be at least 1 pixel (or None), got {self.short_side}")
        if not 0 <= self.skip_limit <= 1:
            raise SettingsError(f"skip_limit is a share between 0 and 1, got {self.skip_limit}")
        if self.cache_bytes < 0:
            raise SettingsError(f"cache_bytes must not be negative, got {self.cache_bytes}")
        if self.workers is not None and self.workers < 1:
            raise SettingsError(f"workers must be at least 1 (or None), got {self.workers}")

    @property
    def threads(self) -> int:
        return self.workers or min(
            32, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4
        )


def enlarged(size: int) -> str | None:
    """What a reader of figures on views of `size` pixels must know where larger pictures are kept smaller; or None."""
    kept = Reading().short_side
    if kept is None or size <= kept:
        return None
    return f"larger pictures are kept at {kept} px: views of {size} px are enlarged from those"


def decoded(content: Content, short_side: int | None) -> Tensor:
    """One image, uint8 (3, H, W): see `decode`. Raises `UnreadableImage` where it cannot be had."""
    if isinstance(content, Path):
        return decode(content, short_side)
    try:
        found = content()
    except Exception as error:  # whatever the library raises that the image lies with
        raise UnreadableImage(f"{error or type(error).__name__}") from error
    if isinstance(found, bytes):
        return decode(found, short_side)
    image = torch.from_numpy(np.array(found)).permute(2, 0, 1)
    if short_side is None or min(image.shape[1:]) <= short_side:
        return image
    return shrink(image, *reduced_size(image.shape[2], image.shape[1], short_side))


@dataclass(frozen=True)
class Skipped:
    """An image that was left out, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Source(Protocol):
    """Images by position; reading the same position twice gives the same pixels."""

    def __len__(self) -> int: ...

    def read(self, position: int) -> Tensor:
        """uint8 (3, H, W)."""
        ...


class ArraySource:
    """Images that are all in memory already: uint8 (N, 3, H, W)."""

    def __init__(self, images: Tensor) -> None:
        if not isinstance(images, Tensor):
            raise DataError(
                f"images are a tensor, uint8 (N, 3, H, W), got {type(images).__name__}: torch.from_numpy makes one"
            )
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise DataError(f"images must be uint8 (N, 3, H, W), got {images.dtype} {tuple(images.shape)}")
        self._images = images.contiguous(memory_format=torch.channels_last)

    def __len__(self) -> int:
        return len(self._images)

    def read(self, position: int) -> Tensor:
        return self._images[position]


class FileSource:
    """Images that are decoded when asked for, and kept in memory as long as `cache_bytes` allows.

    Nothing is ever thrown out of the cache: epochs visit the images in ever new orders, so that what was read
    last is no more likely to be read next than what was read first.
    """

    def __init__(self, contents: Sequence[Content], names: Sequence[str], reading: Reading) -> None:
        self._contents = list(contents)
        self._names = list(names)
        self._reading = reading
        self._cache: dict[int, Tensor] = {}
        self._room = reading.cache_bytes
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._contents)

    def read(self, position: int) -> Tensor:
        kept = self._cache.get(position)
        if kept is not None:
            return kept
        try:
            image = decoded(self._contents[position], self._reading.short_side)
        except UnreadableImage as error:
            raise DataError(
                f"{self._names[position]} could be read when the data set was opened, but not now: {error}. "
                "Was it changed or removed meanwhile?"
            ) from error
        self._keep(position, image)
        return image

    def unreadable(self, progress: Callable[[int], None] | None = None) -> dict[int, Skipped]:
        """Decode everything once: what fails, by position. Fills the cache on the way.

        `progress` is called now and then with the number of images that have been tried.
        """
        failed: dict[int, Skipped] = {}
        with ThreadPoolExecutor(self._reading.threads) as pool:
            parts = (range(start, min(start + 64, len(self))) for start in range(0, len(self), 64))
            for part, found in pool.map(lambda part: (part, [self._try(place) for place in part]), parts):
                failed |= {place: skipped for place, skipped in zip(part, found, strict=True) if skipped}
                if progress is not None:
                    progress(part.stop)
        return failed

    def _try(self, position: int) -> Skipped | None:
        try:
            if self._room > 0:
                self._keep(position, decoded(self._contents[position], self._reading.short_side))
            else:
                decoded(
                    self._contents[position], 1
                )  # a JPEG shows its damage at an eighth of its size and of the cost
        except UnreadableImage as error:
            return Skipped(self._names[position], str(error))
        return None

    def _keep(self, position: int, image: Tensor) -> None:
        with self._lock:
            if position in self._cache:
                return
            if image.numel() > self._room:
                self._room = 0  # full: from here on images need not be decoded in full to be checked
                return
            self._cache[position] = image
            self._room -= image.numel()
