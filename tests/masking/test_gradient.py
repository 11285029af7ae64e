"""The score's gradient against autograd through the paper's formula, taken literally."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selfmask.masking.gradient import score_gradient
from selfmask.masking.rules import Threshold, TopK
from selfmask.masking.weight import alpha, masked_weight, scale


def literal(theta: Tensor, mask: Tensor, upstream: Tensor) -> Tensor:
    """∂L/∂M by autograd, for L = Σ upstream · w with w = θ·M/sqrt(mean M): M is a straight-through input."""
    m = mask.double().requires_grad_()
    weight = theta * m / m.mean().sqrt()
    (weight * upstream).sum().backward()
    assert m.grad is not None
    return m.grad


@settings(deadline=None, max_examples=60)
@given(
    shape=st.sampled_from([(7,), (1,), (5, 3), (4, 3, 3, 3), (1, 64)]),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_equals_autograd_at_any_density(shape: tuple[int, ...], share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    theta, upstream = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    total = theta.numel()
    on = max(1, round(share * total))
    mask = torch.zeros(total, dtype=torch.bool)
    mask[torch.randperm(total, generator=generator)[:on]] = True
    mask = mask.view(shape)
    weight = masked_weight(theta, mask)
    found = score_gradient(theta, weight, upstream, on, scale(on, total))
    expected = literal(theta, mask, upstream)
    assert torch.allclose(weight, theta * mask / alpha(on, total), rtol=1e-14, atol=0)
    assert (found - expected).norm() <= 1e-10 * expected.norm().clamp_min(1e-30)


@pytest.mark.parametrize("rule", [Threshold(mu=0.9), TopK(0.5), TopK(0.25, init="magnitude"), TopK(1.0)])
@pytest.mark.parametrize("shape", [(64,), (16, 8), (8, 4, 3, 3)])
def test_equals_autograd_under_every_rule(rule: Threshold | TopK, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    theta, upstream = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    scores = rule.initial_scores(theta, generator) + 0.2 * torch.randn(shape, generator=generator).double()
    mask = rule.mask(scores, "w", 0)
    on = int(mask.sum())
    found = score_gradient(theta, masked_weight(theta, mask), upstream, on, scale(on, theta.numel()))
    expected = literal(theta, mask, upstream)
    assert (found - expected).norm() < 1e-10 * expected.norm()


def test_the_second_term_counts() -> None:
    """Without it the gradient would be wrong by far: the test above is no formality."""
    theta, upstream = torch.randn(50).double(), torch.rand(50).double()
    mask = torch.rand(50) < 0.5
    expected = literal(theta, mask, upstream)
    first_only = theta * upstream * scale(int(mask.sum()), 50)
    assert (first_only - expected).norm() > 1e-3 * expected.norm()


def test_all_on_is_the_base_and_off_is_plus_zero() -> None:
    theta = torch.randn(4, 5)
    assert torch.equal(masked_weight(theta, torch.ones(4, 5, dtype=torch.bool)), theta)
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[0, 0] = True
    weight = masked_weight(theta, mask)
    assert not torch.signbit(weight[~mask]).any()
    assert weight[0, 0] == theta[0, 0] * scale(1, 20)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_rounds_once(dtype: torch.dtype) -> None:
    theta, mask = torch.randn(100).to(dtype), torch.rand(100) < 0.7
    expected = (theta.double() * scale(int(mask.sum()), 100)).float().to(dtype)
    weight = masked_weight(theta, mask)
    assert weight.dtype == dtype
    assert (
        weight[mask] != expected[mask]
    ).sum() <= 1  # float32 and float64 products may round apart at a tie


def test_no_weight_on_is_refused() -> None:
    with pytest.raises(ValueError, match="0 < on"):
        alpha(0, 10)
    with pytest.raises(ValueError, match="0 < on"):
        scale(0, 10)
