"""The digest of the module tree: what the base check cannot see, because it is no tensor."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import xxhash
from torch import nn

from selfmask import MaskSet, load
from selfmask.cli import main
from selfmask.errors import ArchitectureWarning
from selfmask.maskfile.architecture import architecture


@pytest.fixture
def file(model: nn.Module, tmp_path: Path) -> Path:
    masks = MaskSet(model, norm_stats="frozen")
    path = masks.save(tmp_path / "m.safetensors")
    masks.remove()
    return path


def eps(model: nn.Module) -> None:
    vars(model.get_submodule("norm1"))["eps"] = 1e-3


def stride(model: nn.Module) -> None:
    vars(model.get_submodule("conv3"))["stride"] = (1, 1)


def activation(model: nn.Module) -> None:
    model.add_module("act", nn.GELU())


def kind(model: nn.Module) -> None:
    model.get_submodule("norm1").__class__ = nn.SyncBatchNorm


@pytest.mark.parametrize("change", [eps, stride, activation, kind])
def test_a_network_that_is_built_otherwise_is_warned_of(
    model: nn.Module, file: Path, change: Callable[[nn.Module], None]
) -> None:
    change(model)
    with pytest.warns(ArchitectureWarning, match=r"m\.safetensors: .* is not built as it was"):
        handle = load(file).apply(model)
    handle.remove()


def test_the_same_network_is_not(model: nn.Module, file: Path) -> None:
    for same in (model, copy.deepcopy(model), copy.deepcopy(model).train()):
        load(file).apply(same).remove()  # a warning would be an error here
    model.add_module("act", nn.ReLU())
    before = architecture(model)
    vars(model.get_submodule("act"))["inplace"] = True
    assert architecture(model) == before


def test_a_file_that_does_not_say_is_believed(model: nn.Module, tmp_path: Path) -> None:
    from selfmask.maskfile.saving import save_mask

    theta = {"conv1.weight": model.get_parameter("conv1.weight").detach()}
    rest = {name: t for name, t in model.state_dict().items() if name not in theta}
    masks = {"conv1.weight": theta["conv1.weight"] > 0}
    path = save_mask(tmp_path / "old.safetensors", theta=theta, masks=masks, rest=rest)
    assert load(path).index.base.architecture is None
    load(path).check(model)


def test_it_is_what_the_specification_says() -> None:
    """A second implementation, by hand, of one small tree."""
    tree = nn.Sequential(nn.BatchNorm1d(4, eps=1e-5), nn.GELU())
    norm = (
        '[["affine",true],["eps","1e-05"],["momentum","0.1"],["num_features",4],["track_running_stats",true]]'
    )
    text = f'["","Sequential",[]]\n["0","BatchNorm1d",{norm}]\n["1","GELU",[["approximate","none"]]]\n'
    assert architecture(tree) == xxhash.xxh3_128(text.encode()).hexdigest()


def test_real_networks_have_digests_of_their_own() -> None:
    made = {
        name: architecture(timm.create_model(name))
        for name in ("test_resnet", "test_vit", "test_efficientnet")
    }
    assert len(set(made.values())) == 3
    assert made["test_resnet"] == architecture(timm.create_model("test_resnet").eval())


def test_the_command_says_it_in_one_line(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from selfmask.backbones.spec import build

    module = build("timm:test_resnet", weights=weights).module
    module.get_submodule("layer1")[0].drop_path_rate = 0.25  # pyright: ignore[reportIndexIssue]
    masks = MaskSet(module, norm_stats="frozen")
    path = masks.save(tmp_path / "m.safetensors")
    masks.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        out, backbone = (
            tmp_path / "out.safetensors",
            ["--backbone", "timm:test_resnet", "--weights", str(weights)],
        )
        status = main(["apply", str(path), str(out), *backbone])
    said = capsys.readouterr().err
    assert status == 0, said
    assert said.startswith("selfmask apply: note: m.safetensors: ")
    assert said.count("\n") == 1
