"""Pictures and folders of pictures, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Painter = Callable[..., Image.Image]


def picture(seed: int = 0, width: int = 40, height: int = 24) -> Image.Image:
    """A smooth random RGB picture: JPEG keeps it nearly, and no two of its quarters are alike."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def paint() -> Painter:
    return picture


@pytest.fixture
def class_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder with class sub-folders: class_folder({"cat": 3, "dog": 2}, split="train") -> its root."""

    def write(counts: dict[str, int], *, root: str = "photos", split: str | None = None) -> Path:
        top = tmp_path / root
        for number, (label, count) in enumerate(counts.items()):
            folder = (top / split if split else top) / label
            folder.mkdir(parents=True)
            for k in range(count):
                picture(1000 * number + k, 12 + number, 10 + k % 3).save(folder / f"{k:03d}.png")
        return top

    return write
