"""What `selfmask serve` prints at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfmask._common.units import counted
from selfmask.cli.printing import say

if TYPE_CHECKING:
    from selfmask.serve.run import Served


def show_served(served: Served) -> None:
    """What was done, at the end."""
    say(
        f"{counted(served.images, 'image')} in {counted(served.batches, 'batch', 'batches')}, "
        f"{counted(served.switches, 'switch', 'switches')}, "
        f"{served.seconds:,.0f} seconds"
    )
