"""Kinds, stages and depths, against the layers that the libraries really build."""

from __future__ import annotations

from collections import Counter

import pytest
import timm
import torch
from torch import nn

from selfmask.reports.places import locate, natural_key


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False, num_classes=0)
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def chosen(name: str, *parts: str) -> dict[str, tuple[int, ...]]:
    return {n: s for n, s in shapes_of(name).items() if any(part in n for part in parts)}


def test_resnet50_has_the_kinds_of_figure_3() -> None:
    shapes = {n: s for n, s in shapes_of("resnet50").items() if len(s) == 4 or "downsample" in n}
    places = locate(shapes)
    assert Counter(place.kind for place in places) == {
        "convolution": 49,
        "downsample convolution": 4,
        "downsample norm weight": 4,
        "downsample norm bias": 4,
    }
    convolutions = [place for place in places if place.kind == "convolution"]
    assert [place.depth for place in convolutions] == list(range(49))
    assert [place.name for place in convolutions[:3]] == [
        "conv1.weight",
        "layer1.0.conv1.weight",
        "layer1.0.conv2.weight",
    ]
    assert {p.depth for p in places if p.kind == "downsample norm bias"} == {1, 10, 22, 40}
    assert [p.stage for p in convolutions].count("layer3") == 18


def test_vit_has_the_kinds_of_figure_2() -> None:
    places = locate(chosen("vit_small_patch14_dinov2", "attn.qkv", "attn.proj", "mlp"))
    for kind in ("q", "k", "v", "out", "fc1", "fc2"):
        for part in ("weight", "bias"):
            found = [p for p in places if (p.kind, p.part) == (kind, part)]
            assert [p.depth for p in found] == list(range(12)), (kind, part)
    q, k, v = (next(p for p in places if p.kind == kind and p.part == "weight") for kind in "qkv")
    assert (q.rows, k.rows, v.rows) == ((0, 384), (384, 768), (768, 1152))
    assert q.name == "blocks.0.attn.qkv.weight[q]"
    assert q.parameter == "blocks.0.attn.qkv.weight"
    assert q.stage == "block 0"


def test_efficientnet_tells_expansion_from_projection() -> None:
    places = {p.name: p for p in locate(chosen("tf_efficientnet_lite0", "conv"))}
    assert places["conv_stem.weight"].kind == "stem"
    # The first block has no expansion, so its one 1×1 convolution projects.
    assert places["blocks.0.0.conv_pw.weight"].kind == "projection 1×1"
    assert places["blocks.1.0.conv_pw.weight"].kind == "expansion 1×1"
    assert places["blocks.1.0.conv_pwl.weight"].kind == "projection 1×1"
    assert places["blocks.1.0.conv_dw.weight"].kind == "depthwise"
    assert places["conv_head.weight"].kind == "head"
    assert [p.depth for p in places.values()] == sorted(p.depth for p in places.values())
    assert places["blocks.1.0.conv_dw.weight"].stage == "blocks.1"


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_tiny_patch4_window7_224", "mobilenetv3_small_100"])
def test_other_families_lose_no_parameter(name: str) -> None:
    shapes = shapes_of(name)
    places = locate(shapes)
    rows: dict[str, int] = {}
    for place in places:
        begin, end = place.rows or (0, shapes[place.parameter][0])
        rows[place.parameter] = rows.get(place.parameter, 0) + end - begin
    assert rows == {n: s[0] for n, s in shapes.items()}
    assert {"convnext_tiny": "fc1", "swin_tiny_patch4_window7_224": "q"}.get(name, "depthwise") in {
        place.kind for place in places
    }


@pytest.mark.parametrize(
    ("name", "shape", "kinds"),
    [
        ("transformer.resblocks.3.attn.in_proj_weight", (2304, 768), ["q", "k", "v"]),
        ("transformer.resblocks.3.attn.in_proj_bias", (2304,), ["q", "k", "v"]),
        ("visual.transformer.resblocks.3.attn.out_proj.weight", (768, 768), ["out"]),
        ("visual.transformer.resblocks.3.mlp.c_fc.bias", (3072,), ["fc1"]),
        ("visual.transformer.resblocks.3.mlp.c_proj.weight", (768, 3072), ["fc2"]),
        ("encoder.layer.3.attention.attention.query.weight", (768, 768), ["q"]),
        ("encoder.layer.3.attention.output.dense.weight", (768, 768), ["out"]),
        ("encoder.layer.3.intermediate.dense.weight", (3072, 768), ["fc1"]),
        ("encoder.layer.3.output.dense.weight", (768, 3072), ["fc2"]),
        ("vision_model.encoder.layers.3.self_attn.k_proj.bias", (768,), ["k"]),
        ("layers.3.attention.o_proj.weight", (768, 768), ["out"]),
        ("blocks.3.attn.qkv.weight", (770, 768), ["linear"]),  # not three equal parts
    ],
)
def test_other_libraries_names(name: str, shape: tuple[int, ...], kinds: list[str]) -> None:
    places = locate({name: shape})
    assert [place.kind for place in places] == kinds
    assert {place.part for place in places} == {"bias" if "bias" in name else "weight"}
    assert {place.stage for place in places} == {"block 3"}


def test_transformers_stages_are_told_apart() -> None:
    """As its ResNet and ConvNeXt name them."""
    expected = {
        "embedder.embedder.convolution.weight": ((8, 3, 7, 7), "stem", "stem", 0),
        "encoder.stages.0.layers.0.layer.0.convolution.weight": ((8, 8, 3, 3), "convolution", "stages.0", 1),
        "encoder.stages.0.layers.1.layer.0.normalization.bias": ((8,), "norm", "stages.0", 2),
        "encoder.stages.1.layers.0.shortcut.convolution.weight": (
            (8, 8, 1, 1), "downsample convolution", "stages.1", 3,
        ),
        "encoder.stages.2.downsampling_layer.1.weight": (
            (8, 8, 2, 2), "downsample convolution", "stages.2", 4,
        ),
        "encoder.stages.2.layers.0.pwconv1.weight": ((32, 8), "fc1", "stages.2", 5),
        "encoder.stages.2.layers.0.pwconv2.weight": ((8, 32), "fc2", "stages.2", 5),
    }  # fmt: skip
    for place in locate({name: shape for name, (shape, *_) in expected.items()}):
        assert (place.kind, place.stage, place.depth) == expected[place.name][1:], place.name


def test_a_module_of_ones_own_is_placed_by_rank() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    places = locate({n: tuple(p.shape) for n, p in module.named_parameters()})
    assert {p.name: p.kind for p in places} == {
        "0.weight": "convolution",
        "0.bias": "vector",
        "2.weight": "linear",
        "2.bias": "vector",
    }
    assert [p.depth for p in places] == [0, 0, 1, 1]


def test_numbers_in_names_sort_as_numbers() -> None:
    names = ["blocks.10.a", "blocks.2.a", "blocks.2.b", "a.1", "10.x", "9.x"]
    assert sorted(names, key=natural_key) == ["a.1", "blocks.2.a", "blocks.2.b", "blocks.10.a", "9.x", "10.x"]
