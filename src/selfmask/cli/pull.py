"""`selfmask pull`: a mask file from the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from selfmask.cli.inspect import describe
from selfmask.cli.output import print_json
from selfmask.tasks.hub import FILENAME, commit_of, save_from_hub


@dataclass(frozen=True)
class PullSettings:
    """Fetch a mask from the hub and check it. A damaged or hostile file is refused, and nothing is written."""

    repo: str
    """The repository, OWNER/NAME."""
    out: Path
    """The file to write."""
    filename: str = FILENAME
    """The mask file's name in the repository."""
    revision: str | None = None
    """A branch, a tag or a commit; only a commit gives the same mask for ever. Default: main."""
    endpoint: str | None = None
    """Another hub's address."""
    json: bool = False
    """Print one JSON document instead of text."""


def run(settings: PullSettings) -> int:
    """Fetch, check, write."""
    mask = save_from_hub(
        settings.repo,
        settings.out,
        filename=settings.filename,
        revision=settings.revision,
        endpoint=settings.endpoint,
    )
    commit = commit_of(mask)
    if settings.json:
        print_json(
            {"repository": settings.repo, "commit": commit, **describe(mask), "file": str(settings.out)}
        )
        return 0
    print(
        f"{settings.out}: {mask.bytes()['file']:,} bytes, for {mask.learnt_on or 'a network that it does not name'}, "
        f"{100 * mask.density():.2f} % on; commit {commit}"
    )
    return 0
