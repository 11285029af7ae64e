"""The mask optimizer against autograd through a straight-through mask and torch's own optimizers."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from selfmask.errors import SettingsError
from selfmask.masking.masked import MaskedTensor
from selfmask.masking.rules import Progressive, Threshold, TopK
from selfmask.masking.selection import RandomShare, Selection
from selfmask.masking.tensor_adam import TensorAdam
from selfmask.maskset import MaskSet


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).to(dtype)  # fmt: skip


NAMES = ["0.weight", "2.weight", "7.weight"]


class StraightThrough(torch.autograd.Function):
    """1[S > 0] forwards, the identity backwards: the pass-through trick, as the paper has it."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        return (scores > 0).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return grad_outputs[0]


def batches(steps: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randn(16, 3, 8, 8, generator=generator, dtype=torch.float64), torch.arange(16) % 5)
        for _ in range(steps)
    ]


def reference(cls: type[torch.optim.Optimizer], steps: int, **settings: Any) -> dict[str, Tensor]:
    """The scores after `steps`, by autograd through w = θ·M/sqrt(mean M)."""
    model = network()
    theta = {n: p.detach().clone() for n, p in model.named_parameters() if n in NAMES}
    scores = {n: torch.ones_like(t, requires_grad=True) for n, t in theta.items()}
    optimizer = cls(list(scores.values()), **settings)  # pyright: ignore[reportCallIssue]
    for x, y in batches(steps):
        weights: dict[str, Tensor] = {}
        for name in NAMES:
            mask = StraightThrough.apply(scores[name])
            assert isinstance(mask, Tensor)
            weights[name] = theta[name] * mask / mask.mean().sqrt()
        loss = F.cross_entropy(torch.func.functional_call(model, weights, x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {n: s.detach() for n, s in scores.items()}


def learnt(cls: type[torch.optim.Optimizer] | None, steps: int, **settings: Any) -> MaskSet:
    masks = MaskSet(network(), select=NAMES)
    optimizer = masks.optimizer(cls, **settings)
    train(masks, optimizer, batches(steps))
    return masks


def train(masks: MaskSet, optimizer: torch.optim.Optimizer, data: list[tuple[Tensor, Tensor]]) -> None:
    for x, y in data:
        loss = F.cross_entropy(masks.model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class Proportional(torch.optim.Optimizer):
    """What `TensorAdam` says that it does, as its docstring has it."""

    def __init__(self, params: list[Tensor], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        (group,) = self.param_groups
        for p in group["params"]:
            past = self.state[p].setdefault("past", [])
            past.append(p.grad + group["weight_decay"] * p)
            t = len(past)
            m = sum(0.1 * 0.9 ** (t - 1 - k) * g for k, g in enumerate(past)) / (1 - 0.9**t)
            v = sum(0.01 * 0.99 ** (t - 1 - k) * float(g.square().mean()) for k, g in enumerate(past))
            p -= group["lr"] * m / math.sqrt(v / (1 - 0.99**t))


CASES: list[tuple[type[torch.optim.Optimizer] | None, type[torch.optim.Optimizer], dict[str, Any]]] = [
    (None, torch.optim.SGD, {"lr": 20.0, "momentum": 0.9}),
    (None, torch.optim.SGD, {"lr": 60.0}),
    (None, torch.optim.SGD, {"lr": 20.0, "momentum": 0.9, "weight_decay": 1e-3}),
    (None, torch.optim.SGD, {"lr": 20.0, "momentum": 0.9, "nesterov": True}),
    (None, torch.optim.SGD, {"lr": 20.0, "momentum": 0.9, "dampening": 0.3}),
    (None, torch.optim.SGD, {"lr": 20.0, "momentum": 0.9, "maximize": True}),
    (None, torch.optim.SGD, {"lr": 20.0, "momentum": 0.9, "weight_decay": 1e-3, "nesterov": True}),
    (torch.optim.Adam, torch.optim.Adam, {"lr": 0.1, "betas": (0.9, 0.99)}),
    (torch.optim.AdamW, torch.optim.AdamW, {"lr": 0.1}),
    (torch.optim.RMSprop, torch.optim.RMSprop, {"lr": 0.05}),
    (TensorAdam, Proportional, {"lr": 0.05}),
    (TensorAdam, Proportional, {"lr": 0.05, "weight_decay": 1e-4}),
]


@pytest.mark.parametrize(("ours", "theirs", "settings"), CASES)
def test_fifty_steps_equal_autograd(
    ours: type[torch.optim.Optimizer] | None, theirs: type[torch.optim.Optimizer], settings: dict[str, Any]
) -> None:
    masks = learnt(ours, 50, **settings)
    expected = reference(theirs, 50, **settings)
    flipped = masks.status().flipped
    assert flipped > 20, "the run must have flipped bits, or the masks were never tested"
    for name, scores in masks.scores.items():
        assert torch.allclose(scores, expected[name], rtol=1e-6, atol=1e-6)
        assert torch.equal(masks.masks()[name], expected[name] > 0)


@pytest.mark.parametrize("case", [1, 7])
def test_an_accelerators_road_equals_autograd_too(case: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On it the counts and factors stay tensors; here they do so on the CPU."""
    ours, theirs, settings = CASES[case]
    monkeypatch.setattr(
        MaskedTensor, "rewrite", lambda t, step: t._rewrite_on_device(t.weight.detach(), step)
    )
    masks = learnt(ours, 20, **settings)
    assert masks.status().flipped > 10
    expected = reference(theirs, 20, **settings)
    for name, scores in masks.scores.items():
        assert torch.allclose(scores, expected[name], rtol=1e-6, atol=1e-6)
        on, theta = scores > 0, masks.theta[name]
        weight = masks.model.get_parameter(name).detach()
        assert torch.allclose(weight, theta * on / on.double().mean().sqrt(), rtol=1e-12)


def test_the_fast_path_is_taken_and_its_state_is_sgds_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def plain_road(*_: Any) -> Tensor:
        raise AssertionError("the score's gradient was written out: the fast path was not taken")

    monkeypatch.setattr("selfmask.masking.optimizer.score_gradient", plain_road)
    masks = learnt(None, 3, lr=5.0, momentum=0.9)
    fast = masks.optimizer(lr=5.0, momentum=0.9)
    train(masks, fast, batches(1))
    state = fast.state_dict()["state"][0]
    assert set(state) == {"score", "momentum_buffer"}
    assert state["momentum_buffer"].abs().max() > 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("cls", [None, torch.optim.Adam, TensorAdam])
def test_state_dict_resumes_bit_for_bit(
    cls: type[torch.optim.Optimizer] | None, layout: torch.memory_format
) -> None:
    settings: dict[str, Any] = {"lr": 20.0, "momentum": 0.9} if cls is None else {"lr": 0.1}

    def fresh() -> MaskSet:
        return MaskSet(network().to(memory_format=layout), select=NAMES)  # pyright: ignore[reportCallIssue]

    whole = fresh()
    train(whole, whole.optimizer(cls, **settings), batches(20))
    first = fresh()
    optimizer = first.optimizer(cls, **settings)
    train(first, optimizer, batches(20)[:9])
    # Contiguous, as they come back from a file.
    weights = {n: w.contiguous() for n, w in first.model.state_dict().items()}
    state = optimizer.state_dict()
    for kept in state["state"].values():
        kept.update({k: v.contiguous().clone() for k, v in kept.items() if isinstance(v, Tensor)})
    second = fresh()
    resumed = second.optimizer(cls, **settings)
    second.model.load_state_dict(weights)
    resumed.load_state_dict(state)
    train(second, resumed, batches(20)[9:])
    assert second.steps == 20
    for name in NAMES:
        assert torch.equal(second.scores[name], whole.scores[name])
    for a, b in zip(second.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_schedulers_clipping_and_accumulation_see_an_ordinary_optimizer() -> None:
    masks = MaskSet(network(), select=NAMES)
    optimizer = masks.optimizer(lr=1.0, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    for x, y in batches(3):
        F.cross_entropy(masks.model(x), y).backward()
        F.cross_entropy(masks.model(x), y).backward()
        torch.nn.utils.clip_grad_norm_(masks.model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.125
    assert all(p.grad is None for p in masks.model.parameters())


def test_parameters_trained_beside_the_masks() -> None:
    model = network()
    bias = model.get_parameter("7.bias")
    before = bias.detach().clone()
    masks = MaskSet(model, select=["0.weight", "2.weight"], train="7.*")
    with pytest.raises(SettingsError, match="trained="):
        masks.optimizer(lr=1.0)
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.05, trained={"lr": 1e-3})
    train(masks, optimizer, batches(1))
    moved = (bias - before).abs()
    assert torch.allclose(moved, torch.full_like(moved, 1e-3), rtol=1e-3)  # Adam's first step is its rate
    assert set(masks.trained()) == {"7.weight", "7.bias"}
    masks.remove()
    assert torch.equal(bias, before)


def test_moving_the_model_takes_scores_and_momentum_along() -> None:
    plain, moved = MaskSet(network(), select=NAMES), MaskSet(network(), select=NAMES)
    a, b = plain.optimizer(lr=20.0, momentum=0.9), moved.optimizer(lr=20.0, momentum=0.9)
    train(plain, a, batches(6))
    train(moved, b, batches(6)[:2])
    moved.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    train(moved, b, batches(6)[2:])
    for name in NAMES:
        assert torch.allclose(plain.scores[name], moved.scores[name], rtol=1e-9, atol=1e-12)


def test_weights_outside_a_share_stay_on() -> None:
    masks = MaskSet(network(), select=Selection(NAMES, RandomShare(0.3)))
    train(masks, masks.optimizer(torch.optim.Adam, lr=0.3), batches(20))
    on = [t.maskable for t in masks.masked.tensors.values()]
    assert masks.status().flipped > 20
    for t, maskable in zip(masks.masked.tensors.values(), on, strict=True):
        assert maskable is not None
        assert bool(t.mask(masks.steps)[~maskable].all())
        assert torch.equal(t.scores[~maskable], torch.ones_like(t.scores[~maskable]))


@pytest.mark.parametrize("steps", [1, 7, 20])
def test_progressive_topk_keeps_its_count_at_every_step(steps: int) -> None:
    rule = TopK(Progressive(end=0.4, steps=steps))
    masks = MaskSet(network(), select=NAMES, rule=rule)
    optimizer = masks.optimizer(lr=0.5, momentum=0.9)
    for i, pair in enumerate(batches(steps), start=1):
        train(masks, optimizer, [pair])
        density = 1 + (0.4 - 1) * i / steps
        for name, mask in masks.masks().items():
            assert int(mask.sum()) == round(density * mask.numel())
            weight = masks.model.get_parameter(name)
            assert int((weight != 0).sum()) == int(mask.sum())


def test_a_tensor_never_goes_all_off() -> None:
    masks = MaskSet(network(), select=NAMES, rule=Threshold())
    masks.set_scores(
        {n: torch.full_like(s, -1.0) + 0.1 * torch.rand_like(s) for n, s in masks.scores.items()}
    )
    for name, mask in masks.masks().items():
        assert int(mask.sum()) == 1
        assert mask.reshape(-1)[masks.scores[name].argmax()]
        assert torch.isfinite(masks.model.get_parameter(name)).all()


def test_what_is_trained_beside_is_laid_out_anew_too() -> None:
    """torch's fused kernels do not look whether a parameter and its moments lie alike."""

    def trained(relaid: bool) -> Tensor:
        model = network(torch.float32)
        masks = MaskSet(model, select=["0.weight"], train="2.weight")
        optimizer = masks.optimizer(torch.optim.Adam, lr=0.01, trained={"lr": 0.01})
        data = [(x.float(), y) for x, y in batches(6)]
        train(masks, optimizer, data[:3])
        if relaid:
            model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        train(masks, optimizer, data[3:])
        return masks.trained()["2.weight"]

    torch.testing.assert_close(trained(True), trained(False), rtol=1e-4, atol=1e-5)


def test_a_state_is_loaded_into_a_model_that_was_moved_since() -> None:
    """As Accelerate loads one before the first step; another device stands for another layout here."""
    done = learnt(torch.optim.Adam, 3, lr=0.1)
    state = done.optimizer(torch.optim.Adam, lr=0.1).state_dict()
    masks = MaskSet(network(), select=NAMES)
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.1)
    masks.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer.load_state_dict(state)
    for name in NAMES:
        t = masks.masked.tensors[name]
        assert t.theta.stride() == t.scores.stride() == t.weight.stride()
        assert torch.equal(masks.masks()[name], done.masks()[name])


def test_of_two_optimizers_the_second_moves_the_scores_after_the_first_followed() -> None:
    masks = MaskSet(network(), select=NAMES)
    first, second = masks.optimizer(lr=1.0, momentum=0.9), masks.optimizer(torch.optim.Adam, lr=0.1)
    masks.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    train(masks, first, batches(1))
    before = {name: scores.clone() for name, scores in masks.scores.items()}
    train(masks, second, batches(1))
    assert all(not torch.equal(before[name], masks.scores[name]) for name in NAMES)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_a_copy_of_all_three_learns_on_as_the_first(way: Any) -> None:
    masks = MaskSet(network(), select=NAMES)
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.1)
    train(masks, optimizer, batches(4)[:2])
    other, its = way((masks, optimizer))
    for one, own in ((masks, optimizer), (other, its)):
        train(one, own, batches(4)[2:])
    assert other.steps == 4
    for name in NAMES:
        assert torch.equal(masks.scores[name], other.scores[name])
        assert other.scores[name].data_ptr() != masks.scores[name].data_ptr()


def test_the_rate_is_the_one_that_the_group_has_now() -> None:
    masks = MaskSet(network(), select=NAMES)
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.1)
    optimizer.param_groups[0]["lr"] = 0.0
    before = {name: scores.clone() for name, scores in masks.scores.items()}
    train(masks, optimizer, batches(1))
    assert all(torch.equal(before[name], scores) for name, scores in masks.scores.items())


def test_torchs_distributed_checkpoints_change_nothing_and_come_back() -> None:
    """They take a step of an optimizer without a state, and name tensors where torch numbers them."""

    def begun() -> tuple[nn.Module, MaskSet, torch.optim.Optimizer]:
        model = network()
        masks = MaskSet(model, NAMES, rule=TopK(Progressive(0.5, steps=12)), norm_stats="frozen")
        return model, masks, masks.optimizer(torch.optim.Adam, lr=0.1)

    found, kept = [], ({}, {})
    for looked_at in (False, True):
        model, masks, optimizer = begun()
        for x, y in batches(6):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            if looked_at:
                kept = copy.deepcopy(get_state_dict(model, optimizer))
        found.append(({n: p.detach().clone() for n, p in model.named_parameters()}, masks.steps))
    (plain, steps), (same, steps_too) = found
    assert steps == steps_too == 6
    assert all(torch.equal(plain[n], same[n]) for n in plain)
    masks.remove()
    again, more, other = begun()
    set_state_dict(again, other, model_state_dict=kept[0], optim_state_dict=kept[1])
    assert more.steps == 6
    for name, scores in masks.scores.items():
        assert torch.equal(more.scores[name], scores)
    assert all(torch.equal(p, plain[n]) for n, p in again.named_parameters())


def test_a_group_that_is_added_has_a_rate_of_its_own() -> None:
    model = network()
    masks = MaskSet(model, NAMES[:2])
    optimizer = masks.optimizer(torch.optim.SGD, lr=50.0)
    with pytest.raises(SettingsError, match="add_param_group needs a rate"):
        optimizer.add_param_group({"params": model[7].parameters()})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": model[7].parameters(), "lr": 0.1})
    assert optimizer.param_groups[1]["lr"] == 0.1
