"""Pages that stand alone: one template around them, everything in them escaped, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

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
    return value if isinstance(value, Markup) else one_line(str(value)).replace(" %", "\N{NO-BREAK SPACE}%")
