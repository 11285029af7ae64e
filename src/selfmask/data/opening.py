"""`open_data`: from a few words or a path to train, validation and test."""

from __future__ import annotations

from pathlib import Path

from selfmask.data.digits import digits
from selfmask.data.folder import flat_listing, folder_listing
from selfmask.data.listing import Listing, assemble
from selfmask.data.sources import Reading
from selfmask.data.splits import Splits
from selfmask.data.tables import LIST_SUFFIXES, list_listing, read_labels, read_splits
from selfmask.errors import DataError, SettingsError


def open_data(
    spec: str | Path,
    *,
    split_file: str | Path | None = None,
    labels: str | Path | None = None,
    seed: int = 0,
    test_share: float = 0.2,
    reading: Reading | None = None,
) -> Splits:
    """Open images by name or by place.

    spec: "digits"; a folder (see `folder_listing`); a list file (.csv, .tsv, .jsonl); or one of these with
        what it is said in front: "imagefolder:DIR", "flat:DIR" (all images below it, no labels), "list:FILE".
    split_file: which image is in which split (see `read_splits`).
    labels: a list with the only labels to use; all other training images become unlabelled.
    seed, test_share: where the data has labels but no splits, this share is held out for test, stratified.
    Raises `DataError` where there is nothing to open, or where too much of it cannot be read.
    """
    if not 0 <= test_share < 1:
        raise SettingsError(f"test_share is a share in [0, 1), got {test_share}")
    if str(spec) == "digits":
        if labels is not None or split_file is not None:
            raise SettingsError("digits has its own labels and splits: leave labels and split_file out")
        return digits(seed)
    listing = find_listing(spec)
    if split_file is not None:
        listing = listing.resplit(read_splits(Path(split_file)))
    if labels is not None:
        listing = listing.relabelled(read_labels(Path(labels)))
    return assemble(listing, reading or Reading(), seed=seed, test_share=test_share)


def find_listing(spec: str | Path) -> Listing:
    """What a specification names, before any pixel is read."""
    kind, _, rest = str(spec).partition(":")
    if isinstance(spec, str) and kind == "imagefolder" and rest:
        return folder_listing(Path(rest).expanduser())
    if isinstance(spec, str) and kind == "flat" and rest:
        return flat_listing(Path(rest).expanduser())
    if isinstance(spec, str) and kind == "list" and rest:
        return list_listing(Path(rest).expanduser())
    path = Path(spec).expanduser()
    if not str(spec):
        raise DataError(
            "no data was given: name a folder of images, a list file, or a data set such as 'digits'"
        )
    if path.suffix.lower() in LIST_SUFFIXES and not path.is_dir():
        return list_listing(path)
    return folder_listing(path)
