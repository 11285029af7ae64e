"""What an objective is: which views it wants, the loss on a batch of them, and how its scores are best moved.

An objective is a module: what it trains beside the masks (a head, prototypes) are its parameters, what it
must remember (a queue) its buffers, so that its `state_dict` is all that an exact resume needs of it. Everything
that is chosen for it stands in its own file: a frozen `Settings`, the `recipe` of its scores, the `paper`'s constants,
and `make`. `registry.OBJECTIVES` lists them by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

from torch import Tensor, nn

from selfmask.backbones.backbone import Backbone
from selfmask.images.image_set import ImageSet
from selfmask.images.views import Augment

Figures = dict[str, float]
Method = Literal["adam", "tensor-adam", "sgd"]
T = TypeVar("T")


@dataclass
class Batch:
    """One training batch, on the device.

    views: for each kind of view, float32 (B, 3, size, size), normalised as the backbone expects.
    labels: int64 (B,), -1 where unknown. indices: int64 (B,), places in the training set.

    >>> import torch
    >>> batch = Batch([torch.zeros(2, 3, 32, 32)], labels=torch.tensor([4, -1]), indices=torch.tensor([0, 7]))
    >>> batch.views[0].shape
    torch.Size([2, 3, 32, 32])
    """

    views: list[Tensor]
    labels: Tensor
    indices: Tensor


@dataclass(frozen=True)
class Job:
    """What an objective is made for.

    backbone: the untouched network. images: those to train on. size: pixels of the views, at which the network will be
    used. native: pixels that it was pretrained at. batch: images a step, over all processes. seed: of what is drawn.

    >>> job = selfmask.Job(selfmask.build("package:efficientnet_lite0"), selfmask.open_data("photos/").train, 32, 224)
    >>> job.images.classes, job.backbone.width
    (('0', '1'), 1280)
    """

    backbone: Backbone
    images: ImageSet
    size: int
    native: int
    batch: int = 64
    seed: int = 0


@dataclass(frozen=True)
class ScoreRecipe:
    """How scores are moved where the user does not say. Reasons and measurements: docs/defaults.md.

    method: the optimizer.
    path: how far, in scores, a score may be carried over the whole run: with adam one whose gradient never changes
        sign, with tensor-adam one whose gradient is its tensor's root mean square. A score has to travel 1 to cross
        the threshold, and the gradients of batches agree only in part.
    most: the highest peak rate. Above it a score crosses on the word of a few batches.
    warmup: share of the steps over which the rate rises.
    spread: scores start between 1 - spread and 1 + spread, so that they do not all cross in the same few steps.
    """

    method: Method
    path: float
    most: float
    warmup: float
    spread: float = 0.0


FROM_LABELS = ScoreRecipe("adam", path=2.6, most=0.06, warmup=0.3, spread=0.95)
"""At a rate of 0.1 a set of 800 photographs lost five points, at 0.05 one. Adam carries all scores at one speed: from
near 1 they all cross in the same few steps, on the gradient of a network that the others have just changed. Spread from
nearly 0 to nearly 2 they cross over the whole run."""

FROM_TARGETS = ScoreRecipe("adam", path=2.4, most=0.015, warmup=0.1, spread=0.95)
"""For targets whose gradients agree from one image to the next: slower."""

PROPORTIONAL = ScoreRecipe("tensor-adam", path=1.0, most=0.06, warmup=0.1)
"""Each score in proportion to its gradient: few cross, those that matter most first."""

_OF_METHOD = {
    "adam": FROM_LABELS,
    "tensor-adam": PROPORTIONAL,
    "sgd": ScoreRecipe("sgd", path=math.inf, most=math.inf, warmup=0.0),
}


@dataclass(frozen=True)
class PaperConstants:
    """What `--preset paper` takes (PAPER §6): always SGD with momentum 0.9 and then a cosine, batch norms that adapt,
    224 px.

    settings: those of the objective that differ from its defaults. sizes: which of them are pixels, for that size only.
    """

    lr: float = 50.0
    epochs: float = 150.0
    warmup: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    sizes: tuple[str, ...] = ()

    def at(self, size: int | None) -> dict[str, Any]:
        """The settings at a `size` of the user's; None: at the paper's."""
        return {
            name: value for name, value in self.settings.items() if size is None or name not in self.sizes
        }


@dataclass(frozen=True)
class Choice(Generic[T]):
    """A value, and the reason for it in a few words."""

    value: T
    why: str


class Objective(nn.Module):
    """Base of all objectives.

    Of the class:
        Settings: its frozen dataclass, every field with a default. They are its flags: `--NAME.FIELD`.
        recipe: how its scores are moved by default. passes: over the images by default, if they are 150 steps or more.
        labels: "needed", it trains on labelled images only; "names", it needs the names of the classes; "none".

    Of an instance:
        views: what each training image is turned into; `Batch.views[k]` is made by `views[k]`.
        head_rate: learning rate of the objective's own parameters, which SGD with momentum 0.9 trains.
        head_decay: their weight decay.

    Example, of one that makes all features of a batch alike:
        >>> from dataclasses import dataclass
        >>> from selfmask.images.views import light
        >>> @dataclass(frozen=True)
        ... class Settings:
        ...     weight: float = 1.0
        ...     "How much it counts."
        >>> class Alike(selfmask.Objective):
        ...     Settings = Settings
        ...     def __init__(self, job, settings):
        ...         super().__init__()
        ...         self.views, self.weight = (light(job.size),), settings.weight
        ...     @classmethod
        ...     def make(cls, job, settings):
        ...         return cls(job, settings)
        ...     def loss(self, module, batch, step, steps):
        ...         return self.weight * module(batch.views[0]).var(0).sum(), {}
        >>> selfmask.register("alike", Alike)
        >>> run = selfmask.adapt("photos/", out="runs/alike", objective="alike", size=32, steps=2, evaluate=False)
        >>> run.result.objective
        'alike'
    """

    Settings: ClassVar[type]
    recipe: ClassVar[ScoreRecipe] = FROM_LABELS
    passes: ClassVar[float] = 4.0
    labels: ClassVar[Literal["needed", "names", "none"]] = "none"

    views: tuple[Augment, ...]
    head_rate: float = 0.0
    head_decay: float = 0.0

    @classmethod
    def make(cls, job: Job, settings: Any) -> Self:
        """The objective for `job`, before `prepare`; `settings` is a `Settings` of its own.

        Raises `DataError` or `SettingsError` where the job's images or network cannot serve it: before anything is
        trained or written.
        """
        raise NotImplementedError

    @classmethod
    def paper(cls, family: str) -> PaperConstants:
        """The paper's constants for a family of networks; where it has none, those of its SwAV."""
        return PaperConstants()

    @classmethod
    def recipe_for(cls, method: Method | None) -> ScoreRecipe:
        """Its own recipe, or what suits the `method` that was asked for instead."""
        return cls.recipe if method in (None, cls.recipe.method) else _OF_METHOD[method]

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


def least_crop(flips: bool) -> float:
    """Least share of an image's area in a training view that shows a class. What must not be mirrored (digits, text)
    fills its picture, and half of it may be another thing."""
    return 0.35 if flips else 0.7
