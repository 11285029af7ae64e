"""Main Table 3 and App. Fig. 4: one mask, a cascade of masks, and what its clusters are made of."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from cells import Cell, Found, pick, seeds, spread, table
from rich.console import Console

from selfmask.cascades.cascade_file import load_cascade
from selfmask.cascades.evaluation import measure_cascade
from selfmask.cascades.learning import learn_cascade
from selfmask.cascades.settings import CascadeSettings
from selfmask.reports.chart import Chart
from selfmask.reports.clusters import clusters_chart
from selfmask.run.plan import make_plan
from selfmask.run.result import Cluster

HERE: dict[str, Any] = {
    "objective": "contrast", "images": 1000, "size": 48, "steps": 40, "batch": 32, "statistics": False, "larger": False,
}  # fmt: skip


def cells(numbers: Sequence[int] = (0, 1), data: Sequence[str] = ("signs",)) -> list[Cell]:
    """A dispatcher and five experts each."""
    return [
        Cell(name, "EfficientNet-Lite0", seed, {"recipe": "cascade"}, HERE, how="cascade")
        for name in data
        for seed in numbers
    ]


def learn(cell: Cell, out: Path) -> Found | None:
    """A cascade, measured; None where a signal stopped it: its finished parts are kept."""
    began = time.monotonic()
    folder = out / cell.name
    settings = CascadeSettings(
        out=folder,
        resume=(folder / "settings.json").is_file(),
        **{"evaluate": False, "threads": 1, **cell.asked(out)},
    )
    console = Console(quiet=True)
    learnt = learn_cascade(settings, console=console)
    if learnt.interrupted or learnt.result is None:
        return None
    plan = make_plan(settings)
    cascade = load_cascade(learnt.file)
    rows, passes = measure_cascade(plan, cascade, console, narrow=(128,))
    assert rows is not None
    found = learnt.result
    return {
        "data": cell.data, "backbone": cell.backbone, "seed": cell.seed, **cell.tags, "settings": dict(cell.settings),
        "images": len(plan.train), "test": rows.to_json()["images"], "size": plan.size,
        "rows": {
            row["name"]: {key: row[key]["value"] for key in ("knn", "probe") if row[key]}
            for row in rows.to_json()["rows"]
        },
        "passes": passes, "clusters": msgspec.to_builtins(learnt.clusters), "bytes": found.bytes,
        "seconds": {"training": found.seconds.training, "total": round(time.monotonic() - began, 1)},
        "machine": found.machine, "versions": found.versions,
    }  # fmt: skip


def rows_table(document: Mapping[str, Any]) -> str:
    """Markdown: mean ± standard deviation over the seeds; `earlier` rows keep no single values."""
    rows = [
        [one["data"], one["seeds"], row["name"], row["knn"], row["probe"], str(row["passes"])]
        for one in document.get("earlier", [])
        for row in one["rows"]
    ]
    for data in dict.fromkeys(one["data"] for one in document["cells"]):
        of = pick(document["cells"], data=data)
        rows += [[data, ", ".join(map(str, seeds(of))), *_row(name, of)] for name in of[0]["rows"]]
    return table(["data", "seeds", "features", "k-NN", "linear probe", "passes an image"], rows)


def _row(name: str, of: Sequence[Found]) -> list[str]:
    rows = [one["rows"][name] for one in of]
    figures = [spread([row[key] for row in rows if key in row]) for key in ("knn", "probe")]
    return [name, *figures, str(of[0]["passes"].get(name, 1))]


def figure4(document: Mapping[str, Any]) -> Chart:
    """The clusters' make-up of the first cell."""
    clusters = msgspec.convert(document["cells"][0]["clusters"], list[Cluster])
    return clusters_chart(clusters, "figure4")


def covered_table(document: Mapping[str, Any]) -> str:
    """The share of each cluster's images that its x most common classes make up."""
    counts = (1, 2, 5, 10, 20)
    rows = []
    for of in document["cells"][0]["clusters"]:
        shares = [of["covered"][min(count, len(of["covered"])) - 1] for count in counts]
        rows.append([str(of["expert"] + 1), str(of["images"]), *(f"{share:.3f}" for share in shares)])
    return table(["expert", "images", *(f"{count} most common" for count in counts)], rows)
