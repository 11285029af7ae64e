"""The paper's invariances (PAPER §3): exact in floating point where the factors are powers of two."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfmask.masking.rules import Threshold
from selfmask.maskset import MaskSet

STEPS = 60


def masks_at_every_step(rule: Threshold, **settings: Any) -> list[dict[str, Tensor]]:
    """A small network in float64 on fixed batches; the masks after each step of SGD on the scores."""
    torch.manual_seed(4)
    model = nn.Sequential(
        nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 24, bias=False), nn.Tanh(), nn.Linear(24, 4)
    )
    masks = MaskSet(model.double(), select="*.weight", rule=rule)
    optimizer = masks.optimizer(**settings)
    generator = torch.Generator().manual_seed(5)
    seen: list[dict[str, Tensor]] = []
    for _ in range(STEPS):
        x = torch.randn(32, 10, generator=generator, dtype=torch.float64)
        y = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
        optimizer.zero_grad()
        F.cross_entropy(masks.model(x), y).backward()
        optimizer.step()
        seen.append(masks.masks())
    return seen


def agree(a: list[dict[str, Tensor]], b: list[dict[str, Tensor]]) -> bool:
    return all(torch.equal(x[n], y[n]) for x, y in zip(a, b, strict=True) for n in x)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_scale(momentum: float) -> None:
    """Theorem 2: (αλ, αS0) gives the masks of (λ, S0), with μ = 0, bit for bit at every step."""
    standard = masks_at_every_step(Threshold(), lr=32.0, momentum=momentum)
    assert any(not bool(m.all()) for m in standard[-1].values()), "no bit flipped: the test shows nothing"
    for factor in (0.25, 2.0, 16.0):
        scaled = masks_at_every_step(Threshold(start=factor), lr=32.0 * factor, momentum=momentum)
        assert agree(standard, scaled)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_translation(momentum: float) -> None:
    """Theorem 1: S0 + a with μ + a gives the same masks. Sums with a round, so only a score within 1e-12 of μ
    could tell them apart; none comes that near here."""
    standard = masks_at_every_step(Threshold(), lr=32.0, momentum=momentum)
    for shift in (-0.5, 0.25, 1.0):
        moved = masks_at_every_step(Threshold(mu=shift, start=1.0 + shift), lr=32.0, momentum=momentum)
        assert agree(standard, moved)


def test_both_hold_for_adam_too() -> None:
    """Its steps, too, depend on gradients and not on where the scores are."""
    adam: dict[str, Any] = {"base": torch.optim.Adam, "betas": (0.9, 0.99)}
    standard = masks_at_every_step(Threshold(spread=0.5), lr=0.0625, **adam)
    assert any(not bool(m.all()) for m in standard[-1].values())
    assert agree(standard, masks_at_every_step(Threshold(start=4.0, spread=2.0), lr=0.25, **adam))
    assert agree(standard, masks_at_every_step(Threshold(mu=1.0, start=2.0, spread=0.5), lr=0.0625, **adam))
    assert not agree(standard, masks_at_every_step(Threshold(spread=0.5), lr=0.125, **adam))


def test_both_together() -> None:
    """App. Fig. 1's equivalent setting, (λ = 100, S0 = 2.5, μ = 0.5) for (λ = 50, S0 = 1, μ = 0)."""
    standard = masks_at_every_step(Threshold(), lr=16.0, momentum=0.9)
    modified = masks_at_every_step(Threshold(mu=0.5, start=2.5), lr=32.0, momentum=0.9)
    assert agree(standard, modified)


def test_one_change_alone_matters() -> None:
    standard = masks_at_every_step(Threshold(), lr=32.0)
    assert not agree(standard, masks_at_every_step(Threshold(), lr=64.0))
    assert not agree(standard, masks_at_every_step(Threshold(start=2.0), lr=32.0))
    # λ twice as large is S0 - μ half as large: the paper's "λ = 100 ≡ μ = 0.5".
    assert agree(masks_at_every_step(Threshold(), lr=64.0), masks_at_every_step(Threshold(mu=0.5), lr=32.0))


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_weight_decay_breaks_translation_and_keeps_scale(momentum: float) -> None:
    settings: dict[str, Any] = {"lr": 32.0, "momentum": momentum, "weight_decay": 2.0**-9}
    standard = masks_at_every_step(Threshold(), **settings)
    assert not agree(standard, masks_at_every_step(Threshold(mu=1.0, start=2.0), **settings))
    # Theorem 2's γ/α: what is decayed away a step stays the same share of the scores.
    scaled = masks_at_every_step(Threshold(start=4.0), lr=128.0, momentum=momentum, weight_decay=2.0**-11)
    assert agree(standard, scaled)
