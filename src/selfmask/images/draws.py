"""Random numbers without state: the k-th draw of a seed is a hash of both.

So what happens to an image depends on its seed alone: not on the batch that it is in, on the thread, or on
what was drawn before; and to resume a run is to know its step. The hash is SplitMix64 (Steele, Lea and
Flood, OOPSLA 2014), whose outputs pass BigCrush.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def hashed(*parts: int | Sequence[int] | np.ndarray) -> np.ndarray:
    """Mix whole numbers (or arrays of them, broadcast together) to uint64 seeds."""
    state = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            state = _splitmix(state + _unsigned(part) * _GOLDEN + _GOLDEN)
    return state


def uniforms(seeds: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    """`count` numbers in [0, 1) for every seed: float64 (len(seeds), count)."""
    with np.errstate(over="ignore"):
        steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
        states = _splitmix(_unsigned(seeds))[:, None] + steps
    return (_splitmix(states) >> np.uint64(11)) * 2.0**-53


def _splitmix(state: np.ndarray) -> np.ndarray:
    mixed = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _unsigned(numbers: int | Sequence[int] | np.ndarray) -> np.ndarray:
    if isinstance(numbers, int):
        return np.asarray(numbers % 2**64, dtype=np.uint64)
    return np.asarray(numbers).astype(np.uint64)
