"""Views by tensor operations: crop and resize each image as uint8, then change the colours.

The order and the number types are chosen for speed on a CPU: cropping first leaves little to do; torch's
uint8 kernels for antialiased resizing of channels-last images are several times faster than the float ones;
and the colours of one image after another are changed in place, so that what is at work stays in the cache.
On a GPU the colour work runs on the whole batch at once.

Every operation is element by element, but for a mean that is rounded to a whole number, so that an image's
view has the same bits in any batch or thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selfmask.errors import DataError, SettingsError
from selfmask.images.colour import blurred, greyed, jittered
from selfmask.images.views import INTERPOLATIONS, Augment, Decisions, decide


def augment(
    images: Sequence[Tensor],
    settings: Augment,
    seeds: Sequence[int] | np.ndarray,
    *,
    device: torch.device | str = "cpu",
    pool: ThreadPoolExecutor | None = None,
) -> Tensor:
    """One view of each image: uint8 (3, H, W) of any sizes to float32 (B, 3, size, size) in [0, 1].

    The k-th view depends on the k-th image, `settings` and the k-th seed only. It is not normalised.
    `device`: where colours are changed and the result lies. `pool`: threads to share the work among (CPU).
    """
    if len(images) != len(seeds):
        raise DataError(f"{len(images)} images need as many seeds, got {len(seeds)}")
    on_cpu = torch.device(device).type == "cpu"
    decisions = decide([(image.shape[1], image.shape[2]) for image in images], settings, seeds)
    shape = (len(images), 3, settings.size, settings.size)
    views = torch.empty(shape, dtype=torch.float32 if on_cpu else torch.uint8)

    def make(k: int) -> None:
        views[k].copy_(_cropped(images[k], k, decisions, settings))
        if on_cpu:
            _change_one(views[k : k + 1], k, decisions)

    if pool is None:
        for k in range(len(images)):
            make(k)
    else:
        for _ in pool.map(make, range(len(images))):
            pass
    if on_cpu:
        return views
    return _changed(views.to(device, non_blocking=True).to(torch.float32), decisions)


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


def _cropped(image: Tensor, k: int, decisions: Decisions, settings: Augment) -> Tensor:
    top, left = int(decisions.top[k]), int(decisions.left[k])
    height, width = int(decisions.height[k]), int(decisions.width[k])
    view = image[None, :, top : top + height, left : left + width]
    if (height, width) != (settings.size, settings.size):
        view = F.interpolate(
            view, (settings.size, settings.size), mode=settings.interpolation, antialias=True
        )
    # Channels apart while they are still bytes: that, and the mirror image, then cost the least.
    view = view[0].contiguous()
    return view.flip(2) if decisions.flip[k] else view


def _change_one(pixels: Tensor, k: int, decisions: Decisions) -> None:
    """The colour changes of image `k` on its pixels, float32 (1, 3, s, s), from [0, 255] to [0, 1] in place."""
    if decisions.jitter[k]:
        jittered(pixels, decisions.factors[k : k + 1], decisions.order[k : k + 1])
    if decisions.grey[k]:
        greyed(pixels)
    if decisions.sigma[k] > 0:
        blurred(pixels, decisions.sigma[k : k + 1])
    pixels.mul_(1 / 255).clamp_(0, 1)


def _changed(pixels: Tensor, decisions: Decisions) -> Tensor:
    """The same for all images at once, float32 (n, 3, s, s): for an accelerator."""
    for chosen, change in (
        (decisions.jitter, lambda part, rows: jittered(part, decisions.factors[rows], decisions.order[rows])),
        (decisions.grey, lambda part, rows: greyed(part)),
        (decisions.sigma > 0, lambda part, rows: blurred(part, decisions.sigma[rows])),
    ):
        rows = np.flatnonzero(chosen)
        if len(rows) == len(pixels):
            pixels = change(pixels, rows)
        elif len(rows):
            places = torch.from_numpy(rows).to(pixels.device)
            pixels.index_copy_(0, places, change(pixels[places], rows))
    return pixels.mul_(1 / 255).clamp_(0, 1)
