"""The line of progress of a pass over images, for whoever asked to see it.

Passes are made deep inside: features, targets, statistics. So nobody hands a console down to them: `showing` is put
around whatever makes passes, and each pass finds out whether there is a terminal that wants to know.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

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

from selfmask._common.console import tell

_console: ContextVar[Console | None] = ContextVar("console of the passes", default=None)


@contextmanager
def showing(console: Console | None) -> Iterator[None]:
    """Inside, every pass over images shows what it is for, how far it is, its rate and the time that is left.

    Where there is no terminal, a plain line every `EVERY` seconds. None: nothing, as for the parts of a larger pass.
    """
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


Batch = TypeVar("Batch", bound=Sized)


def passing(batches: Iterable[Batch], images: int, what: str) -> Iterator[Batch]:
    """`batches`, of `images` images in all, and the line of progress while they are asked for; it leaves no trace."""
    console = _console.get()
    if console is None:
        yield from batches
        return
    if not console.is_terminal:
        yield from _with_lines(batches, images, what, console)
        return
    with progress_line(console, _Rate(), transient=True) as progress:
        task = progress.add_task(what, total=images)
        for batch in batches:
            yield batch
            progress.advance(task, len(batch))


EVERY = 20.0
"""Seconds between lines of progress where there is no terminal."""


def _with_lines(batches: Iterable[Batch], images: int, what: str, console: Console) -> Iterator[Batch]:
    began = said = time.perf_counter()
    done = 0
    for batch in batches:
        yield batch
        done += len(batch)
        now = time.perf_counter()
        if now - said >= EVERY and done < images:
            said = now
            left = (now - began) / done * (images - done)
            tell(console, f"{what}: {done} of {images} images, {left:.0f} s left")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if not task.speed else f"{task.speed:.0f} images/s")
