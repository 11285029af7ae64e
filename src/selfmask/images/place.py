"""What the words for data mean, and whether anything is there: without torch, so that a slip costs no wait."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from selfmask._common.near import aside
from selfmask.errors import DataError
from selfmask.images.catalogue import CATALOGUE

LIST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Place:
    """kind: "digits", "named", "imagefolder", "flat", "list", "webdataset" or "hf". what: the name or path of it."""

    kind: str
    what: str

    @property
    def path(self) -> Path:
        """`what` as a path."""
        return user_path(self.what)


def same_data(one: str, other: str) -> bool:
    """Whether both mean the same folder or file: with a slash behind it, relative, or by a link; or are equal words."""
    return _meant(one) == _meant(other)


def _meant(data: str) -> str:
    kind, colon, place = data.rpartition(":")
    place = os.path.expanduser(place)
    return f"{kind}{colon}{os.path.realpath(place)}" if os.path.exists(place) else data


def place_of(spec: str | Path) -> Place:
    """What `spec` means (see `open_data`). Raises `DataError` where it is a folder or a list that is not there.

    Of a data set by name, shards and the hub only their readers know whether they are there.
    """
    if not str(spec):
        raise DataError(
            "no data was given: name a folder of images, a list file, or a data set such as 'digits'"
        )
    kind, _, rest = str(spec).partition(":")
    place = Place("imagefolder", str(spec))
    if isinstance(spec, str):
        if spec == "digits" or spec in CATALOGUE:
            return Place("digits" if spec == "digits" else "named", spec)
        if kind in ("webdataset", "hf") and rest:
            return Place(kind, rest)
        if kind in ("imagefolder", "flat", "list") and rest:
            place = Place(kind, rest)
    try:
        if place.what == str(spec) and place.path.suffix.lower() in LIST_SUFFIXES and not place.path.is_dir():
            place = Place("list", place.what)
        if place.kind == "list":
            check_file(place.path)
        elif (
            isinstance(spec, str) and spec == place.path.name and not place.path.exists()
        ):  # one word: it may have been any of these
            meant = aside(spec, [*names_in(Path()), "digits", *CATALOGUE])
            raise DataError(f"there is no file, folder or data set called {spec!r}{meant}")
        else:
            check_folder(place.path)
    except OSError as error:
        raise DataError(f"{spec} cannot be read: {error.strerror}") from error
    return place


def check_folder(folder: Path) -> None:
    """Raise `DataError` with near misses where `folder` is not a folder."""
    if folder.is_dir():
        return
    if folder.exists():
        raise DataError(f"{folder} is a file, not a folder of images")
    parent = folder.parent
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    missing = folder.relative_to(parent).parts[0]
    here = f"there is no folder {missing!r} here" if parent == Path() else f"{parent} has no {missing!r}"
    said = f"there is no {folder}"
    if folder != parent / missing:
        said += f": {here}"
    elif parent == Path():
        said = here
    raise DataError(f"{said}{aside(missing, names_in(parent))}")


def check_file(path: Path) -> None:
    """Raise `DataError` with near misses where `path` is not a file."""
    if path.is_file():
        return
    if path.is_dir():
        raise DataError(f"{path} is a folder, not a file")
    check_folder(path.parent)
    raise DataError(f"there is no file {path}{aside(path.name, names_in(path.parent))}")


def names_in(folder: Path) -> list[str]:
    """What lies in a folder, sorted; nothing where it cannot be looked into."""
    with suppress(OSError, ValueError):
        return sorted(child.name for child in folder.iterdir())
    return []


def user_path(text: str) -> Path:
    """`text` as a path, ~ read as a home folder. Raises `DataError` where there is no such home."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~NOBODY
        raise DataError(f"there is no {text}: {error}") from error
