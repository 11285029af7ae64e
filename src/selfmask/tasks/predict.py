"""`selfmask predict`: the class of every image of a place, into one table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from rich.console import Console

from selfmask._common.calls import call
from selfmask._common.console import SafeConsole
from selfmask._common.files import written_atomically
from selfmask._common.table import csv_lines
from selfmask.bank.prediction import Prediction, told
from selfmask.cascades.fusion import Mode
from selfmask.embeddings.parts import Parts
from selfmask.embeddings.record import Record
from selfmask.errors import SettingsError
from selfmask.images.every import absolute, place_of_images
from selfmask.run.process import device_named, use_threads
from selfmask.tasks.classifier import Classifier, Method, classifier_of
from selfmask.tasks.embed import check_written, make_parts, shift_images
from selfmask.tasks.embedder import open_embedder
from selfmask.tasks.opening import check_size

TOP = 5
"""Classes that are told of each image."""


@dataclass(frozen=True)
class PredictSettings:
    """Write the class of each image: by the mask's head, by class names (CLIP), or by its nearest labelled images."""

    run: str | None
    """A run's folder, a mask file or a cascade. With --backbone and nothing else by place: the images."""
    images: str | None = None
    """Images: a folder of any depth, a file, a list, tar shards, a data set (see docs/data.md)."""
    out: Path = Path("predictions.csv")
    """The table to write: file, label, probability, and the next four classes with theirs."""
    method: Method | None = None
    """head (the one that was learnt with the mask), text (CLIP, by --classes), knn (labelled images). Default: what
    --classes or --data ask for, else the head where there is one, else knn."""
    data: str | None = None
    """Labelled images for knn. Default: those that the run was trained on."""
    classes: tuple[str, ...] = ()
    """Names of classes, for a CLIP."""
    k: int | None = None
    """Neighbours that vote, for knn. Default: 200."""
    whiten: bool | None = None
    """Neighbours by whitened embeddings. Default: where over a tenth of the variance of those with labels lies in one
    direction."""
    mode: Mode | None = None
    """Of a cascade: conditional (two passes an image; the default) or unconditional (a pass for each expert)."""
    size: int | None = None
    """Side of the views in pixels. Default: the one that the mask was learnt at, or the backbone's own."""
    backbone: str | None = None
    """The backbone, where the mask file does not name it; or with no mask at all."""
    weights: Path | None = None
    """The backbone's file of weights, if it had one."""
    download: bool = False
    """Fetch the backbone that the mask file names where it is not on this machine; without it no host is contacted."""
    threads: int | None = None
    """CPU threads. Default: all cores."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda, mps."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("images",)

    def __post_init__(self) -> None:
        shift_images(self)
        check_size(self.size)
        if self.out.suffix != ".csv":
            raise SettingsError(f"{self.out}: the table of predictions ends in .csv")
        check_written(self.out, self.run, self.images, self.weights)
        check_written(self.out, self.run, self.data, self.weights)
        if self.method not in (None, "text") and self.classes:
            raise SettingsError(f"--classes is for --method text, not {self.method}")
        if self.method not in (None, "knn") and self.data is not None:
            raise SettingsError(f"--data is for --method knn, not {self.method}")
        if self.k is not None and self.k < 1:
            raise SettingsError(f"--k is how many neighbours vote, 1 or more, got {self.k}")
        if self.classes and self.data is not None:
            raise SettingsError("give --classes (CLIP's) or --data (labelled images), not both")


@dataclass(frozen=True)
class Predicted:
    """The table that was written. counts: how many images of each label, the most common first."""

    out: Path
    record: Record
    method: Method
    classes: tuple[str, ...]
    labelled: int
    counts: dict[str, int]
    whitened: bool = False

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        return {
            "out": str(self.out), "images": self.record.images, "rows": self.record.rows, "method": self.method,
            "labelled": self.labelled, "whitened": self.whitened, "classes": list(self.classes), "counts": self.counts,
            "network": str(self.record.made_by), "digest": self.record.made_by.digest,
            "left_out": self.record.left_out, "skipped": msgspec.to_builtins(self.record.skipped),
        }  # fmt: skip


def run(settings: PredictSettings, console: Console | None = None) -> Predicted:
    """Embed the images in parts, as `selfmask embed` does, then classify part by part.

    What was finished when it was killed is not made again. Raises `DataError` where no image can be read.

    >>> found = selfmask.predict("runs/photos", "new/", out="predictions.csv")
    >>> found.method, found.classes, sum(found.counts.values())
    ('head', ('0', '1'), 3)
    """
    assert settings.images is not None
    use_threads(settings.threads)
    place_of_images(settings.images)
    embedder = open_embedder(
        settings.run, backbone=settings.backbone, weights=settings.weights, size=settings.size, mode=settings.mode,
        device=device_named(settings.device), download=settings.download,
    )  # fmt: skip
    classifier = classifier_of(
        embedder, settings.method, network=None if settings.run is None else Path(settings.run), data=settings.data,
        classes=settings.classes, k=settings.k, whiten=settings.whiten,
    )  # fmt: skip
    parts = Parts(
        settings.out, embedder.made_by.digest, embedder.width, "float32", embedder.cascade is not None
    )
    record = Record(embedder.made_by, absolute(settings.images), 0, embedder.width, "float32")
    with parts.held():
        paths, _ = make_parts(embedder, settings.images, parts, console or SafeConsole(stderr=True))
        record = parts.summed(paths, record)
        counts = _write(settings.out, parts, paths, classifier)
        parts.remove()
    return Predicted(
        settings.out,
        record,
        classifier.method,
        classifier.classes,
        classifier.labelled,
        dict(counts.most_common()),
        classifier.whitened,
    )


predict = call(PredictSettings, run)


def _write(out: Path, parts: Parts, paths: list[Path], classifier: Classifier) -> Counter[str]:
    """The table, a part after another; how many images got each label."""
    top, counts = min(TOP, len(classifier.classes)), Counter[str]()
    heads = ["file", "label", "probability"]
    heads += [f"{head}_{rank}" for rank in range(2, top + 1) for head in ("label", "probability")]
    with written_atomically(out) as file:
        file.write(csv_lines([heads]).encode())
        for path in paths:
            names, x = parts.read(path)
            if not names:
                continue
            found = told(classifier(x), classifier.classes, top)
            file.write(csv_lines(map(_row, names, found)).encode())
            counts.update(one.label for one in found)
    return counts


def _row(name: str, found: Prediction) -> list[object]:
    pairs = ((label, f"{probability:.6f}") for label, probability in found.top)
    return [name, *(cell for pair in pairs for cell in pair)]
