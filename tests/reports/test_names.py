"""Names of classes, folders and files are text, never markup: in every figure, in its files and on the page."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch

from selfmask.features.rows import Outcome, Rows
from selfmask.reports.embedding import embedding_chart
from selfmask.reports.page import Material, build_report
from selfmask.reports.reading import read_run
from selfmask.reports.results import result_chart
from selfmask.reports.similarity import OffBits, similarity, similarity_chart
from selfmask.run.curves import draw_curves
from selfmask.run.log import Log

NAMES = [
    "cost $x^{$", "a_b", "[red]x[/red]", "two\nlines", "turn\u202earound", "half\udc80", "\x1b[31m", "<b>&",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_be_drawn_and_written(name: str, tmp_path: Path) -> None:
    masks = [{"w": torch.rand(9) < 0.5} for _ in range(2)]
    rows = Rows.of([Outcome("pretrained", knn=torch.ones(9) > 0), Outcome(name, knn=torch.ones(9) > 0)])
    for chart in (
        embedding_chart({"before": np.random.default_rng(0).normal(size=(6, 2))}, [0, 1] * 3, [name, "b"]),
        similarity_chart(similarity([OffBits.of(m) for m in masks], [name, "b"])),
        result_chart(rows),
    ):
        written = chart.save(tmp_path)
        ElementTree.parse(next(path for path in written if path.suffix == ".svg"))
        json.loads(next(path for path in written if path.suffix == ".json").read_text(encoding="utf-8"))
        for text in (chart.svg(), chart.title, chart.caption, chart.alt):
            assert not {"\u202e", "\x1b", "\udc80"} & set(text)


@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_stand_on_the_page(name: str, tiny_run, tmp_path: Path) -> None:
    for file in ("settings.json", "result.json"):
        content = json.loads((tiny_run.path / file).read_text(encoding="utf-8"))
        content.update(data=name, backbone=name)
        (tiny_run.path / file).write_text(json.dumps(content), encoding="utf-8")
    report = build_report(read_run(tiny_run.path), Material())
    report.save(tmp_path / "page.html")
    assert not {"\u202e", "\x1b", "\udc80"} & set(report.html)
    draw_curves(Log(({"step": 0, "loss": 1.0},)), tmp_path / "curves.png", name)
