"""Binary entropy: the bits that a mask takes if nothing but its density is known."""

from __future__ import annotations

from typing import overload

import numpy as np
from numpy.typing import NDArray


@overload
def entropy_bits(events: float, total: float) -> float: ...
@overload
def entropy_bits(events: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]: ...
def entropy_bits(
    events: float | NDArray[np.float64], total: float | NDArray[np.float64]
) -> float | NDArray[np.float64]:
    """N · H(k / N) of k `events` among N = `total` places, in bits, element by element.

    0 where none or all are events, and where there is no place. Numbers give a float, arrays a float64 array.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.divide(events, total)
        rest = np.subtract(total, events)
        bits = np.nan_to_num(-events * np.log2(share) - rest * np.log2(1 - share), nan=0.0)
    return bits if bits.ndim else float(bits)
