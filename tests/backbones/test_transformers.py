"""transformers' vision networks from a local folder, in tiny configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from selfmask.backbones import from_transformers, hub
from selfmask.backbones.preprocessing import IMAGENET_MEAN
from selfmask.backbones.spec import build, rebuild
from selfmask.errors import BackboneError

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TINY: dict[str, dict[str, Any]] = {
    "vit": {**SMALL, "image_size": 32, "patch_size": 8},
    "deit": {**SMALL, "image_size": 32, "patch_size": 8},
    "dinov2": {**SMALL, "image_size": 28, "patch_size": 14},
    "clip_vision_model": {**SMALL, "image_size": 32, "patch_size": 8},
    "convnext": {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "image_size": 32},
    "resnet": {
        "embedding_size": 8,
        "hidden_sizes": [8, 16, 16, 32],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
    },
    "vit_mae": {**SMALL, "image_size": 32, "patch_size": 8},
    "ijepa": {**SMALL, "image_size": 32, "patch_size": 8},
    "swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "image_size": 32},
}
FAMILY = {"deit": "vit", "vit_mae": "vit", "ijepa": "vit", "clip_vision_model": "clip"}


def folder(path: Path, kind: str) -> Any:
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **TINY[kind])).eval()
    model.save_pretrained(path)
    return model


@pytest.mark.parametrize("kind", TINY)
def test_a_folder_gives_the_library_s_features(tmp_path: Path, kind: str) -> None:
    source = folder(tmp_path, kind)
    backbone = build(f"hf:{tmp_path}")
    size = backbone.preprocessing.size
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        features = backbone.module(x)
        if kind == "vit_mae":  # with all patches, in any order
            source.config.mask_ratio = 0.0
        output = source(x)
    if kind in ("vit", "deit", "vit_mae"):
        expected = output.last_hidden_state[:, 0]
    elif kind == "ijepa":  # has no class token
        expected = output.last_hidden_state.mean(dim=1)
    else:
        expected = output.pooler_output.flatten(1)
    assert features.shape == (2, backbone.width)
    torch.testing.assert_close(features, expected)
    assert backbone.family == FAMILY.get(kind, kind)
    assert backbone.is_transformer == (kind not in ("convnext", "resnet"))
    assert backbone.multiple == (TINY[kind].get("patch_size", 4) if backbone.is_transformer else 16)
    ours = {name for name, _ in backbone.module.named_parameters()}
    assert ours == {name for name, _ in source.named_parameters() if not name.startswith("pooler.dense")}


def test_views_of_another_size(tmp_path: Path) -> None:
    folder(tmp_path, "vit")
    backbone = build(f"hf:{tmp_path}", image_size=48)
    assert backbone.preprocessing.size == 48
    assert backbone.module(torch.randn(1, 3, 48, 48)).shape == (1, 32)
    assert backbone.module(torch.randn(1, 3, 32, 32)).shape == (1, 32)


def test_the_folder_s_recipe_is_taken(tmp_path: Path) -> None:
    folder(tmp_path, "vit")
    said = {
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.2, 0.2],
        "size": {"shortest_edge": 40},
        "crop_size": {"height": 32, "width": 32},
        "resample": 2,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    recipe = build(f"hf:{tmp_path}").preprocessing
    assert (recipe.mean, recipe.std, recipe.size) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2), 32)
    assert (recipe.interpolation, recipe.crop) == ("bilinear", 0.8)


@pytest.mark.parametrize("size", [40, {"height": 40, "width": 40}, {"shortest_edge": 40}])
def test_the_crop_is_what_is_cut_of_what_was_resized(tmp_path: Path, size: object) -> None:
    folder(tmp_path, "vit")
    said = {"do_center_crop": True, "crop_size": 32, "size": size}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    recipe = build(f"hf:{tmp_path}").preprocessing
    assert (recipe.size, recipe.crop) == (32, 0.8)


def test_a_description_says_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask may be published; and what another would find under that name is for nobody but him to say."""
    (tmp_path / "mine").mkdir()
    folder(tmp_path / "mine", "vit")
    described = build(f"hf:{tmp_path / 'mine'}").describe()
    assert described["spec"] == "hf:./mine"
    with pytest.raises(BackboneError, match="is a folder, and which folders are read"):
        rebuild(described, download=True)
    monkeypatch.chdir(tmp_path.parent)
    assert build(f"hf:{tmp_path.name}/mine").describe()["spec"] == "hf:./mine"


@pytest.mark.parametrize("name", ["foo bar", "a--b/c", "a/"])
def test_what_is_no_name_of_a_repository_is_told(name: str) -> None:
    with pytest.raises(BackboneError, match="no name of a repository, OWNER/NAME"):
        build(f"hf:{name}")


def test_a_recipe_without_a_step_leaves_it_out(tmp_path: Path) -> None:
    folder(tmp_path, "vit")
    said = {"do_normalize": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_center_crop": False,
            "crop_size": 16, "size": 32}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    recipe = build(f"hf:{tmp_path}").preprocessing
    assert (recipe.mean, recipe.std, recipe.size) == ((0, 0, 0), (1, 1, 1), 32)


@pytest.mark.parametrize("said", [{"do_flip_channel_order": True}, {"do_rescale": False}])
def test_a_recipe_that_cannot_be_followed_is_refused(tmp_path: Path, said: dict[str, bool]) -> None:
    folder(tmp_path, "vit")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(BackboneError, match=f"says {next(iter(said))}: {next(iter(said.values()))}"):
        build(f"hf:{tmp_path}")


def test_a_checkpoint_with_holes_is_refused(tmp_path: Path) -> None:
    folder(tmp_path, "dinov2")
    state = load_file(tmp_path / "model.safetensors")
    del state["layernorm.weight"]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(BackboneError, match=r"lack layernorm\.weight and 0 more"):
        build(f"hf:{tmp_path}")


def test_a_checkpoint_in_half_precision_computes_in_float32(tmp_path: Path) -> None:
    folder(tmp_path, "dinov2").half().save_pretrained(tmp_path)
    backbone = build(f"hf:{tmp_path}")
    assert {one.dtype for one in backbone.module.parameters()} == {torch.float32}


def test_a_missing_pooler_is_no_hole(tmp_path: Path) -> None:
    folder(tmp_path, "vit")
    state = load_file(tmp_path / "model.safetensors")
    save_file(
        {k: v for k, v in state.items() if "pooler" not in k},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    assert build(f"hf:{tmp_path}").width == 32


def test_of_a_whole_clip_the_tower_that_sees_is_kept(tmp_path: Path) -> None:
    text = {**SMALL, "vocab_size": 100, "max_position_embeddings": 8}
    config = transformers.CLIPConfig(
        text_config=text, vision_config=TINY["clip_vision_model"], projection_dim=16
    )
    source = transformers.CLIPModel(config).eval()
    source.save_pretrained(tmp_path)
    backbone = build(f"hf:{tmp_path}")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone.module(x), source.vision_model(x).pooler_output)
    assert backbone.family == "clip"
    assert backbone.preprocessing.size == 32


def test_a_file_of_weights_and_a_random_start(tmp_path: Path) -> None:
    source = folder(tmp_path, "resnet")
    torch.save({"state_dict": source.state_dict()}, tmp_path / "w.pth")
    given = build(f"hf:{tmp_path}", weights=tmp_path / "w.pth")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(given.module(x), source(x).pooler_output.flatten(1))
    assert build(f"hf:{tmp_path}", pretrained=False).pretrained is False


def test_places_that_are_none() -> None:
    with pytest.raises(
        BackboneError, match=r"neither OWNER/NAME on the hub nor a folder with a config\.json"
    ):
        build("hf:/nowhere/at/all")


def test_no_file_says_which_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask's metadata may be a stranger's: it read any folder that it named."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for name in (str(tmp_path), "./here", "../x", "~/x", "here"):
        with pytest.raises(BackboneError, match=r"is a folder, and which folders .*--backbone"):
            rebuild({"spec": f"hf:{name}"})


def test_a_cache_without_the_recipe_is_not_taken_for_a_network_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who loaded the network by the library alone has no preprocessor_config.json, and its recipe may be another."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    copy, commit = tmp_path / "models--someone--network", "a" * 40
    (copy / "refs").mkdir(parents=True)
    (copy / "refs" / "main").write_text(commit)
    snapshot = copy / "snapshots" / commit
    folder(snapshot, "vit")
    with hub.local_only(), pytest.raises(BackboneError, match="someone/network"):
        build("hf:someone/network")
    none = copy / ".no_exist" / commit
    none.mkdir(parents=True)
    (none / "preprocessor_config.json").touch()  # the hub was asked, and has none
    with hub.local_only():
        assert build("hf:someone/network").preprocessing.mean == IMAGENET_MEAN


def test_a_recipe_out_of_reach_is_not_taken_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        BackboneError, match=r"someone/network: its preprocessor_config\.json could not be fetched"
    ):
        from_transformers._preprocessor_config("someone/network")
