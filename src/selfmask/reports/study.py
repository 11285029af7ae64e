"""Everything that can be said of a set of masks from their files alone: `selfmask analyze`."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from selfmask._common.escape import encodable
from selfmask.errors import SelfmaskError
from selfmask.maskfile.mask import Mask
from selfmask.reports.chart import Cell, Chart, DataTable
from selfmask.reports.density import mean_and_deviation
from selfmask.reports.density_chart import depth_chart, stage_chart
from selfmask.reports.filters import filter_chart
from selfmask.reports.magnitude import magnitude_chart, magnitude_profile
from selfmask.reports.similarity import similarity, similarity_chart
from selfmask.reports.subjects import (
    UNKNOWN,
    Subject,
    find_masks,
    labels_for,
    measure_subject,
    open_masks,
)

T = TypeVar("T")

_ACCURACIES = ("knn", "probe", "head", "accuracy", "top1", "validation")
BaseOf = Callable[[Mask], nn.Module]


@dataclass(frozen=True)
class Study:
    """The outcome of `study`: tables and figures by name, and what could not be done, in words."""

    subjects: tuple[Subject, ...]
    tables: dict[str, DataTable]
    charts: tuple[Chart, ...]
    notes: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return {
            "masks": [{"label": s.label, "file": s.path.name, "density": s.density} for s in self.subjects],
            "tables": {name: table.records() for name, table in self.tables.items()},
            "figures": {chart.name: chart.json() for chart in self.charts},
            "notes": list(self.notes),
        }

    def save(self, folder: Path) -> list[Path]:
        """Write every figure (PNG, SVG, JSON, CSV) and table (CSV, JSON) into `folder`; returns the paths."""
        folder.mkdir(parents=True, exist_ok=True)
        written = [path for chart in self.charts for path in chart.save(folder)]
        for name, table in self.tables.items():
            for suffix, text in (
                (".csv", table.csv()),
                (".json", json.dumps(table.records(), indent=1, ensure_ascii=False) + "\n"),
            ):
                path = folder / f"{name}{suffix}"
                path.write_text(encodable(text), encoding="utf-8")
                written.append(path)
        return written


def study(paths: Iterable[Path], base_of: BaseOf | None = None) -> Study:
    """Measure every mask of `paths` and draw what can be drawn.

    Args:
        paths: mask files, run folders, folders of either.
        base_of: makes the base of one mask, for |θ|; what it raises as a `SelfmaskError` becomes a note.
    """
    files = find_masks(paths)
    subjects: list[Subject] = []
    charts: list[Chart] = []
    notes: list[str] = []
    opened = (
        found
        for file, label in zip(files, labels_for(files), strict=True)
        for found in open_masks(file, label)
    )
    for label, mask in opened:
        subject, masks = measure_subject(mask, label)
        subjects.append(subject)
        if base_of is not None:
            taken = {chart.name for chart in charts}
            charts += _magnitudes(subject, masks, _base(base_of, mask, notes), taken)
    if len(subjects) == 1:  # over many masks, the figure by depth says it
        charts += [stage_chart(subjects[0].layers), filter_chart(subjects[0].filters)]
    by_backbone: dict[tuple[str, tuple[str, ...]], list[Subject]] = {}
    for subject in subjects:
        by_backbone.setdefault((subject.backbone, subject.off_bits.names), []).append(subject)
    for number, group in enumerate(by_backbone.values()):
        suffix = f"-{number + 1}" if len(by_backbone) > 1 else ""
        of = group[0].backbone if suffix else ""
        charts.append(depth_chart(_by_objective(group), f"densities-by-depth{suffix}", of))
        if len(group) > 1 and len({s.off_bits.shapes for s in group}) == 1:
            alike = similarity([s.off_bits for s in group], [s.label for s in group])
            charts.append(similarity_chart(alike, f"similarity{suffix}", of))
    if len(by_backbone) > 1:
        notes.append(
            f"masks of {len(by_backbone)} different bases or selections: each is compared with its own kind"
        )
    tables = {
        "masks": summary_table(subjects),
        "table1-weights-on": density_table(subjects),
        "table3-over-runs": runs_table(subjects),
    }
    return Study(tuple(subjects), tables, tuple(charts), tuple(dict.fromkeys(notes)))


def _magnitudes(
    subject: Subject, masks: dict[str, Tensor], base: nn.Module | None, taken: Collection[str]
) -> list[Chart]:
    if base is None:
        return []
    own = "magnitudes-" + re.sub(r"[^\w.]+", "-", encodable(subject.label))
    several = (f"{own}-{number}" for number in itertools.count(2))  # "site 1" and "site-1"
    name = next(name for name in itertools.chain([own], several) if name not in taken)
    return [magnitude_chart(magnitude_profile(masks, dict(base.named_parameters())), name, subject.label)]


def _base(base_of: BaseOf, mask: Mask, notes: list[str]) -> nn.Module | None:
    try:
        return base_of(mask)
    except SelfmaskError as error:
        notes.append(f"|θ| of what is off is not shown: {error}")
        return None


def _by_objective(group: Sequence[Subject]) -> dict[str, list[tuple]]:
    """App. Fig. 3 sets supervised beside self-supervised masks; masks of one objective make one panel."""
    panels: dict[str, list[tuple]] = {}
    for subject in group:
        panels.setdefault(subject.objective, []).append(subject.layers)
    return (
        panels
        if len(panels) > 1
        else {"" if UNKNOWN in panels else next(iter(panels)): next(iter(panels.values()))}
    )


def density_table(subjects: Sequence[Subject]) -> DataTable:
    """App. Table 1: percentage of weights on, a row a backbone, a column a data set (mean over its masks)."""
    data = _unique(subject.data for subject in subjects)
    rows: list[tuple[Cell, ...]] = []
    for backbone in _unique(subject.backbone for subject in subjects):
        cells: list[Cell] = [backbone]
        for name in data:
            found = [100 * s.density for s in subjects if (s.backbone, s.data) == (backbone, name)]
            cells.append(sum(found) / len(found) if found else None)
        rows.append(tuple(cells))
    return DataTable(("backbone", *data), tuple(rows))


def runs_table(subjects: Sequence[Subject]) -> DataTable:
    """App. Table 3: mean and sample deviation (n − 1) over the runs of each backbone, data set and objective.

    The figures are the percentage of weights on and every accuracy that the files' training summaries carry.
    The deviation of a single run is None: one run says nothing of it.
    """
    groups = _unique((s.backbone, s.data, s.objective) for s in subjects)
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        runs = [s for s in subjects if (s.backbone, s.data, s.objective) == group]
        figures: dict[str, list[float]] = {"weights on (%)": [100 * run.density for run in runs]}
        for run in runs:
            for name, value in run.metrics.items():
                if any(word in name.split(".") for word in _ACCURACIES):
                    figures.setdefault(name, []).append(value)
        for name, values in figures.items():
            mean, deviation = mean_and_deviation(values)
            rows.append((*group, name, len(values), mean, deviation if len(values) > 1 else None))
    return DataTable(("backbone", "data", "objective", "figure", "runs", "mean", "deviation"), tuple(rows))


def summary_table(subjects: Sequence[Subject]) -> DataTable:
    """A row a mask: what it is, how much is off, how large its file is."""
    return DataTable(
        ("mask", "backbone", "data", "objective", "weights", "on_percent", "file_bytes"),
        tuple(
            (
                s.label,
                s.backbone,
                s.data,
                s.objective,
                sum(layer.weights for layer in s.layers),
                100 * s.density,
                s.sizes.get("file"),
            )
            for s in subjects
        ),
    )


def _unique(items: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(items))
