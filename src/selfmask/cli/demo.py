"""`selfmask demo`: the main job on data that every machine has, with a word on each thing that comes out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from selfmask.cli.adapt import INTERRUPTED, report
from selfmask.cli.output import print_json
from selfmask.features.rows import MASKED
from selfmask.run.adapt import adapt
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
    json: bool = False
    """Print one JSON document instead of text."""


def run(settings: DemoSettings) -> int:
    """`selfmask adapt` with defaults, and then what one may do next."""
    name = Path(settings.data).name or "data"
    folder = settings.out or _free(Path("runs") / f"demo-{name}")
    said = Console(stderr=True, quiet=settings.json)
    said.print(f"selfmask adapt {settings.data} --out {folder} --finetune", style="bold", highlight=False)
    outcome = adapt(AdaptSettings(settings.data, out=folder, seed=settings.seed, finetune=True), console=said)
    if settings.json:
        print_json(outcome.document())
        return INTERRUPTED if outcome.interrupted else 0
    console = Console()
    report(outcome, console)
    if outcome.interrupted:
        return INTERRUPTED
    if outcome.rows is not None and (gain := outcome.rows[MASKED].head_gain) is not None:
        verdict = (
            "better" if gain.low > 0 else "worse" if gain.high < 0 else "no different, within the interval"
        )
        console.print(
            f"The masked network is {verdict}: {100 * gain.value:+.1f} points of top-1 against the linear probe on the "
            f"pretrained features (95 % interval {100 * gain.low:+.1f} to {100 * gain.high:+.1f}).",
            highlight=False,
        )
    console.print(
        f"The curves are in {folder / 'curves.png'}, the log in {folder / 'log.jsonl'}.", highlight=False
    )
    console.print(f"Next: selfmask inspect {outcome.mask}", highlight=False)
    return 0


def _free(folder: Path) -> Path:
    """`folder`, or with a number behind it, the first that does not exist yet."""
    number, found = 1, folder
    while found.exists():
        number += 1
        found = folder.with_name(f"{folder.name}-{number}")
    return found
