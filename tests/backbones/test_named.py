"""Every backbone of the paper and of the catalogue: built, masked by its preset, counted; its authors' files."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from selfmask.backbones.backbone import Backbone
from selfmask.backbones.catalogue import ALIASES, PUBLISHED
from selfmask.backbones.spec import build
from selfmask.errors import BackboneError
from selfmask.masking.presets import detect_family
from selfmask.masking.selection import Selection

RESNET50 = (23_454_912, 7_680)
VIT_S, VIT_B = ((12 * 12 * c * c, 12 * 9 * c) for c in (384, 768))

COUNTS = {
    "swav": RESNET50,
    "swav_resnet50": RESNET50,
    "dino_resnet50": RESNET50,
    "dino_vits16": VIT_S,
    "dino_vitb16": VIT_B,
    "dinov2_vits14": VIT_S,
    "dinov2_vitb14": VIT_B,
    "clip_vit_b_32": (84_934_656, 82_944),
    "efficientnet_lite0": (3_146_112, 0),
    "timm:resnet18": (11_166_912, 2 * (128 + 256 + 512)),
    "timm:resnet50": RESNET50,
    "keras:resnet50": RESNET50,
}


def masked(backbone: Backbone) -> tuple[int, int]:
    picked, why = Selection(backbone.family).choose(backbone.module)
    assert backbone.family in why
    weights = sum(p.numel() for p in picked.values() if p.ndim > 1)
    return weights, sum(p.numel() for p in picked.values()) - weights


def test_every_name_is_counted() -> None:
    assert {*ALIASES, *PUBLISHED} <= set(COUNTS)


@pytest.mark.parametrize("name", [name for name in COUNTS if not name.startswith("clip")])
def test_named_backbones_are_built_and_masked_with_the_paper_s_counts(name: str) -> None:
    with torch.device("meta"):  # shapes are enough to count
        backbone = build(name, pretrained=False)
    counted_and_described(backbone, name)


@pytest.mark.slow
def test_clip_is_built_and_masked_with_the_paper_s_counts() -> None:
    pytest.importorskip("open_clip")
    counted_and_described(build("clip_vit_b_32", pretrained=False), "clip_vit_b_32")


def counted_and_described(backbone: Backbone, name: str) -> None:
    assert backbone.family == detect_family(backbone.module)
    assert masked(backbone) == COUNTS[name]
    assert backbone.describe()["pretrained"] is False
    assert backbone.preprocessing.size >= 224


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{key}": one for key, one in state.items()}


@pytest.fixture(scope="module")
def resnet50() -> nn.Module:
    """torchvision's, whose names SwAV's and DINO's own files carry."""
    model = torchvision.models.resnet50()
    model.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    return model.eval()


def agree(backbone: Backbone, source: nn.Module, size: int) -> bool:
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        return torch.allclose(backbone.module(x), source(x), rtol=1e-4, atol=1e-5)


def test_swav_s_file(tmp_path: Path, resnet50: nn.Module) -> None:
    content = prefixed("module.", resnet50.state_dict())
    content |= {
        "module.projection_head.0.weight": torch.zeros(8, 8),
        "module.prototypes.weight": torch.zeros(5, 8),
    }
    path = tmp_path / "swav_800ep_pretrain.pth.tar"
    torch.save(content, path)
    backbone = build("swav", weights=path)
    assert agree(backbone, resnet50, 64)
    assert backbone.describe()["weights"] == "swav_800ep_pretrain.pth.tar"
    assert backbone.spec == "swav_resnet50"
    assert masked(backbone) == RESNET50


def test_swav_s_download_is_recorded_by_its_name_alone(
    tmp_path: Path, resnet50: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.pth.tar"
    torch.save(prefixed("module.", resnet50.state_dict()), path)
    monkeypatch.setattr("selfmask.backbones.spec.fetched", lambda url, what: path)
    backbone = build("swav")
    assert agree(backbone, resnet50, 64)
    assert backbone.weights is None
    assert backbone.pretrained


def test_dino_s_resnet_file(tmp_path: Path, resnet50: nn.Module) -> None:
    path = tmp_path / "dino_resnet50_pretrain.pth"
    torch.save(resnet50.state_dict(), path)
    assert agree(build("dino_resnet50", weights=path), resnet50, 64)


@pytest.mark.parametrize("whole_checkpoint", [False, True])
def test_dino_s_vit_files(tmp_path: Path, whole_checkpoint: bool) -> None:
    source = timm.create_model("vit_small_patch16_224", num_classes=0, dynamic_img_size=True).eval()
    content: dict[str, object] = dict(source.state_dict())
    if whole_checkpoint:
        head = {"head.mlp.0.weight": torch.zeros(4, 4), "head.last_layer.weight_g": torch.ones(4, 1)}
        content = {
            "student": prefixed("module.backbone.", {k: v + 1 for k, v in source.state_dict().items()}),
            "teacher": prefixed("backbone.", source.state_dict()) | head,
            "args": argparse.Namespace(arch="vit_small"),
            "epoch": 800,
        }
    path = tmp_path / "dino.pth"
    torch.save(content, path)
    backbone = build("dino_vits16", weights=path)
    assert agree(backbone, source, 64)
    assert backbone.preprocessing.mean == (0.485, 0.456, 0.406)  # not the 0.5 of timm's own ViT-S/16


def test_dinov2_s_file_has_a_mask_token_and_a_larger_table(tmp_path: Path) -> None:
    source = timm.create_model(
        "vit_small_patch14_dinov2", num_classes=0, img_size=70, dynamic_img_size=True
    ).eval()
    path = tmp_path / "dinov2_vits14_pretrain.pth"
    torch.save({**source.state_dict(), "mask_token": torch.zeros(1, 384)}, path)
    backbone = build("timm:vit_small_patch14_dinov2", weights=path, image_size=98)
    assert agree(backbone, source, 98)


def test_keras_s_form_of_resnet50_is_another_function(tmp_path: Path, resnet50: nn.Module) -> None:
    path = tmp_path / "w.pth"
    torch.save(resnet50.state_dict(), path)
    backbone = build("keras:resnet50", weights=path)
    assert not agree(backbone, resnet50, 64)
    assert backbone.module.get_submodule("layer2.0.conv1").stride == (2, 2)
    assert {m.eps for m in backbone.module.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    with pytest.raises(BackboneError, match="needs its weights as a file"):
        build("keras:resnet50")
    with pytest.raises(BackboneError, match="unknown Keras network 'resnet51'; did you mean 'resnet50'"):
        build("keras:resnet51")
