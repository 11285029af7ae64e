"""The queue of a service: requests wait in it by mask, so that a mask that is put on is used for all who want it.

A mask changes whole weights, so two masks can never share a pass. What is waited for decides what a server can do: one
switch for many requests, or one for each. Nothing here knows of HTTP, of images or of a network.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from selfmask.errors import SelfmaskError, SettingsError

W = TypeVar("W")


class QueueFullError(SelfmaskError):
    """As many images wait as may; try again later."""


class QueueClosedError(SelfmaskError):
    """The service is ending and takes nothing more."""


@dataclass(frozen=True, eq=False)
class Job(Generic[W]):
    """What one request wants of one mask (None: the untouched backbone).

    images: how many it brings, 1 or more. since: when it came, by the queue's clock. answer: set by who works on it.
    """

    mask: str | None
    images: int
    work: W
    since: float
    answer: Future[Any] = field(default_factory=Future)


class MaskQueue(Generic[W]):
    """Jobs in, batches of one mask out. For several threads.

    Args:
        length: images that may wait, together.
        batch: images that a batch has at most (a job with more is a batch of its own).
        patience: seconds. While nobody has waited longer, the mask that was last given out goes on, and after it the
            one that most images wait for. Where somebody has, the one who waits longest is in the next batch.
        clock: seconds, never backwards.

    So a job waits at most `patience` and then for the batches of those that came before it: with at most `length`
    images waiting there is an end to that, whatever comes in after it. Jobs of one mask are given out in the order in
    which they came.

    >>> queue = MaskQueue(length=100, batch=64, patience=0.5)
    >>> queue.put("flowers", 2, "two pictures").done()
    False
    >>> [job.work for job in queue.take()]
    ['two pictures']
    """

    def __init__(
        self, length: int, batch: int, patience: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if length < 1 or batch < 1 or not patience >= 0:
            raise SettingsError(
                "a queue holds 1 image or more, a batch has 1 or more, and patience is 0 seconds or more; got "
                f"{length}, {batch}, {patience}"
            )
        self.length, self.batch, self.patience = length, batch, patience
        self._clock = clock
        self._by_age: dict[Job[W], None] = {}  # the order of a dict is that of arrival
        self._by_mask: dict[str | None, deque[Job[W]]] = {}
        self._images: dict[str | None, int] = {}
        self._waiting = 0
        self._last: str | None = None
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """Images that wait."""
        return self._waiting

    def put(self, mask: str | None, images: int, work: W) -> Future[Any]:
        """Where the answer will be. Who cancels it takes the job back, unless it is being worked on.

        Raises `QueueFullError` and `QueueClosedError`; then nothing was taken.
        """
        with self._changed:
            if self._closed:
                raise QueueClosedError("the service is ending")
            if images < 1 or self._waiting + images > self.length:
                raise QueueFullError(f"{self._waiting} of {self.length} images wait already: try again later")
            job = Job(mask, images, work, self._clock())
            self._by_age[job] = None
            self._by_mask.setdefault(mask, deque()).append(job)
            self._images[mask] = self._images.get(mask, 0) + images
            self._waiting += images
            self._changed.notify()
        job.answer.add_done_callback(partial(self._taken_back, job))
        return job.answer

    def _taken_back(self, job: Job[W], answer: Future[Any]) -> None:
        """Room for others at once, where nobody waits for `job` any more."""
        with self._changed:
            if not answer.cancelled() or job not in self._by_age:
                return
            del self._by_age[job]
            jobs = self._by_mask[job.mask]
            jobs.remove(job)
            self._waiting -= job.images
            self._images[job.mask] -= job.images
            if not jobs:
                del self._by_mask[job.mask], self._images[job.mask]

    def take(self) -> list[Job[W]]:
        """The next batch: jobs of one mask that nobody took back, 1 or more. Waits for one.

        Empty only when the queue is closed and everything was given out.
        """
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._by_age or self._closed)
                if not self._by_age:
                    return []
                found = self._next()
                if found:
                    return found

    def close(self) -> None:
        """Take nothing more; what was taken is given out still."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next(self) -> list[Job[W]]:
        self._last = mask = self._choice()
        jobs, images, found = self._by_mask[mask], 0, []
        while jobs and (not found or images + jobs[0].images <= self.batch):
            job = jobs.popleft()
            del self._by_age[job]
            self._waiting -= job.images
            self._images[mask] -= job.images
            if job.answer.set_running_or_notify_cancel():
                images += job.images
                found.append(job)
        if not jobs:
            del self._by_mask[mask], self._images[mask]
        return found

    def _choice(self) -> str | None:
        oldest = next(iter(self._by_age))
        if self._clock() - oldest.since >= self.patience:
            return oldest.mask
        if self._last in self._by_mask:
            return self._last
        return max(self._by_mask, key=lambda mask: (self._images[mask], -self._by_mask[mask][0].since))
