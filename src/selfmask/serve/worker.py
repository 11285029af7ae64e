"""The one thread that holds the bank: batches of the queue go through the network in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selfmask.bank.bank import Bank
from selfmask.errors import DataError
from selfmask.images.view_set import ViewSet, joined_views
from selfmask.serve.queue import Job, MaskQueue


@dataclass
class Counts:
    """What was done: images, batches, and how often another mask was put on. seconds: an image's, lately."""

    images: int = 0
    batches: int = 0
    switches: int = 0
    seconds: float = 0.01


class Worker:
    """Takes batches of `queue` until it is closed and empty, and answers every job with its features.

    An answer is float32 (N, width), or the error of that job alone: where a batch of several fails, each is tried by
    itself. watch: is told of each batch, when it begins, by its jobs.
    """

    def __init__(
        self, bank: Bank, queue: MaskQueue[ViewSet], watch: Callable[[Sequence[Job[ViewSet]]], None]
    ) -> None:
        self.counts = Counts()
        self._bank, self._queue, self._watch = bank, queue, watch
        self._worn: str | None = None
        self._thread = threading.Thread(target=self._work, name="selfmask serve", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it is at work, or waits for some."""
        return self._thread.is_alive()

    def finish(self) -> None:
        """Take nothing more, answer what is in the queue, and end."""
        self._queue.close()
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._queue.take():
            self._watch(jobs)
            start, images = time.perf_counter(), sum(job.images for job in jobs)
            self.counts.switches += jobs[0].mask != self._worn
            self._worn = jobs[0].mask
            self.counts.images += images
            self.counts.batches += 1
            self._answer(jobs)
            self.counts.seconds += 0.1 * ((time.perf_counter() - start) / images - self.counts.seconds)

    def _answer(self, jobs: Sequence[Job[ViewSet]]) -> None:
        try:
            found = self._features(jobs)
        except Exception as error:  # whatever it is, somebody waits for an answer, and others come after it
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
                return
            for job in jobs:
                self._answer([job])
            return
        for job, x in zip(jobs, found, strict=True):
            job.answer.set_result(x)

    def _features(self, jobs: Sequence[Job[ViewSet]]) -> Sequence[Tensor]:
        # Views of another size than the mask's, because it was replaced meanwhile, are refused by the set of views.
        images = joined_views([job.work for job in jobs])
        x = self._bank.embed(images, jobs[0].mask, batch_size=self._queue.batch)
        if not bool(torch.isfinite(x).all()):
            raise DataError("the network gives numbers that are not finite for these images")
        return x.split([job.images for job in jobs])
