"""What the clusters are made of (PAPER App. Fig. 4): the share of a cluster that its x most common classes make up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from selfmask.errors import DataError


@dataclass(frozen=True)
class Cluster:
    """One cluster: how many of its images have a label, its classes from the most common one down, and
    `covered[x - 1]`, the share of the labelled images, in [0, 1], that its x most common classes make up."""

    expert: int
    images: int
    labelled: int
    classes: tuple[str, ...]
    covered: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values under the fields' names."""
        return asdict(self)


def make_up(assignment: Tensor, labels: Tensor, classes: Sequence[str], experts: int) -> list[Cluster]:
    """The clusters 0 … experts - 1 of `assignment` (int64 (N,)) by `labels` (int64 (N,), -1 unknown)."""
    if assignment.shape != labels.shape:
        raise DataError(
            f"each image needs an expert and a label (or -1), got {tuple(assignment.shape)} experts and "
            f"{tuple(labels.shape)} labels"
        )
    clusters: list[Cluster] = []
    for expert in range(experts):
        mine = labels[assignment == expert]
        known = mine[mine >= 0]
        counts = torch.bincount(known, minlength=len(classes))
        # A stable sort: classes of equal size stay in the class list's order, on every machine.
        order = counts.argsort(descending=True, stable=True)
        order = order[counts[order] > 0]
        covered = counts[order].cumsum(0).double() / max(len(known), 1)
        clusters.append(
            Cluster(
                expert=expert,
                images=len(mine),
                labelled=len(known),
                classes=tuple(str(classes[index]) for index in order.tolist()),
                covered=tuple(covered.tolist()),
            )
        )
    return clusters
