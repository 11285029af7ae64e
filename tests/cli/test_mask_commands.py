"""The commands on mask files, through their `run`: what they print as JSON, and the files that they write."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from selfmask.backbones.spec import build
from selfmask.cli import main
from selfmask.cli.masks import show_compacted
from selfmask.errors import BackboneError, SettingsError, WrongBaseError
from selfmask.images.opening import open_data
from selfmask.maskfile.derive import save_derived
from selfmask.maskfile.loading import load
from selfmask.maskset import MaskSet
from selfmask.tasks.apply import ApplySettings
from selfmask.tasks.apply import run as apply
from selfmask.tasks.compact import Compacted, CompactSettings
from selfmask.tasks.compact import run as compact
from selfmask.tasks.export import ExportSettings

SPEC = "timm:test_resnet"
SIZE = 32


@pytest.fixture(autouse=True)
def _weights_are_found(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFMASK_WEIGHTS", str(weights.parent))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> list[Path]:
    """Two masks of a small backbone with 1 % off at random, the first with a head of two classes."""
    folder = tmp_path_factory.mktemp("masks")
    backbone = build(SPEC, weights=weights)
    paths = []
    for seed in range(2):
        masks = MaskSet(backbone.module, norm_stats="frozen")
        random = torch.Generator().manual_seed(seed)
        masks.set_scores({n: torch.rand(s.shape, generator=random) - 0.01 for n, s in masks.scores.items()})
        masks.save(
            folder / f"{seed}.safetensors",
            head={"weight": torch.randn(2, backbone.width), "bias": torch.zeros(2)},
            backbone=backbone.describe(),
            preprocessing=backbone.preprocessing.describe(),
            training={"data": "digits", "size": SIZE},
        )
        masks.remove()
        paths.append(folder / f"{seed}.safetensors")
    return paths


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def test_inspect_says_what_is_in_the_file(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(files[0]), "--json"]) == 0
    found = printed(capsys)
    assert set(found["bytes"]) == {"masks", "statistics", "norms", "head", "metadata", "file"}
    assert (
        found["bytes"]["file"]
        == files[0].stat().st_size
        == sum(v for k, v in found["bytes"].items() if k != "file")
    )
    assert found["density"] == pytest.approx(0.99, abs=0.001)
    assert found["weights"] == sum(t["weights"] for t in found["tensors"].values())
    assert found["on"] == sum(t["on"] for t in found["tensors"].values())
    assert found["backbone"]["spec"] == SPEC
    assert found["rule"]["name"] == "threshold"
    assert found["training"] == {"data": "digits", "size": SIZE}
    assert found["head_dtype"] == {"weight": "float32", "bias": "float32"}
    assert {"selection", "preprocessing", "selfmask"} <= set(found)
    assert main(["inspect", str(files[0]), "--tensors"]) == 0
    text = capsys.readouterr().out
    assert "99.0" in text
    assert "test_resnet" in text


def test_compare_and_combine(files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(files[0]), str(files[1]), "--json"]) == 0
    overall = printed(capsys)["overall"]
    assert overall["jaccard"] == pytest.approx(overall["expected_jaccard"], abs=0.01)
    assert main(["compare", str(files[0]), str(files[0])]) == 0
    assert "1.000" in capsys.readouterr().out
    out = tmp_path / "both"
    assert main(["combine", *map(str, files), "--out", str(out), "--operation", "and", "--json"]) == 0
    assert (
        printed(capsys)["on"] == overall["total"] - overall["off_a"] - overall["off_b"] + overall["off_both"]
    )


@pytest.mark.slow
def test_apply_and_export_make_the_adapted_network(
    files: list[Path], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = build(SPEC, weights=weights)
    images = torch.randn(3, 3, SIZE, SIZE)
    with load(files[0]).apply(backbone.module), torch.no_grad():
        expected = backbone.module(images)
    baked = tmp_path / "baked.safetensors"
    assert main(["apply", str(files[0]), str(baked), "--json"]) == 0
    assert printed(capsys)["bytes"] == baked.stat().st_size
    backbone.module.load_state_dict(load_file(baked), strict=True)
    with torch.no_grad():
        assert torch.equal(backbone.module(images), expected)

    program = tmp_path / "model.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own insides
        assert main(["export", str(files[0]), str(program), "--size", str(SIZE), "--json"]) == 0
    assert printed(capsys)["input"]["shape"] == ["batch", 3, SIZE, SIZE]
    assert torch.allclose(torch.export.load(program).module()(images), expected, atol=1e-4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["baked.safetensors", "model.pt2"]


def test_apply_with_its_options_first(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["apply", "--head", "--json", str(files[0]), "--out", str(tmp_path / "w")]) == 0
    assert printed(capsys)["out"] == str(tmp_path / "w")
    assert load_file(tmp_path / "w")["head.weight"].shape[0] == 2


def test_a_mask_without_a_named_backbone_asks_for_it(weights: Path, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    masks = MaskSet(model, select="0.weight")
    path = masks.save(tmp_path / "own")
    masks.remove()
    with pytest.raises(BackboneError, match=r"name it \(--backbone; spec= from Python\)"):
        apply(ApplySettings(path, tmp_path / "x"))
    with pytest.raises(WrongBaseError, match="not the base"):
        apply(ApplySettings(path, tmp_path / "x", backbone=SPEC, weights=weights))
    assert not (tmp_path / "x").exists()


def test_compact_settings_are_checked(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="max_drop"):
        CompactSettings(files[0], "digits", tmp_path / "x", max_drop=-1)
    with pytest.raises(SettingsError, match="out is the mask file itself"):
        CompactSettings(files[0], "digits", files[0])
    with pytest.raises(SettingsError, match="images"):
        CompactSettings(files[0], "digits", tmp_path / "x", images=2)
    for size in (0, -3):
        with pytest.raises(SettingsError, match=f"size is the side of the images in pixels, .* got {size}"):
            CompactSettings(files[0], "digits", tmp_path / "x", size=size)
        with pytest.raises(SettingsError, match=f"size is the side of the images in pixels, .* got {size}"):
            ExportSettings(files[0], tmp_path / "x.onnx", size=size)
    found = CompactSettings(tmp_path / "a.safetensors", "digits").written
    assert found == tmp_path / "a.small.safetensors"
    found.touch()
    with pytest.raises(SettingsError, match=r"a\.small\.safetensors is there already: name the new file"):
        CompactSettings(tmp_path / "a.safetensors", "digits")


@pytest.mark.slow
def test_compact_makes_a_smaller_file_within_the_tolerance(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "small"
    settings = CompactSettings(
        files[0],
        "digits",
        out,
        max_drop=5,
        images=60,
        steps=1,
        refine=1,
    )
    found = compact(settings).document()
    assert found["after"]["score"] >= found["before"]["score"] - 5
    assert found["bytes"]["after"]["file"] == out.stat().st_size <= files[0].stat().st_size
    small, before = load(out), load(files[0])
    assert all(bool((small.masks()[n] | ~m).all()) for n, m in before.masks().items())
    assert small.metadata["compaction"]["by"] == "sensitivity"
    assert found["test"]["images"] > 0
    assert len(found["curve"]) in (2, 3)
    assert "head" not in found
    assert ["not known which of these 797 test" in note for note in found["notes"]] == [True]

    # Most weights of a random network tie at no sensitivity at all.
    halved = replace(settings, by="magnitude", bits=0.5, max_drop=0.0, out=tmp_path / "half")
    found = compact(halved).document()
    assert 0.45 * before.bytes()["masks"] < found["bytes"]["after"]["masks"] < 0.52 * before.bytes()["masks"]
    assert load(tmp_path / "half").metadata["compaction"]["bits"] == 0.5
    few = compact(replace(settings, images=9, max_drop=1, out=tmp_path / "few"))
    assert isinstance(few, Compacted)
    assert "held-out images is" in few.notes[0]


@pytest.mark.slow
def test_compact_rounds_the_head_and_says_what_it_costs(
    files: list[Path], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = build(SPEC, weights=weights)
    masks = MaskSet(backbone.module, norm_stats="frozen")
    head = {"weight": torch.randn(10, backbone.width), "bias": torch.zeros(10)}
    path = masks.save(
        tmp_path / "ten", head=head, backbone=backbone.describe(),
        training={"size": SIZE, "classes": list(open_data("digits").train.classes)},
    )  # fmt: skip
    masks.remove()
    common: dict[str, Any] = {
        "data": "digits",
        "images": 30,
        "steps": 1,
        "refine": 0,
        "head_dtype": "float16",
    }
    found = compact(CompactSettings(path, out=tmp_path / "half", **common)).document()
    assert found["bytes"]["after"]["head"] * 2 == found["bytes"]["before"]["head"]
    cost = found["head"]
    assert cost["dtype"] == "float16"
    assert abs(cost["stored"] - cost["exact"]) <= cost["changed"] / cost["images"]
    assert load(tmp_path / "half").head["weight"].dtype == torch.float16
    assert load(tmp_path / "half").metadata["compaction"]["head"] == cost
    # The head of two classes of `files` is none of the digits': its cost cannot be told.
    show_compacted(compact(CompactSettings(files[0], out=tmp_path / "two", **common)))
    assert "was not measured" in capsys.readouterr().out


@pytest.mark.slow
def test_compact_to_so_many_bytes(
    files: list[Path], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = build(SPEC, weights=weights)
    masks = MaskSet(backbone.module, norm_stats="frozen", train_norms=True)
    scores = {
        n: torch.rand(s.shape, generator=torch.Generator().manual_seed(0)) - 0.02
        for n, s in masks.scores.items()
    }
    masks.set_scores(scores)
    with torch.no_grad():
        for weight in masks.masked.norms.values():
            weight += 0.02 * torch.randn_like(weight)
    head = {"weight": torch.randn(10, backbone.width), "bias": torch.zeros(10)}
    path = masks.save(
        tmp_path / "ten", head=head, backbone=backbone.describe(),
        training={"size": SIZE, "classes": list(open_data("digits").train.classes), "rate": 0.1},
    )  # fmt: skip
    masks.remove()
    whole, out = path.stat().st_size, tmp_path / "small"
    words = ["compact", str(path), "digits", "--out", str(out), "--images", "12"]
    assert main([*words, "--max-bytes", f"{whole // 3 / 1024:.2f}k", "--json"]) == 0
    found = printed(capsys)
    assert out.stat().st_size == found["bytes"]["after"]["file"] <= whole // 3
    assert found["budget"] == load(out).metadata["budget"]
    assert found["budget"]["whole"] <= whole
    assert found["test"]["images"] > 0
    assert found["moved"] > 0
    assert found["seen_in_training"] == {"judged": None, "test": None}
    assert all("not known which of these" in note for note in found["notes"])
    assert len(found["notes"]) == 2
    out.unlink()
    assert main([*words, "--max-bytes", str(whole)]) == 0
    assert "nothing was given up" in capsys.readouterr().out
    assert load(out).masks().keys() == load(path).masks().keys()
    out.unlink()
    assert main([*words, "--max-bytes", "900"]) != 0
    assert "smallest possible file takes" in capsys.readouterr().err
    assert not out.exists()
    # The head of two classes of `files` is none of the digits'.
    show_compacted(
        compact(CompactSettings(files[0], "digits", out, max_bytes=files[0].stat().st_size - 200, images=12))
    )
    said = capsys.readouterr().out
    assert "what is left, in at most " in said
    assert "nats; its top-1 was not measured" in said
    assert main(["inspect", str(out)]) == 0
    assert "budget" in capsys.readouterr().out


@pytest.mark.parametrize(
    "budget", ["odd", 3, [1, {}], {"max_bytes": {"x": []}, "left_out": None}, "\x1b[31m"]
)
def test_inspect_bears_any_budget(
    files: list[Path], tmp_path: Path, budget: object, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = load(files[0])
    path = save_derived(tmp_path / "odd", mask, mask.masks(), note={"budget": budget})
    assert main(["inspect", str(path)]) == 0
    assert "\x1b[31m" not in capsys.readouterr().out


def test_amounts_that_cannot_be(files: list[Path], tmp_path: Path) -> None:
    for bad in ("10q", 0, "-3"):
        with pytest.raises(SettingsError, match="--max-bytes"):
            CompactSettings(files[0], "digits", tmp_path / "x", max_bytes=bad)
    with pytest.raises(SettingsError, match="not both"):
        CompactSettings(files[0], "digits", tmp_path / "x", max_bytes=10, bits=0.5)


def test_compact_without_a_head_to_round(files: list[Path], tmp_path: Path) -> None:
    mask = load(files[0])
    bare = save_derived(tmp_path / "bare", mask, mask.masks(), note={}, head={})
    with pytest.raises(SettingsError, match="bare carries no head"):
        compact(CompactSettings(bare, "digits", tmp_path / "x", head_dtype="float16"))
