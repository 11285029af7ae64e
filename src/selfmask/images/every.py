"""Every image of a place, one after another, whatever its label and its split: for what passes over images once.

`open_data` decodes each image when it opens them and holds all their names, because a training comes back to them.
Here nothing is held but what the place itself makes necessary: the names in one folder, one shard or one list.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from torch import Tensor

from selfmask._common.escape import one_line
from selfmask.errors import DataError
from selfmask.images.decode import EXTENSIONS
from selfmask.images.folder import flat_listing, walk
from selfmask.images.hub_datasets import hf_entries
from selfmask.images.listing import Entry
from selfmask.images.named import data_root, named_listing
from selfmask.images.opening import all_digits, escaped, to_stderr
from selfmask.images.place import Place, place_of, user_path
from selfmask.images.shards import shard_entries
from selfmask.images.sources import Content
from selfmask.images.tables import read_rows

IMAGE = "image"
"""The kind of a place that is one image file; the other kinds are those of `place_of`."""


def every_image(spec: str | Path, *, download: bool = True) -> Iterator[Entry]:
    """The images at `spec`, in an order that is the same each time, without labels.

    `spec` as for `open_data`, or one image file. A folder's images are those at any depth below it, by their relative
    paths; those of a named data set and of a hub's are of all its parts. Nothing is decoded, and a list's files need
    not be there. Without `download` no host is contacted: for what not a user but a file says. Raises `DataError` where
    there is no image.
    """
    with escaped(spec):
        empty = True
        place = place_of_images(spec)
        if place.kind == "hf" and not download:
            raise DataError(f"{spec} may lie on another machine, and a file says so: name it yourself")
        for entry in _named(place, download) if place.kind == "named" else _READERS[place.kind](place):
            empty = False
            yield entry
        if empty:
            raise DataError(f"{spec} holds no images")


def place_of_images(spec: str | Path) -> Place:
    """What `spec` means: see `every_image`. Raises `DataError` where it is a folder or a file that is not there."""
    text = str(spec)
    with suppress(DataError, OSError, ValueError):  # a name that no file can have is for `place_of` to refuse
        path = user_path(text)
        if path.suffix.lower() in EXTENSIONS and path.is_file():
            return Place(IMAGE, text)
    return place_of(spec)


def absolute(spec: str | Path) -> str:
    """`spec` so that it means the same from any folder of this machine."""
    place = place_of_images(spec)
    if place.kind in ("digits", "named", "hf"):
        return str(spec)
    said = "" if place.kind in (IMAGE, "imagefolder") else f"{place.kind}:"
    return f"{said}{user_path(place.what).absolute()}"


def find_images(spec: str | Path, names: Collection[str], *, download: bool) -> dict[str, Content]:
    """Of the images at `spec` those that are called one of `names`, as far as they are there; see `every_image`."""
    place = place_of_images(spec)
    if place.kind in ("imagefolder", "flat"):
        return {
            name: place.path / name
            for name in names
            if _is_inside(name)
            and os.path.isfile(place.path / name)  # False for a name that is too long, too
        }
    wanted, found = set(names), {}
    for entry in every_image(spec, download=download):
        if entry.name in wanted:
            found.setdefault(entry.name, entry.content)
            if len(found) == len(wanted):
                break
    return found


def _is_inside(name: str) -> bool:
    """Whether it is a name that a folder's image may have: what a file says shall not lead out of the folder."""
    path = PurePosixPath(name)
    return (
        not path.is_absolute()
        and ".." not in path.parts
        and "\0" not in name
        and path.suffix.lower() in EXTENSIONS
    )


def _of_folder(place: Place) -> Iterator[Entry]:
    folder, empty = place.path, True
    for path in walk(folder):
        empty = False
        yield Entry(path.relative_to(folder).as_posix(), path)
    if empty:
        flat_listing(folder)  # which says what lies there instead


def _of_list(place: Place) -> Iterator[Entry]:
    for row in read_rows(place.path):
        yield Entry(row.file, place.path.parent / row.file)


def _named(place: Place, download: bool) -> Iterator[Entry]:
    def say(line: str) -> None:
        to_stderr(one_line(line))

    for entry in named_listing(place.what, data_root(), download=download, say=say).entries:
        yield Entry(entry.name, entry.content)


def _digits(place: Place) -> Iterator[Entry]:
    images = all_digits()
    for index, name in enumerate(images.names):
        yield Entry(name, partial(_pixels, images.image(index)))


def _pixels(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


_READERS: dict[str, Callable[[Place], Iterator[Entry]]] = {
    IMAGE: lambda place: iter((Entry(place.path.name, place.path),)),
    "imagefolder": _of_folder,
    "flat": _of_folder,
    "list": _of_list,
    "webdataset": lambda place: shard_entries(place.what),
    "hf": lambda place: hf_entries(place.what),
    "digits": _digits,
}
