"""`selfmask adapt`: a mask for a backbone on one's own images, and the pictures of it where they are wanted."""

from __future__ import annotations

from rich.console import Console

from selfmask._common.calls import call
from selfmask._common.console import SafeConsole, tell
from selfmask.errors import SelfmaskError
from selfmask.run.adapt import Run, learn_mask
from selfmask.run.settings import AdaptSettings
from selfmask.tasks.report import ReportSettings
from selfmask.tasks.report import run as write_report


def run(settings: AdaptSettings, console: Console | None = None) -> Run:
    """Learn the mask; with `pictures`, also write the page of `selfmask report` and each of its figures.

    Raises a `SelfmaskError` for whatever a user can mend. A first Ctrl-C writes a checkpoint and returns a `Run`
    that says so; with `resume` the run then goes on to the same masks.

    >>> run = selfmask.adapt("photos/", out="runs/new", size=32, steps=2, threads=1, evaluate=False)
    >>> run.steps, run.mask.name, run.result.objective
    (2, 'mask.safetensors', 'supervised')
    """
    outcome = learn_mask(settings, console)
    if settings.pictures and outcome.result is not None:
        console = console or SafeConsole(stderr=True)
        figures = outcome.folder / "figures"
        try:
            written = write_report(ReportSettings(outcome.folder, figures=figures, weights=settings.weights))
        except SelfmaskError as error:  # the mask is there, and `selfmask report` can be called again
            tell(console, f"warning: the pictures were not made: {error}")
        else:
            tell(console, f"pictures: {written.out}, and each figure in {figures}")
    return outcome


adapt = call(AdaptSettings, run)
