"""timm's networks: weights from a file, any image size, and names that are nearly right."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from selfmask.backbones.spec import build
from selfmask.errors import BackboneError

TINY_VIT = "vit_tiny_patch16_224"


def saved(model: nn.Module, path: Path) -> Path:
    state = {key: one.contiguous() for key, one in model.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def images(size: int = 64) -> Tensor:
    return torch.randn(2, 3, size, size)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_classifier_s_file_gives_its_features(tmp_path: Path, suffix: str) -> None:
    whole = timm.create_model("resnet10t").eval()
    backbone = build("timm:resnet10t", weights=saved(whole, tmp_path / f"w{suffix}"))
    assert (backbone.width, backbone.family, backbone.spec) == (512, "resnet", "timm:resnet10t")
    assert backbone.weights == f"w{suffix}"
    x = images()
    with torch.no_grad():
        features = backbone.module(x)
        assert features.shape == (2, 512)
        assert torch.equal(nn.functional.linear(features, whole.fc.weight, whole.fc.bias), whole(x))  # pyright: ignore
    names = {key for key, _ in whole.named_parameters() if not key.startswith("fc.")}
    assert {key for key, _ in backbone.module.named_parameters()} == names
    assert not backbone.module.training


def test_a_transformer_keeps_the_file_s_position_embedding_at_every_size(tmp_path: Path) -> None:
    source = timm.create_model(TINY_VIT, num_classes=0, img_size=96, depth=2).eval()
    path = saved(source, tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match=r"blocks\.2"):  # the file has two blocks of the network's twelve
        build(f"timm:{TINY_VIT}", weights=path)
    whole = timm.create_model(TINY_VIT, num_classes=0, img_size=96).eval()
    path = saved(whole, tmp_path / "whole.safetensors")
    own, larger = (build(f"timm:{TINY_VIT}", weights=path, image_size=size) for size in (None, 128))
    assert own.preprocessing.size == 96
    assert larger.preprocessing.size == 128
    table = whole.state_dict()["pos_embed"]
    for backbone in (own, larger):
        assert torch.equal(backbone.module.state_dict()["pos_embed"], table)
    with torch.no_grad():
        x = images(96)
        torch.testing.assert_close(own.module(x), whole(x))
        torch.testing.assert_close(larger.module(x), whole(x))
        assert own.module(images(128)).shape == (2, 192)
        assert own.module(images(100)).shape == (2, 192)  # no multiple of the patch: a border is added


def test_networks_of_fixed_size_take_the_size_asked_for() -> None:
    backbone = build("timm:swin_tiny_patch4_window7_224", image_size=112, pretrained=False)
    assert backbone.preprocessing.size == 112
    assert backbone.module(images(112)).shape == (2, backbone.width)


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    path = saved(timm.create_model("resnet10t"), tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match=r"do not fit timm:resnet14t: layer1\.0\.") as caught:
        build("timm:resnet14t", weights=path)
    assert "are they of another network?" in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:resnett18", r"timm has no network 'resnett18'; did you mean 'resnet18'"),
        ("timm:resnet18.a1_in1", r"no weights 'a1_in1'; did you mean 'a1_in1k'"),
        ("resnet181", r"unknown backbone 'resnet181'; did you mean 'resnet18'"),
        ("sawv", r"unknown backbone 'sawv'; did you mean 'swav'"),
        ("tim:resnet18", r"unknown kind of backbone in 'tim:resnet18'; did you mean 'timm'"),
        ("timm:", r"unknown kind of backbone"),
        ("", r"unknown backbone ''"),
    ],
)
def test_names_that_are_nearly_right(spec: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        build(spec)


def test_sizes_that_make_no_sense() -> None:
    with pytest.raises(BackboneError, match="image_size must be at least 1"):
        build("timm:resnet10t", image_size=0, pretrained=False)


def test_weights_fetched_before_are_used_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = timm.create_model("resnet10t")
    path = saved(whole, tmp_path / "model.safetensors")
    monkeypatch.setattr("selfmask.backbones.from_timm.in_hub_cache", lambda *names: path)
    backbone = build("resnet10t")
    assert backbone.spec == "timm:resnet10t.c3_in1k"  # the tag that timm chose is recorded
    assert backbone.pretrained
    assert torch.equal(backbone.module.state_dict()["conv1.0.weight"], whole.state_dict()["conv1.0.weight"])


@pytest.mark.parametrize(
    ("name", "transformer", "multiple"),
    [(TINY_VIT, True, 16), ("vit_small_patch14_dinov2", True, 14), ("test_vit", True, 16), ("resnet10t", False, 16),
     ("convnext_atto", False, 16), ("swin_tiny_patch4_window7_224", True, 4)],
)  # fmt: skip
def test_a_network_says_whether_it_is_a_transformer_and_of_which_patch(
    name: str, transformer: bool, multiple: int
) -> None:
    backbone = build(f"timm:{name}", pretrained=False)
    assert (backbone.is_transformer, backbone.prefers_channels_last) == (transformer, not transformer)
    assert backbone.multiple == multiple
