"""SwAV's head: a projection to the unit sphere, and prototypes on it."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Projection = Literal["linear", "mlp", "none"]


class PrototypeHead(nn.Module):
    """Features (B, width) → L2-normalised embeddings (B, dim) → cosines with K prototypes (B, K).

    projection: "linear"; "mlp", width → hidden → dim with a batch norm and a ReLU between, as in SwAV's ResNet-50
    (hidden 2048); "none", the features themselves (dim is then the width). Prototypes have no bias.
    """

    def __init__(
        self,
        width: int,
        prototypes: int,
        *,
        dim: int = 128,
        projection: Projection = "linear",
        hidden: int = 2048,
    ) -> None:
        super().__init__()
        if projection == "mlp":
            self.projection = nn.Sequential(
                nn.Linear(width, hidden),
                nn.BatchNorm1d(hidden),
                nn.ReLU(inplace=True),
                nn.Linear(hidden, dim),
            )
        elif projection == "linear":
            self.projection = nn.Linear(width, dim)
        else:
            self.projection, dim = nn.Identity(), width
        self.prototypes = nn.Linear(dim, prototypes, bias=False)
        self.normalise()

    @property
    def dim(self) -> int:
        return self.prototypes.in_features

    @torch.no_grad()
    def normalise(self) -> None:
        """Put the prototypes back on the unit sphere, in place: before every step, as SwAV does."""
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))

    def embed(self, features: Tensor) -> Tensor:
        """L2-normalised embeddings (B, dim), float32 under autocast too."""
        return F.normalize(self.projection(features).float(), dim=1)

    def score(self, embeddings: Tensor) -> Tensor:
        """Cosines (B, K) with the prototypes, float32 under autocast too."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.prototypes(embeddings.float())
