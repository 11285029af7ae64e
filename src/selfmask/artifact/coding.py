"""From masks to the two streams and back: which coding each tensor gets, and what the file's index says about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from selfmask.artifact import classes, codec
from selfmask.artifact.streams import Reader, Writer
from selfmask.errors import MaskFileError

Coding = Literal["auto", "packed", "entropy", "base"]


@dataclass(frozen=True)
class Coded:
    """What the index keeps of one coded mask.

    Attributes:
        packed: the bits are stored as they are; otherwise as gaps.
        off: the number of weights that are off, for each class of |θ| (one class: no side information).
        skips: the number of SKIP symbols for each class.
        thresholds: the classes' thresholds, one fewer than there are classes: the upper 16 bits of floats.
    """

    packed: bool
    off: tuple[int, ...]
    skips: tuple[int, ...]
    thresholds: tuple[int, ...] = ()

    @property
    def needs_base(self) -> bool:
        return len(self.off) > 1


def encode(writer: Writer, mask: np.ndarray, levels: np.ndarray | None, coding: Coding) -> Coded:
    """Write one mask (flat bool, True = on). `levels` are θ's `magnitudes`, or None to code without the base."""
    total = len(mask)
    off = ~mask
    count = int(np.count_nonzero(off))
    plain = Coded(True, (count,), (0,))
    if coding == "packed":
        writer.bits(mask)
        return plain
    thresholds = classes.thresholds_for(levels, off) if levels is not None else np.zeros(0, np.uint16)
    parts = _parts(off, levels, thresholds)
    if sum(codec.cost(len(p), int(np.count_nonzero(p))) for p in parts) >= total - 16:
        writer.bits(mask)
        return plain
    offs, skips = [], []
    for part in parts:
        offs.append(int(np.count_nonzero(part)))
        rare = part if 2 * offs[-1] <= len(part) else ~part
        skips.append(codec.encode_positions(writer, np.flatnonzero(rare), len(part)))
    return Coded(False, tuple(offs), tuple(skips), tuple(int(t) for t in thresholds))


def decode(reader: Reader, coded: Coded, total: int, levels: np.ndarray | None) -> np.ndarray:
    """Read one mask: flat bool of `total` weights. `levels` are needed where `coded.needs_base`."""
    if coded.packed:
        mask = reader.bits(total).view(bool)
        if total - int(np.count_nonzero(mask)) != coded.off[0]:
            raise MaskFileError(
                "the packed bits and the count of weights that are off disagree: the file is damaged"
            )
        return mask
    mask = np.ones(total, bool)
    if not coded.needs_base:
        positions, off_is_rare = _positions(reader, total, coded.off[0], coded.skips[0])
        if not off_is_rare:
            mask[:] = False
        mask[positions] = not off_is_rare
        return mask
    assert levels is not None
    groups = classes.members(levels, np.array(coded.thresholds, np.uint16))
    for words, size, off, skips in zip(groups, classes.sizes(groups), coded.off, coded.skips, strict=True):
        positions, off_is_rare = _positions(reader, size, off, skips)
        if not off_is_rare:
            mask &= ~np.unpackbits(words.view(np.uint8), count=total, bitorder="little").view(bool)
        if len(positions):
            mask[classes.select(words, positions)] = not off_is_rare
    return mask


def _parts(off: np.ndarray, levels: np.ndarray | None, thresholds: np.ndarray) -> list[np.ndarray]:
    if levels is None or len(thresholds) == 0:
        return [off]
    which = np.searchsorted(thresholds, levels, side="right")
    return [off[which == k] for k in range(len(thresholds) + 1)]


def _positions(reader: Reader, total: int, off: int, skips: int) -> tuple[np.ndarray, bool]:
    if not 0 <= off <= total:
        raise MaskFileError(
            f"{off} weights are said to be off in a class of {total}: the file is damaged, or the base is another"
        )
    off_is_rare = 2 * off <= total
    return codec.decode_positions(reader, total, off if off_is_rare else total - off, skips), off_is_rare
