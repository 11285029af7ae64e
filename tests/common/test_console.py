"""Whatever is put on the console, no text on it is obeyed by the terminal."""

from __future__ import annotations

import io

from rich.console import Console
from rich.panel import Panel
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from selfmask._common.console import SafeConsole

HOSTILE = "cat\x1b]0;owned\x07\x9b2J\u202egpj\ud800"
SHOWN = r"\x9b2J\u202egpj\ud800"  # the bell before it rich takes out by itself, of a `Text`


def written(what: object, *, terminal: bool = False, console: type[Console] = SafeConsole) -> str:
    out = io.StringIO()
    console(file=out, width=200, force_terminal=terminal, color_system=None).print(what)
    return out.getvalue()


def test_text_from_files_is_shown() -> None:
    table = Table("class")
    table.add_row(HOSTILE)
    for what in (HOSTILE, Text(HOSTILE), table, Panel(HOSTILE, title=HOSTILE)):
        text = written(what)
        assert SHOWN in text
        assert text.isprintable() or set(text) - {"\n"} == set("".join(filter(str.isprintable, text)))


def test_what_rich_says_itself_goes_through() -> None:
    out = io.StringIO()
    console = SafeConsole(file=out, force_terminal=True, color_system="standard", width=80)
    console.print("a [bold]word[/bold] on\ntwo lines")
    assert "\x1b[1mword\x1b[0m on\ntwo lines\n" in out.getvalue()
    with Progress(console=console, transient=True) as progress:
        progress.update(progress.add_task(HOSTILE, total=2), completed=2)
    assert out.getvalue().endswith("\x1b[2K")
    assert "\x1b]0;" not in out.getvalue()
    table = Table("a", "b")
    table.add_row("x", "größer 😀")
    assert written(table) == written(table, console=Console)
