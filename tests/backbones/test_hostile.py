"""Files of weights that are damaged, of another kind or made to do harm: one error of ours each, and no hang."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from selfmask.backbones.preprocessing import Preprocessing
from selfmask.backbones.spec import build, rebuild
from selfmask.backbones.state import read_state_dict, unwrapped
from selfmask.errors import BackboneError, SelfmaskError, SettingsError

VIT = "timm:test_vit"


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".pt", ".safetensors", ""])
@pytest.mark.parametrize(
    "content",
    [b"", b"file,label\na.png,cat\n", b"I am no weights", b"PK\x03\x04 and no more", b"\x80\x02.", b"\x80\x02K\x01.",
     b"{" * 5000, b"(" * 100_000 + b".", b"\x80\x04\x95", b"x" * 100_000, "ünïcode \u202e".encode()],
)  # fmt: skip
def test_another_kind_of_file_is_no_weights_file(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(BackboneError, match="weights"):
        read_state_dict(path)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", b"\x80\x02", b"\x80\x02}q\x00(", b"PK\x03\x04"]))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, tail: bytes, head: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "weights.pth"
    path.write_bytes(head + tail)
    with pytest.raises(BackboneError):
        read_state_dict(path)


@pytest.mark.parametrize("odd", [None, 3, "text", [], [torch.zeros(2)], {}, {"state_dict": None}, {"model": {"a": 1}},
                                 {3: {4: 5}}, OrderedDict(), torch.zeros(3)])  # fmt: skip
def test_what_is_no_state_dict_is_refused(tmp_path: Path, odd: Any) -> None:
    torch.save(odd, tmp_path / "weights.pth")
    with pytest.raises(BackboneError, match="holds no state dict"):
        read_state_dict(tmp_path / "weights.pth")


def test_a_checkpoint_that_holds_itself_ends(tmp_path: Path) -> None:
    """Pickle writes circles; unwrapping one went round for ever."""
    circle: dict[str, Any] = {}
    circle["state_dict"] = {"model": circle}
    torch.save(circle, tmp_path / "weights.pth")
    with pytest.raises(BackboneError, match="holds no state dict"):
        read_state_dict(tmp_path / "weights.pth")
    deep: dict[str, Any] = {"a": torch.zeros(1)}
    for _ in range(10_000):
        deep = {"model": deep}
    with pytest.raises(BackboneError, match="holds no state dict"):
        unwrapped(deep, "deep")


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("pos_embed", torch.zeros(4)),
        ("pos_embed", torch.zeros(())),
        ("pos_embed", torch.zeros(1, 0, 64)),
        ("pos_embed", torch.zeros(1, 10**6, 1)),
        ("pos_embed", torch.zeros(1).expand(1, 10**12, 1)),
        ("cls_token", torch.zeros(())),
        ("patch_embed.proj.weight", torch.zeros(())),
        ("patch_embed.proj.weight", torch.zeros(64, 3, 0, 0)),
        ("patch_embed.proj.weight", torch.zeros(64, 3, 10**5, 1)),
        ("blocks.0.attn.qkv.weight", torch.zeros(1, dtype=torch.complex64).expand(192, 64)),
        ("blocks.0.attn.qkv.weight", torch.zeros(192, 64).to_sparse()),
        ("blocks.0.attn.qkv.weight", torch.zeros(192, 64, dtype=torch.int8)),
        ("blocks.0.attn.qkv.weight", torch.zeros(192, 64, device="meta")),
    ],
)
def test_tensors_of_odd_shapes_and_kinds_do_not_fit(tmp_path: Path, name: str, odd: torch.Tensor) -> None:
    state = timm.create_model("test_vit").state_dict()
    assert name in state
    torch.save({**state, name: odd}, tmp_path / "weights.pth")
    with pytest.raises(BackboneError, match=r"weights\.pth|no network"):
        build(VIT, weights=tmp_path / "weights.pth")


@pytest.mark.parametrize("keys", [["proj", "class_embedding"], ["blocks.0.mlp.w12.weight", "mask_token"],
                                  ["visual.trunk.a"], ["norm.weight", "cls_token", "pos_embed"],
                                  ["model.a", "encoder.x"],
                                  ["transformer.resblocks.0.attn.in_proj_weight", "positional_embedding"]])  # fmt: skip
def test_a_layout_that_looks_like_another_library_s(tmp_path: Path, keys: list[str]) -> None:
    """timm's conversions take what they know for granted: whatever they raise, the weights do not fit."""
    torch.save({key: torch.zeros(1) for key in keys}, tmp_path / "weights.pth")
    for spec in (
        VIT,
        "timm:vit_small_patch14_dinov2",
        "timm:resnet10t",
        "timm:convnext_atto",
        "timm:test_efficientnet",
    ):
        with pytest.raises(BackboneError, match="do not fit"):
            build(spec, weights=tmp_path / "weights.pth")


def test_a_checkpoint_that_expands_is_refused(tmp_path: Path) -> None:
    """torch writes its archives uncompressed, but reads compressed ones: a few kB became a gigabyte."""
    plain, bomb = tmp_path / "plain.pth", tmp_path / "bomb.pth"
    torch.save({"a.weight": torch.zeros(2**22)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for info in source.infolist():
            target.writestr(info.filename, source.read(info))
    assert bomb.stat().st_size < 2**16
    assert read_state_dict(plain)["a.weight"].numel() == 2**22
    with pytest.raises(BackboneError, match=r"bomb\.pth.*expand"):
        read_state_dict(bomb)


def test_code_is_not_run(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> Any:
            return (exec, ("raise SystemExit('it ran')",))

    (tmp_path / "weights.pth").write_bytes(pickle.dumps({"a": Runs()}))
    with pytest.raises(BackboneError, match="would run code"):
        read_state_dict(tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["/etc/passwd", "../w.safetensors", "a/../../w.safetensors", "..", ".", "sub/w.pth",
                                  "w\0.pth", "..\\w.pth", "C:w.pth", ""])  # fmt: skip
def test_a_description_names_no_file_outside_of_the_folders_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A mask file comes from a stranger: it says a name, and where it is looked for is the user's to say."""
    inside = tmp_path / "weights"
    (inside / "sub").mkdir(parents=True)
    for place in (tmp_path / "w.safetensors", inside / "sub" / "w.pth"):
        save_file(timm.create_model("test_vit").state_dict(), place)
    monkeypatch.setenv("SELFMASK_WEIGHTS", str(inside))
    with pytest.raises(BackboneError, match="file name"):
        rebuild({"spec": VIT, "weights": name, "pretrained": True, "image_size": None})


@pytest.mark.parametrize("change", [{"size": 10**400}, {"size": 2**20}, {"size": 1.5}, {"size": True}, {"size": None},
                                    {"mean": [10**400, 0, 0]}, {"std": [float("nan")] * 3},
                                    {"mean": [float("inf")] * 3},
                                    {"mean": "abc"}, {"crop": "1"}, {"crop": float("nan")},
                                    {"interpolation": ["bicubic"]},
                                    {"other": 1}])  # fmt: skip
def test_a_recipe_out_of_range_is_refused(change: dict[str, Any]) -> None:
    described = {**Preprocessing().describe(), **change}
    with pytest.raises(SettingsError):
        Preprocessing.read(described)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content", ["", "[]", "3", "{", '{"size": {"height": "x"}}', '{"image_mean": 3}',
                                     "[" * 100_000,
                                     '{"size": ' + "9" * 5000 + "}", '{"model_type": "vit", "hidden_size": "x"}',
                                     '{"crop_size": [], "size": [0]}', '{"image_std": [0, 0, 0]}'])  # fmt: skip
def test_folders_of_transformers_with_odd_settings(tmp_path: Path, file: str, content: str) -> None:
    pytest.importorskip("transformers")
    tiny = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 32, "image_size": 32, "patch_size": 8}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(tiny))
    (tmp_path / file).write_text(content)
    try:
        build(f"hf:{tmp_path}", pretrained=False)
    except SelfmaskError:
        return
    assert file == "preprocessor_config.json"
    assert "model_type" in content  # it says nothing that is asked of it
