"""The tables and the pictures of `label_free.py`, from the results that it kept."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from label_free_cells import BACKBONES, DATA, FIRST, RECIPES
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from selfmask._common.style import (
    BLUE,
    GREEN,
    GRID,
    INDIGO,
    MAGENTA,
    MARKERS,
    OCHRE,
    ORANGE,
    PURPLE,
    SERIES,
    SLATE,
    Ink,
)  # fmt: skip
from selfmask.objectives.registry import objective_class
from selfmask.reports.chart import Chart, DataTable, columns_of_legend, is_narrow, set_height

MASKED, BASE, LARGER, WHITE = "masked", "pretrained", re.compile(r"pretrained, (\d+) px"), ", whitened"
STATISTICS, NORMS, ALL = "statistics only", "norm weights alone", "full fine-tuning"
UNTRAINED = (BASE, STATISTICS)
BEST = "untouched, at its best size"
DRAWN = (FIRST, "resnet-18")


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, a table for each backbone of what was `kept`: k-NN, and in brackets the linear probe.

    "norm weights alone" and "all weights" learnt by the same loss, at the rates that `adapt` takes. Means over the
    seeds, or over those that are named. The gains are those of the seeds, with the interval of the first. The larger
    view is the one that each seed's run chose on its training images.
    """
    lines: list[str] = []
    order = [_whole(one, found) for one in sorted(found, key=_place)]
    for backbone, group in itertools.groupby(order, key=lambda one: one["backbone"]):
        lines += [
            f"{backbone}:", "",
            "| data | recipe | seeds | untouched | whitened | on a larger view | whitened | statistics only | masked "
            "| whitened | norm weights alone | all weights | gain, points | off, file |",
            f"|{'---|' * 14}",
        ]  # fmt: skip
        for _, cell in itertools.groupby(group, key=lambda one: (one["data"], one["size"], one["recipe"])):
            lines.append(_line(list(cell)))
        lines.append("")
    return "\n".join(lines)


def _whole(one: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`one` with the rows without masks from other recipes' runs on the same images; the larger view's is `BEST`."""
    same = ("data", "backbone", "size", "seed")
    others = [other["rows"] for other in found if all(other[key] == one[key] for key in same)]
    shared = {name: row for rows in others for name, row in rows.items() if name.startswith(UNTRAINED)}
    rows = shared | one["rows"]
    looked = map(LARGER.fullmatch, (*one["rows"], *shared))
    sizes = [int(found[1]) for found in looked if found is not None]
    if sizes:
        name = f"{BASE}, {sizes[0]} px"
        rows |= {BEST: rows[name]} | ({BEST + WHITE: rows[name + WHITE]} if name + WHITE in rows else {})
    return {**one, "rows": rows, "best": sizes[0] if sizes else None}


def _place(one: Mapping[str, Any]) -> tuple[Any, ...]:
    kinds = (list(BACKBONES), list(DATA), list(RECIPES))
    backbone, data, recipe = (
        k.index(one[w]) for k, w in zip(kinds, ("backbone", "data", "recipe"), strict=True)
    )
    return (backbone, data, one["size"], recipe, one["seed"])


def _line(cell: list[Mapping[str, Any]]) -> str:
    first = cell[0]
    names = [BASE, BASE + WHITE, BEST, BEST + WHITE, STATISTICS, MASKED, MASKED + WHITE, NORMS, ALL]
    sizes = _sizes(cell)
    shown = [_mean(cell, name, f" at {sizes}" if name == BEST else "") for name in names]
    if not sizes:
        shown[2:4] = ["none better"] * 2
    gains = [one["rows"][MASKED]["knn_gain"] for one in cell]
    _, low, high = (100 * x for x in gains[0])
    each = ", ".join(f"{100 * gain[0]:+.1f}" for gain in gains)
    off = statistics.mean(1 - one["density"] for one in cell)
    file = statistics.mean(one["file"] for one in cell) / 1000
    seeds = ", ".join(str(one["seed"]) for one in cell)
    data = f"{first['data']}, {first['size']} px"
    cells = [data, first["recipe"], seeds, *shown, f"{each} ({low:+.1f} to {high:+.1f})",
             f"{100 * off:.1f} %, {file:.0f} kB"]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _sizes(cell: Sequence[Mapping[str, Any]]) -> str:
    """Of the larger views that the seeds chose; "" where none was better."""
    found = sorted({one["best"] for one in cell if one["best"] is not None})
    return f"{', '.join(map(str, found))} px" if found else ""


def _mean(cell: list[Mapping[str, Any]], name: str, at: str) -> str:
    some = [one for one in cell if name in one["rows"]]
    if not some:
        return "–"
    rows = [one["rows"][name] for one in some]
    knn, probe = ([row[what][0] for row in rows if what in row] for what in ("knn", "probe"))
    mean = f"{statistics.mean(knn):.3f}" + (f" ({statistics.mean(probe):.3f})" if probe else "") + at
    if len(some) == len(cell):
        return mean
    return f"{mean}, seed{'s' if len(some) > 1 else ''} {', '.join(str(one['seed']) for one in some)}"


LOOKS: dict[str, tuple[str, str, Ink]] = {
    BASE: ("untouched", "o", SLATE),
    BEST: ("untouched, at the best size", "s", INDIGO),
    STATISTICS: ("statistics only", "v", OCHRE),
    "contrast": ("masked, contrast", "D", BLUE),
    "distil": ("masked, distil", "^", GREEN),
    "swav": ("masked, SwAV", "P", PURPLE),
    NORMS: ("norm weights alone, contrast", "X", MAGENTA),
    ALL: ("all weights, contrast", "*", ORANGE),
}
"""The rows of the picture: what they are called, their markers and inks. Masks are those of the recipes as they are."""
TITLES = {
    "cifar10": "CIFAR-10", "clothing": "clothing", "dtd10": "textures", "gtsrb": "traffic signs", "digits": "digits",
    "efficientnet-lite0": "EfficientNet-Lite0", "resnet-18": "ResNet-18",
}  # fmt: skip


@dataclass(frozen=True)
class Dot:
    """A row of the picture. size: in pixels, of each seed where they differ. knn: mean over `seeds`; low, high: 95 %
    interval of the first of them.
    """

    data: str
    backbone: str
    row: str
    size: str
    seeds: int
    knn: float
    low: float
    high: float
    whitened: float | None


def dots(found: Sequence[Mapping[str, Any]]) -> list[Dot]:
    """Each data set's rows at its working size, in the order of the sets, for the two convolutional networks."""
    made: list[Dot] = []
    for backbone, data in itertools.product(DRAWN, DATA):
        at = (data, backbone, DATA[data]["size"])
        own = [
            _whole(one, found) for one in sorted(found, key=_place)
            if (one["data"], one["backbone"], one["size"]) == at
        ]  # fmt: skip
        for row in LOOKS:
            recipe = row if row in RECIPES else None if row in (BASE, BEST, STATISTICS) else "contrast"
            some = [one for one in own if recipe in (None, one["recipe"])]
            name = MASKED if row in RECIPES else row
            rows = list({one["seed"]: one["rows"] for one in some if name in one["rows"]}.values())
            if rows:
                values = [one[name]["knn"] for one in rows]
                whites = [one[name + WHITE]["knn"][0] for one in rows if name + WHITE in one]
                made.append(
                    Dot(
                        data, backbone, row, _sizes(some) if row == BEST else f"{at[2]} px", len(values),
                        statistics.mean(value[0] for value in values), values[0][1], values[0][2],
                        statistics.mean(whites) if whites else None,
                    )
                )  # fmt: skip
    return made


def picture(found: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Draw the rows of each data set, a panel a network, as PNG, SVG, CSV and JSON."""
    made = dots(found)
    places = {at: -place for place, at in enumerate(itertools.product(DATA, (*LOOKS, "")))}

    def draw(figure: Figure) -> None:
        narrow = is_narrow(figure)
        set_height(figure, 1250 if narrow else 640)
        shape = (len(DRAWN), 1) if narrow else (1, len(DRAWN))
        axes = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False).flat
        for axis, backbone in zip(axes, DRAWN, strict=True):
            for dot in (dot for dot in made if dot.backbone == backbone):
                y, (_, marker, ink) = places[dot.data, dot.row], LOOKS[dot.row]
                axis.plot([100 * dot.low, 100 * dot.high], [y, y], color=ink.light, linewidth=1)
                axis.plot(100 * dot.knn, y, marker, color=ink.light, markersize=6)
                if dot.whitened is not None:
                    axis.plot(100 * dot.whitened, y, marker, color=ink.light, markersize=6, fillstyle="none")
                if dot.row == BEST:
                    right = 100 * max(dot.high, dot.whitened or 0) + 1.5
                    axis.annotate(dot.size, (right, y), fontsize=9, va="center")
            for data in list(DATA)[1:]:
                axis.axhline(places[data, BASE] + 1, color=GRID.light, linewidth=0.8)
            middles = [places[data, BASE] - (len(LOOKS) - 1) / 2 for data in DATA]
            axis.set_yticks(middles, [f"{TITLES[data]}\n{DATA[data]['size']} px" for data in DATA])
            axis.grid(visible=False, axis="y")
            axis.grid(visible=True, axis="x")
            axis.set_title(TITLES[backbone])
            axis.set_xlabel("k-NN top-1 (%)")
        handles = [
            Line2D([], [], color=ink.light, marker=marker, linestyle="none", label=label)
            for label, marker, ink in LOOKS.values()
        ]
        handles.append(
            Line2D(
                [], [], color=SLATE.light, marker="o", linestyle="none", fillstyle="none", label="whitened"
            )
        )
        labels = [str(handle.get_label()) for handle in handles]
        figure.legend(handles=handles, loc="outside lower center", ncols=columns_of_legend(figure, labels))

    return Chart(
        "label-free-rows",
        "Without labels, all rows",
        "k-NN on the test images; bars are 95 % intervals of the first seed, hollow marks the same features whitened.",
        "; ".join(
            f"{TITLES[dot.data]}, {TITLES[dot.backbone]}: {LOOKS[dot.row][0]} {100 * dot.knn:.1f} %"
            for dot in made
            if dot.row in (BASE, "contrast")
        ),
        DataTable(tuple(field.name for field in fields(Dot)), tuple(astuple(dot) for dot in made)),
        draw,
    ).save(folder)


def curve(found: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Draw the gain in k-NN against the passes, traffic signs with the first backbone, as PNG, SVG, CSV and JSON."""
    rows: list[tuple[str, int, int, float, float, float]] = []
    for one in sorted(found, key=_place):
        recipe = RECIPES[one["recipe"]]
        if (one["data"], one["backbone"], one["size"]) == ("gtsrb", FIRST, DATA["gtsrb"]["size"]):
            usual = objective_class(recipe["objective"]).passes
            rate = f", rate {recipe['lr']}" if "lr" in recipe else ""
            gain = (100 * x for x in one["rows"][MASKED]["knn_gain"])
            rows.append((recipe["objective"] + rate, recipe.get("epochs", usual), one["seed"], *gain))
    lines = {name: [row for row in rows if row[0] == name] for name in dict.fromkeys(row[0] for row in rows)}

    def draw(figure: Figure) -> None:
        set_height(figure, 380)
        axis = figure.subplots()
        for (name, own), ink, marker in zip(lines.items(), SERIES, MARKERS, strict=False):
            passes = sorted({row[1] for row in own})
            means = [statistics.mean(row[3] for row in own if row[1] == at) for at in passes]
            axis.plot(passes, means, color=ink.light, marker=marker, label=name)
            axis.scatter(
                [row[1] for row in own], [row[3] for row in own], color=ink.light, marker=marker, s=9
            )
        axis.axhline(0, color=SLATE.light, linewidth=0.8)
        axis.set_xticks(sorted({row[1] for row in rows}))
        axis.set_xlabel("passes over 3 512 images")
        axis.set_ylabel("gain in k-NN, points")
        axis.legend()

    best = max(rows, key=lambda row: row[3])
    return Chart(
        "label-free",
        "What longer runs bring without labels",
        "k-NN on the test images of the traffic signs beside the untouched network, both at 64 px; lines are means "
        "over the seeds, small marks the seeds.",
        f"The most is {best[3]:+.1f} points, by {best[0]} after {best[1]} passes.",
        DataTable(("recipe", "passes", "seed", "gain", "low", "high"), tuple(rows)),
        draw,
    ).save(folder)
