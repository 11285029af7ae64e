"""Figures of where weights were switched off: over depth by kind, and by stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from selfmask._common.style import BLUE, MARKERS, MUTED, SERIES
from selfmask.reports.chart import (
    Chart,
    DataTable,
    columns_of_legend,
    is_narrow,
    set_height,
)
from selfmask.reports.density import Layer, SeriesPoint, grouped, series
from selfmask.reports.places import kind_rank
from selfmask.reports.wording import label, listed, percent, percents

_DEPTH_COLUMNS = ("group", "kind", "part", "depth", "density", "deviation", "masks")


def depth_chart(
    groups: Mapping[str, Sequence[Sequence[Layer]]], name: str = "densities-by-depth", of: str = ""
) -> Chart:
    """Share of weights off over depth, one line a kind (App. Fig. 2 and Fig. 3).

    `groups` maps a group's name ("supervised", "label-free") to the layers of its masks, all of one backbone,
    which `of` names in the title. A panel is drawn for each group (and for weights and biases apart, where a
    kind has both); where a group has several masks, lines are their means and bands one standard deviation.
    """
    points = {group: series(several) for group, several in groups.items()}
    everything = [p for found in points.values() for p in found]
    kinds = sorted({p.kind for p in everything}, key=kind_rank)
    # Twelve colours and markers; should a network have more kinds of layers, both together still differ.
    looks = {
        kind: (SERIES[i % len(SERIES)].light, MARKERS[(i + i // len(SERIES)) % len(MARKERS)])
        for i, kind in enumerate(kinds)
    }
    several_masks = any(len(several) > 1 for several in groups.values())
    panels = _panels(points)

    def draw(figure: Figure) -> None:
        narrow = is_narrow(figure)
        columns = 1 if narrow or len(panels) == 1 else 2
        rows = -(-len(panels) // columns)
        legend_columns = columns_of_legend(figure, kinds)
        set_height(figure, rows * (225 if narrow else 280) + 20 * -(-len(kinds) // legend_columns))
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        highest: dict[str, float] = {}
        for axis, panel in zip(axes, panels, strict=False):
            _draw_panel(axis, panel.points, kinds, looks)
            axis.set_title(label(panel.title, 60))
            axis.set_ylabel("weights off (%)")
            axis.set_xlabel("depth in the network →")
            highest[panel.part] = max(highest.get(panel.part, 0), axis.get_ylim()[1])
        for axis, panel in zip(
            axes, panels, strict=False
        ):  # one scale a part, so that groups can be compared
            axis.set_ylim(0, highest[panel.part] or 1)
            axis.set_xlim(-0.6, max(p.depth for p in everything) + 0.6)
        for axis in axes[len(panels) :]:
            axis.remove()
        entries = {
            label: handle
            for axis in axes[: len(panels)]
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        order = [kind for kind in kinds if kind in entries]
        figure.legend([entries[k] for k in order], order, loc="outside upper left", ncols=legend_columns)

    return Chart(
        name,
        "Where weights were switched off, layer by layer" + (f": {of}" if of else ""),
        "Each line is one kind of layer; left is near the image, right is near the output."
        + (" Lines are means over the masks, bands one standard deviation." if several_masks else ""),
        _depth_alt(points),
        DataTable(
            _DEPTH_COLUMNS,
            tuple(
                (group, p.kind, p.part, p.depth, p.mean, p.deviation, p.masks)
                for group, found in points.items()
                for p in found
            ),
        ),
        draw,
    )


def stage_chart(found: Sequence[Layer], name: str = "densities-by-stage") -> Chart:
    """Share of weights off in each stage (ResNet, EfficientNet …) or block (transformers), as bars."""
    stages = grouped(found, lambda place: place.stage)
    names = list(stages)
    shares = [100 * (1 - on / weights) if weights else 0.0 for weights, on in stages.values()]
    most = max(range(len(shares)), key=shares.__getitem__) if shares else 0

    def draw(figure: Figure) -> None:
        set_height(figure, 40 + 24 * len(names))
        axis = figure.subplots()
        bars = axis.barh(range(len(names)), shares, height=0.62, color=BLUE.light)
        labels = percents([share / 100 for share in shares])
        axis.bar_label(bars, labels, padding=4, color=MUTED.light, fontsize=11)
        axis.set_yticks(range(len(names)), [label(name, 30) for name in names])
        axis.invert_yaxis()
        axis.grid(visible=False)
        axis.set_xlim(0, max([*shares, 1e-9]) * (1.25 if is_narrow(figure) else 1.1))
        axis.xaxis.set_visible(False)
        axis.spines["bottom"].set_visible(False)

    return Chart(
        name,
        "Which part of the network changed most",
        "Share of the weights in each part that are switched off; the part nearest to the image comes first.",
        f"The most was switched off in {names[most]}, {percent(shares[most] / 100)} of its weights."
        if names
        else "No weights.",
        DataTable(
            ("stage", "weights", "on", "density"),
            tuple((stage, w, on, on / w if w else 1.0) for stage, (w, on) in stages.items()),
        ),
        draw,
    )


def _draw_panel(
    axis: Axes, found: Sequence[SeriesPoint], kinds: Sequence[str], looks: Mapping[str, tuple[str, str]]
) -> None:
    for kind in kinds:
        line = sorted((p for p in found if p.kind == kind), key=lambda p: p.depth)
        if not line:
            continue
        colour, marker = looks[kind]
        depth = [p.depth for p in line]
        off = [100 * (1 - p.mean) for p in line]
        # Kinds that occur here and there (downsampling) are points: a line between them would claim a course.
        sparse = len(line) < max(p.depth for p in found) / 2
        style = "none" if sparse and len(line) > 1 else "-"
        axis.plot(
            depth, off, linestyle=style, marker=marker, color=colour, label=kind, clip_on=False, zorder=3
        )
        if any(p.deviation for p in line):
            low = [100 * (1 - p.mean - p.deviation) for p in line]
            high = [100 * (1 - p.mean + p.deviation) for p in line]
            if sparse:
                axis.vlines(depth, low, high, color=colour, linewidth=1)
            else:
                axis.fill_between(depth, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


@dataclass(frozen=True)
class _Panel:
    title: str
    part: str
    points: list[SeriesPoint]


def _panels(points: Mapping[str, Sequence[SeriesPoint]]) -> list[_Panel]:
    """One panel a group; weights and biases apart where a kind has both (transformers: App. Fig. 2)."""
    parts = {p.part for found in points.values() for p in found}
    kinds = [{p.kind for found in points.values() for p in found if p.part == part} for part in parts]
    together = len(kinds) < 2 or not set.intersection(*kinds)
    titles = {"weight": "weights", "bias": "biases", "": ""}
    panels = []
    for part in ("",) if together else ("weight", "bias"):
        for group, found in points.items():
            title = ", ".join(filter(None, (group if len(points) > 1 else "", titles[part])))
            chosen = [p for p in found if part in ("", p.part)]
            if chosen:
                panels.append(_Panel(title[:1].upper() + title[1:], part, chosen))
    return panels


def _depth_alt(points: Mapping[str, Sequence[SeriesPoint]]) -> str:
    sentences = []
    for group, found in points.items():
        if not found:
            continue
        lowest = min(found, key=lambda p: p.mean)
        noun = "biases" if lowest.part == "bias" else "weights"
        where = f"{lowest.kind.removesuffix(' ' + lowest.part)} {noun} at depth {lowest.depth}"
        kinds = sorted({p.kind for p in found}, key=kind_rank)
        prefix = f"{group}: " if len(points) > 1 else ""
        sentences.append(
            f"{prefix}lines for {listed(kinds)}; most is off in the {where}, {percent(1 - lowest.mean)}."
        )
    return " ".join(sentences) or "No weights."
