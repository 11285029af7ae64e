"""What a density counts where only a share of the weights may be masked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from selfmask.errors import SettingsError
from selfmask.masking.rules import Progressive, Threshold, TopK
from selfmask.masking.selection import LargestShare, RandomShare, Selection
from selfmask.maskset import MaskSet

NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]


def network(outputs: int = 7) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, outputs, 3), nn.Flatten())


def learn(masks: MaskSet, step: int) -> None:
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.3)
    x = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(step))
    masks.model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


@settings(deadline=None, max_examples=40)
@given(
    share=st.floats(0.05, 1), density=st.floats(0.01, 1), largest=st.booleans(), progressive=st.booleans(),
    by_name=st.booleans(), outputs=st.integers(1, 9), seed=st.integers(0, 99),
)  # fmt: skip
def test_topk_under_a_share_counts_all_weights_and_exactly(
    share: float, density: float, largest: bool, progressive: bool, by_name: bool, outputs: int, seed: int
) -> None:
    """At every step round(density · N) are on, those that may not be masked among them; else it is refused."""
    steps = 3
    end: Any = dict.fromkeys(NAMES, density) if by_name else density
    rule = TopK(Progressive(end=end, steps=steps) if progressive else end)
    kind = (LargestShare if largest else RandomShare)(share)
    model = network(outputs)
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    pinned = {n: total - max(1, round(share * total)) for n, total in sizes.items()}
    assume(abs(density - (1 - share)) > 1e-6)
    if density < 1 - share and not by_name:
        with pytest.raises(SettingsError, match="density must be above"):
            MaskSet(model, Selection(NAMES, kind), rule)
        return
    last = {n: max(1, round(density * total)) for n, total in sizes.items()}
    if any(last[n] < pinned[n] for n in NAMES) or all(last[n] == pinned[n] for n in NAMES):
        with pytest.raises(SettingsError, match=r"least density is|nothing to choose"):
            MaskSet(model, Selection(NAMES, kind), rule)
        return
    masks = MaskSet(model, Selection(NAMES, kind), rule, seed=seed)
    always = {t.name: ~t.maskable for t in masks.masked.tensors.values() if t.maskable is not None}
    assert {n: int(m.sum()) for n, m in always.items()} == pinned
    for step in range(steps + 2):
        at = 1 + (density - 1) * (step / steps) if progressive and step < steps else density
        for name, mask in masks.masks().items():
            assert int(mask.sum()) == max(1, round(at * sizes[name])), (name, step)
            assert bool(mask[always[name]].all())
            assert torch.equal(masks.model.get_parameter(name) != 0, mask & (masks.theta[name] != 0))
        learn(masks, step)


def test_the_highest_scores_that_may_be_masked_stay_on() -> None:
    masks = MaskSet(network(), Selection("2.weight", LargestShare(0.5)), TopK(0.7))
    (tensor,) = masks.masked.tensors.values()
    assert tensor.maskable is not None
    mask, maskable = masks.masks()["2.weight"], tensor.maskable
    assert tensor.scores[mask & maskable].min() > tensor.scores[~mask].max()
    assert int((mask & maskable).sum()) == round(0.7 * mask.numel()) - int((~maskable).sum())


def ends(*shares: float) -> dict[str, float]:
    return dict(zip(NAMES, shares, strict=True))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (TopK(0.3), r"density of 0\.3 is not possible: only the largest 50 % .* must be above 0\.5"),
        (TopK(0.5), r"density of 0\.5 is not possible: .* none of those that may be masked would be on"),
        (TopK(Progressive(end=0.4, steps=9)), r"density of 0\.4 is not possible: .* above 0\.5"),
        (
            TopK(ends(0.9, 0.9, 0.25, 0.9)),
            r"0\.25 is not possible for '2\.weight': .* \(189 of 378.* is 0\.5;",
        ),
        (TopK(Progressive(end=ends(0.9, 0.2, 0.9, 0.9), steps=9)), r"0\.2 is not possible for '0\.bias'"),
        (TopK(ends(0.5, 0.5, 0.5, 3 / 7)), "nothing to choose"),
    ],
)
def test_a_density_without_room_for_what_is_always_on_is_refused(rule: TopK, message: str) -> None:
    model = network()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with pytest.raises(SettingsError, match=message):
        MaskSet(model, Selection(NAMES, LargestShare(0.5)), rule)
    assert all(torch.equal(p, before[n]) and p.requires_grad for n, p in model.named_parameters())
    MaskSet(model, NAMES, rule).remove()  # with all weights maskable it is possible


def test_some_tensors_may_have_no_choice_and_the_threshold_has_no_density() -> None:
    masks = MaskSet(network(), Selection(NAMES, LargestShare(0.5)), TopK(ends(0.5, 0.5, 0.9, 1.0)))
    assert int(masks.masks()["0.weight"].sum()) == 81
    MaskSet(network(), Selection(NAMES, LargestShare(0.01)), Threshold()).remove()
