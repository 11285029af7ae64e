"""Whether an objective without labels will help, told before it trains by what the untouched network makes of images.

contrast and distil bring back what a small view loses, so the more of an image's neighbours are those of a larger view
already, the less they gain; they hardly ever harm. SwAV has nothing but the images to go by: it helps where the network
does not yet tell two of them apart, and elsewhere clusters anew what was in order.
`benchmarks/agreement.py` holds both against what runs gained, and docs/label-free.md has how often they were right on
sets that they were not fitted to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Measure = Literal["found", "shared"]
"""As of `agreement.Agreement`, of the untouched network."""

LIMITS: dict[str, tuple[Measure, float]] = {
    "contrast": ("shared", 0.72),
    "distil": ("shared", 0.74),
    "swav": ("found", 0.69),
}
"""What an objective is told by, and the share below which runs gained."""
_MUCH = 0.55
"""Of neighbours shared: from here on contrast gained 2 or 3 points, below it 5 and more."""


@dataclass(frozen=True)
class Forecast:
    """helps: whether a gain is to be expected. sentence: the same with its reason, for a reader."""

    helps: bool
    sentence: str


def forecast(objective: str, found: float, shared: float | None, larger: int | None) -> Forecast | None:
    """What is to be expected of `objective`; None where nothing is known of it, or its measure could not be taken.

    found, shared: of the untouched network, in [0, 1]; larger: as of `agreement.Agreement`.

    >>> said = forecast("contrast", 0.57, 0.33, 160)
    >>> said.helps, said.sentence.partition(":")[0]
    (True, 'contrast should help')
    """
    if objective not in LIMITS:
        return None
    measure, limit = LIMITS[objective]
    share = found if measure == "found" else shared
    if share is None:
        return None
    what = (
        f"finds the other view of {100 * share:.0f} % of the images"
        if measure == "found"
        else f"gives an image {100 * share:.0f} % of the neighbours that it gives it at {larger} px"
    )
    helps = share < limit
    expected = "should help" if helps else "may well not help"
    if helps and measure == "shared" and share >= _MUCH:
        expected = "may help a little"
    advice = "" if helps else "; see what the end of the run says before you keep the mask"
    return Forecast(
        helps,
        f"{objective} {expected}: the untouched network {what}, and most runs where that was less "
        f"than {100 * limit:.0f} % gained{advice}",
    )
