"""The card of a published mask: valid to the hub, true to the file, and proof against what stands in the metadata."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import selfmask
from selfmask.backbones.spec import build
from selfmask.features.rows import Outcome, Rows
from selfmask.maskfile.loading import load
from selfmask.maskfile.mask import Mask
from selfmask.tasks.card import GENERATED, base_repository, model_card, usage

ROWS = Rows.of(
    [
        Outcome("pretrained", knn=torch.tensor([True, False, False, True])),
        Outcome("masked", knn=torch.tensor([True, True, False, True])),
    ]
)


def saved(model: nn.Module, path: Path, **more: Any) -> Mask:
    masks = selfmask.MaskSet(model, select=["conv2.weight"])
    masks.set_scores({n: torch.randn_like(s) + 1 for n, s in masks.scores.items()})
    masks.save(path, **more)
    masks.remove()
    return load(path)


def front(card: str) -> Any:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    return huggingface_hub.ModelCard(card, ignore_metadata_errors=False).data


def test_what_the_card_says(model: nn.Module, tmp_path: Path) -> None:
    mask = saved(
        model,
        tmp_path / "m",
        backbone={"spec": "timm:resnet50.a1_in1k", "weights": None, "pretrained": True},
        training={
            "data": "leaves",
            "images": 1234,
            "classes": ["oak", "elm"],
            "steps": 7,
            "batch": 64,
            "seed": 3,
        },
    )
    card = model_card(mask, "me/leaves", filename="mask.safetensors", license="mit", rows=ROWS.to_json())
    data = front(card)
    assert data.license == "mit"
    assert data.library_name == "selfmask"
    assert data.base_model == "timm/resnet50.a1_in1k"
    assert {"selfmask", "leaves"} <= set(data.tags)
    for part in (
        "timm resnet50.a1\\_in1k", mask.index.base.fingerprint, "1234", "2: oak, elm", "7 × 64", "threshold",
        f"{mask.bytes()['file']:,}", f"{100 * mask.density():.3f} %", "derived data", "arXiv 2409.07577", GENERATED,
        "0.500 (", "0.750 (", "4 test images",
    ):  # fmt: skip
        assert part in card, part
    for part in ("masks", "statistics", "norms", "head", "metadata"):
        assert f"| {part} | {mask.bytes()[part]:,} |" in card
    assert str(tmp_path) not in card


def test_without_anything_known(model: nn.Module, tmp_path: Path) -> None:
    mask = saved(model, tmp_path / "m")
    card = model_card(mask, "me/x", filename="other.safetensors")
    data = front(card)
    assert data.license == "unknown"
    assert data.base_model is None
    assert data.pipeline_tag == "image-feature-extraction"
    assert "## Results" not in card
    assert "None" not in card.replace("stages None", "")
    assert "from_hub('me/x', filename='other.safetensors')" in card
    compile(re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0], "card", "exec")


def test_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = build("package:efficientnet_lite0")
    # A run leaves a convolutional network's own size, and sees images its own way.
    backbone.preprocessing = replace(backbone.preprocessing, size=32, crop=1.0)
    masks = selfmask.MaskSet(backbone.module, norm_stats="frozen")
    masks.set_scores({n: torch.rand_like(s) - 0.01 for n, s in masks.scores.items()})
    head = {"weight": torch.randn(3, backbone.width).half(), "bias": torch.zeros(3)}
    recipe = backbone.preprocessing.describe()
    path = masks.save(tmp_path / "m", head=head, backbone=backbone.describe(), preprocessing=recipe)
    masks.remove()
    code = re.findall(r"```python\n(.*?)```", model_card(load(path), "me/x", filename="m"), re.DOTALL)[0]
    monkeypatch.setattr(selfmask, "from_hub", lambda repo, filename: load(path))
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["scores"].shape == (1, 3)
    with load(path).apply(backbone.module), torch.no_grad():
        expected = backbone.module(backbone.preprocessing.normalise(torch.zeros(1, 3, 32, 32)))
    assert torch.equal(names["features"], expected)
    assert names["backbone"].preprocessing == backbone.preprocessing


NASTY = 'x"\n---\nlicense: evil\n``` <script>alert(1)</script> | [a](javascript:b) #'


def test_metadata_of_a_stranger_stays_text(model: nn.Module, tmp_path: Path) -> None:
    mask = saved(
        model,
        tmp_path / "m",
        base=NASTY,
        backbone={"spec": NASTY, "weights": NASTY},
        training={"data": NASTY, "classes": [NASTY], "images": {"a": 1}, "steps": [NASTY], "method": NASTY},
        rows={
            "images": NASTY,
            "rows": [{"name": NASTY, "knn": {"value": 1.0, "low": 0.5, "high": 1.0}}, 3, "x"],
        },
        compaction={"test": {"before": "x", "after": 1}},
    )
    card = model_card(mask, "me/x", filename="mask.safetensors")
    data = front(card)
    assert data.license == "unknown"
    assert card.count("\n---\n") == 1
    assert card.count("```") == 2
    prose = re.sub(r"`[^`\n]*`", "", re.sub(r"```.*?```", "", card, flags=re.DOTALL))
    assert not re.search(r"(?<!\\)<script", prose)
    assert not re.search(r"(?<!\\)\]\(", prose)
    for line in card.splitlines():
        if line.startswith("| ") and NASTY[:1] in line:
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4)


@pytest.mark.parametrize(
    "value", [None, 3, [], {"rows": 3}, {"rows": [{"name": 1}]}, {"rows": [{"name": "a"}]}]
)
def test_malformed_results_are_left_out(model: nn.Module, tmp_path: Path, value: Any) -> None:
    mask = saved(model, tmp_path / "m", rows=value, training=value, backbone=value, compaction=value)
    assert "## Results" not in model_card(mask, "me/x", filename="m")


@pytest.mark.parametrize(
    ("backbone", "repository"),
    [
        ({"spec": "timm:resnet50.a1_in1k"}, "timm/resnet50.a1_in1k"),
        ({"spec": "timm:resnet50.a1_in1k", "weights": "mine.safetensors"}, None),
        ({"spec": "timm:resnet50.a1_in1k", "pretrained": False}, None),
        ({"spec": "timm:resnet50"}, None),
        ({"spec": "hf:facebook/dinov2-small"}, "facebook/dinov2-small"),
        ({"spec": "package:efficientnet_lite0"}, None),
        ({"spec": None}, None),
    ],
)
def test_the_base_is_named_only_where_it_is_known(
    model: nn.Module, tmp_path: Path, backbone: dict[str, Any], repository: str | None
) -> None:
    assert base_repository(saved(model, tmp_path / "m", backbone=backbone)) == repository


def test_compaction_is_a_result(model: nn.Module, tmp_path: Path) -> None:
    tested = {"test": {"before": 0.75, "after": 0.745, "images": 400}}
    card = model_card(saved(model, tmp_path / "m", compaction=tested), "me/x", filename="m")
    assert "400 test images was 0.750 before and is 0.745" in card


def test_a_reader_runs_a_repository_s_code_only_by_asking_for_it(model: nn.Module, tmp_path: Path) -> None:
    path = saved(model, tmp_path / "m", backbone={"spec": "torchhub:me/net:small"})
    code = usage(path, "me/x", "m")
    assert 'backbone = selfmask.backbone_of(mask, mask.metadata["backbone"]["spec"])' in code
    assert "download" not in code
