"""`selfmask report`: one self-contained page about a run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from selfmask.cascade.settings import CascadeSettings
from selfmask.cli.output import print_json
from selfmask.errors import SettingsError
from selfmask.report.gather import gather
from selfmask.report.page.page import build_report
from selfmask.report.run_folder import read_run
from selfmask.run.provenance import command_words
from selfmask.run.settings import AdaptSettings


@dataclass(frozen=True)
class ReportSettings:
    """Write one HTML page about a run: what was learnt, what it brought, how it was made."""

    run: Path
    """The folder of a run (--out of selfmask adapt), finished or interrupted; or a mask file by itself."""
    out: Path | None = None
    """The page. Default: report.html in the run's folder."""
    figures: Path | None = None
    """Also write every figure as PNG, SVG, JSON and CSV into this folder."""
    data: str | None = None
    """Where the images lie now, if not where the run found them."""
    weights: Path | None = None
    """The backbone's file of weights, if it had one and it has moved."""
    images: int = 500
    """How many test images to show in the embedding and to look for neighbours in; 0 shows no image."""
    embedding: Literal["tsne", "umap", "pca"] = "tsne"
    """How features become points in the plane; umap needs the extra of that name."""
    json: bool = False
    """Print one JSON document instead of text."""

    def __post_init__(self) -> None:
        if self.images < 0 or 0 < self.images < 5:
            raise SettingsError(f"--images is 0 or at least 5, got {self.images}")


def run(settings: ReportSettings) -> int:
    """Write the page and say where it is."""
    console = Console(stderr=True, quiet=settings.json)
    found = read_run(settings.run)
    with console.status("looking at the run"):
        material = gather(
            found,
            data=settings.data,
            weights=settings.weights,
            images=settings.images,
            method=settings.embedding,
            command=_command(found.settings),
        )
        page = build_report(found, material)
    out = settings.out or (found.path / "report.html")
    written = page.save(out, settings.figures)
    if settings.json:
        print_json(
            {
                "page": str(out),
                "files": [str(path) for path in written],
                "title": page.headline.title,
                "status": page.headline.status,
                "sentence": page.headline.sentence,
                "notes": list(page.notes),
                "figures": {chart.name: chart.json() for chart in page.charts},
            }
        )
        return 0
    for note in page.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    Console().print(str(out), highlight=False, markup=False, soft_wrap=True)
    return 0


def _command(recorded: dict[str, Any]) -> str | None:
    """The command that gives the recorded settings: only what differs from the defaults."""
    if "data" not in recorded:
        return None
    cascade = "experts" in recorded
    kind = CascadeSettings if cascade else AdaptSettings
    return shlex.join(command_words("cascade" if cascade else "adapt", kind, recorded))
