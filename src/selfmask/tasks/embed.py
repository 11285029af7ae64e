"""`selfmask embed`: an embedding of every image of a place, into one file."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from rich.console import Console

from selfmask._common.calls import call
from selfmask._common.console import SafeConsole, tell
from selfmask.cascades.fusion import Mode
from selfmask.cluster.connection import connected
from selfmask.cluster.embedding import Workers
from selfmask.cluster.processes import Processes
from selfmask.embeddings.embedder import Embedder, in_parts
from selfmask.embeddings.file import ENDINGS
from selfmask.embeddings.parts import Dtype, Made, Parts, Wanted, check_beside, json_beside
from selfmask.embeddings.record import Record
from selfmask.errors import SettingsError
from selfmask.features.passes import passing
from selfmask.images.every import absolute, every_image, place_of_images
from selfmask.images.listing import Entry
from selfmask.run.process import device_named, use_threads
from selfmask.tasks.embedder import open_embedder
from selfmask.tasks.opening import check_out, check_size, file_of


@dataclass(frozen=True)
class EmbedSettings:
    """Write an embedding of each image: by a mask on its backbone, by a cascade, or by a backbone alone."""

    run: str | None
    """A run's folder, a mask file or a cascade. With --backbone and nothing else by place: the images."""
    images: str | None = None
    """Images: a folder of any depth, a file, a list, tar shards, a data set (see docs/data.md)."""
    out: Path = Path("embeddings.parquet")
    """The file to write: .parquet, or .npy with the names in a .json beside it."""
    float16: bool = False
    """Store half the bytes."""
    mode: Mode | None = None
    """Of a cascade: conditional (two passes an image; the default) or unconditional (a pass for each expert)."""
    size: int | None = None
    """Side of the views in pixels. Default: the one that the mask was learnt at, or the backbone's own."""
    untouched: bool = False
    """By the run's backbone as it was before, which sees images as the run's network does: to compare with."""
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
    ray: str | None = None
    """Embed by several processes or machines: local, or the address of a Ray cluster (see docs/cluster.md)."""
    workers: int | None = None
    """With --ray: processes, of --threads cores each (1 by default). Default: all that there is room for."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("images",)

    def __post_init__(self) -> None:
        shift_images(self)
        check_size(self.size)
        if self.out.suffix not in ENDINGS:
            raise SettingsError(f"{self.out}: the embeddings' file ends in .parquet or .npy")
        check_written(self.out, self.run, self.images, self.weights)
        if self.out.suffix == ".npy":
            check_written(json_beside(self.out), self.run, self.images, self.weights)
            check_beside(self.out)
        if self.workers is not None and (self.ray is None or self.workers < 1):
            raise SettingsError(f"--workers {self.workers}: how many processes --ray uses, 1 or more")


def shift_images(settings: Any) -> None:
    """RUN IMAGES, or with --backbone IMAGES alone: what stands by place means the images then."""
    if settings.images is None and settings.backbone is not None:
        object.__setattr__(settings, "images", settings.run)
        object.__setattr__(settings, "run", None)
    if not settings.images:
        raise SettingsError(f"name the images as well as the network: {settings.run or 'RUN'} IMAGES")


def check_written(out: Path, run: str | None, images: str | None, weights: Path | None) -> None:
    """`check_out` for a command that reads a network and images."""
    network = None if run is None else Path(run)
    check_out(out, mask_file=network, file_of_weights=weights, list_of_images=file_of(images))


@dataclass(frozen=True)
class EmbeddedImages:
    """The file that was written, and what it says of itself. reused: parts of it that an earlier try had made."""

    out: Path
    record: Record
    parts: int
    reused: int

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        return {
            "out": str(self.out), "bytes": self.out.stat().st_size, "parts": self.parts, "reused": self.reused,
            **msgspec.to_builtins(self.record),
        }  # fmt: skip


def run(settings: EmbedSettings, console: Console | None = None) -> EmbeddedImages:
    """Open the network, make what parts are missing, and one file of them.

    What was finished when it was killed is not made again, and the file is the same to the bit: on the CPU with the
    same number of threads. Raises `DataError` where no image can be read.

    >>> written = selfmask.embed("runs/photos", "new/", out="embeddings.parquet")
    >>> written.record.rows, written.record.width
    (3, 1280)
    >>> from pyarrow.parquet import read_table
    >>> read_table("embeddings.parquet").column_names
    ['path', 'embedding']
    """
    assert settings.images is not None
    console = console or SafeConsole(stderr=True)
    dtype: Dtype = "float16" if settings.float16 else "float32"
    use_threads(settings.threads)
    place_of_images(settings.images)  # before the network is built: a slip is told at once
    if settings.ray is None:
        embedder = _opened(settings, settings.device)
        return write_embeddings(embedder, settings.images, settings.out, dtype, console)
    cores = None if settings.workers is None else settings.workers * (settings.threads or 1)
    with connected(settings.ray, cores) as ray:
        # On other machines, and in another folder of this one, a relative path means something else.
        settings = _from_anywhere(settings)
        assert settings.images is not None
        processes = Processes.fitting(ray, settings.workers, settings.threads, settings.device)
        workers = Workers(ray, processes, partial(_opened, settings))
        embedder = _opened(settings, "cpu")  # which tells the parts' names; it embeds nothing
        return write_embeddings(
            embedder, settings.images, settings.out, dtype, console, partial(workers.make, console)
        )


def _opened(settings: EmbedSettings, device: str) -> Embedder:
    return open_embedder(
        settings.run, backbone=settings.backbone, weights=settings.weights, size=settings.size, mode=settings.mode,
        device=device_named(device), download=settings.download, untouched=settings.untouched,
    )  # fmt: skip


def _from_anywhere(settings: EmbedSettings) -> EmbedSettings:
    assert settings.images is not None
    return replace(
        settings,
        run=None if settings.run is None else str(Path(settings.run).absolute()),
        images=absolute(settings.images),
        out=settings.out.absolute(),
        weights=None if settings.weights is None else settings.weights.absolute(),
    )


embed = call(EmbedSettings, run)


Maker = Callable[[Parts, Iterable[Wanted]], Iterator[Made]]
"""Makes the parts that are wanted, and tells of each when it is there."""


def write_embeddings(
    embedder: Embedder, images: str, out: Path, dtype: Dtype, console: Console, maker: Maker | None = None
) -> EmbeddedImages:
    """The embeddings of all `images` as the file `out`; what is left out is said on `console`.

    maker: who makes the parts; None: `embedder`, in this process.
    """
    parts = Parts(out, embedder.made_by.digest, embedder.width, dtype, embedder.cascade is not None)
    record = Record(embedder.made_by, absolute(images), 0, embedder.width, dtype)
    with parts.held():
        paths, reused = make_parts(embedder, images, parts, console, maker)
        record = parts.assemble(paths, record)
    return EmbeddedImages(out, record, len(paths), reused)


def make_parts(
    embedder: Embedder, images: str, parts: Parts, console: Console, maker: Maker | None = None
) -> tuple[list[Path], int]:
    """All parts of `images`, in order, made where they were not there; and how many were there."""
    paths: list[Path] = []
    count, made = sum(1 for _ in every_image(images)), 0
    steps = _steps(embedder.part, images, parts, paths, console, maker or partial(_made_here, embedder))
    for step in passing(steps, count, "embedding"):
        made += not isinstance(step, range)
    return paths, len(paths) - made


def _steps(
    size: int, images: str, parts: Parts, paths: list[Path], console: Console, maker: Maker
) -> Iterator[Sized]:
    """Make and write each part that is not there, and name all of them in `paths`; gives out what each was about."""
    there: deque[range] = deque()

    def wanted() -> Iterator[Wanted]:
        for number, entries in enumerate(in_parts(every_image(images), size)):
            paths.append(path := parts.path(number, entries))
            if path.is_file():
                there.append(range(len(entries)))
            else:
                yield path, entries

    for made in maker(parts, wanted()):
        for one in made.skipped:
            tell(console, f"left out: {one}")
        yield made
    yield from there


def _made_here(embedder: Embedder, parts: Parts, wanted: Iterable[Wanted]) -> Iterator[Made]:
    paths: deque[Path] = deque()

    def entries() -> Iterator[Sequence[Entry]]:
        for path, images in wanted:
            paths.append(path)
            yield images

    for found in embedder.embed_parts(entries()):
        yield parts.made(paths.popleft(), found)
