"""|θ| of what is off, against loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfmask.errors import WrongBaseError
from selfmask.reports.magnitude import magnitude_profile


def test_golden_profile() -> None:
    theta = {"a": torch.tensor([0.1, -4.0, 2.0, -0.5]), "b": torch.tensor([[1.0, 10.0]])}
    masks = {"a": torch.tensor([False, True, True, False]), "b": torch.tensor([[True, False]])}
    profile = magnitude_profile(masks, theta, bins=2)
    # Of a, 0.1 and −0.5 are the smaller half, both off; of b, 1.0 is, on, and 10.0 the larger, off.
    assert profile.weights.tolist() == [3, 3]
    assert profile.off.tolist() == [2, 1]
    assert profile.shares == pytest.approx([2 / 3, 1 / 3])
    assert profile.share_off == pytest.approx(0.5)
    off = 0.1**2 + 0.5**2 + 10**2
    assert profile.energy_off == pytest.approx(off / (off + 4**2 + 2**2 + 1))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**31))
def test_bins_are_ranks(count: int, bins: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randint(-3, 4, (count,), generator=generator).float()  # with ties
    mask = torch.rand(count, generator=generator) < 0.6
    profile = magnitude_profile({"w": mask}, {"w": theta}, bins)
    weights, off = [0] * bins, [0] * bins
    for rank, index in enumerate(sorted(range(count), key=lambda i: (abs(float(theta[i])), i))):
        weights[rank * bins // count] += 1
        off[rank * bins // count] += not bool(mask[index])
    assert profile.weights.tolist() == weights
    assert profile.off.tolist() == off


def test_half_precision_bases_are_read() -> None:
    theta = torch.tensor([0.25, -8.0], dtype=torch.bfloat16)
    profile = magnitude_profile({"w": torch.tensor([False, True])}, {"w": theta}, bins=2)
    assert profile.off.tolist() == [1, 0]


def test_the_wrong_base_is_named() -> None:
    mask = {"layer1.weight": torch.ones(2, 2, dtype=torch.bool)}
    with pytest.raises(WrongBaseError, match=r"no tensor of this name.*layer1\.weight"):
        magnitude_profile(mask, {})
    with pytest.raises(WrongBaseError, match=r"\(3, 2\).*layer1\.weight.*\(2, 2\)"):
        magnitude_profile(mask, {"layer1.weight": torch.ones(3, 2)})
