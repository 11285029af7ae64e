"""Training batches: which images, in which order, made ahead of time by a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from selfmask.errors import DataError, SettingsError
from selfmask.images.augment import augment
from selfmask.images.draws import hashed
from selfmask.images.image_set import ImageSet
from selfmask.images.views import Augment


@dataclass
class RawBatch:
    """What was made of a batch of images.

    views: one tensor per kind of view, float32 (B, 3, size, size) in [0, 1], not normalised.
    labels: int64 (B,), -1 where not known. indices: int64 (B,), places in the image set.
    """

    views: list[Tensor]
    labels: Tensor
    indices: Tensor


def steps_per_epoch(n: int, batch: int, drop_last: bool = True) -> int:
    """Batches in one pass over `n` images (at least 1)."""
    if n < 1 or batch < 1:
        raise SettingsError(f"images and batch size must be at least 1, got {n} and {batch}")
    return max(1, n // batch) if drop_last else -(-n // batch)


def batch_indices(n: int, batch: int, seed: int, step: int, drop_last: bool = True) -> Tensor:
    """The images of a step, int64 (batch,): a pure function of its arguments.

    Each epoch is a new order of the `n` images; the rest that does not fill a batch is left out (or, without
    `drop_last`, makes a smaller batch). Where there are fewer images than `batch`, orders are strung
    together.
    """
    per_epoch = steps_per_epoch(n, batch, drop_last)
    if step < 0:
        raise SettingsError(f"step must not be negative, got {step}")
    if drop_last and n < batch:
        places = range(step * batch, (step + 1) * batch)
        return torch.tensor([_order(n, seed, place // n)[place % n] for place in places], dtype=torch.int64)
    start = (step % per_epoch) * batch
    return torch.from_numpy(_order(n, seed, step // per_epoch)[start : start + batch].copy())


@lru_cache(maxsize=8)
def _order(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64([seed % 2**64, epoch])).permutation(n)


def check_shared(batch: int, processes: int) -> None:
    """Raise `SettingsError` where a batch of so many images cannot be shared evenly."""
    if batch % processes:
        more = -(-batch // processes) * processes
        raise SettingsError(
            f"a batch of {batch} images cannot be shared evenly among {processes} processes: --batch {more} can"
        )


class Batches:
    """Iterates over (step, RawBatch) from `start` up to `stop`, made ahead by one background thread.

    What step k holds depends on the image set, the settings and k only: not on `start`, `ahead`, `workers`,
    nor on how many processes share the batch. With `world` processes, process `rank` gets its part of each
    batch, such that the parts in order of rank are the whole batch.

    Use it in a `with` statement, or call `close`: that ends the thread. An error in the thread is raised
    where the batch is asked for.
    """

    def __init__(
        self,
        images: ImageSet,
        views: tuple[Augment, ...],
        *,
        batch: int,
        seed: int,
        start: int = 0,
        stop: int | None = None,
        drop_last: bool = True,
        ahead: int = 2,
        workers: int = 1,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        if len(images) == 0:
            raise DataError(f"{images.name} has no images to train on")
        if world < 1 or not 0 <= rank < world:
            raise SettingsError(f"there is no process {rank} among {world}")
        check_shared(batch, world)
        if ahead < 1 or workers < 1:
            raise SettingsError(f"ahead and workers must be at least 1, got {ahead} and {workers}")
        steps_per_epoch(len(images), batch, drop_last)
        self._images, self._labels, self._views = images, images.labels, tuple(views)
        self._batch, self._seed, self._drop_last = batch, seed, drop_last
        self._start, self._stop = start, stop
        self._rank, self._world = rank, world
        self._device = device
        self._workers = workers
        self._ready: queue.Queue[tuple[int, RawBatch] | BaseException | None] = queue.Queue(maxsize=ahead)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def make(self, step: int, pool: ThreadPoolExecutor | None = None) -> RawBatch:
        """The batch of a step, made here and now."""
        whole = batch_indices(len(self._images), self._batch, self._seed, step, self._drop_last)
        share = -(-len(whole) // self._world)
        places = np.arange(len(whole))[self._rank * share : (self._rank + 1) * share]
        indices = whole[torch.from_numpy(places)]
        pictures = [self._images.image(index) for index in indices.tolist()]
        views = [
            augment(pictures, view, hashed(self._seed, step, kind, places), device=self._device, pool=pool)
            for kind, view in enumerate(self._views)
        ]
        return RawBatch(views, self._labels[indices], indices)

    def __iter__(self) -> Iterator[tuple[int, RawBatch]]:
        if self._thread is not None:
            raise DataError(
                "these batches were iterated over already: make new ones with the step to start from"
            )
        self._thread = threading.Thread(target=self._work, name="selfmask batches", daemon=True)
        self._thread.start()
        try:
            while (item := self._next()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.close()

    def _next(self) -> tuple[int, RawBatch] | BaseException | None:
        while True:
            try:
                return self._ready.get(timeout=0.1)
            except queue.Empty:
                if self._closing.is_set():  # closed by another thread than the one that waits here
                    return None

    def close(self) -> None:
        """End the background thread and wait for it. May be called more than once."""
        self._closing.set()
        while self._thread is not None and self._thread.is_alive():
            try:
                self._ready.get_nowait()  # room for a thread that waits to deliver
            except queue.Empty:
                self._thread.join(timeout=0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        pool = ThreadPoolExecutor(self._workers) if self._workers > 1 else None
        try:
            step = self._start
            while not self._closing.is_set() and (self._stop is None or step < self._stop):
                self._deliver((step, self.make(step, pool)))
                step += 1
            self._deliver(None)
        except BaseException as error:  # handed to whoever waits for the batch
            self._deliver(error)
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    def _deliver(self, item: tuple[int, RawBatch] | BaseException | None) -> None:
        while not self._closing.is_set():
            try:
                self._ready.put(item, timeout=0.05)
                return
            except queue.Full:
                continue
