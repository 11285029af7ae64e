"""No labels, no head: a view at the working resolution should give the features of the whole image at a larger one.

The targets are the untouched network's own (`targets`), taken once before training. Because they lie in the space
in which features are compared, nothing has to be learnt beside the masks, which see a useful gradient from the first
step. Known as resolution or self-distillation; docs/label-free.md has what it gains beside the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from selfmask.errors import SettingsError
from selfmask.images.views import Augment, light
from selfmask.objectives.base import Batch, Figures, Objective
from selfmask.objectives.targets import clean_features, target_size
from selfmask.objectives.watch import RunWatch, spread_of

if TYPE_CHECKING:
    from selfmask.backbones.backbone import Backbone
    from selfmask.images.image_set import ImageSet


@dataclass(frozen=True)
class DistilSettings:
    """
    target_size: pixels at which the targets are taken; None lets size and backbone decide.
    crop: least share of an image's area in a training view, in (0, 1].
    watch: end a run that does harm.
    """

    target_size: int | None = None
    crop: float = 0.6
    watch: bool = True

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

    def prepare(self, backbone: Backbone, images: ImageSet) -> list[str]:
        if len(images) != len(self.targets):
            raise SettingsError(f"the objective was made for {len(self.targets)} images, not {len(images)}")
        size = self.views[0].size
        at = target_size(self.settings.target_size, size, self.native, backbone)
        found = clean_features(backbone, images, at.value, mirrored=self.views[0].flip > 0)
        self.targets.copy_(F.normalize(found, dim=1))
        return [f"targets: the pretrained features of {len(images)} images at {at.value} px ({at.why})"]

    def loss(self, module: torch.nn.Module, batch: Batch, step: int, steps: int) -> tuple[Tensor, Figures]:
        found = F.normalize(module(batch.views[0]).float(), dim=1)
        targets = self.targets[batch.indices.to(self.targets.device)].float()
        loss = 1 - (found * targets).sum(dim=1).mean()
        spread = spread_of(found)
        if self.settings.watch:
            self.watch.observe(step, steps, float(loss.detach()), spread)
        return loss, {"cosine": 1 - float(loss.detach()), "spread": spread}
