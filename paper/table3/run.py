"""The paper's Table 3 at a budget of minutes: self-masked against conditional and unconditional cascades.

    python paper/table3/run.py --data ../shared/data/cifar10 --out runs/table3 --seeds 0 1 2

One cascade for each seed (`OUT/seed-0` …; a run that was stopped goes on where it was), then
`OUT/table3.json` and the table on the terminal. The settings that are not flags here are the defaults of
`selfmask cascade`.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from selfmask.cascade import CascadeSettings, learn_cascade
from selfmask.errors import RunError
from selfmask.training.folder import read_json, write_json


@dataclass(frozen=True)
class Table3:
    """Learn one cascade a seed and print the table."""

    data: str
    """Images with labels; the labels serve to measure only."""
    out: Path = Path("runs/table3")
    """Folder of the runs and of table3.json."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One cascade each."""
    images: int = 2000
    """Training images."""
    size: int | None = None
    """Pixels of the views. Default: from the images' own size (64 for CIFAR-10)."""
    steps: int = 80
    """Optimizer steps of the dispatcher, and of each expert."""
    experts: int = 5
    """Experts, as in the paper."""
    threads: int | None = None
    """CPU threads."""


def main(settings: Table3) -> None:
    """Run what has not been run yet, and gather."""
    console = Console()
    results: list[dict[str, Any]] = []
    for seed in settings.seeds:
        folder = settings.out / f"seed-{seed}"
        if not (folder / "result.json").is_file():
            run = CascadeSettings(
                data=settings.data, out=folder, images=settings.images, size=settings.size,
                steps=settings.steps, experts=settings.experts, seed=seed, threads=settings.threads,
                resume=(folder / "settings.json").is_file(),
            )  # fmt: skip
            if learn_cascade(run, console=console).interrupted:
                raise RunError("stopped; the same command goes on")
        results.append(read_json(folder / "result.json"))
    table = gather(results)
    table["machine"] = {
        "processor": platform.processor() or platform.machine(),
        "threads": results[0]["threads"],
    }
    table["settings"] = {
        k: str(v) if isinstance(v, Path) else v for k, v in vars(settings).items() if k != "data"
    }
    write_json(settings.out / "table3.json", table)
    show(table, console)


def gather(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of each row's k-NN and probe, and of its differences from
    self-masked.
    """
    by_seed = [{row["name"]: row for row in result["rows"]["rows"]} for result in results]
    rows: list[dict[str, Any]] = []
    for name in by_seed[0]:
        row: dict[str, Any] = {"name": name, "passes": results[0]["passes"][name]}
        for measure in ("knn", "probe"):
            values = [found[name][measure]["value"] for found in by_seed]
            own = [found["self-masked"][measure]["value"] for found in by_seed]
            row[measure] = spread(values)
            row[f"{measure} against self-masked"] = spread([a - b for a, b in zip(values, own, strict=True)])
        rows.append(row)
    return {
        "data": results[0]["data"],
        "backbone": results[0]["backbone"],
        "objective": results[0]["objective"],
        "test images": results[0]["rows"]["images"],
        "rows": rows,
        "experts": [result["experts"] for result in results],
        "clusters": [[cluster["images"] for cluster in result["clusters"]] for result in results],
        "bytes": [result["bytes"] for result in results],
        "storage": [result["storage"] for result in results],
        "seconds": [result["seconds"] for result in results],
    }


def spread(values: list[float]) -> dict[str, Any]:
    """Mean, standard deviation (0 for one value), and the values themselves."""
    return {"mean": mean(values), "deviation": stdev(values) if len(values) > 1 else 0.0, "values": values}


def show(table: dict[str, Any], console: Console) -> None:
    """The table, one row a network."""
    seeds = len(table["rows"][0]["knn"]["values"])
    out = Table(title=f"{table['data']}, {table['backbone']}, {seeds} seeds", title_justify="left")
    for column in ("features", "k-NN", "linear probe", "passes an image"):
        out.add_column(column)
    for row in table["rows"]:
        cells = [f"{row[m]['mean']:.3f} ± {row[m]['deviation']:.3f}" for m in ("knn", "probe")]
        out.add_row(row["name"], *cells, str(row["passes"]))
    console.print(out)


if __name__ == "__main__":
    main(tyro.cli(Table3))
