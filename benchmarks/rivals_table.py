"""The tables and the picture of `rivals.py`, from the results that it kept."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from torch import Tensor

from selfmask._common.style import MARKERS, SERIES
from selfmask.reports.chart import Chart, DataTable, columns_of_legend, is_narrow, set_height
from selfmask.reports.wording import signed, size

Result = dict[str, Any]
BUDGETS = (10_240, 20_480, 51_200, 204_800)
LABELS = {
    "cifar10": "CIFAR-10", "signs": "traffic signs", "resnet18": "ResNet-18", "vit-s14": "ViT-S/14",
    "efficientnet-lite0": "EfficientNet-Lite0", "full": "full fine-tuning", "norms": "norm weights alone",
    "masks, norms": "masks and norm weights", "few masks, norms": "few masks and norm weights",
    "searched masks, norms": "masks at their rate and norm weights",
    "norms, moving": "norm weights, moving statistics",
    "LoRA 1": "LoRA, rank 1", "LoRA 2": "LoRA, rank 2", "LoRA 4": "LoRA, rank 4", "LoRA 8": "LoRA, rank 8",
}  # fmt: skip
"""What the picture calls them; the others by their own names."""
Z = statistics.NormalDist().inv_cdf(0.975)


def pack(right: Tensor) -> str:
    """Which images were right, bool (N,), in hexadecimal."""
    return np.packbits(right.numpy()).tobytes().hex()


def unpack(text: str, images: int) -> np.ndarray:
    """The inverse: float64 (images,) of 0 and 1."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=images).astype(np.float64)


def chosen_rate(found: Sequence[Result]) -> float | None:
    """The rate that was best on the images held out; of equal ones that of the lower loss there."""
    return max(found, key=lambda one: (one["validation"]["top1"], -one["validation"]["loss"]))["rate"]


@dataclass(frozen=True)
class Point:
    """A method stored in one way, over its seeds.

    rate: the chosen one; `edge` where it is the first or the last that was searched, `partly` where not all were.
    file, head: mean bytes; largest: of the files. right: for each seed which test images were right, float64 (images,).
    """

    cell: str
    method: str
    way: str
    rate: float | None
    edge: bool
    partly: bool
    file: float
    largest: int
    head: float
    seconds: float
    right: Mapping[int, np.ndarray]

    @property
    def top1(self) -> float:
        return float(np.mean([r.mean() for r in self.right.values()]))

    @property
    def name(self) -> str:
        """What is stored: "masks, half", whatever the precision of the head."""
        part = self.way.rpartition(", ")[0]
        return f"{self.method}, {part}" if part else self.method

    @property
    def precision(self) -> str:
        return self.way.rpartition(", ")[2]

    @property
    def ours(self) -> bool:
        return "masks" in self.method

    def gain(self, other: Point) -> tuple[float, float, float]:
        """Difference in top-1 to `other`, and its 95 % interval, on the same test images and seeds.

        An image is one draw, however many seeds it was classified by: the interval is that of the images' mean
        differences. Raises `KeyError` where no seed is common to both.
        """
        common = sorted(self.right.keys() & other.right.keys())
        if not common:
            raise KeyError(f"{self.name} and {other.name} have no seed in common")
        return interval(np.mean([self.right[s] - other.right[s] for s in common], axis=0))


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean of `values` (images,), and its normal 95 % interval."""
    mean = float(values.mean())
    half = Z * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return mean, mean - half, mean + half


def points(
    found: Sequence[Result], rates: Mapping[str, Sequence[float]], seeds: Sequence[int]
) -> list[Point]:
    """Each method at the rate that its search with the first seed chose, in every way that it was stored.

    `rates`: those that are searched, by method.
    """
    made: list[Point] = []
    for (cell, method), members in itertools.groupby(
        sorted(found, key=_order), key=lambda one: _order(one)[:2]
    ):
        several = list(members)
        tried = [one for one in several if one["seed"] == seeds[0]]
        if not tried:
            continue
        rate, grid, known = chosen_rate(tried), rates[method], [one["rate"] for one in tried]
        used = [o for o in several if o["rate"] == rate and o["seed"] in seeds and "ways" in o]
        for way in dict.fromkeys(w["way"] for one in used for w in one["ways"]):
            having = [(one, w) for one in used for w in one["ways"] if w["way"] == way]
            made.append(
                Point(
                    cell, method, way, rate,
                    edge=bool(grid) and rate in (min(known), max(known)),
                    partly=not {*grid} <= {*known},
                    file=statistics.mean(w["file"] for _, w in having),
                    largest=max(w["file"] for _, w in having),
                    head=statistics.mean(w["head"] for _, w in having),
                    seconds=statistics.mean(one["seconds"] for one, _ in having),
                    right={one["seed"]: unpack(w["right"], one["test"]) for one, w in having},
                )
            )  # fmt: skip
    return made


def _order(one: Result) -> tuple[str, str, int]:
    return f"{one['data']}, {one['backbone']}, {one['size']} px", one["method"], one["seed"]


def table(made: Sequence[Point], names: Sequence[str]) -> str:
    """Markdown: for each cell the methods in the order of `names`, and then who is best within a budget."""
    lines: list[str] = []
    for cell in dict.fromkeys(p.cell for p in made):
        own = [p for p in made if p.cell == cell]
        probe = next((p for p in own if p.method == "probe" and p.precision == "float32"), None)
        lines += [
            f"{cell}:", "",
            "| | rate | seeds | training | top-1 | over the probe, points | float32 | float16 | int8 | top-1, int8 |",
            "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|",
        ]  # fmt: skip
        own.sort(key=lambda p: names.index(p.method))
        for name in dict.fromkeys(p.name for p in own):
            lines.append(_line({p.precision: p for p in own if p.name == name}, probe))
        lines += ["", *_budgets(own), ""]
    return "\n".join(lines)


def _line(ways: Mapping[str, Point], probe: Point | None) -> str:
    exact = ways.get("float32") or next(iter(ways.values()))
    small = ways.get("int8", exact)
    marks = ("*" if exact.edge else "") + ("…" if exact.partly else "")
    gain = ""
    if probe is not None and exact is not probe and exact.right.keys() & probe.right.keys():
        value, low, high = exact.gain(probe)
        gain = f"{signed(value)} ({signed(low)} to {signed(high)})"
    rate = "" if exact.rate is None else f"{exact.rate:g}{marks}"
    seeds = ", ".join(map(str, sorted(exact.right)))
    # A file of so many bytes has one precision, the best: it stands where the smallest do.
    files = [size(ways[p].file) if p in ways else "" for p in ("float32", "float16")] + [size(small.file)]
    cells = [
        exact.name, rate, seeds, f"{exact.seconds:.0f} s", f"{exact.top1:.3f}", gain, *files, f"{small.top1:.3f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _budgets(own: Sequence[Point]) -> list[str]:
    """The best of ours and the best rival in so many bytes, head and all, and in any number: both on the test images,
    of all methods and precisions whose files all fit.
    """
    lines = [
        "| in | ours | top-1 | best rival | top-1 | ours over it, points |",
        "|---|---|---:|---|---:|---:|",
    ]
    for budget in (*BUDGETS, math.inf):
        best = [
            max(
                (p for p in own if p.ours is ours and p.largest <= budget), key=lambda p: p.top1, default=None
            )
            for ours in (True, False)
        ]
        cells = [
            c for p in best for c in ((f"{p.method}, {p.way}", f"{p.top1:.3f}") if p else ("none fits", ""))
        ]
        gain = ""
        mine, theirs = best
        if mine and theirs and mine.right.keys() & theirs.right.keys():
            value, low, high = mine.gain(theirs)
            gain = f"{signed(value)} ({signed(low)} to {signed(high)})"
        room = "any" if budget == math.inf else f"{budget / 1024:.0f} kB"
        lines.append(f"| {room} | {' | '.join(cells)} | {gain} |")
    return lines


def plot(made: Sequence[Point], names: Sequence[str], folder: Path) -> list[Path]:
    """Draw top-1 against bytes, a panel a cell, and write it into `folder` as PNG, SVG, CSV and JSON."""
    cells = list(dict.fromkeys(p.cell for p in made))
    shown = [n for n in names if any(p.method == n for p in made)]
    looks = {n: (SERIES[i % len(SERIES)].light, MARKERS[i % len(MARKERS)]) for i, n in enumerate(shown)}

    def draw(figure: Figure) -> None:
        columns = 1 if is_narrow(figure) else min(2, len(cells))
        rows = -(-len(cells) // columns)
        set_height(figure, 340 * rows + 90)
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axis, cell in zip(axes, cells, strict=False):
            for name in shown:
                # Int8 alone, and what was given up: precisions differ in bytes and hardly in accuracy.
                own = [
                    p
                    for p in made
                    if (p.cell, p.method) == (cell, name) and p.precision not in ("float32", "float16")
                ]
                own.sort(key=lambda p: p.file)
                colour, marker = looks[name]
                spans = [interval(np.mean(list(p.right.values()), axis=0)) for p in own]
                heights = [100 * s[0] for s in spans]
                axis.errorbar(
                    [p.file for p in own], heights, yerr=[100 * (s[2] - s[0]) for s in spans],
                    color=colour, marker=marker, linewidth=1.0, elinewidth=0.6,
                    label=LABELS.get(name, name),
                )  # fmt: skip
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size(value)))
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_title(", ".join(LABELS.get(word, word) for word in cell.split(", ")))
            axis.set_xlabel("bytes of the file, head and all, in int8")
            axis.set_ylabel("top-1 (%)")
        for axis in axes[len(cells) :]:
            axis.remove()
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=columns_of_legend(figure, labels))

    best = max(made, key=lambda p: p.top1)
    least = min(made, key=lambda p: p.file)
    rows = tuple(
        (p.cell, p.method, p.way, p.rate, len(p.right), p.file, p.head, p.seconds,
         *interval(np.mean(list(p.right.values()), axis=0)))
        for p in made
    )  # fmt: skip
    return Chart(
        "rivals",
        "Accuracy against bytes",
        "Test top-1 of each method at its searched rate, stored in int8; bars are 95 % intervals over the test images.",
        f"The best is {best.method} with {100 * best.top1:.1f} % in {size(best.file)}; the smallest is {least.method} "
        f"with {100 * least.top1:.1f} % in {size(least.file)}.",
        DataTable(
            ("cell", "method", "way", "rate", "seeds", "file", "head", "seconds", "top1", "low", "high"), rows
        ),
        draw,
    ).save(folder)
