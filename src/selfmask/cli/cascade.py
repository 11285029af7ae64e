"""`selfmask cascade`: images in, a cascade of masks out."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from selfmask.analysis import aligned, embed
from selfmask.cascade import (
    MODES,
    CascadeRun,
    CascadeSettings,
    draw_make_up,
    draw_maps,
    learn_cascade,
    load_cascade,
)
from selfmask.cascade.network import DISPATCHER
from selfmask.cli.output import print_json
from selfmask.training import make_plan
from selfmask.training.folder import write_json

__all__ = ["CascadeSettings", "run"]

INTERRUPTED = 130
MAP_IMAGES = 1000  # t-SNE of more takes minutes and shows no more


def run(settings: CascadeSettings) -> int:
    """Run it, and say what came out: a table and the files, or one JSON document."""
    outcome = learn_cascade(settings, console=Console(stderr=True, quiet=settings.json))
    pictures = [] if outcome.interrupted or not settings.pictures else draw(settings, outcome)
    if settings.json:
        print_json(_document(outcome, pictures))
    else:
        report(outcome, pictures, Console())
    return INTERRUPTED if outcome.interrupted else 0


def draw(settings: CascadeSettings, outcome: CascadeRun) -> list[str]:
    """Write the clusters' make-up (figure4) and maps of the embeddings, each as a picture and as data."""
    folder = outcome.folder
    names: list[str] = []
    if any(cluster.covered for cluster in outcome.clusters):
        draw_make_up(outcome.clusters, folder / "figure4.png")
        write_json(folder / "figure4.json", [cluster.to_json() for cluster in outcome.clusters])
        names += ["figure4.png", "figure4.json"]
    plan = make_plan(settings)
    cascade = load_cascade(outcome.file, plan.backbone.module)
    images = plan.train if plan.splits.test is None else plan.splits.test
    images = images.subset(range(min(len(images), MAP_IMAGES)))
    if len(images) < 5:
        return names
    modes = [DISPATCHER, *(mode for mode in MODES if mode in cascade.fusions)]
    found = cascade.embeddings(images, plan.backbone, modes=modes, channels_last=plan.channels_last)
    maps = {mode: embed(x, seed=settings.seed) for mode, x in found.items()}
    maps = {mode: aligned(flat, to=maps[DISPATCHER]) for mode, flat in maps.items()}
    labels = images.labels.clamp(min=0).numpy()
    draw_maps(maps, labels, folder / "embeddings.png")
    data = {mode: flat.round(4).tolist() for mode, flat in maps.items()}
    write_json(folder / "embeddings.json", {"labels": images.labels.tolist(), **data})
    return [*names, "embeddings.png", "embeddings.json"]


def report(outcome: CascadeRun, pictures: list[str], console: Console) -> None:
    """What a person wants to know at the end of a run."""
    if outcome.interrupted:
        console.print("Stopped; go on with the same command and --resume. What is finished is kept.")
        return
    assert outcome.result is not None
    if outcome.rows is not None:
        console.print(outcome.rows.table())
    passes, sizes, storage = (outcome.result[key] for key in ("passes", "bytes", "storage"))
    if passes:
        console.print("forward passes an image: " + ", ".join(f"{name} {n}" for name, n in passes.items()))
    table = Table(title="the file, in bytes", title_justify="left")
    for name in sizes:
        table.add_column(name, justify="right")
    table.add_row(*(f"{size:,}" for size in sizes.values()))
    console.print(table)
    console.print(
        f"{outcome.file}: the masks take {storage['masks']:,} bytes; in {1 + outcome.experts} files of their own "
        f"they take {storage['separate']:,}",
        highlight=False,
        soft_wrap=True,
    )
    if pictures:
        console.print(f"pictures: {', '.join(pictures)}", highlight=False)


def _document(outcome: CascadeRun, pictures: list[str]) -> dict[str, Any]:
    return {
        "folder": str(outcome.folder),
        "interrupted": outcome.interrupted,
        "experts": outcome.experts,
        "cascade": None if outcome.interrupted else str(outcome.file),
        "pictures": pictures,
        "result": None if outcome.result is None else json.loads(json.dumps(dict(outcome.result))),
    }
