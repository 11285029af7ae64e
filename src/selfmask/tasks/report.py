"""`selfmask report`: one self-contained page about a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from selfmask._common.calls import call
from selfmask.errors import SettingsError
from selfmask.reports.embedding import check_method
from selfmask.reports.gather import gather
from selfmask.reports.page import Report, build_report
from selfmask.reports.reading import read_run
from selfmask.run.process import use_threads
from selfmask.tasks.opening import check_out


@dataclass(frozen=True)
class ReportSettings:
    """Write one HTML page about a run: what was learnt, what it brought, how it was made."""

    run: Path
    """The folder of a run (--out of selfmask adapt), finished or interrupted; or a mask file by itself."""
    out: Path | None = None
    """The page. Default: report.html in the run's folder; beside a mask file by itself, NAME.report.html."""
    figures: Path | None = None
    """Also write every figure as PNG, SVG, JSON and CSV into this folder."""
    data: str | None = None
    """Where the images lie now, if not where the run found them."""
    weights: Path | None = None
    """The backbone's file of weights, if it had one and it has moved."""
    download: bool = False
    """Fetch the backbone that the run names where it is not on this machine; without it no host is contacted."""
    images: int = 500
    """How many test images to show in the embedding and to look for neighbours in; 0 shows no image."""
    threads: int | None = None
    """CPU threads. Default: all cores."""
    embedding: Literal["tsne", "umap", "pca"] = "tsne"
    """How features become points in the plane; umap needs the extra of that name."""

    def __post_init__(self) -> None:
        if self.images < 0 or 0 < self.images < 5:
            raise SettingsError(f"--images is 0 or at least 5, got {self.images}")
        check_method(self.embedding)


@dataclass(frozen=True)
class Written:
    """The page that was written, where it is, and all files."""

    out: Path
    page: Report
    files: tuple[Path, ...]

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        return {
            "page": str(self.out),
            "files": [str(path) for path in self.files],
            "title": self.page.headline.title,
            "status": self.page.headline.status,
            "sentence": self.page.headline.sentence,
            "notes": list(self.page.notes),
            "figures": {chart.name: chart.json() for chart in self.page.charts},
        }


def run(settings: ReportSettings) -> Written:
    """Gather, build, write.

    >>> written = selfmask.report("runs/photos", images=0)
    >>> written.out.as_posix()
    'runs/photos/report.html'
    """
    use_threads(settings.threads)
    if settings.out is not None:
        inner = (
            [path for path in settings.run.rglob("*") if path.suffix in _LEARNT]
            if settings.run.is_dir()
            else []
        )
        for path in (settings.run, *inner):
            check_out(settings.out, file_of_the_run=path)
    found = read_run(settings.run)
    material = gather(
        found,
        data=settings.data,
        weights=settings.weights,
        download=settings.download,
        images=settings.images,
        method=settings.embedding,
    )
    page = build_report(found, material)
    alone = settings.run.is_file()  # beside which other masks may lie, and a run's own page
    usual = settings.run.with_suffix(".report.html") if alone else found.path / "report.html"
    out = settings.out or usual
    return Written(out, page, tuple(page.save(out, settings.figures)))


_LEARNT = (".safetensors", ".json", ".jsonl")
"""What a run's folder holds that is not made again."""

report = call(ReportSettings, run)
