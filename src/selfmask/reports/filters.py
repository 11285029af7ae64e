"""How evenly the filters of a layer are hit, and which are off altogether."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from selfmask._common.style import BLUE, ORANGE, SKY
from selfmask.reports.chart import Chart, DataTable, columns_of_legend, is_narrow, set_height
from selfmask.reports.density import check_bool, part_of
from selfmask.reports.places import Place, locate
from selfmask.reports.wording import count, percent


@dataclass(frozen=True)
class FilterShares:
    """The share of each filter of one tensor that is off.

    A filter is what makes one output: one slice of a weight of rank ≥ 2 along its first dimension.

    Attributes:
        place: which tensor.
        off: float32 (filters,), in [0, 1].
    """

    place: Place
    off: Tensor

    @property
    def dead(self) -> int:
        """How many filters are off altogether: their output no longer depends on the input."""
        return int((self.off == 1).sum())


def filter_shares(masks: Mapping[str, Tensor]) -> tuple[FilterShares, ...]:
    """The share of each filter that is off, for every weight of rank ≥ 2, in the order of the network."""
    check_bool(masks)
    shares = []
    for place in locate({name: tuple(mask.shape) for name, mask in masks.items()}):
        part = part_of(masks, place)
        if part.ndim >= 2 and part.numel():
            on = part.flatten(1).sum(dim=1, dtype=torch.int64)
            size = part[0].numel()
            shares.append(FilterShares(place, (size - on).to(torch.float32) / size))
    return tuple(shares)


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
