"""Tensors in a few bits an element: how a mask file stores norm weights (as differences) and small heads.

An element is a whole number of steps, and each row has a step of its own, a bfloat16. Their product needs 15 bits of a
float32's 24, so it is exact on every machine, and what was quantised once is quantised to itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from selfmask.errors import MaskFileError, SettingsError
from selfmask.maskfile.container import count

BITS = range(2, 9)
_CLIPS = tuple(i / 20 for i in range(19, 4, -1))  # shares of a row's largest
_LEAST, _MOST = 2.0**-100, 2.0**100  # of a scale that is not 0: no product leaves the range of a float32


@dataclass(frozen=True, eq=False)
class Quantised:
    """A tensor of floats in `bits` bits an element.

    Attributes:
        steps: int8, of the tensor's shape, between -(2^(bits - 1) - 1) and that.
        scales: bfloat16 (rows,), the size of a row's step. A tensor of fewer than two dimensions is one row.
        bits: 2 to 8.
    """

    steps: Tensor
    scales: Tensor
    bits: int = 8

    def values(self) -> Tensor:
        """The tensor, float32, on the CPU."""
        return (_in_rows(self.steps.float()) * self.scales.float()[:, None]).reshape(self.steps.shape)

    def added_to(self, base: Tensor) -> Tensor:
        """`base` + the values: of the base's dtype and on its device; rounded once where its dtype is float32."""
        wide = torch.promote_types(base.dtype, torch.float32)
        return (base.to(wide) + self.values().to(base.device, wide)).to(base.dtype)

    def equals(self, other: Quantised) -> bool:
        """Whether both are the same, stored alike."""
        return (
            self.bits == other.bits
            and torch.equal(self.steps, other.steps)
            and torch.equal(self.scales, other.scales)
        )

    def packed(self) -> np.ndarray:
        """The steps as the file has them: `bits` bits each, lowest first, counted from the least; uint8."""
        codes = (self.steps.numpy().reshape(-1).astype(np.int16) + most_steps(self.bits)).astype(np.uint8)
        each = np.unpackbits(codes[:, None], axis=1, count=self.bits, bitorder="little")
        return np.packbits(each.reshape(-1), bitorder="little")

    @staticmethod
    def unpacked(packed: np.ndarray, scales: Tensor, shape: tuple[int, ...], bits: int) -> Quantised:
        """The inverse of `packed`. Raises `MaskFileError` where its arguments do not fit or cannot have been written.

        `packed` and `scales` are no longer than the file; `shape` may claim anything.
        """
        total = count(shape)
        if len(packed) != packed_bytes(total, bits) or len(scales) != row_count(shape):
            raise MaskFileError("it does not fit its shape; the file is damaged")
        size = scales.float()
        if not bool(((size == 0) | ((size >= _LEAST) & (size <= _MOST))).all()):
            raise MaskFileError("a scale is negative, not finite or out of range; the file is damaged")
        each = np.unpackbits(packed, bitorder="little")
        if each[total * bits :].any():
            raise MaskFileError("the bits after its last step are not 0; the file is damaged")
        codes = np.packbits(each[: total * bits].reshape(-1, bits), axis=1, bitorder="little").reshape(-1)
        steps = codes.astype(np.int16) - most_steps(bits)
        if (steps > most_steps(bits)).any():
            raise MaskFileError(f"a step is beyond those of {bits} bits; the file is damaged")
        return Quantised(torch.from_numpy(steps.astype(np.int8)).reshape(shape), scales, bits)


def quantised(values: Tensor, bits: int, what: str) -> Quantised:
    """`values` rounded to the nearest step; the largest of each row is 2^(bits - 1) - 1 steps.

    Raises `SettingsError` about `what` where they are not finite, or beyond 10^30.
    """
    rows = _in_rows(values.detach().double().cpu())
    top = rows.abs().amax(1) if rows.numel() else rows.new_zeros(len(rows))
    if not bool((top < _MOST).all()):  # nor is NaN
        raise SettingsError(
            f"{what} cannot be stored in {bits} bits: it holds what is not finite, or beyond 1e30"
        )
    most = most_steps(bits)
    scales = (top / most).to(torch.bfloat16)
    scales[scales < _LEAST] = 0
    steps = rows / scales.double().clamp_min(_LEAST)[:, None]
    steps = torch.where(scales[:, None] == 0, 0.0, steps.round().clamp(-most, most))
    return Quantised(steps.to(torch.int8).reshape(values.shape), scales, bits)


def clipped(values: Tensor, bits: int, what: str, worth: Tensor | None = None) -> Quantised:
    """As `quantised`, but a row's largest are cut off where the row as a whole is then nearer to what it was.

    Near is the sum of the squares, each times its `worth` (of the shape of `values`; 1). With 2 to 4 bits one large
    element would else leave the others a step or none.
    """
    best = quantised(values, bits, what)
    exact = _in_rows(values.detach().double().cpu())
    weight = torch.ones_like(exact) if worth is None else _in_rows(worth.double())
    steps, scales = _in_rows(best.steps), best.scales
    error = (weight * (steps.double() * scales.double()[:, None] - exact).square()).sum(1)
    for share in _CLIPS:
        tried = (best.scales.float() * share).to(torch.bfloat16)
        tried[tried < _LEAST] = 0
        size = tried.double()[:, None]
        rounded = (exact / size.clamp_min(_LEAST)).round().clamp(-most_steps(bits), most_steps(bits))
        rounded = torch.where(size == 0, 0.0, rounded)
        left = (weight * (rounded * size - exact).square()).sum(1)
        nearer = left < error
        steps = torch.where(nearer[:, None], rounded.to(torch.int8), steps)
        scales, error = torch.where(nearer, tried, scales), torch.where(nearer, left, error)
    return Quantised(steps.reshape(values.shape), scales, bits)


def plain(tensors: Mapping[str, Tensor | Quantised]) -> dict[str, Tensor]:
    """All of them as tensors by name: of those that are quantised, their values."""
    return {name: t.values() if isinstance(t, Quantised) else t for name, t in tensors.items()}


def most_steps(bits: int) -> int:
    """The most steps that an element of `bits` bits has."""
    return (1 << (bits - 1)) - 1


def row_count(shape: tuple[int, ...]) -> int:
    """How many rows, and so scales, a tensor of `shape` has."""
    return shape[0] if len(shape) > 1 else 1


def _in_rows(tensor: Tensor) -> Tensor:
    rows = row_count(tuple(tensor.shape))
    return tensor.reshape(rows, tensor.numel() // max(rows, 1))


def packed_bytes(elements: int, bits: int) -> int:
    """The bytes of so many packed steps."""
    return -(-elements * bits // 8)
