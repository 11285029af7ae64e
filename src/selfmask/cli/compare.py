"""`selfmask compare`: how alike the masks of two files are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from torch import nn

from selfmask._common.escape import printable
from selfmask.backbones.spec import backbone_of
from selfmask.cli.output import print_json
from selfmask.cli.whole_text import print_rows
from selfmask.maskfile.loading import load
from selfmask.tasks.comparison import Comparison, compare


@dataclass(frozen=True)
class CompareSettings:
    """Compare two masks of one backbone: bits that differ, and how much of what is off they share."""

    a: Path
    """A mask file."""
    b: Path
    """Another one, learnt on the same base."""
    backbone: str | None = None
    """The backbone, where a file can be read only beside it and does not say which it is."""
    weights: Path | None = None
    """The backbone's file of weights, if it had one."""
    json: bool = False
    """Print one JSON document instead of text."""


def run(settings: CompareSettings) -> int:
    """Decode both, count, print."""
    a, b = load(settings.a), load(settings.b)
    base: nn.Module | None = None
    if a.needs_base or b.needs_base:
        base = backbone_of(a, settings.backbone, settings.weights).module
    found = compare(a, b, base)
    if settings.json:
        print_json({"a": str(settings.a), "b": str(settings.b), **found.describe()})
    else:
        _print(found, Console())
    return 0


def _print(found: Comparison, console: Console) -> None:
    heads = ("tensor", "weights", "off in a", "off in b", "off in both", "differ", "Jaccard", "by chance")
    rows: list[tuple[str, ...]] = []
    for name, o in [*found.tensors.items(), ("all", found.overall)]:
        counts = (f"{n:,}" for n in (o.total, o.off_a, o.off_b, o.off_both, o.hamming))
        rows.append((printable(name), *counts, f"{o.jaccard:.3f}", f"{o.expected_jaccard:.3f}"))
    print_rows(console, heads, rows, folded=("tensor",))
