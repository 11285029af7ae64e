"""A model that is not the base is refused untouched, with the first difference and the likely cause."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from selfmask.errors import WrongBaseError
from selfmask.maskfile.explain import model_name
from selfmask.maskfile.loading import load
from selfmask.maskfile.mask import Mask
from selfmask.maskfile.saving import save_mask
from selfmask.maskset import MaskSet


@pytest.fixture
def mask(tmp_path: Path, model: nn.Module) -> Mask:
    state = model.state_dict()
    theta = {name: state.pop(name) for name in ("conv2.weight", "conv3.weight")}
    random = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(t.shape, generator=random) > 0.02 for name, t in theta.items()}
    metadata = {"base": "timm resnet50.a1_in1k"}
    return load(
        save_mask(tmp_path / "a.safetensors", theta=theta, masks=masks, rest=state, metadata=metadata)
    )


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def other_weights(model: nn.Module) -> nn.Module:
    model.pretrained_cfg = {"architecture": "resnet50", "tag": "a2_in1k"}  # type: ignore[assignment]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    return model


def one_weight(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        model.get_parameter("conv3.weight")[1, 2, 0, 0] += 1e-3
    return model


def renamed(model: nn.Module) -> nn.Module:
    model.convolution, model.conv2 = model.conv2, nn.Identity()
    return model


def another_shape(model: nn.Module) -> nn.Module:
    model.conv1 = nn.Conv2d(1, 8, 3)
    return model


def with_more(model: nn.Module) -> nn.Module:
    model.extra = nn.Linear(2, 2)
    return model


def larger(model: nn.Module) -> nn.Module:
    other_weights(model).extra = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    return model


def wrapped(model: nn.Module) -> nn.Module:
    outer = nn.Module()
    outer.module = model
    return outer


def masked_already(model: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name in ("conv2.weight", "conv3.weight"):
            weight = model.get_parameter(name)
            weight.mul_(torch.rand(weight.shape, generator=random) > 0.05)
    return model


def ran_in_training_mode(model: nn.Module) -> nn.Module:
    model.train()(torch.randn(2, 3, 8, 8))
    return model.eval()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            other_weights,
            r"'conv2.weight': its values .* looks like timm resnet50.a2_in1k; .* on timm resnet50.a1_in1k",
        ),
        (one_weight, r"'conv3.weight': its values .* 1 tensor of 14 changed: .* fine-tuned or edited"),
        (
            renamed,
            r"'conv2.weight': the model has none .* under the name 'convolution.weight': the layer was renamed",
        ),
        (
            another_shape,
            r"'conv1.weight': its shape is \(8, 1, 3, 3\), the base's \(8, 3, 3, 3\).* architecture",
        ),
        (with_more, r"has 2 tensors that the base has not, 'extra.weight' first; .*num_classes=0"),
        (
            larger,
            r"'conv2.weight': its values .* also has 6 tensors .* 'extra.0.weight' first: .* larger architecture",
        ),
        (wrapped, r"'conv2.weight': .* as 'module.conv2.weight': .* apply the mask to the model's .module"),
        (masked_already, r"exactly 0: the model seems to carry a mask already"),
        (ran_in_training_mode, r"'norm1.running_mean': .* the model ran in training mode"),
        (lambda m: m.double(), r"'conv2.weight': its dtype is F64, the base's F32"),
        (lambda m: m.half().float(), r"rounded to half precision once"),
        (lambda m: nn.Linear(2, 2), r"'conv2.weight': the model has none .* another architecture"),
    ],
)
def test_refused_by_name_and_untouched(
    model: nn.Module, mask: Mask, change: Callable[[nn.Module], nn.Module], message: str
) -> None:
    wrong = change(copy.deepcopy(model))
    before = state(wrong)
    with pytest.raises(WrongBaseError, match=message):
        mask.apply(wrong)
    after = state(wrong)
    assert all(torch.equal(before[n], after[n]) for n in before)
    mask.apply(model).remove()


def test_what_the_file_says_of_its_base_stays_on_one_line(tmp_path: Path) -> None:
    model = nn.Linear(4, 5)
    model.default_cfg = {"architecture": "other", "tag": None}  # type: ignore[assignment]
    masks = MaskSet(model, select="weight")
    path = masks.save(tmp_path / "m", base="mine\n\x1b]0;title\x07selfmask: all is well")
    masks.remove()
    with torch.no_grad():
        model.weight.add_(1)
    with pytest.raises(WrongBaseError, match=r"learnt on mine\\n\\x1b\]0;title\\x07selfmask") as caught:
        load(path).apply(model)
    assert str(caught.value).isprintable()


def test_a_model_under_a_mask_is_not_the_base(model: nn.Module, mask: Mask) -> None:
    handle = mask.apply(model)
    with pytest.raises(WrongBaseError, match=r"held by the applied mask a\.safetensors.*remove\(\)"):
        mask.apply(model)
    with pytest.raises(WrongBaseError, match=r"held by the applied mask"):
        MaskSet(model, select="conv2.weight")
    handle.remove()
    masks = MaskSet(model, select="conv2.weight")
    with pytest.raises(WrongBaseError, match=r"held by a MaskSet"):
        mask.apply(model)
    masks.remove()
    mask.apply(model).remove()


def test_where_a_model_says_it_comes_from(model: nn.Module) -> None:
    assert model_name(model) is None
    model.default_cfg = {"architecture": "vit_base", "tag": None}  # type: ignore[assignment]
    assert model_name(model) == "timm vit_base"
