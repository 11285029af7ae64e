"""Main Fig. 3: few labels, with masks that were learnt on all images without any."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

import supervised
from cells import Cell, pick, spread, table
from matplotlib.figure import Figure

from selfmask._common.style import MARKERS, SERIES

SHARES = (10, 4, 2, 1, 0.5, 0.25)
"""Of the labels, in percent."""
TRAINED = (10, 0.5)
"""Those that masks and all weights are trained with."""
DRAWS = 5
"""Of the labels, for a probe."""
HERE: dict[str, Any] = {"images": 4000, "size": 48}
FREE: dict[str, Any] = {**HERE, "objective": "distil", "steps": 150, "batch": 32}
WITH: dict[str, Any] = {**HERE, "objective": "supervised", "steps": 60, "batch": 16}
DATA, BACKBONE = "CIFAR-10", "EfficientNet-Lite0"
PROBED: dict[str, Any] = {"measures": ("low-shot",), "test": 1000}
KINDS = {
    "probe, pretrained": "a probe of the pretrained features",
    "probe, self-masked": "a probe after a mask learnt on all images without labels",
    "supervised mask": "a mask learnt with the same labels only",
    "full fine-tuning": "all weights trained with the same labels only",
}


def cells() -> list[Cell]:
    """Probes: two seeds, five draws of the labels each. Trainings with few labels: one seed."""
    made = []
    for seed in (0, 1):
        made += [
            Cell(DATA, BACKBONE, seed, {"kind": "probe, pretrained"}, FREE, how="untouched", **PROBED),
            Cell(DATA, BACKBONE, seed, {"kind": "probe, self-masked"}, FREE, **PROBED),
        ]  # fmt: skip
    for share in TRAINED:
        budget = {**WITH, "budget": f"{share:g} %"}
        made += [
            Cell(
                DATA, BACKBONE, 0, {"kind": "supervised mask", "share": f"{share:g}"}, {**budget, **supervised.OURS},
                test=1000,
            ),
            Cell(DATA, BACKBONE, 0, {"kind": "full fine-tuning", "share": f"{share:g}"}, budget, how="full", test=1000),
        ]  # fmt: skip
    return made


def accuracies(document: Mapping[str, Any]) -> dict[str, dict[float, list[float]]]:
    """Top-1 by kind and share of the labels in percent, one for each seed."""
    found: dict[str, dict[float, list[float]]] = {}
    for kind in KINDS:
        for one in pick(document["cells"], kind=kind):
            by_share = one.get("low-shot") or {one["share"]: one["head"]}
            for share, value in by_share.items():
                found.setdefault(kind, {}).setdefault(float(share), []).append(value)
    return found


def low_shot_table(document: Mapping[str, Any]) -> str:
    """Markdown."""
    found = accuracies(document)
    rows = [[kind, *(spread(found[kind].get(share, [])) for share in SHARES)] for kind in found]
    return table(["labels", *(f"{share:g} %" for share in SHARES)], rows)


def figure3(document: Mapping[str, Any]) -> Figure:
    """Top-1 over the share of the labels."""
    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for (kind, of), ink, marker in zip(accuracies(document).items(), SERIES, MARKERS, strict=False):
        shares = sorted(of)
        error = [stdev(of[share]) if len(of[share]) > 1 else 0 for share in shares]
        axes.errorbar(
            shares,
            [mean(of[share]) for share in shares],
            error,
            marker=marker,
            color=ink.light,
            label=kind,
            capsize=2,
        )
    axes.set_xscale("log")
    axes.set_xticks(SHARES, [f"{share:g}" for share in SHARES])
    axes.minorticks_off()
    axes.set(xlabel="share of the labels (%)", ylabel="top-1")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure
