"""Pages that stand alone: one template around them, everything in them escaped, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from selfmask._common.escape import encodable, one_line
from selfmask._common.style import INKS
from selfmask.version import VERSION


def rendered(name: str, filters: dict[str, Callable[..., Any]] | None = None, **values: Any) -> str:
    """The page of the template `name` in this folder, which extends frame.html, with `values` set in type."""
    environment = _environment()
    environment.filters.update(filters or {})
    page = environment.get_template(name).render(inks=INKS, css=_css(), version=VERSION, **values)
    return encodable(page.strip() + "\n")


@cache
def _environment() -> Environment:
    return Environment(
        autoescape=True, trim_blocks=True, undefined=StrictUndefined, finalize=_finalised,
        loader=FunctionLoader(_read),
    )  # fmt: skip


def _read(name: str) -> str:
    return files("selfmask.reports").joinpath(name).read_text(encoding="utf-8")


@cache
def _css() -> Markup:
    return Markup(_read("page.css"))


def _finalised(value: Any) -> Any:
    """What every value that a template prints goes through; it is escaped afterwards."""
    return value if isinstance(value, Markup) else _TOGETHER.sub(_unbroken, one_line(str(value)))


_TOGETHER = re.compile(r" (?=%)|(?<=\d) (?=(?:[kMG]B|px|points)\b)|(?<=\d) to (?=[+−\d])")
"""Spaces at which no line is broken: before a unit, and within an interval."""


def _unbroken(found: re.Match[str]) -> str:
    return found[0].replace(" ", "\N{NO-BREAK SPACE}")


def thumbnail(image: Tensor, side: int = 96) -> tuple[str, int]:
    """`image` (uint8 (3, H, W)), cut to its central square and made at most `side` pixels large: a data URI, pixels."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    picture = picture.crop((left, top, left + short, top + short))
    if short > side:
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    kind = "png" if short <= 40 else "jpeg"
    picture.save(data, kind, **({} if kind == "png" else {"quality": 82}))
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}", picture.width
