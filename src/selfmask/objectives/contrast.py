"""No labels: two views of one image should lie closer to each other than to other images, and all stay near the base.

InfoNCE (NT-Xent, Chen et al. 2020) on the backbone's own features: no projection head that learns, so that the masks
are learnt in the space in which features are compared. A **pull**, pull × (1 − cosine) between a view's features and
the untouched network's features of the whole image on a larger view (distil's targets), keeps what the network knows
already: where the images are like those that it was trained on, contrast alone harms. Of images of another kind the
network's features lie in few directions, and what tells them apart is in the others: both then compare features
**whitened** by those targets. The default without labels; docs/label-free.md has what each brought.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfmask._common.processes import gathered, gathered_with_gradient, place
from selfmask.backbones.backbone import Backbone
from selfmask.errors import SettingsError
from selfmask.features.whitening import ENOUGH, Whitening
from selfmask.images.image_set import ImageSet
from selfmask.images.views import coloured
from selfmask.objectives.base import FROM_TARGETS, Batch, Figures, Job, Objective
from selfmask.objectives.distil import take_targets, target_size
from selfmask.objectives.watch import RunWatch, spread_of


@dataclass(frozen=True)
class ContrastSettings:
    """Settings of `Contrast`."""

    temperature: float = 0.1
    """Of the similarities: the smaller, the more the nearest other images count."""
    pull: float = 3.0
    """Weight of staying near the untouched network's features; 0 for none, as suits images unlike its own."""
    target_size: int | None = None
    """Side of the whole images that those features are taken from, in pixels. Default: as distil's."""
    whiten: bool | None = None
    """Compare features whitened by the untouched ones, so that no direction counts more than another: for images unlike
    those that the network was trained on. Default: where over a tenth of the untouched features' variance lies in one
    direction."""
    crop: float = 0.3
    """Least share of an image's area in a view, in (0, 1]."""
    colours: float = 1.0
    """Strength of the colour changes; without any (0) the crops alone are too easy, and it harms."""
    light: float = 0.4
    """How much brightness and contrast change at a strength of 1."""
    watch: bool = True
    """End a run that is not learning or has collapsed."""

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise SettingsError(f"temperature must be positive and finite, got {self.temperature}")
        if not 0 <= self.pull < math.inf:
            raise SettingsError(f"pull is a finite weight, 0 or more, got {self.pull}")
        if self.target_size is not None and self.target_size < 1:
            raise SettingsError(f"target_size is a number of pixels, got {self.target_size}")
        if not 0 < self.crop <= 1:
            raise SettingsError(f"crop is a share of the area in (0, 1], got {self.crop}")
        if not 0 <= self.colours <= 2:
            raise SettingsError(f"colours is a strength in [0, 2], got {self.colours}")
        if not 0 <= self.light <= 1:
            raise SettingsError(f"light is a share in [0, 1], got {self.light}")

    @property
    def needs_targets(self) -> bool:
        """Whether the untouched features are asked for: to pull, to whiten by, or to see whether whitening helps."""
        return bool(self.pull) or self.whiten is not False


class Contrast(Objective):
    """InfoNCE between two augmented views over the batch of all processes, and the pull.

    Args:
        width: of the backbone's features.
        images: how many there are to train on.
        size: pixels of the views, at which the network will be used.
    """

    Settings: ClassVar[type] = ContrastSettings
    recipe = FROM_TARGETS

    def __init__(
        self,
        width: int,
        images: int,
        size: int,
        settings: ContrastSettings | None = None,
        *,
        native: int = 224,
        flips: bool = True,
        interpolation: str = "bicubic",
    ) -> None:
        super().__init__()
        self.native = native
        self.settings = s = ContrastSettings() if settings is None else settings
        view = coloured(
            size, flips=flips, least=s.crop, strength=s.colours, light=s.light, interpolation=interpolation
        )
        self.views = (view, view)
        # Half precision: a checkpoint holds them, and a direction needs no more.
        self.register_buffer(
            "targets", torch.zeros(images if s.needs_targets else 0, width, dtype=torch.float16)
        )
        self.targets: Tensor
        side = 0 if s.whiten is False else width
        self.register_buffer("mean", torch.zeros(side))
        # Unused rows are 0, where there are few images; all are where nothing is whitened.
        self.register_buffer("axes", torch.zeros(side, side))
        self.mean: Tensor
        self.axes: Tensor
        self.watch = RunWatch()

    @classmethod
    def make(cls, job: Job, settings: ContrastSettings) -> Self:
        if settings.needs_targets:
            # Here, and not only when they are taken: by then a folder is open and the base is measured.
            target_size(settings.target_size, job.size, job.native, job.backbone)
        return cls(
            job.backbone.width, len(job.images), job.size, settings, native=job.native, flips=job.images.flips,
            interpolation=job.backbone.preprocessing.interpolation,
        )  # fmt: skip

    def prepare(self, backbone: Backbone, images: ImageSet) -> list[str]:
        s, free = self.settings, "pull: none, the features may go where the views lead them"
        if not len(self.targets):
            return [free]
        at = take_targets(self.targets, backbone, images, self.views[0], s.target_size, self.native)
        there = f"the untouched features at {at.value} px ({at.why})"
        said = [f"pull: {s.pull:g} × (1 − cosine) to {there}" if s.pull else free]
        some = self.targets[:: -(-len(self.targets) // ENOUGH)]
        if (found := Whitening.where_it_helps(some, s.whiten)) is not None:
            self.mean.copy_(found.mean)
            self.axes[: len(found.axes)].copy_(found.axes)
            said.append(
                f"compared: features whitened by {'those' if s.pull else there}, whose first direction holds "
                f"{100 * found.first:.0f} % of their variance" + (f" ({_LONGER})" if found.helps else "")
            )
        return said

    def compared(self, x: Tensor) -> Tensor:
        """Features (N, width) as they are compared: L2-normalised, and whitened before where that is wanted."""
        if not bool(self.axes[:1].any()):  # the first axis is there wherever any is
            return F.normalize(x.float(), dim=1)
        # Not in half precision: directions of little variance are stretched a good deal.
        with torch.autocast(x.device.type, enabled=False):
            return F.normalize(Whitening(self.mean, self.axes).apply(x.float()), dim=1)

    def loss(self, module: nn.Module, batch: Batch, step: int, steps: int) -> tuple[Tensor, Figures]:
        s = self.settings
        x = module(torch.cat(batch.views)).float()
        one, other = self.compared(x).chunk(2)
        with torch.autocast(x.device.type, enabled=False):
            loss = info_nce(one, other, s.temperature, batch.indices)
        figures = {"contrast": float(loss.detach()), "spread": spread_of(F.normalize(x.detach(), dim=1))}
        if s.pull:
            near = self.compared(self.targets[batch.indices.to(self.targets.device)])
            cosine = ((one * near).sum(dim=1).mean() + (other * near).sum(dim=1).mean()) / 2
            loss = loss + s.pull * (1 - cosine)
            figures["cosine"] = float(cosine.detach())
        if s.watch:
            self.watch.observe(step, steps, float(loss.detach()), figures["spread"])
        return loss, figures


_LONGER = (
    "where it is so much, more passes at a higher rate brought more on traffic signs and digits: "
    "--epochs 18 --lr 0.025; with ResNet-18 --epochs 9 --lr 0.05 --contrast.light 1 --contrast.pull 1"
)


def info_nce(one: Tensor, other: Tensor, temperature: float, images: Tensor) -> Tensor:
    """The mean over both views of −log softmax of each image's own other view among all other views: a scalar.

    one, other: L2-normalised features (B, width) of the two views. images: which these are, int64 (B,); where there are
    fewer than a batch takes, an image is in it more than once, and is not told apart from itself. Where several
    processes train, the views of all of them are compared with, and gradients flow through them, so that the processes'
    mean is that of the whole batch.
    """
    count, (rank, _) = len(one), place()
    ones, others = gathered_with_gradient(one), gathered_with_gradient(other)
    images = images.to(one.device)
    again = (images[:, None] == gathered(images)[None, :]).repeat(1, 2)  # (B, both views of all)
    own = rank * count + torch.arange(count, device=one.device)
    everything = torch.cat([ones, others])
    loss = one.new_zeros(())
    for anchor, itself, positive in ((one, own, own + len(ones)), (other, own + len(ones), own)):
        logits = anchor @ everything.T / temperature
        # A view is not compared with itself, nor with other views of its image, but for the one that it should find.
        left_out = again.scatter(1, itself[:, None], True).scatter(1, positive[:, None], False)
        logits = logits.masked_fill(left_out, float("-inf"))
        loss = loss + F.cross_entropy(logits, positive) / 2
    return loss
