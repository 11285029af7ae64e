"""Images from wherever they are, as one image set."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from selfmask.errors import DataError
from selfmask.images.decode import UnreadableImage, decode, decode_picture
from selfmask.images.image_set import ImageSet
from selfmask.images.sources import Reading

Picture = str | os.PathLike[str] | bytes | Image.Image | np.ndarray | Tensor
"""An image: a file's path or its bytes, a Pillow image, or uint8: a tensor (3, H, W), an array (H, W, 3)."""


class _Pictures:
    """Decoded when asked for, as files are; what is decoded already is taken as it is."""

    def __init__(self, pictures: Sequence[Picture], short_side: int | None) -> None:
        self._pictures = pictures
        self._short_side = short_side
        self._loading = threading.Lock()

    def __len__(self) -> int:
        return len(self._pictures)

    def read(self, position: int) -> Tensor:
        picture = self._pictures[position]
        try:
            if isinstance(picture, Image.Image):
                with (
                    self._loading
                ):  # one of Pillow's may be in the list twice, and is read lazily from its file
                    picture.load()
            return _pixels(picture, self._short_side)
        except UnreadableImage as error:
            what = str(picture) if isinstance(picture, str | os.PathLike) else f"image {position}"
            raise DataError(f"{what} cannot be read: {error}") from error


def picture_set(pictures: Sequence[Picture] | Tensor | ImageSet) -> ImageSet:
    """`pictures` as an image set without labels; uint8 (N, 3, H, W) is one, and so is an image set.

    Files, their bytes and Pillow images are reduced to the short side at which data sets keep them, so that an image
    has the same features wherever it comes from. Raises `DataError` for what is no image.
    """
    if isinstance(pictures, ImageSet):
        return pictures
    if isinstance(pictures, Tensor):
        return ImageSet.from_array(pictures, name="images")
    if isinstance(pictures, str | bytes | os.PathLike | Image.Image):
        raise DataError(f"a list of images is needed, got one {type(pictures).__name__}; put it into a list")
    held = list(pictures)
    for position, picture in enumerate(held):
        _check(picture, position)
    names = [f"{position:06d}" for position in range(len(held))]
    return ImageSet(_Pictures(held, Reading().short_side), names=names, labels=None, name="images")


def _pixels(picture: Picture, short_side: int | None) -> Tensor:
    if isinstance(picture, Tensor):
        return picture
    if isinstance(picture, np.ndarray):
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    if isinstance(picture, Image.Image):
        return decode_picture(picture, short_side)
    return decode(picture if isinstance(picture, bytes) else Path(picture), short_side)


def _check(picture: object, position: int) -> None:
    if isinstance(picture, str | bytes | os.PathLike | Image.Image):
        return
    kind = type(picture).__name__
    if isinstance(picture, Tensor | np.ndarray):
        colours = picture.shape[0 if isinstance(picture, Tensor) else -1] if picture.ndim == 3 else 0
        if colours == 3 and 0 not in picture.shape and str(picture.dtype).endswith("uint8"):
            return
        kind = f"{kind} of {picture.dtype} {tuple(picture.shape)}"
    raise DataError(
        f"image {position} is a {kind}: a path, the bytes of a file, a Pillow image, a tensor uint8 (3, H, W) or an "
        "array uint8 (H, W, 3) is needed"
    )
