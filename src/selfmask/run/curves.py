"""The picture of a run: the loss, and how many weights are off, over the steps."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from selfmask._common.escape import one_line
from selfmask._common.files import write_atomically
from selfmask._common.style import BLUE, GREEN, ORANGE, PIXELS_PER_INCH, RC, Ink
from selfmask.run.log import Log


def draw_curves(log: Log, picture: Path, title: str) -> None:
    """Draw `picture` (PNG, 1440 × 600 pixels) from a run's log, in the style of the report's figures."""
    content = io.BytesIO()
    with mpl.rc_context(RC):
        figure = Figure(figsize=(720 / PIXELS_PER_INCH, 300 / PIXELS_PER_INCH), layout="constrained")
        left, right = figure.subplots(1, 2)
        lines = [_draw(left, log, "loss", 1, BLUE, "loss of each logged batch")]
        if any("accuracy" in entry for entry in log.steps):
            other = left.twinx()
            lines.append(_draw(other, log, "accuracy", 100, GREEN, "accuracy on it (%, green scale)"))
            other.set_ylim(0, 100)
            other.tick_params(axis="y", labelcolor=GREEN.light)
            other.grid(visible=False)
        lines.append(_draw(right, log, "off", 100, ORANGE, "weights off (%)"))
        figure.suptitle(one_line(title), x=0.01, ha="left", fontsize=13, fontweight="bold")
        figure.legend(handles=lines, loc="outside lower left", ncols=3)
        figure.savefig(content, format="png", dpi=2 * PIXELS_PER_INCH, metadata={"Software": None})
    write_atomically(picture, content.getvalue())


def _draw(axes: Axes, log: Log, key: str, factor: float, ink: Ink, name: str) -> Line2D:
    steps, values = log.curve(key)
    shown = [factor * value for value in values]
    marker = "o" if len(steps) < 3 else None
    (line,) = axes.plot([step + 1 for step in steps], shown, color=ink.light, marker=marker, label=name)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    return line
