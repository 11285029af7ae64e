"""`selfmask search`: the images that are nearest to a query, among those of a file of embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console

from selfmask._common.calls import call
from selfmask._common.console import SafeConsole, tell
from selfmask._common.files import write_atomically
from selfmask._common.table import csv_lines
from selfmask.embeddings.embedder import Embedder, in_parts
from selfmask.embeddings.file import Embeddings, open_embeddings
from selfmask.embeddings.record import MadeBy
from selfmask.embeddings.search import UNASKED, hits, whitening_of
from selfmask.errors import DataError, SettingsError
from selfmask.features.passes import passing
from selfmask.images.every import every_image, find_images, place_of_images
from selfmask.images.sources import Content, Skipped
from selfmask.reports.sheet import MOST_QUERIES, Answer, contact_sheet
from selfmask.run.process import device_named, use_threads
from selfmask.tasks.embedder import reopen
from selfmask.tasks.opening import check_out, file_of

_MANY = 1_000_000


@dataclass(frozen=True)
class SearchSettings:
    """Find the images that are nearest to a query: exactly, by the cosine of their embeddings."""

    embeddings: Path
    """A file that selfmask embed wrote."""
    query: str
    """An image, or a folder (a list, shards …) of them: each is a query."""
    k: int = 10
    """How many images to tell of each query."""
    whiten: bool | None = None
    """Compare whitened embeddings: no direction of those searched counts more than another. Default: where over a tenth
    of their variance lies in one direction, of 100 000 embeddings at most."""
    out: Path | None = None
    """Also write a contact sheet (.html) or a table (.csv)."""
    images: str | None = None
    """Where the images lie now that were embedded, for the contact sheet. Default: where they lay then."""
    run: Path | None = None
    """The network that made the embeddings (a run's folder, a mask file or a cascade), if it has moved."""
    backbone: str | None = None
    """The backbone, where the network's file does not name it."""
    weights: Path | None = None
    """The backbone's file of weights, if it had one and it has moved."""
    download: bool = False
    """Fetch the backbone that the file names where it is not on this machine; without it no host is contacted."""
    threads: int | None = None
    """CPU threads. Default: all cores."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda, mps."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise SettingsError(f"--k is how many images are told of each query, 1 or more, got {self.k}")
        if self.out is not None:
            if self.out.suffix not in (".html", ".csv"):
                raise SettingsError(f"{self.out}: a contact sheet ends in .html, a table in .csv")
            check_out(
                self.out, file_of_embeddings=self.embeddings, query=file_of(self.query), mask_file=self.run,
                file_of_weights=self.weights, list_of_images=file_of(self.images),
            )  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What was found. searched: how many images. left_out: queries that could not be read.

    notes: what a reader should know.
    """

    embeddings: Path
    searched: int
    made_by: MadeBy
    answers: tuple[Answer, ...]
    left_out: tuple[Skipped, ...]
    notes: tuple[str, ...]
    out: Path | None

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        return {
            "embeddings": str(self.embeddings), "searched": self.searched, "digest": self.made_by.digest,
            "network": str(self.made_by), "answers": msgspec.to_builtins(self.answers),
            "left_out": msgspec.to_builtins(self.left_out), "notes": list(self.notes),
            "out": None if self.out is None else str(self.out),
        }  # fmt: skip


def run(settings: SearchSettings, console: Console | None = None) -> Found:
    """Embed the queries by the network that made the embeddings, and look at every one of these.

    Raises `SettingsError` where the network is another, `DataError` where no query can be read or the file is damaged.

    >>> selfmask.embed("runs/photos", "new/", out="embeddings.parquet").out.name
    'embeddings.parquet'
    >>> answer = selfmask.search("embeddings.parquet", "new/a.png", k=2).answers[0]
    >>> [(hit.path, round(hit.similarity, 3)) for hit in answer.found][:1]
    [('a.png', 1.0)]
    """
    use_threads(settings.threads)
    opened = open_embeddings(settings.embeddings)
    place_of_images(settings.query)
    embedder = reopen(
        opened.record.made_by, settings.run, backbone=settings.backbone, weights=settings.weights,
        device=device_named(settings.device), download=settings.download, where=settings.embeddings,
    )  # fmt: skip
    names, x, contents, left_out = _queries(embedder, settings.query)
    for one in left_out:
        tell(console or SafeConsole(stderr=True), f"left out: {one}")
    whitening = whitening_of(opened, settings.whiten)
    answers = tuple(map(Answer, names, hits(opened, x, settings.k, whitening=whitening)))
    notes = [_large(len(opened))] if len(opened) > _MANY else []
    if whitening is not None and settings.whiten is None:
        notes.append(
            f"compared whitened, since the first direction of these embeddings holds {100 * whitening.first:.0f} % of "
            "their variance; --no-whiten compares them as they are"
        )
    if settings.whiten is None and len(opened) > UNASKED:
        notes.append(
            f"compared as they are: over {UNASKED:,} embeddings are whitened where --whiten asks for it"
        )
    found = Found(
        opened.path, len(opened), opened.record.made_by, answers, left_out, tuple(notes), settings.out
    )
    if settings.out is not None:
        write_atomically(settings.out, _written(settings, opened, found, contents).encode())
    return found


search = call(SearchSettings, run)


def _large(count: int) -> str:
    return (
        f"all {count:,} embeddings were looked at, so this is exact, and takes seconds; an approximate index of "
        "your own would answer sooner"
    )


def _queries(
    embedder: Embedder, spec: str
) -> tuple[list[str], torch.Tensor, dict[str, Content], tuple[Skipped, ...]]:
    """Names, embeddings (Q, width) and places of the queries, and those that could not be read."""
    entries = list(every_image(spec))
    parts = list(passing(embedder.embed_parts(in_parts(entries, embedder.part)), len(entries), "queries"))
    names = [name for part in parts for name in part.names]
    left_out = tuple(one for part in parts for one in part.skipped)
    if not names:
        shown = "; ".join(map(str, left_out[:3]))
        raise DataError(f"none of the {len(left_out)} queries of {spec} can be read ({shown})")
    return names, torch.cat([part.x for part in parts]), {e.name: e.content for e in entries}, left_out


def _written(settings: SearchSettings, opened: Embeddings, found: Found, queries: dict[str, Content]) -> str:
    """The contact sheet or the table."""
    assert settings.out is not None
    if settings.out.suffix == ".csv":
        return csv_lines([("query", "rank", "similarity", "path"), *_rows(found.answers)])
    shown = found.answers[:MOST_QUERIES]
    wanted = {hit.path for answer in shown for hit in answer.found}
    try:
        where = settings.images or opened.record.images
        images = find_images(where, wanted, download=settings.images is not None)
    except DataError:
        if settings.images is not None:
            raise
        images = {}  # the sheet says that they are not there
    return contact_sheet(
        found.answers,
        queries,
        images,
        searched=found.searched,
        network=found.made_by.short,
        notes=found.notes,
    )


def _rows(answers: Sequence[Answer]) -> list[tuple[str, int, float, str]]:
    return [
        (answer.query, rank, round(hit.similarity, 6), hit.path)
        for answer in answers
        for rank, hit in enumerate(answer.found, 1)
    ]
