"""CSV that a spreadsheet may open: text from a file is shown in it, and never computed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from selfmask._common.escape import encodable, lines

_FORMULA = ("=", "+", "-", "@")


def csv_lines(rows: Iterable[Iterable[object]]) -> str:
    """RFC 4180 text, a line a row; None is an empty field.

    A text that a spreadsheet would take for a formula (=, +, -, @ in front) gets a ' before it, and what a terminal
    would obey is shown as in `lines`. Numbers stay as they are.

    >>> csv_lines([["a,b", -1.5, "=1+1", None]])
    '"a,b",-1.5,\\'=1+1,\\n'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(_cell, row) for row in rows)
    return text.getvalue()


def plain(cell: str) -> str:
    """A field of a table that somebody's spreadsheet, or `csv_lines`, wrote: without the ' before a formula's sign.

    >>> plain("'-a.jpg"), plain("'tis"), plain("-a.jpg")
    ('-a.jpg', "'tis", '-a.jpg')
    """
    rest = cell[1:]
    return rest if cell[:1] == "'" and rest.lstrip().startswith(_FORMULA) else cell


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return "" if value is None else value
    shown = encodable(lines(value))
    return f"'{shown}" if shown.lstrip().startswith(_FORMULA) else shown
