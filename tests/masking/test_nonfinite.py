"""A gradient or score that is not a number: one such must not destroy a mask unseen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfmask.errors import RunError, SettingsError
from selfmask.masking.optimizer import PATIENCE
from selfmask.masking.rules import Progressive, Rule, Threshold, TopK
from selfmask.masking.tensor_adam import TensorAdam
from selfmask.maskset import MaskSet

NAMES = ["0.weight", "2.weight"]
OPTIMIZERS: list[tuple[type[torch.optim.Optimizer] | None, dict[str, Any]]] = [
    (None, {"lr": 20.0, "momentum": 0.9}),
    (None, {"lr": 20.0}),
    (torch.optim.Adam, {"lr": 0.1}),
    (TensorAdam, {"lr": 0.1}),
]


def network() -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 2))


def backward(masks: MaskSet, step: int) -> None:
    masks.model.zero_grad()
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(step))
    masks.model(x).square().mean().backward()


def spoil(parameter: nn.Parameter, value: float, where: int = 3) -> None:
    assert parameter.grad is not None
    parameter.grad.view(-1)[where] = value


def run(
    masks: MaskSet, optimizer: torch.optim.Optimizer, steps: Iterable[int], spoilt: tuple[int, ...] = ()
) -> None:
    for step in steps:
        backward(masks, step)
        if step in spoilt:
            spoil(masks.model.get_parameter("2.weight"), float("nan"))
        optimizer.step()


def test_the_first_gradient_may_be_the_one_that_is_not_finite() -> None:
    """Of two tensors one then has a momentum, and the other none yet."""
    masks = MaskSet(network(), NAMES)
    optimizer = masks.optimizer(lr=20.0, momentum=0.9, weight_decay=1e-4)
    run(masks, optimizer, range(4), spoilt=(0,))
    assert optimizer.skipped == {"2.weight": 1}
    assert all(bool(s.isfinite().all()) for s in masks.scores.values())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("off", [False, True])
@pytest.mark.parametrize(("cls", "settings"), OPTIMIZERS)
def test_a_step_is_skipped_for_the_tensor_whose_gradient_is_not_finite(
    cls: type[torch.optim.Optimizer] | None, settings: dict[str, Any], off: bool, value: float
) -> None:
    """Also where the spoilt entry's own weight is off, and so 0."""
    masks, plain = (MaskSet(network(), NAMES) for _ in range(2))
    if off:
        for each in (masks, plain):
            scores = {n: s.clone() for n, s in each.scores.items()}
            scores["2.weight"].view(-1)[3] = -50.0
            each.set_scores(scores)
    optimizer, other = masks.optimizer(cls, **settings), plain.optimizer(cls, **settings)
    run(masks, optimizer, range(2))
    run(plain, other, range(2))
    before = {n: s.clone() for n, s in masks.scores.items()}
    weight = masks.model.get_parameter("2.weight").detach().clone()

    backward(masks, 2)
    spoil(masks.model.get_parameter("2.weight"), value)
    optimizer.step()
    backward(plain, 2)
    other.step()
    assert optimizer.skipped == {"2.weight": 1}
    assert torch.equal(masks.scores["2.weight"], before["2.weight"])
    assert torch.equal(masks.model.get_parameter("2.weight"), weight)
    assert torch.equal(masks.scores["0.weight"], plain.scores["0.weight"]), "the others step as ever"
    run(masks, optimizer, range(3, 8))
    assert all(bool(s.isfinite().all()) for s in masks.scores.values())
    assert masks.density() > 0.3
    assert other.skipped == {}


def test_after_a_few_in_a_row_the_run_is_stopped_with_its_scores_intact() -> None:
    masks = MaskSet(network(), NAMES)
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.05)
    run(masks, optimizer, range(20), spoilt=tuple(k for k in range(20) if k % PATIENCE))
    assert optimizer.skipped == {"2.weight": 20 - 20 // PATIENCE}
    run(masks, optimizer, [20])
    before = {n: s.clone() for n, s in masks.scores.items()}
    with pytest.raises(RunError, match=rf"'2\.weight' held NaN or infinity in {PATIENCE} steps in a row"):
        run(masks, optimizer, range(21, 99), spoilt=tuple(range(21, 99)))
    assert masks.steps == 21 + PATIENCE - 1
    assert torch.equal(masks.scores["2.weight"], before["2.weight"])


def test_what_is_trained_beside_the_masks_is_kept_too() -> None:
    masks = MaskSet(network(), NAMES, train="4.*")
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.05, trained={"lr": 0.01})
    bias, weight = (masks.model.get_parameter(f"4.{n}") for n in ("bias", "weight"))
    before = bias.detach().clone(), weight.detach().clone()
    backward(masks, 0)
    spoil(bias, float("inf"), 0)
    optimizer.step()
    assert torch.equal(bias, before[0])
    assert not torch.equal(weight, before[1])
    assert optimizer.skipped == {"4.bias": 1}
    assert bias.grad is not None, "the user's gradient is the user's"
    run(masks, optimizer, range(1, 4))
    assert torch.isfinite(bias).all()


def test_a_gradscaler_skips_its_own_steps() -> None:
    masks = MaskSet(network(), NAMES)
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    for step in range(12):
        optimizer.zero_grad()
        x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(step))
        scaled = scaler.scale(masks.model(x).square().mean())
        assert isinstance(scaled, Tensor)
        scaled.backward()
        if step < 2 * PATIENCE:
            spoil(masks.model.get_parameter("2.weight"), float("inf"))
        scaler.step(optimizer)
        scaler.update()
    assert optimizer.skipped == {}
    assert masks.steps == 12 - 2 * PATIENCE
    assert scaler.get_scale() == 2.0 ** (16 - 2 * PATIENCE)


@pytest.mark.parametrize("rule", [Threshold(), TopK(0.5)])
def test_scores_that_are_no_numbers_are_refused(rule: Rule) -> None:
    masks = MaskSet(network(), NAMES, rule)
    before = {n: p.detach().clone() for n, p in masks.model.named_parameters()}
    spoilt = {n: s.clone() for n, s in masks.scores.items()}
    spoilt["2.weight"].view(-1)[5] = float("nan")
    with pytest.raises(SettingsError, match=r"set_scores: the scores for 2\.weight hold NaN"):
        masks.set_scores(spoilt)
    optimizer = masks.optimizer(lr=1.0)
    state = optimizer.state_dict()
    state["state"] = {i: {"score": spoilt[n]} for i, n in enumerate(NAMES)}
    with pytest.raises(SettingsError, match=r"load_state_dict: the scores of 2\.weight hold NaN"):
        optimizer.load_state_dict(state)
    assert all(torch.equal(p, before[n]) for n, p in masks.model.named_parameters())
    assert all(bool(s.isfinite().all()) for s in masks.scores.values())


@pytest.mark.parametrize("rule", [Threshold(), TopK(0.5), TopK(Progressive(end=0.5, steps=2))])
def test_a_rule_without_any_order_says_so(rule: Rule) -> None:
    with pytest.raises(RunError, match=r"6 of the 6 scores of 'w' are not numbers"):
        rule.mask(torch.full((2, 3), float("nan")), "w", 2)


def test_a_schedule_goes_on_for_a_tensor_without_a_gradient() -> None:
    """The mask that is saved is that of the step; the weights must be, too."""
    masks = MaskSet(network(), NAMES, TopK(Progressive(end=0.4, steps=4)))
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.05)
    for step in range(4):
        backward(masks, step)
        masks.model.get_parameter("2.weight").grad = None
        optimizer.step()
        for name, mask in masks.masks().items():
            assert torch.equal(masks.model.get_parameter(name) != 0, mask), (name, step)
