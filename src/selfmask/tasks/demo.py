"""`selfmask demo`: the main job on data that every machine has."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from selfmask._common.console import SafeConsole
from selfmask.run.adapt import Run, learn_mask
from selfmask.run.provenance import command_of
from selfmask.run.settings import AdaptSettings


@dataclass(frozen=True)
class DemoSettings:
    """Adapt EfficientNet-Lite0 (ImageNet) to handwritten digits, or to your own class folders, in minutes."""

    data: str = "digits"
    """Your own images: a folder with a sub-folder a class. Default: scikit-learn's 1 797 handwritten digits."""
    out: Path | None = None
    """Folder for what it writes. Default: runs/demo-NAME, with a number if that exists."""
    seed: int = 0
    """Of everything that is drawn."""


def run(settings: DemoSettings, console: Console | None = None) -> Run:
    """`selfmask adapt` with defaults and the row of full fine-tuning, said first."""
    console = console or SafeConsole(stderr=True)
    name = Path(settings.data).name or "data"
    folder = settings.out or _free(Path("runs") / f"demo-{name}")
    own = AdaptSettings(settings.data, out=folder, seed=settings.seed, finetune=True)
    console.print(shlex.join(command_of(own)), style="bold", highlight=False, markup=False, soft_wrap=True)
    return learn_mask(own, console=console)


def _free(folder: Path) -> Path:
    """`folder`, or with a number behind it, the first that does not exist yet."""
    number, found = 1, folder
    while found.exists():
        number += 1
        found = folder.with_name(f"{folder.name}-{number}")
    return found
