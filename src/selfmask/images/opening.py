"""`open_data`: from a few words or a path to train, validation and test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from selfmask._common.escape import lines, one_line
from selfmask.errors import DataError, SelfmaskError, SettingsError
from selfmask.images.folder import flat_listing, folder_listing
from selfmask.images.hub_datasets import hf_listing
from selfmask.images.image_set import ImageSet
from selfmask.images.listing import Listing, Say, assemble
from selfmask.images.named import data_root, named_listing
from selfmask.images.place import Place, place_of
from selfmask.images.shards import shard_listing
from selfmask.images.sources import Reading
from selfmask.images.splits import Splits, stratified
from selfmask.images.tables import list_listing, read_labels, read_splits

_DIGITS_TEST = 797


def to_stderr(message: str) -> None:
    """Where messages go unless told otherwise: standard output may be a JSON document."""
    print(lines(message), file=sys.stderr, flush=True)


def open_data(
    spec: str | Path,
    *,
    split_file: str | Path | None = None,
    labels: str | Path | None = None,
    seed: int = 0,
    test_share: float = 0.2,
    reading: Reading | None = None,
    root: str | Path | None = None,
    download: bool = True,
    say: Say = to_stderr,
) -> Splits:
    """Open images by name or by place.

    spec: the name of a data set ("digits", or a data set's); a folder (see `folder_listing`); a list file
        (.csv, .tsv, .jsonl); or, with what it is said in front: "imagefolder:DIR", "flat:DIR" (all images below
        it, no labels), "list:FILE", "webdataset:SHARDS", "hf:NAME". A folder that has a data set's name is
        written "./NAME".
    split_file: which image is in which split (see `read_splits`), such as a split_zhou_*.json of CoOp.
    labels: a list with the only labels that training may use; all other training images become unlabelled.
    seed, test_share: where the data has labels but no splits, this share is held out for test, stratified.
    root: the folder of the named data sets (None: $SELFMASK_DATA, or ~/.cache/selfmask/data).
    download: whether a named data set of less than 1 GB may be downloaded; `say` is told before it starts.
    Raises `DataError` where there is nothing to open, or where too much of it cannot be read. Names of files and
    classes enter as they are; in what is said, in notes and errors, they are escaped.

    >>> data = open_data("digits")
    >>> data.train, len(data.test)
    (ImageSet('digits': 1000 images, 10 classes, 1000 labelled), 797)
    """
    if not 0 <= test_share < 1:
        raise SettingsError(f"test_share is a share in [0, 1), got {test_share}")

    def tell(line: str) -> None:
        say(one_line(line))

    with escaped(spec):
        place = place_of(spec)
        if place.kind == "digits":
            if labels is not None or split_file is not None:
                raise SettingsError("digits has its own labels and splits: leave labels and split_file out")
            return _digits(seed)
        if place.kind == "named":
            base = data_root(root)
            listing = named_listing(place.what, base, download=download, say=tell, coop=split_file is None)
        else:
            listing = _READERS[place.kind](place)
        if split_file is not None:
            listing = listing.resplit(read_splits(Path(split_file)))
        few = read_labels(Path(labels)) if labels is not None else None
        splits = assemble(listing, reading or Reading(), seed=seed, test_share=test_share, few=few, say=tell)
    return replace(splits, notes=tuple(map(one_line, splits.notes)))


_READERS: dict[str, Callable[[Place], Listing]] = {
    "imagefolder": lambda place: folder_listing(place.path),
    "flat": lambda place: flat_listing(place.path),
    "list": lambda place: list_listing(place.path),
    "webdataset": lambda place: shard_listing(place.what),
    "hf": lambda place: hf_listing(place.what),
}


@contextmanager
def escaped(spec: str | Path) -> Iterator[None]:
    """Errors with names in them (of files, classes), which may be a stranger's, say these escaped."""
    try:
        yield
    except OSError as error:
        raise DataError(one_line(f"{error.filename or spec} cannot be read: {error.strerror}")) from error
    except SelfmaskError as error:
        error.args = (one_line(str(error)),)
        raise


def _digits(seed: int) -> Splits:
    """1 000 to train on and 797 to test on, stratified."""
    whole = all_digits()
    train, test = stratified(whole.labels, _DIGITS_TEST / len(whole), seed)
    return Splits(whole.subset(train), test=whole.subset(test))


def all_digits() -> ImageSet:
    """scikit-learn's handwritten digits: real images that every machine has which can run selfmask.

    1 797 images (UCI, "Optical recognition of handwritten digits", CC BY 4.0); grey 0 … 16 scaled to 0 … 255, uint8
    RGB, 8 × 8 px.
    """
    from sklearn.datasets import load_digits

    flat, target = load_digits(return_X_y=True)
    grey = torch.from_numpy(np.asarray(flat)).view(-1, 8, 8)
    images = (grey * (255 / 16)).round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    return ImageSet.from_array(images, torch.from_numpy(np.asarray(target)), name="digits", flips=False)
