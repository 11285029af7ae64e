"""From masks to the two streams and back: which coding each tensor gets, and what the file's index says about it.

A mask is cut into cells, each coded at its own density: by rows (the slices along the first axis; in a convolution
they are the output filters) that have similar shares off, and by |θ| where the reader has the base.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from selfmask.errors import MaskFileError
from selfmask.maskfile import classes, codec
from selfmask.maskfile.codec import Model
from selfmask.maskfile.container import count
from selfmask.maskfile.fitting import fit
from selfmask.maskfile.rows import row_classes, row_table
from selfmask.maskfile.streams import Reader, Writer

Coding = Literal["auto", "alone", "base", "packed"]
_BITS_PER_CELL = 24  # about what a cell's counts take in the file


def rows_of(shape: Sequence[int]) -> tuple[int, int]:
    """A tensor's shape as rows × weights in a row; fewer than two dimensions are one row."""
    total = count(tuple(shape))
    return (shape[0], total // shape[0]) if len(shape) > 1 and total else (1, total)


@dataclass(frozen=True)
class Coded:
    """What the index keeps of one coded mask.

    Attributes:
        packed: the bits are stored as they are; otherwise as gaps.
        off: the number of weights that are off in each cell; the cells of one class of rows stand together, in
            the order of |θ|.
        rows: the number of rows in each class of rows; empty where the rows are not told apart.
        thresholds: of the classes of |θ|, one fewer than there are classes: the upper 16 bits of floats.
        models: for each cell that has both on- and off-weights, the distribution of its gaps.
    """

    packed: bool
    off: tuple[int, ...]
    rows: tuple[int, ...] = ()
    thresholds: tuple[int, ...] = ()
    models: tuple[Model, ...] = ()

    @property
    def needs_base(self) -> bool:
        return len(self.thresholds) > 0


@dataclass(frozen=True)
class _Cell:
    off: int
    positions: np.ndarray  # of the rarer bit, within the cell
    size: int
    model: Model
    bits: float

    @property
    def mixed(self) -> bool:
        return 0 < self.off < self.size


@dataclass(frozen=True)
class Plan:
    """A way to code one mask: `bits` is about what it takes in the file. No cells: the bits as they are."""

    mask: np.ndarray
    bits: float
    labels: np.ndarray | None = None
    thresholds: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint16))
    cells: tuple[_Cell, ...] = ()

    def write(self, writer: Writer) -> Coded:
        """Write the mask, and return what a reader must be told."""
        if not self.cells:
            writer.bits(self.mask)
            return Coded(True, (self.mask.size - int(np.count_nonzero(self.mask)),))
        sizes: tuple[int, ...] = ()
        if self.labels is not None:
            sizes = tuple(int(n) for n in np.bincount(self.labels))
            writer.symbols(self.labels.astype(np.int32), row_table(sizes))
        for cell in self.cells:
            if cell.mixed:
                codec.encode_positions(writer, cell.positions, cell.size, cell.model)
        models = tuple(cell.model for cell in self.cells if cell.mixed)
        thresholds = tuple(int(t) for t in self.thresholds)
        return Coded(False, tuple(c.off for c in self.cells), sizes, thresholds, models)


def plain(mask: np.ndarray) -> Plan:
    """The plan to store the bits as they are. `mask`: bool, True = on, of shape (rows, weights in a row)."""
    return Plan(mask, float(mask.size))


def plan(mask: np.ndarray, levels: np.ndarray | None = None) -> Plan:
    """The shortest plan for one mask: without the base, or, given θ's `magnitudes` (flat), with its classes of |θ|.

    `mask`: bool, True = on, of shape (rows, weights in a row).
    """
    off = ~mask
    none = np.zeros(0, np.uint16)
    options = [none]
    if levels is not None:
        thresholds = classes.thresholds_for(levels, off.reshape(-1))
        options += [thresholds] if len(thresholds) else []
    found = row_classes(off)
    best = plain(mask)
    for labels in (None, found) if found.max(initial=0) > 0 else (None,):
        for thresholds in options:
            cells = tuple(_cells(off, levels, labels, thresholds))
            bits = sum(c.bits + _BITS_PER_CELL for c in cells) - _BITS_PER_CELL
            if labels is not None:
                bits += _label_bits(labels)
            if bits < best.bits or not mask.size:
                best = Plan(mask, bits, labels, thresholds, cells)
    return best


def decode(reader: Reader, coded: Coded, shape: tuple[int, int], levels: np.ndarray | None) -> np.ndarray:
    """Read one mask: bool of `shape`. `levels` are needed where `coded.needs_base`."""
    if coded.packed:
        mask = reader.bits(shape[0] * shape[1]).view(bool).reshape(shape)
        if mask.size - int(np.count_nonzero(mask)) != coded.off[0]:
            raise MaskFileError(
                "the packed bits and the count of weights that are off disagree: the file is damaged"
            )
        return mask
    models = iter(coded.models)
    mask = _decode_cells(reader, coded, models, shape, levels)
    if next(models, None) is not None:
        raise MaskFileError("there are more models than cells: the file is damaged, or the base is another")
    return mask


def _decode_cells(
    reader: Reader,
    coded: Coded,
    models: Iterator[Model],
    shape: tuple[int, int],
    levels: np.ndarray | None,
) -> np.ndarray:
    thresholds = np.array(coded.thresholds, np.uint16)
    if not coded.rows:
        return _decode_rows(reader, coded.off, models, shape, levels, thresholds)
    labels = reader.symbols(shape[0], row_table(coded.rows))
    if tuple(np.bincount(labels, minlength=len(coded.rows)).tolist()) != coded.rows:
        raise MaskFileError("the classes of rows and their sizes disagree: the mask file is damaged")
    mask = np.empty(shape, bool)
    wide = None if levels is None else levels.reshape(shape)
    per_row = len(thresholds) + 1
    for k, amount in enumerate(coded.rows):
        chosen = np.flatnonzero(labels == k)
        part = None if wide is None else wide[chosen].reshape(-1)
        off = coded.off[k * per_row : (k + 1) * per_row]
        mask[chosen] = _decode_rows(reader, off, models, (amount, shape[1]), part, thresholds)
    return mask


def _decode_rows(
    reader: Reader,
    offs: tuple[int, ...],
    models: Iterator[Model],
    shape: tuple[int, int],
    levels: np.ndarray | None,
    thresholds: np.ndarray,
) -> np.ndarray:
    """The cells of one class of rows."""
    total = shape[0] * shape[1]
    mask = np.ones(total, bool)
    if len(thresholds) == 0:
        rare_is_off, positions = _decode_cell(reader, offs[0], total, models)
        if not rare_is_off:
            mask[:] = False
        mask[positions] = not rare_is_off
        return mask.reshape(shape)
    if levels is None:
        raise MaskFileError("this mask can be read only beside its base")
    groups = classes.members(levels, thresholds)
    for words, size, off in zip(groups, classes.sizes(groups), offs, strict=True):
        rare_is_off, positions = _decode_cell(reader, off, size, models)
        if not rare_is_off:
            mask &= ~np.unpackbits(words.view(np.uint8), count=total, bitorder="little").view(bool)
        if len(positions):
            mask[classes.select(words, positions)] = not rare_is_off
    return mask.reshape(shape)


def _decode_cell(reader: Reader, off: int, size: int, models: Iterator[Model]) -> tuple[bool, np.ndarray]:
    if not 0 <= off <= size:
        raise MaskFileError(
            f"{off} weights are said to be off in a cell of {size}: the file is damaged, or the base is another"
        )
    rare_is_off = 2 * off <= size
    if off in (0, size):
        return rare_is_off, np.zeros(0, np.int64)
    model = next(models, None)
    if model is None:
        raise MaskFileError("there are fewer models than cells: the file is damaged, or the base is another")
    return rare_is_off, codec.decode_positions(reader, size, off if rare_is_off else size - off, model)


def _cells(
    off: np.ndarray, levels: np.ndarray | None, labels: np.ndarray | None, thresholds: np.ndarray
) -> list[_Cell]:
    """The cells of a mask in coding order. `off`: bool of shape (rows, weights in a row)."""
    if labels is not None:
        wide = None if levels is None else levels.reshape(off.shape)
        cells = []
        for k in range(int(labels.max()) + 1):
            chosen = labels == k
            part = None if wide is None else wide[chosen].reshape(-1)
            cells += _cells(off[chosen], part, None, thresholds)
        return cells
    flat = off.reshape(-1)
    found = np.flatnonzero(flat)
    if len(thresholds) == 0 or levels is None:
        return [_cell(len(flat), len(found), found if 2 * len(found) <= len(flat) else np.flatnonzero(~flat))]
    which = classes.class_of(levels[found], thresholds)
    groups = classes.members(levels, thresholds)
    cells = []
    for k, (words, size) in enumerate(zip(groups, classes.sizes(groups), strict=True)):
        mine = found[which == k]
        count = len(mine)
        if 2 * count > size:
            inside = np.unpackbits(words.view(np.uint8), count=len(flat), bitorder="little").view(bool)
            mine = np.flatnonzero(inside & ~flat)
        cells.append(_cell(size, count, classes.rank(words, mine)))
    return cells


def _cell(size: int, off: int, positions: np.ndarray) -> _Cell:
    model, bits = fit(positions, size)
    return _Cell(off, positions, size, model, bits)


def _label_bits(labels: np.ndarray) -> float:
    return float(-np.log2((np.bincount(labels) / len(labels))[labels]).sum())
