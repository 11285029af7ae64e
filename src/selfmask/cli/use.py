"""What the commands that use a network print: embed."""

from __future__ import annotations

from selfmask.cli.printing import say
from selfmask.tasks.embed import EmbeddedImages


def show_embedded(embedded: EmbeddedImages) -> None:
    """The file, what is in it, and what is not."""
    record = embedded.record
    if record.left_out:
        say(
            f"{record.left_out:,} of {record.left_out + record.rows:,} images could not be read and were left out"
        )
    again = f" ({embedded.reused} of {embedded.parts} parts were there already)" if embedded.reused else ""
    say(
        f"{embedded.out}: {record.rows:,} embeddings of {record.width} numbers ({record.dtype}), "
        f"{embedded.out.stat().st_size:,} bytes, by {record.made_by}{again}"
    )
