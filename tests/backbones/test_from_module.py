"""A user's own network, and descriptions from which a backbone is rebuilt."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import Tensor, nn

from selfmask.backbones.catalogue import DEFAULT
from selfmask.backbones.from_module import from_module
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.backbones.spec import build, rebuild
from selfmask.errors import BackboneError, SelectionError


class Own(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.form = form

    def forward(self, x: Tensor) -> object:
        grid = self.dropout(self.norm(self.conv(x)))
        forms = {
            "grid": grid,
            "features": grid.mean((2, 3)),
            "tokens": SimpleNamespace(last_hidden_state=grid.flatten(2).transpose(1, 2), pooler_output=None),
            "pooled": SimpleNamespace(pooler_output=grid.mean((2, 3), keepdim=True)),
            "list": [grid],
        }
        return forms[self.form]


@pytest.mark.parametrize("form", ["grid", "features", "tokens", "pooled"])
def test_every_usual_output_becomes_features(form: str) -> None:
    module = Own(form)
    names = [name for name, _ in module.named_parameters()]
    backbone = from_module(module, preprocessing=Preprocessing(size=16))
    assert backbone.width == 8
    assert backbone.module is module
    assert [name for name, _ in module.named_parameters()] == names
    out = module.eval()(torch.randn(2, 3, 16, 16))
    assert isinstance(out, Tensor)
    assert out.shape == (2, 8)


def test_the_trial_run_leaves_the_module_as_it_was() -> None:
    module = Own("grid").train()
    module.norm.eval()  # as a user freezes one part
    before = {key: one.clone() for key, one in module.state_dict().items()}
    from_module(module, preprocessing=Preprocessing(size=16))
    assert (module.training, module.norm.training, module.dropout.training) == (True, False, True)
    assert all(torch.equal(one, before[key]) for key, one in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_twice_is_as_good_as_once() -> None:
    module = Own("grid")
    for _ in range(2):
        from_module(module, preprocessing=Preprocessing(size=16))
    assert len(module._forward_hooks) == 1


def test_outputs_and_sizes_that_do_not_work() -> None:
    module = Own("list")
    for _ in range(2):
        with pytest.raises(BackboneError, match=r"must give features of shape \(B, width\).*gave list"):
            from_module(module, preprocessing=Preprocessing(size=16))
        assert not module._forward_hooks, "it gives what it gave"
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    with pytest.raises(
        BackboneError, match=r"trial run on one image of 224 × 224 pixels failed.*say the size"
    ):
        from_module(flat)
    assert from_module(flat, preprocessing=Preprocessing(size=8)).width == 4


def test_families_are_found_or_said() -> None:
    small = Preprocessing(size=32)
    assert from_module(timm.create_model("resnet10t", num_classes=0), preprocessing=small).family == "resnet"
    assert from_module(Own("grid"), preprocessing=small).family == "generic"
    assert from_module(Own("grid"), preprocessing=small, family="resnet").family == "resnet"
    with pytest.raises(SelectionError, match="unknown preset 'resnett'"):
        from_module(Own("grid"), preprocessing=small, family="resnett")


def test_a_network_of_timm_brings_its_recipe() -> None:
    backbone = from_module(timm.create_model("vit_tiny_patch16_224", num_classes=0))
    assert backbone.preprocessing.mean == (0.5, 0.5, 0.5)


def test_descriptions_rebuild_the_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = build(DEFAULT, image_size=48)
    again = rebuild(json.loads(json.dumps(default.describe())))
    assert again.describe() == default.describe()
    state = again.module.state_dict()
    assert all(torch.equal(one, state[key]) for key, one in default.module.state_dict().items())

    folder = tmp_path / "private folder"
    folder.mkdir()
    torch.save(timm.create_model("resnet10t").state_dict(), folder / "w.pth")
    given = build("timm:resnet10t", weights=folder / "w.pth")
    described = given.describe()
    assert "private" not in json.dumps(described)
    monkeypatch.delenv("SELFMASK_WEIGHTS", raising=False)
    with pytest.raises(BackboneError, match=r"weights from a file 'w\.pth': say where it is"):
        rebuild(described)
    assert rebuild(described, weights=folder / "w.pth").describe() == described
    monkeypatch.setenv("SELFMASK_WEIGHTS", str(folder))
    assert rebuild(described).describe() == described


@pytest.mark.parametrize(
    ("key", "value"), [("spec", 3), ("weights", ["w"]), ("image_size", "a"), ("image_size", True)]
)
def test_a_damaged_description_is_said_to_be_one(key: str, value: object) -> None:
    described = {"spec": DEFAULT, "weights": None, "pretrained": True, "image_size": None, key: value}
    with pytest.raises(BackboneError, match=f"the description of the backbone is damaged: its {key} is"):
        rebuild(described)


def test_what_nobody_can_rebuild() -> None:
    own = from_module(Own("grid"), preprocessing=Preprocessing(size=16))
    with pytest.raises(BackboneError, match="module of the user's own"):
        rebuild(own.describe())
    with pytest.raises(BackboneError, match="random weights"):
        rebuild(build("timm:resnet10t", pretrained=False).describe())


def test_a_network_that_draws_at_random_is_refused() -> None:
    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.dropout(x.mean(dim=(2, 3)) + 1, 0.5, training=True)

    torch.manual_seed(0)
    with pytest.raises(BackboneError, match="other features each time"):
        from_module(Noisy(), preprocessing=Preprocessing(size=8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_network_of_another_precision_is_told_what_helps(dtype: torch.dtype) -> None:
    with pytest.raises(
        BackboneError, match=r"images come in float32: give the network so \(module\.float\(\)\)"
    ):
        from_module(
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()).to(dtype), preprocessing=Preprocessing(size=8)
        )
