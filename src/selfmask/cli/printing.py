"""Text for a terminal or a pipe: whole, and with nothing in it that a terminal would obey."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.segment import SegmentLines
from rich.table import Table

from selfmask._common.console import SafeConsole
from selfmask._common.escape import json_text, lines, one_line

_NARROWEST = 12
_GAP = 2
_NO_WIDTH = 100_000


def say(text: object) -> None:
    """A line (or lines) of text on standard output, escaped where it came from a file."""
    print(lines(str(text)))


def print_json(document: Any) -> None:
    """One JSON document on standard output, and nothing else."""
    text, encoding = json_text(document), sys.stdout.encoding or "utf-8"
    if encoding.lower().replace("-", "") != "utf8":  # then JSON's own escapes, which any encoding carries
        text = json.dumps(json.loads(text), indent=2)
    sys.stdout.write(text + "\n")


def print_rows(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    folded: Collection[str] = (),
    console: Console | None = None,
) -> None:
    """A table with every cell whole. On a terminal that is too narrow the columns `folded` go on below themselves;
    a pipe or a file has no width, so there each row is one line."""
    console = console or SafeConsole()
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
    rows = [[one_line(cell) for cell in row] for row in rows]
    least = 0
    for place, head in enumerate(heads):
        longest = max(map(len, [*head.split(), *(row[place] for row in rows)]))
        if head in folded:
            table.add_column(head, overflow="fold", min_width=(longest := min(longest, _NARROWEST)))
        else:
            # A width of its own is what no other column's need can take from it; its head may take several lines.
            table.add_column(head, justify="right", width=longest if console.is_terminal else None)
        least += longest + _GAP
    for row in rows:
        table.add_row(*map(escape, row))
    width = max(console.width, least) if console.is_terminal else _NO_WIDTH
    shown = console.render_lines(table, console.options.update_width(width), pad=False)
    console.print(SegmentLines(shown, new_lines=True), crop=False)
