"""Classes of weights by |θ|: the side information that a reader who has the base knows without being told.

A weight's class is the number of thresholds t with t <= |θ|. The thresholds are floating-point numbers of θ's own
dtype of which only the upper 16 bits are used (the others are 0), so that the comparison is one of 16-bit integers:
no arithmetic on θ, and the same classes on every machine.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

FINE_CLASSES = 32  # equal shares of the weights that the choice of thresholds starts from
MAX_CLASSES = 4  # more of them shorten trained masks no further
_BYTES_PER_CLASS = 5  # about what a threshold and two counts take in the file
_WORTH = 0.005  # the share of the bits that a class has to save, for it takes time to read
_BLOCK = 1 << 13  # words whose members are listed at a time, so that a list takes little memory
_LISTING = 48  # finding an event by bisection takes about as long as listing so many members


def magnitudes(theta: Tensor) -> np.ndarray:
    """The upper 16 bits of |θ| as uint16, flat in C order: increasing in |θ|. Any floating dtype of 2 to 8 bytes."""
    plain = theta.detach().cpu().contiguous().reshape(-1)
    size = plain.element_size()
    halves = plain.view(torch.int16).numpy().view(np.uint16)
    # Little-endian: the sign, the exponent and the first bits of the fraction are in the last 16 bits.
    return halves[size // 2 - 1 :: size // 2] & np.uint16(0x7FFF)


def members(levels: np.ndarray, thresholds: np.ndarray) -> list[np.ndarray]:
    """The members of each class as packed bits: uint64 words, weight i is bit i mod 64 of word i // 64."""
    total = len(levels)
    above = [_packed(np.ones(total, bool)), *(_packed(levels >= threshold) for threshold in thresholds)]
    return [a & ~b for a, b in itertools.pairwise(above)] + [above[-1]]


def class_of(levels: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The class of each weight, uint8: the number of thresholds that it reaches."""
    return np.searchsorted(thresholds, np.arange(1 << 15), side="right").astype(np.uint8)[levels]


def sizes(classes: list[np.ndarray]) -> list[int]:
    """How many weights each class has."""
    return [int(np.bitwise_count(words).sum(dtype=np.int64)) for words in classes]


def rank(words: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Ranks (int64) of members: how many members come before each of `positions`."""
    counts = np.bitwise_count(words).astype(np.int64)
    before = np.cumsum(counts) - counts
    at = positions >> 6
    below = (np.uint64(1) << (positions & 63).astype(np.uint64)) - np.uint64(1)
    return before[at] + np.bitwise_count(words[at] & below)


def select(words: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Positions (int64) of the members with the given sorted ranks: rank r is the (r+1)-th bit that is set."""
    octets = words.view(np.uint8)
    if len(octets) * 8 < _LISTING * len(ranks):
        return _select_listed(words, ranks)
    counts = np.bitwise_count(octets)
    until = np.cumsum(counts, dtype=np.int64 if len(octets) >= 1 << 27 else np.int32)
    at = np.searchsorted(until, ranks.astype(until.dtype), side="right")
    rank = ranks - until[at] + counts[at]
    return at * 8 + _SELECT_IN_BYTE[octets[at], rank]


def _select_listed(words: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """`select` by listing all members, which is quicker where many of them are asked for."""
    positions = np.empty(len(ranks), np.int64)
    passed = found = 0
    for begin in range(0, len(words), _BLOCK):
        octets = words[begin : begin + _BLOCK].view(np.uint8)
        inside = np.flatnonzero(np.unpackbits(octets, bitorder="little").view(bool))
        until = found + int(np.searchsorted(ranks[found:], passed + len(inside)))
        positions[found:until] = inside[ranks[found:until] - passed] + 64 * begin
        passed, found = passed + len(inside), until
    return positions


def thresholds_for(levels: np.ndarray, events: np.ndarray) -> np.ndarray:
    """Thresholds (uint16, increasing, possibly none) whose classes code `events` (bool, flat) in the fewest bytes.

    Starts from `FINE_CLASSES` equal shares of the weights and merges the neighbours that differ least, as long as the
    bits that this costs are fewer than those that a class takes in the file.
    """
    if len(levels) == 0 or not events.any() or events.all():
        return np.zeros(0, np.uint16)
    histogram = np.bincount(levels, minlength=1 << 15)
    inside = np.bincount(levels[events], minlength=1 << 15)
    until = np.cumsum(histogram)
    targets = len(levels) * np.arange(1, FINE_CLASSES) / FINE_CLASSES
    cuts = np.unique(np.searchsorted(until, targets, side="left") + 1)
    cuts = cuts[(until[cuts - 1] > 0) & (until[cuts - 1] < len(levels))]
    edges = [0, *(int(c) for c in cuts), 1 << 15]
    total = np.add.reduceat(histogram, edges[:-1]).astype(np.float64)
    found = np.add.reduceat(inside, edges[:-1]).astype(np.float64)
    while len(total) > 1:
        apart = _entropy(total, found)
        together = _entropy(total[1:] + total[:-1], found[1:] + found[:-1])
        loss = together - apart[1:] - apart[:-1]
        k = int(loss.argmin())
        if loss[k] > 8 * _BYTES_PER_CLASS + _WORTH * apart.sum() and len(total) <= MAX_CLASSES:
            break
        total[k] += total[k + 1]
        found[k] += found[k + 1]
        total, found = np.delete(total, k + 1), np.delete(found, k + 1)
        del edges[k + 1]
    return np.array(edges[1:-1], np.uint16)


def _entropy(total: np.ndarray, events: np.ndarray) -> np.ndarray:
    rest = total - events
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = -events * np.log2(events / total) - rest * np.log2(rest / total)
    return np.nan_to_num(bits, nan=0.0)


def _packed(bits: np.ndarray) -> np.ndarray:
    words = np.zeros((len(bits) + 63) // 64, "<u8")
    words.view(np.uint8)[: (len(bits) + 7) // 8] = np.packbits(bits, bitorder="little")
    return words


def _select_in_byte() -> np.ndarray:
    places = np.zeros((256, 8), np.int64)
    for byte in range(256):
        for rank, place in enumerate(p for p in range(8) if byte >> p & 1):
            places[byte, rank] = place
    return places


_SELECT_IN_BYTE = _select_in_byte()
