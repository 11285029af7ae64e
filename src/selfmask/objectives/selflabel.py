"""Clusters of the features as labels: self-labelling (after Asano et al. 2020, and PAPER §6's Sinkhorn).

The clusters are of the untouched network's features at a larger resolution than the views (`targets`), several
clusterings at once, because one k-means draws arbitrary borders. On a schedule they are made anew, from the features
that the masked network has by then: the run remembers those of every image as it passes, so this costs no extra
pass, and a resumed run has them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfmask._common.clustering import kmeans
from selfmask.errors import SettingsError
from selfmask.images.views import Augment, light
from selfmask.objectives.base import Batch, Figures, Objective
from selfmask.objectives.defaults import prototypes_for
from selfmask.objectives.processes import gathered
from selfmask.objectives.sinkhorn import balance, balanced
from selfmask.objectives.targets import clean_features, target_size
from selfmask.objectives.watch import RunWatch, spread_of

if TYPE_CHECKING:
    from selfmask.backbones.backbone import Backbone
    from selfmask.images.image_set import ImageSet

_BALANCING = 50  # Sinkhorn iterations over the whole set, once a round: to convergence


@dataclass(frozen=True)
class SelfLabelSettings:
    """
    clusters: in each clustering; None lets the number of images decide.
    clusterings: how many k-means, from different starts.
    hard: each image counts wholly to its own cluster; otherwise softly, with clusters balanced by Sinkhorn
        (epsilon: its smoothness).
    temperature: of the predictions.
    rounds: how often clusters are made during the run; 1, once before it.
    target_size: pixels at which the targets are taken; None lets size and backbone decide.
    crop: least share of an image's area in a training view, in (0, 1].
    head_rate: SGD's for the heads, which start from the clusters' centres; 0 keeps them there.
    watch: end a run that is not learning or does harm.
    """

    clusters: int | None = None
    clusterings: int = 4
    hard: bool = False
    epsilon: float = 0.05
    temperature: float = 0.1
    rounds: int = 1
    target_size: int | None = None
    crop: float = 0.6
    head_rate: float = 1e-3
    watch: bool = True

    def __post_init__(self) -> None:
        if self.clusters is not None and self.clusters < 2:
            raise SettingsError(f"at least 2 clusters are needed, got {self.clusters}")
        for name in ("clusterings", "rounds"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("epsilon", "temperature"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 < self.crop <= 1:
            raise SettingsError(f"crop is a share of the area in (0, 1], got {self.crop}")
        if self.head_rate < 0:
            raise SettingsError(f"head_rate must not be negative, got {self.head_rate}")


class SelfLabel(Objective):
    """Cross-entropy of cosine heads with soft clusters as labels, on one lightly augmented view.

    Args:
        width: of the backbone's features.
        images: how many there are to train on.
        size: pixels of the views, at which the network will be used.
        native: pixels that the backbone was pretrained at.
        seed: of the clusterings' starts.
    """

    def __init__(
        self,
        width: int,
        images: int,
        size: int,
        settings: SelfLabelSettings | None = None,
        *,
        native: int = 224,
        flips: bool = True,
        interpolation: str = "bicubic",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.settings = s = SelfLabelSettings() if settings is None else settings
        self.native, self.seed = native, seed
        view = light(size, flips=flips, least=s.crop)
        self.views = (Augment(**{**vars(view), "interpolation": interpolation}),)
        self.fitted = prototypes_for(images)
        clusters = s.clusters or self.fitted.value
        if clusters > images:
            raise SettingsError(f"{images} images cannot make {clusters} clusters")
        self.head_rate = s.head_rate
        self.heads = nn.Parameter(torch.zeros(s.clusterings, clusters, width))
        self.register_buffer("memory", torch.zeros(images, width, dtype=torch.float16))
        self.register_buffer("centres", torch.zeros(s.clusterings, clusters, width))
        self.register_buffer("offsets", torch.zeros(s.clusterings, clusters))
        self.register_buffer("targets", torch.zeros(images, width, dtype=torch.float16))
        self.memory: Tensor
        self.centres: Tensor
        self.offsets: Tensor
        self.targets: Tensor
        self.watch = RunWatch(chance=math.log(clusters))

    def prepare(self, backbone: Backbone, images: ImageSet) -> list[str]:
        size, s = self.views[0].size, self.settings
        at = target_size(s.target_size, size, self.native, backbone)
        mirrored = self.views[0].flip > 0
        targets = F.normalize(clean_features(backbone, images, at.value, mirrored=mirrored), dim=1)
        own = targets if at.value == size else clean_features(backbone, images, size, mirrored=False)
        self.targets.copy_(targets)
        self.memory.copy_(F.normalize(own, dim=1))
        self._cluster(0)
        why = "asked for" if s.clusters else self.fitted.why
        return [
            f"labels: {s.clusterings} × {self.heads.shape[1]} clusters ({why}), {'hard' if s.hard else 'soft'}, "
            f"made {s.rounds} times",
            f"targets: the pretrained features at {at.value} px ({at.why})",
        ]

    @torch.no_grad()
    def _cluster(self, turn: int) -> None:
        """New clusters of `targets`, and heads at the centres of what the network makes of the same images."""
        z, own = self.targets.float().cpu(), F.normalize(self.memory.float(), dim=1).cpu()
        for k in range(len(self.heads)):
            centres, _ = kmeans(z, self.heads.shape[1], seed=1000 * self.seed + 100 * turn + k, iterations=30)
            self.centres[k].copy_(F.normalize(centres, dim=1))
            scores = z @ F.normalize(centres, dim=1).T
            self.offsets[k].copy_(balance(scores, epsilon=self.settings.epsilon, iterations=_BALANCING,
                                          across_processes=False))  # fmt: skip
            labels = self._labels(z.to(self.centres.device), k).cpu()
            self.heads[k].copy_(F.normalize(labels.T @ own, dim=1))

    def _labels(self, z: Tensor, k: int) -> Tensor:
        """Targets (n, clusters) of embeddings z (n, width) in clustering k, each row summing to 1."""
        scores = z @ self.centres[k].T
        if self.settings.hard:
            return F.one_hot(scores.argmax(dim=1), scores.shape[1]).float()
        return balanced(scores, self.offsets[k], epsilon=self.settings.epsilon)

    def loss(self, module: nn.Module, batch: Batch, step: int, steps: int) -> tuple[Tensor, Figures]:
        s, indices = self.settings, batch.indices.to(self.targets.device)
        found = F.normalize(module(batch.views[0]).float(), dim=1)
        z = self.targets[indices].float()
        losses, right = [], []
        for k in range(len(self.heads)):
            logits = found @ F.normalize(self.heads[k], dim=1).T / s.temperature
            labels = self._labels(z, k)
            losses.append(-(labels * F.log_softmax(logits, dim=1)).sum(dim=1).mean())
            right.append((logits.argmax(dim=1) == labels.argmax(dim=1)).float().mean())
        loss = torch.stack(losses).mean()
        spread = spread_of(found)
        if s.rounds > 1:
            self._remember(indices, found.detach())
        if s.watch:
            self.watch.observe(step, steps, float(loss.detach()), spread)
        agreement = float(torch.stack(right).mean())
        return loss, {"chance": math.log(self.heads.shape[1]), "agreement": agreement, "spread": spread}

    @torch.no_grad()
    def _remember(self, indices: Tensor, found: Tensor) -> None:
        """Let the memory of these images follow the network; half of it is new at every pass."""
        indices, found = gathered(indices), gathered(found)
        self.memory[indices] = F.normalize(self.memory[indices].float() + found, dim=1).half()

    def after_step(self, step: int, steps: int, module: nn.Module) -> None:
        rounds = self.settings.rounds
        turn = (step + 1) * rounds // steps
        if rounds > 1 and turn > step * rounds // steps and turn < rounds:
            # What the network has learnt and what it knew from the start, in equal parts.
            self.targets.copy_(F.normalize(self.targets.float() + self.memory.float(), dim=1))
            self._cluster(turn)
