"""Compaction: only off-weights are turned on, in the order of importance, and the score stays within the tolerance."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from selfmask.errors import SettingsError
from selfmask.masking import importance as importance_of
from selfmask.masking.importance import Masks, sensitivity
from selfmask.masking.weight import masked_weight
from selfmask.tasks import compaction


def case(seed: int = 0, off: float = 0.2) -> tuple[Masks, dict[str, Tensor]]:
    """Two tensors with the share `off` of their weights off, and an importance for each weight."""
    random = torch.Generator().manual_seed(seed)
    shapes = {"a": (40, 50), "b": (30, 10, 3, 3)}
    masks = {n: torch.rand(s, generator=random) > off for n, s in shapes.items()}
    return masks, {n: torch.rand(s, generator=random) for n, s in shapes.items()}


def loss_of(masks: Masks, importance: dict[str, Tensor]) -> Callable[[Masks], float]:
    """A score that falls by the importance of every off-weight that is turned on."""
    return lambda tried: -sum(float(importance[n][tried[n] & ~m].sum()) for n, m in masks.items())


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1000),
    max_drop=st.floats(0, 300) | st.just(1e9),
    refine=st.integers(0, 2),
    off=st.sampled_from((0.2, 0.5, 0.8)),
)
def test_the_result_is_within_the_tolerance_and_no_larger(
    seed: int, max_drop: float, refine: int, off: float
) -> None:
    masks, importance = case(seed, off)
    found = compaction.smallest(
        masks, importance, loss_of(masks, importance), max_drop=max_drop, steps=2, refine=refine
    )
    assert loss_of(masks, importance)(found.masks) >= -max_drop
    assert found.chosen.bits <= found.before.bits
    for name, mask in masks.items():
        assert bool((found.masks[name] | ~mask).all())
        if refine == 0 and not bool(found.masks[name].equal(mask)):
            turned = importance[name][found.masks[name] & ~mask]
            left = importance[name][~found.masks[name]]
            assert len(left) == 0 or turned.max() < left.min()


def test_so_many_bits_are_left_as_were_asked_for() -> None:
    masks, importance = case()
    found = compaction.to_bits(masks, importance, loss_of(masks, importance), share=0.5)
    assert 0.45 * found.before.bits < found.chosen.bits < 0.52 * found.before.bits
    assert found.chosen.score == loss_of(masks, importance)(found.masks) < 0


def test_a_tolerance_without_end_turns_everything_on_and_none_nothing() -> None:
    masks, importance = case()
    everything = compaction.smallest(masks, importance, lambda m: 0.0, max_drop=0, steps=12)
    assert everything.chosen.share > 0.99
    assert everything.chosen.bits < 0.05 * everything.before.bits
    nothing = compaction.smallest(masks, importance, lambda m: -float(m["a"].sum()), max_drop=0)
    assert all(torch.equal(nothing.masks[n], m) for n, m in masks.items())
    assert nothing.chosen == nothing.before
    assert len(nothing.curve) == 7


def test_the_cut_is_a_quantile_of_magnitude_in_each_tensor() -> None:
    theta = {"a": torch.tensor([[0.5, -4.0, 3.0, -1.0]]), "b": torch.tensor([10.0, -20.0])}
    ranks = importance_of.by_magnitude(theta)
    assert ranks["a"].tolist() == [[0, 0.75, 0.5, 0.25]]
    assert ranks["b"].tolist() == [0, 0.5]
    masks = {n: torch.zeros_like(t, dtype=torch.bool) for n, t in theta.items()}
    on = importance_of.restored(masks, ranks, 0.5)
    assert on["a"].tolist() == [[True, False, False, True]]
    assert on["b"].tolist() == [True, False]


def test_sensitivity_is_the_features_first_order_change(model: nn.Module) -> None:
    theta = {"conv3.weight": model.get_parameter("conv3.weight").detach().clone()}
    images = torch.randn(3, 3, 8, 8)
    # Every sign pattern once is the exact expectation: compare with the Jacobian, image by image.
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    weight = linear.get_parameter("1.weight").detach().clone()
    exact = (weight * images.flatten(1)[:, None, :]).square().mean(0).sqrt()
    drawn = [
        importance_of.sensitivity(linear, {"1.weight": weight}, [images], seed=s)["1.weight"].square()
        for s in range(400)
    ]
    assert torch.allclose(torch.stack(drawn).mean(0).sqrt(), exact, rtol=0.15, atol=1e-3)

    before = {n: p.clone() for n, p in model.named_parameters()}
    model.train()
    found = importance_of.sensitivity(model, theta, [images, images[:1]])["conv3.weight"]
    assert found.shape == theta["conv3.weight"].shape
    assert bool((found >= 0).all())
    assert model.training
    assert all(torch.equal(before[n], p) and p.grad is None for n, p in model.named_parameters())
    with pytest.raises(SettingsError, match="no images"):
        importance_of.sensitivity(model, theta, [])


def test_alpha_follows_the_new_count() -> None:
    masks, importance = case()
    theta = {n: torch.randn(m.shape) for n, m in masks.items()}
    found = compaction.smallest(masks, importance, lambda m: 0.0, max_drop=0, steps=1)
    w = masked_weight(theta["a"], found.masks["a"])
    on = found.masks["a"]
    assert torch.allclose(w[on], theta["a"][on] / on.float().mean().sqrt())


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), share=st.floats(0.01, 1))
def test_a_share_of_the_bits_is_met_from_below(seed: int, share: float) -> None:
    masks, importance = case(seed)

    def bits(tried: Masks) -> float:
        found = 0.0
        for mask in tried.values():
            p = float((~mask).float().mean())
            found -= mask.numel() * sum(q * math.log2(q) for q in (p, 1 - p) if q > 0)
        return found

    found = importance_of.at_bits(masks, importance, share)
    assert bits(found) <= share * bits(masks) * (1 + 1e-6)
    assert bits(found) > (share - 0.02) * bits(masks)
    assert all(bool((found[name] | ~mask).all()) for name, mask in masks.items())
    with pytest.raises(SettingsError, match="share"):
        importance_of.at_bits(masks, importance, 0)


def test_what_counts_is_the_importance_for_each_bit_saved() -> None:
    few, many = torch.ones(1000, dtype=torch.bool), torch.ones(1000, dtype=torch.bool)
    few[:10], many[:400] = False, False
    masks = {"few": few, "many": many}
    found = importance_of.per_bit(masks, {name: torch.ones(1000) for name in masks})
    # H(0.01) · 1000 / 10 = 8.08 bits and H(0.4) · 1000 / 400 = 2.43 bits for each weight that is off.
    assert float(found["few"][0]) == pytest.approx(1 / 8.0793, rel=1e-3)
    assert float(found["many"][0]) == pytest.approx(1 / 2.4274, rel=1e-3)


def test_settings_out_of_range_are_refused() -> None:
    masks, importance = case()
    with pytest.raises(SettingsError, match="max_drop"):
        compaction.smallest(masks, importance, lambda m: 0.0, max_drop=-1)
    with pytest.raises(SettingsError, match="steps"):
        compaction.smallest(masks, importance, lambda m: 0.0, max_drop=1, steps=0)


def test_sensitivity_leaves_the_network_as_it_was() -> None:
    conv = nn.Conv2d(3, 4, 3)
    network = nn.Sequential(conv, nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.train()
    conv.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    theta = {"0.weight": conv.weight.detach().clone()}
    batches = [torch.randn(8, 3, 6, 6)]
    first, again = (sensitivity(network, theta, batches) for _ in range(2))
    assert torch.equal(first["0.weight"], again["0.weight"])  # no dropout: as it is evaluated
    assert not conv.weight.requires_grad
    assert all(part.training for part in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_sensitivities_of_half_precision_are_those_of_single() -> None:
    """Squared in half precision, what is below 2⁻¹² would be nothing."""
    torch.manual_seed(0)
    layer = nn.Linear(32, 8).requires_grad_(False)
    layer.weight.mul_(1e-3)
    images = [torch.randn(4, 32) * 1e-2]
    theta = {"weight": layer.weight.clone()}
    wanted = sensitivity(layer, theta, images)["weight"]
    half = nn.Linear(32, 8).half()
    half.load_state_dict(layer.state_dict())
    found = sensitivity(half, {"weight": theta["weight"].half()}, [images[0].half()])["weight"]
    assert torch.allclose(found, wanted, rtol=0.02, atol=1e-8)
