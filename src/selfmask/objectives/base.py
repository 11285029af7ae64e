"""What the training loop asks of an objective: which views, and the loss on a batch of them.

An objective is a module: what it trains beside the masks (a head, prototypes) are its parameters, what it
must remember (a queue) its buffers, so that its `state_dict` is all that an exact resume needs of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from selfmask.backbones.backbone import Backbone
    from selfmask.images.image_set import ImageSet
    from selfmask.images.views import Augment

Figures = dict[str, float]


@dataclass
class Batch:
    """One training batch, on the device.

    views: for each kind of view, float32 (B, 3, size, size), normalised as the backbone expects.
    labels: int64 (B,), -1 where unknown. indices: int64 (B,), places in the training set.
    """

    views: list[Tensor]
    labels: Tensor
    indices: Tensor


class Objective(nn.Module):
    """Base of all objectives.

    views: what each training image is turned into; `Batch.views[k]` is made by `views[k]`.
    head_rate: learning rate of the objective's own parameters, which SGD with momentum 0.9 trains.
    head_decay: their weight decay.
    """

    views: tuple[Augment, ...]
    head_rate: float = 0.0
    head_decay: float = 0.0
    needs_labels: bool = False

    def prepare(self, backbone: Backbone, images: ImageSet) -> list[str]:
        """Once, before the first step and before any weight is masked: a first head, clusters, …

        Returns lines that say what was chosen. Not called on resume: `load_state_dict` brings it all back.
        """
        return []

    def loss(self, module: nn.Module, batch: Batch, step: int, steps: int) -> tuple[Tensor, Figures]:
        """The scalar loss of step `step` (from 0) of `steps`, and figures for the log."""
        raise NotImplementedError

    def before_step(self, step: int, steps: int) -> None:
        """After the backward pass, before the optimizers move: the place to drop a gradient."""

    def after_step(self, step: int, steps: int, module: nn.Module) -> None:
        """After the optimizers moved."""

    def head(self) -> dict[str, Tensor]:
        """What of the objective belongs into the mask file ("weight", "bias" of a classifier); often nothing."""
        return {}
