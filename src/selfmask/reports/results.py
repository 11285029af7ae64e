"""The result rows and the file's size as figures."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matplotlib.figure import Figure

from selfmask._common.style import (
    BLUE,
    GREEN,
    MUTED,
    OCHRE,
    PURPLE,
    ROW_INKS,
    SLATE,
    TEXT,
)
from selfmask.features.rows import Estimate, Rows
from selfmask.reports.chart import Cell, Chart, DataTable, is_narrow, set_height
from selfmask.reports.wording import accuracy, label, percents, size

MEASURES = {"knn": "k-NN", "probe": "linear probe", "head": "trained head"}
"""The measures of `features.rows.Row`, and what a reader calls them."""

OURS = ("masked", "conditional", "unconditional", "self-masked")
"""The rows of what was learnt here, the one that a run's verdict is of first."""

_PARTS = {
    "masks": BLUE,
    "statistics": OCHRE,
    "norms": PURPLE,
    "head": GREEN,
    "metadata": SLATE,
    "dispatcher": BLUE,
    "experts": GREEN,
    "router": OCHRE,
    "fusion, conditional": PURPLE,
    "fusion, unconditional": PURPLE,
}


def measures_of(rows: Rows) -> list[str]:
    """The measures that at least one row has, in the order of `MEASURES`."""
    return [key for key in MEASURES if any(getattr(row, key) is not None for row in rows.rows)]


def scale_of(rows: Rows) -> tuple[float, float]:
    """From where to where (%) accuracies are drawn: from the ten below all intervals to 100, which is all right."""
    ends = [100 * end for row in rows.rows for key in measures_of(rows) for end in _ends(getattr(row, key))]
    return max(0.0, min(10.0 * math.floor(min(ends) / 10), 90.0)), 100.0


def result_chart(rows: Rows, name: str = "results") -> Chart:
    """Accuracy of each row with its 95 % interval, one panel a measure."""
    measures = measures_of(rows)

    def draw(figure: Figure) -> None:
        narrow = is_narrow(figure)
        panels, height = len(measures), 26 * len(rows.rows) + 52
        shape = (panels, 1) if narrow else (1, panels)
        set_height(figure, height * shape[0] + 16)
        axes = figure.subplots(*shape, squeeze=False, sharex=True, sharey=True)
        least, most = scale_of(rows)
        for axis, key in zip(axes.flat, measures, strict=True):
            for place, row in enumerate(rows.rows):
                estimate: Estimate | None = getattr(row, key)
                ink = ROW_INKS.get(row.name, TEXT).light
                if estimate is None:
                    axis.text(least, place, "not measured", va="center", color=MUTED.light, fontsize=11)
                    continue
                low, value, high = 100 * estimate.low, 100 * estimate.value, 100 * estimate.high
                look = {"color": ink, "clip_on": False}
                axis.plot([low, high], [place, place], linewidth=3, alpha=0.45, solid_capstyle="butt", **look)
                axis.plot([value], [place], "o", markersize=8, **look)
                axis.annotate(
                    f"{value:.1f}",
                    (high, place),
                    (6, 0),
                    textcoords="offset points",
                    va="center",
                    color=TEXT.light,
                )
            axis.set_title(f"{MEASURES[key]} (% correct)")
            axis.set_yticks(range(len(rows.rows)), [label(row.name, 30) for row in rows.rows])
            axis.tick_params(axis="y", labelcolor=TEXT.light)
            axis.grid(visible=False)
            axis.grid(visible=True, axis="x")
            axis.spines["left"].set_visible(False)
            axis.set_ylim(len(rows.rows) - 0.5, -0.5)
            axis.set_xlim(least, most)

    return Chart(
        name,
        "Results on images that were not trained on",
        f"Dots are accuracies on {rows.images} test images, bars their 95 % intervals.",
        "; ".join(
            f"{row.name}: "
            + ", ".join(
                f"{MEASURES[key]} {accuracy(estimate.value)}"
                for key in measures
                if (estimate := getattr(row, key)) is not None
            )
            for row in rows.rows
        )
        + ".",
        DataTable(
            ("network", "measure", "value", "low", "high", "gain", "gain_low", "gain_high"), _cells(rows)
        ),
        draw,
        {"images": rows.images},
    )


def size_chart(parts: Mapping[str, int], full: int | None = None, name: str = "size") -> Chart:
    """Bytes of the mask file by part, as `Mask.bytes()` gives them; `full`: the masked weights as float32."""
    shown = {part: count for part, count in parts.items() if part != "file" and count}
    total = parts.get("file", sum(shown.values()))
    ratio = (
        f" The weights themselves would take {size(full)}, {full / total:.0f} times as much." if full else ""
    )

    def draw(figure: Figure) -> None:
        narrow = is_narrow(figure)
        set_height(figure, 34 + 24 * len(shown))
        axis = figure.subplots()
        names = list(shown)
        inks = [_PARTS.get(part, SLATE).light for part in names]
        bars = axis.barh(range(len(names)), [shown[part] for part in names], height=0.62, color=inks)
        shares = percents([shown[part] / total for part in names])
        labels = [f"{size(shown[part])} ({share})" for part, share in zip(names, shares, strict=True)]
        axis.bar_label(bars, labels, padding=4, color=MUTED.light, fontsize=11)
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(axis="y", labelcolor=TEXT.light)
        axis.invert_yaxis()
        axis.grid(visible=False)
        axis.set_xlim(0, max(shown.values(), default=1) * (1.75 if narrow else 1.25))
        axis.xaxis.set_visible(False)
        axis.spines["bottom"].set_visible(False)

    return Chart(
        name,
        "What the file holds",
        f"Everything that is needed to rebuild the adapted network from its base: {size(total)}.{ratio}",
        "; ".join(f"{part} {size(count)}" for part, count in shown.items()) + f"; file {size(total)}.",
        DataTable(("part", "bytes"), (*((part, count) for part, count in shown.items()), ("file", total))),
        draw,
        {"float32_bytes": full},
    )


def _ends(estimate: Estimate | None) -> tuple[float, ...]:
    return () if estimate is None else (estimate.low, estimate.high)


def _cells(rows: Rows) -> tuple[tuple[Cell, ...], ...]:
    cells: list[tuple[Cell, ...]] = []
    for row in rows.rows:
        for key in measures_of(rows):
            estimate: Estimate | None = getattr(row, key)
            gain: Estimate | None = getattr(row, f"{key}_gain")
            if estimate is not None:
                gains = (gain.value, gain.low, gain.high) if gain is not None else (None, None, None)
                cells.append((row.name, key, estimate.value, estimate.low, estimate.high, *gains))
    return tuple(cells)
