"""Small pieces of HTML. Whatever comes from files or users goes through `text`."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

from PIL import Image
from torch import Tensor

from selfmask.report.chart import NARROW, WIDE, Cell, Chart, DataTable

MAX_ROWS = 200
"""Rows of a table that the page shows; the CSV beside it has all of them."""


def text(value: object) -> str:
    """`value` as text that cannot become markup, in element content or in a quoted attribute."""
    return html.escape(str(value).replace(" %", "\N{NO-BREAK SPACE}%"), quote=True)


def chart_figure(chart: Chart) -> str:
    """The drawing in two widths (the style sheet shows one), with its text alternative and its numbers."""
    drawings = "".join(
        f'<div class="{name}">{chart.svg(width, f"{chart.name}-{name}-")}</div>'
        for name, width in (("wide", WIDE), ("narrow", NARROW))
    )
    return (
        f'<figure class="picture"><div role="img" aria-label="{text(chart.alt)}">{drawings}</div>'
        f"{numbers(chart.data, chart.name, chart.alt)}</figure>"
    )


def card(anchor: str, title: str, words: Iterable[str], picture: str, *, plain: bool = False) -> str:
    """A section: heading and paragraphs (escaped here), then `picture` (HTML)."""
    paragraphs = "".join(f"<p>{text(sentence)}</p>" for sentence in words if sentence)
    style = "card plain" if plain else "card"
    return (
        f'<section class="{style}" id="{text(anchor)}" aria-labelledby="{text(anchor)}-title">'
        f'<div class="words"><h2 id="{text(anchor)}-title">{text(title)}</h2>{paragraphs}</div>{picture}</section>'
    )


def chart_card(chart: Chart, *more: str) -> str:
    """A section around one chart: its title, how to read it, what it says."""
    return card(chart.name, chart.title, (chart.caption, *more), chart_figure(chart))


def numbers(table: DataTable, name: str, alt: str = "") -> str:
    """The numbers behind a figure, folded away, with a CSV file to keep."""
    shown = table.rows[:MAX_ROWS]
    more = (
        f"<p>The first {MAX_ROWS} of {len(table.rows)} rows; the file has all of them.</p>"
        if len(table.rows) > MAX_ROWS
        else ""
    )
    summary = f"<p>{text(alt)}</p>" if alt else ""
    data = base64.b64encode(table.csv().encode()).decode()
    return (
        f"<details><summary>In words and numbers</summary>{summary}"
        f'<div class="scroll" tabindex="0" role="region" aria-label="numbers">{plain_table(table.columns, shown)}</div>'
        f'{more}<p class="download"><a download="{text(name)}.csv" href="data:text/csv;base64,{data}">'
        f"{text(name)}.csv</a></p></details>"
    )


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A table whose first row is a header; floats with five significant digits."""
    head = "".join(f'<th scope="col">{text(column.replace("_", " "))}</th>' for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{text(_cell(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def thumbnail(image: Tensor, alt: str, side: int = 96) -> str:
    """An `<img>` of `image` (uint8 (3, H, W)), cut to its central square and made at most `side` pixels large."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    picture = picture.crop((left, top, left + short, top + short))
    if short > side:
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    kind = "png" if short <= 40 else "jpeg"
    picture.save(data, kind, **({} if kind == "png" else {"quality": 82}))
    encoded = base64.b64encode(data.getvalue()).decode()
    return (
        f'<img src="data:image/{kind};base64,{encoded}" alt="{text(alt)}" '
        f'width="{picture.width}" height="{picture.height}">'
    )


def _cell(cell: Cell) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.5g}"
    return str(cell)
