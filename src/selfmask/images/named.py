"""Finding, fetching and opening the data sets of the catalogue."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.error import HTTPError

from selfmask._common.files import try_to_lock
from selfmask._common.near import aside
from selfmask.errors import DataError
from selfmask.images.catalogue import CATALOGUE, Fetch, NamedData
from selfmask.images.folder import folder_listing
from selfmask.images.layouts import LAYOUTS
from selfmask.images.listing import Listing, Say
from selfmask.images.tables import read_splits

AUTOMATIC_LIMIT = 1000
"""Megabytes up to which a data set is downloaded when it is opened; a larger one only when that is asked for."""

_TIMEOUT = 20.0  # seconds without a byte
_ARCHIVES = (".gz", ".tgz", ".zip")


def data_root(root: str | Path | None = None) -> Path:
    """Where named data sets live: `root`, else $SELFMASK_DATA, else ~/.cache/selfmask/data."""
    chosen = root or os.environ.get("SELFMASK_DATA") or "~/.cache/selfmask/data"
    return Path(chosen).expanduser()


def named_listing(name: str, root: Path, *, download: bool, say: Say, coop: bool = True) -> Listing:
    """The images of a named set, downloaded first where it is not here (and `download` allows).

    `coop`: use the CoOp split file if it is there. Raises `DataError` that says what to put where.
    """
    data = named(name)
    folder = data.find(root)
    if folder is None and (root / name / "train").is_dir():
        return folder_listing(root / name)  # the same images as class folders
    if folder is None:
        offline = os.environ.get("SELFMASK_OFFLINE", "") not in ("", "0")
        if offline or not download or data.megabytes > AUTOMATIC_LIMIT or data.fetch is None:
            raise DataError(f"{name} is not in {root}. {instructions(data, root)}")
        folder = get_named(name, root, say=say)
    listing = LAYOUTS[name](folder)
    if coop and data.coop is not None and (folder / data.coop[0]).is_file():
        listing = listing.resplit(read_splits(folder / data.coop[0]))
        return replace(listing, notes=(*listing.notes, f"Splits: {data.coop[0]}."))
    return listing


def get_named(name: str, root: Path, *, say: Say) -> Path:
    """Download and unpack a named set. Returns its folder.

    An archive that arrived whole in an earlier attempt is not fetched again. Nothing counts before all is unpacked.
    What archives expand to needs no limit: none is unpacked whose digest is not the known one.
    """
    data = named(name)
    if (folder := data.find(root)) is not None:
        return folder
    if data.fetch is None:
        raise DataError(f"{name} cannot be downloaded by this program. {instructions(data, root)}")
    with _alone(root / f".{name}-lock", name, say):
        if (folder := data.find(root)) is not None:  # another process has fetched it meanwhile
            return folder
        say(
            f"Downloading {name} ({_size(data.megabytes)}) to {root / data.folders[0]}; licence: {data.licence}; "
            f"see {data.homepage}"
        )
        return _arrived(data, data.fetch, root)


def _arrived(data: NamedData, fetch: Fetch, root: Path) -> Path:
    arriving = root / f".{data.name}-arriving"
    arriving.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(arriving).free / 1e6) < data.megabytes:
        raise DataError(f"{root} has {_size(free)} free, and {_size(data.megabytes)} are to be downloaded")
    _keep_archives(arriving)
    _fetch(data, fetch, arriving, root)
    for path in (*arriving.glob("*"), *arriving.glob("*/*")):
        if path.suffix in _ARCHIVES:
            path.unlink()
    for child in arriving.iterdir():
        _move_into(child, root / data.below / child.name)
    shutil.rmtree(arriving)
    found = data.find(root)
    if found is None:
        raise DataError(
            f"{root / data.folders[0]} lacks {data.marker} after unpacking. {instructions(data, root)}"
        )
    return found


@contextmanager
def _alone(path: Path, name: str, say: Say) -> Iterator[None]:
    """Inside, no other process fetches `name`: it would take what is half unpacked for all of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = False
    while True:
        with path.open("a+") as lock:
            # Somebody who has just ended may have taken the name away from this very file.
            if try_to_lock(lock) and os.fstat(lock.fileno()).st_nlink:
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return
        if not said:
            say(f"Another process is downloading {name}: waiting for it")
            said = True
        time.sleep(_LOOK)


_LOOK = 1.0
"""Seconds between looks whether the other process has ended."""


def _fetch(data: NamedData, fetch: Fetch, folder: Path, root: Path) -> None:
    try:
        with _timeout(_TIMEOUT):
            fetch(folder)
    except Exception as error:  # whatever the HTTP library and the unpackers raise
        if isinstance(error, HTTPError):
            error.close()
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(
            f"{data.name} did not arrive: {reason}. Try again: what arrived whole is kept. {instructions(data, root)}"
        ) from error


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """torchvision gives its connections no limit, and would wait for a silent server forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _keep_archives(folder: Path) -> None:
    """Remove what an attempt that was interrupted unpacked: torchvision would take half of a set for all of it."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder comes before it
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.suffix not in _ARCHIVES:
            path.unlink()


def _move_into(source: Path, target: Path) -> None:
    """Move a file or folder, into a folder of the same name if there is one already."""
    if source.is_dir() and target.is_dir():
        for child in source.iterdir():
            _move_into(child, target / child.name)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)


def instructions(data: NamedData, root: Path) -> str:
    """What to put where, in one or two sentences."""
    place = root / data.folders[0]
    how = data.by_hand or (
        f"To have it, run `selfmask data get {data.name}` where there is a network, or unpack the archives of the "
        "images and their lists"
    )
    return f"{how} (see {data.homepage}), and put what it holds into {place}, so that {place / data.marker} exists."


def named(name: str) -> NamedData:
    """The catalogue's entry. Raises `DataError` with near misses."""
    if name not in CATALOGUE:
        raise DataError(f"there is no data set called {name!r}{aside(name, sorted(CATALOGUE))}")
    return CATALOGUE[name]


@dataclass(frozen=True)
class Availability:
    """What `selfmask data list` says of a set: what it is, whether and where it is here, what a download would bring.

    download: "when opened", "on request", "by hand" or "none". instructions: what to put where if it is not here.
    """

    name: str
    images: int
    classes: int
    licence: str
    homepage: str
    here: bool
    place: str
    download_bytes: int = 0
    download: str = "none"
    instructions: str | None = None
    coop_split: str | None = None
    coop_link: str | None = None


def overview(root: str | Path | None = None) -> list[Availability]:
    """Every known set, digits first."""
    uci = "https://archive.ics.uci.edu/dataset/80"
    digits = Availability("digits", 1797, 10, "CC BY 4.0", uci, here=True, place="inside scikit-learn")
    return [digits, *(_availability(data, data_root(root)) for data in CATALOGUE.values())]


def _availability(data: NamedData, root: Path) -> Availability:
    place = data.find(root) or (root / data.name if (root / data.name / "train").is_dir() else None)
    automatic = "when opened" if data.megabytes <= AUTOMATIC_LIMIT else "on request"
    split, number = data.coop or (None, None)
    return Availability(
        data.name, data.images, data.classes, data.licence, data.homepage,
        here=place is not None,
        place=str(place or root / data.folders[0]),
        download_bytes=data.megabytes * 10**6,
        download="by hand" if data.fetch is None else automatic,
        instructions=None if place else instructions(data, root),
        coop_split=split,
        coop_link=number and f"https://drive.google.com/file/d/{number}",
    )  # fmt: skip


def _size(megabytes: float) -> str:
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"
