"""`selfmask data`: which data sets are known, what is here, what a download would bring."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from selfmask.cli.output import print_json
from selfmask.errors import SettingsError
from selfmask.images.named import data_root, get_named, overview


@dataclass(frozen=True)
class DataSettings:
    """List the data sets that are known by name, or fetch one."""

    action: Positional[Literal["list", "get"]] = "list"
    """list: what is here, what would be downloaded, how large, under which licence. get: download one."""
    name: Positional[str | None] = None
    """The data set to get."""
    root: Path | None = None
    """The folder that holds the data sets. Default: the environment variable SELFMASK_DATA, or the user's cache."""
    json: bool = False
    """Print one JSON document instead of text."""


def run(settings: DataSettings) -> int:
    """List or get."""
    if settings.action == "get":
        if settings.name is None:
            raise SettingsError("selfmask data get NAME: which one? `selfmask data list` shows them")
        said = Console(stderr=True, quiet=settings.json)
        place = get_named(settings.name, data_root(settings.root), say=lambda line: said.print(line))
        if settings.json:
            print_json({"name": settings.name, "place": str(place)})
        else:
            print(place)
        return 0
    rows = overview(settings.root)
    if settings.json:
        print_json({"root": str(data_root(settings.root)), "data": rows})
        return 0
    table = Table(title=f"data sets by name, in {data_root(settings.root)}", title_justify="left")
    for column in ("name", "images", "classes", "here", "download", "licence"):
        table.add_column(column, justify="right" if column in ("images", "classes") else "left")
    for row in rows:
        size = row["download_bytes"]
        fetch = row["download"] if not size else f"{_size(size)}, {row['download']}"
        table.add_row(
            row["name"], f"{row['images']:,}", str(row["classes"]), "yes" if row["here"] else "no",
            "" if row["here"] else fetch, row["licence"],
        )  # fmt: skip
    Console().print(table)
    return 0


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
