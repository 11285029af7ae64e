"""What is searched in: files of embeddings, each by the very mask that made it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from selfmask.bank.bank import Bank
from selfmask.bank.folder import mask_file, name_of
from selfmask.embeddings.embedder import network_digest
from selfmask.embeddings.file import Embeddings, open_embeddings
from selfmask.embeddings.record import MadeBy
from selfmask.embeddings.search import hits
from selfmask.errors import SelfmaskError, SettingsError


class Gallery:
    """Files that `selfmask embed` wrote, by the name of the mask (None: the untouched backbone) that made each.

    Raises `DataError` for files that are none, `SettingsError` where two are of one mask, or one of no mask.
    """

    def __init__(self, bank: Bank, paths: Iterable[Path]) -> None:
        self._bank = bank
        self._files: dict[str | None, Embeddings] = {}
        self._digests: dict[str | None, tuple[bytes, str]] = {}
        self._looking = threading.Lock()
        for path in paths:
            found = open_embeddings(path)
            name = _name_of(bank, found.record.made_by, path)
            if name in self._files:
                raise SettingsError(
                    f"{path} and {self._files[name].path} are both of {name or 'the backbone'}"
                )
            self._files[name] = found

    def __contains__(self, name: str | None) -> bool:
        return name in self._files

    def check(self, name: str | None) -> None:
        """Raises `SettingsError` where there is nothing to search for `name`, or another network made it.

        The network is hashed when it is first asked for, and again when the bank has taken another file.
        """
        if name not in self._files:
            raise SettingsError(
                f"there are no embeddings to search by {name or 'the untouched backbone'}: see --gallery"
            )
        made_by = self._files[name].record.made_by
        with self._looking:
            version = self._bank.version(name)
            if name not in self._digests or self._digests[name][0] != version:
                with self._bank.use(name):
                    own = replace(self._bank.backbone, preprocessing=self._bank.preprocessing(name))
                    self._digests[name] = (version, network_digest(own))
            if self._digests[name][1] != made_by.digest:
                raise SettingsError(
                    "the embeddings to search were made by another network (another mask, size or recipe): embed the "
                    "images again"
                )

    def search(self, name: str | None, x: Tensor, k: int) -> Sequence[dict[str, Any]]:
        """For each row of x (Q, width) the `k` nearest images as a document, the nearest first."""
        return [{"found": [asdict(hit) for hit in found]} for found in hits(self._files[name], x, k)]


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
