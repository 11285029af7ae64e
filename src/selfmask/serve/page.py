"""The page of a service: one file, made when it is first asked for."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

from jinja2 import DictLoader, Environment, StrictUndefined

from selfmask.serve.settings import BASE


def _read(name: str) -> str:
    return files("selfmask.serve").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


@cache
def page() -> str:
    """HTML that asks for nothing from elsewhere, and holds no mask's name: those are asked for by its script."""
    environment = Environment(
        loader=DictLoader({"page": _read("page.html")}), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page").render(
        style=_read("page.css"), script=_read("page.js"), base=BASE
    )


CSP = (
    f"default-src 'none'; script-src {_digest(_read('page.js'))}; style-src {_digest(_read('page.css'))}; "
    "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may do: its own script and style, requests to where it came from, pictures that it was given."""
