"""Amounts as people write them: of bytes, of anything, and of points that an accuracy gained."""

from __future__ import annotations

import re

from selfmask.errors import SettingsError

_UNITS = {"": 1, "b": 1, "k": 1024, "kib": 1024, "kb": 1000, "m": 1024**2, "mib": 1024**2, "mb": 1000**2}
_AMOUNT = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*([a-z]*)", re.ASCII)


def byte_count(amount: int | str, what: str) -> int:
    """The whole bytes of `amount`, rounded down: 10240, "10240", "10k" and "10 KiB" are the same, "10 kB" is 10 000.

    Raises `SettingsError` about `what` for anything else, and below 1.
    """
    found = _AMOUNT.fullmatch(str(amount).strip().lower())
    if found is None or found[2] not in _UNITS or isinstance(amount, bool):
        raise SettingsError(
            f"{what} is a number of bytes such as 10240, 10k (× 1024) or 10kB (× 1000), got {amount!r}"
        )
    total = int(float(found[1]) * _UNITS[found[2]])
    if total < 1:
        raise SettingsError(f"{what} must be at least 1 byte, got {amount!r}")
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
