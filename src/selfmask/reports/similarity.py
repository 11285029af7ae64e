"""How alike the masks of different tasks are, against what chance alone would give.

Two masks over one backbone are compared by the weights that they turn off: Jaccard |A ∩ B| / |A ∪ B| of the
off-sets, and Hamming, the share of bits that differ. Two masks that turn off 5 % each agree on 90 % of the
bits by chance, so every figure stands beside its expected value for independent masks of the same densities,
tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from selfmask._common.style import PIXELS_PER_INCH
from selfmask.errors import SettingsError
from selfmask.reports.chart import Chart, DataTable, is_narrow
from selfmask.reports.overlap import Overlap
from selfmask.reports.wording import label as label_of

Matrix = NDArray[np.float64]

_PALE_TO_BLUE = LinearSegmentedColormap.from_list("selfmask", ["#f4f7fa", "#9fcbe8", "#3484bd", "#0a3d66"])


@dataclass(frozen=True)
class OffBits:
    """A mask as its off-bits, eight to a byte, so that fifty masks of a ResNet-50 fit in 150 MB.

    Attributes:
        names: parameter names, sorted.
        shapes: their shapes.
        bits: uint8 (bytes,): 1 where a weight is off; every tensor begins on a byte.
        off: int64 (tensors,): weights off in each tensor.
        sizes: int64 (tensors,): weights of each tensor.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    bits: NDArray[np.uint8]
    off: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, masks: Mapping[str, Tensor]) -> OffBits:
        """The off-bits of `masks` (bool tensors, True = on)."""
        names = tuple(sorted(masks))
        off = [~masks[name].detach().cpu().flatten().numpy().astype(bool) for name in names]
        bits = [np.packbits(values) for values in off]
        return cls(
            names,
            tuple(tuple(masks[name].shape) for name in names),
            np.concatenate(bits) if bits else np.zeros(0, np.uint8),
            np.array([int(values.sum()) for values in off], np.int64),
            np.array([values.size for values in off], np.int64),
        )


@dataclass(frozen=True)
class Similarity:
    """Pairwise figures of n masks; rows and columns in the order of `labels`.

    Attributes:
        labels: a name for each mask.
        jaccard: float64 (n, n) in [0, 1]; 1 on the diagonal, and for two masks that turn nothing off.
        expected_jaccard: the same for independent masks of equal densities (ratio of expected counts).
        hamming: float64 (n, n): the share of bits that differ, in [0, 1]; 0 on the diagonal.
        expected_hamming: the same for independent masks of equal densities (exact).
        order: a permutation of range(n) that puts alike masks side by side.
    """

    labels: tuple[str, ...]
    jaccard: Matrix
    expected_jaccard: Matrix
    hamming: Matrix
    expected_hamming: Matrix
    order: tuple[int, ...]


def similarity(several: Sequence[OffBits], labels: Iterable[str]) -> Similarity:
    """Compare every pair of `several`. Raises `SettingsError` where two are not over the same tensors."""
    labels = tuple(labels)
    if len(labels) != len(several) or not several:
        raise SettingsError(
            f"{len(labels)} labels were given for {len(several)} masks; give one label a mask"
        )
    first = several[0]
    for label, mask in zip(labels, several, strict=True):
        if (mask.names, mask.shapes) != (first.names, first.shapes):
            raise SettingsError(
                f"the masks of {labels[0]} and {label} are over different tensors "
                f"(the first that differs: {_first_difference(first, mask)}); compare masks of one backbone "
                "and one selection"
            )
    count, total = len(several), max(int(first.sizes.sum()), 1)
    jaccard, expected_jaccard = np.eye(count), np.eye(count)
    hamming, expected_hamming = np.zeros((count, count)), np.zeros((count, count))
    for i in range(count):
        for j in range(i + 1, count):
            found = _overlap(several[i], several[j])
            for matrix, value in (
                (jaccard, found.jaccard),
                (expected_jaccard, found.expected_jaccard),
                (hamming, found.hamming / total),
                (expected_hamming, found.expected_hamming / total),
            ):
                matrix[i, j] = matrix[j, i] = value
    return Similarity(
        labels, jaccard, expected_jaccard, hamming, expected_hamming, cluster_order(1 - jaccard)
    )


def _overlap(a: OffBits, b: OffBits) -> Overlap:
    both = int(np.bitwise_count(a.bits & b.bits).sum(dtype=np.int64))
    by_chance = float((a.off * (b.off / np.maximum(a.sizes, 1))).sum())
    return Overlap(int(a.sizes.sum()), int(a.off.sum()), int(b.off.sum()), both, by_chance)


def cluster_order(distance: Matrix) -> tuple[int, ...]:
    """Leaves, optimally ordered, of the average-linkage tree over `distance` (n, n; zero diagonal)."""
    if len(distance) < 3:
        return tuple(range(len(distance)))
    tree = linkage(squareform(np.clip(distance, 0, None), checks=False), "average", optimal_ordering=True)
    return tuple(int(leaf) for leaf in leaves_list(tree))


def _first_difference(a: OffBits, b: OffBits) -> str:
    shapes_a, shapes_b = dict(zip(a.names, a.shapes, strict=True)), dict(zip(b.names, b.shapes, strict=True))
    for name in sorted(shapes_a.keys() | shapes_b.keys()):
        if shapes_a.get(name) != shapes_b.get(name):
            return f"{name}, {shapes_a.get(name, 'absent')} against {shapes_b.get(name, 'absent')}"
    return "none"


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
    short = [label_of(label, 16 if narrow else 26) for label in labels]
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
    bar_width = min(max(side, 200), 320)  # its label takes 200
    width = min(width, left + max(side, bar_width) + 12)  # no wider than what is drawn
    figure.set_layout_engine("none")
    figure.set_size_inches(width / PIXELS_PER_INCH, height / PIXELS_PER_INCH)
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
    strip = figure.add_axes((left / width, 36 / height, bar_width / width, 8 / height))
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
