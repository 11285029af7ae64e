"""`selfmask report`: everything about one run on one page that needs nothing else."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from selfmask._common.files import write_atomically
from selfmask.errors import SelfmaskError
from selfmask.reports import sections
from selfmask.reports.before_after import BeforeAfter
from selfmask.reports.chart import Cell, Chart, DataTable
from selfmask.reports.clusters import clusters_chart
from selfmask.reports.density import layers
from selfmask.reports.density_chart import depth_chart, stage_chart
from selfmask.reports.embedding import Method, embedding_of
from selfmask.reports.filters import filter_chart, filter_shares
from selfmask.reports.frame import rendered
from selfmask.reports.headline import Headline, headline, network_bytes
from selfmask.reports.magnitude import magnitude_chart, magnitude_profile
from selfmask.reports.neighbours import Strip
from selfmask.reports.reading import ReadRun
from selfmask.reports.results import result_chart, size_chart
from selfmask.reports.sections import Section
from selfmask.reports.similarity import Similarity, similarity_chart
from selfmask.reports.training import training_chart

MAX_ROWS = 200
"""Rows of a table that the page shows; the CSV beside it has all of them."""


@dataclass(frozen=True)
class Report:
    """The page and the figures on it.

    Attributes:
        html: the whole page.
        charts: its charts, whose numbers `save` writes beside it.
        headline: what stands at its head.
        notes: what the reader was warned of.
    """

    html: str
    charts: tuple[Chart, ...]
    headline: Headline
    notes: tuple[str, ...]

    def save(self, path: Path, data: Path | None = None) -> list[Path]:
        """Write the page, and every figure's files (PNG, SVG, JSON, CSV) into `data` if given."""
        write_atomically(path, self.html.encode())
        return [path, *(file for chart in self.charts for file in (chart.save(data) if data else []))]


@dataclass(frozen=True)
class Material:
    """What the page is made of beside the run's folder; each part may be missing.

    Attributes:
        masks: the masks, where their bits could be read.
        theta: the base's tensors by name, for |θ| of what is off.
        seen: images and features before and after.
        strips: nearest neighbours in `seen`.
        members: how alike the masks of a cascade are.
        method: how `seen` is embedded.
        notes: what could not be had, one sentence each.
    """

    masks: dict[str, Tensor] | None = None
    theta: dict[str, Tensor] | None = None
    seen: BeforeAfter | None = None
    strips: Sequence[Strip] = ()
    members: Similarity | None = None
    method: Method = "tsne"
    notes: Sequence[str] = field(default_factory=tuple)


def build_report(run: ReadRun, material: Material) -> Report:
    """The page of `run`."""
    head = headline(run)
    share = None
    if run.mask is not None:
        total = run.mask.index.weights
        share = 1 - sum(run.mask.on.values()) / total if total else 0.0
    notes = tuple(dict.fromkeys((*run.problems, *warnings_of(run, share), *material.notes)))
    charts: list[Chart] = []
    shown: list[Section] = []

    def add(chart: Chart, link: str = "", *, says: bool = False) -> None:
        charts.append(chart)
        shown.append(sections.of_chart(chart, link, says=says))

    # What the images show comes first, what the weights show last.
    if material.seen is not None and material.strips:
        shown.append(sections.of_neighbours(material.seen, material.strips))
    if run.rows is not None:
        charts.append(result_chart(run.rows))
        shown.append(sections.of_results(run.rows))
    if material.seen is not None and len(material.seen.images) >= 5:
        add(embedding_of(material.seen, material.method), "before and after")
    if (chart := training_chart(run.log)) is not None:
        add(chart, "training")
    if run.result is not None and run.result.cascade is not None:
        add(clusters_chart(run.result.cascade.clusters), "experts")
    if material.members is not None:
        add(similarity_chart(material.members), says=True)
    if material.masks is not None and share:
        found = layers(material.masks)
        add(depth_chart({"": [found]}), "where weights are off")
        add(stage_chart(found))
        if material.theta is not None:
            profile = magnitude_profile(material.masks, material.theta)
            add(magnitude_chart(profile), "which weights", says=True)
        add(filter_chart(filter_shares(material.masks)), says=True)
    if run.mask is not None:
        add(size_chart(run.bytes(), network_bytes(run)), "file size")
    if share is not None:
        shown.append(sections.of_waffle(share))
    shown.append(sections.of_making(run))
    page = rendered(
        "page.html", {"printed": printed, "csv_base64": _csv_base64},
        head=head, sections=shown, notes=notes, max_rows=MAX_ROWS,
    )  # fmt: skip
    return Report(page, tuple(charts), head, notes)


def warnings_of(run: ReadRun, share_off: float | None = None) -> list[str]:
    """Warnings that the run wrote into its result, and what the figures themselves warn of."""
    found = list(run.result.warnings) if run.result is not None else []
    if share_off == 0 and not _an_expert_has_some_off(run):
        found.append(
            "Nothing was switched off: no score has crossed the threshold. More steps or a higher --lr would "
            "let some cross."
        )
    if run.rows is not None:
        named = {row.name: row for row in run.rows.rows}
        masked, moved = named.get("masked"), named.get("statistics only")
        reached = masked.knn if masked is not None else None
        alone = moved.knn if moved is not None else None
        if reached is not None and alone is not None and alone.value >= reached.value:
            found.append(
                "Moving the running statistics alone does as well by k-NN or better: the masks may not be what helps."
            )
        if run.rows.images < 200:
            found.append(f"Only {run.rows.images} test images: the intervals are wide.")
    return found


def _an_expert_has_some_off(run: ReadRun) -> bool:
    """Of a cascade, whose dispatcher's share is told; or it cannot be read, and nothing is claimed."""
    try:
        return run.cascade is not None and any(
            run.cascade.member(1 + k).density() < 1 for k in range(run.cascade.experts)
        )
    except SelfmaskError:
        return True


def printed(table: DataTable, most: int = MAX_ROWS) -> list[tuple[str, ...]]:
    """The first `most` rows as text: numbers of one column with the same decimals, four digits for its largest."""
    rows = table.rows[:most]
    decimals = [_decimals(row[column] for row in rows) for column in range(len(table.columns))]
    return [tuple(_cell(cell, places) for cell, places in zip(row, decimals, strict=True)) for row in rows]


def _decimals(cells: Iterable[Cell]) -> int:
    sizes = [abs(cell) for cell in cells if isinstance(cell, float) and math.isfinite(cell) and cell]
    return max(1, 3 - math.floor(math.log10(max(sizes)))) if sizes else 1


def _cell(cell: Cell, decimals: int) -> str:
    if cell is None:
        return "–"
    return f"{cell:.{decimals}f}" if isinstance(cell, float) else str(cell)


def _csv_base64(table: DataTable) -> str:
    return base64.b64encode(table.csv().encode()).decode()
