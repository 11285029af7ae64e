"""The masks of a bank by name, the folders that they come from, and what was refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from selfmask._common.near import did_you_mean
from selfmask.bank.folder import Entry, Stamp, check_not_rejected, mask_file, masks_in, name_of, stamp_of
from selfmask.errors import SelfmaskError, SettingsError

Check = Callable[[Path, str | None, Path | None], Entry]
"""A mask file, the name that it is to have (None: its own) and the folder that it was found in: every check, and an
entry for it."""


@dataclass(frozen=True)
class Changes:
    """What `refresh` found: names of masks, and refused files with the reason."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)


class Register:
    """Entries by name, in the order in which they were added. For several threads: looking up never waits.

    check: see `Check`. forget: what is to be done with an entry that is replaced or removed.
    """

    def __init__(self, check: Check, forget: Callable[[Entry], None]) -> None:
        self._check = check
        self._forget = forget
        self._entries: dict[str, Entry] = {}
        self._refused: dict[Path, tuple[Stamp | None, str]] = {}
        self._folders: list[Path] = []
        self._changing = threading.RLock()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    @property
    def refused(self) -> dict[str, str]:
        """By path, why."""
        return {str(path): why for path, (_, why) in dict(self._refused).items()}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def entry(self, name: str) -> Entry:
        """Raises `SettingsError` for an unknown name."""
        found = self._entries.get(name)
        if found is None:
            near = did_you_mean(name, self.names) if isinstance(name, str) else ""
            raise SettingsError(f"the bank has no mask {name!r}{near or f'; it has {len(self)}'}")
        return found

    def add(self, path: Path, name: str | None) -> str:
        """Take one file; returns its name. Raises `SettingsError` where that is taken."""
        entry = self._check(mask_file(path), name, None)
        with self._changing:
            if entry.name in self._entries:
                raise SettingsError(
                    f"the bank has a mask {entry.name!r} already, from {self._entries[entry.name].path}; give this one "
                    "another name, or remove that one"
                )
            self._entries[entry.name] = entry
            self._refused.pop(entry.path, None)
            return entry.name

    def watch(self, folder: Path) -> None:
        """Have `refresh` look at a folder too."""
        with self._changing:
            self._folders.append(folder)

    def remove(self, name: str) -> None:
        """Raises `SettingsError` for an unknown name."""
        with self._changing:
            entry = self.entry(name)
            if entry.folder is not None:
                self._refused[entry.path] = (entry.stamp, "it was removed from the bank")
            self._drop(entry)

    def refresh(self) -> Changes:
        """Look at the folders: see `Bank.refresh`."""
        added, changed, removed, refused = [], [], [], {}
        with self._changing:
            for folder in self._folders:
                paths = masks_in(folder)
                there = set(paths)
                for name, entry in list(self._entries.items()):
                    if entry.folder == folder and entry.path not in there:
                        self._drop(entry)
                        removed.append(name)
                for path in [p for p in self._refused if p not in there and _within(p, folder)]:
                    del self._refused[path]
                known = {entry.path: entry for entry in self._entries.values()}
                for path in paths:
                    found = self._look_at(path, folder, known.get(path))
                    if isinstance(found, str):
                        refused[str(path)] = found
                    elif found is not None:
                        (changed if path in known else added).append(found.name)
            for entry in [entry for entry in self._entries.values() if entry.folder is None]:
                found = self._look_at(entry.path, None, entry)
                if isinstance(found, str):
                    refused[str(entry.path)] = found
                elif found is not None:
                    changed.append(found.name)
        return Changes(tuple(added), tuple(changed), tuple(removed), refused)

    def _look_at(self, path: Path, folder: Path | None, known: Entry | None) -> Entry | str | None:
        """Take a file of a watched folder, or one by itself.

        Its new entry, why it is refused, or None where it is what it was.
        """
        stamp = None
        try:
            stamp = stamp_of(path)
            if known is not None and known.stamp == stamp:
                self._refused.pop(path, None)
                return None
            if self._refused.get(path, (None,))[0] == stamp:
                return None
            if folder is not None:
                check_not_rejected(path, folder)
            name = name_of(path) if known is None else known.name
            other = self._entries.get(name)
            if other is not None and other.path != path:
                stamp = None  # so that it is looked at again: that one may go
                raise SettingsError(f"its name {name!r} is taken by {other.path}")
            entry = self._check(path, name, folder)
        except (SelfmaskError, OSError) as error:
            self._refused[path] = (stamp, str(error))
            return str(error)
        self._refused.pop(path, None)
        if known is not None:
            self._forget(known)
        self._entries[entry.name] = entry
        return entry

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.name]
        self._forget(entry)


def _within(path: Path, folder: Path) -> bool:
    return folder in (path.parent, path.parent.parent)
