"""WebDataset shards: uncompressed tar files of samples, read in place and in any order.

They are not compressed, so that nothing in them is longer than they are: sparse members, which would be, are refused.
A sample is the files of one key (the name up to its first dot): an image, and its class in KEY.cls, KEY.txt or the
"label" (or "cls", "class") of KEY.json.
"""

from __future__ import annotations

import os
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from glob import glob
from pathlib import Path, PurePosixPath

from selfmask._common.escape import one_line
from selfmask.errors import DataError
from selfmask.images.decode import EXTENSIONS
from selfmask.images.listing import Entry, Listing, split_named
from selfmask.images.place import user_path
from selfmask.images.tables import parsed_json, told

_LABEL_LIMIT = 2**16  # bytes of a .cls, .txt or .json member
_MOST_SHARDS = 100_000
_LABELS = (".cls", ".txt", ".json")
_READ = (*EXTENSIONS, *_LABELS)


@dataclass
class _Sample:
    image: Callable[[], bytes] | None = None
    labels: dict[str, str] = field(default_factory=dict)


def shard_listing(pattern: str) -> Listing:
    """Images of the shards that a pattern names: a folder of .tar files, a tar file, "train-{000..012}.tar", or with
    * and ?. Shards whose names begin with train, val or test make the splits."""
    entries = list(shard_entries(pattern))
    notes: tuple[str, ...] = ()
    silent = next((entry for entry in entries if entry.split is None), None)
    if silent is not None:  # only some of the shards say so: none does
        if any(entry.split is not None for entry in entries):
            shard = one_line(silent.name.rpartition("/")[0])
            notes = (
                f"the splits that the other shards' names say are not taken, since {shard} says none: call it train-… "
                "to keep them.",
            )
        entries = [Entry(entry.name, entry.content, entry.label) for entry in entries]
    return Listing(Path(pattern.split("{")[0].rstrip("-_.*/")).stem or "shards", tuple(entries), notes=notes)


def shard_entries(pattern: str) -> Iterator[Entry]:
    """The same images one after another: no more than the names in one shard are held at a time."""
    paths, empty = _shards(pattern), True
    names = [path.name for path in paths]
    if len(set(names)) < len(names):  # of several folders
        common = os.path.commonpath([path.parent for path in paths])
        names = [Path(os.path.relpath(path, common)).as_posix() for path in paths]
    for path, name in zip(paths, names, strict=True):
        split = split_named(path.stem)
        for key, sample in _samples(path).items():
            if sample.image is not None:
                label = next((sample.labels[k] for k in ("cls", "json", "txt") if k in sample.labels), None)
                empty = False
                yield Entry(f"{name}/{key}", sample.image, label, split)
    if empty:
        raise DataError(f"the {len(paths)} shards of {pattern} hold no images")


def _shards(pattern: str) -> list[Path]:
    place = user_path(pattern)
    if place.is_dir():
        paths = sorted(place.glob("*.tar"))
        if not paths:
            raise DataError(f"{place} holds no .tar files (shards must be uncompressed)")
        return paths
    paths = []
    for part in _expanded(str(place)):
        # A name may have brackets of its own.
        several = re.search(r"[*?\[]", part) and not Path(part).is_file()
        found = sorted(Path(name) for name in glob(part)) if several else [Path(part)]
        if not found or not found[0].is_file():
            raise DataError(f"there is no shard {part}")
        paths += found
    return paths


def _expanded(pattern: str) -> list[str]:
    """ "a-{008..010}.tar" to its three names; other braces are left alone."""
    names = [pattern]
    while match := re.search(r"\{(\d+)\.\.(\d+)\}", names[0]):
        first, last = match.groups()
        count = int(last) - int(first) + 1 if max(len(first), len(last)) < 12 else _MOST_SHARDS + 1
        if not 0 < count * len(names) <= _MOST_SHARDS:
            raise DataError(f"{pattern}: {match[0]} must stand for 1 to {_MOST_SHARDS:,} shards in all")
        numbers = [f"{int(first) + k:0{len(first)}d}" for k in range(count)]
        names = [name.replace(match[0], number, 1) for name in names for number in numbers]
    return names


def _samples(path: Path) -> dict[str, _Sample]:
    samples: dict[str, _Sample] = {}
    others: dict[str, str] = {}
    try:
        stamp = _stamp(path.stat())
        with tarfile.open(path, "r:") as tar:
            members = cache(lambda: {posixpath.normpath(member.name): member for member in tar.getmembers()})
            for named in tar:
                if named.issparse():
                    raise DataError(f"{path} has a sparse member, {named.name!r}: shards hold plain files")
                folder, _, name = posixpath.normpath(named.name).rpartition("/")  # tar of "." writes ./0.png
                if name.startswith("."):  # hidden, as in a folder: what a Mac's tar adds to each file
                    continue
                stem, _, ending = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                ending = ending.lower()
                member = _behind(members, named, path) if f".{ending}" in _READ else named
                if not member.isreg():
                    continue
                if f".{ending}" in EXTENSIONS:
                    sample = samples.setdefault(key, _Sample())
                    if sample.image is not None:
                        raise DataError(
                            f"{path} has two images of one key, {key!r}, of which a sample has one: give the other, "
                            f"{named.name!r}, a name of its own, or an ending that is no image's (.seg)"
                        )
                    sample.image = partial(_read, path, stamp, member.offset_data, member.size)
                elif PurePosixPath(ending).suffix in EXTENSIONS:
                    others.setdefault(key, named.name)
                elif f".{ending}" in _LABELS and member.size <= _LABEL_LIMIT:
                    data = tar.extractfile(member)
                    assert data is not None
                    label = _label(ending, data.read().decode("utf-8", "replace"), f"{path}: {named.name}")
                    if label is not None:
                        samples.setdefault(key, _Sample()).labels[ending] = label
            _check_end(path, tar.offset)
        alone = [name for key, name in others.items() if key not in samples or samples[key].image is None]
        if alone:
            raise DataError(
                f"{path}: a sample's key ends at its name's first dot, so {alone[0]!r}"
                + (f" and {len(alone) - 1} more are" if len(alone) > 1 else " is")
                + " no image of a sample: write them without further dots"
            )
    except DataError:
        raise
    except Exception as error:  # what a header promises beyond all bounds makes tarfile raise anything
        reason = f"{error or type(error).__name__}"
        raise DataError(f"{path} is not an uncompressed tar file, or is damaged: {reason}") from error
    return samples


def _check_end(path: Path, offset: int) -> None:
    """Raises `DataError` where the members end at `offset` (bytes) by anything but an end.

    tarfile stops at a bad header without a word.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(min(offset, size))
        after = file.read(tarfile.BLOCKSIZE)
    # An archive that was ended by nothing at all, as a stream that is still written, is whole as far as it goes.
    if offset > size or after.strip(b"\0"):
        raise DataError(
            f"{path} is damaged, or cut off, after {min(offset, size):,} bytes: fetch or write it again"
        )


def _label(ending: str, text: str, where: str) -> str | None:
    if ending != "json":
        return text.strip() or None
    record = parsed_json(text, where)
    if not isinstance(record, dict):
        return None
    return next((told(record[key], where) for key in ("label", "cls", "class") if key in record), None)


def _behind(
    members: Callable[[], dict[str, tarfile.TarInfo]], member: tarfile.TarInfo, path: Path
) -> tarfile.TarInfo:
    """The member itself, or what it is a link to, which may be a link: tar keeps a file of several names once."""
    found, seen = member, set[str]()
    while found.islnk() or found.issym():
        folder = "" if found.islnk() else posixpath.dirname(found.name)
        target = posixpath.normpath(posixpath.join(folder, found.linkname))
        there = members().get(target)
        if there is None or target in seen:
            raise DataError(
                f"{path}: {member.name!r} is a link to {found.linkname!r}, which the shard does not hold: write it "
                "with the files themselves (tar --dereference)"
            )
        seen.add(target)
        found = there
    return found


def _stamp(found: os.stat_result) -> tuple[int, int]:
    return found.st_mtime_ns, found.st_size


def _read(path: Path, stamp: tuple[int, int], offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        if _stamp(os.fstat(file.fileno())) != stamp:
            raise OSError(f"{path.name} was written anew")
        file.seek(offset)
        return file.read(size)
