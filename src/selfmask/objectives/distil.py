"""No labels, no head: a view at the working resolution should give the features of the whole image at a larger one.

A network that was pretrained at 224 px knows much more of a small picture that is shown to it enlarged than of the same
picture at 64 px. So the targets are the untouched network's own, taken once before training. Because they lie in the
space in which features are compared, nothing has to be learnt beside the masks, which see a useful gradient from the
first step. Known as resolution or self-distillation; docs/label-free.md has what it gains beside the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfmask.backbones.backbone import Backbone
from selfmask.errors import SettingsError
from selfmask.features.features import features
from selfmask.images.image_set import ImageSet
from selfmask.images.views import Augment, light
from selfmask.objectives.base import FROM_TARGETS, Batch, Choice, Figures, Job, Objective
from selfmask.objectives.watch import RunWatch, spread_of


@dataclass(frozen=True)
class DistilSettings:
    """Settings of `Distil`."""

    target_size: int | None = None
    """Side of the whole images that the targets are taken from, in pixels. Default: 2.5 times the views', within what
    the network was trained at."""
    crop: float = 0.6
    """Least share of an image's area in a training view, in (0, 1]."""
    watch: bool = True
    """End a run that does harm."""

    def __post_init__(self) -> None:
        if self.target_size is not None and self.target_size < 1:
            raise SettingsError(f"target_size is a number of pixels, got {self.target_size}")
        if not 0 < self.crop <= 1:
            raise SettingsError(f"crop is a share of the area in (0, 1], got {self.crop}")


class Distil(Objective):
    """Cosine distance between the features of a view and the untouched network's features of the whole image.

    Args:
        width: of the backbone's features.
        images: how many there are to train on.
        size: pixels of the views, at which the network will be used.
        native: pixels that the backbone was pretrained at.
    """

    Settings: ClassVar[type] = DistilSettings
    recipe = FROM_TARGETS

    def __init__(
        self,
        width: int,
        images: int,
        size: int,
        settings: DistilSettings | None = None,
        *,
        native: int = 224,
        flips: bool = True,
        interpolation: str = "bicubic",
    ) -> None:
        super().__init__()
        self.native = native
        self.settings = DistilSettings() if settings is None else settings
        view = light(size, flips=flips, least=self.settings.crop)
        self.views = (Augment(**{**vars(view), "interpolation": interpolation}),)
        # Half precision: a checkpoint holds them, and a direction needs no more.
        self.register_buffer("targets", torch.zeros(images, width, dtype=torch.float16))
        self.targets: Tensor
        self.watch = RunWatch()

    @classmethod
    def make(cls, job: Job, settings: DistilSettings) -> Self:
        # Here, and not only when the targets are made: by then a folder is open and the base is measured.
        target_size(settings.target_size, job.size, job.native, job.backbone)
        return cls(
            job.backbone.width, len(job.images), job.size, settings, native=job.native, flips=job.images.flips,
            interpolation=job.backbone.preprocessing.interpolation,
        )  # fmt: skip

    def prepare(self, backbone: Backbone, images: ImageSet) -> list[str]:
        at = take_targets(
            self.targets, backbone, images, self.views[0], self.settings.target_size, self.native
        )
        return [f"targets: the pretrained features of {len(images)} images at {at.value} px ({at.why})"]

    def loss(self, module: nn.Module, batch: Batch, step: int, steps: int) -> tuple[Tensor, Figures]:
        found = F.normalize(module(batch.views[0]).float(), dim=1)
        targets = self.targets[batch.indices.to(self.targets.device)].float()
        loss = 1 - (found * targets).sum(dim=1).mean()
        spread = spread_of(found)
        if self.settings.watch:
            self.watch.observe(step, steps, float(loss.detach()), spread)
        return loss, {"cosine": 1 - float(loss.detach()), "spread": spread}


_BATCH = 64


def take_targets(
    targets: Tensor, backbone: Backbone, images: ImageSet, view: Augment, asked: int | None, native: int
) -> Choice[int]:
    """Make `targets` (images, width) the L2-normalised features of the whole images, at the size that is returned.

    view: the training view; asked, native: see `target_size`. Raises `SettingsError` where the images are not as many
    as the targets, and as `target_size` does.
    """
    if len(images) != len(targets):
        raise SettingsError(f"the objective was made for {len(targets)} images, not {len(images)}")
    at = target_size(asked, view.size, native, backbone)
    targets.copy_(F.normalize(clean_features(backbone, images, at.value, mirrored=view.flip > 0), dim=1))
    return at


def target_size(asked: int | None, size: int, native: int, backbone: Backbone) -> Choice[int]:
    """What was asked for, else `target_size_for`. Raises `SettingsError` where the network does not take it."""
    if asked is None:
        return target_size_for(size, native, backbone)
    if not backbone.takes(asked):
        raise SettingsError(
            f"target_size {asked}: {backbone.spec or 'the network'} does not take images of {asked} × {asked} pixels; "
            f"leave it out, or give one that it takes ({size}, the views' size, is one)"
        )
    return Choice(asked, "asked for")


def target_size_for(size: int, native: int, backbone: Backbone) -> Choice[int]:
    """Pixels at which the targets are taken, for views of `size` pixels and a network pretrained at `native`.

    Two and a half times the views' size, up to the native size; a quarter more than the views' where these have the
    native size already (convolutional networks are at their best a little above it). With a transformer, whose
    patches are to be whole in both, twice the views' size within the native size. Never a size that the network
    does not take.
    """
    if backbone.is_transformer:
        if 2 * size > native:
            return Choice(
                size, f"the views' size: a transformer trained at {native} px is not at home at twice that"
            )
        wanted = Choice(2 * size, f"twice the views' {size} px, for a transformer")
    elif size >= native:
        wanted = Choice(round(size * 1.25 / 32) * 32, f"about a quarter above the views' {size} px")
    else:
        wanted = Choice(
            min(native, round(size * 2.5 / 32) * 32), f"above the views' {size} px, within {native}"
        )
    if wanted.value <= size:
        return Choice(size, "the views' size")
    if backbone.takes(wanted.value):
        return wanted
    return Choice(size, f"the views' size: the network does not take {wanted.value} px")


class _Mirrored(nn.Module):
    """The mean of a network's features of a batch and of its mirror images."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return (self.module(x).float() + self.module(x.flip(3)).float()) / 2


def clean_features(backbone: Backbone, images: ImageSet, size: int, *, mirrored: bool) -> Tensor:
    """Features float32 (N, width) on the CPU of the whole images at `size` pixels, in evaluation mode.

    mirrored: the mean with those of the mirror images, which is a better estimate of what is in the picture.
    """
    module = backbone.module
    return features(
        backbone, images, size=size, batch_size=_BATCH, module=_Mirrored(module) if mirrored else module,
        channels_last=_is_channels_last(next(module.parameters())), what="targets",
    )  # fmt: skip


def _is_channels_last(weight: Tensor) -> bool:
    return weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
