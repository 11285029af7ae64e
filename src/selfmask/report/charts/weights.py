"""Figures of which weights were switched off: large or small ones, whole filters or single weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from selfmask.report.charts.chart import (
    Chart,
    DataTable,
    columns_of_legend,
    is_narrow,
    set_height,
)
from selfmask.report.charts.style import BLUE, ORANGE, SKY
from selfmask.report.density import FilterShares
from selfmask.report.magnitude import MagnitudeProfile
from selfmask.report.wording import count, percent


def magnitude_chart(profile: MagnitudeProfile, name: str = "magnitudes", of: str = "") -> Chart:
    """Share of weights off by the rank of |θ| within their tensor, beside the share over all weights."""
    shares = [100 * share for share in profile.shares]
    bins = len(shares)
    first, last = shares[0], shares[-1]
    trend = (
        "Small weights were switched off more often than large ones."
        if first > 1.25 * last
        else "Large weights were switched off more often than small ones."
        if last > 1.25 * first
        else "Small and large weights were switched off about equally often."
    )

    def draw(figure: Figure) -> None:
        set_height(figure, 240)
        axis = figure.subplots()
        edges = [100 * i / bins for i in range(bins)]
        axis.bar(edges, shares, width=100 / bins * 0.86, align="edge", color=BLUE.light)
        axis.axhline(
            100 * profile.share_off, color=ORANGE.light, linewidth=1.4, linestyle="--", label="all weights"
        )
        axis.set_xlim(0, 100)
        axis.set_xlabel("size |θ| of the weight, as a percentile of its tensor →")
        axis.set_ylabel("weights off (%)")
        figure.legend(loc="outside upper left")

    return Chart(
        name,
        "Were large or small weights switched off?" + (f" ({of})" if of else ""),
        "Each weight is ranked by its size within its own tensor; the dashed line is the share over all weights.",
        f"{trend} Of the smallest {percent(1 / bins)}, {percent(first / 100)} are off, of the largest "
        f"{percent(1 / bins)}, {percent(last / 100)}; over all weights {percent(profile.share_off)}. "
        f"The weights off carry {percent(profile.energy_off)} of the sum of squares.",
        DataTable(
            ("bin", "from_percentile", "to_percentile", "weights", "off", "share_off"),
            tuple(
                (
                    i,
                    100 * i / bins,
                    100 * (i + 1) / bins,
                    int(profile.weights[i]),
                    int(profile.off[i]),
                    share / 100,
                )
                for i, share in enumerate(shares)
            ),
        ),
        draw,
        {"energy_off": profile.energy_off, "share_off": profile.share_off},
    )


def filter_chart(shares: Sequence[FilterShares], name: str = "filters") -> Chart:
    """How unevenly filters are hit: median, 5 to 95 %, and the most changed filter of each layer, over depth."""
    rows = []
    for number, layer in enumerate(shares):
        levels = torch.quantile(layer.off, torch.tensor([0.05, 0.5, 0.95]))
        low, middle, high = (float(level) for level in levels)
        rows.append(
            (
                number,
                layer.place.name,
                layer.off.numel(),
                low,
                middle,
                high,
                float(layer.off.max()),
                layer.dead,
            )
        )
    dead = sum(layer.dead for layer in shares)
    filters = sum(layer.off.numel() for layer in shares)
    top = max(rows, key=lambda row: row[6], default=None)

    def draw(figure: Figure) -> None:
        narrow = is_narrow(figure)
        labels = ["most changed filter", "5 to 95 % of the filters", "median filter"]
        ncols = columns_of_legend(figure, labels)
        set_height(figure, (230 if narrow else 270) + 20 * -(-3 // ncols))
        axis = figure.subplots()
        x = [row[0] for row in rows]
        axis.plot(
            x,
            [100 * r[6] for r in rows],
            "v",
            color=ORANGE.light,
            markersize=4,
            label=labels[0],
            clip_on=False,
        )
        axis.vlines(
            x,
            [100 * row[3] for row in rows],
            [100 * row[5] for row in rows],
            color=SKY.light,
            linewidth=max(1.5, min(6, (260 if narrow else 600) / max(len(rows), 1) * 0.6)),
            label=labels[1],
        )
        axis.plot(x, [100 * row[4] for row in rows], "o", color=BLUE.light, markersize=3, label=labels[2])
        axis.set_ylim(bottom=0)
        axis.set_xlabel("layer, from the image to the output →")
        axis.set_ylabel("share of the filter off (%)")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        figure.legend(loc="outside upper left", ncols=ncols)

    spread = (
        f" The filter that changed most, in {top[1]}, has {percent(top[6])} of its weights off."
        if top
        else ""
    )
    return Chart(
        name,
        "How evenly are the filters of a layer hit?",
        "A filter is the set of weights that makes one output. The bar holds nine filters in ten of a layer.",
        f"{count(filters)} filters in {len(rows)} layers; {dead or 'none'} switched off altogether.{spread}",
        DataTable(("layer", "name", "filters", "p5", "median", "p95", "max", "fully_off"), tuple(rows)),
        draw,
    )
