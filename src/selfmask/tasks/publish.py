"""`selfmask push` and `selfmask pull`: a mask file on the Hugging Face hub, and from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from selfmask.maskfile.mask import Mask
from selfmask.run.folder import RunFolder
from selfmask.tasks.card import model_card
from selfmask.tasks.hub import FILENAME, Published, check_license, commit_of, push_to_hub, save_from_hub
from selfmask.tasks.inspect import Inspection
from selfmask.tasks.opening import open_mask


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

    def __post_init__(self) -> None:
        check_license(self.license)


@dataclass(frozen=True)
class Preview:
    """The card that a push would write."""

    repository: str
    card: str

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        return asdict(self)


@dataclass(frozen=True)
class Pushed:
    """What was published, and its size in bytes."""

    published: Published
    filename: str
    bytes: int

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        return {**asdict(self.published), "filename": self.filename, "bytes": self.bytes}


def push(settings: PushSettings) -> Preview | Pushed:
    """Read, check, make the card, send."""
    mask = open_mask(settings.mask)
    rows = _rows(settings.mask, mask)
    if settings.preview:
        card = model_card(
            mask, settings.repo, filename=settings.filename, license=settings.license, rows=rows
        )
        return Preview(settings.repo, card)
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
    return Pushed(published, settings.filename, mask.bytes()["file"])


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


@dataclass(frozen=True)
class Pulled:
    """A mask that was fetched, from which commit, and where it was written."""

    repository: str
    commit: str | None
    mask: Mask
    out: Path

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        found = Inspection(self.mask).document()
        return {"repository": self.repository, "commit": self.commit, **found, "file": str(self.out)}


def pull(settings: PullSettings) -> Pulled:
    """Fetch, check, write."""
    mask = save_from_hub(
        settings.repo,
        settings.out,
        filename=settings.filename,
        revision=settings.revision,
        endpoint=settings.endpoint,
    )
    return Pulled(settings.repo, commit_of(mask), mask, settings.out)


def _rows(path: Path, mask: Mask) -> dict[str, Any] | None:
    """The run's results, if `path` is a run's folder and they are those of this very file."""
    folder = RunFolder(path)
    if not path.is_dir() or not folder.result_file.is_file():
        return None
    result = folder.result()
    return None if result.rows is None or result.bytes != mask.bytes() else result.rows.to_json()
