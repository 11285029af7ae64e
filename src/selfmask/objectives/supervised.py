"""Labelled images: cross-entropy on a linear head that starts from a probe of the pretrained features.

A head that starts at random sends the masks gradients that mean nothing for its first hundreds of steps. The
probe is where such a head would end up on the untouched backbone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfmask.backbones.backbone import Backbone
from selfmask.errors import DataError, SettingsError
from selfmask.features.features import features
from selfmask.features.probe import fit_probe
from selfmask.images.image_set import UNLABELLED, ImageSet
from selfmask.images.views import Augment, light
from selfmask.objectives.base import FROM_LABELS, Batch, Figures, Job, Objective, PaperConstants, least_crop


@dataclass(frozen=True)
class SupervisedSettings:
    """Settings of `Supervised`."""

    label_smoothing: float = 0.0
    """Share of the target spread over all classes, in [0, 1)."""
    class_weights: Literal["balanced"] | None = None
    """balanced: an image weighs 1 / its class's share of the labels, so that rare ones count as much as common ones."""
    head_start: Literal["probe", "random"] = "probe"
    """Where the head starts: a logistic probe of the pretrained features, or at random (the paper's)."""
    head_rate: float | None = None
    """SGD rate of the head. Default: from the size of the features."""
    crop: float | None = None
    """Least share of an image's area in a training view, in (0, 1]. Default: 0.35, or 0.7 for what must not be
    mirrored."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise SettingsError(f"label_smoothing is a share in [0, 1), got {self.label_smoothing}")
        if self.head_start not in ("probe", "random"):
            raise SettingsError(f"head_start is 'probe' or 'random', got {self.head_start!r}")
        if self.class_weights not in (None, "balanced"):
            raise SettingsError(f"class_weights is 'balanced' or None, got {self.class_weights!r}")
        if self.head_rate is not None and not 0 <= self.head_rate < math.inf:
            raise SettingsError(f"head_rate is a finite rate, 0 or more, got {self.head_rate}")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise SettingsError(f"crop is a share of the area in (0, 1], got {self.crop}")


class Supervised(Objective):
    """Cross-entropy of a linear head on one lightly augmented view (PAPER §6, supervised)."""

    Settings: ClassVar[type] = SupervisedSettings
    recipe = FROM_LABELS
    labels = "needed"

    def __init__(
        self,
        width: int,
        classes: int,
        size: int,
        settings: SupervisedSettings | None = None,
        *,
        flips: bool = True,
        interpolation: str = "bicubic",
    ) -> None:
        super().__init__()
        self.settings = SupervisedSettings() if settings is None else settings
        view = light(size, flips=flips, least=self.settings.crop or least_crop(flips))
        self.views = (Augment(**{**vars(view), "interpolation": interpolation}),)
        self.linear = nn.Linear(width, classes)
        self.register_buffer("class_weights", torch.ones(classes))
        self.register_buffer("rate", torch.tensor(self.settings.head_rate or 0.0, dtype=torch.float64))
        self.class_weights: Tensor
        self.rate: Tensor

    @classmethod
    def make(cls, job: Job, settings: SupervisedSettings) -> Self:
        _check_classes(job.images)
        return cls(
            job.backbone.width, len(job.images.classes), job.size, settings,
            flips=job.images.flips, interpolation=job.backbone.preprocessing.interpolation,
        )  # fmt: skip

    @classmethod
    def paper(cls, family: str) -> PaperConstants:
        own: dict[str, Any] = {"head_start": "random", "crop": 0.08}
        if family in ("vit", "dinov2", "clip"):
            return PaperConstants(lr=10.0, epochs=32.0, settings=own)
        return PaperConstants(warmup=40 / 150, settings=own)

    @property
    def head_rate(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return float(self.rate)

    def prepare(self, backbone: Backbone, images: ImageSet) -> list[str]:
        labels = images.labels
        if bool((labels == UNLABELLED).any()):
            raise DataError("supervised training needs labelled images only; leave the unlabelled ones out")
        classes = self.linear.out_features
        counts = torch.bincount(labels, minlength=classes)
        _check_classes(images)
        x = features(backbone, images, size=self.views[0].size, what="for the head")
        if self.settings.class_weights == "balanced":
            # A class without images, of which nothing is to be learnt, weighs nothing.
            shares = counts / labels.numel()
            self.class_weights.copy_(torch.where(counts > 0, 1 / ((counts > 0).sum() * shares), 0.0))
        if self.settings.head_rate is None:
            # Cross-entropy's curvature in the head is at most |x|²/2 and momentum 0.9 multiplies a step by ten:
            # this rate is an eighth of where plain descent would begin to swing on the average image.
            self.rate.fill_(0.5 / float(x.double().square().sum(dim=1).mean()))
        lines = [f"head: {classes} classes, rate {self.head_rate:.2g} from the mean size of the features"]
        if self.settings.head_start != "random":
            weight, bias = fit_probe(x, labels).head(classes)
            with torch.no_grad():
                self.linear.weight.copy_(weight)
                self.linear.bias.copy_(bias)
            lines[0] += ", starts from a probe of the pretrained features"
        return lines

    def loss(self, module: nn.Module, batch: Batch, step: int, steps: int) -> tuple[Tensor, Figures]:
        x = module(batch.views[0]).float()
        with torch.autocast(x.device.type, enabled=False):  # the losses stay float32
            logits = self.linear(x)
        # Each image by its class's weight, smoothed or not: torch's own weights would smooth towards rare classes. They
        # are 1 in the mean over all images.
        each = F.cross_entropy(
            logits, batch.labels, reduction="none", label_smoothing=self.settings.label_smoothing
        )
        loss = (self.class_weights[batch.labels] * each).mean()
        right = (logits.detach().argmax(dim=1) == batch.labels).float().mean()
        return loss, {"accuracy": float(right)}

    def head(self) -> dict[str, Tensor]:
        return {"weight": self.linear.weight.detach().clone(), "bias": self.linear.bias.detach().clone()}


def _check_classes(images: ImageSet) -> None:
    present = len(images.labels[images.labels != UNLABELLED].unique())
    if present < 2:
        raise DataError(
            f"supervised training needs images of at least two classes, {images.name} has {present}; "
            "to adapt without labels use --objective contrast"
        )
