"""Fusion: the dispatcher's and the experts' features as one embedding of fixed width (PAPER §8.4 and 8.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from selfmask._common.clustering import principal_axes
from selfmask.errors import DataError, MaskFileError, SettingsError
from selfmask.images.image_set import ImageSet
from selfmask.images.splits import at_most

Mode = Literal["conditional", "unconditional"]
MODES: tuple[Mode, ...] = get_args(Mode)

# The axes are fitted on so many images at most: their Gram matrix is decomposed in float64, a minute's work at this
# size, and the leading axes of thousands of images are those of all.
_FUSION_IMAGES = 4096

# A component whose deviation is below a thousandth of the leading one's is dropped: bringing it to equal variance
# would magnify the rounding of float32 features and weights by more than the embedding's own precision of 1e-4.
_LEAST_VARIANCE = 1e-6


def joined(dispatcher: Tensor, experts: Sequence[Tensor], assignment: Tensor, mode: Mode) -> Tensor:
    """Features side by side, float32 (N, (1 + K) · width), of dispatcher (N, width) and K experts (N, width) each.

    "unconditional": all of them. "conditional": the dispatcher's and those of the expert that `assignment`
    (int64 (N,)) names; zeros for the others, whose features are not looked at.
    """
    if mode == "unconditional":
        return torch.cat([dispatcher, *experts], dim=1)
    parts = [dispatcher]
    for index, features in enumerate(experts):
        mine = (assignment == index)[:, None].to(features.device)
        # Not a product: an expert's features may be anything where it was not asked.
        parts.append(torch.where(mine, features, torch.zeros((), dtype=features.dtype)))
    return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class Fusion:
    """mean: float64 (inputs,); projection: float32 (width, inputs), rows scaled to unit variance in training."""

    mode: Mode
    mean: Tensor
    projection: Tensor

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise SettingsError(f"a fusion is one of {', '.join(MODES)}, got {self.mode!r}")
        if self.mean.dtype != torch.float64 or self.projection.dtype != torch.float32:
            raise SettingsError(
                f"fusion: mean must be float64 and projection float32, "
                f"got {self.mean.dtype}, {self.projection.dtype}"
            )
        if self.projection.ndim != 2 or self.mean.shape != (self.projection.shape[1],):
            raise SettingsError(
                f"fusion: mean {tuple(self.mean.shape)} and projection {tuple(self.projection.shape)} do not fit"
            )
        if not bool(torch.isfinite(self.mean).all()) or not bool(torch.isfinite(self.projection).all()):
            raise SettingsError("fusion: mean and projection must be finite")

    @property
    def width(self) -> int:
        """The width of the embedding."""
        return self.projection.shape[0]

    def apply(self, x: Tensor) -> Tensor:
        """The embedding, float32 (N, width), of joined features x (N, inputs); computed in float64."""
        if x.ndim != 2 or x.shape[1] != len(self.mean):
            raise SettingsError(
                f"the fusion takes joined features (N, {len(self.mean)}), got {tuple(x.shape)}"
            )
        centred = x.double() - self.mean.to(x.device)
        return (centred @ self.projection.to(x.device).double().T).float()

    def tensors(self) -> dict[str, Tensor]:
        """What a file keeps, by name; `from_tensors` is the inverse."""
        return {"mean": self.mean, "projection": self.projection}

    @classmethod
    def from_tensors(cls, mode: str, tensors: Mapping[str, Tensor]) -> Fusion:
        """Raises `MaskFileError` where the tensors do not make a fusion."""
        try:
            return cls(mode, tensors["mean"], tensors["projection"])  # type: ignore[arg-type]
        except (KeyError, SettingsError) as error:
            raise MaskFileError(f"the cascade's {mode} fusion is damaged: {error}") from None


def fusion_images(images: ImageSet, seed: int) -> ImageSet:
    """Those of the training images that the fusions are fitted on, the same for each of them."""
    return at_most(images, _FUSION_IMAGES, seed)


def fit_fusion(x: Tensor, width: int, mode: Mode) -> Fusion:
    """Centring and the `width` leading principal components of x (N, inputs), each scaled to unit variance.

    Fewer components where the features have fewer: at most N - 1, and none with less than a millionth of the leading
    variance. Raises `DataError` for features that are not finite or all alike.
    """
    if width < 1:
        raise SettingsError(f"the embedding's width must be at least 1, got {width}")
    if x.ndim != 2 or len(x) < 2 or not bool(torch.isfinite(x).all()):
        raise DataError(f"a fusion needs finite features of two images at least, got shape {tuple(x.shape)}")
    wide = x.double()
    if float((wide - wide.mean(dim=0)).square().sum()) <= 1e-12 * float(wide.square().sum()):
        raise DataError("the images all have the same features, so there is nothing to project on")
    found = principal_axes(wide)
    kept = min(width, int((found.variances > _LEAST_VARIANCE * found.variances[0]).sum()))
    projection = found.axes[:kept] / found.variances[:kept, None].sqrt()
    return Fusion(mode, found.mean.cpu(), projection.float().contiguous().cpu())
