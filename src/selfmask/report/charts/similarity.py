"""The similarity matrix: which tasks ended with masks alike?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from selfmask.report.charts.chart import Chart, DataTable, is_narrow, set_height
from selfmask.report.charts.style import PIXELS_PER_INCH
from selfmask.report.similarity import Matrix, Similarity

_PALE_TO_BLUE = LinearSegmentedColormap.from_list("selfmask", ["#f4f7fa", "#9fcbe8", "#3484bd", "#0a3d66"])


def similarity_chart(similar: Similarity, name: str = "similarity", of: str = "") -> Chart:
    """Jaccard of the off-sets of every pair, rows and columns ordered by clustering."""
    order = list(similar.order)
    labels = [similar.labels[i] for i in order]
    jaccard = similar.jaccard[np.ix_(order, order)]
    pairs = [(i, j) for a, i in enumerate(order) for j in order[a + 1 :]]
    shown = similar.jaccard[~np.eye(len(order), dtype=bool)]
    top = float(
        max(
            shown.max(initial=0.0), similar.expected_jaccard[~np.eye(len(order), dtype=bool)].max(initial=0.0)
        )
    )

    def draw(figure: Figure) -> None:
        _draw(figure, jaccard, labels, top or 1.0)

    return Chart(
        name,
        f"How alike are the masks{f' of {of}' if of else ''}?",
        "1 would mean that two masks switch off the same weights; masks that are alike stand side by side. "
        "Chance alone would give the expected values listed with the numbers.",
        _alt(similar, pairs),
        DataTable(
            ("a", "b", "jaccard", "jaccard_by_chance", "hamming", "hamming_by_chance"),
            tuple(
                (
                    similar.labels[i],
                    similar.labels[j],
                    float(similar.jaccard[i, j]),
                    float(similar.expected_jaccard[i, j]),
                    float(similar.hamming[i, j]),
                    float(similar.expected_hamming[i, j]),
                )
                for i, j in pairs
            ),
        ),
        draw,
        {"order": labels},
    )


def _draw(figure: Figure, jaccard: Matrix, labels: Sequence[str], top: float) -> None:
    """Laid out by hand, in pixels: the automatic layout cuts off labels beside a square of fixed aspect."""
    narrow = is_narrow(figure)
    width, count = figure.get_figwidth() * PIXELS_PER_INCH, len(labels)
    short = [_shortened(label, 16 if narrow else 26) for label in labels]
    longest = max(map(len, short))
    size = 11 if count <= 16 else 9
    left = longest * size * 0.62 + 10
    cell = min(54.0, (width - left - 12) / count)
    named = cell >= 8  # below that a label would be smaller than can be read: the table lists them
    if not named:
        left, cell = 6.0, (width - 12) / count
    under = cell >= 18 and count <= 14
    below = (longest * size * 0.45 + 14 if under else 6) + 58
    side, height = cell * count, cell * count + below + 4
    figure.set_layout_engine("none")
    set_height(figure, height)
    axis = figure.add_axes((left / width, below / height, side / width, side / height))
    values = np.where(np.eye(count, dtype=bool), np.nan, jaccard)
    image = axis.imshow(values, cmap=_PALE_TO_BLUE, vmin=0, vmax=top, interpolation="nearest", aspect="auto")
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0, labelsize=min(size, cell))
    axis.set_yticks(range(count) if named else [], short if named else [])
    axis.set_xticks(range(count) if under else [], short if under else [])
    for label in axis.get_xticklabels():
        label.set(rotation=35, horizontalalignment="right", rotation_mode="anchor")
    if cell >= 26:
        for row, column in zip(*np.nonzero(~np.isnan(values)), strict=True):
            value = values[row, column]
            # Fixed inks: the ground of a cell is the same on light and dark pages.
            ink = "#111111" if value < 0.5 * top else "#ffffff"
            text = f"{value:.2f}".removeprefix("0")
            axis.text(column, row, text, ha="center", va="center", color=ink, fontsize=10)
    strip = figure.add_axes((left / width, 36 / height, min(side, 320) / width, 8 / height))
    bar = figure.colorbar(image, cax=strip, orientation="horizontal")
    bar.set_label("Jaccard similarity of what is off")
    strip.xaxis.label.set_horizontalalignment("left")
    strip.xaxis.label.set_x(0)
    strip.grid(visible=False)
    strip.tick_params(length=2)
    bar.outline.set_visible(False)  # type: ignore[union-attr]


def _alt(similar: Similarity, pairs: list[tuple[int, int]]) -> str:
    if not pairs:
        return "One mask only: nothing to compare."
    best = max(pairs, key=lambda pair: similar.jaccard[pair])
    least = min(pairs, key=lambda pair: similar.jaccard[pair])
    mean = float(np.mean([similar.jaccard[pair] for pair in pairs]))
    chance = float(np.mean([similar.expected_jaccard[pair] for pair in pairs]))
    text = (
        f"{len(similar.labels)} masks. Jaccard similarity is {mean:.2f} on average, where chance would give "
        f"{chance:.2f}. Most alike: {similar.labels[best[0]]} and {similar.labels[best[1]]}, "
        f"{similar.jaccard[best]:.2f}"
    )
    if len(pairs) > 1:
        a, b = (similar.labels[i] for i in least)
        text += f"; least alike: {a} and {b}, {similar.jaccard[least]:.2f}"
    return text + "."


def _shortened(label: str, length: int) -> str:
    return label if len(label) <= length else f"{label[: length - 1]}…"
