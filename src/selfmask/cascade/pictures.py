"""Pictures of a cascade: what its clusters are made of (PAPER App. Fig. 4), and maps of its embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from selfmask.cascade.makeup import Cluster


def draw_make_up(clusters: Sequence[Cluster], path: Path) -> None:
    """Against x, the share of each cluster's labelled images that its x most common classes make up. Writes a PNG."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for cluster in clusters:
        if cluster.covered:
            x = range(1, len(cluster.covered) + 1)
            label = f"expert {cluster.expert + 1}: {cluster.images} images"
            axes.plot(x, cluster.covered, marker="o", markersize=3, label=label)
    axes.set(xlabel="most common classes", ylabel="share of the cluster's images", ylim=(0, 1.02))
    if any(cluster.covered for cluster in clusters):
        axes.legend(loc="lower right", fontsize="small")
    figure.savefig(path, dpi=150)


def draw_maps(maps: Mapping[str, NDArray[np.float64]], labels: NDArray[np.int64], path: Path) -> None:
    """Two-dimensional maps (N, 2) side by side, a colour for each of `labels` (int64 (N,)). Writes a PNG."""
    figure = Figure(figsize=(4 * len(maps), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, flat) in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps.items(), strict=True):
        axes.scatter(flat[:, 0], flat[:, 1], c=labels, cmap="tab10", s=4, linewidths=0)
        axes.set(title=name, xticks=[], yticks=[])
    figure.savefig(path, dpi=150)
