"""What the network finds alike: the nearest neighbours of some images, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selfmask.features.knn import nearest
from selfmask.reports.before_after import BeforeAfter
from selfmask.reports.chart import DataTable


@dataclass(frozen=True)
class Strip:
    """One query and its nearest neighbours: positions in the image set, nearest first."""

    query: int
    before: tuple[int, ...]
    after: tuple[int, ...]


def strips(seen: BeforeAfter, queries: int = 6, neighbours: int = 5, seed: int = 0) -> tuple[Strip, ...]:
    """For `queries` images drawn at random, one of each class first: the nearest before and after."""
    chosen = choose_queries(seen.images.labels, queries, seed)
    before = nearest(seen.before, chosen, neighbours)
    after = nearest(seen.after, chosen, neighbours)
    return tuple(
        Strip(int(query), tuple(b.tolist()), tuple(a.tolist()))
        for query, b, a in zip(chosen, before, after, strict=True)
    )


def same_class_share(seen: BeforeAfter, neighbours: int = 5) -> tuple[float, float] | None:
    """Of each labelled image's nearest neighbours, the share of its own class, before and after, in [0, 1].

    Over all the images of `seen`, not only the queries shown: a few strips prove nothing. None without labels.
    """
    labels = seen.images.labels
    labelled = torch.nonzero(labels >= 0).flatten()
    if len(labelled) < 2:
        return None
    known = labels[labelled]
    everyone = torch.arange(len(labelled))
    shares = []
    for side in (seen.before, seen.after):
        found = nearest(side[labelled], everyone, neighbours)
        shares.append(float((known[found] == known[:, None]).float().mean()))
    return shares[0], shares[1]


def strip_table(seen: BeforeAfter, found: Sequence[Strip]) -> DataTable:
    """The neighbours as data: a row a neighbour, by the images' names and classes."""

    def named(index: int) -> tuple[str, str]:
        label = int(seen.images.labels[index])
        return seen.images.names[index], seen.images.classes[label] if label >= 0 else ""

    rows = [
        (*named(strip.query), when, rank, *named(index))
        for strip in found
        for when, side in (("before", strip.before), ("after", strip.after))
        for rank, index in enumerate(side, 1)
    ]
    return DataTable(("query", "query_class", "when", "rank", "neighbour", "neighbour_class"), tuple(rows))


def choose_queries(labels: Tensor, count: int, seed: int = 0) -> Tensor:
    """`count` images drawn at random, from as many different classes as there are: int64 (≤ count,).

    Drawn, not picked for looks. Unlabelled images (−1) count as one class.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    rounds: dict[int, int] = {}
    # The n-th image of every class comes before the (n + 1)-th of any.
    ranks = []
    for index in order.tolist():
        label = int(labels[index])
        ranks.append((rounds.get(label, 0), index))
        rounds[label] = rounds.get(label, 0) + 1
    ranks.sort(key=lambda item: item[0])
    return torch.tensor([index for _, index in ranks[:count]], dtype=torch.int64)
