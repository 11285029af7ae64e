"""The low-shot protocol (PAPER Main Fig. 3): a linear probe on a small share of the labels.

The masks were learnt on all images without labels; only the probe sees labels. For the other curves of that
figure (full fine-tuning, supervised masks) train on the images that `label_share` names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from selfmask.errors import SettingsError
from selfmask.features.intervals import accuracy_interval
from selfmask.features.labels import check_features, check_labels
from selfmask.features.probe import fit_probe

# The shares of the labels in Main Fig. 3.
SHARES = (0.10, 0.04, 0.02, 0.01, 0.005, 0.0025)


@dataclass(frozen=True)
class LowShotPoint:
    """Test accuracy (with its 95 % interval) of a probe on `labels` labelled images, `share` of all, drawn by
    `seed`.
    """

    share: float
    seed: int
    labels: int
    accuracy: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """Plain numbers under the fields' names."""
        return asdict(self)


def label_share(labels: Tensor, share: float, seed: int) -> Tensor:
    """Indices int64, ascending, of `share` (0 < share ≤ 1) of each class of `labels` int64 (N,); -1 is no
    class.

    Rounded up, so that every class keeps one label. For one seed a smaller share is a part of every larger
    one.
    """
    if not 0 < share <= 1:
        raise SettingsError(f"a share of the labels lies in (0, 1], got {share}")
    generator = torch.Generator().manual_seed(seed)
    kept: list[Tensor] = []
    for value in torch.unique(labels[labels >= 0]).tolist():
        members = (labels == value).nonzero().squeeze(1)
        shuffled = members[torch.randperm(len(members), generator=generator)]
        # Without the rounding 0.1 · 30 would be 3.0000000000000004, and its ceiling 4.
        kept.append(shuffled[: math.ceil(round(share * len(members), 9))])
    return torch.cat(kept).sort().values if kept else torch.empty(0, dtype=torch.int64)


def low_shot(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    *,
    shares: Sequence[float] = SHARES,
    seeds: Sequence[int] = (0, 1, 2),
) -> list[LowShotPoint]:
    """One point for each share and seed. Features (N, width) and (M, width), labels int64 (N,) and (M,), all
    ≥ 0.
    """
    check_features(train_x, "low-shot, training set")
    check_labels(train_x, train_y, "low-shot, training set")
    check_labels(test_x, test_y, "low-shot, test set")
    points: list[LowShotPoint] = []
    for share in shares:
        for seed in seeds:
            chosen = label_share(train_y, share, seed)
            probe = fit_probe(train_x[chosen], train_y[chosen], seed=seed)
            accuracy, low, high = accuracy_interval(probe.predict(test_x) == test_y)
            points.append(LowShotPoint(share, seed, len(chosen), accuracy, low, high))
    return points
