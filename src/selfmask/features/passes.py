"""The line of progress of a pass over images, for whoever asked to see it.

Passes are made deep inside: features, targets, statistics. So nobody hands a console down to them: `showing` is put
around whatever makes passes, and each pass finds out whether there is a terminal that wants to know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from torch import Tensor

_console: ContextVar[Console | None] = ContextVar("console of the passes", default=None)


@contextmanager
def showing(console: Console) -> Iterator[None]:
    """Inside, every pass over images shows what it is for, how far it is, its rate and the time that is left."""
    token = _console.set(console)
    try:
        yield
    finally:
        _console.reset(token)


def progress_line(console: Console, figures: ProgressColumn, *, transient: bool = False) -> Progress:
    """What it is, the bar, how much is done, `figures`, the time that is left. Where there is no terminal, nothing."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn("{task.completed}/{task.total}"),
        figures,
        TimeRemainingColumn(compact=True),
        console=console,
        transient=transient,
        disable=not console.is_terminal,
        refresh_per_second=4,
    )


def passing(batches: Iterable[Tensor], images: int, what: str) -> Iterator[Tensor]:
    """`batches`, of `images` images in all, and the line of progress while they are asked for; it leaves no trace."""
    console = _console.get()
    if console is None or not console.is_terminal:
        yield from batches
        return
    with progress_line(console, _Rate(), transient=True) as progress:
        task = progress.add_task(what, total=images)
        for batch in batches:
            yield batch
            progress.advance(task, len(batch))


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if not task.speed else f"{task.speed:.0f} images/s")
