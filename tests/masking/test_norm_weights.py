"""Norm weights beside the masks: trained by their plain gradients, stored as they are evaluated, and undone."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from selfmask.backbones.preprocessing import Preprocessing
from selfmask.bank.bank import Bank
from selfmask.errors import SelectionError, SettingsError, WrongBaseError
from selfmask.maskfile.derive import combine_masks, save_derived
from selfmask.maskfile.loading import load
from selfmask.masking.norm_weights import norm_rate, norm_weights
from selfmask.maskset import MaskSet

NORMS = ["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"]
MASKED = ["conv2.weight", "conv3.weight"]


def bits(model: nn.Module) -> dict[str, bytes]:
    return {
        n: t.detach().reshape(-1).view(torch.uint8).numpy().tobytes() for n, t in model.state_dict().items()
    }


def learnt(model: nn.Module, steps: int = 5, **more: object) -> MaskSet:
    """A mask set after some steps, with weights off."""
    masks = MaskSet(model, select=MASKED, norm_stats="frozen", train_norms=True, **more)  # type: ignore[arg-type]
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.3)
    train(model, optimizer, steps)
    assert masks.density() < 1
    return masks


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("base", [torch.optim.Adam, torch.optim.SGD])
def test_they_move_by_their_plain_gradient(model: nn.Module, base: type[torch.optim.Optimizer]) -> None:
    """Against torch's own optimizer over a functional copy of the network, whose masked weights are written by hand."""
    masks = MaskSet(model, select=MASKED, norm_stats="frozen", train_norms=True)
    lr = 0.3 if base is torch.optim.Adam else 50.0
    optimizer = masks.optimizer(base, lr=lr)  # type: ignore[call-arg]
    theirs = {name: model.get_parameter(name).detach().clone().requires_grad_() for name in NORMS}
    # The same kernel as ours: in another, Adam's last bit may differ.
    kernel = {"fused": True} if base is torch.optim.Adam else {}
    oracle = base(theirs.values(), lr=norm_rate(base, lr), **kernel)  # type: ignore[call-arg]
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        x = torch.randn(4, 3, 8, 8, generator=generator)
        rest = {n: p.detach().clone() for n, p in model.named_parameters() if n not in NORMS}
        loss = torch.func.functional_call(model, {**rest, **theirs}, x).square().mean()
        for weight, gradient in zip(
            theirs.values(), torch.autograd.grad(loss, list(theirs.values())), strict=True
        ):
            weight.grad = gradient
        oracle.step()
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    for name, weight in theirs.items():
        assert torch.equal(model.get_parameter(name), weight)
        assert not torch.equal(weight, masks.masked.base[name])
    masks.remove()


def test_remove_restores_every_bit_and_apply_makes_what_was_evaluated(
    tmp_path: Path, model: nn.Module
) -> None:
    before = bits(model)
    masks = learnt(model)
    path = masks.save(tmp_path / "m")
    evaluated = bits(model)
    x = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        outputs = model(x)
    masks.round_norms()
    assert bits(model) == evaluated
    masks.remove()
    assert bits(model) == before
    mask = load(path)
    assert sorted(mask.norms) == sorted(NORMS)
    assert mask.trained == {}
    with mask.apply(model) as adapted, torch.no_grad():
        assert bits(adapted) == evaluated
        assert torch.equal(adapted(x), outputs)
    assert bits(model) == before
    # A byte for each, and a scale for each tensor.
    weights = sum(model.get_parameter(name).numel() for name in NORMS)
    assert mask.bytes()["norms"] == weights + 2 * len(NORMS)


def test_rounding_is_finer_than_the_training(model: nn.Module) -> None:
    masks = learnt(model, 30)
    exact = masks.norms()
    masks.round_norms()
    for name, rounded in masks.norms().items():
        moved = (exact[name] - masks.masked.base[name]).abs().max()
        assert 0 < (rounded - exact[name]).abs().max() < moved / 100
    masks.remove()


def test_they_are_not_masked_and_have_a_group_of_their_own(model: nn.Module) -> None:
    masks = MaskSet(model, select=["norm*", "conv*"], train="fc.*", train_norms=True)
    assert not set(masks.names) & {*NORMS, "fc.weight"}
    optimizer = masks.optimizer(torch.optim.AdamW, lr=0.05, trained={"lr": 0.1})
    scores, head, norms = optimizer.param_groups
    assert (scores["lr"], head["lr"], norms["lr"]) == (0.05, 0.1, 0.01)
    assert (scores["weight_decay"], norms["weight_decay"]) == (0.01, 0)
    assert [id(p) for p in norms["params"]] == [id(model.get_parameter(n)) for n in NORMS]
    own = masks.optimizer(torch.optim.Adam, lr=0.01, trained={"lr": 0.1}, norms={"lr": 0.5})
    assert own.param_groups[2]["lr"] == 0.5
    assert masks.optimizer(torch.optim.SGD, lr=50, trained={"lr": 1}).param_groups[2]["lr"] == 0.1
    assert masks.status().norms == sum(p.numel() for p in norms["params"])
    masks.remove()


def test_what_train_names_is_stored_exactly(tmp_path: Path, model: nn.Module) -> None:
    masks = MaskSet(model, select=MASKED, train="norm1.*", train_norms=True)
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.3, trained={"lr": 0.1})
    train(model, optimizer, 3)
    mask = load(masks.save(tmp_path / "m"))
    assert (sorted(mask.trained), sorted(mask.norms)) == (
        ["norm1.bias", "norm1.weight"],
        ["norm2.bias", "norm2.weight"],
    )
    masks.remove()


def test_a_state_goes_on_exactly(model: nn.Module) -> None:
    twin = copy.deepcopy(model)
    masks = MaskSet(model, select=MASKED, train_norms=True)
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.3)
    train(model, optimizer, 3)
    state, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    train(model, optimizer, 3, seed=1)
    others = MaskSet(twin, select=MASKED, train_norms=True)
    resumed = others.optimizer(torch.optim.Adam, lr=0.1)
    twin.load_state_dict(weights)
    resumed.load_state_dict(state)
    train(twin, resumed, 3, seed=1)
    assert bits(twin) == bits(model)
    assert resumed.param_groups[1]["lr"] == optimizer.param_groups[1]["lr"] == 0.01
    masks.remove()
    others.remove()
    assert bits(twin) == bits(model)


def test_a_copy_of_model_and_masks_learns_on_by_itself(model: nn.Module) -> None:
    before = bits(model)
    masks = learnt(model)
    wet, copied = copy.deepcopy((model, masks))
    train(wet, copied.optimizer(torch.optim.Adam, lr=0.3), 2)
    assert not torch.equal(wet.get_parameter("norm1.weight"), model.get_parameter("norm1.weight"))
    copied.remove()
    assert bits(wet) == before
    masks.remove()


def pickled(objects: Any) -> Any:
    file = io.BytesIO()
    torch.save(objects, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
@pytest.mark.parametrize("held_by", ["a mask set", "a mask", "a bank"])
def test_a_copy_that_is_masked_in_its_norms_alone_is_known(
    held_by: str, copied: Callable[[Any], Any], tmp_path: Path, model: nn.Module
) -> None:
    base = copy.deepcopy(model)
    masks = MaskSet(model, select=MASKED, norm_stats="frozen", train_norms=True)
    assert not bits(copied(model)).items() - bits(base).items()
    MaskSet(copied(model), select=MASKED).remove()  # nothing has moved yet
    with torch.no_grad():
        model.get_parameter("norm2.bias")[3] += 0.5
    assert masks.density() == 1
    first: Any = masks
    if held_by != "a mask set":
        path = masks.save(tmp_path / "m.safetensors", preprocessing=Preprocessing(size=16).describe())
        masks.remove()
        if held_by == "a mask":
            first = load(path).apply(model)
        else:
            bank, worn = Bank(model, [path]), ExitStack()
            worn.enter_context(bank.use("m"))
            first = SimpleNamespace(remove=lambda: (worn.close(), bank.close()))
    copies = [copied(model), copied(copied(model))]
    loaded = copy.deepcopy(base)
    loaded.load_state_dict(model.state_dict())
    for other in copies:
        with pytest.raises(WrongBaseError, match=r"is a copy, made while .* its weights are masked"):
            MaskSet(other, select=MASKED)
    with pytest.raises(WrongBaseError, match="is a copy"):
        MaskSet(loaded, select=MASKED)
    first.remove()
    with pytest.raises(WrongBaseError, match="is a copy"):
        MaskSet(copies[0], select=MASKED)
    copies[0].load_state_dict(base.state_dict())
    MaskSet(copies[0], select=MASKED).remove()
    assert "_selfmask" not in str(vars(copied(model).norm2)), "no trace on the base"


def test_a_pickled_mask_set_goes_on_as_the_first(tmp_path: Path, model: nn.Module) -> None:
    before = bits(model)
    masks = learnt(model)
    wet, other = pickled((model, masks))
    assert bits(wet) == bits(model)
    for network, own in ((model, masks), (wet, other)):
        train(network, own.optimizer(torch.optim.Adam, lr=0.3), 2, seed=1)
    files = [own.save(tmp_path / name).read_bytes() for own, name in ((masks, "a"), (other, "b"))]
    assert files[0] == files[1]
    assert bits(wet) == bits(model) != before
    other.remove()
    masks.remove()
    assert bits(wet) == bits(model) == before


def test_a_step_that_is_not_finite_spares_them(model: nn.Module) -> None:
    masks = learnt(model)
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.3)
    model(torch.randn(4, 3, 8, 8)).square().mean().backward()
    weight = model.get_parameter("norm1.weight")
    before = weight.detach().clone()
    assert weight.grad is not None
    weight.grad[0] = torch.nan
    optimizer.step()
    assert torch.equal(weight, before)
    assert optimizer.skipped == {"norm1.weight": 1}
    masks.remove()


def test_norms_that_did_not_move_are_not_stored(tmp_path: Path, model: nn.Module) -> None:
    model.get_parameter("norm1.bias").data[0] = -0.0
    before = bits(model)
    masks = MaskSet(model, select=MASKED, train_norms=True)
    mask = load(masks.save(tmp_path / "m"))
    assert bits(model) == before
    masks.remove()
    assert mask.norms == {}
    assert mask.bytes()["norms"] == 0


def test_what_cannot_be_is_told(model: nn.Module) -> None:
    with pytest.raises(SelectionError, match="no norm layers"):
        MaskSet(nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 4)), select=["0.weight"], train_norms=True)
    with pytest.raises(SelectionError, match=r"'norm1.weight'.*trained and not masked"):
        MaskSet(model, select=["norm1.*"], train_norms=True)
    masks = MaskSet(model, select=MASKED)
    with pytest.raises(SettingsError, match="see train_norms="):
        masks.optimizer(torch.optim.Adam, lr=0.1, norms={"lr": 0.1})
    masks.remove()
    masks = MaskSet(model, select=MASKED, train_norms=True)
    with torch.no_grad():
        model.get_parameter("norm2.bias")[3] = torch.nan
    with pytest.raises(SettingsError, match=r"'norm2.bias' cannot be stored"):
        masks.round_norms()
    masks.remove()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
def test_timms_norms_are_found(name: str) -> None:
    model = timm.create_model(name, num_classes=0)
    found = norm_weights(model)
    named = {n for n, p in model.named_parameters() if p.ndim == 1 and ("norm" in n or "bn" in n)}
    assert named
    assert named <= set(found)
    assert all(p.ndim == 1 for p in found.values())


def test_a_derived_mask_keeps_them_and_a_combined_one_only_what_is_the_same(
    tmp_path: Path, model: nn.Module
) -> None:
    def one(path: Path, seed: int) -> Path:
        masks = MaskSet(model, select=MASKED, train_norms=True)
        train(model, masks.optimizer(torch.optim.Adam, lr=0.3), 4, seed=seed)
        saved = masks.save(path)
        masks.remove()
        return saved

    a, b = load(one(tmp_path / "a", 0)), load(one(tmp_path / "b", 1))
    again = load(save_derived(tmp_path / "again", a, b.masks(), note={}))
    assert again.norms.keys() == a.norms.keys()
    assert all(again.norms[name].equals(change) for name, change in a.norms.items())
    mixed = load(combine_masks(tmp_path / "ab", "or", [a, b]))
    assert mixed.norms == {}
    assert mixed.metadata["derived"]["dropped"] == ["norms"]
    same = load(combine_masks(tmp_path / "aa", "and", [a, again]))
    assert same.norms.keys() == a.norms.keys()
    assert "dropped" not in same.metadata["derived"]


def test_the_running_statistics_may_move_too(tmp_path: Path, model: nn.Module) -> None:
    masks = MaskSet(model, select=MASKED, norm_stats="adapt", train_norms=True)
    model.train()
    train(model, masks.optimizer(torch.optim.Adam, lr=0.3), 3)
    model.eval()
    mask = load(masks.save(tmp_path / "m"))
    evaluated: dict[str, Tensor] = copy.deepcopy(dict(model.state_dict()))
    masks.remove()
    with mask.apply(model) as adapted:
        for name, tensor in adapted.state_dict().items():
            assert torch.equal(tensor, evaluated[name]) or name.endswith("num_batches_tracked")
