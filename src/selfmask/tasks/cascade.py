"""`selfmask cascade`: images in, a cascade of masks and its pictures out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from selfmask._common.calls import call
from selfmask.cascades.cascade_file import load_cascade
from selfmask.cascades.evaluation import SELF_MASKED
from selfmask.cascades.fusion import MODES
from selfmask.cascades.learning import CascadeRun, learn_cascade
from selfmask.cascades.network import DISPATCHER
from selfmask.cascades.settings import CascadeSettings
from selfmask.images.splits import at_most
from selfmask.reports.clusters import clusters_chart
from selfmask.reports.embedding import aligned, embed, embedding_chart
from selfmask.run.plan import make_plan

MAP_IMAGES = 1000  # t-SNE of more takes minutes and shows no more
LEAST_MAP_IMAGES = 5  # and of fewer there is none


@dataclass(frozen=True)
class DrawnCascade:
    """A cascade, and the names of the pictures in its folder."""

    run: CascadeRun
    pictures: tuple[str, ...] = ()

    @property
    def interrupted(self) -> bool:
        """Whether a signal stopped it."""
        return self.run.interrupted

    @property
    def silent(self) -> bool:
        """Whether this is one of several processes, and not the first, which says it all."""
        return self.run.result is None and not self.run.interrupted

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        return {**self.run.document(), "pictures": list(self.pictures)}


def run(settings: CascadeSettings, console: Console | None = None) -> DrawnCascade:
    """Learn it, and draw it where it is finished and pictures are wanted.

    >>> drawn = selfmask.cascade("photos/", experts=2, size=32, steps=2, threads=1, evaluate=False, pictures=False)
    >>> drawn.run.file.as_posix(), drawn.run.experts <= 2
    ('runs/photos-cascade/cascade.safetensors', True)
    """
    outcome = learn_cascade(settings, console=console)
    if outcome.result is None or not settings.pictures:
        return DrawnCascade(outcome)
    return DrawnCascade(outcome, tuple(draw(settings, outcome)))


cascade = call(CascadeSettings, run)


def draw(settings: CascadeSettings, outcome: CascadeRun) -> list[str]:
    """Write the clusters' make-up (figure4) and maps of the embeddings, each as pictures and as data."""
    folder = outcome.folder
    paths: list[Path] = []
    if any(cluster.covered for cluster in outcome.clusters):
        paths += clusters_chart(outcome.clusters, "figure4").save(folder)
    plan = make_plan(settings)
    cascade = load_cascade(outcome.file)
    images = plan.train if plan.splits.test is None else plan.splits.test
    # Drawn, for the images of a folder stand there class by class.
    images = at_most(images, MAP_IMAGES, settings.seed)
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
