"""A mask as a bank holds it: of each tensor the list of its weights that are off, or its bits, whichever is smaller.

A place in a list takes four bytes, so lists are for masks with fewer than one weight in 32 off. Both lie in one piece
for the whole mask: a thousand masks are then a few thousand objects, and what they take is what the pieces take. They
are unpacked where the weights lie: on an accelerator, it is the packed ones that travel.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from selfmask.masking.weight import scale, scaled

_OWN_PAGES, _APART = 1 << 17, 64  # bytes
_PRIVATE = {} if sys.platform == "win32" else {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
_SPAN_BYTES = 250  # about what Python takes for a `Span` in its dict
# The eight bits of each byte as eight booleans, in one number: a byte is unpacked by one look-up.
_EIGHT = torch.from_numpy(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"))
_ROWS = _EIGHT.contiguous().view(torch.int64).reshape(-1)


class Span(NamedTuple):
    """Where one tensor's off-weights stand in a `Packed`, and the factor 1/α of those that are on."""

    factor: float
    listed: bool
    begin: int
    end: int


ALL_ON = Span(1.0, True, 0, 0)


class Packed(NamedTuple):
    """The masks of all tensors.

    spans: by the tensor's name. positions: int32, of the off-weights of the listed tensors, each in its tensor's own
    order of memory. bits: uint8, of the others, 1 where a weight is off, each padded to whole bytes.
    """

    spans: dict[str, Span]
    positions: Tensor
    bits: Tensor

    @staticmethod
    def of(masks: Mapping[str, Tensor]) -> Packed:
        """From masks by name: bool, 1-d, True = on, each with a weight on (or empty)."""
        spans: dict[str, Span] = {}
        positions: list[np.ndarray] = []
        bits: list[np.ndarray] = []
        listed = packed = 0
        for name, mask in masks.items():
            off = ~mask.numpy()
            amount = int(np.count_nonzero(off))
            factor = scale(off.size - amount, off.size)
            if 4 * amount <= -(-off.size // 8):
                spans[name] = Span(factor, True, listed, listed + amount)
                positions.append(np.flatnonzero(off).astype(np.int32))
                listed += amount
            else:
                bits.append(np.packbits(off, bitorder="little"))
                spans[name] = Span(factor, False, packed, packed + bits[-1].size)
                packed += bits[-1].size
        return Packed(spans, _joined(positions, np.int32), _joined(bits, np.uint8))

    @property
    def nbytes(self) -> int:
        """What it takes in memory, in bytes."""
        return self.positions.nbytes + self.bits.nbytes + _SPAN_BYTES * len(self.spans)

    def places(self, span: Span, device: torch.device) -> Tensor:
        """The places of a listed tensor's off-weights, int64, on `device`."""
        return self.positions[span.begin : span.end].to(device).long()

    def off(self, span: Span, size: int, device: torch.device) -> Tensor:
        """Which of a tensor's `size` weights are off, bool, of one that is not listed, on `device`."""
        packed = self.bits[span.begin : span.end].to(device).int()
        return _ROWS.to(device).index_select(0, packed).view(torch.bool)[:size]


class Writer:
    """Writes the masked weights of one `Packed`: θ·M/α, bit for bit as `masked_weight` makes it.

    Factors and lists are unpacked once for all tensors: a network has many small ones, where each call of torch counts.
    """

    def __init__(self, packed: Packed) -> None:
        self._packed = packed
        factors = torch.tensor([span.factor for span in packed.spans.values()], dtype=torch.float64)
        self._factors = dict(zip(packed.spans, factors.unbind(), strict=True))
        self._places: dict[torch.device, dict[str, Tensor]] = {}

    def write(self, name: str, theta: Tensor, weights: Tensor) -> None:
        """Make `weights` the masked θ of that name; both 1-d, in the order of memory."""
        span = self._packed.spans.get(name, ALL_ON)
        if span.factor == 1.0:
            weights.copy_(theta)
            return
        scaled(theta, self._factors[name], out=weights)
        if span.listed:
            weights.index_fill_(0, self._listed(name, weights.device), 0.0)
        else:
            weights.masked_fill_(self._packed.off(span, len(weights), weights.device), 0.0)

    def write_over(self, name: str, old: Tensor, theta: Tensor, weights: Tensor) -> None:
        """The same where both are lists of one length (so of one factor), and `weights` are off at the places `old`."""
        if len(old):
            weights.index_copy_(0, old, scaled(theta.index_select(0, old), self._factors[name]))
            weights.index_fill_(0, self._listed(name, weights.device), 0.0)

    def _listed(self, name: str, device: torch.device) -> Tensor:
        if device not in self._places:
            listed = {name: s.end - s.begin for name, s in self._packed.spans.items() if s.listed}
            places = self._packed.positions.to(device).long().split(list(listed.values()))
            self._places[device] = dict(zip(listed, places, strict=True))
        return self._places[device][name]


NOTHING = Packed({}, torch.zeros(0, dtype=torch.int32), torch.zeros(0, dtype=torch.uint8))


def together(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies of `tensors` (on the CPU) that lie in one piece of memory; a large piece has pages of its own.

    What is kept would else lie between the large arrays that decoding needs for a moment, and these leave holes that
    the allocator keeps for good: a thousand masks took twice their memory.
    """
    begins = [0]
    for tensor in tensors:
        begins.append(begins[-1] + -(-tensor.nbytes // _APART) * _APART)
    size = max(begins[-1], _APART)
    room = (
        np.frombuffer(mmap.mmap(-1, size, **_PRIVATE), np.uint8)
        if size >= _OWN_PAGES
        else np.empty(size, np.uint8)
    )
    piece, copies = torch.from_numpy(room), []
    for tensor, begin in zip(tensors, begins[:-1], strict=True):
        copy = piece[begin : begin + tensor.nbytes].view(tensor.dtype).reshape(tensor.shape)
        copies.append(copy.copy_(tensor))
    return copies


def _joined(parts: list[np.ndarray], dtype: type[np.generic]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts) if parts else np.zeros(0, dtype))
