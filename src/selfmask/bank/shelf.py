"""What was decoded, as much of it as the memory allows: the least recently used goes."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict

from selfmask.bank.folder import Entry
from selfmask.bank.specialist import Specialist
from selfmask.errors import SettingsError

_UNITS = {
    "": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}


def bytes_of(memory: int | float | str) -> int:
    """Bytes as a number, or in words: "1 GB" is 10^9, "512 MiB" is 2^29. Raises `SettingsError` for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(memory).lower().replace("bytes", ""))
    if found is None or found[2] not in _UNITS or isinstance(memory, bool):
        raise SettingsError(
            f'memory is a number of bytes, or words such as "500 MB" or "1 GB", got {memory!r}'
        )
    return int(float(found[1]) * _UNITS[found[2]])


class Shelf:
    """Specialists by the entry that they were made of, together at most `memory` bytes. For several threads."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self._held: OrderedDict[Entry, Specialist] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """What they take now."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._held)

    def get(self, entry: Entry) -> Specialist | None:
        """The one of `entry`, now the most recently used; None where it has to be decoded."""
        with self._lock:
            found = self._held.get(entry)
            if found is not None:
                self._held.move_to_end(entry)
            return found

    def put(self, entry: Entry, specialist: Specialist) -> Specialist:
        """Keep `specialist`, if the memory has room for it; returns it, or the one of another thread that was first."""
        with self._lock:
            if entry in self._held:
                return self._held[entry]
            self._held[entry] = specialist
            self._bytes += specialist.nbytes
            while self._bytes > self.memory:
                self._forget(next(iter(self._held)))
            return specialist

    def drop(self, entry: Entry) -> None:
        """Forget the one of `entry`, if it is here."""
        with self._lock:
            if entry in self._held:
                self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        self._bytes -= self._held.pop(entry).nbytes
