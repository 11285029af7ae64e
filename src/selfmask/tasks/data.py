"""`selfmask data`: which data sets are known, what is here, what a download would bring."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from rich.console import Console

from selfmask._common.console import SafeConsole
from selfmask.errors import SettingsError
from selfmask.images.named import Availability, data_root, get_named, overview


@dataclass(frozen=True)
class DataSettings:
    """List the data sets that are known by name, or fetch one."""

    action: Literal["list", "get"] = "list"
    """list: what is here, what would be downloaded, how large, under which licence. get: download one."""
    name: str | None = None
    """The data set to get."""
    root: Path | None = None
    """The folder that holds the data sets. Default: the environment variable SELFMASK_DATA, or the user's cache."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("action", "name")
    """May be given by place, though they have defaults."""

    def __post_init__(self) -> None:
        if self.action == "get" and self.name is None:
            raise SettingsError("selfmask data get NAME: which one? `selfmask data list` shows them")


@dataclass(frozen=True)
class DataList:
    """The data sets that are known; see `images.named.overview`."""

    root: Path
    rows: tuple[Availability, ...]

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        return {"root": str(self.root), "data": [asdict(row) for row in self.rows]}


@dataclass(frozen=True)
class Fetched:
    """A data set that was fetched, and where it lies."""

    name: str
    place: Path

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        return {"name": self.name, "place": str(self.place)}


def run(settings: DataSettings, console: Console | None = None) -> DataList | Fetched:
    """List or get."""
    console = console or SafeConsole(stderr=True)
    if settings.action == "list" or settings.name is None:
        return DataList(data_root(settings.root), tuple(overview(settings.root)))
    say = lambda line: console.print(line, markup=False)  # noqa: E731
    return Fetched(settings.name, get_named(settings.name, data_root(settings.root), say=say))
