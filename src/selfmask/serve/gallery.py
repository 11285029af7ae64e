"""What is searched in: files of embeddings, each by the very mask that made it, as they lie there now."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from selfmask.bank.bank import Bank
from selfmask.bank.folder import Stamp, mask_file, name_of, stamp_of
from selfmask.embeddings.embedder import network_digest
from selfmask.embeddings.file import Embeddings, open_embeddings
from selfmask.embeddings.parts import json_beside
from selfmask.embeddings.record import MadeBy
from selfmask.embeddings.search import hits
from selfmask.errors import DataError, SelfmaskError, SettingsError


@dataclass(frozen=True)
class _Opened:
    """A file, and how it lay there when it was opened: with another stamp it has to be opened again."""

    file: Embeddings
    stamps: tuple[Stamp | None, ...]

    @classmethod
    def of(cls, path: Path) -> _Opened:
        stamps = _stamps(path)  # before it is read: what is replaced meanwhile is read again
        return cls(open_embeddings(path), stamps)

    @property
    def still(self) -> bool:
        return _stamps(self.file.path) == self.stamps


class Gallery:
    """Files that `selfmask embed` wrote, by the name of the mask (None: the untouched backbone) that made each.

    One that is written again while it is served is taken as it then is. Raises `DataError` for files that are none,
    `SettingsError` where two are of one mask, or one of no mask.
    """

    def __init__(self, bank: Bank, paths: Iterable[Path]) -> None:
        self._bank = bank
        self._files: dict[str | None, _Opened] = {}
        self._digests: dict[str | None, tuple[bytes, str]] = {}
        self._looking = threading.Lock()
        for path in paths:
            found = _Opened.of(path)
            name = _name_of(bank, found.file.record.made_by, path)
            if name in self._files:
                raise SettingsError(
                    f"{path} and {self._files[name].file.path} are both of {name or 'the backbone'}"
                )
            self._files[name] = found

    def __contains__(self, name: str | None) -> bool:
        return name in self._files

    def check(self, name: str | None) -> None:
        """Raises `SettingsError` where there is nothing to search for `name`, or another network made it.

        The network is hashed when it is first asked for, and again when the bank has taken another file.
        """
        self._checked(name)

    def search(self, name: str | None, x: Tensor, k: int) -> Sequence[dict[str, Any]]:
        """For each row of x (Q, width) the `k` nearest images as a document, the nearest first. Raises as `check`."""
        while (
            True
        ):  # again only where the file was written anew meanwhile: half of what was found is of the old one
            opened = self._checked(name)
            try:
                found = hits(opened.file, x, k)
            except DataError:
                if opened.still:
                    raise
                continue
            if opened.still:
                return [{"found": [asdict(hit) for hit in some]} for some in found]

    def _checked(self, name: str | None) -> _Opened:
        if name not in self._files:
            raise SettingsError(
                f"there are no embeddings to search by {name or 'the untouched backbone'}: see --gallery"
            )
        with self._looking:
            if not (opened := self._files[name]).still:
                opened = self._files[name] = _Opened.of(opened.file.path)
            version = self._bank.version(name)
            if name not in self._digests or self._digests[name][0] != version:
                with self._bank.use(name):
                    own = replace(self._bank.backbone, preprocessing=self._bank.preprocessing(name))
                    self._digests[name] = (version, network_digest(own))
            if self._digests[name][1] != opened.file.record.made_by.digest:
                raise SettingsError(
                    "the embeddings to search were made by another network (another mask, size or recipe): embed the "
                    "images again"
                )
        return opened


def _stamps(path: Path) -> tuple[Stamp | None, ...]:
    """Of all that the file consists of; None for what is not there."""
    parts = (path, json_beside(path)) if path.suffix == ".npy" else (path,)
    return tuple(stamp_of(part) if part.exists() else None for part in parts)


def _name_of(bank: Bank, made_by: MadeBy, path: Path) -> str | None:
    if made_by.kind == "backbone":
        return None
    if made_by.kind == "mask" and made_by.path is not None:
        try:
            name = name_of(mask_file(Path(made_by.path)))
        except SelfmaskError:  # it has moved: its name is what is left
            name = name_of(Path(made_by.path))
        if name in bank:
            return name
    raise SettingsError(f"{path} was made by {made_by}, which is none of the masks that are served")
