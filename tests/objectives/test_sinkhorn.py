"""Marginals, numerical range, and agreement with lightly's implementation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss.swav_loss import sinkhorn as lightly_sinkhorn

from selfmask.errors import SettingsError
from selfmask.objectives.sinkhorn import sinkhorn


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 40), st.integers(2, 12), st.integers(0, 10_000))
def test_marginals_are_met(samples: int, prototypes: int, seed: int) -> None:
    logits = torch.randn(samples, prototypes, generator=torch.Generator().manual_seed(seed)).mul_(0.1)
    codes = sinkhorn(logits, epsilon=0.05, iterations=500)
    assert torch.allclose(codes.sum(dim=1), torch.ones(samples), atol=1e-5)
    assert torch.allclose(codes.sum(dim=0), torch.full((prototypes,), samples / prototypes), rtol=1e-3)


def test_rows_sum_to_one_after_three_iterations_and_columns_come_closer() -> None:
    logits = torch.randn(64, 10) * 0.05 + torch.linspace(0, 0.3, 10)
    plain, balanced = torch.softmax(logits / 0.05, dim=1), sinkhorn(logits)
    assert torch.allclose(balanced.sum(dim=1), torch.ones(64), atol=1e-6)
    assert (balanced.sum(dim=0) - 6.4).abs().max() < 0.3 * (plain.sum(dim=0) - 6.4).abs().max()


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize("epsilon", [0.03, 0.05, 0.5])
def test_equals_the_usual_formulation(iterations: int, epsilon: float) -> None:
    logits = torch.nn.functional.normalize(torch.randn(48, 16), dim=1)
    wanted = lightly_sinkhorn(logits.double().clone(), iterations=iterations, epsilon=epsilon).float()
    found = sinkhorn(logits, epsilon=epsilon, iterations=iterations)
    assert torch.allclose(found, wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_large_logits_give_no_inf_or_nan(dtype: torch.dtype) -> None:
    logits = (torch.randn(32, 8) / 0.05).to(dtype)  # divided by ε once more: exponents to ±1 000
    logits[0] = -60_000 if dtype == torch.float16 else -1e30
    codes = sinkhorn(logits)
    assert codes.dtype == torch.float32
    assert torch.isfinite(codes).all()
    assert torch.allclose(codes.sum(dim=1), torch.ones(32), atol=1e-5)


def test_autocast_does_not_lower_the_precision() -> None:
    logits = torch.randn(32, 8)
    with torch.autocast("cpu", torch.bfloat16):
        inside = sinkhorn(logits)
    assert torch.equal(inside, sinkhorn(logits))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="epsilon > 0"):
        sinkhorn(torch.zeros(4, 4), epsilon=0)
    with pytest.raises(SettingsError, match="at least 1 iteration"):
        sinkhorn(torch.zeros(4, 4), iterations=0)
    with pytest.raises(SettingsError, match=r"\(samples, prototypes\)"):
        sinkhorn(torch.zeros(4))
