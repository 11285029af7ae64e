"""What the commands about runs print: adapt, demo, cascade, evaluate, report."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.table import Table

from selfmask._common.console import SafeConsole
from selfmask.cli.printing import say

if TYPE_CHECKING:
    from selfmask.run.adapt import Run
    from selfmask.tasks.cascade import DrawnCascade
    from selfmask.tasks.evaluate import Evaluation
    from selfmask.tasks.report import Written


def show_run(run: Run) -> None:
    """What a person wants to know at the end of a run."""
    if run.interrupted:
        say(f"Stopped after step {run.steps}; go on with the same command and --resume.")
        return
    assert run.status is not None
    assert run.result is not None
    if run.rows is not None:
        SafeConsole().print(run.rows.table())
    elif (progress := run.result.progress) is not None:
        say(f"{progress}.".capitalize())
    say(
        f"{run.status.off:,} of {run.status.weights:,} weights off ({100 * (1 - run.status.density):.2f} %), "
        f"after {run.result.seconds.training:.0f} s of training"
    )
    sizes = run.result.bytes
    say(
        f"{run.mask}  {sizes['file']:,} bytes (masks {sizes['masks']:,}, statistics {sizes['statistics']:,}, "
        f"norms {sizes.get('norms', 0):,}, head {sizes['head']:,}, metadata {sizes.get('metadata', 0):,})"
    )
    if run.result.spent is not None:
        say(run.result.spent)
    say(run.result.verdict.sentence)
    say(f"The curves are in {run.folder / 'curves.png'}, the log in {run.folder / 'log.jsonl'}.")
    if run.result.kept:  # else that is what comes next
        say(f"On one page: selfmask report {shlex.quote(str(run.folder))}")
    say(f"Next: {shlex.join(run.next)}")


def show_evaluation(evaluation: Evaluation) -> None:
    """The table of rows, what it comes to, and whether to believe it."""
    SafeConsole().print(evaluation.rows.table())
    say(evaluation.verdict.sentence)
    for note in evaluation.notes:
        say(f"note: {note}")


def show_cascade(drawn: DrawnCascade) -> None:
    """A table of results, the file by parts, and the pictures."""
    run = drawn.run
    if run.interrupted:
        say("Stopped; go on with the same command and --resume. What is finished is kept.")
        return
    assert run.result is not None
    assert run.result.cascade is not None
    console = SafeConsole()
    if run.rows is not None:
        console.print(run.rows.table())
    say(run.result.verdict.sentence)
    if run.result.cascade.passes:
        passes = ", ".join(f"{name} {n}" for name, n in run.result.cascade.passes.items())
        say(f"forward passes an image: {passes}")
    table = Table("part of the file")
    table.add_column("bytes", justify="right")
    for name, size in run.result.bytes.items():
        table.add_row("all" if name == "file" else name, f"{size:,}", end_section=name == "metadata")
    console.print(table)
    storage = run.result.cascade.storage
    say(
        f"{run.file}: the masks take {storage['masks']:,} bytes; in {1 + run.experts} files of their own "
        f"they take {storage['separate']:,}"
    )
    if drawn.pictures:
        pictures = ", ".join(name for name in drawn.pictures if name.endswith(".png"))
        say(f"pictures: {pictures} (and .svg, .csv, .json)")


def show_report(written: Written) -> None:
    """Where the page is, and what it could not show."""
    for note in written.page.notes:
        say(f"note: {note}")
    say(written.out)
