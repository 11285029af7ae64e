"""What `selfmask serve` prints at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfmask.cli.printing import say

if TYPE_CHECKING:
    from selfmask.serve.run import Served


def show_served(served: Served) -> None:
    """What was done, at the end."""
    say(
        f"{served.images:,} images in {served.batches:,} batches, {served.switches:,} switches, "
        f"{served.seconds:,.0f} seconds"
    )
