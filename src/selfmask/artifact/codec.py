"""Coding the bits of one mask: positions of the rarer value as gaps, in one class or in several classes of |θ|.

A gap is split: its low `shift` bits are nearly uniform and go to the plain bits, the rest is a symbol whose
distribution follows from two counts (how many weights, how many events among them). A mask without structure then
costs its entropy to within a thousandth. With SGD on the scores, small |θ| almost never cross the threshold (the
score's gradient is proportional to θ); a reader that has θ sorts the weights into classes by |θ| first, and each
class is coded at its own density.
"""

from __future__ import annotations

import numpy as np

from selfmask.artifact.streams import Reader, Writer
from selfmask.errors import MaskFileError

SKIP = 32  # symbols 0 … SKIP-1 end in an event; symbol SKIP passes over SKIP · 2^shift weights without one
_CHUNK = 1 << 20  # symbols decoded at a time, so that a dense mask needs little memory beside its own bits
_ONE = 1 << 28


def shift(total: int, events: int) -> int:
    """The low bits of a gap that are stored plainly: 2^shift is 1/8 to 1/4 of the mean gap (or 1)."""
    return max(0, (total // events).bit_length() - 3)


def table(total: int, events: int) -> np.ndarray:
    """Weights of the symbols 0 … SKIP, int64, summing to 2^28: a geometric distribution in integer arithmetic.

    With u = 1 − events/total in 32-bit fixed point, raised to 2^shift, the weight of s < SKIP is u^s − u^(s+1),
    that of SKIP the remaining u^SKIP; every product is rounded down.
    """
    u = ((total - events) << 32) // total
    for _ in range(shift(total, events)):
        u = (u * u) >> 32
    tail = [1 << 32]
    for _ in range(SKIP):
        tail.append((tail[-1] * u) >> 32)
    cuts = np.array([t >> 4 for t in tail] + [0], dtype=np.int64)
    return cuts[:-1] - cuts[1:]


def encode_positions(writer: Writer, positions: np.ndarray, total: int) -> int:
    """Write sorted int64 positions in [0, total); returns how many SKIP symbols it took."""
    events = len(positions)
    if events == 0:
        return 0
    low = shift(total, events)
    gaps = np.diff(positions, prepend=-1) - 1
    units = gaps >> low
    skips, last = np.divmod(units, SKIP)
    symbols = np.full(events + int(skips.sum()), SKIP, np.int32)
    symbols[np.cumsum(skips + 1) - 1] = last
    writer.symbols(symbols, table(total, events))
    if low:
        writer.bits((gaps[:, None] >> np.arange(low)) & 1)
    return len(symbols) - events


def decode_positions(reader: Reader, total: int, events: int, skips: int) -> np.ndarray:
    """Read what `encode_positions` wrote: int64, strictly increasing, in [0, total)."""
    if events == 0 and skips == 0:
        return np.zeros(0, np.int64)
    low = shift(total, events) if events else 0
    if not 0 < events <= total or not 0 <= skips <= (total >> low) // SKIP:
        raise MaskFileError(
            f"{events} events and {skips} skips among {total} weights cannot be: the file is damaged"
        )
    weights = table(total, events)
    positions = np.empty(events, np.int64)
    found, units = 0, 0
    left = events + skips
    while left:
        amount = min(left, _CHUNK)
        left -= amount
        symbols = reader.symbols(amount, weights)
        reached = np.cumsum(symbols, dtype=np.int64)
        at = reached[symbols < SKIP]
        if found + len(at) > events:
            raise MaskFileError("more events than the mask file counts: it is damaged")
        positions[found : found + len(at)] = at + units
        found += len(at)
        units += int(reached[-1])
    if found != events:
        raise MaskFileError(f"{found} events where the mask file counts {events}: it is damaged")
    positions <<= low
    begin = base = 0
    while low and begin < events:
        amount = min(events - begin, _CHUNK)
        rest = _numbers(reader.bits(amount * low).reshape(amount, low))
        np.cumsum(rest, out=rest)
        positions[begin : begin + amount] += rest + base
        base += int(rest[-1])
        begin += amount
    positions += np.arange(events)
    if positions[-1] >= total:
        raise MaskFileError(f"an event at {int(positions[-1])} of {total} weights: the mask file is damaged")
    return positions


def _numbers(bits: np.ndarray) -> np.ndarray:
    """Rows of bits, lowest first, as int64 numbers."""
    numbers = np.zeros(len(bits), np.int64)
    for place in range(bits.shape[1]):
        numbers |= bits[:, place].astype(np.int64) << place
    return numbers


def cost(total: int, events: int) -> float:
    """About how many bits `encode_positions` takes: the entropy. For choosing a coding, never for reading one."""
    if events in (0, total):
        return 0.0
    p = events / total
    return -events * np.log2(p) - (total - events) * np.log2(1 - p)
