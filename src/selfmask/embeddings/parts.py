"""Embeddings on their way into a file: parts beside it, each whole under a name that says what it is a part of.

So whoever finds a part under its name need not make it again: a command that was killed, or another worker. The name
holds the part's number and a digest of the network, of the images' names and of when their files were last changed.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import xxhash
from torch import Tensor

from selfmask._common.escape import encodable
from selfmask._common.files import write_atomically, written_atomically
from selfmask.embeddings.embedder import Embedded
from selfmask.embeddings.record import FORMAT, MOST_LISTED, Record
from selfmask.errors import DataError, SettingsError
from selfmask.images.listing import Entry
from selfmask.images.sources import Skipped
from selfmask.run.folder import RunFolder

Dtype = Literal["float32", "float16"]
METADATA = b"selfmask"
_SKIPPED, _LEFT_OUT = b"selfmask.skipped", b"selfmask.left_out"
Wanted = tuple[Path, Sequence[Entry]]
"""A part that is to be made: where, and of which images."""


@dataclass(frozen=True)
class Made:
    """A part that was written: of how many images, and those of them that could not be read."""

    images: int
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return self.images


@dataclass(frozen=True)
class Parts:
    """The folder of parts beside the file `out`, for embeddings by the network of `digest`, stored as `dtype`."""

    out: Path
    digest: str
    width: int
    dtype: Dtype
    experts: bool

    @property
    def folder(self) -> Path:
        """Where they lie, until the file is there."""
        return self.out.with_name(f"{self.out.name}.parts")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, no other process makes the same file. Raises `RunError` where one does."""
        with RunFolder(self.folder).held():
            yield

    def path(self, number: int, entries: Sequence[Entry]) -> Path:
        """Where the part of `entries`, the `number`-th, is or will be."""
        found = xxhash.xxh3_64(f"{FORMAT}\0{self.digest}\0{self.dtype}\0{self.width}".encode())
        for entry in entries:
            found.update(f"{entry.name}\0{_stamp(entry)}\n".encode("utf-8", "surrogatepass"))
        return self.folder / f"part-{number:08d}-{found.hexdigest()}.parquet"

    def made(self, path: Path, found: Embedded) -> Made:
        """`write` it, and tell of it."""
        self.write(path, found)
        return Made(len(found), found.skipped)

    def write(self, path: Path, found: Embedded) -> None:
        """Write a part, whole or not at all. Raises `SettingsError` where a number is too large for `dtype`."""
        with np.errstate(over="ignore"):
            x = found.x.numpy().astype(self.dtype)
        if not np.isfinite(x).all():
            raise SettingsError("some embeddings are too large for float16 (65 504): leave --float16 out")
        columns = [pa.array(map(encodable, found.names), pa.string()), _lists(x, self.width)]
        if self.experts:
            assert found.experts is not None
            columns.append(pa.array(found.experts.numpy(), pa.int32()))
        listed = [[one.name, one.reason] for one in found.skipped[:MOST_LISTED]]
        metadata = {_SKIPPED: json.dumps(listed), _LEFT_OUT: str(len(found.skipped))}
        schema = schema_of(self.width, self.dtype, self.experts).with_metadata(metadata)
        content = io.BytesIO()
        with _writer(content, schema) as writer:
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
        write_atomically(path, content.getvalue())

    def summed(self, paths: Sequence[Path], record: Record) -> Record:
        """`record` with what the parts say of themselves: rows, and what was left out.

        Raises `DataError` where no image could be read, or a part is damaged.
        """
        rows, left_out, skipped = 0, 0, []
        for path in paths:
            found = self._opened(path)
            rows += found.metadata.num_rows
            said = found.schema_arrow.metadata
            left_out += int(said[_LEFT_OUT])
            skipped += json.loads(said[_SKIPPED])[: MOST_LISTED - len(skipped)]
        listed = tuple(Skipped(name, reason) for name, reason in skipped)
        if rows == 0:
            self.remove()
            shown = "; ".join(map(str, listed[:3]))
            raise DataError(f"none of the {left_out} images of {record.images} can be read ({shown})")
        return replace(record, rows=rows, left_out=left_out, skipped=listed)

    def read(self, path: Path) -> tuple[list[str], Tensor]:
        """Names and embeddings, float32 (n, width), of a part."""
        table = self._table(path)
        return table["path"].to_pylist(), torch.from_numpy(
            numbers(table["embedding"], self.width).astype(np.float32)
        )

    def remove(self) -> None:
        """Take the parts away: what they were for is there."""
        rmtree(self.folder)

    def assemble(self, paths: Sequence[Path], record: Record) -> Record:
        """Make `out` of its parts, in order, and take the parts away; see `summed`."""
        record = self.summed(paths, record)
        tables = map(self._table, paths)
        if self.out.suffix == ".npy":
            self._write_npy(tables, record)
        else:
            schema = schema_of(self.width, self.dtype, self.experts)
            with (
                written_atomically(self.out) as file,
                _writer(file, schema.with_metadata({METADATA: record.json()})) as writer,
            ):
                for table in tables:
                    if table.num_rows:
                        writer.write_table(table.replace_schema_metadata(writer.schema.metadata))
        self.remove()
        return record

    def _write_npy(self, tables: Iterable[pa.Table], record: Record) -> None:
        beside, columns = json_beside(self.out), {"path": [], **({"expert": []} if self.experts else {})}
        with written_atomically(self.out) as file:
            shape = {
                "descr": np.dtype(self.dtype).str,
                "fortran_order": False,
                "shape": (record.rows, self.width),
            }
            np.lib.format.write_array_header_1_0(file, shape)
            for table in tables:
                file.write(numbers(table["embedding"], self.width).tobytes())
                for name, values in columns.items():
                    values += table[name].to_pylist()
            # The old names never stand beside the new numbers; and what a full disk ends, it ends before they go.
            file.flush()
            os.fsync(file.fileno())
            beside.unlink(missing_ok=True)
        text = json.dumps({_FIRST: json.loads(record.json()), **columns}, ensure_ascii=False)
        write_atomically(beside, text.encode())

    def _table(self, path: Path) -> Any:
        return self._opened(path, pq.ParquetFile.read)

    def _opened(self, path: Path, then: Callable[[Any], Any] = lambda file: file) -> Any:
        try:
            return then(pq.ParquetFile(path))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} is damaged ({error}): remove it and start again") from error


def schema_of(width: int, dtype: Dtype, experts: bool) -> pa.Schema:
    """The columns: path, embedding as a list of `width` numbers, and of a cascade the expert, from 1."""
    number = pa.float16() if dtype == "float16" else pa.float32()
    columns = [
        pa.field("path", pa.string(), nullable=False),
        pa.field("embedding", pa.list_(pa.field("element", number, nullable=False), width), nullable=False),
    ]
    if experts:
        columns.append(pa.field("expert", pa.int32(), nullable=False))
    return pa.schema(columns)


def numbers(column: Any, width: int) -> np.ndarray:
    """A column of lists as an array (rows, width)."""
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for chunk in column.chunks]
    return np.concatenate(parts) if parts else np.zeros((0, width), np.float32)


def json_beside(path: Path) -> Path:
    """The file of names beside a .npy."""
    return path.with_suffix(".json")


_FIRST = "record"


def check_beside(out: Path) -> None:
    """Raise `SettingsError` where the file of names of a .npy would take the place of somebody else's."""
    beside = json_beside(out)
    try:
        with beside.open("rb") as file:
            ours = file.read(len(_FIRST) + 3) == f'{{"{_FIRST}"'.encode()
    except FileNotFoundError:
        return
    except OSError as error:
        raise SettingsError(f"{beside}, where the names of {out.name} go: {error.strerror}") from None
    if not ours:
        raise SettingsError(
            f"{beside} is there, and is not what selfmask embed wrote; the names of {out.name} would take its place: "
            "give another --out, or move it away"
        )


def _lists(x: np.ndarray, width: int) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(x).reshape(-1)), width)


def _writer(file: Any, schema: pa.Schema) -> pq.ParquetWriter:
    # Numbers of a network are as good as random: a dictionary or a codec would cost time and save a few per cent.
    compression: Any = {"path": "zstd"}  # which the stubs know as a string only
    return pq.ParquetWriter(
        file, schema, compression=compression, use_dictionary=False, write_statistics=False
    )


def _stamp(entry: Entry) -> str:
    """When the image's file, or what it lies in (a shard, a data set's tables), was last changed, and its size; nothing
    where it is in no file."""
    content = entry.content
    where = content.args[0] if isinstance(content, partial) and content.args else content
    if isinstance(where, Path):
        return _changed(where)
    tables: Sequence[Mapping[str, str]] = getattr(where, "cache_files", ())
    return ",".join(f"{one['filename']}:{_changed(Path(one['filename']))}" for one in tables)


def _changed(path: Path) -> str:
    try:
        found = path.stat()
    except (OSError, ValueError):  # not there, or a name that no file can have
        return "missing"
    return f"{found.st_size}:{found.st_mtime_ns}"
