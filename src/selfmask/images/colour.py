"""Changes of colour on float32 (n, 3, H, W) with values in [0, 255], in place, one amount per image.

The same arithmetic as Pillow's (which rounds to whole numbers after each change, and this does not). Written for
the fewest passes over memory: an amount that cannot leave [0, 255] is not clamped, and on a CPU images come one
by one, whose amounts are then plain numbers. That is why it stands here beside torchvision's transforms: it is
measured to be three times as fast (benchmarks/bench_multicrop.py, docs/label-free.md).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Amount = float | Tensor
"""A number for one image, or float32 (n, 1, 1, 1)."""

_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114  # ITU-R BT.601 luma, as Pillow's "L"


def jittered(pixels: Tensor, factors: np.ndarray, order: np.ndarray) -> Tensor:
    """Brightness, contrast, saturation (factors) and hue (part of a turn), in each image's own `order`.

    factors: float64 (n, 4); order: int64 (n, 4), a permutation of the four changes per image. In place.
    """
    changes = (brightened, contrasted, saturated, hue_turned)
    nothing = (1, 1, 1, 0)
    if len(pixels) == 1:
        for change in order[0]:
            if factors[0, change] != nothing[change]:
                changes[change](pixels, float(np.float32(factors[0, change])))
        return pixels
    for turn in range(4):
        for change, apply in enumerate(changes):
            chosen = np.flatnonzero((order[:, turn] == change) & (factors[:, change] != nothing[change]))
            if len(chosen):
                rows = torch.from_numpy(chosen).to(pixels.device)
                pixels.index_copy_(0, rows, apply(pixels[rows], _amounts(factors[chosen, change], pixels)))
    return pixels


def brightened(pixels: Tensor, factor: Amount) -> Tensor:
    """Blend with black, in place."""
    return _clamped(pixels.mul_(factor), factor)


def contrasted(pixels: Tensor, factor: Amount) -> Tensor:
    """Blend with the image's mean grey, a whole number as in Pillow, in place."""
    sums = pixels.sum(dim=(2, 3))
    if isinstance(factor, float):
        red, green, blue = sums[0].tolist()
        mean = math.floor((_RED * red + _GREEN * green + _BLUE * blue) / pixels[0, 0].numel() + 0.5)
        torch.add(torch.tensor(mean * (1 - factor)), pixels, alpha=factor, out=pixels)
    else:
        weights = torch.tensor([_RED, _GREEN, _BLUE], dtype=torch.float64, device=pixels.device)
        means = (sums.double() @ weights / pixels[0, 0].numel() + 0.5).floor().float()
        pixels.mul_(factor).add_(means[:, None, None, None] * (1 - factor))
    return _clamped(pixels, factor)


def saturated(pixels: Tensor, factor: Amount) -> Tensor:
    """Blend with the grey image, in place."""
    grey = _luma(pixels).expand_as(pixels)
    return _clamped(pixels.lerp_(grey, 1 - factor), factor)


def hue_turned(pixels: Tensor, turn: Amount) -> Tensor:
    """Turn every pixel's hue by a part of the circle, at the same saturation and value (HSV). In place.

    Without a comparison, which costs several times an addition. With q and p the larger and smaller of green
    and blue, hue in sixths of the circle lies at ±(1 + (q - min + p - red) / chroma): between yellow and
    magenta on the red side (chroma = red - p) that is ±(q - p) / chroma, elsewhere ±(2 + (p - red) / chroma),
    with the sign of green - blue.
    """
    red, green, blue = pixels[:, 0:1], pixels[:, 1:2], pixels[:, 2:3]
    more, less = torch.maximum(green, blue), torch.minimum(green, blue)
    top, low = torch.maximum(red, more), torch.minimum(red, less)
    hue = more.sub_(low).add_(less).sub_(red)
    chroma = low.neg_().add_(top)
    # A grey pixel has no hue; its chroma of 0 makes what comes out irrelevant.
    hue.div_(torch.clamp(chroma, min=1e-6, out=less)).add_(1)
    hue.copysign_(torch.sub(green, blue, out=less)).add_(turn * 6)
    hue.sub_(torch.mul(hue, 1 / 6, out=less).floor_(), alpha=6)  # into [0, 6)
    # Each channel is the value less a share of the chroma: red's falls around cyan (3), the others' rises away from
    # their own places.
    red_share = (hue - 3).abs_().neg_().add_(2)
    torch.addcmul(top, chroma, red_share.clamp_(0, 1), value=-1, out=red)
    for channel, place in ((green, 2), (blue, 4)):
        share = torch.sub(hue, place, out=less).abs_().sub_(1).clamp_(0, 1)
        torch.addcmul(top, chroma, share, value=-1, out=channel)
    return pixels


def greyed(pixels: Tensor) -> Tensor:
    """Three equal channels, in place."""
    return pixels.copy_(_luma(pixels))


def blurred(pixels: Tensor, sigma: np.ndarray) -> Tensor:
    """Gaussian blur of standard deviation `sigma` (n,) > 0 pixels, in place; the border is repeated outwards."""
    radius = max(1, math.ceil(3 * sigma.max()))
    taps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (taps / sigma[:, None]) ** 2) * (abs(taps) <= np.ceil(3 * sigma[:, None]))
    weights /= weights.sum(axis=1, keepdims=True)
    amounts = [_amounts(weights[:, tap], pixels) for tap in range(len(taps))]
    height, width = pixels.shape[2:]
    padded = F.pad(pixels, (radius, radius, radius, radius), mode="replicate")
    across = padded[..., :width] * amounts[0]
    for tap in range(1, len(taps)):
        _add_scaled(across, padded[..., tap : tap + width], amounts[tap])
    torch.mul(across[:, :, :height], amounts[0], out=pixels)
    for tap in range(1, len(taps)):
        _add_scaled(pixels, across[:, :, tap : tap + height], amounts[tap])
    return pixels


def _luma(pixels: Tensor) -> Tensor:
    grey = pixels[:, 0:1] * _RED
    return grey.add_(pixels[:, 1:2], alpha=_GREEN).add_(pixels[:, 2:3], alpha=_BLUE)


def _clamped(pixels: Tensor, factor: Amount) -> Tensor:
    """A blend by a factor of at most 1 lies between its two ends, and needs no clamp."""
    return pixels if isinstance(factor, float) and factor <= 1 else pixels.clamp_(0, 255)


def _add_scaled(total: Tensor, part: Tensor, amount: Amount) -> None:
    if isinstance(amount, Tensor):
        total.addcmul_(part, amount)
    else:
        total.add_(part, alpha=amount)


def _amounts(values: np.ndarray, like: Tensor) -> Amount:
    if len(values) == 1:
        return float(np.float32(values[0]))
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(like.device)[:, None, None, None]
