"""Views by tensor operations: crop and resize each image as uint8, then change the colours in small groups.

The order and the number types are chosen for speed on a CPU: cropping first leaves little to do; torch's
uint8 kernels for antialiased resizing of channels-last images are several times faster than the float ones;
and colour work runs on groups that stay in the cache. On a GPU the colour work runs on the whole batch at
once.

Every operation is either element by element or exact (whole numbers in float64), so that an image's view
has the same bits in any batch, group or thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selfmask.data.colour import blurred, greyed, jittered
from selfmask.data.views import Augment, Decisions, decide
from selfmask.errors import DataError

_GROUP = 2**18  # float32 numbers that are worked on together on a CPU: 1 MiB, a core's own cache


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
    size = settings.size
    on_cpu = torch.device(device).type == "cpu"
    decisions = decide([(image.shape[1], image.shape[2]) for image in images], settings, seeds)
    views = torch.empty((len(images), 3, size, size), dtype=torch.float32 if on_cpu else torch.uint8)
    step = max(1, _GROUP // (3 * size * size))

    def make(start: int) -> None:
        group = range(start, min(start + step, len(images)))
        small = torch.stack([_cropped(images[k], k, decisions, settings) for k in group])
        if on_cpu:
            small = _coloured(small, decisions, group)
        views[group.start : group.stop] = small

    starts = range(0, len(images), step)
    if pool is None:
        for start in starts:
            make(start)
    else:
        for _ in pool.map(make, starts):
            pass
    return views if on_cpu else _coloured(views.to(device, non_blocking=True), decisions, range(len(images)))


def _cropped(image: Tensor, k: int, decisions: Decisions, settings: Augment) -> Tensor:
    top, left = int(decisions.top[k]), int(decisions.left[k])
    height, width = int(decisions.height[k]), int(decisions.width[k])
    view = image[None, :, top : top + height, left : left + width]
    if (height, width) != (settings.size, settings.size):
        view = F.interpolate(
            view, (settings.size, settings.size), mode=settings.interpolation, antialias=True
        )
    return view[0].flip(2) if decisions.flip[k] else view[0]


def _coloured(views: Tensor, decisions: Decisions, group: range) -> Tensor:
    """uint8 (n, 3, s, s) to float32 in [0, 1] with the colour changes of the images `group`."""
    pixels = views.to(torch.float32, memory_format=torch.contiguous_format)
    part = slice(group.start, group.stop)
    jitter, grey, sigma = decisions.jitter[part], decisions.grey[part], decisions.sigma[part]
    if jitter.any() and decisions.factors.size:
        chosen = np.flatnonzero(jitter)
        changed = jittered(
            _rows(pixels, chosen), decisions.factors[part][chosen], decisions.order[part][chosen]
        )
        pixels = _with_rows(pixels, chosen, changed)
    if grey.any():
        chosen = np.flatnonzero(grey)
        pixels = _with_rows(pixels, chosen, greyed(_rows(pixels, chosen)))
    if (sigma > 0).any():
        chosen = np.flatnonzero(sigma > 0)
        pixels = _with_rows(pixels, chosen, blurred(_rows(pixels, chosen), sigma[chosen]))
    return pixels.mul_(1 / 255).clamp_(0, 1)


def _rows(pixels: Tensor, chosen: np.ndarray) -> Tensor:
    if len(chosen) == len(pixels):
        return pixels
    return pixels[torch.from_numpy(chosen).to(pixels.device)]


def _with_rows(pixels: Tensor, chosen: np.ndarray, changed: Tensor) -> Tensor:
    if len(chosen) == len(pixels):
        return changed
    pixels[torch.from_numpy(chosen).to(pixels.device)] = changed
    return pixels
