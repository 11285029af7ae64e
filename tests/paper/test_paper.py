"""The tables and figures of paper/: each comes again from its committed data; the command lists, stops and goes on."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cells
import full
import make
import pytest
import theorems
import torch
import unlabelled
from cells import Cell, Stretch
from matplotlib.figure import Figure

from selfmask.backbones.spec import build
from selfmask.cascades.settings import CascadeSettings
from selfmask.reports.chart import Chart
from selfmask.run.settings import AdaptSettings

PAPER = Path(make.__file__).parent


@pytest.mark.parametrize("name", make.FOLDERS)
def test_what_is_committed_is_made_of_the_committed_data(name: str) -> None:
    made = make.FOLDERS[name].made(make.document_of(name))
    assert made
    for file, content in made.items():
        path = PAPER / name / file
        if isinstance(content, str):
            assert path.read_text(encoding="utf-8") == content
        else:
            assert make.png(content).startswith(b"\x89PNG")
            assert path.stat().st_size > 10_000
    assert any(isinstance(content, str) and re.search(r"\d", content) for content in made.values())


@pytest.mark.parametrize("name", make.FOLDERS)
def test_a_folder_says_what_the_paper_found_and_what_we_find(name: str) -> None:
    text = (PAPER / name / "README.md").read_text(encoding="utf-8")
    for words in ("**The paper**", "**Here**", "**Data and budget**", "**Verdict**"):
        assert words in text, words
    assert f"python paper/make.py {name}" in text
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in link or (PAPER / name / link).exists(), link


@pytest.mark.parametrize("name", [n for n, f in make.FOLDERS.items() if f.cells()])
def test_the_data_are_those_of_the_cells_that_the_command_runs(name: str) -> None:
    document = json.loads((PAPER / name / "data.json").read_text(encoding="utf-8"))
    asked = make.FOLDERS[name].cells()
    assert len({cell.name for cell in asked}) == len(asked)
    for cell, found in zip(asked, document["cells"], strict=True):
        assert (cell.data, cell.backbone, cell.seed) == (found["data"], found["backbone"], found["seed"])
        assert cell.tags.items() <= found.items()
        known = {k: v for k, v in cell.settings.items() if not isinstance(v, Path)}
        assert json.loads(json.dumps(known)) == found["settings"]


def test_figure_1_learns_and_the_theorems_hold() -> None:
    document = make.document_of("appendix/figure1")
    for configuration in ("standard", "equivalent"):
        runs = cells.pick(document["cells"], configuration=configuration)
        assert all(run["head"] >= run["before"] for run in runs)
    alike = {f"{a} and {b}" for a, b in theorems.ALIKE}
    # Of the flips, since nearly all bits are on in any two masks.
    for names, found in document["pairs"].items():
        assert all((one["flipped agreeing"] == 1) == (names in alike) for one in found), names


def test_each_claim_has_a_figure_of_ours_and_a_link_that_leads_somewhere() -> None:
    page = PAPER.parent / "docs" / "claims.md"
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 11
    for row in rows:
        claim, _, ours, verdict, link = [part.strip() for part in row.strip("|").split("|")]
        assert re.search(r"\d", ours), claim
        assert verdict.split(":")[0].split(",")[0] in ("holds", "does not hold", "not decided"), verdict
        for path in re.findall(r"\]\(([^)#]+)\)", link):
            assert (page.parent / path).exists(), path


def test_the_list_has_each_command_and_its_time(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr("sys.argv", ["make.py", "--dry-run"])
    assert make.main() == 0
    said = capsys.readouterr().out
    assert all(f"python paper/make.py {name}" in said for name in make.FOLDERS)
    assert re.search(r"# [1-9]\d* min in all", said)
    monkeypatch.setattr("sys.argv", ["make.py", "--full", "--dry-run"])
    assert make.main() == 0
    assert "MB to fetch" in capsys.readouterr().out


def tiny(**settings: Any) -> dict[str, Any]:
    return {"images": 40, "size": 16, "batch": 8, "steps": 3, **settings}


def test_a_cell_is_run_once_and_found_densities_are_the_threshold_s(tmp_path: Path) -> None:
    of = [
        unlabelled.learnt("digits", 0, rule, settings=tiny(lr=0.3)) for rule in ("threshold", "top-k found")
    ]
    of = [replace(cell, test=40) for cell in of]
    assert cells.fill(of, tmp_path, Stretch(None))
    first, second = cells.gathered(of, tmp_path)
    assert {"knn", "probe", "density", "layers", "bytes", "packers"} <= first.keys()
    assert abs(first["density"] - second["density"]) < 1e-4
    stamps = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*.json"))]
    assert cells.fill(of, tmp_path, Stretch(None))
    assert stamps == [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*.json"))]


def test_a_stretch_ends_and_the_next_goes_on_to_the_same_masks(tmp_path: Path) -> None:
    settings = tiny(objective="supervised", steps=40)
    cell = Cell("digits", "EfficientNet-Lite0", 0, {"recipe": "tried"}, settings, keep=("layers",), test=40)
    assert cells.fill([cell], tmp_path / "whole", Stretch(None))
    tries = 1
    while not cells.fill([cell], tmp_path / "parts", Stretch(2.0 * tries)):
        tries += 1
        assert tries < 40
    whole, parts = (cells.gathered([cell], tmp_path / part)[0] for part in ("whole", "parts"))
    assert whole["layers"] == parts["layers"]
    assert (whole["before"], whole["head"]) == (parts["before"], parts["head"])


def test_nothing_is_begun_after_the_end(tmp_path: Path) -> None:
    over = Stretch(0.0, began=-1e9)
    assert not cells.fill(unlabelled.rules(), tmp_path, over)
    assert not list(tmp_path.iterdir())


def test_pictures_are_figures_or_charts() -> None:
    kinds = [
        type(content)
        for name, folder in make.FOLDERS.items()
        for content in folder.made(make.document_of(name)).values()
    ]
    assert set(kinds) <= {str, Figure, Chart}


@pytest.mark.slow
def test_key_biases_have_no_gradient_and_the_others_have(shared: Path) -> None:
    """App. Fig. 2: a softmax does not feel what is added to all its entries, so a key's bias stays where it is."""
    weights = shared / "weights/vit_small_patch14_dinov2_224.safetensors"
    module = build("timm:vit_small_patch14_dinov2", weights=weights, image_size=42).module
    module.eval()
    module(torch.rand(4, 3, 42, 42)).square().sum().backward()
    for name, parameter in module.named_parameters():
        if name.endswith("qkv.bias"):
            assert parameter.grad is not None
            query, key, value = (part.abs().max() for part in parameter.grad.chunk(3))
            assert key < 1e-3 * min(query, value), name


def test_the_paper_s_own_scale_is_asked_for_in_settings_that_exist() -> None:
    asked = full.cells()
    assert len({cell.name for cell in asked}) == len(asked)
    for cell in asked:
        kind = CascadeSettings if cell.how == "cascade" else AdaptSettings
        kind(**{"evaluate": False, **cell.asked(Path("runs"))})
        assert full.views(cell) >= 0
        if cell.how == "untouched":  # seen as the masks beside it are
            assert {"preset", "precision"} <= set(cell.settings)
