"""`selfmask cascade`: images in, a cascade of masks out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from selfmask.cascade.cascade_file import load_cascade
from selfmask.cascade.evaluation import SELF_MASKED
from selfmask.cascade.fusion import MODES
from selfmask.cascade.learning import CascadeRun, learn_cascade
from selfmask.cascade.network import DISPATCHER
from selfmask.cascade.settings import CascadeSettings
from selfmask.cli.output import print_json
from selfmask.report.clusters import clusters_chart
from selfmask.report.embedding import aligned, embed, embedding_chart
from selfmask.run.distribution import leave_processes
from selfmask.run.plan import make_plan

__all__ = ["CascadeSettings", "run"]

INTERRUPTED = 130
MAP_IMAGES = 1000  # t-SNE of more takes minutes and shows no more
LEAST_MAP_IMAGES = 5  # and of fewer there is none


def run(settings: CascadeSettings) -> int:
    """Run it, and say what came out: a table and the files, or one JSON document."""
    try:
        outcome = learn_cascade(settings, console=Console(stderr=True, quiet=settings.json))
    finally:
        leave_processes()
    if outcome.result is None and not outcome.interrupted:
        return 0  # one of several processes, and not the first, which says it all
    pictures = [] if outcome.interrupted or not settings.pictures else draw(settings, outcome)
    if settings.json:
        print_json(_document(outcome, pictures))
    else:
        report(outcome, pictures, Console())
    return INTERRUPTED if outcome.interrupted else 0


def draw(settings: CascadeSettings, outcome: CascadeRun) -> list[str]:
    """Write the clusters' make-up (figure4) and maps of the embeddings, each as pictures and as data."""
    folder = outcome.folder
    paths: list[Path] = []
    if any(cluster.covered for cluster in outcome.clusters):
        clusters = [cluster.to_json() for cluster in outcome.clusters]
        paths += clusters_chart(clusters, "figure4").save(folder)
    plan = make_plan(settings)
    cascade = load_cascade(outcome.file, plan.backbone.module)
    images = plan.train if plan.splits.test is None else plan.splits.test
    # Drawn, for the images of a folder stand there class by class.
    generator = torch.Generator().manual_seed(settings.seed)
    images = images.subset(torch.randperm(len(images), generator=generator)[:MAP_IMAGES].sort().values)
    if len(images) >= LEAST_MAP_IMAGES:
        modes = [DISPATCHER, *(mode for mode in MODES if mode in cascade.fusions)]
        found = cascade.embeddings(images, plan.backbone, modes=modes, channels_last=plan.channels_last)
        maps = {mode: embed(x, seed=settings.seed) for mode, x in found.items()}
        panels = {
            SELF_MASKED if mode == DISPATCHER else mode: aligned(flat, to=maps[DISPATCHER])
            for mode, flat in maps.items()
        }
        chart = embedding_chart(panels, images.labels.tolist(), images.classes, name="embeddings")
        paths += chart.save(folder)
    return [path.name for path in paths]


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
    table = Table("part of the file")
    table.add_column("bytes", justify="right")
    for name, size in sizes.items():
        table.add_row("all" if name == "file" else name, f"{size:,}", end_section=name == "metadata")
    console.print(table)
    console.print(
        f"{outcome.file}: the masks take {storage['masks']:,} bytes; in {1 + outcome.experts} files of their own "
        f"they take {storage['separate']:,}",
        highlight=False,
        soft_wrap=True,
    )
    if pictures:
        drawn = [name for name in pictures if name.endswith(".png")]
        console.print(
            f"pictures: {', '.join(drawn)} (and .svg, .csv, .json)", highlight=False, soft_wrap=True
        )


def _document(outcome: CascadeRun, pictures: list[str]) -> dict[str, Any]:
    return {
        "folder": str(outcome.folder),
        "interrupted": outcome.interrupted,
        "experts": outcome.experts,
        "cascade": None if outcome.interrupted else str(outcome.file),
        "pictures": pictures,
        "result": None if outcome.result is None else json.loads(json.dumps(dict(outcome.result))),
    }
