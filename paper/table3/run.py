"""The paper's Table 3 at a budget of minutes: self-masked against conditional and unconditional cascades.

    python paper/table3/run.py --data ../shared/data/cifar10 --out runs/table3 --seeds 0 1 2

One cascade for each seed (`OUT/seed-0` …; a run that was stopped goes on where it was), with its pictures, then
`OUT/table3.json` and the table in Markdown. The settings that are not flags here are the defaults of
`selfmask cascade`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import cyclopts
from rich.console import Console

from selfmask.cascades.cascade_file import load_cascade
from selfmask.cascades.evaluation import measure_cascade
from selfmask.cascades.learning import learn_cascade
from selfmask.cascades.settings import CascadeSettings
from selfmask.errors import DataError, RunError
from selfmask.run.plan import make_plan
from selfmask.run.result import read_json, write_json
from selfmask.tasks.cascade import draw


@dataclass(frozen=True)
class Table3:
    """Learn one cascade a seed and print the table."""

    data: str
    """Images with labels; the labels serve to measure only."""
    out: Path = Path("runs/table3")
    """Folder of the runs and of table3.json."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One cascade each."""
    images: int = 5000
    """Training images."""
    size: int | None = None
    """Pixels of the views. Default: from the images' own size (64 for CIFAR-10)."""
    epochs: float | None = None
    """The dispatcher's passes over the images. Each expert takes as many steps. Default: that of selfmask cascade."""
    lr: float | None = None
    """Peak rate of the scores. Default: from the number of steps."""
    expert_lr: float | None = None
    """Peak rate of the experts' scores. Default: the dispatcher's."""
    experts: int = 5
    """Experts, as in the paper."""
    narrow: tuple[int, ...] = (128,)
    """Widths of the embedding to measure besides the backbone's."""
    threads: int | None = None
    """CPU threads."""


def main(settings: Annotated[Table3, cyclopts.Parameter(name="*")]) -> None:
    """Run what has not been run yet, and gather."""
    console = Console(stderr=True)
    results: list[dict[str, Any]] = []
    for seed in settings.seeds:
        path = settings.out / f"seed-{seed}" / "rows.json"
        if not path.is_file():
            write_json(path, learn(settings, seed, console))
        results.append(read_json(path))
    table = gather(results)
    table["machine"] = results[0]["machine"]
    table["settings"] = {
        k: str(v) if isinstance(v, Path) else v for k, v in vars(settings).items() if k != "data"
    }
    write_json(settings.out / "table3.json", table)
    print(markdown(table))


def learn(settings: Table3, seed: int, console: Console) -> dict[str, Any]:
    """A cascade with its pictures, its result, and the rows that are measured of it."""
    folder = settings.out / f"seed-{seed}"
    run = CascadeSettings(
        data=settings.data, out=folder, images=settings.images, size=settings.size, epochs=settings.epochs,
        lr=settings.lr, expert_lr=settings.expert_lr, experts=settings.experts, seed=seed,
        threads=settings.threads, evaluate=False, resume=(folder / "settings.json").is_file(),
    )  # fmt: skip
    learnt = learn_cascade(run, console=console)
    if learnt.interrupted or learnt.result is None:
        raise RunError("stopped; the same command goes on")
    draw(run, learnt)
    began = time.perf_counter()
    plan = make_plan(run)
    cascade = load_cascade(learnt.file)
    rows, passes = measure_cascade(plan, cascade, console, narrow=settings.narrow)
    if rows is None:
        raise DataError(f"{settings.data} has no labels to measure with")
    found = learnt.result.document()
    seconds = {**found["seconds"], "measuring": round(time.perf_counter() - began, 1)}
    widths = {mode: fusion.width for mode, fusion in cascade.fusions.items()}
    return {
        **found,
        **found["cascade"],
        "rows": rows.to_json(),
        "passes": passes,
        "widths": widths,
        "seconds": {**seconds, "resumed": run.resume},
    }


def gather(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of each row's k-NN and probe, and of its differences from
    self-masked.
    """
    by_seed = [{row["name"]: row for row in result["rows"]["rows"]} for result in results]
    rows: list[dict[str, Any]] = []
    for name in by_seed[0]:
        row: dict[str, Any] = {"name": name, "passes": results[0]["passes"][name]}
        kept = [stored(name, result) for result in results]
        row["bytes"] = {part: round(mean(found[part] for found in kept)) for part in kept[0]}
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
        "expert training": [result["expert_training"] for result in results],
        "seconds": [result["seconds"] for result in results],
    }


def stored(name: str, result: dict[str, Any]) -> dict[str, int]:
    """Bytes that the row's features need beside the backbone: masks, and the router's and fusion's tensors."""
    sizes = result["bytes"]
    network, _, rest = name.partition(", ")
    if network not in result["widths"]:
        return {"masks": sizes["dispatcher"] if network == "self-masked" else 0, "tensors": 0}
    share = int(rest.split()[0]) / result["widths"][network] if rest else 1
    fusion = round(min(share, 1) * sizes[f"fusion, {network}"])
    return {"masks": sizes["dispatcher"] + sizes["experts"], "tensors": sizes["router"] + fusion}


def spread(values: list[float]) -> dict[str, Any]:
    """Mean, standard deviation (0 for one value), and the values themselves."""
    return {"mean": mean(values), "deviation": stdev(values) if len(values) > 1 else 0.0, "values": values}


def markdown(table: dict[str, Any]) -> str:
    """The table, one row a network."""
    lines = [
        "| features | k-NN | linear probe | passes an image | masks | router and fusion |",
        "|---|---|---|---|---|---|",
    ]
    for row in table["rows"]:
        cells = [
            f"{row[measure]['mean']:.3f} ± {row[measure]['deviation']:.3f}" for measure in ("knn", "probe")
        ]
        kept = [
            f"{row['bytes'][part] / 1000:,.0f} kB" if row["bytes"][part] else ""
            for part in ("masks", "tensors")
        ]
        lines.append("| " + " | ".join([row["name"], *cells, str(row["passes"]), *kept]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    cyclopts.run(main)
