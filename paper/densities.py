"""App. Fig. 2 and Fig. 3: where weights were switched off, drawn from the cells that Table 1 is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cells import Found, pick, table

from selfmask.reports.chart import Chart
from selfmask.reports.density import Layer
from selfmask.reports.density_chart import depth_chart
from selfmask.reports.places import Place


def read(one: Found) -> tuple[Layer, ...]:
    """The layers of a cell."""
    return tuple(
        Layer(Place(f"{kind} {depth}", "", kind, part, "", depth), weights, on)
        for kind, part, depth, weights, on in one["layers"]
    )


def figure(document: Mapping[str, Any], backbone: str, groups: Mapping[str, Mapping[str, str]]) -> Chart:
    """Means and deviations over the data sets; a group is named by the tags of its cells."""
    cells: Sequence[Found] = pick(document["cells"], backbone=backbone)
    several = {name: [read(one) for one in pick(cells, **tags)] for name, tags in groups.items()}
    name = backbone.lower().replace("/", "")
    return depth_chart({group: of for group, of in several.items() if of}, name, backbone)


def by_kind(document: Mapping[str, Any], backbone: str, groups: Mapping[str, Mapping[str, str]]) -> str:
    """Markdown: the share of weights off of each kind of layer, the mean over the data sets of its pooled layers."""
    kinds: dict[tuple[str, str], dict[str, list[float]]] = {}
    for group, tags in groups.items():
        for one in pick(document["cells"], backbone=backbone, **tags):
            pooled: dict[tuple[str, str], list[int]] = {}
            for layer in read(one):
                total = pooled.setdefault((layer.place.kind, layer.place.part), [0, 0])
                total[0] += layer.weights
                total[1] += layer.off
            for key, (weights, off) in pooled.items():
                kinds.setdefault(key, {}).setdefault(group, []).append(100 * off / weights)
    names = list(groups)
    rows = [
        [kind, part, *(f"{sum(of[g]) / len(of[g]):.3f} %" if of.get(g) else "–" for g in names)]
        for (kind, part), of in kinds.items()
    ]
    return table([backbone, "part", *(f"off, {name}" for name in names)], rows)
