"""What a backbone expects of an image: size, crop, interpolation, and the colour recipe it was trained with."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from selfmask.errors import SettingsError

Colour = tuple[float, float, float]
Interpolation = Literal["bicubic", "bilinear"]

MOST_PIXELS = 4096
"""Side of the largest view. A file may say a size, and what it says is made."""
_MOST_RESIZED = 2 * MOST_PIXELS
IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """From an RGB image to the backbone's input.

    The evaluation view resizes an image so that its short side is `size / crop` pixels (`interpolation`) and
    cuts the central square of `size` pixels. Colours in [0, 1] become (colour - `mean`) / `std`, per channel.

    Raises `SettingsError` for numbers that cannot be.

    >>> recipe = selfmask.Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), size=64, crop=1.0)
    >>> recipe.normalise(torch.ones(2, 3, 64, 64))[0, :, 0, 0]
    tensor([2., 2., 2.])
    """

    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    size: int = 224
    interpolation: Interpolation = "bicubic"
    crop: float = 0.875

    def __post_init__(self) -> None:
        finite = all(math.isfinite(one) for one in (*self.mean, *self.std))
        if len(self.mean) != 3 or len(self.std) != 3 or not finite or min(self.std) <= 0:
            raise SettingsError(
                f"a mean and a positive std for each of R, G, B are needed, not {self.mean}, {self.std}"
            )
        if type(self.size) is not int or not 1 <= self.size <= MOST_PIXELS:
            raise SettingsError(f"the input size is 1 to {MOST_PIXELS} pixels, not {self.size!r}")
        if not 0 < self.crop <= 1:
            raise SettingsError(
                f"crop is the share of the short side that is kept, in (0, 1], not {self.crop}"
            )
        if self.size / self.crop > _MOST_RESIZED:  # a file may say both, and what it says is made
            raise SettingsError(
                f"a crop of {self.crop} of {self.size} pixels would need images of {self.size / self.crop:.0f}, and at "
                f"most {_MOST_RESIZED} are made"
            )
        if self.interpolation not in ("bicubic", "bilinear"):
            raise SettingsError(f"interpolation must be 'bicubic' or 'bilinear', not {self.interpolation!r}")

    def normalise(self, images: Tensor) -> Tensor:
        """The backbone's input (float32, same shape) from images (B, 3, H, W): uint8, or floats in [0, 1]."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise SettingsError(f"images of shape (B, 3, H, W) are needed, not {tuple(images.shape)}")
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise SettingsError(f"images are uint8, 0 to 255, or floats in [0, 1], not {images.dtype}")
        top = 255.0 if images.dtype == torch.uint8 else 1.0
        mean = torch.tensor(self.mean, dtype=torch.float32, device=images.device).view(1, 3, 1, 1) * top
        std = torch.tensor(self.std, dtype=torch.float32, device=images.device).view(1, 3, 1, 1) * top
        return images.float().sub(mean).div_(std)

    def at(self, size: int | None) -> Preprocessing:
        """The same recipe at another input size; `None` keeps the size."""
        return self if size is None else replace(self, size=size)

    def describe(self) -> dict[str, Any]:
        """As JSON; `Preprocessing.read` is the way back."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def read(cls, described: dict[str, Any]) -> Preprocessing:
        """From `describe()`. Raises `SettingsError` where a field is missing, unknown or out of range."""
        try:
            r, g, b = (float(one) for one in described["mean"])
            u, v, w = (float(one) for one in described["std"])
            rest = {key: value for key, value in described.items() if key not in ("mean", "std")}
            return cls(mean=(r, g, b), std=(u, v, w), **rest)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SettingsError(f"no description of a preprocessing: {error}") from error
