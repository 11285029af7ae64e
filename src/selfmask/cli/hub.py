"""What the commands about the hub and about data sets print: push, pull, data."""

from __future__ import annotations

from rich.table import Table

from selfmask._common.console import SafeConsole
from selfmask.cli.printing import say
from selfmask.tasks.data import DataList, Fetched
from selfmask.tasks.publish import Preview, Pulled, Pushed


def show_pushed(pushed: Preview | Pushed) -> None:
    """The card, or where the mask is and who sees it."""
    if isinstance(pushed, Preview):
        say(pushed.card)
        return
    published = pushed.published
    seen = "only your account sees it" if published.private else "anyone can see it"
    say(f"{published.url}: {pushed.bytes:,} bytes, commit {published.commit}; {seen}")
    if not published.card:
        say("its README.md was left as it is: somebody has written it, or taken selfmask's line out of it")
    say(f"fetch it: selfmask pull {published.repository} OUT")


def show_pulled(pulled: Pulled) -> None:
    """The file that was written, and for which network it is."""
    mask = pulled.mask
    say(
        f"{pulled.out}: {mask.bytes()['file']:,} bytes, for {mask.learnt_on or 'a network that it does not name'}, "
        f"{100 * mask.density():.2f} % on; commit {pulled.commit}"
    )


def show_data(found: DataList | Fetched) -> None:
    """A line a data set, or where the fetched one lies."""
    if isinstance(found, Fetched):
        say(found.place)
        return
    table = Table(title=f"data sets by name, in {found.root}", title_justify="left")
    for column in ("name", "images", "classes", "here", "download", "licence"):
        table.add_column(column, justify="right" if column in ("images", "classes") else "left")
    for row in found.rows:
        fetch = f"{_size(row.download_bytes)}, {row.download}" if row.download_bytes else row.download
        table.add_row(
            row.name, f"{row.images:,}", str(row.classes), "yes" if row.here else "no", "" if row.here else fetch,
            row.licence,
        )  # fmt: skip
    SafeConsole().print(table)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
