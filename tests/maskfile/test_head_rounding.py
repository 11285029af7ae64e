"""A head rounded for its outputs: each step is the best for the others, by trying all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selfmask.errors import SettingsError
from selfmask.maskfile import head_rounding
from selfmask.maskfile.head_rounding import rounded_head
from selfmask.maskfile.quantised import clipped, most_steps

CLASSES, WIDTH = 3, 5


@pytest.fixture(scope="module", autouse=True)
def small_blocks_to_the_end() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head_rounding, "_BLOCK", 2)
        patch.setattr(head_rounding, "_SWEEPS", 100)  # until nothing changes
        yield


def drawn(seed: int, images: int) -> tuple[Tensor, Tensor, Tensor]:
    """A head, features that depend on each other, and what is to be said of them."""
    torch.manual_seed(seed)
    weight = torch.randn(CLASSES, WIDTH, dtype=torch.float64)
    x = torch.randn(images, WIDTH, dtype=torch.float64) @ torch.randn(WIDTH, WIDTH, dtype=torch.float64) + 1
    return weight, x, x @ weight.T + 0.3


def error(weight: Tensor, exact: Tensor, x: Tensor, wanted: Tensor) -> float:
    """What is minimised, from its definition: with the best bias, and the elements held where they were."""
    left = x @ weight.T - wanted
    return float(left.var(0, correction=0).sum() + held(x) * (weight - exact).square().sum())


def held(x: Tensor) -> float:
    return float(x.var(0, correction=0).mean())


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), bits=st.integers(2, 8), images=st.integers(2, 40))
def test_no_other_step_is_better(seed: int, bits: int, images: int) -> None:
    exact, x, wanted = drawn(seed, images)
    found, bias = rounded_head(exact, bits, x, wanted)
    assert (found.bits, bias.bits) == (bits, 8)
    assert int(found.steps.abs().max()) <= most_steps(bits)
    least = error(found.values().double(), exact, x, wanted)
    alone = clipped(exact, bits, "", (x.var(0, correction=0) + held(x)).expand_as(exact))
    assert least <= error(alone.values().double(), exact, x, wanted) + 1e-9
    for row in range(CLASSES):
        for column in range(WIDTH):
            for step in range(-most_steps(bits), most_steps(bits) + 1):
                other = found.values().double()
                other[row, column] = step * found.scales[row].double()
                assert error(other, exact, x, wanted) >= least - 1e-9


def test_the_outputs_are_nearer_than_with_each_element_rounded_alone() -> None:
    exact, x, wanted = drawn(1, 200)
    found, bias = rounded_head(exact, 3, x[:100], wanted[:100])
    alone = clipped(exact, 3, "").values().double()

    def far(said: Tensor) -> float:
        return float((said - wanted[100:]).square().mean())

    assert far(x[100:] @ found.values().double().T + bias.values()) < 0.75 * far(x[100:] @ alone.T + 0.3)


def test_a_class_without_weights_and_features_without_spread() -> None:
    exact = torch.tensor([[0.0, 0.0], [1.0, -2.0]])
    found, bias = rounded_head(exact, 4, torch.ones(6, 2), torch.zeros(6, 2))
    torch.testing.assert_close(found.values(), exact, atol=0.1, rtol=0)
    torch.testing.assert_close(bias.values(), -exact.sum(1), atol=0.2, rtol=0)


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(SettingsError, match="not finite"):
        rounded_head(torch.full((2, 3), torch.inf), 4, torch.randn(5, 3), torch.randn(5, 2))
