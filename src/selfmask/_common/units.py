"""Amounts as people write them: of bytes, of anything, and of points that an accuracy gained."""

from __future__ import annotations

import re

from selfmask.errors import SettingsError

_UNITS = {"": 1, "b": 1, "byte": 1, "bytes": 1} | {
    f"{letter}{rest}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for rest, base in (("", 1024), ("ib", 1024), ("b", 1000))
}
_AMOUNT = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*([a-z]*)", re.ASCII)


def byte_count(amount: float | str, what: str, least: int = 1) -> int:
    """The whole bytes of `amount`, rounded down: 10240, "10240", "10k" and "10 KiB" are the same, "10 kB" is 10 000.

    Raises `SettingsError` about `what` for anything else, and below `least`.
    """
    found = _AMOUNT.fullmatch(str(amount).strip().lower())
    if found is None or found[2] not in _UNITS or isinstance(amount, bool):
        raise SettingsError(
            f"{what} is a number of bytes such as 10240, 10k (× 1024), 10kB (× 1000) or 1 GB, got {str(amount)[:60]!r}"
        )
    total = int(float(found[1]) * _UNITS[found[2]])
    if total < least:
        raise SettingsError(f"{what} must be at least {counted(least, 'byte')}, got {amount!r}")
    return total


def counted(number: int, one: str, several: str | None = None) -> str:
    """So many of what: "1 image", "3,068 images"; `several` where its plural takes more than an s.

    >>> counted(1, "image"), counted(3068, "image"), counted(0, "batch", "batches")
    ('1 image', '3,068 images', '0 batches')
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def signed(difference: float) -> str:
    """A difference of two shares in percentage points, one decimal, always with its sign.

    >>> signed(0.094), signed(-0.042)
    ('+9.4', '−4.2')
    """
    return f"{100 * difference:+.1f}".replace("-", "−")
