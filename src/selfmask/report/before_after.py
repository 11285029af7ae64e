"""The same images seen by the pretrained and by the masked network: the source of embeddings and neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from selfmask._common.clustering import kmeans
from selfmask.backbones.backbone import Backbone
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.backbones.spec import rebuild
from selfmask.errors import DataError, RunError
from selfmask.features.features import features
from selfmask.images.image_set import ImageSet
from selfmask.images.opening import open_data
from selfmask.maskfile.mask import Mask
from selfmask.report.charts.chart import Chart, DataTable
from selfmask.report.charts.embedding import embedding_chart
from selfmask.report.embedding import Method, aligned, choose_queries, embed, nearest
from selfmask.report.run_folder import RunFolder


@dataclass(frozen=True)
class BeforeAfter:
    """N images and their features under the pretrained and the masked network.

    Attributes:
        images: the images, N of them.
        before, after: features, float32 (N, width).
        part: which part of the data they are: "test", "validation" or "training".
    """

    images: ImageSet
    before: Tensor
    after: Tensor
    part: str


@dataclass(frozen=True)
class Strip:
    """One query and its nearest neighbours: positions in the image set, nearest first."""

    query: int
    before: tuple[int, ...]
    after: tuple[int, ...]


def look(mask: Mask, backbone: Backbone, images: ImageSet, part: str = "test") -> BeforeAfter:
    """Features of `images` by `backbone` (the base) before and while `mask` is applied; the base is restored."""
    before = features(backbone, images)
    with mask.apply(backbone.module):
        after = features(backbone, images)
    return BeforeAfter(images, before, after, part)


def base_of(mask: Mask, weights: Path | None = None) -> Backbone:
    """The backbone that `mask` was learnt on, with the evaluation recipe that its file records."""
    described = mask.metadata.get("backbone")
    if not isinstance(described, dict):
        raise RunError(
            f"{mask.path.name} does not say which backbone it was learnt on; pass the base yourself"
        )
    backbone = rebuild(described, weights=weights)
    recipe = mask.metadata.get("preprocessing") or described.get("preprocessing")
    if isinstance(recipe, dict):
        backbone.preprocessing = Preprocessing.read(recipe)
    return backbone


def images_of(run: RunFolder, limit: int, data: str | None = None) -> tuple[ImageSet, str]:
    """Up to `limit` images of the run's test part (else validation, else training), drawn evenly, seeded.

    `data` replaces the place that the run recorded, for a folder that has moved.
    """
    spec = data or run.settings.get("data")
    if not isinstance(spec, str):
        raise DataError("the run does not say where its images lie; name them with --data")
    splits = open_data(
        spec,
        split_file=run.settings.get("split_file"),
        labels=run.settings.get("labels"),
        seed=int(run.settings.get("seed") or 0),
        test_share=float(run.settings.get("test_share") or 0.2),
    )
    part, images = next(
        (name, found)
        for name, found in (
            ("test", splits.test),
            ("validation", splits.validation),
            ("training", splits.train),
        )
        if found is not None and len(found)
    )
    if len(images) > limit:
        generator = torch.Generator().manual_seed(0)
        images = images.subset(torch.randperm(len(images), generator=generator)[:limit].sort().values)
    return images, part


def embedding_of(seen: BeforeAfter, method: Method = "tsne", clusters: int = 8) -> Chart:
    """The embedding of `seen`, coloured by label, or, where nothing is labelled, by k-means of the features after."""
    labels, classes, coloured_by = seen.images.labels.tolist(), list(seen.images.classes), "label"
    if max(labels, default=-1) < 0:
        count = min(clusters, max(2, len(labels) // 20))
        unit = torch.nn.functional.normalize(seen.after, dim=1)
        labels = kmeans(unit, count, seed=0)[1].tolist()
        classes = [f"cluster {i + 1}" for i in range(count)]
        coloured_by = "cluster (k-means of the features after)"
    before = embed(seen.before, method=method)
    after = aligned(embed(seen.after, method=method), before)
    name = {"tsne": "t-SNE", "umap": "UMAP", "pca": "principal components"}[method]
    return embedding_chart(
        {"Before (pretrained)": before, "After (masked)": after},
        labels,
        classes,
        method=name,
        coloured_by=coloured_by,
    )


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
