"""Coding the positions of rare bits: the gaps between them, each as a symbol and some plain bits.

A gap's symbol is its bucket: exact up to 15, then eight buckets to an octave; where in its bucket it lies is nearly
uniform and goes to the plain bits. The symbols' probabilities are those of a mixture of up to three geometric
distributions, `GapModel`, a few bytes in the file. One geometric distribution is the entropy of a mask without
structure; real masks have their off-weights in bunches (in one kernel, in one filter), which a mixture catches.

The tables are made in integer arithmetic, so every machine decodes the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selfmask.artifact.streams import Reader, Writer
from selfmask.errors import MaskFileError

MAX_PARTS = 3
WEIGHT_ONE = 256  # the parts' weights are in 1/256
RATES = 8 * 28  # rate j is an event probability of 2^(-j/8)
_ONE = 1 << 31
# round(2^31 · 2^(-i/8)) for i = 0 … 7
_EIGHTHS = (2147483648, 1969251188, 1805811301, 1655936265, 1518500250, 1392470869, 1276901417, 1170923762)
_CHUNK = 1 << 20  # gaps at a time, so that coding a dense mask needs little memory beside its own bits


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
        last = int(symbol(np.array([total - 1]))[0])
        octaves = max(0, (last - 8) // 8) + 1
        # Row k holds u^(2^k); powers[i, k] is its i-th power, so a gap (8 + i) · 2^k is found at [8 + i, k].
        base = np.empty((octaves, len(self.rates)), np.int64)
        base[0] = [_ONE - _event(j) for j in self.rates]
        for k in range(1, octaves):
            base[k] = (base[k - 1] * base[k - 1]) >> 31
        powers = np.empty((16, octaves, len(self.rates)), np.int64)
        powers[0] = _ONE
        for i in range(1, 16):
            powers[i] = (powers[i - 1] * base) >> 31
        tails = powers @ np.array(self.weights, np.int64) // WEIGHT_ONE
        tail = np.concatenate([tails[:, 0], tails[8:, 1:].T.reshape(-1)])[: last + 1]
        tail = np.minimum.accumulate(tail) >> 3
        return tail - np.append(tail[1:], 0)


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


def encode_positions(writer: Writer, positions: np.ndarray, total: int, model: GapModel) -> None:
    """Write sorted int64 positions in [0, total)."""
    table = model.table(total) if len(positions) else np.zeros(0, np.int64)
    gaps = np.diff(positions, prepend=-1) - 1
    for begin in range(0, len(gaps), _CHUNK):
        part = gaps[begin : begin + _CHUNK]
        symbols = symbol(part)
        writer.symbols(symbols.astype(np.int32), table)
        rest, widths = part - lowest(symbols), width(symbols)
        for bits in range(1, int(widths.max()) + 1):
            mine = rest[widths == bits]
            for place in range(bits):
                writer.bits((mine >> place) & 1)


def decode_positions(reader: Reader, total: int, events: int, model: GapModel) -> np.ndarray:
    """Read the `events` positions that `encode_positions` wrote: int64, strictly increasing, in [0, total)."""
    if events == 0:
        return np.zeros(0, np.int64)
    if not 0 < events <= total:
        raise MaskFileError(f"{events} events among {total} weights cannot be: the file is damaged")
    table = model.table(total)
    starts, widths = _STARTS, _WIDTHS
    positions = np.empty(events, np.int64)
    reached = -1
    for begin in range(0, events, _CHUNK):
        amount = min(events - begin, _CHUNK)
        symbols = reader.symbols(amount, table)
        gaps = starts[symbols]
        wide = widths[symbols]
        for bits in range(1, int(wide.max()) + 1):
            at = np.flatnonzero(wide == bits)
            if len(at):
                gaps[at] += _numbers(reader, len(at), bits)
        gaps += 1
        np.cumsum(gaps, out=gaps)
        positions[begin : begin + amount] = gaps + reached
        reached = int(positions[begin + amount - 1])
        if reached >= total:
            raise MaskFileError(f"an event beyond the {total} weights of its class: the mask file is damaged")
    return positions


def _numbers(reader: Reader, amount: int, bits: int) -> np.ndarray:
    """`amount` numbers of `bits` bits, int64: the lowest bits of all of them, then the next ones, and so on."""
    numbers = np.zeros(amount, np.int32 if bits < 31 else np.int64)
    for place in range(bits):
        numbers |= reader.bits(amount).astype(numbers.dtype) << place
    return numbers.astype(np.int64)


def _event(rate: int) -> int:
    return _EIGHTHS[rate % 8] >> rate // 8


_STARTS = lowest(np.arange(400))  # gaps up to 2^51, more than any tensor has weights
_WIDTHS = width(np.arange(400)).astype(np.uint8)
