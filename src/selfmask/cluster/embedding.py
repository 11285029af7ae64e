"""Parts of a file of embeddings, made by workers: processes that each hold one network, on one machine or on many.

A part's name says all that makes it what it is, and its file is there whole or not at all. So who makes it, and how
often it was tried, makes no difference: a worker that dies costs the part that it was at, which goes to another one.

Why not Ray Data: it cuts its blocks, and tries them again, as it finds best. Here the cuts are those of a single
process, so that its parts and these are the same files, and either goes on where the other was killed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from selfmask._common.console import tell
from selfmask._common.escape import one_line
from selfmask.cluster.processes import Processes
from selfmask.embeddings.embedder import Embedder
from selfmask.embeddings.parts import Made, Parts, Wanted
from selfmask.errors import RunError, SelfmaskError, SettingsError
from selfmask.images.listing import Entry
from selfmask.run.process import use_threads

_PATIENCE = 30.0
"""Seconds without a word from any worker after which this is said."""
_DEATHS = 3
"""Workers, beside one for each, that may die with no part made in between."""


@dataclass(frozen=True)
class Workers:
    """What makes parts: processes that each open a network, by `open`, on the device that it is given."""

    ray: Any
    processes: Processes
    open: Callable[[str], Embedder]

    def make(self, console: Console, parts: Parts, wanted: Iterable[Wanted]) -> Iterator[Made]:
        """Make the parts `wanted`, and tell of each when it is there, in the order in which they get ready.

        Raises `RunError` where workers die again and again, and what a worker raises.
        """
        ray = self.ray
        jobs, again = iter(wanted), deque[Wanted]()
        busy: dict[Any, tuple[Any, Wanted | None]] = {}
        deaths = 0

        def employ() -> None:
            actor = self._started(parts)
            busy[actor.ready.remote()] = (actor, None)

        try:
            for _ in range(self.processes.count):
                employ()
            while busy:
                done, _ = ray.wait(list(busy), num_returns=1, timeout=_PATIENCE)
                if not done:
                    tell(console, "no worker has answered for a while: they wait for room, or are at work")
                    continue
                actor, job = busy.pop(done[0])
                try:
                    made = _answer(ray, done[0])
                except ray.exceptions.RayActorError as error:
                    deaths += 1
                    if deaths > _DEATHS + self.processes.count:
                        raise RunError(
                            f"{deaths} workers died one after another, and no part was made in between: "
                            f"{one_line(str(error))[:300]}"
                        ) from error
                    tell(
                        console,
                        "a worker died: another one is started, and the part that it was at is made again",
                    )
                    if job is not None:
                        again.append(job)
                    ray.kill(actor)  # what cannot be reached may live
                    employ()
                    continue
                if job is not None:
                    deaths = 0
                    yield made
                job = again.popleft() if again else next(jobs, None)
                if job is not None:
                    busy[actor.make.remote(*job)] = (actor, job)
                else:
                    ray.kill(actor)
                    if not any(job for _, job in busy.values()):
                        return  # others may wait for room still, and nothing is left for them
        finally:
            for actor, _ in busy.values():
                ray.kill(actor)

    def _started(self, parts: Parts) -> Any:
        how = self.ray.remote(_Worker).options(max_restarts=0, **self.processes.options)
        return how.remote(self.open, parts, self.processes)


class _Worker:
    """One process: a network, and parts by it."""

    def __init__(self, open: Callable[[str], Embedder], parts: Parts, processes: Processes) -> None:
        self._open, self._parts, self._processes = open, parts, processes
        self._embedder: Embedder | None = None

    def ready(self) -> None:
        """Open the network, and see that it is the one and the folder is there."""
        use_threads(self._processes.threads)
        found = self._open(self._processes.device)
        if found.made_by.digest != self._parts.digest:
            raise SettingsError(
                f"a worker finds another network than the command ({found.made_by}): mask and weights have to be the "
                "same files for all machines"
            )
        if not self._parts.folder.is_dir():
            raise SettingsError(
                f"a worker does not find {self._parts.folder}: images, network and --out have to lie in folders that "
                "all machines share"
            )
        self._embedder = found

    def make(self, path: Path, entries: Sequence[Entry]) -> Made:
        """Make a part, unless it is there."""
        if path.is_file():
            return Made(len(entries))
        assert self._embedder is not None
        return self._parts.made(path, self._embedder.embed_entries(entries))


def _answer(ray: Any, reference: Any) -> Any:
    """What a worker gave. Raises our errors as they were raised there."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SelfmaskError):
            raise error.cause from None
        raise
