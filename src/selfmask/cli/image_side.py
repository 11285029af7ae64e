"""The setting that several commands have: how large the images are that the network sees."""

from __future__ import annotations

from selfmask.errors import SettingsError


def check_size(size: int | None) -> None:
    """Raise `SettingsError` where `size`, the side in pixels, is no size; None is the one a mask was learnt at."""
    if size is not None and size < 1:
        raise SettingsError(f"size is the side of the images in pixels, 1 or more, got {size}")
