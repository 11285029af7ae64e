"""`selfmask inspect`: what a mask file holds and what each part of it costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from selfmask._common.escape import printable
from selfmask.cli.output import print_json
from selfmask.cli.whole_text import print_rows
from selfmask.maskfile.codec import GapModel, Golomb
from selfmask.maskfile.loading import load
from selfmask.maskfile.mask import Mask
from selfmask.tasks.words import in_words, made_by


@dataclass(frozen=True)
class InspectSettings:
    """Show what is in a mask file: weights, density, bytes by part, the backbone, how it was learnt."""

    mask: Path
    """The mask file."""
    tensors: bool = False
    """Also a line for each masked tensor."""
    json: bool = False
    """Print one JSON document instead of text."""


def run(settings: InspectSettings) -> int:
    """Read, check, print. The bits themselves are not decoded."""
    mask = load(settings.mask)
    if settings.json:
        print_json(describe(mask))
    else:
        _print(mask, settings.tensors, Console())
    return 0


def describe(mask: Mask) -> dict[str, Any]:
    """All of it, JSON-able; densities are shares in [0, 1], bytes are whole numbers."""
    weights, on = mask.index.weights, sum(mask.on.values())
    flipped = _flipped(mask)
    return {
        "file": str(mask.path),
        "format": "1",
        "bytes": mask.bytes(),
        "weights": weights,
        "on": on,
        "density": mask.density(),
        "flipped": None if flipped is None else sum(flipped.values()),
        "bits_per_weight": 8 * mask.bytes()["masks"] / weights if weights else 0.0,
        "needs_base": mask.needs_base,
        "tensors": {
            name: {
                "shape": list(mask.shape(name)),
                "weights": mask.numel(name),
                "on": mask.on[name],
                "density": mask.on[name] / mask.numel(name) if mask.numel(name) else 1.0,
                "flipped": None if flipped is None else flipped[name],
                "coding": _coding(mask, name),
            }
            for name in mask.names
        },
        "statistics": list(mask.statistics),
        "trained": list(mask.trained),
        "head": {name: list(tensor.shape) for name, tensor in mask.head.items()},
        "head_dtype": {name: str(t.dtype).removeprefix("torch.") for name, t in mask.head.items()},
        "base": {"fingerprint": mask.index.base.fingerprint, "tensors": len(mask.index.base.tensors)},
        "learnt_on": mask.learnt_on,
        **{
            key: mask.metadata.get(key)
            for key in ("rule", "selection", "backbone", "preprocessing", "training")
        },
        "selfmask": mask.metadata.get("selfmask"),
        "metadata": mask.metadata,
    }


def _flipped(mask: Mask) -> dict[str, int] | None:
    """By tensor, how many bits differ from the mask before the first step; None where the file does not say."""
    kept = mask.metadata.get("flipped")
    bits = kept.get("bits") if isinstance(kept, dict) else None
    if not isinstance(bits, list) or len(bits) != len(mask.names) or any(type(n) is not int for n in bits):
        return None
    return dict(zip(mask.names, bits, strict=True))


def _coding(mask: Mask, name: str) -> str:
    coded = mask.index.masks[name]
    if coded.packed:
        return "packed"
    kinds = {GapModel: "entropy", Golomb: "Golomb"}
    used = [word for kind, word in kinds.items() if any(isinstance(model, kind) for model in coded.models)]
    words = [" and ".join(used) or "constant"]
    if coded.rows:
        words.append(f"{len(coded.rows)} classes of rows")
    if coded.thresholds:
        words.append(f"{len(coded.thresholds) + 1} classes of |θ|")
    return ", ".join(words)


def _print(mask: Mask, tensors: bool, console: Console) -> None:
    found = printable(describe(mask))
    sizes = found["bytes"]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", overflow="fold")
    table.add_column(overflow="fold")

    def row(name: str, text: str) -> None:
        table.add_row(name, escape(text))

    row("learnt on", f"{found['learnt_on'] or 'a module of the user’s own'} ({found['base']['fingerprint']})")
    row(
        "masked",
        f"{found['weights']:,} weights in {len(mask.names)} tensors, {100 * found['density']:.2f} % on",
    )
    if found["flipped"] is not None:
        row("flipped", f"{found['flipped']:,} bits since the start of the training")
    total = 8 * sizes["file"] / found["weights"] if found["weights"] else 0.0
    row("file", f"{sizes['file']:,} bytes ({total:.3f} bits a masked weight)")
    for part in ("masks", "statistics", "head", "metadata"):
        note = ""
        if part == "masks":
            note = f" ({found['bits_per_weight']:.3f} bits a weight)"
        elif part == "head" and mask.head:
            note = f" ({', '.join(sorted(set(found['head_dtype'].values())))})"
        row(f"  {part}", f"{sizes[part]:,} bytes{note}")
    if found["weights"] and sizes["file"]:
        row("  of fp32", f"1/{4 * found['weights'] / sizes['file']:.0f} of the masked weights as fp32")
    row("readable", "only beside its base" if mask.needs_base else "by itself")
    if made := made_by(mask.metadata):
        row("made by", str(printable(made)))
    for key in ("rule", "selection", "training"):
        if found[key]:
            row(key, in_words(found[key]))
    console.print(table, crop=False)
    if tensors:
        rows: list[tuple[str, ...]] = []
        for name, one in found["tensors"].items():
            shape = " × ".join(map(str, one["shape"]))
            flipped = "–" if one["flipped"] is None else f"{one['flipped']:,}"
            rows.append((name, shape, f"{100 * one['density']:.2f} %", flipped, one["coding"]))
        heads = ("tensor", "shape", "on", "flipped", "coding")
        print_rows(console, heads, rows, folded=("tensor", "coding"))
