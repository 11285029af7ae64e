"""Every rule: how many weights it leaves on, which, and what its gradient and its reports are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import selfmask
from selfmask.errors import SelectionError, SettingsError
from selfmask.maskfile.derive import combine_masks
from selfmask.maskfile.loading import load
from selfmask.masking.gradient import score_gradient
from selfmask.masking.rules import Progressive, Rule, Threshold, TopK
from selfmask.masking.selection import LargestShare, RandomShare, Selection
from selfmask.masking.weight import masked_weight, scale
from selfmask.maskset import MaskSet

SHAPES = [(1,), (11,), (6, 5), (4, 3, 3, 3)]
NAMES = ["0.weight", "2.weight", "2.bias"]


def highest(scores: Tensor, count: int) -> Tensor:
    """Another implementation: sorted by score, then by position."""
    flat = scores.flatten().tolist()
    order = sorted(range(len(flat)), key=lambda i: (-flat[i], i))
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[order[:count]] = True
    return mask.view(scores.shape)


def rules_keeping(count: int, total: int, scores: Tensor) -> list[tuple[Rule, int]]:
    """A rule of every kind, with the step at which it leaves `count` of the `total` weights on."""
    share = count / total
    below = scores.flatten().sort(descending=True).values
    mu = float(below[count]) if count < total else float(below[-1]) - 1
    return [
        (Threshold(mu=mu, start=mu + 1), 0),
        (TopK(share), 0),
        (TopK(share, init="magnitude"), 3),
        (TopK({"w": share, "other": 0.5}), 0),
        (TopK(Progressive(end=share, steps=4)), 4),
        (TopK(Progressive(end={"w": share}, steps=4)), 9),
        (TopK(Progressive(start=share, end=share / 2, steps=4)), 0),
    ]


@settings(deadline=None, max_examples=40)
@given(shape=st.sampled_from(SHAPES), at=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_every_rule_has_autograds_gradient_at_every_density(
    shape: tuple[int, ...], at: float, seed: int
) -> None:
    """From one weight on to all on: ∂L/∂M against autograd through w = θ·M/sqrt(mean M), taken literally."""
    generator = torch.Generator().manual_seed(seed)
    theta, upstream, scores = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    total = theta.numel()
    count = 1 + round(at * (total - 1))
    for rule, step in rules_keeping(count, total, scores):
        mask = rule.mask(scores, "w", step)
        assert torch.equal(mask, highest(scores, count)), rule
        m = mask.double().requires_grad_()
        ((theta * m / m.mean().sqrt()) * upstream).sum().backward()
        assert m.grad is not None
        found = score_gradient(theta, masked_weight(theta, mask), upstream, count, scale(count, total))
        assert (found - m.grad).norm() < 1e-10 * m.grad.norm(), rule


@example(total=110, start=1.0, end=0.15, steps=1, ties=False, by_name=False, seed=0)
@settings(deadline=None, max_examples=60)
@given(
    total=st.integers(1, 200), start=st.floats(0.01, 1), end=st.floats(0.001, 1), steps=st.integers(1, 30),
    ties=st.booleans(), by_name=st.booleans(), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_topk_counts_exactly_at_every_step_of_a_schedule(
    total: int, start: float, end: float, steps: int, ties: bool, by_name: bool, seed: int
) -> None:
    start, end = max(start, end), min(start, end)
    rule = TopK(Progressive(start=start, end={"w": end} if by_name else end, steps=steps))
    scores = torch.randn(total, generator=torch.Generator().manual_seed(seed))
    scores = scores.round() if ties else scores
    for step in range(steps + 3):
        density = end if step >= steps else start + (end - start) * (step / steps)
        mask = rule.mask(scores, "w", step)
        assert int(mask.sum()) == max(1, round(density * total))
        assert torch.equal(mask, highest(scores, int(mask.sum())))
    assert int(rule.mask(scores, "w", steps).sum()) == max(1, round(end * total))


class StraightThroughTopK(torch.autograd.Function):
    """The `count` highest forwards, the identity backwards."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, count: int) -> Tensor:
        return highest(scores.detach(), count).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return grad_outputs[0], None


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Flatten()).double()


def batches(steps: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(6)
    return [
        (torch.randn(12, 3, 5, 5, generator=generator, dtype=torch.float64), torch.arange(12) % 8)
        for _ in range(steps)
    ]


def learn(masks: MaskSet, steps: int, **settings: Any) -> None:
    optimizer = masks.optimizer(**settings)
    for x, y in batches(steps):
        optimizer.zero_grad()
        F.cross_entropy(masks.model(x), y).backward()
        optimizer.step()


STEPS = 20
TOP_K: list[TopK] = [
    TopK(0.5),
    TopK(0.3, init="magnitude"),
    TopK({"0.weight": 0.2, "2.weight": 0.9, "2.bias": 0.5}),
    TopK(Progressive(end=0.25, steps=15)),
    TopK(Progressive(end={"0.weight": 0.01, "2.weight": 0.8, "2.bias": 1.0}, steps=STEPS), init="magnitude"),
]


def share_at(rule: TopK, name: str, step: int) -> float:
    """The density that a rule's description asks for."""
    density = rule.describe()["density"]
    if isinstance(density, dict) and "end" in density:
        end = density["end"][name] if isinstance(density["end"], dict) else density["end"]
        at = density["start"] + (end - density["start"]) * (step / density["steps"])
        return end if step >= density["steps"] else at
    return density[name] if isinstance(density, dict) else density


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("rule", TOP_K)
def test_topk_training_equals_autograd(rule: TopK, momentum: float) -> None:
    """Scores and masks after 20 steps, against autograd through the literal formula and torch's own SGD."""
    masks = MaskSet(network(), select=NAMES, rule=rule, seed=8)
    scores = {n: s.clone().requires_grad_() for n, s in masks.scores.items()}
    learn(masks, STEPS, lr=3.0, momentum=momentum)

    model = network()
    theta = {n: model.get_parameter(n).detach().clone() for n in NAMES}
    optimizer = torch.optim.SGD(scores.values(), lr=3.0, momentum=momentum)
    for step, (x, y) in enumerate(batches(STEPS)):
        weights: dict[str, Tensor] = {}
        for name in NAMES:
            count = max(1, round(share_at(rule, name, step) * theta[name].numel()))
            mask = StraightThroughTopK.apply(scores[name], count)
            assert isinstance(mask, Tensor)
            weights[name] = theta[name] * mask / mask.mean().sqrt()
        optimizer.zero_grad()
        F.cross_entropy(torch.func.functional_call(model, weights, x), y).backward()
        optimizer.step()
    for name, found in masks.masks().items():
        assert torch.allclose(masks.scores[name], scores[name], rtol=1e-9, atol=1e-12)
        count = max(1, round(share_at(rule, name, STEPS) * found.numel()))
        assert torch.equal(found, highest(scores[name].detach(), count))
    assert masks.status().flipped > 20


def test_a_schedule_goes_on_where_its_checkpoint_was_written() -> None:
    rule = TopK(Progressive(end=0.2, steps=STEPS))
    masks, resumed = (MaskSet(network(), select=NAMES, rule=rule, seed=8) for _ in range(2))
    learn(masks, STEPS // 2, lr=3.0)
    first, second = masks.optimizer(lr=3.0), resumed.optimizer(lr=3.0)
    second.load_state_dict(first.state_dict())
    assert resumed.steps == STEPS // 2
    for name, mask in resumed.masks().items():
        assert int(mask.sum()) == round(0.6 * mask.numel())
        assert torch.equal(resumed.model.get_parameter(name), masks.model.get_parameter(name))
        assert torch.equal(resumed.model.get_parameter(name) != 0, mask)


@pytest.mark.parametrize("rule", [Threshold(), Threshold(spread=0.5), *TOP_K])
def test_status_and_inspect_report_every_rule(
    rule: Rule, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = MaskSet(network(), select=NAMES, rule=rule, seed=8)
    before = masks.masks()
    assert masks.status().flipped == 0
    learn(masks, STEPS, lr=8.0, momentum=0.9)
    after, status = masks.masks(), masks.status()
    flipped = {n: int((before[n] ^ after[n]).sum()) for n in NAMES}
    assert sum(flipped.values()) > 20
    assert [(t.name, t.weights, t.on, t.flipped) for t in status.tensors] == [
        (n, after[n].numel(), int(after[n].sum()), flipped[n]) for n in NAMES
    ]
    assert (status.flipped, status.steps) == (sum(flipped.values()), STEPS)
    assert status.on == sum(int(m.sum()) for m in after.values())
    assert status.density == status.on / status.weights == pytest.approx(masks.density())
    assert status.packed_bytes == sum(-(-m.numel() // 8) for m in after.values())

    path = masks.save(tmp_path / "mask.safetensors")
    found = json.loads(json.dumps(selfmask.inspect(path).document()))
    assert found["rule"] == json.loads(json.dumps(rule.describe()))
    assert (found["weights"], found["on"], found["flipped"]) == (status.weights, status.on, status.flipped)
    assert found["bytes"]["file"] == path.stat().st_size
    for t in status.tensors:
        reported = found["tensors"][t.name]
        assert (reported["on"], reported["density"], reported["flipped"]) == (t.on, t.density, t.flipped)


def test_inspect_does_not_make_up_what_a_file_does_not_say(tmp_path: Path) -> None:
    for kept in ({"bits": [1]}, {"bits": ["many", 0, 0]}, "all", None):
        masks = MaskSet(network(), select=NAMES)
        path = masks.save(tmp_path / "mask.safetensors", flipped=kept)
        found = selfmask.inspect(path).document()
        assert found["flipped"] is None
        assert found["tensors"][NAMES[0]]["flipped"] is None


def test_a_mask_made_from_others_does_not_claim_their_flips(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for seed, path in enumerate(paths):
        masks = MaskSet(network(), select=NAMES, rule=TopK(0.5), seed=seed)
        masks.save(path)
        masks.remove()
    assert load(paths[0]).metadata["flipped"] == {"steps": 0, "bits": [0, 0, 0]}
    both = load(combine_masks(tmp_path / "both", "or", [load(p) for p in paths]))
    assert "flipped" not in both.metadata
    assert both.metadata["rule"]["name"] == "topk"


def test_found_densities_are_read_from_another_mask(tmp_path: Path) -> None:
    first = MaskSet(network(), select=NAMES)
    learn(first, STEPS, lr=8.0, momentum=0.9)
    found = load(first.save(tmp_path / "first.safetensors"))
    shares = {n: found.on[n] / found.numel(n) for n in found.names}
    assert len(set(shares.values())) > 1
    masks = MaskSet(network(), select=NAMES, rule=TopK(shares))
    learn(masks, STEPS, lr=8.0, momentum=0.9)
    assert {n: int(m.sum()) for n, m in masks.masks().items()} == {
        n: int(m.sum()) for n, m in first.masks().items()
    }


def test_random_scores_repeat_by_seed_and_magnitude_scores_follow_the_weights() -> None:
    def scores(rule: Rule, seed: int) -> Mapping[str, Tensor]:
        return MaskSet(network(), select=NAMES, rule=rule, seed=seed).scores

    assert all(torch.equal(scores(TopK(), 1)[n], scores(TopK(), 1)[n]) for n in NAMES)
    assert not torch.equal(scores(TopK(), 1)[NAMES[0]], scores(TopK(), 2)[NAMES[0]])
    for name, score in scores(TopK(init="magnitude"), 1).items():
        theta = network().get_parameter(name).detach().abs()
        assert torch.allclose(score, theta / theta.mean())
    assert all(len(s.unique()) == s.numel() for s in scores(TopK(), 1).values()), "no ties to break"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopK(0.0), "0, 1"),
        (lambda: TopK(50), "50 % is 0.5"),
        (lambda: TopK({"w": 1.5}), "of 'w'"),
        (lambda: TopK(0.5, init="constant"), "'random' or 'magnitude'"),  # pyright: ignore[reportArgumentType]
        (lambda: Progressive(end=0.9, start=0.5, steps=3), "end <= start"),
        (lambda: Progressive(end={"a": 0.5, "b": 0.0}, steps=3), "end=0.0 for 'b'"),
        (lambda: Progressive(end=0.5, steps=0), "at least 1 step"),
        (lambda: Threshold(mu=1.0), "not above mu"),
        # They would train, and could not be written afterwards.
        (lambda: Threshold(spread=torch.tensor(0.5)), "spread is a plain number"),  # pyright: ignore[reportArgumentType]
        (lambda: Progressive(end={"a": torch.tensor(0.5)}, steps=3), "end of 'a' is a plain number"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_impossible_rules_are_refused(make: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make()


def test_densities_of_another_network_are_refused() -> None:
    for rule in (TopK({"conv": 0.5}), TopK(Progressive(end={"conv": 0.5}, steps=3))):
        with pytest.raises(SettingsError, match=r"no density is given for '0\.weight'.*another backbone"):
            MaskSet(network(), select=NAMES, rule=rule)


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_shares_of_the_weights_are_exact(share: float) -> None:
    """What is outside the share stays on, whatever the scores; the largest share holds the largest |θ|."""
    for kind in (RandomShare, LargestShare):
        masks = MaskSet(network(), select=Selection(NAMES, kind(share)))
        masks.set_scores({n: torch.full_like(s, -1.0) for n, s in masks.scores.items()})
        for name, mask in masks.masks().items():
            total, theta = mask.numel(), masks.theta[name].abs()
            maskable = max(1, round(share * total))
            assert int((~mask).sum()) == (maskable if maskable < total else total - 1)
            if kind is LargestShare and maskable < total:
                assert theta[~mask].min() >= theta[mask].max()


@pytest.mark.parametrize("select", [["0.bias", "1.*"], (nn.BatchNorm2d, nn.PReLU)])
def test_biases_and_norms_are_masked_on_request(select: Any, tmp_path: Path) -> None:
    def fresh() -> nn.Sequential:
        torch.manual_seed(4)
        model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.PReLU(32), nn.Flatten())
        return model.requires_grad_(False)

    masks = MaskSet(fresh(), select=select)
    norm = {"1.weight", "1.bias"}
    assert set(masks.names) == norm | ({"0.bias"} if isinstance(select, list) else {"2.weight"})
    optimizer = masks.optimizer(lr=20.0, momentum=0.9)
    for step in range(8):
        x = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        masks.model(x).square().mean().backward()
        optimizer.step()
    assert all(t.flipped > 0 for t in masks.status().tensors if t.name == "1.weight")
    other = fresh()
    load(masks.save(tmp_path / "mask")).apply(other)
    for (name, mine), theirs in zip(masks.model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs), name


def test_a_mistyped_pattern_is_answered_with_the_names_it_is_near_to() -> None:
    with pytest.raises(
        SelectionError, match=r"'2\.wieght' matches none of the 3 .* did you mean '2\.weight'"
    ):
        MaskSet(network(), select=["0.weight", "2.wieght"])
    with pytest.raises(SelectionError, match=r"matches none .* did you mean 'resnet'"):
        MaskSet(network(), select="resnt")
    with pytest.raises(SelectionError, match=r"names none .* did you mean '2\.bias'"):
        MaskSet(network(), select="0.weight", train="2.bais")
    with pytest.raises(
        SelectionError, match=r"chose none of the model's 3 parameters \(0\.weight, .*name some"
    ):
        MaskSet(network(), select=nn.Linear)
    with pytest.raises(SelectionError, match=r"the parameter '0\.weight' is named twice"):
        MaskSet(network(), select=["*.weight", "0.weight"])
    with pytest.raises(SelectionError, match=r"the pattern '0\.weight' is given twice"):
        MaskSet(network(), select=["0.weight", "0.weight"])
    with pytest.raises(SelectionError, match="no parameters"):
        MaskSet(nn.ReLU())


def test_random_scores_are_edge_popups() -> None:
    """From 0 to 2, so that half of a uniform start is above the paper's 1."""
    scores = TopK(0.5).initial_scores(torch.zeros(4000), torch.Generator().manual_seed(0))
    assert 0 <= float(scores.min()) < 0.01
    assert 1.99 < float(scores.max()) < 2
    assert float(scores.mean()) == pytest.approx(1, abs=0.05)


def test_scores_are_drawn_on_the_cpu_whatever_the_default_device() -> None:
    model = nn.Conv2d(3, 8, 3)
    for rule, share in ((Threshold(spread=0.5), None), (TopK(0.5), None), (Threshold(), RandomShare(0.5))):
        with torch.device("meta"):
            masks = MaskSet(model, Selection("weight", share=share), rule=rule)
        assert next(iter(masks.scores.values())).device.type == "cpu"
        masks.remove()
