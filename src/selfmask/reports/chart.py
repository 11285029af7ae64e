"""A chart: numbers first, a drawing of them second, and words for who cannot see the drawing."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from selfmask._common.escape import json_text, one_line
from selfmask._common.style import INKS, PIXELS_PER_INCH, RC
from selfmask._common.table import csv_lines

Cell = str | int | float | bool | None

WIDE, NARROW = 720, 336
"""Widths in CSS pixels: a text column of a page, and the same on a phone of 400 px."""


@dataclass(frozen=True)
class DataTable:
    """Numbers behind a figure: one row of cells (str, int, float, bool or None) per thing drawn."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def records(self) -> list[dict[str, Cell]]:
        """The rows as dictionaries."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def csv(self) -> str:
        """The rows with a header line: see `csv_lines`."""
        return csv_lines([self.columns, *self.rows])


@dataclass(frozen=True)
class Chart:
    """One figure.

    Attributes:
        name: the stem of its files, and its anchor on the page.
        title: what it shows, in a few words.
        caption: how to read it: one or two sentences.
        alt: the text alternative: what the picture says, with its main figures.
        data: every number that is drawn.
        draw: fills an empty figure whose width is set already; sets the height itself.
        extra: numbers that are not of a table's form, for the JSON file.
    """

    name: str
    title: str
    caption: str
    alt: str
    data: DataTable
    draw: Callable[[Figure], None]
    extra: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for field in ("title", "caption", "alt"):  # they hold names from files
            object.__setattr__(self, field, one_line(getattr(self, field)))

    def figure(self, width: int = WIDE) -> Figure:
        """A new matplotlib figure `width` CSS pixels wide, laid out. Nothing global (pyplot) is touched."""
        figure = Figure(figsize=(width / PIXELS_PER_INCH, 4), layout="constrained")
        FigureCanvasAgg(figure)
        self.draw(figure)
        layout = figure.get_layout_engine()
        if figure.axes and layout is not None:
            layout.execute(figure)
            figure.set_layout_engine("none")  # with one, matplotlib draws everything twice to save it
        return figure

    def svg(self, width: int = WIDE, prefix: str = "") -> str:
        """An `<svg>` element to stand inside an HTML page.

        Colours become `var(--name, #light)`, so that the page decides between light and dark; identifiers get
        `prefix`, so that several drawings can stand in one page; text takes the page's font.
        """
        with mpl.rc_context(RC):
            figure = self.figure(width)
            text = io.StringIO()
            figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        return _embeddable(text.getvalue(), prefix or f"{self.name}-{width}-", width)

    def png(self, width: int = WIDE, scale: int = 2) -> bytes:
        """A PNG file of `width · scale` pixels on a light ground."""
        with mpl.rc_context(RC):
            data = io.BytesIO()
            self.figure(width).savefig(
                data, format="png", dpi=PIXELS_PER_INCH * scale, metadata={"Software": None}
            )
        return data.getvalue()

    def json(self) -> dict[str, Any]:
        """Title, caption, text alternative and every number, JSON-able."""
        return {
            "name": self.name,
            "title": self.title,
            "caption": self.caption,
            "alt": self.alt,
            "rows": self.data.records(),
            **(self.extra or {}),
        }

    def save(self, folder: Path) -> list[Path]:
        """Write `name`.png, .svg, .json and .csv into `folder` (made if need be); returns the paths."""
        folder.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context(RC):
            vector = io.StringIO()
            self.figure().savefig(vector, format="svg", metadata={"Date": None, "Creator": None})
        paths = [folder / f"{self.name}{suffix}" for suffix in (".png", ".svg", ".json", ".csv")]
        paths[0].write_bytes(self.png())
        paths[1].write_text(vector.getvalue(), encoding="utf-8")
        paths[2].write_text(json_text(self.json()) + "\n", encoding="utf-8")
        paths[3].write_bytes(self.data.csv().encode("utf-8", "backslashreplace"))
        return paths


def set_height(figure: Figure, pixels: float) -> None:
    """Give `figure` a height in CSS pixels, keeping its width."""
    figure.set_size_inches(figure.get_figwidth(), pixels / PIXELS_PER_INCH)


def is_narrow(figure: Figure) -> bool:
    """Whether the figure is for a phone: panels are then stacked and labels thinned."""
    return figure.get_figwidth() * PIXELS_PER_INCH < 500


def columns_of_legend(figure: Figure, labels: Sequence[str]) -> int:
    """How many columns of a legend with `labels` fit beside one another, ≥ 1."""
    widest = 44 + 7 * max(map(len, labels), default=0)
    fitting = max(1, int(figure.get_figwidth() * PIXELS_PER_INCH // widest))
    rows = -(-len(labels) // fitting)
    return -(-len(labels) // rows) if rows else 1


_ROOT = re.compile(r"<svg\b[^>]*>")
_VIEW = re.compile(r'viewBox="([^"]+)"')
_FONT = re.compile(r"\s*font-family: [^;\"]*;?")
_UNUSED = re.compile(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)
_IDENTIFIER = re.compile(r'\s*\bid="([^"]+)"')
_TAG = re.compile(r"<[^>]*>")
_DIGITS = re.compile(r"(\d+\.\d\d)\d+")


def _embeddable(document: str, prefix: str, width: int) -> str:
    """matplotlib's SVG document as an element for the page; its own `<style>` would reach the whole page."""
    start = _ROOT.search(document)
    view = _VIEW.search(start.group()) if start else None
    if start is None or view is None:
        raise AssertionError("matplotlib wrote no <svg> element with a viewBox")
    body = _UNUSED.sub("", document[start.end() :])
    images: list[str] = []  # kept out of the way of the substitutions below

    def set_aside(found: re.Match[str]) -> str:
        images.append(found.group())
        return f"@image{len(images) - 1}@"

    body = re.sub(r"data:image/png;base64,[^\"]+", set_aside, body)
    for ink in INKS:
        body = body.replace(ink.light, f"var(--{ink.name}, {ink.light})")
    body = _FONT.sub("", body)
    used = set(re.findall(r"url\(#([^)]+)\)", body)) | set(re.findall(r'href="#([^"]+)"', body))
    body = _IDENTIFIER.sub(lambda m: f' id="{prefix}{m.group(1)}"' if m.group(1) in used else "", body)
    body = body.replace("url(#", f"url(#{prefix}").replace('href="#', f'href="#{prefix}')
    # Hundredths of a pixel are enough inside tags; what stands between tags is what the reader reads.
    body = _TAG.sub(lambda tag: _DIGITS.sub(r"\1", tag.group()), " ".join(body.split()))
    for number, image in enumerate(images):
        body = body.replace(f"@image{number}@", "".join(image.split()))
    share = (
        100 * float(view.group(1).split()[2]) / width
    )  # a narrower drawing is not blown up to the full width
    style = f' style="max-width:{share:.0f}%"' if share < 99 else ""
    return f'<svg viewBox="{view.group(1)}"{style} aria-hidden="true" focusable="false">{body}'
