"""From masks to the two streams and back: which coding each tensor gets, and what the file's index says about it.

A mask is cut into cells, each coded at its own density: its rows (the slices along the first axis; in a convolution
they are the output filters) go into classes of similar shares off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from selfmask.errors import MaskFileError
from selfmask.maskfile import codec
from selfmask.maskfile.codec import Model
from selfmask.maskfile.container import count
from selfmask.maskfile.fitting import gap_model, row_classes
from selfmask.maskfile.streams import Reader, Writer

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
        off: the number of weights that are off in each cell, one cell for each class of rows.
        rows: the number of rows in each class of rows; empty where the rows are not told apart.
        models: for each cell that has both on- and off-weights, the distribution of its gaps.
    """

    packed: bool
    off: tuple[int, ...]
    rows: tuple[int, ...] = ()
    models: tuple[Model, ...] = ()


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
class TensorCode:
    """A way to code one mask: `bits` is about what it takes in the file. No cells: the bits as they are."""

    mask: np.ndarray
    bits: float
    labels: np.ndarray | None = None
    cells: tuple[_Cell, ...] = ()

    def write(self, writer: Writer) -> Coded:
        """Write the mask, and return what a reader must be told."""
        if not self.cells:
            writer.bits(self.mask)
            return Coded(True, (self.mask.size - int(np.count_nonzero(self.mask)),))
        sizes: tuple[int, ...] = ()
        if self.labels is not None:
            sizes = tuple(int(n) for n in np.bincount(self.labels))
            writer.symbols(self.labels.astype(np.int32), _row_table(sizes))
        for cell in self.cells:
            if cell.mixed:
                codec.encode_positions(writer, cell.positions, cell.size, cell.model)
        models = tuple(cell.model for cell in self.cells if cell.mixed)
        return Coded(False, tuple(c.off for c in self.cells), sizes, models)


def plain_code(mask: np.ndarray) -> TensorCode:
    """The bits as they are. `mask`: bool, True = on, of shape (rows, weights in a row)."""
    return TensorCode(mask, float(mask.size))


def shortest_code(mask: np.ndarray) -> TensorCode:
    """The shortest way for one mask. `mask`: bool, True = on, of shape (rows, weights in a row)."""
    off = ~mask
    found = row_classes(off)
    best = plain_code(mask)
    for labels in (None, found) if found.max(initial=0) > 0 else (None,):
        parts = (off,) if labels is None else (off[labels == k] for k in range(int(labels.max()) + 1))
        cells = tuple(_cell(part.reshape(-1)) for part in parts)
        bits = sum(c.bits + _BITS_PER_CELL for c in cells) - _BITS_PER_CELL
        if labels is not None:
            bits += _label_bits(labels)
        if bits < best.bits or not mask.size:
            best = TensorCode(mask, bits, labels, cells)
    return best


def decode(reader: Reader, coded: Coded, shape: tuple[int, int]) -> np.ndarray:
    """Read one mask: bool of `shape`. Raises `MaskFileError` where the streams do not hold one."""
    if coded.packed:
        mask = reader.bits(shape[0] * shape[1]).view(bool).reshape(shape)
        if mask.size - int(np.count_nonzero(mask)) != coded.off[0]:
            raise MaskFileError(
                "the packed bits and the count of weights that are off disagree: the file is damaged"
            )
        return mask
    models = iter(coded.models)
    mask = _decode_rows(reader, coded, models, shape)
    if next(models, None) is not None:
        raise MaskFileError("there are more models than cells: the file is damaged")
    return mask


def _decode_rows(reader: Reader, coded: Coded, models: Iterator[Model], shape: tuple[int, int]) -> np.ndarray:
    if not coded.rows:
        return _decode_cell(reader, coded.off[0], models, shape)
    # As small as they can be, since a matrix may be all rows and no columns.
    labels = np.empty(shape[0], np.min_scalar_type(len(coded.rows)))
    found, table = np.zeros(len(coded.rows), np.int64), _row_table(coded.rows)
    for begin in range(0, len(labels), codec.CHUNK):
        part = labels[begin : begin + codec.CHUNK]
        part[:] = reader.symbols(len(part), table)
        found += np.bincount(part, minlength=len(found))
    if tuple(found.tolist()) != coded.rows:
        raise MaskFileError("the classes of rows and their sizes disagree: the mask file is damaged")
    mask = np.empty(shape, bool)
    for k, (amount, off) in enumerate(zip(coded.rows, coded.off, strict=True)):
        mask[labels == k] = _decode_cell(reader, off, models, (amount, shape[1]))
    return mask


def _decode_cell(reader: Reader, off: int, models: Iterator[Model], shape: tuple[int, int]) -> np.ndarray:
    size = shape[0] * shape[1]
    if not 0 <= off <= size:
        raise MaskFileError(f"{off} weights are said to be off in a cell of {size}: the file is damaged")
    rare_is_off = 2 * off <= size
    mask = np.full(size, rare_is_off)
    if 0 < off < size:
        model = next(models, None)
        if model is None:
            raise MaskFileError("there are fewer models than cells: the file is damaged")
        for positions in codec.decode_positions(reader, size, min(off, size - off), model):
            mask[positions] = not rare_is_off
    return mask.reshape(shape)


def _cell(off: np.ndarray) -> _Cell:
    """A cell of a mask. `off`: bool, flat."""
    amount = int(np.count_nonzero(off))
    positions = np.flatnonzero(off if 2 * amount <= len(off) else ~off)
    model, bits = gap_model(positions, len(off))
    return _Cell(amount, positions, len(off), model, bits)


def _label_bits(labels: np.ndarray) -> float:
    return float(-np.log2((np.bincount(labels) / len(labels))[labels]).sum())


def _row_table(sizes: tuple[int, ...]) -> np.ndarray:
    """The weights of the rows' labels for the entropy coder: int64, in proportion to `sizes`, summing to 2^28."""
    total = max(sum(sizes), 1)
    weights = np.array([(size << 28) // total for size in sizes], np.int64)
    weights[-1] += (1 << 28) - weights.sum()
    return weights
