"""Tensors in a few bits: within half a step of what they were, the same after the file, and to themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import Tensor

from selfmask.errors import MaskFileError, SettingsError
from selfmask.maskfile.quantised import BITS, Quantised, clipped, most_steps, packed_bytes, quantised

FLOATS = st.floats(-(2.0**80), 2.0**80, width=32)
TENSORS = arrays(np.float32, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=7), elements=FLOATS)


def rows(tensor: Tensor) -> Tensor:
    return tensor.double().reshape(len(tensor) if tensor.ndim > 1 else 1, -1)


@settings(max_examples=150, deadline=None)
@given(TENSORS, st.sampled_from(BITS))
def test_what_was_quantised_comes_back_and_is_quantised_to_itself(values: np.ndarray, bits: int) -> None:
    tensor = torch.from_numpy(values)
    found = quantised(tensor, bits, "x")
    packed = found.packed()
    assert packed.nbytes == packed_bytes(tensor.numel(), bits)
    assert Quantised.unpacked(packed, found.scales, tuple(tensor.shape), bits).equals(found)
    assert quantised(found.values(), bits, "x").equals(found)
    assert found.values().shape == tensor.shape
    if tensor.numel():
        # Half a step, and what a scale loses as a bfloat16 at the row's largest.
        top = rows(tensor).abs().amax(1, keepdim=True)
        error = (rows(found.values()) - rows(tensor)).abs()
        assert bool((error <= top * (0.5 / most_steps(bits) + 2**-8) + 2.0**-90).all())
        # The product is exact: in double precision it is the same.
        exact = rows(found.steps.double()) * found.scales.double()[:, None]
        assert torch.equal(rows(found.values()), exact)


def test_a_row_of_its_own_size_loses_nothing_to_a_larger_one() -> None:
    tensor = torch.stack([torch.linspace(-1, 1, 15), torch.linspace(-1e4, 1e4, 15)])
    error = (quantised(tensor, 8, "x").values() - tensor).abs().amax(1)
    assert error[0] < 0.01
    assert 1 < error[1] < 100


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan, 1e38])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(SettingsError, match="the gain cannot be stored in 8 bits"):
        quantised(torch.tensor([0.0, bad]), 8, "the gain")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_differences_are_added_once_in_the_wider_precision(dtype: torch.dtype) -> None:
    base = torch.randn(50).to(dtype)
    change = quantised(torch.randn(50) / 30, 8, "x")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    expected = torch.tensor(
        [
            (b.to(wide) + (float(s) * float(change.scales[0])))
            for b, s in zip(base, change.steps, strict=True)
        ],
        dtype=wide,
    )
    assert torch.equal(change.added_to(base), expected.to(dtype))


@pytest.mark.parametrize(
    ("packed", "scales", "shape", "bits", "message"),
    [
        ([0, 0], [1.0], (3,), 8, "does not fit its shape"),
        ([0, 0], [1.0], (2, 1), 8, "does not fit its shape"),
        ([0], [1.0], (1 << 40, 1 << 40), 8, "does not fit its shape"),
        ([255], [1.0], (1,), 8, "beyond those of 8 bits"),
        ([0xF], [1.0], (1,), 4, "beyond those of 4 bits"),
        ([0x17], [1.0], (1,), 4, "after its last step are not 0"),
        ([0], [torch.nan], (1,), 8, "a scale is negative, not finite"),
        ([0], [torch.inf], (1,), 8, "a scale is negative, not finite"),
        ([0], [-1.0], (1,), 8, "a scale is negative, not finite"),
        ([0], [1e-38], (1,), 8, "out of range"),
    ],
)
def test_what_cannot_have_been_written_is_refused(
    packed: list[int], scales: list[float], shape: tuple[int, ...], bits: int, message: str
) -> None:
    size = torch.tensor(scales, dtype=torch.bfloat16)
    with pytest.raises(MaskFileError, match=message):
        Quantised.unpacked(np.array(packed, np.uint8), size, shape, bits)


def test_no_step_is_beyond_its_range_where_the_scale_is_rounded_down() -> None:
    """A scale is a bfloat16, so the largest value may be more than 127 of it."""
    for k in range(400):
        values = torch.tensor([1 + k / 400, -(1 + k / 400), 0.3])
        for bits in (8, 4):
            found = quantised(values, bits, "x")
            assert int(found.steps.abs().max()) <= 2 ** (bits - 1) - 1
            assert (found.values()[:2] * values[:2] > 0).all()


@pytest.mark.parametrize("how", [quantised, clipped])
def test_what_is_too_small_for_a_scale_is_0_and_can_be_read(how: Callable[..., Quantised]) -> None:
    """Clipped to fewer, a scale may come to lie below the least that a file may hold."""
    least = 2.0**-100
    for top in (1e-40, 0.4 * least, 1.2 * least):
        values = torch.tensor([top] + [0.7 * top] * 30)
        found = how(values, 2, "x")
        again = Quantised.unpacked(found.packed(), found.scales, tuple(values.shape), 2)
        assert again.equals(found)
        assert bool(found.steps.any()) == (top > least)
