"""`selfmask adapt`: images in, mask file out."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from selfmask.cli.output import print_json
from selfmask.run.adapt_settings import AdaptSettings
from selfmask.run.adaptation import Run, adapt
from selfmask.run.distribution import leave_processes

INTERRUPTED = 130
"""The exit status of a program that Ctrl-C ended."""


def run(settings: AdaptSettings) -> int:
    """Run it, and say what came out: a table and the files, or one JSON document."""
    try:
        outcome = adapt(settings, console=Console(stderr=True, quiet=settings.json))
    finally:
        leave_processes()  # left to the interpreter's end, a process of several now and then aborts
    if outcome.result is None and not outcome.interrupted:
        return 0  # one of several processes, and not the first, which says it all
    if settings.json:
        print_json(document(outcome))
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
    sizes, seconds = outcome.result["bytes"], outcome.result["seconds"]
    console.print(
        f"{outcome.status.off:,} of {outcome.status.weights:,} weights off "
        f"({100 * (1 - outcome.status.density):.2f} %), after {seconds['training']:.0f} s of training",
        highlight=False,
    )
    console.print(
        f"{outcome.mask}  {sizes['file']:,} bytes (masks {sizes['masks']:,}, statistics {sizes['statistics']:,}, "
        f"head {sizes['head']:,})",
        highlight=False,
        soft_wrap=True,
    )


def document(outcome: Run) -> dict[str, Any]:
    """What --json prints of a run."""
    return {
        "folder": str(outcome.folder),
        "interrupted": outcome.interrupted,
        "steps": outcome.steps,
        "mask": None if outcome.interrupted else str(outcome.mask),
        "result": outcome.result,
    }
