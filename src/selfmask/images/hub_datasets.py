"""Hugging Face data sets, through the `datasets` package."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from selfmask._common.escape import printable
from selfmask.errors import DataError, MissingExtraError
from selfmask.images.decode import UnreadableImage
from selfmask.images.listing import Entry, Listing, split_name
from selfmask.images.tables import told


def hf_listing(spec: str) -> Listing:
    """ "NAME" or "NAME@CONFIGURATION", a name on the hub or a local folder: its image and its class column.

    The first column of images is used and the first of class labels (else a column called label, class or
    fine_label, else none). Code from the hub is never run.
    """
    entries: list[Entry] = []
    classes: tuple[str, ...] | None = None
    found = list(_parts(spec))
    known = {key: split for key, *_ in found if (split := split_name(key)) is not None}
    if len(found) > 1 and not known:
        raise DataError(
            f"hf:{spec} has the parts {', '.join(printable([key for key, *_ in found]))}, none of which is train, "
            "validation or test: say which images are which by a list of files"
        )
    left_out = [key for key, *_ in found if len(found) > 1 and key not in known]
    for key, part, image, label in found:
        names = getattr(part.features[label], "names", None) if label is not None else None
        classes = tuple(names) if names else classes
        values = part[label] if label is not None else [None] * len(part)
        if key in left_out:
            continue  # "unsupervised", "extra" and the like
        # One part alone makes no split: its test images are held out from it.
        split = known[key] if len(known) > 1 else None
        entries += [
            Entry(
                _name(key, row),
                partial(_read, part, image, row),
                _class(value, names, f"hf:{spec}, {_name(key, row)}"),
                split,
            )
            for row, value in enumerate(values)
        ]
    notes = (f"not taken: the parts {', '.join(printable(left_out))}.",) if left_out else ()
    return Listing(Path(spec.partition("@")[0]).name, tuple(entries), classes, notes=notes)


def hf_entries(spec: str) -> Iterator[Entry]:
    """The images of all its parts one after another, without classes; nothing is held of them."""
    for key, part, image, _ in _parts(spec):
        for row in range(len(part)):
            yield Entry(_name(key, row), partial(_read, part, image, row))


def _parts(spec: str) -> Iterator[tuple[str, Any, str, str | None]]:
    """Each part: its name, its rows, and the names of their image and class columns."""
    try:
        datasets: Any = import_module("datasets")
    except ImportError as error:
        raise MissingExtraError("hf: needs the package datasets: pip install 'selfmask[datasets]'") from error
    name, _, configuration = spec.partition("@")
    try:
        found: Any = _loaded(datasets, name, configuration or None)
    except (
        Exception
    ) as error:  # the package raises many kinds: no network, no such name, no such configuration
        raise DataError(
            f"hf:{spec} cannot be opened: {' '.join(str(error).split())[:300]} (a data set that is in a folder of "
            "class folders, a list or tar shards can be opened without the hub)"
        ) from error
    for key, part in found.items():
        image, label = _columns(part.features, datasets, spec)
        kept = part.select_columns(
            [image] if label is None else [image, label]
        )  # a row is read with all its columns
        yield str(key), kept.cast_column(image, datasets.Image(decode=False)), image, label


def _loaded(datasets: Any, name: str, configuration: str | None) -> Any:
    """By name of the part: from the hub or a folder of files, or what the package's `save_to_disk` wrote."""
    if (Path(name) / "state.json").is_file():
        return {"train": datasets.load_from_disk(name)}
    if (Path(name) / "dataset_dict.json").is_file():
        return datasets.load_from_disk(name)
    return datasets.load_dataset(name, configuration)


def _name(part: str, row: int) -> str:
    return f"{part}/{row:06d}"


def _columns(features: Any, datasets: Any, spec: str) -> tuple[str, str | None]:
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if not images:
        raise DataError(f"hf:{spec} has no column of images: its columns are {', '.join(features)}")
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    named = [name for name in ("label", "class", "fine_label") if name in features]
    return images[0], next(iter([*(name for name in named if name in labels), *labels, *named]), None)


def _class(value: Any, names: list[str] | None, where: str) -> str | None:
    if names and value in range(len(names)):
        return names[value]
    return None if value == -1 else told(value, where)


def _read(part: Any, column: str, row: int) -> bytes:
    cell = part[row][column]
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise UnreadableImage("the row has no image")
    return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
