"""Finding, fetching and opening the data sets of the catalogue."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfmask._common.near import aside
from selfmask.errors import DataError
from selfmask.images.catalogue import CATALOGUE, NamedData
from selfmask.images.download import Say, fetch, readable, unpack
from selfmask.images.folder import folder_listing
from selfmask.images.listing import Listing
from selfmask.images.tables import read_splits

AUTOMATIC_LIMIT = 10**9
"""Bytes up to which a data set is downloaded when it is opened; a larger one only when that is asked for."""


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
        if offline or not download or data.download_size > AUTOMATIC_LIMIT or not data.downloads:
            raise DataError(f"{name} is not in {root}. {instructions(data, root)}")
        folder = get_named(name, root, say=say)
    listing = data.read(folder)
    if coop and data.coop is not None and (folder / data.coop).is_file():
        note = f"Splits: {data.coop}."
        listing = listing.resplit(read_splits(folder / data.coop))
        return replace(listing, notes=(*listing.notes, note))
    return listing


def get_named(name: str, root: Path, *, say: Say) -> Path:
    """Download and unpack a named set. Returns its folder. Goes on where an earlier attempt stopped."""
    data = named(name)
    if (folder := data.find(root)) is not None:
        return folder
    if not data.downloads:
        raise DataError(f"{name} cannot be downloaded by this program. {instructions(data, root)}")
    folder = root / data.folders[0]
    say(f"{name}: {readable(data.download_size)} to download; licence: {data.licence}; see {data.homepage}")
    try:
        for download in data.downloads:
            archive = fetch(download, folder, say)
            if download.unpack is not None:
                say(f"Unpacking {archive.name}")
                unpack(archive, folder / download.unpack)
                archive.unlink()
    except DataError as error:
        raise DataError(f"{error}. {instructions(data, root)}") from error
    if data.find(root) is None:
        raise DataError(f"{folder} lacks {data.marker} after unpacking. {instructions(data, root)}")
    return folder


def instructions(data: NamedData, root: Path) -> str:
    """What to put where, in one or two sentences."""
    place = root / data.folders[0]
    if data.by_hand is not None:
        return f"{data.by_hand} Put it in {place} so that {place / data.marker} exists (see {data.homepage})."
    files = " and ".join(
        f"{download.url} ({readable(download.size)}{', unpacked' if download.unpack is not None else ''})"
        for download in data.downloads
    )
    how = f"run `selfmask data get {data.name}`, or " if data.download_size > AUTOMATIC_LIMIT else ""
    return f"To have it, {how}put {files} in {place}, so that {place / data.marker} exists."


def named(name: str) -> NamedData:
    """The catalogue's entry. Raises `DataError` with near misses."""
    if name not in CATALOGUE:
        raise DataError(f"there is no data set called {name!r}{aside(name, sorted(CATALOGUE))}")
    return CATALOGUE[name]


def overview(root: str | Path | None = None) -> list[dict[str, Any]]:
    """For each known set: name, images, classes, licence, homepage, whether and where it is here, what would be
    downloaded (bytes), whether on opening or only on request, and its CoOp split file."""
    base = data_root(root)
    rows: list[dict[str, Any]] = [
        {
            "name": "digits",
            "images": 1797,
            "classes": 10,
            "licence": "CC BY 4.0",
            "homepage": "https://archive.ics.uci.edu/dataset/80",
            "here": True,
            "place": "inside scikit-learn",
            "download_bytes": 0,
            "download": "none",
            "instructions": None,
            "coop_split": None,
            "coop_link": None,
        }
    ]
    for data in CATALOGUE.values():
        place = data.find(base) or (base / data.name if (base / data.name / "train").is_dir() else None)
        automatic = "when opened" if data.download_size <= AUTOMATIC_LIMIT else "on request"
        rows.append(
            {
                "name": data.name,
                "images": data.images,
                "classes": data.classes,
                "licence": data.licence,
                "homepage": data.homepage,
                "here": place is not None,
                "place": str(place or base / data.folders[0]),
                "download_bytes": data.download_size,
                "download": automatic if data.downloads else "by hand",
                "instructions": None if place else instructions(data, base),
                "coop_split": data.coop,
                "coop_link": data.coop_link,
            }
        )
    return rows
