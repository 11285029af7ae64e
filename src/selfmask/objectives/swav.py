"""SwAV: predict the code of one view of an image from another (PAPER §6, Main Eq. 9; Caron et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfmask._common.clustering import kmeans, principal_axes
from selfmask._common.units import counted
from selfmask.backbones.backbone import Backbone
from selfmask.errors import SettingsError
from selfmask.features.features import features
from selfmask.images.image_set import ImageSet
from selfmask.images.views import Augment, multi_crop
from selfmask.objectives.base import FROM_TARGETS, Batch, Figures, Job, Objective, PaperConstants
from selfmask.objectives.prototypes import Projection, PrototypeHead
from selfmask.objectives.queue import EmbeddingQueue
from selfmask.objectives.sinkhorn import sinkhorn
from selfmask.objectives.swav_defaults import crops_for, prototypes_for, queue_for
from selfmask.objectives.watch import RunWatch, spread_of


@dataclass(frozen=True)
class SwavSettings:
    """Settings of `Swav`. None lets the number of images, the batch and the images' size decide (`swav_defaults`)."""

    prototypes: int | None = None
    """How many. Default: from the number of images."""
    dim: int = 128
    """Width of the embedding."""
    projection: Projection = "linear"
    """From features to embeddings: linear, mlp (SwAV's) or none."""
    temperature: float = 0.1
    """Of the predictions."""
    epsilon: float = 0.05
    """Sinkhorn-Knopp's smoothness."""
    iterations: int = 3
    """Of Sinkhorn-Knopp."""
    queue: int | None = None
    """Embeddings of earlier batches that join in the codes' balance, a multiple of the batch; 0 for none. Default: from
    prototypes and batch."""
    queue_from: float = 0.2
    """Share of the run after which the queue fills."""
    frozen: float = 0.01
    """Share of the run during which prototypes stay."""
    start: Literal["kmeans", "random"] = "kmeans"
    """kmeans starts from the pretrained features' main axes and clusters, random as the paper."""
    large: int | None = None
    """Pixels of the large crops. Default: the views' size."""
    small: int | None = None
    """Pixels of the small crops."""
    count: tuple[int, int] | None = None
    """How many large and small crops."""
    split: float | None = None
    """Share of the area that divides large from small crops."""
    least: float | None = None
    """Smallest share of the area of a crop."""
    head_rate: float = 0.15
    """SGD's for projection and prototypes."""
    head_decay: float = 1e-6
    """Weight decay of both."""
    watch: bool = True
    """End a run that is not learning."""
    keep: bool = False
    """Put projection and prototypes into the mask file."""

    def __post_init__(self) -> None:
        if self.prototypes is not None and self.prototypes < 2:
            raise SettingsError(f"SwAV needs at least 2 prototypes, got {self.prototypes}")
        if self.dim < 1:
            raise SettingsError(f"dim must be at least 1, got {self.dim}")
        if self.projection not in ("linear", "mlp", "none"):
            raise SettingsError(f"projection is 'linear', 'mlp' or 'none', got {self.projection!r}")
        if self.start not in ("kmeans", "random"):
            raise SettingsError(f"start is 'kmeans' or 'random', got {self.start!r}")
        if self.start == "kmeans" and self.projection == "mlp":
            raise SettingsError("start='kmeans' needs projection='linear' or 'none': an MLP has no main axes")
        for name in ("temperature", "epsilon"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingsError(f"{name} must be positive and finite, got {getattr(self, name)}")
        for name in ("head_rate", "head_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingsError(f"{name} is finite and not negative, got {getattr(self, name)}")
        if self.iterations < 1:
            raise SettingsError(f"Sinkhorn needs at least 1 iteration, got {self.iterations}")
        if self.queue is not None and self.queue < 0:
            raise SettingsError(f"queue is a number of embeddings, 0 for none, got {self.queue}")
        for name in ("queue_from", "frozen"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name} is a share of the run in [0, 1], got {getattr(self, name)}")
        if self.count is not None and (self.count[0] < 1 or self.count[1] < 0 or sum(self.count) < 2):
            raise SettingsError(
                f"count is (large, small) crops: at least 1 large one and 2 in all, got {self.count}"
            )
        for name in ("large", "small"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise SettingsError(f"{name} is a number of pixels, got {getattr(self, name)}")
        for name in ("split", "least"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) <= 1:
                raise SettingsError(f"{name} is a share of the area in (0, 1], got {getattr(self, name)}")
        if self.split is not None and self.least is not None and self.least > self.split:
            raise SettingsError(
                f"least, the smallest share of a small crop, is at most split, its largest: got {self.least} and "
                f"{self.split}"
            )


PAPER = SwavSettings(
    prototypes=500, dim=128, projection="linear", temperature=0.1, epsilon=0.05, iterations=3, queue=512,
    queue_from=0.2, frozen=0.01, start="random", large=224, small=96, count=(2, 6), split=0.14, least=0.05,
    head_rate=0.15, head_decay=1e-6,
)  # fmt: skip
"""PAPER §6, unchanged in every constant. It leaves open how long prototypes are frozen: 1 % of the run here."""


class Swav(Objective):
    """Swapped prediction over multi-crop views.

    Args:
        width: of the backbone's features.
        images: how many there are to train on.
        size: pixels at which the network will be used; the large crops have it.
        batch: images a step over all processes.
        seed: of the clusters that prototypes start from.
        short_side: of the photographs, in pixels; None if unknown (then as large as `size`).
        multiple: what the sides of small crops are divisible by.
    """

    Settings: ClassVar[type] = SwavSettings
    recipe = FROM_TARGETS
    passes = 8.0  # its head has to be learnt too: docs/label-free.md

    def __init__(
        self,
        width: int,
        images: int,
        size: int,
        settings: SwavSettings | None = None,
        *,
        batch: int = 64,
        seed: int = 0,
        short_side: int | None = None,
        flips: bool = True,
        multiple: int = 16,
    ) -> None:
        super().__init__()
        self.settings = s = SwavSettings() if settings is None else settings
        self.seed = seed
        self.lines: list[str] = []
        self.views, self.large = self._crops(size, short_side or size, flips, multiple)
        wanted = prototypes_for(images)
        count = s.prototypes or wanted.value
        self.lines.append(f"prototypes: {count} ({'asked for' if s.prototypes else wanted.why})")
        queued = queue_for(images, count, batch)
        length = queued.value if s.queue is None else s.queue
        if length % batch:
            raise SettingsError(
                f"the queue's length must be a multiple of the batch of {batch}, got {length}: "
                f"take {max(1, round(length / batch)) * batch} or 0"
            )
        self.lines.append(f"queue: {length or 'none'} ({queued.why if s.queue is None else 'asked for'})")
        self.lines.append(
            f"head: {s.projection} to {width if s.projection == 'none' else s.dim}, start {s.start}"
        )
        self.head_rate, self.head_decay = s.head_rate, s.head_decay
        self.projector = PrototypeHead(width, count, dim=s.dim, projection=s.projection)
        self.queue = EmbeddingQueue(length, self.large, self.projector.dim) if length else None
        self.watch = RunWatch(chance=math.log(count))
        self.register_buffer("usage", torch.full((count,), 1 / count))
        self.usage: Tensor

    @classmethod
    def make(cls, job: Job, settings: SwavSettings) -> Self:
        made = cls(
            job.backbone.width, len(job.images), job.size, settings, batch=job.batch, seed=job.seed,
            short_side=job.images.short_side(), flips=job.images.flips, multiple=job.backbone.multiple,
        )  # fmt: skip
        prototypes = made.projector.prototypes.out_features
        if settings.start == "kmeans" and prototypes > len(job.images):
            raise SettingsError(
                f"swav: {prototypes} prototypes cannot start from clusters of {counted(len(job.images), 'image')}: "
                "take more images, or fewer prototypes (--swav.prototypes), or --swav.start random"
            )
        for side in sorted({view.size for view in made.views} - {job.size}):
            if not job.backbone.takes(side):
                raise SettingsError(
                    f"swav: {job.backbone.spec or 'the network'} does not take crops of {side} × {side} pixels: give "
                    "others that it takes (--swav.small, --swav.large), or none but the large ones (--swav.count 2 0)"
                )
        return made

    @classmethod
    def paper(cls, family: str) -> PaperConstants:
        return PaperConstants(settings=asdict(PAPER), sizes=("large", "small"))

    def _crops(
        self, size: int, short_side: int, flips: bool, multiple: int
    ) -> tuple[tuple[Augment, ...], int]:
        """The views, and how many of them are large."""
        s, fitted = self.settings, crops_for(self.settings.large or size, short_side, multiple)
        crops = fitted.value
        count = crops.count if s.count is None else s.count
        # Asked for where there would be none: in the paper's proportion.
        fitting = max(multiple, round(crops.large * 96 / 224 / multiple) * multiple) if count[1] else 0
        small = s.small or crops.small or fitting
        if s.small is not None and s.count is None and not count[1]:
            raise SettingsError(
                f"small={s.small}: there are no small crops ({fitted.why}); say how many of each, count=(2, 6)"
            )
        least = crops.least if s.least is None else s.least
        split = crops.split if s.split is None else s.split
        # What is asked for decides over what was fitted; without small crops least is that of the large ones.
        if s.split is None and s.least is not None and (least > split or not count[1]):
            split = least
        own = s.large is None and s.count is None and s.split is None and s.least is None and s.small is None
        self.lines.append(
            f"crops: {fitted.why if own else f'{count[0]} of {crops.large} px, {count[1]} of {small} px'}"
        )
        views = multi_crop(
            crops.large, small or crops.large, count=count, split=split, least=min(least, split), flips=flips
        )
        return views, count[0]

    def prepare(self, backbone: Backbone, images: ImageSet) -> list[str]:
        if self.settings.start == "kmeans":
            self._start_from(features(backbone, images, size=self.views[0].size, what="for the prototypes"))
        return self.lines

    @torch.no_grad()
    def _start_from(self, x: Tensor) -> None:
        """Projection: the main axes of the features x (N, width). Prototypes: their clusters' centres."""
        head = self.projector
        if isinstance(head.projection, nn.Linear):
            found = principal_axes(x, complete=True)
            axes, mean = found.axes[: min(head.dim, len(x))].float(), found.mean.float()
            head.projection.weight.zero_()[: len(axes)].copy_(axes)
            head.projection.bias.zero_()[: len(axes)].copy_(-axes @ mean)
        device = head.prototypes.weight.device
        embedded = head.embed(x.to(device)).cpu()
        centres, _ = kmeans(embedded, head.prototypes.out_features, seed=self.seed, iterations=30)
        head.prototypes.weight.copy_(centres)
        head.normalise()

    def loss(self, module: nn.Module, batch: Batch, step: int, steps: int) -> tuple[Tensor, Figures]:
        self.projector.normalise()
        embeddings = [self.projector.embed(x) for x in _by_size(module, batch.views)]
        scores = [self.projector.score(z) for z in embeddings]
        codes = [self._codes(scores[k], k) for k in range(self.large)]
        loss = swapped_prediction(scores, codes, self.settings.temperature)
        large = torch.stack(embeddings[: self.large]).detach()
        if self.queue is not None and step >= self.settings.queue_from * steps:
            self.queue.push(large)
        return loss, self._figures(loss, scores[0], large, step, steps)

    @torch.no_grad()
    def _codes(self, scores: Tensor, view: int) -> Tensor:
        """Sinkhorn's codes (B, K) of a large crop, balanced together with the queue's embeddings of its kind."""
        s, known = self.settings, scores.detach()
        if self.queue is not None and self.queue.full:
            known = torch.cat([known, self.projector.score(self.queue.part(view))])
        return sinkhorn(known, epsilon=s.epsilon, iterations=s.iterations)[: len(scores)]

    def _figures(self, loss: Tensor, scores: Tensor, large: Tensor, step: int, steps: int) -> Figures:
        predicted = (scores.detach() / self.settings.temperature).softmax(dim=1).mean(dim=0)
        self.usage.mul_(0.95).add_(0.05 * predicted)
        entropy = float(-(self.usage * self.usage.clamp_min(1e-30).log()).sum())
        spread = spread_of(large[0])
        if self.settings.watch:
            self.watch.observe(step, steps, float(loss.detach()), spread)
        return {
            "chance": math.log(len(self.usage)),
            "usage": math.exp(entropy) / len(self.usage),
            "spread": spread,
        }

    def before_step(self, step: int, steps: int) -> None:
        if step < self.settings.frozen * steps:
            self.projector.prototypes.weight.grad = None

    def head(self) -> dict[str, Tensor]:
        """Nothing, or on request projection and prototypes under "swav.…"."""
        if not self.settings.keep:
            return {}
        state = self.projector.state_dict()
        return {f"swav.{name}": tensor.detach().clone() for name, tensor in state.items()}


def swapped_prediction(scores: Sequence[Tensor], codes: Sequence[Tensor], temperature: float) -> Tensor:
    """PAPER Main Eq. 9: the mean cross-entropy of every view's prediction of every large crop's code but its own.

    scores: cosines (B, K) of all views, large crops first. codes: (B, K), of the large crops only.
    """
    predictions = [F.log_softmax(score / temperature, dim=1) for score in scores]
    loss = scores[0].new_zeros(())
    for k, code in enumerate(codes):
        others = [p for v, p in enumerate(predictions) if v != k]
        loss = loss - sum((code * p).sum(dim=1).mean() for p in others) / len(others)
    return loss / len(codes)


def _by_size(module: nn.Module, views: Sequence[Tensor]) -> list[Tensor]:
    """Features of all views, with one pass of the network for each size: its batch norms see all of them."""
    found: list[Tensor] = []
    start = 0
    while start < len(views):
        stop = start + 1
        while stop < len(views) and views[stop].shape[2:] == views[start].shape[2:]:
            stop += 1
        found.extend(module(torch.cat(list(views[start:stop]))).chunk(stop - start))
        start = stop
    return found
