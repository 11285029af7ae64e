"""The console that every command and every run speaks on: text from files and folders is shown on it, never obeyed.

Names of classes, files and networks stand in tables, lines of progress and warnings that many rooms print. Here is the
one place where all of it passes, after rich has made segments of it and before its own colours are added.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from selfmask._common.escape import lines


def tell(console: Console, line: str) -> None:
    """A line as it is: no markup, no colours of rich's own, cut nowhere."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


class SafeConsole(Console):
    """rich's console, with everything shown that a terminal would obey, but for what rich says itself."""

    def on_broken_pipe(self) -> None:
        """The reader has gone: for the program to see, where rich would exit."""
        raise BrokenPipeError

    def render_str(self, text: str, **how: Any) -> Text:
        # Here as well, so that a table's column is as wide as what is shown.
        return super().render_str(lines(text), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            shown = segment.text if segment.control else lines(segment.text)
            # Most are plain, and a segment that stays itself is not measured again.
            yield segment if shown == segment.text else Segment(shown, segment.style)
