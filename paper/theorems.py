"""App. Fig. 1: only the learning rate matters, on a real backbone and real images.

Five trainings that differ in (λ, S0, μ) only: the standard one, the one that the theorems say is the same, and one
change at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from cells import Cell, Found, gathered, pick, seeds, spread, table
from matplotlib.figure import Figure
from supervised import FIRST, HERE, LATE, RATES

from selfmask.maskfile.loading import load
from selfmask.masking.rules import Threshold

SETTINGS = {**HERE, **LATE, "images": 2000, "size": 64, "steps": 150}
"""More than the other folders take, so that masks at a rate that does no harm have time to gain."""
STANDARD = RATES["paper, late", FIRST]


@dataclass(frozen=True)
class Configuration:
    """λ as a multiple of the standard one, S0 and μ, and how the curve is drawn."""

    rate: float
    start: float
    mu: float
    colour: str
    line: str
    width: float


CONFIGURATIONS = {
    "standard": Configuration(1, 1.0, 0.0, "#1f5fa8", "-", 3.5),
    "equivalent": Configuration(2, 2.5, 0.5, "#111111", ":", 1.6),
    "rate": Configuration(2, 1.0, 0.0, "#c2571a", "-", 3.5),
    "threshold": Configuration(1, 1.0, 0.5, "#111111", "--", 1.2),
    "start": Configuration(1, 2.0, 0.0, "#3b8a5a", "-", 1.6),
}
"""PAPER §3. The theorems: masks depend on λ/(S0 − μ) alone, which is 1, 1, 2, 2 and 1/2 times the standard λ here."""
ALIKE = (("standard", "equivalent"), ("rate", "threshold"))


def cells(
    numbers: Sequence[int] = (0, 1, 2), settings: Mapping[str, Any] = SETTINGS, *,
    data: str = "CIFAR-10", backbone: str = FIRST, rate: float = STANDARD,
) -> list[Cell]:  # fmt: skip
    """Five trainings a seed: the seed is of the images, their order and their views, the same for all five."""
    return [
        Cell(
            data, backbone, seed, {"recipe": "theorems", "configuration": name},
            {**settings, "lr": rate * of.rate},
            rule=Threshold(mu=of.mu, start=of.start), keep=("log",), test=2000,
        )
        for seed in numbers
        for name, of in CONFIGURATIONS.items()
    ]  # fmt: skip


def compared(out: Path) -> dict[str, Any]:
    """How far any two runs of a seed are apart: the masks at the end, bit by bit, and the curves, step by step.

    `flipped agreeing` is the share of the weights off in either that are off in both: all bits agree on nearly
    everything wherever few are flipped.
    """
    of = cells()
    found, pairs = gathered(of, out), dict[str, list[Found]]()
    for seed in seeds(found):
        masks = {
            cell.tags["configuration"]: load(out / cell.name / "mask.safetensors").masks()
            for cell in of
            if cell.seed == seed
        }
        logs = {one["configuration"]: one["log"] for one in pick(found, seed=seed)}
        for a, b in combinations(CONFIGURATIONS, 2):
            same = sum(int((m == masks[b][n]).sum()) for n, m in masks[a].items())
            both = sum(int((~m & ~masks[b][n]).sum()) for n, m in masks[a].items())
            either = sum(int((~m | ~masks[b][n]).sum()) for n, m in masks[a].items())
            total = sum(m.numel() for m in masks[a].values())
            pairs.setdefault(f"{a} and {b}", []).append(
                {
                    "seed": seed,
                    "bits": total,
                    "bits agreeing": same / total,
                    "flipped agreeing": both / either if either else 1.0,
                    "loss apart": _apart(logs[a]["loss"], logs[b]["loss"]),
                    "mean score apart": _apart(logs[a]["fall"], logs[b]["fall"]),
                }
            )
    return {"pairs": pairs}


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    return max(abs(x - y) for x, y in zip(one, other, strict=True))


def figure1(found: Sequence[Found]) -> Figure:
    """Loss (a running mean of nine steps), normalised mean score, weights off: means over the seeds."""
    figure = Figure(figsize=(13, 4), dpi=90, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for name, of in CONFIGURATIONS.items():
        runs = pick(found, configuration=name)
        label = f"{name}: λ = {runs[0]['rate']:g}, S0 = {of.start:g}, μ = {of.mu:g}"
        style: dict[str, Any] = {"color": of.colour, "linestyle": of.line, "linewidth": of.width}
        curves = {key: np.mean([run["log"][key] for run in runs], axis=0) for key in ("loss", "fall", "off")}
        steps = np.arange(1, len(curves["loss"]) + 1)
        window = min(9, len(steps))
        loss = np.convolve(curves["loss"], np.ones(window) / window, "valid")
        left.plot(steps[(window - 1) // 2 :][: len(loss)], loss, label=label, **style)
        middle.plot(steps, 1 - curves["fall"], **style)
        right.plot(steps, 100 * curves["off"], **style)
    left.set(ylabel="loss (mean of nine steps)")
    middle.set(ylabel="mean of (S − μ) / (S0 − μ)")
    middle.ticklabel_format(useOffset=False)
    right.set(ylabel="weights off (%)")
    right.set_ylim(bottom=0)
    for axes in (left, middle, right):
        axes.set(xlabel="step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.legend(frameon=False, fontsize=9, ncols=3, loc="outside upper center")
    return figure


def tables(found: Sequence[Found], pairs: Mapping[str, Sequence[Found]]) -> str:
    """How each run ended, and the pairs."""
    rows = []
    for name, of in CONFIGURATIONS.items():
        runs = pick(found, configuration=name)
        last = [mean(run["log"]["loss"][-9:]) for run in runs]
        off = [run["flipped"] * run["weights"] for run in runs]
        rows.append(
            [f"{runs[0]['rate']:g}", f"{of.start:g}", f"{of.mu:g}", spread(off, 0), spread(last),
             spread([run["before"] for run in runs]), spread([run["head"] for run in runs])]
        )  # fmt: skip
    ends = table(
        ["λ", "S0", "μ", "weights off", "loss, last nine steps", "top-1 before: the probe", "top-1 after"],
        rows,
    )
    apart = [
        [
            pair,
            f"{100 * min(one['bits agreeing'] for one in of):.5f} %",
            f"{100 * min(one['flipped agreeing'] for one in of):.3f} %",
            f"{max(one['loss apart'] for one in of):.2g}",
            f"{max(one['mean score apart'] for one in of):.2g}",
        ]
        for pair, of in pairs.items()
    ]
    return (
        ends
        + "\n"
        + table(
            ["pair: least of the seeds", "bits agreeing", "of the flipped", "loss apart", "mean score apart"],
            apart,
        )
    )


def made(document: Mapping[str, Any]) -> dict[str, str | Figure]:
    """The figure and its numbers; and of the five trainings from before, at the paper's own rate."""
    (before,) = document["earlier"]
    return {
        "figure1.png": figure1(document["cells"]),
        "figure1.md": tables(document["cells"], document["pairs"]),
        "lambda50.png": figure1(before["cells"]),
        "lambda50.md": tables(before["cells"], before["pairs"]),
    }
