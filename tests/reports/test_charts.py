"""Every figure: the numbers behind it, that it draws at both widths without a warning, and its place in a page."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
import torch

from selfmask._common.style import INKS, SERIES
from selfmask.reports.chart import Chart, DataTable
from selfmask.reports.clusters import clusters_chart
from selfmask.reports.density import layers
from selfmask.reports.density_chart import depth_chart, stage_chart
from selfmask.reports.embedding import embedding_of
from selfmask.reports.filters import filter_chart, filter_shares
from selfmask.reports.magnitude import magnitude_chart, magnitude_profile
from selfmask.reports.results import result_chart, size_chart
from selfmask.reports.similarity import OffBits, similarity, similarity_chart
from selfmask.reports.training import smoothed, training_chart
from selfmask.run.log import Log
from selfmask.run.result import Cluster

VIT = {f"blocks.{b}.{rest}": shape for b in range(3) for rest, shape in (
    ("attn.qkv.weight", (6, 2)), ("attn.qkv.bias", (6,)), ("attn.proj.weight", (2, 2)), ("mlp.fc1.weight", (8, 2)),
)}  # fmt: skip
RESNET = {
    "conv1.weight": (4, 3, 3, 3), "layer1.0.conv1.weight": (4, 4, 3, 3), "layer1.0.conv2.weight": (4, 4, 3, 3),
    "layer2.0.conv1.weight": (8, 4, 3, 3), "layer2.0.downsample.0.weight": (8, 4, 1, 1),
    "layer2.0.downsample.1.weight": (8,), "layer2.0.downsample.1.bias": (8,),
}  # fmt: skip


def draw(shapes: dict[str, tuple[int, ...]], seed: int, density: float = 0.8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=generator) < density for name, shape in shapes.items()}


def charts(run) -> dict[str, Chart]:
    learning = training_chart(Log.read(run.path / "log.jsonl"))
    assert learning is not None
    resnets = [draw(RESNET, seed) for seed in range(4)]
    theta = {name: torch.randn(shape) for name, shape in RESNET.items()}
    alike = similarity(
        [OffBits.of(masks) for masks in resnets], ["a", "b", "c", "a very long name of a data set"]
    )
    found = [
        depth_chart(
            {"supervised": [layers(m) for m in resnets], "label-free": [layers(resnets[0])]}, "resnet"
        ),
        depth_chart({"": [layers(draw(VIT, 1))]}, "vit"),
        stage_chart(layers(resnets[0])),
        magnitude_chart(magnitude_profile(resnets[0], theta)),
        filter_chart(filter_shares(draw(RESNET, 1, 0.05))),
        similarity_chart(alike),
        learning,
        result_chart(run.rows),
        size_chart({"masks": 1000, "statistics": 0, "head": 300, "metadata": 200, "file": 1500}, 90_000),
        embedding_of(run.seen(), "pca"),
        clusters_chart([Cluster(0, 9, 9, ("a", "b"), (0.75, 1.0))]),
    ]
    return {chart.name: chart for chart in found}


def test_every_figure_says_in_words_what_it_shows(tiny_run) -> None:
    for chart in charts(tiny_run).values():
        assert chart.title, chart.name
        assert chart.caption.endswith("."), chart.name
        assert len(chart.alt) > 30, chart.name
        assert chart.alt.endswith("."), chart.name
        assert json.loads(json.dumps(chart.json()))["rows"] == chart.data.records()


def test_figures_stand_in_one_page_without_touching_each_other(tiny_run) -> None:
    drawings = [c.svg(w, f"{c.name}-{w}-") for c in charts(tiny_run).values() for w in (336, 720)]
    identifiers = [name for drawing in drawings for name in re.findall(r'\bid="([^"]+)"', drawing)]
    assert len(identifiers) == len(set(identifiers))
    for drawing in drawings:
        used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', drawing))
        assert {one or other for one, other in used} <= set(identifiers)
        assert "<style" not in drawing  # it would reach the whole page
        assert "font-family" not in drawing
        targets = re.findall(r'(?:href|src)="([^"]+)"', drawing)
        assert all(target.startswith(("#", "data:image/png;base64,")) for target in targets)
        themed = re.sub(r"var\(--\w+, #\w+\)", "", drawing)
        assert not any(ink.light in themed for ink in INKS)


def test_shortening_digits_leaves_words_alone() -> None:
    def paint(figure) -> None:
        figure.text(0.12345, 0.5, "0.075 and 3.14159")

    svg = Chart("c", "t", "c", "a", DataTable((), ()), paint).svg()
    assert "0.075 and 3.14159" in svg
    assert not re.search(r"\d\.\d{3}", re.sub(r">[^<]*<", "><", svg))


def test_every_colour_has_a_readable_partner() -> None:
    """WCAG: lines and marks need a contrast of 3 against the page, light and dark."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a: str, b: str) -> float:
        bright, dim = sorted((luminance(a), luminance(b)), reverse=True)
        return (bright + 0.05) / (dim + 0.05)

    inks = {ink.name: ink for ink in INKS}
    for name, needed in {"text": 10, "muted": 4.5, **{ink.name: 2.7 for ink in SERIES}}.items():
        assert contrast(inks[name].light, inks["paper"].light) >= needed, name
        assert contrast(inks[name].dark, inks["paper"].dark) >= needed, name
    assert len({ink.light for ink in INKS}) == len(INKS)


def test_golden_depths_and_stages() -> None:
    masks = {name: torch.ones(shape, dtype=torch.bool) for name, shape in RESNET.items()}
    masks["layer1.0.conv2.weight"][:2] = False
    masks["layer2.0.downsample.1.bias"][0] = False
    chart = depth_chart({"g": [layers(masks)]})
    rows = {(row["kind"], row["depth"]): row["density"] for row in chart.data.records()}
    assert rows == {
        ("convolution", 0): 1.0, ("convolution", 1): 1.0, ("convolution", 2): 0.5, ("convolution", 3): 1.0,
        ("downsample convolution", 3): 1.0, ("downsample norm weight", 3): 1.0, ("downsample norm bias", 3): 0.875,
    }  # fmt: skip
    assert "most is off in the convolution weights at depth 2, 50\N{NO-BREAK SPACE}%." in chart.alt
    stages = stage_chart(layers(masks)).data.records()
    assert [(r["stage"], r["weights"], r["on"]) for r in stages] == [
        ("stem", 108, 108), ("layer1", 288, 216), ("layer2", 336, 335),
    ]  # fmt: skip


def test_golden_filters_and_magnitudes() -> None:
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[0] = False
    mask[1, :2] = False
    (row,) = filter_chart(filter_shares({"fc.weight": mask})).data.records()
    assert (row["filters"], row["max"], row["fully_off"]) == (4, 1.0, 1)
    assert row["median"] == pytest.approx(0.2)
    theta = torch.arange(20.0).reshape(4, 5)
    chart = magnitude_chart(magnitude_profile({"fc.weight": mask}, {"fc.weight": theta}, bins=4))
    assert [(r["weights"], r["off"]) for r in chart.data.records()] == [(5, 5), (5, 2), (5, 0), (5, 0)]
    assert chart.alt.startswith("Small weights were switched off more often")


def test_golden_results_and_sizes(tiny_run) -> None:
    rows = {(r["network"], r["measure"]): r for r in result_chart(tiny_run.rows).data.records()}
    assert len(rows) == 7
    assert rows["masked", "head"]["value"] == 0.7
    assert rows["masked", "knn"]["gain"] == pytest.approx(0.24)
    assert rows["pretrained", "knn"]["gain"] is None
    chart = size_chart({"masks": 1000, "statistics": 0, "head": 300, "file": 1500}, 90_000)
    assert chart.data.rows == (("masks", 1000), ("head", 300), ("file", 1500))
    assert "60 times as much" in chart.caption


def test_golden_similarity_rows() -> None:
    a = {"w": torch.tensor([False, False, True, True])}
    b = {"w": torch.tensor([False, True, False, True])}
    (row,) = similarity_chart(similarity([OffBits.of(a), OffBits.of(b)], "ab")).data.records()
    assert row == {
        "a": "a", "b": "b", "jaccard": pytest.approx(1 / 3), "jaccard_by_chance": pytest.approx(1 / 3),
        "hamming": 0.5, "hamming_by_chance": 0.5,
    }  # fmt: skip


def test_files_beside_a_figure_hold_its_numbers(tiny_run, tmp_path: Path) -> None:
    chart = training_chart(Log.read(tiny_run.path / "log.jsonl"))
    assert chart is not None
    paths = chart.save(tmp_path / "figures")
    assert [path.name for path in paths] == ["training.png", "training.svg", "training.json", "training.csv"]
    with paths[3].open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["loss"]) for line in lines] == [2 / (s + 1) for s in range(0, 30, 3)]
    assert json.loads(paths[2].read_text(encoding="utf-8"))["rows"][1]["off"] == 0.01


def test_csv_keeps_awkward_names() -> None:
    table = DataTable(("name", "value"), (('a "b", c\nd', None), ("é", 0.1)))
    assert list(csv.reader(io.StringIO(table.csv()))) == [
        ["name", "value"],
        ['a "b", c\nd', ""],
        ["é", "0.1"],
    ]


def test_fifty_masks_are_one_legible_matrix() -> None:
    packed = [OffBits.of(draw(RESNET, seed)) for seed in range(50)]
    chart = similarity_chart(similarity(packed, [f"task {i}" for i in range(50)]))
    assert len(chart.data.rows) == 50 * 49 // 2
    assert chart.svg(720).count("task ") == 50
    assert "task " not in chart.svg(336)  # no room for names that could be read: the table has them


def test_running_mean() -> None:
    assert smoothed([0.0, 3.0, 6.0, 3.0], 3) == [0.0, 3.0, 4.0, 3.0]
    assert smoothed([1.0, 2.0], 1) == [1.0, 2.0]


@pytest.mark.parametrize("line", ['{"step": 0}', '{"step": 0, "loss": 1' + "0" * 400 + "}"])
def test_a_log_without_a_known_figure_has_no_chart(tmp_path: Path, line: str) -> None:
    (tmp_path / "log.jsonl").write_text(line + "\n")
    assert training_chart(Log.read(tmp_path / "log.jsonl")) is None
