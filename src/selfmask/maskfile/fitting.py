"""Choosing how a mask is coded: which of its rows belong together, and the model of the gaps of each class.

A model is found by expectation-maximisation on the buckets of its gaps, or it is a Golomb code. The filters of a layer
differ in how many of their weights are off: which belong together costs a few bits a row, and each class is then coded
at its own density. Only the writer of a file does this, so floating point is welcome: a reader takes what is stored.
"""

from __future__ import annotations

import numpy as np

from selfmask._common.entropy import entropy_bits
from selfmask.maskfile import codec
from selfmask.maskfile.codec import MAX_PARTS, MAX_SHIFT, RATES, WEIGHT_ONE, GapModel, Golomb, Model

_ROUNDS = 24
_BITS_PER_PART = 16
_ENOUGH = 24  # gaps; with fewer, one part is all that they can pay for
# A Golomb code may cost so many times what entropy coding does, for it is read several times faster; more where there
# are many events, since they are what reading takes its time for.
_QUICK, _QUICK_DENSE, _DENSE = 1.012, 1.02, 0.05
MAX_CLASSES = 8
_CUTS = 32  # the rows, sorted by their share off, may be cut at so many places
_BITS_PER_CLASS = 48
_WORTH = 0.002  # the share of the bits that a class has to save besides, for it takes time to read


def gap_model(positions: np.ndarray, total: int) -> tuple[Model, float]:
    """The model that codes sorted positions in [0, total) in the fewest bits, its own included, and those bits."""
    if len(positions) == 0:
        return GapModel((WEIGHT_ONE,), (0,)), 0.0
    gaps = np.diff(positions, prepend=-1) - 1
    symbols = codec.symbol(gaps)
    counts = np.bincount(symbols, minlength=codec.last_symbol(total) + 1)
    used = np.flatnonzero(counts)
    plain = float((counts[used] * codec.width(used)).sum())
    model, bits = None, np.inf
    for parts in range(1, MAX_PARTS + 1):
        candidate = _quantised(*_mixture(counts, used, parts, len(positions) / (positions[-1] + 1)))
        table = candidate.table(total)
        # What the coder makes of a weight: at least one step of 2^-24.
        chance = (table * ((1 << 24) - len(table)) // (1 << 28) + 1) / (1 << 24)
        cost = float(-(counts[used] * np.log2(chance[used])).sum()) + plain + _BITS_PER_PART * parts
        if cost < bits:
            model, bits = candidate, cost
        if len(positions) < _ENOUGH:
            break
    assert model is not None
    golomb, cost = _golomb(gaps)
    most = _QUICK if len(positions) < _DENSE * total else _QUICK_DENSE
    return (golomb, cost) if cost <= most * bits else (model, bits)


def _golomb(gaps: np.ndarray) -> tuple[Golomb, float]:
    """The best Golomb code of `gaps`, at least one, and its bits."""
    # For gaps of one geometric distribution the best divisor is about ln 2 times the mean.
    about = int(max(float(gaps.mean()) * 0.69, 1)).bit_length() - 1
    shifts = range(max(about - 1, 0), min(about + 2, MAX_SHIFT) + 1)
    options = [Golomb(shift, threefold) for shift in shifts for threefold in (False, True)]
    return min(((o, float(o.bits(gaps)) + _BITS_PER_PART) for o in options), key=lambda pair: pair[1])


def _mixture(
    counts: np.ndarray, used: np.ndarray, parts: int, density: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and event probabilities of `parts` geometric distributions."""
    low = codec.lowest(used).astype(np.float64)
    span = (1 << codec.width(used)).astype(np.float64)
    middle = low + (span - 1) / 2
    amount = counts[used].astype(np.float64)
    mean = 1 / density
    chance = np.clip(density * 6.0 ** np.arange(parts), 2.0 ** (-RATES / 8), 0.9999)
    weights = np.full(parts, 1 / parts)
    if parts == 1:
        return weights, np.array([min(1 / mean, 1.0)])
    for _ in range(_ROUNDS):
        log_stay = np.log1p(-chance)[:, None]
        likelihood = weights[:, None] * np.exp(log_stay * low) * -np.expm1(log_stay * span)
        share = likelihood / np.maximum(likelihood.sum(0), 1e-300) * amount
        total = np.maximum(share.sum(1), 1e-9)
        weights = total / total.sum()
        chance = np.clip(total / (total + share @ middle), 2.0 ** (-RATES / 8), 0.9999)
    return weights, chance


def _quantised(weights: np.ndarray, chance: np.ndarray) -> GapModel:
    whole = np.maximum(np.round(weights * WEIGHT_ONE), 1).astype(int)
    whole[whole.argmax()] += WEIGHT_ONE - whole.sum()
    rates = np.clip(np.round(-8 * np.log2(chance)), 0, RATES - 1).astype(int)
    return GapModel(tuple(int(w) for w in whole), tuple(int(r) for r in rates))


def row_classes(off: np.ndarray) -> np.ndarray:
    """The class of each row of `off` (bool, rows × weights): int64, 0 for the rows with the fewest off.

    The optimal cut of the sorted rows, by dynamic programming over the entropy of each stretch and of the labels.
    """
    rows, length = off.shape
    none = np.zeros(rows, np.int64)
    if rows < 2 or length < 2:
        return none
    counts = np.count_nonzero(off, axis=1)
    order = np.argsort(counts, kind="stable")
    until = np.concatenate([[0], np.cumsum(counts[order])]).astype(np.float64)
    cuts = np.unique(np.linspace(0, rows, min(rows, _CUTS) + 1).astype(np.int64))
    amount = (cuts[None, :] - cuts[:, None]).astype(np.float64)
    inside = until[cuts][None, :] - until[cuts][:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        labels = -amount * np.log2(amount / rows)
    entropy = entropy_bits(inside, amount * length)
    cost = entropy + np.nan_to_num(labels) + _BITS_PER_CLASS
    cost += _WORTH * float(entropy[0, -1])
    best = np.full((MAX_CLASSES + 1, len(cuts)), np.inf)
    best[0, 0] = 0
    came = np.zeros(best.shape, np.int64)
    for k in range(1, MAX_CLASSES + 1):
        for j in range(1, len(cuts)):
            ways = best[k - 1, :j] + cost[:j, j]
            came[k, j] = ways.argmin()
            best[k, j] = ways[came[k, j]]
    k = int(best[:, -1].argmin())
    result, j = none, len(cuts) - 1
    while k > 0:
        i = int(came[k, j])
        result[order[cuts[i] : cuts[j]]] = k - 1
        j, k = i, k - 1
    return result
