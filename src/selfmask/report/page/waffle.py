"""A thousand squares, one for each thousandth of the weights: a share that everyone can see."""

from __future__ import annotations

import random

from selfmask.report.page.html import text
from selfmask.report.style import BLUE, ORANGE
from selfmask.report.wording import percent

COLUMNS, ROWS = 50, 20


def waffle(share_off: float) -> str:
    """A `<figure>` with ⌊1000 · share + ½⌋ of 1000 squares marked; at least one if anything is off at all."""
    total = COLUMNS * ROWS
    marked = squares(share_off)
    # Scattered, because that is what the share is: single weights here and there. Which squares means nothing.
    off = set(random.Random(0).sample(range(total), marked))
    paths = {True: "", False: ""}
    for cell in range(total):
        x, y = 10 * (cell % COLUMNS), 10 * (cell // COLUMNS)
        paths[cell in off] += f"M{x} {y}h8v8h-8z"
    if 0 < share_off < 0.5 / total:
        words = (
            f"Each square is a thousandth of the weights; less than one square is off ({percent(share_off)})."
        )
    else:
        words = f"Each square is a thousandth of the weights: {marked} of 1000 are off, all others kept as they were."
    return (
        f'<figure class="waffle"><div role="img" aria-label="{text(words)}">'
        f'<svg viewBox="0 0 {10 * COLUMNS - 2} {10 * ROWS - 2}" aria-hidden="true" focusable="false">'
        f'<path d="{paths[False]}" fill="var(--{BLUE.name})" opacity=".28"/>'
        f'<path d="{paths[True]}" fill="var(--{ORANGE.name})"/></svg></div>'
        f"<figcaption>{text(words)}</figcaption></figure>"
    )


def squares(share_off: float) -> int:
    """How many of 1000 squares stand for `share_off` in [0, 1]; at least one where the share is not zero."""
    return max(int(1000 * share_off + 0.5), 1 if share_off > 0 else 0)
