"""Lists of images (CSV, TSV, JSONL), files of labels, and split files."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from selfmask._common.escape import printable
from selfmask._common.near import aside
from selfmask._common.table import plain
from selfmask.errors import DataError
from selfmask.images.listing import Entry, Listing, split_name
from selfmask.images.place import LIST_SUFFIXES, check_file, names_in

_FILE_COLUMNS = ("file", "path", "filename", "filepath", "file_name", "image", "name", "impath")
_LABEL_COLUMNS = ("label", "class", "classname", "class_name", "target", "category")
_SPLIT_COLUMNS = ("split", "subset", "partition", "set")


@dataclass(frozen=True)
class Row:
    """One line of a list: `line` counts from 1, for messages."""

    file: str
    label: str | None
    split: str | None
    line: int


def list_listing(path: Path) -> Listing:
    """Images from a list: a column for the file, and optional ones for the class and the split.

    CSV and TSV with a header line (file, label, split; `_FILE_COLUMNS` and so on are the accepted names), or
    without one: file, label, split in this order. JSONL: an object a line with the same keys. Files are
    relative to the list's own folder, or absolute.
    """
    rows, other = _read(path)
    missing = [row for row in rows if not os.path.isfile(_place(path, row))]  # of any name
    if missing:
        first = missing[0]
        where = _place(path, first).parent
        more = f" (and {len(missing) - 1} more of its {len(rows)} files)" if len(missing) > 1 else ""
        raise DataError(
            f"{path}, line {first.line}: there is no file {first.file!r}{more}"
            f"{aside(Path(first.file).name, names_in(where))}. Files are relative to the list's own folder, "
            f"{path.parent.absolute()}"
        )
    entries = tuple(Entry(row.file, _place(path, row), row.label, row.split) for row in rows)
    return Listing(path.stem, entries, notes=_unused(path, rows, other))


def _unused(path: Path, rows: list[Row], other: tuple[str, ...]) -> tuple[str, ...]:
    """A word on columns that nobody reads, where labels or splits may be meant by them."""
    read = {"label": any(row.label for row in rows), "split": any(row.split for row in rows)}
    if not other or all(read.values()):
        return ()
    missing = " or ".join(f"'{name}'" for name, found in read.items() if not found)
    names = ", ".join(printable(list(other[:8])))
    are = "is" if len(other) == 1 else "are"
    return (f"{path.name}: {names} {are} not read: where that is what is meant, call it {missing}.",)


def read_labels(path: Path) -> dict[str, str]:
    """Labels by image name, from a list as above. Raises `DataError` where an image has two labels or
    none."""
    labels: dict[str, str] = {}
    for row in read_rows(path):
        if row.label is None:
            raise DataError(f"{path}, line {row.line}: {row.file!r} has no label")
        if labels.setdefault(row.file, row.label) != row.label:
            raise DataError(
                f"{path}, line {row.line}: {row.file!r} is {row.label!r}, but was {labels[row.file]!r}"
            )
    return labels


def read_splits(path: Path) -> dict[str, tuple[str, str | None]]:
    """(split, class or None) by image name, from a split file.

    JSON as CoOp's split_zhou_*.json, {"train": [[file, label number, class name], …], "val": …, "test": …};
    or with plain file names in place of the triples; or a list as above with a split column.
    """
    check_file(path)
    if path.suffix.lower() in LIST_SUFFIXES:
        splits = {}
        for row in read_rows(path):
            if row.split is None:
                raise DataError(
                    f"{path}, line {row.line}: {row.file!r} has no split (train, validation or test)"
                )
            if row.file in splits:
                raise DataError(f"{path}, line {row.line}: {row.file!r} stands in it twice")
            splits[row.file] = (row.split, row.label)
        return splits
    document = parsed_json(read_text(path), f"{path}")
    if not isinstance(document, dict):
        raise DataError(f"{path} must hold an object with the keys train, val and test")
    result: dict[str, tuple[str, str | None]] = {}
    for key, members in document.items():
        split = split_name(key)
        if split is None or not isinstance(members, list):
            raise DataError(
                f"{path}: {key!r} is not a split: the keys are train, val and test, each with a list"
            )
        for member in members:
            name, label = _member(path, member)
            if name in result:
                raise DataError(f"{path} names {name!r} twice")
            result[name] = (split, label)
    return result


def _member(path: Path, member: Any) -> tuple[str, str | None]:
    if isinstance(member, str):
        return member, None
    if (
        isinstance(member, list)
        and len(member) == 3
        and isinstance(member[0], str)
        and isinstance(member[2], str)
    ):
        return member[0], member[2]
    raise DataError(
        f"{path}: an image must be a file name or [file, label number, class name], got {reprlib.repr(member)}"
    )


def read_rows(path: Path) -> list[Row]:
    """The lines of a CSV, TSV or JSONL list. Raises `DataError` with the line at fault."""
    return _read(path)[0]


def _read(path: Path) -> tuple[list[Row], tuple[str, ...]]:
    """The lines, and the names of the columns that are not read."""
    check_file(path)
    text = read_text(path)
    rows, other = (_jsonl_rows if path.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows)(path, text)
    if not rows:
        raise DataError(f"{path} lists no images")
    return rows, other


def _csv_rows(path: Path, text: str) -> tuple[list[Row], tuple[str, ...]]:
    first = re.split(r"[\r\n]", text.lstrip("\r\n "), maxsplit=1)[0]
    delimiter = max(",;\t", key=first.count)
    if path.suffix.lower() == ".tsv" and ("\t" in first or first.count(delimiter) == 0):
        delimiter = "\t"  # its names may hold commas
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    table, number = [], 1
    try:
        for row in reader:  # a cell in quotes may have lines of its own
            if any(row):
                table.append((number, row))
            number = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {number}: not a table: {error}") from None
    if not table:
        return [], ()
    header = [cell.strip().lower() for cell in table[0][1]]
    columns = [
        next((header.index(n) for n in names if n in header), None)
        for names in (_FILE_COLUMNS, _LABEL_COLUMNS, _SPLIT_COLUMNS)
    ]
    if columns[0] is None:
        if not (path.parent / table[0][1][0]).suffix:
            raise DataError(
                f"{path}: the header {', '.join(table[0][1])[:200]} names no column for the file: call it 'file' "
                "(and 'label', 'split')"
            )
        columns = [0, 1 if len(header) > 1 else None, 2 if len(header) > 2 else None]
        other: tuple[str, ...] = ()
    else:
        other = tuple(name for k, name in enumerate(header) if name and k not in columns)
        table = table[1:]

    def cell(row: list[str], column: int | None) -> str | None:
        return (plain(row[column].strip()) or None) if column is not None and column < len(row) else None

    return [_row(path, number, *(cell(row, column) for column in columns)) for number, row in table], other


def _jsonl_rows(path: Path, text: str) -> tuple[list[Row], tuple[str, ...]]:
    records: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(text.split("\n"), 1):  # JSON's own ends of lines, not all of Unicode's
        if not line.strip():
            continue
        record = parsed_json(line, f"{path}, line {number}")
        if not isinstance(record, dict):
            raise DataError(f'{path}, line {number}: expected an object such as {{"file": …, "label": …}}')
        records.append((number, {key.lower(): value for key, value in record.items()}))
    keys = dict.fromkeys(key for _, record in records for key in record)
    # One key for all lines, as a table has one column: where it says nothing, no other speaks for it.
    columns = [
        next((name for name in names if name in keys), "")
        for names in (_FILE_COLUMNS, _LABEL_COLUMNS, _SPLIT_COLUMNS)
    ]
    rows = [
        _row(path, number, *(told(record.get(key), f"{path}, line {number}") for key in columns))
        for number, record in records
    ]
    read = {*_FILE_COLUMNS, *_LABEL_COLUMNS, *_SPLIT_COLUMNS}
    return rows, tuple(key for key in keys if key not in read)


def told(value: Any, where: str) -> str | None:
    """A value of a record; None where it stands for none, as an empty cell and pandas' NaN do.

    Raises `DataError` that begins with `where` it stands, for a list or an object.
    """
    if isinstance(value, list | dict):
        raise DataError(f"{where}: expected one name or number, got {reprlib.repr(value)}")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value)  # as it is: a file's name may begin with a space
    return text if text.strip() else None


def _row(path: Path, number: int, file: str | None, label: str | None, split: str | None) -> Row:
    if file is None:
        raise DataError(f"{path}, line {number}: no file is named")
    known = split_name(split) if split is not None else None
    if split is not None and known is None:
        raise DataError(f"{path}, line {number}: the split is train, validation or test, got {split!r}")
    return Row(
        PurePosixPath(file.replace("\\", "/")).as_posix(), label, known, number
    )  # "./a.png" is "a.png"


def parsed_json(text: str, where: str) -> Any:
    """What a JSON text says. Raises `DataError` that begins with `where` it stands."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also too many digits, or brackets in one another
        raise DataError(f"{where} is not valid JSON: {error}") from None


def _place(path: Path, row: Row) -> Path:
    return path.parent / row.file


def read_text(path: Path) -> str:
    """A text file, UTF-8 with or without a byte order mark. Raises `DataError` where it is something else."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
