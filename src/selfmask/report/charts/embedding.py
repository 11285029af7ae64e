"""The feature space in two dimensions, before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from selfmask.report.charts.chart import (
    Chart,
    DataTable,
    columns_of_legend,
    is_narrow,
    set_height,
)
from selfmask.report.charts.style import GRID, MARKERS, MUTED, SERIES
from selfmask.report.wording import listed

SHOWN_CLASSES = 12
"""More colours than this cannot be told apart, with markers or without: the rest is drawn in grey."""


def embedding_chart(
    panels: Mapping[str, NDArray[np.float64]],
    labels: Sequence[int],
    classes: Sequence[str],
    *,
    method: str = "t-SNE",
    coloured_by: str = "label",
    name: str = "embedding",
) -> Chart:
    """One panel for each embedding (N, 2) of the same N images; `labels[i]` −1 is unlabelled, drawn in grey."""
    counts = Counter(label for label in labels if label >= 0)
    shown = sorted(label for label, _ in counts.most_common(SHOWN_CLASSES))
    rest = [i for i, label in enumerate(labels) if label not in shown]
    # Twelve looks: eight colours, and for the last four the first colours again with another marker.
    looks = {
        label: (SERIES[i % len(SERIES)].light, MARKERS[(i + i // len(SERIES)) % len(MARKERS)])
        for i, label in enumerate(shown)
    }

    def draw(figure: Figure) -> None:
        narrow = is_narrow(figure)
        names = [_short(classes[label]) for label in shown]
        ncols = columns_of_legend(figure, names) if names else 1
        rows, columns = (len(panels), 1) if narrow else (1, len(panels))
        legend = 20 * -(-len(names) // ncols)
        set_height(figure, (300 * rows if narrow else 720 / max(columns, 2) * 0.92 + 24) + legend)
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis, (title, flat) in zip(axes.flat, panels.items(), strict=True):
            if rest:
                axis.plot(
                    flat[rest, 0],
                    flat[rest, 1],
                    ".",
                    color=MUTED.light,
                    markersize=3,
                    alpha=0.5,
                    linestyle="none",
                )
            for label in shown:
                chosen = [i for i, other in enumerate(labels) if other == label]
                colour, marker = looks[label]
                axis.plot(
                    flat[chosen, 0],
                    flat[chosen, 1],
                    marker,
                    color=colour,
                    markersize=4,
                    markeredgewidth=0,
                    alpha=0.85,
                    linestyle="none",
                    label=_short(classes[label]),
                )
            axis.set_title(title)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.grid(visible=False)
            for spine in axis.spines.values():
                spine.set(visible=True, color=GRID.light)
        if shown:
            handles, found = next(iter(axes.flat)).get_legend_handles_labels()
            figure.legend(
                handles, found, loc="outside lower left", ncols=ncols, markerscale=1.6, handletextpad=0.2
            )

    titles = [title.lower() for title in panels]
    return Chart(
        name,
        "How the network sees the images, before and after",
        f"Each point is one image, coloured by {coloured_by}; images that the network finds alike lie close "
        f"together ({method}). Distances between far groups mean nothing.",
        f"{len(labels)} images, {method} of the features {listed(titles)}; "
        + (f"classes {listed([classes[label] for label in shown])}" if shown else "no labels")
        + (f"; {len(rest)} images of other classes or none in grey." if rest else "."),
        DataTable(
            ("panel", "image", "label", "x", "y"),
            tuple(
                (title, i, classes[label] if label >= 0 else "", float(x), float(y))
                for title, flat in panels.items()
                for i, (label, (x, y)) in enumerate(zip(labels, flat, strict=True))
            ),
        ),
        draw,
    )


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:19]}…"
