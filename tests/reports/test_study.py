"""Tables and figures over mask files: golden tables, a file of each family, fifty masks, names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from selfmask.errors import BackboneError, MaskFileError
from selfmask.maskfile.saving import save_mask
from selfmask.masking.presets import detect_family, preset
from selfmask.reports.study import study
from selfmask.reports.subjects import find_masks, labels_for

THETA = {
    "fc1.weight": torch.linspace(-1, 1, 12).reshape(3, 4),
    "fc2.weight": torch.linspace(-2, 2, 8).reshape(2, 4),
}


def write(
    path: Path, off: int, backbone: str = "timm:a", data: str = "dtd", objective: str = "swav", **more
) -> Path:
    """A mask with the first `off` of fc1's 12 weights off."""
    masks = {name: torch.ones_like(t, dtype=torch.bool) for name, t in THETA.items()}
    masks["fc1.weight"].view(-1)[:off] = False
    path.parent.mkdir(parents=True, exist_ok=True)
    training = {"data": data, "objective": objective, **more}
    metadata = {"backbone": {"spec": backbone, "pretrained": False}, "training": training}
    return save_mask(path, theta=THETA, masks=masks, rest={}, metadata=metadata)


def test_table_1_and_table_3(tmp_path: Path) -> None:
    knn = [0.5, 0.75, 1.0]
    for run, (off, value) in enumerate(zip((2, 4, 6), knn, strict=True)):
        rows = [{"name": "masked", "knn": {"value": value, "low": 0.1, "high": 0.9}}]
        write(tmp_path / f"a{run}.safetensors", off, rows=rows)
    write(tmp_path / "b.safetensors", 10, data="pets")
    write(tmp_path / "c.safetensors", 5, backbone="timm:b")
    found = study([tmp_path])
    table = {row["backbone"]: row for row in found.tables["table1-weights-on"].records()}
    assert table["timm:a"] == {"backbone": "timm:a", "dtd": pytest.approx(80), "pets": pytest.approx(50)}
    assert table["timm:b"]["dtd"] == pytest.approx(75)
    assert table["timm:b"]["pets"] is None
    runs = {(r["backbone"], r["data"], r["figure"]): r for r in found.tables["table3-over-runs"].records()}
    density = runs["timm:a", "dtd", "weights on (%)"]
    assert (density["runs"], density["mean"], density["deviation"]) == (
        3,
        pytest.approx(80),
        pytest.approx(10),
    )
    accuracy = runs["timm:a", "dtd", "rows.masked.knn"]
    assert (accuracy["mean"], accuracy["deviation"]) == (pytest.approx(0.75), pytest.approx(0.25))
    assert runs["timm:a", "pets", "weights on (%)"]["deviation"] is None  # one run says nothing of it
    # The two backbones have tensors of the same names but are compared apart.
    assert [len(chart.data.rows) for chart in found.charts if chart.name.startswith("similarity")] == [6]


def test_objectives_stand_side_by_side(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", 2)
    write(tmp_path / "b.safetensors", 4, objective="supervised")
    chart = next(c for c in study([tmp_path]).charts if c.name == "densities-by-depth")
    assert {row["group"] for row in chart.data.records()} == {"swav", "supervised"}


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "vit_tiny_patch16_224"])
def test_a_mask_of_each_family(name: str, tmp_path: Path) -> None:
    model = timm.create_model(name, pretrained=False, num_classes=0)
    chosen = preset(detect_family(model)).chosen
    owners = {f"{path}.{key}" if path else key: module for path, module in model.named_modules()
              for key, _ in module.named_parameters(recurse=False)}  # fmt: skip
    theta = {n: p.detach() for n, p in model.named_parameters() if chosen(n, p, owners[n])}
    masks = {n: torch.rand(t.shape) < 0.97 for n, t in theta.items()}
    path = save_mask(tmp_path / "m.safetensors", theta=theta, masks=masks, rest={}, packed=True)
    found = study([path])
    subject = found.subjects[0]
    assert subject.density == pytest.approx(0.97, abs=0.002)
    assert sum(layer.weights for layer in subject.layers) == sum(t.numel() for t in theta.values())
    expected = {
        "resnet18": {
            "convolution",
            "downsample convolution",
            "downsample norm weight",
            "downsample norm bias",
        },
        "tf_efficientnet_lite0": {"expansion 1×1", "projection 1×1", "head"},
        "vit_tiny_patch16_224": {"q", "k", "v", "out", "fc1", "fc2"},
    }[name]
    assert {layer.place.kind for layer in subject.layers} == expected
    assert {c.name for c in found.charts} == {"densities-by-depth", "densities-by-stage", "filters"}


@pytest.mark.slow
def test_fifty_masks(tmp_path: Path) -> None:
    for i in range(50):
        write(tmp_path / f"task{i}" / "mask.safetensors", i % 12, data=f"set {i % 7}")
    found = study([tmp_path])
    assert [s.label for s in found.subjects][:3] == ["task0", "task1", "task10"]
    assert len(found.subjects) == 50
    files = found.save(tmp_path / "figures")
    assert {path.suffix for path in files} == {".png", ".svg", ".json", ".csv"}
    table = json.loads((tmp_path / "figures" / "table1-weights-on.json").read_text(encoding="utf-8"))
    assert len(table[0]) == 8
    json.dumps(found.json())


def test_magnitudes_need_the_base(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", 3)
    module = nn.Module()
    for name, t in THETA.items():
        part = nn.Linear(4, t.shape[0], bias=False)
        part.weight = nn.Parameter(t)
        module.add_module(name.removesuffix(".weight"), part)
    with_base = next(c for c in study([path], base_of=lambda mask: module).charts if c.name == "magnitudes-a")
    assert sum(int(row["off"] or 0) for row in with_base.data.records()) == 3

    def refuse(mask) -> nn.Module:
        raise BackboneError("no network here")

    without = study([path], base_of=refuse)
    assert without.notes == ("|θ| of what is off is not shown: no network here",)


def test_what_paths_mean(tmp_path: Path) -> None:
    run = write(tmp_path / "runs" / "one" / "mask.safetensors", 1)
    (run.parent / "checkpoint.safetensors").write_bytes(b"not a mask")
    single = write(tmp_path / "alone.mask.safetensors", 1)
    assert find_masks([run.parent, single, run]) == [run, single]
    assert find_masks([tmp_path / "runs"]) == [run]
    assert labels_for([run, single]) == ["one", "alone"]
    assert labels_for([Path("/a/x/mask.safetensors"), Path("/b/x/mask.safetensors")]) == ["a/x", "b/x"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(MaskFileError, match="no mask file"):
        find_masks([tmp_path / "empty"])
    with pytest.raises(MaskFileError, match="no such file"):
        find_masks([tmp_path / "nowhere"])


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", 3)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(MaskFileError):
        study([path])
