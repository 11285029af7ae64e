"""CIFAR-10 and CIFAR-100 in their binary version: records of label bytes and 3 × 32 × 32 pixels, no pickle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from selfmask.errors import DataError
from selfmask.images.listing import Entry, Listing

_PIXELS = 3 * 32 * 32


def cifar10_listing(folder: Path) -> Listing:
    """data_batch_1.bin … data_batch_5.bin, test_batch.bin, batches.meta.txt; one label byte a record."""
    training = [f"data_batch_{number}.bin" for number in range(1, 6)]
    return _listing("cifar10", folder, training, ["test_batch.bin"], "batches.meta.txt", label_bytes=1)


def cifar100_listing(folder: Path) -> Listing:
    """train.bin, test.bin, fine_label_names.txt; a coarse and a fine label byte a record, the fine one used."""
    return _listing("cifar100", folder, ["train.bin"], ["test.bin"], "fine_label_names.txt", label_bytes=2)


def _listing(
    name: str, folder: Path, training: list[str], testing: list[str], names_file: str, label_bytes: int
) -> Listing:
    classes = tuple((folder / names_file).read_text("utf-8").split())
    entries: list[Entry] = []
    for split, files in (("train", training), ("test", testing)):
        for file in files:
            records = _records(folder / file, label_bytes)
            labels = records[:, label_bytes - 1]
            if labels.size and labels.max() >= len(classes):
                raise DataError(
                    f"{folder / file}: label {labels.max()} where there are {len(classes)} classes"
                )
            stem = file.removesuffix(".bin")
            entries += [
                Entry(f"{split}/{stem}/{k:05d}", _reader(records, k, label_bytes), classes[labels[k]], split)
                for k in range(len(records))
            ]
    return Listing(name, tuple(entries), classes)


def _records(path: Path, label_bytes: int) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"{path.parent} lacks {path.name}: the set is not complete, unpack it again")
    data = np.fromfile(path, dtype=np.uint8)
    if data.size == 0 or data.size % (label_bytes + _PIXELS):
        raise DataError(
            f"{path} has {data.size} bytes, not a multiple of {label_bytes + _PIXELS}: it is damaged"
        )
    return data.reshape(-1, label_bytes + _PIXELS)


def _reader(records: np.ndarray, k: int, label_bytes: int) -> Callable[[], np.ndarray]:
    return lambda: records[k, label_bytes:].reshape(3, 32, 32).transpose(1, 2, 0)
