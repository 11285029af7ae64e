"""What a folder, list or archive holds, before any pixel is read; and from there to image sets."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import torch

from selfmask._common.near import aside
from selfmask._common.units import counted
from selfmask.errors import DataError
from selfmask.images.image_set import UNLABELLED, ImageSet
from selfmask.images.sources import Content, FileSource, Reading, Skipped
from selfmask.images.splits import Splits, stratified

Say = Callable[[str], None]
SPLITS = ("train", "validation", "test")
_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def split_name(word: str) -> str | None:
    """ "train", "validation" or "test" for the usual spellings of them; None for another word."""
    return _SPLIT_NAMES.get(word.strip().lower())


def split_named(file: str) -> str | None:
    """The split that the name of a folder or shard begins with: "train" of train-000.tar."""
    return split_name(re.split(r"[^A-Za-z]", file)[0])


@dataclass(frozen=True)
class Entry:
    """One image: its name, where its pixels are, its class (None: not known), its split (None: not said)."""

    name: str
    content: Content
    label: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Listing:
    """All images of a data set. `classes` fixes the order of the classes where it is not the alphabet's."""

    name: str
    entries: tuple[Entry, ...]
    classes: tuple[str, ...] | None = None
    flips: bool = True
    notes: tuple[str, ...] = ()

    def relabelled(self, labels: dict[str, str]) -> Listing:
        """Only the labels given (by name of the image): all other training images become unlabelled.

        Names are as in the list of images, with or without the leading folder of their split. Images of
        validation and test keep their own labels. Raises `DataError` where an image gets two labels, or another than
        its own beyond training.
        """
        by_name, several = {entry.name: entry for entry in self.entries}, set[str]()
        # Labels are for training, so a short name is that of an image to train on first.
        for entry in sorted(self.entries, key=lambda entry: entry.split != "train"):
            folder, slash, rest = entry.name.partition("/")
            if not slash or entry.split is None or split_named(folder) != entry.split:
                continue
            first = by_name.setdefault(rest, entry)
            if first is not entry and first.split == entry.split:
                several.add(rest)
        _check_known(list(labels), by_name, "the labels name", self.name)
        if unclear := sorted(several & labels.keys()):
            raise DataError(
                f"the labels name {unclear[0]!r}, of which {self.name} has several in one part: say which, as "
                f"{by_name[unclear[0]].name!r}"
            )
        given: dict[str, str] = {}
        for name, label in labels.items():
            entry = by_name[name]
            if given.setdefault(entry.name, label) != label:
                raise DataError(
                    f"the labels name {entry.name!r} twice, as {given[entry.name]!r} and, by {name!r}, as {label!r}"
                )
            if entry.split in SPLITS[1:] and entry.label not in (None, label):
                raise DataError(
                    f"the labels call {entry.name!r} {label!r}, but it is an image of {entry.split} that the data set "
                    f"calls {entry.label!r}: name images to train on alone"
                )
        entries = [
            replace(entry, label=given.get(entry.name, entry.label if entry.split in SPLITS[1:] else None))
            for entry in self.entries
        ]
        return replace(self, entries=tuple(entries))

    def resplit(self, splits: dict[str, tuple[str, str | None]]) -> Listing:
        """Only the images named, in the splits given; a class given beside it replaces the image's own."""
        by_name = {entry.name: entry for entry in self.entries}
        _check_known(list(splits), by_name, "the split file names", self.name)
        entries = [
            replace(by_name[name], split=split, label=label if label is not None else by_name[name].label)
            for name, (split, label) in splits.items()
        ]
        left_out = len(self.entries) - len(entries)
        note = (f"{left_out} images that the split file does not name are left out.",) if left_out else ()
        renamed = any(label is not None for _, label in splits.values())
        classes = None if renamed else self.classes
        return replace(self, entries=tuple(entries), classes=classes, notes=self.notes + note)


def assemble(
    listing: Listing,
    reading: Reading,
    *,
    seed: int,
    test_share: float,
    few: dict[str, str] | None = None,
    say: Say | None = None,
) -> Splits:
    """Decode every image once, leave out what cannot be read, and make the splits.

    Where no entry says its split and there are labels, `test_share` of the labelled images (stratified,
    seeded) are held out for test; 0 holds out nothing. Where validation images exist but no test images,
    they are the
    test set: something has to be evaluated on.

    few: the only labels (class by image name) that training may use. Images that have labels of their own keep
    them for the test set, which then takes none of the images in `few`.
    """
    own = all(entry.split is None for entry in listing.entries) and any(
        entry.label for entry in listing.entries
    )
    if few is not None and not own:
        listing, few = listing.relabelled(few), None
    if not listing.entries:
        raise DataError(f"{listing.name} holds no images")
    entries, skipped, source = _readable(listing, reading, say)
    classes = _classes(listing, entries)
    index = {name: position for position, name in enumerate(classes)}
    whole = ImageSet(
        source,
        names=[entry.name for _, entry in entries],
        labels=[UNLABELLED if entry.label is None else index[entry.label] for _, entry in entries],
        classes=classes,
        name=listing.name,
        flips=listing.flips,
        skipped=skipped,
        positions=[position for position, _ in entries],
    )
    notes = listing.notes + _skip_notes(skipped, len(listing.entries))
    if all(entry.split is None for _, entry in entries):
        return _hold_out(whole, few, seed, test_share, notes)
    if silent := sum(entry.split is None for _, entry in entries):
        notes = (
            *notes,
            f"{counted(silent, 'image')} without a split, beside others that have one: trained on.",
        )
    parts: dict[str, ImageSet | None] = {}
    for split in SPLITS:
        members = [place for place, (_, entry) in enumerate(entries) if (entry.split or "train") == split]
        parts[split] = whole.subset(members) if members else None
    train, validation, test = (parts[split] for split in SPLITS)
    if train is None:
        raise DataError(f"{listing.name} has no training images: all of them are in {_present(parts)}")
    if test is None and validation is not None:
        test, validation = validation, None
        notes = (*notes, "There is no test set: the validation images are used as one.")
    return Splits(train, validation, test, notes)


def _hold_out(
    whole: ImageSet, few: dict[str, str] | None, seed: int, share: float, notes: tuple[str, ...]
) -> Splits:
    """Take a test set from the labelled images, if there are any, then leave training the labels it may use."""
    labels = whole.labels
    if few is not None:
        lost = {skipped.name for skipped in whole.skipped}
        few = {name: label for name, label in few.items() if name not in lost}
        known = {name: place for place, name in enumerate(whole.names)}
        _check_known(list(few), known, "the labels name", whole.name)
        reserved = torch.tensor([known[name] for name in few], dtype=torch.int64)
        labels[reserved] = UNLABELLED
    rest, held = torch.arange(len(whole)), torch.empty(0, dtype=torch.int64)
    if share > 0 and bool((labels != UNLABELLED).any()):
        rest, held = stratified(labels, share, seed)
    train = whole if len(held) == 0 else whole.subset(rest)
    if few is not None:
        strange = [label for label in few.values() if label not in whole.classes]
        if strange:
            raise DataError(f"the labels name the class {strange[0]!r}{aside(strange[0], whole.classes)}")
        index = {name: place for place, name in enumerate(whole.classes)}
        train = train.with_labels(
            torch.tensor([index[few[name]] if name in few else UNLABELLED for name in train.names])
        )
    if len(held) == 0:
        return Splits(train, notes=notes)
    labelled = len(whole.labelled())
    note = f"Test set: {len(held)} of the {labelled} labelled images, held out with seed {seed}."
    return Splits(train, test=whole.subset(held), notes=(*notes, note))


def _check_known(names: Sequence[str], known: Collection[str], who: str, data: str) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise DataError(
            f"{who} {unknown[0]!r}{more}, which {data} does not have{aside(unknown[0], list(known))}. "
            "Names are relative to its folder."
        )


def _reporter(listing: Listing, say: Say) -> Callable[[int], None]:
    """Says how far the first reading is, every few seconds: a hundred thousand photographs take minutes."""
    last = time.monotonic()

    def report(done: int) -> None:
        nonlocal last
        if time.monotonic() - last > 5:
            last = time.monotonic()
            say(f"Reading {listing.name}: {done} of {len(listing.entries)} images")

    return report


def _readable(
    listing: Listing, reading: Reading, say: Say | None
) -> tuple[list[tuple[int, Entry]], tuple[Skipped, ...], FileSource]:
    names = [entry.name for entry in listing.entries]
    _check_unique(listing.name, names)
    source = FileSource([entry.content for entry in listing.entries], names, reading)
    failures = source.unreadable(None if say is None else _reporter(listing, say))
    if len(failures) > reading.skip_limit * len(names) or len(failures) == len(names):
        shown = "; ".join(str(skipped) for skipped in list(failures.values())[:_MOST_NAMED])
        more = f"; and {len(failures) - _MOST_NAMED} more" if len(failures) > _MOST_NAMED else ""
        raise DataError(
            f"{len(failures)} of the {len(names)} images of {listing.name} cannot be read ({shown}{more}): "
            f"more than the limit of {reading.skip_limit:.0%}. "
            "Mend or remove them (open_data(…, reading=Reading(skip_limit=…)) opens what can be read all the same)."
        )
    kept = [(place, entry) for place, entry in enumerate(listing.entries) if place not in failures]
    return kept, tuple(failures.values()), source


def _check_unique(data: str, names: list[str]) -> None:
    if len(set(names)) != len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))
        raise DataError(f"{data} names the image {twice!r} twice: every image must be listed once")


_MOST_DIGITS = 1000
_MOST_NAMED = 50
"""Of a class that is sorted as a number; Python refuses to read some thousands."""


def _classes(listing: Listing, entries: list[tuple[int, Entry]]) -> tuple[str, ...]:
    used = sorted({entry.label for _, entry in entries if entry.label is not None})
    if all(name.isdecimal() and len(name) < _MOST_DIGITS for name in used):
        used.sort(key=int)
    if not used:
        return listing.classes or ()
    classes = listing.classes or tuple(used)
    unknown = [name for name in used if name not in set(classes)]
    if unknown:
        raise DataError(f"{listing.name}: unknown class {unknown[0]!r}{aside(unknown[0], classes)}")
    if len(classes) == 1:
        raise DataError(
            f"{listing.name} has only one class, {classes[0]!r}: labels need two or more. To use the images without "
            "labels, leave the column out of the list, or put 'flat:' before a folder's name."
        )
    trained = {entry.label for _, entry in entries if (entry.split or "train") == "train"} - {None}
    strange = [name for name in used if name not in trained]
    if trained and strange:
        raise DataError(
            f"{listing.name}: no training image has the class {strange[0]!r} that other splits have"
            f"{aside(strange[0], sorted(name for name in trained if name))}"
        )
    return classes


def _skip_notes(skipped: tuple[Skipped, ...], total: int) -> tuple[str, ...]:
    if not skipped:
        return ()
    shown = "; ".join(str(item) for item in skipped[:3])
    more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    return (f"{len(skipped)} of {total} images were skipped as unreadable: {shown}{more}.",)


def _present(parts: dict[str, ImageSet | None]) -> str:
    return " and ".join(split for split, part in parts.items() if part is not None)
