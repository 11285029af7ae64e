"""The mask set: freezing, exact restoring, saving, and what it refuses."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import selfmask
from selfmask.errors import EmptyMaskWarning, SelectionError, SettingsError, WrongBaseError
from selfmask.masking.norm import NormStats
from selfmask.masking.rules import Threshold, TopK
from selfmask.masking.selection import Selection
from selfmask.masking.weight import masked_weight
from selfmask.maskset import MaskSet


class Small(nn.Module):
    """Two convolutions with a batch norm and dropout, as much as an exact restore can go wrong on."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, dtype=dtype)
        self.norm1 = nn.BatchNorm2d(8, dtype=dtype)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1, bias=False, dtype=dtype)
        self.fc = nn.Linear(16, 4, dtype=dtype)
        self.conv1.get_parameter("bias").requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        return self.fc(self.conv2(x).mean(dim=(2, 3)))


def snapshot(model: nn.Module) -> dict[str, bytes]:
    return {n: t.detach().contiguous().view(torch.uint8).numpy().tobytes() for n, t in _all(model).items()}


def _all(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.reshape(-1) for n, t in (*model.named_parameters(), *model.named_buffers())}


def train(masks: MaskSet, steps: int = 8) -> None:
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.2)
    masks.model.train()
    for step in range(steps):
        x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        loss = masks.model(x.to(next(masks.model.parameters()).dtype)).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("norm_stats", ["adapt", "frozen"])
def test_remove_restores_every_bit(norm_stats: NormStats) -> None:
    model = Small().train()
    before = snapshot(model)
    grads = {n: p.requires_grad for n, p in model.named_parameters()}
    modes = {n: (type(m), m.training) for n, m in model.named_modules()}
    masks = MaskSet(model, select="conv*.weight", norm_stats=norm_stats)
    train(masks)
    assert snapshot(model) != before
    assert masks.status().flipped > 10
    assert bool(masks.statistics()) == (norm_stats == "adapt")
    masks.remove()
    masks.remove()
    assert snapshot(model) == before
    assert {n: p.requires_grad for n, p in model.named_parameters()} == grads
    assert {n: (type(m), m.training) for n, m in model.named_modules()} == modes


def test_a_thousand_rounds_do_not_drift() -> None:
    model = Small()
    before = snapshot(model)
    scores = None
    for _ in range(1000):
        masks = MaskSet(model, select="conv2.weight")
        scores = {n: torch.randn_like(s) for n, s in masks.scores.items()} if scores is None else scores
        masks.set_scores(scores)
        masks.remove()
    assert snapshot(model) == before


def test_only_what_is_masked_or_trained_asks_for_a_gradient() -> None:
    model = Small()
    masks = MaskSet(model, select="conv*.weight", train="fc.*")
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        "conv1.weight", "conv2.weight", "fc.weight", "fc.bias",
    }  # fmt: skip
    assert masks.names == ("conv1.weight", "conv2.weight")


def test_frozen_norms_stay_in_evaluation_mode() -> None:
    model = Small()
    masks = MaskSet(model, select="conv*.weight", norm_stats="frozen")
    model.train()
    assert model.training
    assert not model.norm1.training
    assert isinstance(model.norm1, nn.BatchNorm2d)
    masks.remove()
    model.train()
    assert model.norm1.training


def test_a_saved_mask_gives_the_same_outputs_bit_for_bit(tmp_path: Path) -> None:
    masks = MaskSet(Small(), select="conv*.weight", train="fc.*")
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.2, trained={"lr": 1e-2})
    masks.model.train()
    for _ in range(6):
        masks.model(torch.randn(8, 3, 6, 6)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    x = torch.randn(4, 3, 6, 6)
    expected = masks.model.eval()(x)
    path = masks.save(tmp_path / "a.mask.safetensors", training={"data": "noise"})

    fresh = Small().eval()
    before = snapshot(fresh)
    mask = selfmask.load(path)
    assert all(torch.equal(m, masks.masks()[n]) for n, m in mask.masks().items())
    with mask.apply(fresh):
        assert torch.equal(fresh(x), expected)
    assert snapshot(fresh) == before


@pytest.mark.parametrize(("rate", "warned"), [(1e-4, True), (0.9, False)])
def test_saving_what_was_trained_and_changes_nothing_is_warned_of(
    tmp_path: Path, rate: float, warned: bool
) -> None:
    masks = MaskSet(Small(), select="conv*.weight")
    masks.save(tmp_path / "untrained.mask.safetensors")  # nobody expects anything of it
    optimizer = masks.optimizer(torch.optim.Adam, lr=rate)
    for _ in range(2):
        masks.model(torch.randn(8, 3, 6, 6)).square().mean().backward()
        optimizer.step()
    told = pytest.warns(EmptyMaskWarning, match=r"a.safetensors: no weight is off after 2 steps")
    with told if warned else nullcontext():
        masks.save(tmp_path / "a.safetensors")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    if dtype == torch.float16:
        model = Small(torch.float32)
        model.conv2.to(dtype)
        before = snapshot(model)
        masks = MaskSet(model, select="conv2.weight")
        masks.set_scores({n: torch.randn_like(s) for n, s in masks.scores.items()})
    else:
        model = Small(dtype)
        before = snapshot(model)
        masks = MaskSet(model, select="conv*.weight")
        train(masks)
    assert masks.scores["conv2.weight"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    mask = masks.masks()["conv2.weight"]
    assert torch.equal(model.conv2.weight != 0, mask)
    masks.remove()
    assert snapshot(model) == before


def test_one_occupant_at_a_time() -> None:
    model = Small()
    masks = MaskSet(model, select="conv*.weight")
    with pytest.raises(WrongBaseError, match=r"held by a MaskSet, .*; call \.remove\(\) on that first"):
        MaskSet(model, select="conv*.weight")
    masks.remove()
    with (
        selfmask.Bank(model),
        pytest.raises(WrongBaseError, match=r"held by a Bank, .*; call bank\.close\(\) first"),
    ):
        MaskSet(model, select="conv*.weight")
    MaskSet(model, select="conv*.weight").remove()
    with pytest.raises(SettingsError, match="removed"):
        masks.optimizer(lr=1.0)


def test_a_failed_start_leaves_the_model_free() -> None:
    model = Small()
    with pytest.raises(SettingsError, match="no density"):
        MaskSet(model, select="conv*.weight", rule=TopK({"elsewhere": 0.5}))
    MaskSet(model, select="conv*.weight").remove()


def test_status_counts() -> None:
    masks = MaskSet(Small(), select="conv*.weight", rule=TopK(0.5))
    status = masks.status()
    assert status.weights == 3 * 8 * 9 + 8 * 16 * 9
    assert status.on == status.weights // 2
    assert status.flipped == 0
    assert status.density == 0.5
    assert status.packed_bytes == (216 + 7) // 8 + 1152 // 8
    assert "50.00%" in str(status)
    assert status.as_dict()["tensors"][0]["name"] == "conv1.weight"


def test_spread_scores_start_on_and_differ() -> None:
    masks = MaskSet(Small(), select="conv*.weight", rule=Threshold(spread=0.5))
    assert masks.density() == 1.0
    scores = masks.scores["conv2.weight"]
    assert 0.5 <= float(scores.min()) < 0.55
    assert 1.45 < float(scores.max()) <= 1.5
    again = MaskSet(Small(), select="conv*.weight", rule=Threshold(spread=0.5)).scores["conv2.weight"]
    assert torch.equal(scores, again)
    with pytest.raises(SettingsError, match="start - spread"):
        Threshold(spread=1.0)


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ("cnv1.weight", "did you mean"),
        (["conv1.weight", "conv1.weight"], "twice"),
        (["conv*.weight", "conv1.weight"], "twice"),
        (lambda name, p: False, "chose none"),
        ("re:conv[", "regular expression"),
        ([], "no pattern"),
        (nn.LSTM, "chose none"),
    ],
)
def test_bad_selections_are_refused(select: object, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        MaskSet(Small(), select=select)  # pyright: ignore[reportArgumentType]


def test_kinds_of_selection_agree() -> None:
    expected = ("conv1.weight", "conv2.weight")
    for select in ("conv?.weight", "re:conv\\d\\.weight", ["conv1.weight", "conv2.weight"],
                   lambda n, p: p.dim() == 4):  # fmt: skip
        assert MaskSet(Small(), select=select).names == expected
    by_type = MaskSet(Small(), select=nn.Conv2d).names
    assert by_type == ("conv1.weight", "conv1.bias", "conv2.weight")


def test_stages() -> None:
    import timm

    model = timm.create_model("resnet18", num_classes=0)
    first = MaskSet(model, Selection("auto", stages=1))
    assert all(n.startswith(("layer1.", "conv1.")) for n in first.names)
    first.remove()
    two = MaskSet(model, Selection("auto", stages=2))
    assert any(n.startswith("layer2.") for n in two.names)
    assert not any(n.startswith("layer3.") for n in two.names)
    two.remove()
    with pytest.raises(SelectionError, match="has 4"):
        MaskSet(model, Selection("auto", stages=9))


def test_a_parameter_is_masked_or_trained_but_not_both() -> None:
    with pytest.raises(SelectionError, match="masked as well"):
        MaskSet(Small(), select="conv*.weight", train="conv1.*")
    with pytest.raises(SelectionError, match="names none"):
        MaskSet(Small(), select="conv*.weight", train="head.*")


def test_a_file_says_what_the_model_says_of_itself(tmp_path: Path) -> None:
    import timm

    masks = MaskSet(timm.create_model("test_resnet", num_classes=0))
    mask = selfmask.load(masks.save(tmp_path / "a.mask.safetensors"))
    assert mask.learnt_on == "timm test_resnet.r160_in1k"
    assert "backbone" not in mask.metadata, "nothing that could be rebuilt from: the weights may be anyone's"
    told = selfmask.load(masks.save(tmp_path / "b.mask.safetensors", backbone={"spec": "timm:mine"}))
    assert told.learnt_on == "timm mine"
    own = MaskSet(Small(), "conv*.weight").save(tmp_path / "c.mask.safetensors")
    assert selfmask.load(own).learnt_on is None


@pytest.mark.parametrize("norm_stats", ["adapt", "frozen"])
def test_statistics_of_instance_norms_come_back_too(norm_stats: NormStats, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True), nn.Flatten())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masks = MaskSet(model, select="0.weight", norm_stats=norm_stats)
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.3)
    for _ in range(4):
        model.train()(torch.randn(8, 3, 9, 9) + 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    x = torch.randn(4, 3, 9, 9)
    with torch.no_grad():
        adapted = model.eval()(x)
    assert bool(masks.statistics()) == (norm_stats == "adapt")
    path = masks.save(tmp_path / "m")
    masks.remove()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with selfmask.load(path).apply(model), torch.no_grad():
        assert torch.equal(model.eval()(x), adapted)


@pytest.mark.parametrize("mode", [True, False])
def test_norms_that_thaw_have_the_mode_that_the_model_was_put_into(mode: bool) -> None:
    model = Small()
    masks = MaskSet(model, norm_stats="frozen")
    model.train(mode)
    masks.remove()
    assert {part.training for part in model.modules()} == {mode}


def test_a_copy_of_a_frozen_model_adapts_its_statistics_again(tmp_path: Path) -> None:
    model = Small()
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masks = MaskSet(model, norm_stats="frozen")
    other = copy.deepcopy(model)
    other.load_state_dict(base)
    masks.remove()
    anew = MaskSet(other, norm_stats="adapt")
    other.train()
    other(torch.randn(4, 3, 8, 8))
    assert anew.statistics()
    anew.remove()
    assert [type(part) for part in other.modules()] == [type(part) for part in model.modules()]


@pytest.mark.parametrize("norm_stats", ["adapt", "frozen"])
def test_other_buffers_that_move_are_kept_too(norm_stats: NormStats, tmp_path: Path) -> None:
    """EvoNorm's are no batch norm's, and nothing freezes them: the file has what the network was evaluated with."""
    from timm.layers.evo_norm import EvoNorm2dB0

    class Evolved(Small):
        def __init__(self) -> None:
            super().__init__()
            self.norm1 = EvoNorm2dB0(8)

    model, base = Evolved(), snapshot(Evolved())
    masks = MaskSet(model, select=["conv2.weight"], norm_stats=norm_stats)
    train(masks)
    assert set(masks.statistics()) == {"norm1.running_var"}
    model.eval()
    x = torch.randn(4, 3, 6, 6)
    with torch.no_grad():
        learnt = model(x)
    path = masks.save(tmp_path / "a.mask.safetensors")
    masks.remove()
    assert snapshot(model) == base
    with selfmask.load(path).apply(model), torch.no_grad():
        assert torch.equal(model(x), learnt)
    assert snapshot(model) == base


def test_a_score_at_the_threshold_is_off_and_counted_so() -> None:
    model = Small()
    masks = MaskSet(model, select=["conv2.weight"])
    theta, scores = masks.theta["conv2.weight"].clone(), torch.ones(16, 8, 3, 3)
    scores.view(-1)[:7] = 0.0
    masks.set_scores({"conv2.weight": scores})
    assert int((~masks.masks()["conv2.weight"]).sum()) == 7
    assert masks.masked.tensors["conv2.weight"].on == scores.numel() - 7
    assert torch.equal(model.conv2.weight, masked_weight(theta, scores > 0))


def test_a_pattern_is_of_the_whole_name() -> None:
    with pytest.raises(SelectionError, match=r"conv2\.weigh"):
        MaskSet(Small(), select=["conv2.weigh"])


def test_scores_that_want_a_gradient_are_numbers_like_others() -> None:
    masks = MaskSet(Small(), select=["conv2.weight"])
    masks.set_scores({"conv2.weight": nn.Parameter(torch.randn(16, 8, 3, 3))})
    train(masks, 2)
    assert masks.scores["conv2.weight"].grad_fn is None


def test_an_empty_parameter_is_trained_as_it_is() -> None:
    model = Small()
    model.register_parameter("nothing", nn.Parameter(torch.zeros(0)))
    masks = MaskSet(model, select=["conv2.weight"], train="nothing")
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.1, trained={"lr": 0.1})
    (model(torch.randn(2, 3, 6, 6)).sum() + model.get_parameter("nothing").sum()).backward()
    optimizer.step()
    assert masks.steps == 1


@pytest.mark.parametrize("rate", [float("inf"), float("nan")])
def test_a_rate_that_is_no_number_is_refused(rate: float) -> None:
    with pytest.raises(SettingsError, match="lr is a finite rate"):
        MaskSet(Small(), select=["conv2.weight"]).optimizer(torch.optim.Adam, lr=rate)


def test_a_head_that_is_not_there_cannot_be_rounded(tmp_path: Path) -> None:
    masks = MaskSet(Small(), select=["conv2.weight"])
    with pytest.raises(SettingsError, match="there is no head to round"):
        masks.save(tmp_path / "m", head_dtype="int8")
    with pytest.raises(SettingsError, match="there is no head to round"):
        masks.save(tmp_path / "m", head_dtype="int8", max_bytes="1M", images=[torch.randn(2, 3, 6, 6)])


HEADS: list[tuple[Any, str]] = [
    ({"weight": np.ones((4, 16)), "bias": [0.0] * 4}, "'weight': ndarray, 'bias': list"),
    (nn.Linear(16, 4), "got Linear"),
    (torch.ones(4, 16), "got Tensor"),
    ({"weight": torch.ones(4, 16), "bias": None}, "'bias': NoneType"),
    ({0: torch.ones(4, 16)}, "0: Tensor"),
]


@pytest.mark.parametrize(("head", "message"), HEADS)
@pytest.mark.parametrize("dtype", [None, "int8"])
def test_a_head_is_tensors_by_name(head: Any, message: str, dtype: Any, tmp_path: Path) -> None:
    masks = MaskSet(Small(), "conv2.weight")
    with pytest.raises(SettingsError, match=f"head is a dict of tensors by name.*{message}"):
        masks.save(tmp_path / "m", head=head, head_dtype=dtype)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trained": {"learning_rate": 0.1}}, "trained= has 'learning_rate', which SGD does not know"),
        ({"trained": {"lr": float("nan")}}, "lr in trained= is a finite rate, got nan"),
        ({"trained": 0.1}, r"trained= is a dict of settings, \{'lr': 0.1\} say, got 0.1"),
        ({"trained": {"lr": 0.1}, "base": "adam"}, "the class itself, .* got 'adam'"),
        (
            {"trained": {"lr": 0.1}, "base": partial(torch.optim.Adam, amsgrad=True)},
            "the class itself, .* got partial",
        ),
    ],
)
def test_a_slip_does_not_train_at_the_rate_of_the_scores(given: dict[str, Any], message: str) -> None:
    masks = MaskSet(Small(), "conv2.weight", train="fc.*")
    with pytest.raises(SettingsError, match=message):
        masks.optimizer(**given, lr=1.0)


def test_what_is_trained_is_named() -> None:
    for train in (nn.Linear(2, 2), [nn.Parameter(torch.ones(2))], nn.Parameter(torch.ones(2)), 3):
        with pytest.raises(SelectionError, match="train is a pattern of parameters' names"):
            MaskSet(Small(), "conv2.weight", train=train)  # type: ignore[arg-type]


def test_images_by_which_to_judge_are_batches(tmp_path: Path) -> None:
    x = torch.randn(4, 3, 6, 6)
    for images, message in ((x, r"images=\[x\]"), ([(x, torch.zeros(4))], "without their labels")):
        masks = MaskSet(Small(), "conv2.weight", norm_stats="frozen")
        scores = torch.rand(masks.scores["conv2.weight"].shape) - 0.3
        masks.set_scores({"conv2.weight": scores})
        with pytest.raises(SettingsError, match=message):
            masks.save(tmp_path / "m", max_bytes=2000, images=images)  # type: ignore[arg-type]
