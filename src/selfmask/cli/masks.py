"""What the commands on mask files print: inspect, apply, export, compare, combine, compact, analyze."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from selfmask._common.console import SafeConsole
from selfmask._common.escape import printable
from selfmask.cli.printing import print_rows, say
from selfmask.reports.wording import percent, size
from selfmask.tasks.words import budget_in_words, in_words, made_by

if TYPE_CHECKING:
    from selfmask.tasks.analyze import Analysis
    from selfmask.tasks.apply import Applied
    from selfmask.tasks.compact import Compacted
    from selfmask.tasks.compare import Comparison
    from selfmask.tasks.export import Exported
    from selfmask.tasks.in_bytes import InBytes
    from selfmask.tasks.inspect import Inspection


def show_inspection(inspection: Inspection, console: Console | None = None) -> None:
    """What the file is, its bytes by part, how it was learnt; on request each tensor."""
    mask, found = inspection.mask, printable(inspection.document())
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
    for part in ("masks", "statistics", "norms", "head", "metadata"):
        note = ""
        if part == "masks":
            note = f" ({found['bits_per_weight']:.3f} bits a weight)"
        elif part == "head" and mask.head:
            note = f" ({', '.join(sorted(set(found['head_dtype'].values())))})"
        row(f"  {part}", f"{sizes[part]:,} bytes{note}")
    if found["weights"] and sizes["file"]:
        times = 4 * found["weights"] / sizes["file"]
        said = (
            f"1/{times:.0f}" if times >= 10 else f"1/{times:.1f}" if times >= 1 else f"{1 / times:.1f} times"
        )
        row("  of fp32", f"{said} of the masked weights as fp32")
    if found["budget"]:
        row("budget", budget_in_words(found["budget"]))
    if made := made_by(mask.metadata):
        row("made by", str(printable(made)))
    for key in ("rule", "selection", "training"):
        if found[key]:
            row(key, in_words(found[key]))
    (console or SafeConsole()).print(table, crop=False)
    if inspection.tensors:
        rows: list[tuple[str, ...]] = []
        for name, one in found["tensors"].items():
            shape = " × ".join(map(str, one["shape"]))
            flipped = "–" if one["flipped"] is None else f"{one['flipped']:,}"
            rows.append((name, shape, f"{100 * one['density']:.2f} %", flipped, one["coding"]))
        print_rows(
            ("tensor", "shape", "on", "flipped", "coding"), rows, folded=("tensor", "coding"), console=console
        )


def show_applied(applied: Applied) -> None:
    """The file that was written."""
    say(
        f"{applied.out}: {applied.bytes:,} bytes, {applied.backbone} with {100 * applied.density:.2f} % of its masked "
        "weights on"
    )


def show_exported(exported: Exported) -> None:
    """The program that was written, and what it takes."""
    side = exported.input.shape[-1]
    say(
        f"{exported.out}: {exported.bytes:,} bytes; images of {side} × {side} pixels, float32 in [0, 1] less mean "
        f"{exported.input.mean} over std {exported.input.std}, to {exported.output}"
    )


def show_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """All weights first; then, on request, each tensor."""
    heads = ("tensor", "weights", "off in a", "off in b", "off in both", "differ", "Jaccard", "by chance")
    rows: list[tuple[str, ...]] = []
    shown = comparison.tensors if comparison.each else {}
    for name, o in [("all", comparison.overall), *shown.items()]:
        counts = (f"{n:,}" for n in (o.total, o.off_a, o.off_b, o.off_both, o.hamming))
        rows.append((name, *counts, f"{o.jaccard:.3f}", f"{o.expected_jaccard:.3f}"))
    print_rows(heads, rows, folded=("tensor",), console=console)
    if not comparison.each:
        say(f"--tensors shows each of the {len(comparison.tensors)} tensors")


def show_combined(made: Inspection) -> None:
    """The file that was written."""
    say(f"{made.mask.path}: {100 * made.mask.density():.2f} % on, {made.mask.bytes()['file']:,} bytes")
    if dropped := made.mask.metadata["derived"].get("dropped"):
        say(
            f"not all masks have the same {', '.join(dropped)}: the new one has none, so measure it before you use it"
        )


def show_compacted(compacted: Compacted | InBytes) -> None:
    """What was turned on again, what that cost, and the bytes before and after."""
    # Here, because the other commands need nothing that it imports.
    from selfmask.tasks.in_bytes import InBytes

    if isinstance(compacted, InBytes):
        _show_in_bytes(compacted)
        return
    search, new, old = compacted.search, compacted.after, compacted.before
    if compacted.saturated:
        say(
            "k-NN is right on nearly all held-out images, as it is on images that a mask was learnt on: judged by the "
            "cosine to the features before. Images that it has not seen would tell more"
        )
    if compacted.unchanged:
        say("nothing that was tried is smaller and within the tolerance: the masks are as they were")
    say(
        f"{100 * search.chosen.share:.0f} % of what was off is on again; {compacted.measure} on held-out images "
        f"{search.before.score:.1f} before, {search.chosen.score:.1f} after"
    )
    if compacted.tested is not None:
        say(f"test: {compacted.tested}")
    if compacted.head_rounded:
        unknown = (
            "what the rounded head costs was not measured: that needs test images labelled with its classes"
        )
        say(compacted.head or unknown)
    for note in compacted.notes:
        say(f"note: {note}")
    say(
        f"{compacted.out}: {new['file']:,} bytes (masks {new['masks']:,}, head {new['head']:,}); "
        f"before {old['file']:,} (masks {old['masks']:,}, head {old['head']:,})"
    )


def _show_in_bytes(found: InBytes) -> None:
    if found.record is None:
        say("the whole file fits: nothing was given up")
    else:
        say(f"what is left, in {budget_in_words(found.record)}")
        kept_back = "held out" if found.seen[0] == 0 else "judged by"
        for what, cost in ((kept_back, found.on_judged), ("test", found.tested)):
            if cost is not None:
                say(f"{what}: {cost}, by the mask’s own head on {cost.images} images")
        if found.on_judged is None:
            say(
                f"what the head says moved by {found.moved:.2g} nats; its top-1 was not measured"
                if found.said
                else f"the outputs moved by {found.moved:.2g} of their mean square; there is no head to measure by"
            )
    parts = ", ".join(f"{part} {found.after[part]:,}" for part in ("masks", "norms", "head", "metadata"))
    for note in found.notes:
        say(f"note: {note}")
    say(
        f"{found.out}: {found.after['file']:,} bytes of {found.max_bytes:,} ({parts}); before {found.before['file']:,}"
    )


def show_analysis(analysis: Analysis) -> None:
    """A line a mask, each figure in words, and where the files are."""
    found, console = analysis.study, SafeConsole()
    table = Table(title=f"{len(found.subjects)} masks", title_justify="left")
    for column in ("mask", "backbone", "data", "objective", "weights off", "file"):
        table.add_column(column, justify="right" if column in ("weights off", "file") else "left")
    for s in found.subjects:
        words = printable([s.label, s.backbone, s.data, s.objective])
        table.add_row(*map(escape, words), percent(1 - s.density), size(s.sizes.get("file", 0)))
    console.print(table)
    for chart in found.charts:
        say(f"{chart.title}: {chart.alt}")
    for note in found.notes:
        say(f"note: {note}")
    if analysis.files:
        say(f"{len(analysis.files)} files in {analysis.files[0].parent}")
