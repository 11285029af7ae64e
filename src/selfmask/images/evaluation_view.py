"""The view of an image that features are computed on: resized and centre-cropped, nothing random."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from selfmask.errors import SettingsError

INTERPOLATIONS = ("bilinear", "bicubic")


def evaluation_view(image: Tensor, size: int, crop: float = 1.0, interpolation: str = "bicubic") -> Tensor:
    """uint8 (3, H, W) to uint8 (3, size, size): shorter side to `size / crop`, then the centre square.

    `crop` in (0, 1] is the share of the shorter side that is kept (0.875 is ImageNet's 224 of 256).
    Resizing is antialiased; of a strip (8 times as long as wide) only the middle is resized.
    """
    if size < 1:
        raise SettingsError(f"size must be at least 1 pixel, got {size}")
    if not 0 < crop <= 1:
        raise SettingsError(f"crop is a share in (0, 1], got {crop}")
    if interpolation not in INTERPOLATIONS:
        raise SettingsError(
            f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {interpolation!r}"
        )
    height, width = image.shape[1:]
    if max(height, width) > 8 * min(height, width):  # a strip: never resize all of it for its centre
        keep = 2 * min(height, width)
        top, left = max(0, (height - keep) // 2), max(0, (width - keep) // 2)
        image = image[:, top : top + keep, left : left + keep]
        height, width = image.shape[1:]
    scale = max(size, round(size / crop)) / min(height, width)
    tall, wide = max(size, round(height * scale)), max(size, round(width * scale))
    resized = image
    if (tall, wide) != (height, width):
        resized = F.interpolate(image[None], (tall, wide), mode=interpolation, antialias=True)[0]
    top, left = (tall - size) // 2, (wide - size) // 2
    return resized[:, top : top + size, left : left + size]
