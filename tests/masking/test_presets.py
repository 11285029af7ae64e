"""Every preset on every library's layout of its family, by the paper's counts where it gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from selfmask.errors import SelectionError
from selfmask.masking.presets import FAMILIES, detect_family, preset

RESNET50_CONVOLUTIONS = 23_454_912
RESNET50_DOWNSAMPLE_NORMS = 7_680
VIT_B_WEIGHTS, VIT_B_BIASES = 84_934_656, 82_944  # 12 blocks of width 768: CLIP ViT-B/32 and any ViT-B alike


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


def chosen(model: nn.Module, family: str | None = None) -> dict[str, nn.Parameter]:
    rule = preset(family or detect_family(model), model)
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if rule.chosen(name, parameter, model.get_submodule(name.rpartition(".")[0]))
    }


def weights_and_biases(model: nn.Module, family: str | None = None) -> tuple[int, int]:
    picked = chosen(model, family)
    weights = sum(p.numel() for p in picked.values() if p.ndim > 1)
    return weights, sum(p.numel() for p in picked.values()) - weights


def of_timm(name: str, **settings: Any) -> nn.Module:
    return on_meta(lambda: timm.create_model(name, **settings))


def of_torchvision(name: str) -> nn.Module:
    return on_meta(getattr(torchvision.models, name))


def of_transformers(kind: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return on_meta(lambda: transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind)))


@pytest.mark.parametrize(
    "model", [of_timm("resnet50"), of_timm("resnet50", num_classes=0), of_torchvision("resnet50")]
)
def test_resnet50_counts_as_the_paper_does(model: nn.Module) -> None:
    assert detect_family(model) == "resnet"
    assert weights_and_biases(model) == (RESNET50_CONVOLUTIONS, RESNET50_DOWNSAMPLE_NORMS)
    assert "conv1.weight" in chosen(model)


def test_transformers_resnet50_counts_as_the_paper_does() -> None:
    model = of_transformers("resnet")  # its default is a ResNet-50
    assert weights_and_biases(model) == (RESNET50_CONVOLUTIONS, RESNET50_DOWNSAMPLE_NORMS)


def test_only_downsampling_norms_are_masked() -> None:
    vectors = [name for name, p in chosen(of_timm("resnet18")).items() if p.ndim == 1]
    assert vectors
    assert all("downsample" in name for name in vectors)


def test_resnet_gates_are_left() -> None:
    assert not [name for name in chosen(of_timm("seresnet50")) if ".se." in name]


@pytest.mark.parametrize(
    ("model", "family"),
    [
        (of_timm("vit_base_patch16_224"), "vit"),
        (of_timm("vit_base_patch14_dinov2"), "vit"),
        (of_timm("deit_base_distilled_patch16_224"), "vit"),
        (of_torchvision("vit_b_32"), "vit"),
        (of_transformers("vit"), "vit"),
        (of_transformers("dinov2"), "dinov2"),
        (of_transformers("siglip_vision_model"), "clip"),
    ],
)
def test_vit_b_layouts_agree_on_the_paper_count(model: nn.Module, family: str) -> None:
    assert detect_family(model) == family
    assert weights_and_biases(model) == (VIT_B_WEIGHTS, VIT_B_BIASES)


def test_clip_vit_b_32_counts_as_the_paper_does() -> None:
    open_clip = pytest.importorskip("open_clip")
    model = on_meta(lambda: open_clip.model.CLIP(**open_clip.get_model_config("ViT-B-32")))
    assert detect_family(model) == "clip"
    assert weights_and_biases(model) == (VIT_B_WEIGHTS, VIT_B_BIASES)
    assert all(name.startswith("visual.") for name in chosen(model))
    tower = model.get_submodule("visual")
    assert detect_family(tower) == "clip"
    assert weights_and_biases(tower) == (VIT_B_WEIGHTS, VIT_B_BIASES)


def test_clip_with_a_resnet_tower() -> None:
    open_clip = pytest.importorskip("open_clip")
    model = on_meta(lambda: open_clip.model.CLIP(**open_clip.get_model_config("RN50")))
    assert detect_family(model) == "resnet"
    names = chosen(model)
    assert "visual.conv1.weight" in names
    assert all(name.startswith("visual.") for name in names)


MOBILE = [
    (of_timm("tf_efficientnet_lite0"), "efficientnet"),
    (of_timm("efficientnet_b0"), "efficientnet"),
    (of_timm("mobilenetv3_large_100"), "mobilenet"),
    (of_timm("mobilenetv2_100"), "efficientnet"),  # timm's class is EfficientNet: the rule is the same
    (of_torchvision("mobilenet_v2"), "mobilenet"),
    (of_torchvision("mobilenet_v3_large"), "mobilenet"),
    (of_torchvision("efficientnet_b0"), "efficientnet"),
    (of_transformers("mobilenet_v2"), "mobilenet"),
    (of_transformers("efficientnet"), "efficientnet"),
]


@pytest.mark.parametrize(("model", "family"), MOBILE)
def test_mobile_networks_mask_pointwise_convolutions_only(model: nn.Module, family: str) -> None:
    assert detect_family(model) == family
    picked = chosen(model)
    assert sum(p.numel() for p in picked.values()) > 1_300_000
    for name, parameter in picked.items():
        owner = model.get_submodule(name.rpartition(".")[0])
        assert isinstance(owner, nn.Conv2d)
        assert owner.groups == 1
        assert owner.kernel_size == (1, 1)
        assert parameter.ndim == 4
        assert not {"se", "squeeze_excite", "fc1", "fc2", "classifier"} & set(name.split("."))


def test_efficientnet_lite0_masks_the_trial_count() -> None:
    model = of_timm("tf_efficientnet_lite0")
    pointwise = sum(
        m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)
    )
    assert sum(p.numel() for p in chosen(model).values()) == pointwise


def test_torchvision_and_timm_agree_on_mobilenet_v2() -> None:
    assert weights_and_biases(of_torchvision("mobilenet_v2")) == weights_and_biases(
        of_timm("mobilenetv2_100")
    )


@pytest.mark.parametrize(
    "model", [of_timm("convnext_tiny"), of_torchvision("convnext_tiny"), of_transformers("convnext")]
)
def test_convnext_layouts_agree(model: nn.Module) -> None:
    assert detect_family(model) == "convnext"
    pointwise = sum(n * 8 * c * c for n, c in zip((3, 3, 9, 3), (96, 192, 384, 768), strict=True))
    downsampling = sum(4 * c * 2 * c for c in (96, 192, 384))
    assert weights_and_biases(model) == (pointwise + downsampling, 0)


@pytest.mark.parametrize(
    "model",
    [of_timm("swin_tiny_patch4_window7_224"), of_torchvision("swin_t"), of_transformers("swin")],
)
def test_swin_layouts_agree(model: nn.Module) -> None:
    assert detect_family(model) == "swin"
    blocks = tuple(zip((2, 2, 6, 2), (96, 192, 384, 768), strict=True))
    weights = sum(n * 12 * c * c for n, c in blocks) + sum(4 * c * 2 * c for c in (96, 192, 384))
    assert weights_and_biases(model) == (weights, sum(n * 9 * c for n, c in blocks))


def test_swin_v2_position_bias_is_left() -> None:
    names = chosen(of_timm("swinv2_tiny_window8_256"))
    assert "layers.0.blocks.0.attn.q_bias" in names
    assert not [name for name in names if "cpb_mlp" in name or "logit_scale" in name]


class Wrapped(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(8, 3)


def test_a_network_inside_a_module_of_the_user_is_found() -> None:
    model = on_meta(lambda: Wrapped(timm.create_model("resnet18")))
    assert detect_family(model) == "resnet"
    assert all(name.startswith("encoder.") and ".fc." not in name for name in chosen(model))


def test_generic_leaves_what_is_fragile() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3),  # reads the image
        nn.Conv2d(16, 16, 7, groups=16),  # depthwise, though it has more than MIN_WEIGHTS weights
        nn.Conv2d(16, 32, 1),
        nn.Conv2d(32, 4, 1),  # too few weights
        nn.Flatten(),
        nn.Linear(64, 32),
        nn.BatchNorm1d(32),
        nn.Linear(32, 10),  # may be the classifier
    )
    assert detect_family(model) == "generic"
    assert list(chosen(model)) == ["2.weight", "5.weight"]
    assert list(chosen(nn.Sequential(nn.Linear(64, 32)), "generic")) == ["0.weight"]


def test_what_only_sounds_like_a_known_network_is_none() -> None:
    class ClippedReLU(nn.ReLU6):
        pass

    assert (
        detect_family(nn.Sequential(nn.Conv2d(3, 8, 3), ClippedReLU(), nn.Flatten(), nn.Linear(8, 2)))
        == "generic"
    )
    assert list(chosen(nn.Conv2d(16, 16, 3), "generic")) == ["weight"]  # the model is the layer


def test_heads_are_never_masked() -> None:
    for model in (of_timm("regnety_002"), of_torchvision("mobilenet_v3_large"), of_torchvision("vit_b_16")):
        for name in chosen(model):
            assert not {"head", "heads", "classifier", "fc"} & set(name.split("."))


def test_presets_explain_themselves() -> None:
    for family in FAMILIES:
        rule = preset(family)
        assert rule.name == family
        assert len(rule.why) > 60


def test_unknown_presets_name_near_misses() -> None:
    with pytest.raises(SelectionError, match=r"unknown preset 'resnt'; did you mean 'resnet'\?"):
        preset("resnt")
    with pytest.raises(SelectionError, match="the presets are resnet, efficientnet"):
        preset("zzz")
