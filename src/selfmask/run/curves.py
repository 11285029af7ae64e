"""The picture of a run: the loss, and how many weights are off, over the steps."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from selfmask._common.escape import one_line
from selfmask._common.files import write_atomically
from selfmask.run.log import Log

_BLUE, _ORANGE, _GREY = "#1f5fa8", "#c2571a", "#555555"


def draw_curves(log: Log, picture: Path, title: str) -> None:
    """Draw `picture` (PNG, 1200 × 450 pixels) from a run's log."""
    entries = log.steps
    steps = [e["step"] + 1 for e in entries]
    figure = Figure(figsize=(12, 4.5), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    marker = "o" if len(steps) < 3 else None
    left.plot(steps, [e["loss"] for e in entries], color=_BLUE, marker=marker, label="loss")
    left.set(xlabel="step", ylabel="loss (of each logged batch)", title="What the masks learnt from")
    left.set_ylim(bottom=0)
    if entries and "accuracy" in entries[-1]:
        twin = left.twinx()
        twin.plot(steps, [100 * e["accuracy"] for e in entries], color=_GREY, linewidth=0.8, label="accuracy")
        twin.set(ylabel="accuracy on the batch (%)", ylim=(0, 100))
        twin.spines["top"].set_visible(False)
    if entries and "off" in entries[-1]:
        right.plot(steps, [100 * e["off"] for e in entries], color=_ORANGE, marker=marker)
        right.set(xlabel="step", ylabel="weights off (%)", title="How much was switched off")
        right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.suptitle(one_line(title), parse_math=False)  # a folder may have a dollar in its name
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(picture, content.getvalue())
