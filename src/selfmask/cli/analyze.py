"""`selfmask analyze`: what one or many masks have in common, from their files alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from selfmask.backbones.spec import backbone_of
from selfmask.cli.output import print_json
from selfmask.maskfile.mask import Mask
from selfmask.report.study import Study, study
from selfmask.report.wording import percent, size


@dataclass(frozen=True)
class AnalyzeSettings:
    """Compare masks: how much is off and where, how alike they are, and the paper's tables over them."""

    masks: tuple[Path, ...]
    """Mask files, cascade files, run folders, or folders of mask files or of run folders."""
    out: Path | None = None
    """Write every figure (PNG, SVG, JSON, CSV) and table (CSV, JSON) into this folder."""
    base: bool = False
    """Also build the backbone, to show how large the weights are that were switched off."""
    weights: Path | None = None
    """The backbone's file of weights, if it had one."""
    json: bool = False
    """Print one JSON document instead of text."""


def run(settings: AnalyzeSettings) -> int:
    """Measure, draw, print."""

    def base(mask: Mask) -> nn.Module:
        return backbone_of(mask, weights=settings.weights).module

    console = Console(stderr=True, quiet=settings.json)
    with console.status("measuring masks"):
        found = study(settings.masks, base_of=base if settings.base else None)
        written = found.save(settings.out) if settings.out is not None else []
    if settings.json:
        print_json({**found.json(), "files": [str(path) for path in written]})
        return 0
    _print(found, Console())
    if settings.out is not None:
        Console().print(f"{len(written)} files in {settings.out}", highlight=False, markup=False)
    return 0


def _print(found: Study, console: Console) -> None:
    table = Table(title=f"{len(found.subjects)} masks", title_justify="left")
    for column in ("mask", "backbone", "data", "objective", "weights off", "file"):
        table.add_column(column, justify="right" if column in ("weights off", "file") else "left")
    for s in found.subjects:
        off = percent(1 - s.density)
        table.add_row(s.label, s.backbone, s.data, s.objective, off, size(s.sizes.get("file", 0)))
    console.print(table)
    for chart in found.charts:
        console.print(f"{chart.title}: {chart.alt}", highlight=False, markup=False)
    for note in found.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
