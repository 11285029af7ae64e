"""Coding the positions of rare bits: the gaps between them, entropy-coded or as Golomb codes.

Entropy-coded, a gap's symbol is its bucket: exact up to 15, then eight buckets to an octave; where in its bucket it
lies is nearly uniform and goes to the plain bits. The symbols' probabilities are those of a mixture of up to three
geometric distributions, `GapModel`, a few bytes in the file. One geometric distribution is the entropy of a mask
without structure; real masks have their off-weights in bunches (in one kernel, in one filter), which a mixture catches.
The tables are made in integer arithmetic, so every machine decodes the same.

A Golomb code (`Golomb`) is the gap's upper part in unary and its lower bits as they are. On gaps without structure it
costs half a per cent more, and is read several times faster, by whole arrays instead of gap by gap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from selfmask.errors import MaskFileError
from selfmask.maskfile.streams import Reader, Writer

MAX_PARTS = 3
WEIGHT_ONE = 256  # the parts' weights are in 1/256
RATES = 8 * 28  # rate j is an event probability of 2^(-j/8)
_ONE = 1 << 31
# round(2^31 · 2^(-i/8)) for i = 0 … 7
_EIGHTHS = (2147483648, 1969251188, 1805811301, 1655936265, 1518500250, 1392470869, 1276901417, 1170923762)
CHUNK = 1 << 20  # gaps at a time, so that coding a dense mask needs little memory beside its own bits


@dataclass(frozen=True)
class GapModel:
    """A mixture of geometric distributions: each part's weight (in 1/256, together 256) and its rate j."""

    weights: tuple[int, ...]
    rates: tuple[int, ...]

    def table(self, total: int) -> np.ndarray:
        """Weights of the symbols of gaps in [0, total): int64, summing to 2^28. `total` >= 1.

        The share of gaps >= g is Σ weight · u^g in fixed point, u = 1 − 2^(-j/8), every product rounded down; a
        symbol's weight is the difference over its bucket, and the last symbol gets all that is left.
        """
        last = last_symbol(total)
        tails = np.array(self.weights, np.int64) @ np.stack([_tail(j)[: last + 1] for j in self.rates])
        tail = np.minimum.accumulate(tails // WEIGHT_ONE) >> 3
        tail[:-1] -= tail[1:]
        return tail


@dataclass(frozen=True)
class Golomb:
    """A gap g is ⌊g / divisor⌋ in unary and the rest in plain bits; the divisor is 2^shift, or three times that."""

    shift: int
    threefold: bool = False

    @property
    def divisor(self) -> int:
        return (3 if self.threefold else 1) << self.shift

    def bits(self, gaps: np.ndarray) -> int:
        """What `gaps` take, int64 >= 0."""
        whole = gaps // self.divisor
        found = int(whole.sum()) + (1 + self.shift) * len(gaps) + _LENGTH_BITS * (-(-len(gaps) // CHUNK))
        if self.threefold:
            found += len(gaps) + int(np.count_nonzero(gaps - whole * self.divisor >> self.shift))
        return found


Model = GapModel | Golomb


@lru_cache(RATES)
def _tail(rate: int) -> np.ndarray:
    """The share of gaps >= low(s) for each symbol s under the one rate, times 2^31: int64 (232,)."""
    # Column k holds u^(2^k); powers[i, k] is its i-th power, so a gap (8 + i) · 2^k is found at [8 + i, k].
    base = [_ONE - (_EIGHTHS[rate % 8] >> rate // 8)]
    for _ in range(_OCTAVES - 1):
        base.append(base[-1] * base[-1] >> 31)
    powers = np.empty((16, _OCTAVES), np.int64)
    powers[0] = _ONE
    for i in range(1, 16):
        powers[i] = (powers[i - 1] * np.array(base, np.int64)) >> 31
    return np.concatenate([powers[:, 0], powers[8:, 1:].T.reshape(-1)])


def last_symbol(total: int) -> int:
    """The symbol of the largest gap there can be among `total` weights."""
    gap = total - 1
    exponent = gap.bit_length() - 1
    return gap if gap < 16 else 16 + 8 * (exponent - 4) + ((gap >> (exponent - 3)) & 7)


def symbol(gaps: np.ndarray) -> np.ndarray:
    """The buckets of int64 gaps >= 0."""
    exponent = np.frexp(np.maximum(gaps, 1).astype(np.float64))[1].astype(np.int64) - 1
    return np.where(gaps < 16, gaps, 16 + 8 * (exponent - 4) + ((gaps >> np.maximum(exponent - 3, 0)) & 7))


def lowest(symbols: np.ndarray) -> np.ndarray:
    """The smallest gap of each bucket, int64."""
    exponent = 4 + (symbols - 16) // 8
    return np.where(symbols < 16, symbols, (8 + symbols % 8) << np.maximum(exponent - 3, 0))


def width(symbols: np.ndarray) -> np.ndarray:
    """How many plain bits follow each symbol: its bucket spans 2^width gaps."""
    return np.maximum((symbols - 16) // 8 + 1, 0)


def encode_positions(writer: Writer, positions: np.ndarray, total: int, model: Model) -> None:
    """Write sorted int64 positions in [0, total)."""
    table = model.table(total) if len(positions) and isinstance(model, GapModel) else np.zeros(0, np.int64)
    gaps = np.diff(positions, prepend=-1) - 1
    for begin in range(0, len(gaps), CHUNK):
        part = gaps[begin : begin + CHUNK]
        if isinstance(model, Golomb):
            _write_golomb(writer, part, model)
            continue
        symbols = symbol(part)
        writer.symbols(symbols.astype(np.int32), table)
        rest, widths = part - lowest(symbols), width(symbols)
        for bits in range(1, int(widths.max()) + 1):
            _write_planes(writer, rest[widths == bits], bits)


def decode_positions(reader: Reader, total: int, events: int, model: Model) -> Iterator[np.ndarray]:
    """Read the `events` positions that `encode_positions` wrote, a stretch at a time, so that many take little memory.

    int64, strictly increasing, in [0, total).
    """
    if events == 0:
        return
    if not 0 < events <= total:
        raise MaskFileError(f"{events} events among {total} weights cannot be: the file is damaged")
    table = model.table(total) if isinstance(model, GapModel) else np.zeros(0, np.int64)
    reached = 0
    for begin in range(0, events, CHUNK):
        part = np.empty(min(CHUNK, events - begin), np.int64)
        if isinstance(model, Golomb):
            _read_golomb(reader, part, model, total)
        else:
            _read_symbols(reader, part, table)
        part += reached
        reached = int(part[-1]) + 1
        if reached > total:
            raise MaskFileError(f"an event beyond the {total} weights of its class: the mask file is damaged")
        yield part


def _read_symbols(reader: Reader, positions: np.ndarray, table: np.ndarray) -> None:
    """A stretch of entropy-coded gaps, as positions from where it begins."""
    symbols = reader.symbols(len(positions), table)
    gaps = _STEPS[symbols]
    wide = _WIDTHS[symbols]
    counts = np.bincount(wide)
    for bits in np.flatnonzero(counts[1:]).tolist():
        at = np.flatnonzero(wide == bits + 1)
        gaps[at] += _read_planes(reader, len(at), bits + 1)
    np.cumsum(gaps, out=positions)
    positions -= 1


def _write_golomb(writer: Writer, gaps: np.ndarray, code: Golomb) -> None:
    whole = gaps // code.divisor
    rest = gaps - whole * code.divisor
    ends = np.cumsum(whole + 1)
    unary = np.zeros(int(ends[-1]), np.uint8)
    unary[ends - 1] = 1
    _write_planes(writer, np.array([len(unary)]), _LENGTH_BITS)
    writer.bits(unary)
    if code.threefold:
        third = rest >> code.shift
        writer.bits(third > 0)
        writer.bits(third[third > 0] - 1)
    _write_planes(writer, rest, code.shift)


def _read_golomb(reader: Reader, positions: np.ndarray, code: Golomb, total: int) -> None:
    """A stretch of Golomb codes, as positions from where it begins."""
    events = len(positions)
    length = int(_read_planes(reader, 1, _LENGTH_BITS)[0])
    # The gaps fit into the cell, and so do the sums of their upper parts: a damaged length stops here.
    if not events <= length <= events + total // code.divisor:
        raise MaskFileError("the unary codes of a cell have an impossible length: the mask file is damaged")
    unary = reader.bits(length)
    ends = np.flatnonzero(unary.view(bool))
    if len(ends) != events or not unary[-1]:
        raise MaskFileError("a cell does not have as many unary codes as events: the mask file is damaged")
    if code.divisor == 1:
        positions[:] = ends
        return
    # The sum of the gaps so far is that of the upper parts, a divisor each, and that of the rests.
    np.cumsum(_read_rests(reader, events, code), dtype=np.int64, out=positions)
    places = np.arange(events)
    positions += places
    ends -= places
    ends *= code.divisor
    positions += ends


def _read_rests(reader: Reader, events: int, code: Golomb) -> np.ndarray:
    if not code.threefold:
        return _read_planes(reader, events, code.shift)
    third = reader.bits(events)
    beyond = np.flatnonzero(third.view(bool))
    third[beyond] += reader.bits(len(beyond))
    if code.shift == 0:
        return third
    rests = third.astype(_smallest(code.shift + 2))
    rests <<= rests.dtype.type(code.shift)
    rests |= _read_planes(reader, events, code.shift)
    return rests


def _smallest(bits: int) -> type[np.unsignedinteger | np.signedinteger]:
    return np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.int64


def _write_planes(writer: Writer, numbers: np.ndarray, bits: int) -> None:
    """The lowest bit of each of the numbers, then the next bit of each, and so on."""
    for place in range(bits):
        writer.bits((numbers >> place) & 1)


def _read_planes(reader: Reader, amount: int, bits: int) -> np.ndarray:
    """`amount` numbers of `bits` bits that `_write_planes` wrote, of the smallest dtype that holds them."""
    dtype = _smallest(bits)
    planes = reader.bits(amount * bits).reshape(bits, amount)
    if bits == 1:
        return planes[0]
    if amount < _FEW:
        return (_PLACES[:bits] @ planes).astype(dtype)
    numbers = planes[0].astype(dtype)
    for place in range(1, bits):
        numbers |= planes[place].astype(dtype) << dtype(place)
    return numbers


_FEW = 512  # fewer numbers than this are put together by one product instead of a call for each bit
_LENGTH_BITS = 32
MAX_SHIFT = 40
_PLACES = np.int64(1) << np.arange(62)
_OCTAVES = 48  # gaps below 2^51, more than any tensor has weights
_LOWS = lowest(np.arange(16 + 8 * (_OCTAVES - 1)))
_STEPS = _LOWS + 1  # to the event from the one before it, but for the plain bits
_WIDTHS = width(np.arange(len(_LOWS))).astype(np.uint8)
