"""WebDataset shards: uncompressed tar files of samples, read in place and in any order.

A sample is the files of one key (the name up to its first dot): an image, and its class in KEY.cls, KEY.txt or the
"label" (or "cls", "class") of KEY.json.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path

from selfmask.errors import DataError
from selfmask.images.decode import EXTENSIONS
from selfmask.images.listing import Entry, Listing, split_name

_LABEL_LIMIT = 2**16  # bytes of a .cls, .txt or .json member


@dataclass
class _Sample:
    image: Callable[[], bytes] | None = None
    labels: dict[str, str] = field(default_factory=dict)


def shard_listing(pattern: str) -> Listing:
    """Images of the shards that a pattern names: a folder of .tar files, a tar file, "train-{000..012}.tar", or with
    * and ?. Shards whose names begin with train, val or test make the splits."""
    entries: list[Entry] = []
    paths = _shards(pattern)
    for path in paths:
        split = split_name(re.split(r"[^A-Za-z]", path.stem)[0])
        for key, sample in _samples(path).items():
            if sample.image is not None:
                label = next((sample.labels[k] for k in ("cls", "json", "txt") if k in sample.labels), None)
                entries.append(Entry(f"{path.name}/{key}", sample.image, label, split))
    if not entries:
        raise DataError(f"the {len(paths)} shards of {pattern} hold no images")
    if any(entry.split is None for entry in entries):  # only some of the shards say so: none does
        entries = [Entry(entry.name, entry.content, entry.label) for entry in entries]
    return Listing(Path(pattern.split("{")[0].rstrip("-_.*/")).stem or "shards", tuple(entries))


def _shards(pattern: str) -> list[Path]:
    place = Path(pattern).expanduser()
    if place.is_dir():
        paths = sorted(place.glob("*.tar"))
        if not paths:
            raise DataError(f"{place} holds no .tar files (shards must be uncompressed)")
        return paths
    paths = []
    for part in _expanded(str(place)):
        found = sorted(Path(name) for name in glob(part)) if re.search(r"[*?\[]", part) else [Path(part)]
        if not found or not found[0].is_file():
            raise DataError(f"there is no shard {part}")
        paths += found
    return paths


def _expanded(pattern: str) -> list[str]:
    """ "a-{008..010}.tar" to its three names; other braces are left alone."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    numbers = range(int(first), int(last) + 1)
    names = [
        f"{pattern[: match.start()]}{number:0{len(first)}d}{pattern[match.end() :]}" for number in numbers
    ]
    return [longer for name in names for longer in _expanded(name)]


def _samples(path: Path) -> dict[str, _Sample]:
    samples: dict[str, _Sample] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isreg():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                ending = ending.lower()
                if f".{ending}" in EXTENSIONS:
                    samples.setdefault(key, _Sample()).image = _part(path, member.offset_data, member.size)
                elif ending in ("cls", "txt", "json") and member.size <= _LABEL_LIMIT:
                    data = tar.extractfile(member)
                    assert data is not None
                    label = _label(ending, data.read().decode("utf-8", "replace"), f"{path}: {member.name}")
                    if label is not None:
                        samples.setdefault(key, _Sample()).labels[ending] = label
    except tarfile.TarError as error:
        raise DataError(f"{path} is not an uncompressed tar file, or is damaged: {error}") from error
    return samples


def _label(ending: str, text: str, where: str) -> str | None:
    if ending != "json":
        return text.strip() or None
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not valid JSON: {error}") from None
    if not isinstance(record, dict):
        return None
    found = next((record[key] for key in ("label", "cls", "class") if record.get(key) is not None), None)
    return None if found is None else str(found)


def _part(path: Path, offset: int, size: int) -> Callable[[], bytes]:
    def read() -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    return read
