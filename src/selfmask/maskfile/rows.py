"""Classes of rows: the filters of a layer differ in how many of their weights are off, and a mask without |θ| shows it.

Which rows belong together costs a few bits a row, and each class is then coded at its own density.
"""

from __future__ import annotations

import numpy as np

from selfmask._common.entropy import entropy_bits

MAX_CLASSES = 8
_CUTS = 32  # the rows, sorted by their share off, may be cut at so many places
_BITS_PER_CLASS = 48
_WORTH = 0.002  # the share of the bits that a class has to save besides, for it takes time to read


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


def row_table(sizes: tuple[int, ...]) -> np.ndarray:
    """The weights of the rows' labels for the entropy coder: int64, in proportion to `sizes`, summing to 2^28."""
    total = max(sum(sizes), 1)
    weights = np.array([(size << 28) // total for size in sizes], np.int64)
    weights[-1] += (1 << 28) - weights.sum()
    return weights
