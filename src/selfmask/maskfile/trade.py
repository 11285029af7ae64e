"""What each part of a specialist is worth for the bits that it takes: flips and norm weights in one currency.

The currency is the squared change of the network's features, to first order, as if each part moved them by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from selfmask._common.entropy import entropy_bits
from selfmask.maskfile.head import Head
from selfmask.maskfile.quantised import Quantised, clipped
from selfmask.masking.importance import Masks

NORM_BITS = (8, 6, 5, 4, 3, 2)


@dataclass(frozen=True)
class Learnt:
    """What a mask file holds beside what its base is told by; each as it is to be stored."""

    masks: Masks
    norms: Mapping[str, Quantised]
    head: Head
    metadata: Mapping[str, Any]

    @property
    def off(self) -> int:
        """How many weights are off."""
        return sum(int((~mask).sum()) for mask in self.masks.values())


class Trade:
    """What is kept at a price of a bit: all that moves the features by more.

    worth: how much a feature moves with the weight, by name: a masked one's flip (`importance.sensitivity`), a norm
    weight's own change.
    """

    def __init__(self, learnt: Learnt, worth: Masks) -> None:
        self._learnt = learnt
        self._worth = {
            name: torch.where(mask, torch.inf, (worth[name].square() / _bits_a_flip(mask)).clamp_min(1e-38))
            for name, mask in learnt.masks.items()
        }
        self._off = {name: self._worth[name][~mask].sort().values for name, mask in learnt.masks.items()}
        self._norms = {
            name: _ways(q, worth[name].double().square(), name) for name, q in learnt.norms.items()
        }

    def prices(self) -> tuple[float, float]:
        """A price of a bit at which everything is kept, and one at which nothing is."""
        most = [float(values[-1]) for values in self._off.values() if len(values)]
        most += [way.moved for ways in self._norms.values() for way in ways]
        return 1e-38, 2 * max(most, default=1.0) + 1e-30

    def bytes(self, price: float) -> float:
        """About how many what is kept at `price` takes."""
        bits = sum(_bits_of(self._norms[name], price).bits for name in self._norms)
        for name, values in self._off.items():
            kept = len(values) - int(torch.searchsorted(values, price))
            bits += entropy_bits(kept, self._learnt.masks[name].numel())
        return bits / 8

    def at(self, price: float) -> tuple[Masks, dict[str, Quantised]]:
        """The masks and the norm weights that are kept at `price`: those that are worth it."""
        masks = {name: mask | (self._worth[name] < price) for name, mask in self._learnt.masks.items()}
        ways = {name: _bits_of(several, price).stored for name, several in self._norms.items()}
        return masks, {name: stored for name, stored in ways.items() if stored is not None}

    def priced(self, room: float) -> float:
        """The lowest price at which what is kept takes at most about `room` bytes."""
        low, high = (math.log(end) for end in self.prices())
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if self.bytes(math.exp(middle)) > room else (low, middle)
        return math.exp(high)


@dataclass(frozen=True)
class _Way:
    """A norm's weights in so many bits: how far the features move with the rounding. None: they are the base's."""

    stored: Quantised | None
    bits: float
    moved: float


def _ways(exact: Quantised, worth: Tensor, name: str) -> list[_Way]:
    values = exact.values().double()
    ways = [
        _Way(None, 0, float((worth * values.square()).sum())),
        _Way(exact, exact.bits * values.numel() + 16, 0.0),
    ]
    for bits in NORM_BITS:
        if bits < exact.bits:
            one = clipped(exact.values(), bits, name, worth)
            left = float((worth * (one.values().double() - values).square()).sum())
            ways.append(_Way(one, bits * values.numel() + 16, left))
    return ways


def _bits_of(ways: list[_Way], price: float) -> _Way:
    return min(ways, key=lambda way: way.moved + price * way.bits)


def _bits_a_flip(mask: Tensor) -> float:
    off = int((~mask).sum())
    return entropy_bits(off, mask.numel()) / off if off and off < mask.numel() else 1.0
