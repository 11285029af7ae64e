"""What a training image is turned into: settings, and the random decisions drawn from them.

The distributions are those of torchvision's RandomResizedCrop, RandomHorizontalFlip, ColorJitter,
RandomGrayscale and of SwAV's Gaussian blur (PAPER §6). `augment` carries the decisions out on tensors, the tests on
Pillow images as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from selfmask.errors import SettingsError
from selfmask.images.draws import uniforms

INTERPOLATIONS = ("bilinear", "bicubic")
_ATTEMPTS = 10  # torchvision's: then the whole image, cut to the nearest allowed aspect ratio


@dataclass(frozen=True)
class Augment:
    """One kind of view. With only `size` given: a random crop of at least 8 % of the area, flipped or not.

    size: pixels of the square that comes out.
    scale: (least, most) share of the image's area that is cropped, in (0, 1].
    ratio: (least, most) width over height of the crop.
    flip: probability of a mirror image.
    jitter: probability that colours change at all, then by
    brightness, contrast, saturation: factor drawn from [1 - x, 1 + x], not below 0; in random order with
    hue: part of the colour circle, in [0, 0.5], drawn from [-hue, hue].
    grey: probability of losing the colours.
    blur: probability of a Gaussian blur, its standard deviation in pixels drawn from `blur_sigma`.
    interpolation: "bilinear" or "bicubic", both antialiased.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise SettingsError(f"size must be at least 1 pixel, got {self.size}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise SettingsError(
                f"scale must be two shares of the area, 0 < least <= most <= 1, got {self.scale}"
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise SettingsError(f"ratio must be two aspect ratios, 0 < least <= most, got {self.ratio}")
        for name in ("flip", "jitter", "grey", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name} is a probability in [0, 1], got {getattr(self, name)}")
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.hue <= 0.5:
            raise SettingsError(f"hue is a part of the colour circle in [0, 0.5], got {self.hue}")
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise SettingsError(f"blur_sigma must be 0 < least <= most pixels, got {self.blur_sigma}")
        if self.interpolation not in INTERPOLATIONS:
            raise SettingsError(
                f"interpolation must be one of {', '.join(INTERPOLATIONS)}: {self.interpolation!r}"
            )

    def describe(self) -> dict[str, object]:
        """The settings as JSON-able values, for records."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def light(size: int, *, flips: bool = True, least: float = 0.35) -> Augment:
    """Crops and flips only: the ordinary view of supervised training. `flips`: see `ImageSet.flips`."""
    return Augment(size, scale=(least, 1.0), flip=0.5 if flips else 0.0)


def coloured(
    size: int,
    *,
    flips: bool = True,
    least: float = 0.3,
    strength: float = 1.0,
    light: float = 0.4,
    interpolation: str = "bicubic",
) -> Augment:
    """Crops and colour changes, by which views of one image differ as images of one kind do: contrast's.

    least: smallest share of the area. strength: of the colour changes, in [0, 2]. light: how much brightness and
    contrast change at a strength of 1.
    """
    return Augment(
        size, scale=(least, 1.0), flip=0.5 if flips else 0.0, jitter=0.8 if strength else 0.0,
        brightness=light * strength, contrast=light * strength, saturation=0.2 * strength, hue=0.1 * strength,
        grey=0.2 * min(strength, 1.0), interpolation=interpolation,
    )  # fmt: skip


def multi_crop(
    large: int = 224,
    small: int = 96,
    *,
    count: tuple[int, int] = (2, 6),
    split: float = 0.14,
    least: float = 0.05,
    flips: bool = True,
) -> tuple[Augment, ...]:
    """SwAV's views (PAPER §6; the defaults are the paper's): large crops first, then small ones.

    count: how many large and small crops. split: share of the area that divides large from small crops.
    least: smallest share of the area of a small crop.
    """
    first = Augment(
        large,
        scale=(split, 1.0),
        flip=0.5 if flips else 0.0,
        jitter=0.8,
        brightness=0.8,
        contrast=0.8,
        saturation=0.8,
        hue=0.2,
        grey=0.2,
        blur=0.5,
    )
    return (first,) * count[0] + (replace(first, size=small, scale=(least, split)),) * count[1]


@dataclass(frozen=True)
class Decisions:
    """What `Augment` came to for B images. Boxes in pixels; `order` holds the four colour changes
    (0 brightness, 1 contrast, 2 saturation, 3 hue) in the order in which they are made."""

    top: np.ndarray
    left: np.ndarray
    height: np.ndarray
    width: np.ndarray
    flip: np.ndarray
    jitter: np.ndarray
    factors: np.ndarray  # float64 (B, 4): brightness, contrast, saturation, hue
    order: np.ndarray  # int64 (B, 4)
    grey: np.ndarray
    sigma: np.ndarray  # 0 where there is no blur


def decide(
    sizes: Sequence[tuple[int, int]], settings: Augment, seeds: Sequence[int] | np.ndarray
) -> Decisions:
    """Draw what happens to images of (height, width) `sizes`, one seed each."""
    draws = uniforms(seeds, 2 * _ATTEMPTS + 15)
    crop, rest = draws[:, : 2 * _ATTEMPTS], draws[:, 2 * _ATTEMPTS :]
    height, width = np.asarray(sizes, dtype=np.int64).reshape(-1, 2).T
    tall, wide, central = _crop_sizes(height, width, settings, crop)
    spread = np.array([settings.brightness, settings.contrast, settings.saturation])
    least = np.maximum(0.0, 1.0 - spread)
    factors = np.empty((len(rest), 4))
    factors[:, :3] = least + rest[:, 4:7] * (1.0 + spread - least)
    factors[:, 3] = (2 * rest[:, 7] - 1) * settings.hue
    low, high = settings.blur_sigma
    return Decisions(
        top=np.where(central, (height - tall) // 2, np.floor(rest[:, 0] * (height - tall + 1))).astype(
            np.int64
        ),
        left=np.where(central, (width - wide) // 2, np.floor(rest[:, 1] * (width - wide + 1))).astype(
            np.int64
        ),
        height=tall,
        width=wide,
        flip=rest[:, 2] < settings.flip,
        jitter=rest[:, 3] < settings.jitter,
        factors=factors,
        order=np.argsort(rest[:, 8:12], axis=1, kind="stable"),
        grey=rest[:, 12] < settings.grey,
        sigma=np.where(rest[:, 13] < settings.blur, low + rest[:, 14] * (high - low), 0.0),
    )


def _crop_sizes(
    height: np.ndarray, width: np.ndarray, settings: Augment, draws: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crop heights and widths (B,): the first of ten proposals of area and aspect that fits in the image.

    Where none fits, the largest crop of an allowed aspect, and True in the third array: it lies in the centre.
    """
    area, aspect = draws[:, :_ATTEMPTS], draws[:, _ATTEMPTS:]
    low, high = np.log(settings.ratio[0]), np.log(settings.ratio[1])
    wanted = (height * width)[:, None] * (settings.scale[0] + area * (settings.scale[1] - settings.scale[0]))
    shape = np.exp(low + aspect * (high - low))
    wide = np.rint(np.sqrt(wanted * shape)).astype(np.int64)
    tall = np.rint(np.sqrt(wanted / shape)).astype(np.int64)
    fits = (wide >= 1) & (wide <= width[:, None]) & (tall >= 1) & (tall <= height[:, None])
    first = fits.argmax(axis=1)
    rows = np.arange(len(height))
    least, most = settings.ratio
    whole_wide = np.minimum(width, np.maximum(1, np.rint(height * most))).astype(np.int64)
    whole_tall = np.minimum(height, np.maximum(1, np.rint(width / least))).astype(np.int64)
    found = fits.any(axis=1)
    return (
        np.where(found, tall[rows, first], whole_tall),
        np.where(found, wide[rows, first], whole_wide),
        ~found,
    )
