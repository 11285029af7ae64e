"""Changes of colour on float32 (n, 3, H, W) with values in [0, 255], one amount per image.

The same arithmetic as Pillow's (which rounds to whole numbers after each change, and this does not).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114  # ITU-R BT.601 luma, as Pillow's "L"


def jittered(pixels: Tensor, factors: np.ndarray, order: np.ndarray) -> Tensor:
    """Brightness, contrast, saturation (factors) and hue (part of a turn), in each image's own `order`.

    factors: float64 (n, 4); order: int64 (n, 4), a permutation of the four changes per image.
    """
    changes = (brightened, contrasted, saturated, hue_turned)
    for turn in range(4):
        for change, apply in enumerate(changes):
            chosen = np.flatnonzero(
                (order[:, turn] == change) & (factors[:, change] != (0 if change == 3 else 1))
            )
            if len(chosen) == len(pixels):
                pixels = apply(pixels, _amounts(factors[:, change], pixels))
            elif len(chosen):
                rows = torch.from_numpy(chosen).to(pixels.device)
                pixels = pixels.index_copy(
                    0, rows, apply(pixels[rows], _amounts(factors[chosen, change], pixels))
                )
    return pixels


def brightened(pixels: Tensor, factor: Tensor) -> Tensor:
    """Blend with black; factor (n, 1, 1, 1)."""
    return (pixels * factor).clamp_(0, 255)


def contrasted(pixels: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image's mean grey, a whole number as in Pillow (which also makes the sum exact)."""
    whole = _luma(pixels).floor_()
    mean = (
        (whole.sum(dim=(1, 2, 3), keepdim=True, dtype=torch.float64) / whole[0].numel() + 0.5).floor().float()
    )
    return ((pixels - mean).mul_(factor).add_(mean)).clamp_(0, 255)


def saturated(pixels: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image."""
    grey = _luma(pixels)
    return ((pixels - grey).mul_(factor).add_(grey)).clamp_(0, 255)


def hue_turned(pixels: Tensor, turn: Tensor) -> Tensor:
    """Turn every pixel's hue by a part of the circle, at the same saturation and value (HSV)."""
    red, green, blue = pixels[:, 0:1], pixels[:, 1:2], pixels[:, 2:3]
    top = torch.maximum(torch.maximum(red, green), blue)
    chroma = top - torch.minimum(torch.minimum(red, green), blue)
    safe = chroma.clamp(min=1e-6)
    # Hue in sixths of the circle. A grey pixel has no hue; its chroma of 0 makes what comes out irrelevant.
    hue = torch.where(
        top == red,
        (green - blue) / safe,
        torch.where(top == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue = hue + turn * 6
    turned = torch.empty_like(pixels)
    for channel, offset in enumerate((5.0, 3.0, 1.0)):
        place = (hue + offset).remainder_(6)
        share = torch.minimum(place, 4 - place).clamp_(0, 1)
        torch.addcmul(top, chroma, share, value=-1, out=turned[:, channel : channel + 1])
    return turned.clamp_(0, 255)


def greyed(pixels: Tensor) -> Tensor:
    """Three equal channels."""
    return _luma(pixels).repeat(1, 3, 1, 1)


def blurred(pixels: Tensor, sigma: np.ndarray) -> Tensor:
    """Gaussian blur of standard deviation `sigma` (n,) > 0 pixels; the border is repeated outwards."""
    radius = max(1, int(np.ceil(3 * sigma.max())))
    taps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (taps / sigma[:, None]) ** 2) * (abs(taps) <= np.ceil(3 * sigma[:, None]))
    weights /= weights.sum(axis=1, keepdims=True)
    amounts = [_amounts(weights[:, tap], pixels) for tap in range(len(taps))]
    height, width = pixels.shape[2:]
    padded = F.pad(pixels, (radius, radius, radius, radius), mode="replicate")
    across = padded[..., :width] * amounts[0]
    for tap in range(1, len(taps)):
        across.addcmul_(padded[..., tap : tap + width], amounts[tap])
    down = across[:, :, :height] * amounts[0]
    for tap in range(1, len(taps)):
        down.addcmul_(across[:, :, tap : tap + height], amounts[tap])
    return down


def _luma(pixels: Tensor) -> Tensor:
    grey = pixels[:, 0:1] * _RED
    return grey.add_(pixels[:, 1:2], alpha=_GREEN).add_(pixels[:, 2:3], alpha=_BLUE)


def _amounts(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(like.device)[:, None, None, None]
