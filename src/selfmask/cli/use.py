"""What the commands that use a network print: embed, predict, search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfmask._common.units import counted
from selfmask.cli.printing import print_rows, say

if TYPE_CHECKING:
    from selfmask.embeddings.record import Record
    from selfmask.tasks.embed import EmbeddedImages
    from selfmask.tasks.predict import Predicted
    from selfmask.tasks.search import Found

_MOST_SHOWN = 20


def show_embedded(embedded: EmbeddedImages) -> None:
    """The file, what is in it, and what is not."""
    record = embedded.record
    _say_left_out(record)
    again = f" ({embedded.reused} of {embedded.parts} parts were there already)" if embedded.reused else ""
    say(
        f"{embedded.out}: {counted(record.rows, 'embedding')} of {record.width} numbers ({record.dtype}), "
        f"{embedded.out.stat().st_size:,} bytes, by {record.made_by}{again}"
    )


_HOW = {
    "head": "the mask’s own head",
    "text": "the names of the classes",
    "knn": "k-NN among {:,} labelled images",
}


def show_predicted(predicted: Predicted) -> None:
    """How many images of each class, by what, and the table."""
    _say_left_out(predicted.record)
    rows = [(label, f"{count:,}") for label, count in [*predicted.counts.items()][:_MOST_SHOWN]]
    print_rows(("label", "images"), rows, folded=("label",))
    if len(predicted.counts) > _MOST_SHOWN:
        say(f"and {len(predicted.counts) - _MOST_SHOWN:,} more classes")
    how = _HOW[predicted.method].format(predicted.labelled) + (", whitened" if predicted.whitened else "")
    images = counted(predicted.record.rows, "image")
    classes = counted(len(predicted.classes), "class", "classes")
    say(f"{predicted.out}: {images}, {classes}, by {how}")


def _say_left_out(record: Record) -> None:
    if record.left_out:
        images = counted(record.left_out + record.rows, "image")
        say(f"{record.left_out:,} of {images} could not be read and were left out")


def show_found(found: Found) -> None:
    """A line an image that was found, of the first queries; and where the rest is."""
    rows = [
        (answer.query if rank == 1 else "", f"{hit.similarity:.4f}", hit.path)
        for answer in found.answers[:_MOST_SHOWN]
        for rank, hit in enumerate(answer.found, 1)
    ]
    print_rows(("query", "cosine", "image"), rows, folded=("query", "image"))
    for note in found.notes:
        say(f"note: {note}")
    if len(found.answers) > _MOST_SHOWN:
        say(f"The first {_MOST_SHOWN} of {len(found.answers):,} queries; --json or --out FILE.csv has all")
    if found.out is not None:
        say(found.out)
