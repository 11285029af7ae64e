"""Numbers and lists as a reader expects them in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from selfmask._common.escape import one_line
from selfmask._common.units import signed

_UNIT = "\N{NO-BREAK SPACE}"


def percent(share: float, digits: int = 2) -> str:
    """A share in [0, 1] as a percentage with `digits` significant digits: 0.0213 → "2.1 %", 0.998 → "99.8 %".

    Near 100 % the digits that matter are those of what is missing, so they are kept.
    """
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f}{_UNIT}%"
    near = min(abs(value), abs(100 - value))
    decimals = 0 if near >= 10**digits else max(0, digits - 1 - _magnitude(near))
    return f"{value:.{min(decimals, 6)}f}{_UNIT}%"


def percents(shares: Sequence[float]) -> list[str]:
    """Shares that stand beside one another, with the same decimals: two significant digits for the least of them, but
    three decimals at most. 0.0059, 0.012 → "0.59 %", "1.20 %"."""
    some = [100 * share for share in shares if share]
    decimals = min(3, max(0, 1 - _magnitude(min(map(abs, some))))) if some else 0
    return [f"{100 * share:.{decimals}f}{_UNIT}%" for share in shares]


def accuracy(share: float) -> str:
    """An accuracy in [0, 1] with one decimal, as all of them have: 0.7 → "70.0 %"."""
    return f"{100 * share:.1f}{_UNIT}%"


def points(difference: float) -> str:
    """A difference of two shares as signed percentage points: 0.094 → "+9.4 points"."""
    return f"{signed(difference)} points"


def size(count: float) -> str:
    """Bytes in decimal units: 61 234 → "61 kB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def count(number: float) -> str:
    """A large count in words: 3 330 000 → "3.3 million"; below 10 000 with a thin space between thousands."""
    if number >= 1e9:
        return f"{number / 1e9:.1f} billion"
    if number >= 1e6:
        return f"{number / 1e6:.1f} million"
    return f"{number:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def duration(seconds: float) -> str:
    """Seconds as "45 s", "3 min 20 s" or "2 h 5 min"."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60} s" if total % 60 else f"{total // 60} min"
    return f"{total // 3600} h {total % 3600 // 60} min"


def label(name: str, longest: int = 20) -> str:
    """A name that comes from a file, as one short line that a figure can bear."""
    shown = one_line(name)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def listed(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _magnitude(value: float) -> int:
    """⌊log10(value)⌋ of a positive number."""
    return int(f"{value:e}".partition("e")[2])
