"""A file of embeddings, read in bounded memory: `NAME.parquet`, or `NAME.npy` with `NAME.json` beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from selfmask.embeddings.parts import METADATA, json_beside, numbers, schema_of
from selfmask.embeddings.record import Record
from selfmask.errors import DataError

BLOCK = 16_384
# Of a block: how wide its rows are is for the file to say, and a file may be a stranger's.
_MOST_NUMBERS = 2**26
ENDINGS = (".parquet", ".npy")


@dataclass(frozen=True)
class _Beside:
    """The JSON beside a .npy."""

    record: Record
    path: list[str]
    expert: list[int] | None = None


@dataclass(frozen=True)
class Embeddings:
    """A file of embeddings that was checked as far as its frame goes. Made by `open_embeddings`."""

    path: Path
    record: Record
    _beside: _Beside | None

    def __len__(self) -> int:
        return self.record.rows

    def blocks(self) -> Iterator[Tensor]:
        """The embeddings in order, float32 (up to `BLOCK`, width). Raises `DataError` where one is not finite."""
        for block in self._raw():
            x = torch.from_numpy(block.astype(np.float32))
            if not bool(torch.isfinite(x).all()):
                raise DataError(f"{self.path} is damaged: some of its embeddings are not finite")
            yield x

    def names(self, rows: Sequence[int]) -> dict[int, str]:
        """The images' names in these rows, 0 to N − 1."""
        if self._beside is not None:
            return {row: self._beside.path[row] for row in rows}
        wanted, found, start = sorted(set(rows)), {}, 0
        for batch in self._batches("path"):
            column = batch.column("path")
            here = [row for row in wanted if start <= row < start + len(column)]
            found |= {row: column[row - start].as_py() for row in here}
            start += len(column)
        return found

    def _raw(self) -> Iterator[np.ndarray]:
        width = self.record.width
        if self._beside is None:
            for batch in self._batches("embedding"):
                yield numbers(pa.chunked_array([batch.column("embedding")]), width)
            return
        whole = _npy(self.path)
        for start in range(0, len(whole), self._rows):
            yield whole[start : start + self._rows]

    @property
    def _rows(self) -> int:
        """Of a block."""
        return max(1, min(BLOCK, _MOST_NUMBERS // self.record.width))

    def _batches(self, column: str) -> Iterator[Any]:
        try:
            with pq.ParquetFile(self.path) as file:
                yield from file.iter_batches(self._rows, columns=[column])
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise DataError(f"{self.path} is damaged: {error}") from error


def open_embeddings(path: Path) -> Embeddings:
    """Open what `selfmask embed` wrote, by its ending. Raises `DataError` where it is damaged or something else."""
    if path.suffix not in ENDINGS:
        raise DataError(f"{path}: embeddings lie in a .parquet file, or in a .npy with its .json beside it")
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    return _open_npy(path) if path.suffix == ".npy" else _open_parquet(path)


def _open_parquet(path: Path) -> Embeddings:
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a Parquet file, or is damaged: {error}") from error
    metadata: Mapping[bytes, bytes] = schema.metadata or {}
    if METADATA not in metadata:
        raise DataError(f"{path} was not written by selfmask embed: it does not say which network made it")
    record = Record.read(metadata[METADATA], f"{path}")
    expected = schema_of(record.width, record.dtype, "expert" in schema.names)
    if not schema.equals(expected) or rows != record.rows:
        raise DataError(
            f"{path} is damaged: it says {record.rows} × {record.width} {record.dtype} and holds {rows} rows of "
            f"{', '.join(f'{column.name} ({column.type})' for column in schema)[:200]}"
        )
    return Embeddings(path, record, None)


def _open_npy(path: Path) -> Embeddings:
    beside = json_beside(path)
    try:
        content = beside.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} needs {beside.name} beside it, which names its images: {error.strerror}"
        ) from None
    try:
        found = msgspec.json.decode(content, type=_Beside)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise DataError(f"{beside} is damaged, or not what selfmask embed wrote: {error}") from None
    record = found.record
    record.check(f"{beside}")
    x = _npy(path)
    if x.shape != (record.rows, record.width) or x.dtype != record.dtype or len(found.path) != record.rows:
        raise DataError(
            f"{path} holds {x.dtype} {x.shape} and {beside.name} speaks of {len(found.path)} images and "
            f"{record.dtype} {(record.rows, record.width)}: they do not belong together"
        )
    return Embeddings(path, record, found)


def _npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header makes its reader raise anything
        raise DataError(f"{path} is not a .npy file of numbers, or is damaged: {error}") from error
