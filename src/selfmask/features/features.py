"""Features of un-augmented images: evaluation mode, bounded memory, the module left as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from selfmask._common.modes import eval_mode
from selfmask.errors import DataError, SettingsError
from selfmask.features.passes import passing

if TYPE_CHECKING:
    from selfmask.backbones.backbone import Backbone
    from selfmask.images.image_set import ImageSet

# An evaluation view up to this size is asked for whole, so that the image set may cache it for the next call
# (the four rows look at the same pictures four times). Larger ones are made piece by piece.
WHOLE_VIEW_BYTES = 512 * 2**20


def features(
    backbone: Backbone,
    images: ImageSet,
    *,
    size: int | None = None,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    module: nn.Module | None = None,
    channels_last: bool = False,
    what: str = "features",
) -> Tensor:
    """Features float32 (N, width) on the CPU of `images`, un-augmented, in the set's own order.

    `size` is the side of the square view in pixels (default: the backbone's own); `module` stands in for
    `backbone.module` where another network of the same interface is meant (a masked copy, say). `device`
    defaults to where the module is; the module is not moved. `what` the pass is for is shown with its progress
    (`passes`). Raises `DataError` for an empty set.
    """
    module = backbone.module if module is None else module
    device = module_device(module) if device is None else torch.device(device)
    if batch_size < 1:
        raise SettingsError(f"batch_size must be at least 1, got {batch_size}")
    if len(images) == 0:
        raise DataError("there are no images to take features of: the set is empty")

    batches = view_batches(backbone, images, size, batch_size, what=what)
    return of_batches(backbone, module, batches, device=device, channels_last=channels_last)


def of_batches(
    backbone: Backbone,
    module: nn.Module,
    batches: Iterable[Tensor],
    *,
    device: torch.device,
    channels_last: bool,
) -> Tensor:
    """Features float32 (N, width) on the CPU of batches of views, not normalised: see `features`."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    parts: list[Tensor] = []
    with eval_mode(module), torch.no_grad():
        for batch in batches:
            x = backbone.preprocessing.normalise(batch.to(device))
            parts.append(module(x.contiguous(memory_format=layout)).float().cpu())
    return torch.cat(parts)


def view_batches(
    backbone: Backbone,
    images: ImageSet,
    size: int | None,
    batch_size: int,
    order: Tensor | None = None,
    *,
    what: str,
) -> Iterator[Tensor]:
    """uint8 batches (B, 3, size, size) of the evaluation view, in `order` (indices int64; default 0 … N-1).

    `what` the pass is for is shown with its progress.
    """
    settings = backbone.preprocessing
    side = settings.size if size is None else size
    indices = list(range(len(images))) if order is None else order.tolist()

    def batches() -> Iterator[Tensor]:
        whole = None
        if len(images) * 3 * side * side <= WHOLE_VIEW_BYTES:
            whole = images.resized(side, settings.crop, settings.interpolation)
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            if whole is None:
                yield images.subset(chosen).resized(side, settings.crop, settings.interpolation)
            else:
                yield whole[chosen]

    return passing(batches(), len(indices), what)


def module_device(module: nn.Module) -> torch.device:
    """Where the module's first parameter lies; the CPU for a module without any."""
    first = next(module.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def check_features(x: Tensor, what: str) -> None:
    """Raises `DataError` unless `x` is a finite floating-point matrix (N, width) with N, width ≥ 1."""
    if x.ndim != 2 or not x.is_floating_point() or 0 in x.shape:
        raise DataError(
            f"{what}: expected floating-point features (N, width) of at least one image, "
            f"got {x.dtype} {tuple(x.shape)}"
        )
    finite = torch.isfinite(x).all(dim=1)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        raise DataError(
            f"{what}: the features of {bad} of {len(x)} images are not finite, so the network has gone wrong "
            "(often a score rate that is too high): nothing can be measured on it"
        )


def check_labels(x: Tensor, y: Tensor, what: str) -> None:
    """Raises `DataError` unless `y` holds one class index ≥ 0 for each row of `x`."""
    if y.shape != (len(x),) or y.is_floating_point() or y.dtype == torch.bool:
        raise DataError(
            f"{what}: expected one integer label for each of {len(x)} images, got {y.dtype} {tuple(y.shape)}"
        )
    if bool((y < 0).any()):
        raise DataError(
            f"{what}: {int((y < 0).sum())} of {len(y)} images have no label (-1): "
            "leave them out, for example with `images.labelled()`"
        )
