"""`selfmask cascade`: images in, a cascade of masks out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from selfmask._common.processes import leave_processes
from selfmask.cascade.cascade_file import load_cascade
from selfmask.cascade.evaluation import SELF_MASKED
from selfmask.cascade.fusion import MODES
from selfmask.cascade.learning import CascadeRun, learn_cascade
from selfmask.cascade.network import DISPATCHER
from selfmask.cascade.settings import CascadeSettings as Settings
from selfmask.cli.output import print_json
from selfmask.report.clusters import clusters_chart
from selfmask.report.embedding import aligned, embed, embedding_chart
from selfmask.run.plan import make_plan


@dataclass(frozen=True)
class CascadeSettings(Settings):
    """Learn a dispatcher, a router and experts on your images, in one file."""

    objective_settings: tyro.conf.Suppress[Mapping[str, Any]] = field(default_factory=dict)
    json: bool = False
    """Print one JSON document instead of text."""

    def plain(self) -> Settings:
        """Without what only the command line has."""
        return Settings(**{f.name: getattr(self, f.name) for f in fields(Settings)})


INTERRUPTED = 130
MAP_IMAGES = 1000  # t-SNE of more takes minutes and shows no more
LEAST_MAP_IMAGES = 5  # and of fewer there is none


def run(settings: CascadeSettings) -> int:
    """Run it, and say what came out: a table and the files, or one JSON document."""
    try:
        outcome = learn_cascade(settings.plain(), console=Console(stderr=True, quiet=settings.json))
    finally:
        leave_processes()
    if outcome.result is None and not outcome.interrupted:
        return 0  # one of several processes, and not the first, which says it all
    pictures = [] if outcome.interrupted or not settings.pictures else draw(settings, outcome)
    if settings.json:
        print_json({**outcome.document(), "pictures": pictures})
    else:
        report(outcome, pictures, Console())
    return INTERRUPTED if outcome.interrupted else 0


def draw(settings: Settings, outcome: CascadeRun) -> list[str]:
    """Write the clusters' make-up (figure4) and maps of the embeddings, each as pictures and as data."""
    folder = outcome.folder
    paths: list[Path] = []
    if any(cluster.covered for cluster in outcome.clusters):
        clusters = [asdict(cluster) for cluster in outcome.clusters]
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
    assert outcome.result.cascade is not None
    sizes = outcome.result.bytes
    passes, storage = outcome.result.cascade.passes, outcome.result.cascade.storage
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
