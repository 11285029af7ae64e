"""`selfmask adapt`: images in, mask file out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from json import loads
from typing import Any

import tyro
from rich.console import Console

from selfmask._common.processes import leave_processes
from selfmask.cli.output import print_json
from selfmask.run.adapt import Run, adapt
from selfmask.run.settings import AdaptSettings as Settings


@dataclass(frozen=True)
class AdaptSettings(Settings):
    """Learn a mask for a backbone on your images."""

    objective_settings: tyro.conf.Suppress[Mapping[str, Any]] = field(default_factory=dict)
    own: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A setting of the objective's own, NAME=VALUE in JSON."""
    json: bool = False
    """Print one JSON document instead of text."""

    def plain(self) -> Settings:
        """Without what only the command line has."""
        values = {f.name: getattr(self, f.name) for f in fields(Settings)}
        own = {name: loads(value) for name, _, value in (word.partition("=") for word in self.own)}
        return Settings(**{**values, "objective_settings": own})  # pyright: ignore[reportArgumentType]


INTERRUPTED = 130
"""The exit status of a program that Ctrl-C ended."""


def run(settings: AdaptSettings) -> int:
    """Run it, and say what came out: a table and the files, or one JSON document."""
    try:
        outcome = adapt(settings.plain(), console=Console(stderr=True, quiet=settings.json))
    finally:
        leave_processes()  # left to the interpreter's end, a process of several now and then aborts
    if outcome.result is None and not outcome.interrupted:
        return 0  # one of several processes, and not the first, which says it all
    if settings.json:
        print_json(outcome.document())
    else:
        report(outcome, Console())
    return INTERRUPTED if outcome.interrupted else 0


def report(outcome: Run, console: Console) -> None:
    """What a person wants to know at the end of a run."""
    if outcome.interrupted:
        console.print(f"Stopped after step {outcome.steps}; go on with the same command and --resume.")
        return
    assert outcome.status is not None
    assert outcome.result is not None
    if outcome.rows is not None:
        console.print(outcome.rows.table())
    else:
        console.print(
            "Nothing was measured: that needs labels on some training images and on some test images."
        )
    sizes, seconds = outcome.result.bytes, outcome.result.seconds
    console.print(
        f"{outcome.status.off:,} of {outcome.status.weights:,} weights off "
        f"({100 * (1 - outcome.status.density):.2f} %), after {seconds.training:.0f} s of training",
        highlight=False,
    )
    console.print(
        f"{outcome.mask}  {sizes['file']:,} bytes (masks {sizes['masks']:,}, statistics {sizes['statistics']:,}, "
        f"head {sizes['head']:,})",
        highlight=False,
        soft_wrap=True,
    )
