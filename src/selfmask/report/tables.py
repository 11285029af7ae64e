"""The appendix's tables: percentage of weights on (Table 1), mean and deviation over runs (Table 3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from selfmask.report.charts.chart import Cell, DataTable
from selfmask.report.density import mean_and_deviation
from selfmask.report.subjects import Subject

T = TypeVar("T")

_ACCURACIES = ("knn", "probe", "head", "accuracy", "top1", "validation")


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
