"""Which parameters a selection chooses: stages, and entries of several kinds together."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from selfmask.backbones.spec import build
from selfmask.errors import SelectionError, SettingsError
from selfmask.masking.presets import detect_family
from selfmask.masking.rules import TopK
from selfmask.masking.selection import LargestShare, Selection
from selfmask.maskset import MaskSet


def timm_model(name: str) -> nn.Module:
    return timm.create_model(name, pretrained=False, num_classes=0)


def names(model: nn.Module, select: Any, stages: int | None = None) -> set[str]:
    return set(Selection(select, stages=stages).choose(model)[0])


STAGED = {
    # network: its stages' prefix, their number, its unnumbered parts before them and behind them
    "package:efficientnet_lite0": ("blocks.", 7, ("conv_stem.", "bn1."), ("conv_head.", "bn2.")),
    "mobilenetv3_small_050": ("blocks.", 6, ("conv_stem.", "bn1."), ("conv_head.", "norm_head.")),
    "mobilenetv2_035": ("blocks.", 7, ("conv_stem.", "bn1."), ("conv_head.", "bn2.")),
    "test_vit": ("blocks.", 6, ("cls_token", "pos_embed", "patch_embed."), ("norm.", "fc_norm.")),
    "test_convnext": ("stages.", 4, ("stem.",), ("norm_pre.", "head.")),
    "swin_tiny_patch4_window7_224": ("layers.", 4, ("patch_embed.",), ("norm.",)),
    "resnet18": ("layer", 4, ("conv1.", "bn1."), ()),
}


@pytest.mark.parametrize("name", STAGED)
def test_a_stage_is_what_its_number_says_and_only_a_stem_goes_with_the_first(name: str) -> None:
    prefix, number, before, behind = STAGED[name]
    model = build(name).module if ":" in name else timm_model(name)
    start = 1 if name == "resnet18" else 0
    for select in ("auto", "*"):
        everything = names(model, select)
        for stages in range(1, number + 1):
            kept = tuple(f"{prefix}{k}." for k in range(start, start + stages))
            expected = {n for n in everything if n.startswith(kept) or n.startswith(before)}
            if stages == number:
                expected |= {n for n in everything if n.startswith(behind)}
                assert expected == everything, "the test knows all of the network's parts"
            assert names(model, select, stages) == expected, (select, stages)
        with pytest.raises(SelectionError, match=f"has {number}"):
            names(model, select, number + 1)


def test_a_system_is_no_stem() -> None:
    class Own(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.add_module(name, nn.Sequential(nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 1)))
            self.blocks = nn.Conv2d(32, 32, 1)

    assert {n.partition(".")[0] for n in names(Own("system"), "auto")} == {"system", "blocks"}
    for stem in ("stem", "conv_stem", "stem_0", "stem1"):
        assert {n.partition(".")[0] for n in names(Own(stem), "auto")} == {"blocks"}


def test_a_clip_lists_its_last_projection_first() -> None:
    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.class_embedding = nn.Parameter(torch.ones(4))
            self.proj = nn.Parameter(torch.ones(4, 4))
            self.blocks = nn.ModuleList([nn.Linear(4, 4, bias=False) for _ in range(2)])

    assert names(Tower(), "*", 1) == {"class_embedding", "blocks.0.weight"}
    assert names(Tower(), "*", 2) == {"class_embedding", "proj", "blocks.0.weight", "blocks.1.weight"}


def test_a_preset_is_extended_by_the_other_entries_of_a_list() -> None:
    model = timm_model("mobilenetv3_small_050")
    biases = {n for n, _ in model.named_parameters() if n.endswith(".bias")}
    family = detect_family(model)
    preset = names(model, "auto")
    assert biases
    assert not biases & preset
    for first in ("auto", family):
        chosen, why = Selection([first, "*.bias"]).choose(model)
        assert set(chosen) == preset | biases
        assert list(chosen) == [n for n, _ in model.named_parameters() if n in chosen]
        assert f"preset {family!r}" in why
        assert why.endswith("names matching '*.bias'")
    norms = names(model, nn.BatchNorm2d)
    assert names(model, ("*.bias", "auto", nn.BatchNorm2d)) == preset | biases | norms
    assert Selection(["auto", "*.bias", nn.Linear]).describe()["select"] == "auto, *.bias, Linear"
    with pytest.raises(SelectionError, match="the preset 'swin' chooses none of the model's"):
        names(model, ["swin", "*.bias"])


def test_a_list_of_types_is_read_as_a_tuple_of_them_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))
    assert names(model, [nn.Conv2d]) == {"0.weight", "0.bias"}
    assert names(model, [nn.Conv2d, nn.BatchNorm2d]) == names(model, (nn.Conv2d, nn.BatchNorm2d))
    assert names(model, [nn.Conv2d, "2.*"]) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    with pytest.raises(SelectionError, match="the type 'Conv2d' is given twice"):
        names(model, [nn.Conv2d, nn.Conv2d])


@pytest.mark.parametrize("other", ["*.weight", "re:0\\..*", "auto", nn.Conv2d])
def test_named_twice_does_not_hang_on_the_order(other: Any) -> None:
    model = nn.Sequential(nn.Conv2d(8, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 1))
    for select in ([other, "0.weight"], ["0.weight", other]):
        with pytest.raises(SelectionError, match=r"the parameter '0\.weight' is named twice"):
            names(model, select)
    assert names(model, ["0.*", "*.weight", "auto"]) == {"0.weight", "0.bias", "2.weight"}


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (0.5, "a list of such, or a function, got 0.5"),
        (nn.Sequential(nn.Linear(2, 2)), "or a function, got a Sequential"),
        (nn.Linear(2, 2), "or a function, got a Linear"),
        ([nn.Linear(2, 2)], "an entry is 'auto', .* got a Linear"),
        (["auto", 3], "an entry is 'auto', .* got 3"),
        (["auto", "auto"], "given twice"),
        ("atuo", "did you mean 'auto'"),
        (["auto", ""], "the pattern '' matches none"),
    ],
)
def test_what_is_no_selection_is_refused_in_words(select: Any, message: str) -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 2))
    with pytest.raises(SelectionError, match=message):
        MaskSet(model, select)
    MaskSet(model).remove()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: MaskSet(m, rule="topk"), r"rule is a rule, such as Threshold\(\), .* got 'topk'"),  # pyright: ignore[reportArgumentType]
        (lambda m: MaskSet(m, rule=TopK), r"got the class TopK; make one by TopK\(…\)"),  # pyright: ignore[reportArgumentType]
        (lambda m: MaskSet(m, rule=0.5), "got 0.5"),  # pyright: ignore[reportArgumentType]
        (lambda m: MaskSet(m, Selection(share=0.5)), r"share is RandomShare\(0\.5\), .* got 0\.5"),  # pyright: ignore[reportArgumentType]
        (lambda m: Selection(share=LargestShare), "share is RandomShare"),  # pyright: ignore[reportArgumentType]
        (lambda m: LargestShare("half"), "a share is in .* got 'half'"),  # pyright: ignore[reportArgumentType]
        (lambda m: Selection(stages=1.5), "whole number from 1, got 1.5"),  # pyright: ignore[reportArgumentType]
        (lambda m: Selection(stages=0), "whole number from 1, got 0"),
    ],
)
def test_what_is_no_rule_and_no_share_is_refused_in_words(make: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make(nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 2)))
