"""The same views by Pillow, one image at a time: slow, and what the fast path is checked against."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from selfmask.images.views import Augment, Decisions, decide


def reference_view(image: Tensor, settings: Augment, seed: int) -> Tensor:
    """uint8 (3, H, W) to float32 (3, size, size) in [0, 1]: `augment` with the same seed, by Pillow.

    Pillow rounds to whole numbers after every step and approximates the Gaussian by box filters, so that the
    two agree to about one part in 255, not exactly.
    """
    decisions = decide([(image.shape[1], image.shape[2])], settings, [seed])
    top, left = int(decisions.top[0]), int(decisions.left[0])
    box = (left, top, left + int(decisions.width[0]), top + int(decisions.height[0]))
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).crop(box)
    picture = picture.resize((settings.size, settings.size), filters[settings.interpolation])
    if decisions.flip[0]:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if decisions.jitter[0]:
        picture = _jittered(picture, decisions)
    if decisions.grey[0]:
        picture = picture.convert("L").convert("RGB")
    if decisions.sigma[0] > 0:
        picture = picture.filter(ImageFilter.GaussianBlur(float(decisions.sigma[0])))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def _jittered(picture: Image.Image, decisions: Decisions) -> Image.Image:
    brightness, contrast, saturation, hue = (float(factor) for factor in decisions.factors[0])
    for change in decisions.order[0]:
        if change == 0:
            picture = ImageEnhance.Brightness(picture).enhance(brightness)
        elif change == 1:
            picture = ImageEnhance.Contrast(picture).enhance(contrast)
        elif change == 2:
            picture = ImageEnhance.Color(picture).enhance(saturation)
        else:
            channels = np.array(picture.convert("HSV"))
            channels[..., 0] += np.uint8(round(hue * 255) % 256)  # a circle: it wraps round
            picture = Image.fromarray(channels, "HSV").convert("RGB")
    return picture
