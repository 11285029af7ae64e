"""What was decoded, as much of it as the memory allows: the least recently used goes."""

from __future__ import annotations

import threading
from collections import OrderedDict

from selfmask.bank.folder import Entry
from selfmask.bank.specialist import Specialist


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
