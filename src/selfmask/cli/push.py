"""`selfmask push`: a mask file on the Hugging Face hub, with a card made from its metadata."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from selfmask.cli.output import print_json
from selfmask.maskfile.loading import load
from selfmask.maskfile.mask import Mask
from selfmask.run.folder import RunFolder
from selfmask.tasks.card import model_card
from selfmask.tasks.hub import FILENAME, push_to_hub


@dataclass(frozen=True)
class PushSettings:
    """Publish a mask on the hub, with a card made from what the file says of itself. Needs a token: `hf auth login`
    once, or HF_TOKEN."""

    mask: Path
    """A mask file, or the folder of a run: then the card has the run's results too."""
    repo: str
    """The repository, OWNER/NAME; it is made if it does not exist."""
    private: bool = True
    """Only for your own account's eyes. A mask learnt on private images can leak something of them, so public must
    be said: --no-private."""
    filename: str = FILENAME
    """The mask file's name in the repository."""
    license: str = "unknown"
    """For the card: one of the hub's identifiers, cc-by-4.0 say."""
    message: str | None = None
    """Of the commit."""
    endpoint: str | None = None
    """Another hub's address."""
    preview: bool = False
    """Print the card, and send nothing."""
    json: bool = False
    """Print one JSON document instead of text."""


def run(settings: PushSettings) -> int:
    """Read, check, make the card, send."""
    mask = RunFolder(settings.mask).mask() if settings.mask.is_dir() else load(settings.mask)
    rows = _rows(settings.mask, mask)
    if settings.preview:
        card = model_card(
            mask, settings.repo, filename=settings.filename, license=settings.license, rows=rows
        )
        if settings.json:
            print_json({"repository": settings.repo, "card": card})
        else:
            print(card)
        return 0
    published = push_to_hub(
        mask.path,
        settings.repo,
        private=settings.private,
        endpoint=settings.endpoint,
        message=settings.message,
        filename=settings.filename,
        license=settings.license,
        rows=rows,
    )
    if settings.json:
        print_json({**asdict(published), "filename": settings.filename, "bytes": mask.bytes()["file"]})
        return 0
    seen = "only your account sees it" if published.private else "anyone can see it"
    print(f"{published.url}: {mask.bytes()['file']:,} bytes, commit {published.commit}; {seen}")
    if not published.card:
        print("its README.md was left as it is: somebody has written it, or taken selfmask's line out of it")
    print(f"fetch it: selfmask pull {published.repository} OUT")
    return 0


def _rows(path: Path, mask: Mask) -> dict[str, Any] | None:
    """The run's results, if `path` is a run's folder and they are those of this very file."""
    folder = RunFolder(path)
    if not path.is_dir() or not folder.result_file.is_file():
        return None
    result = folder.result()
    return None if result.rows is None or result.bytes != mask.bytes() else result.rows.to_json()
