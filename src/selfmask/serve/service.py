"""What is done for a request, once it is known what it wants: views, the queue, the answer as a document."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from selfmask.bank.bank import Bank
from selfmask.errors import MaskFileError, SelfmaskError
from selfmask.images.sources import Reading
from selfmask.images.view_set import ViewSet
from selfmask.serve.gallery import Gallery
from selfmask.serve.intake import Refused, Upload, views_of
from selfmask.serve.metrics import Metrics
from selfmask.serve.queue import MaskQueue, QueueClosedError, QueueFullError
from selfmask.serve.settings import BASE, ServeSettings
from selfmask.serve.worker import Worker

T = TypeVar("T")


class Service:
    """A bank, the queue before it and the thread that works on it. `start` and `finish` are its ends."""

    def __init__(self, bank: Bank, settings: ServeSettings) -> None:
        self.bank, self.settings = bank, settings
        self.gallery = Gallery(bank, settings.gallery)
        self.metrics = Metrics()
        self.queue: MaskQueue[ViewSet] = MaskQueue(settings.queue, settings.batch, settings.patience)
        self.worker = Worker(bank, self.queue, self.metrics.batch)
        self.metrics.follow(self.queue, self.worker)
        self._decoders = ThreadPoolExecutor(Reading().threads, "selfmask decoder")

    def start(self) -> None:
        """Begin to work."""
        self.worker.start()

    def finish(self) -> None:
        """Answer what was accepted, and end."""
        self.worker.finish()
        self._decoders.shutdown()

    @property
    def masks(self) -> list[str]:
        """The masks that can be asked for, beside `BASE`."""
        return sorted(set(self.bank.names) - {BASE})

    def named(self, name: str) -> str | None:
        """The bank's name of what stands in an address. Raises `Refused` (404) where there is none."""
        if name == BASE:
            return None
        if name not in self.bank:
            raise Refused(404, f"there is no mask {name[:255]!r} here")
        return name

    def check_room(self) -> None:
        """Raises `Refused` (429) where the queue is full, so that a body need not be read for nothing."""
        if len(self.queue) >= self.queue.length:
            raise self._full()

    async def embed(self, name: str | None, images: Sequence[Upload]) -> tuple[Tensor | None, dict[int, str]]:
        """The features float32 (N, width) of the N readable images (None: there are none), and what the others lack.

        Raises `Refused`.
        """
        recipe = await self.aside(self.bank.preprocessing, name)
        views, why = await self.aside(views_of, images, recipe, self.settings.max_pixels)
        self.metrics.bad_images(len(why))
        if len(views) == 0:
            return None, why
        try:
            answer = self.queue.put(name, len(views), views)
        except QueueFullError:
            raise self._full() from None
        except QueueClosedError:
            raise Refused(503, "the service is ending", after=5) from None
        try:
            with _refusing():
                async with asyncio.timeout(self.settings.timeout):
                    return await asyncio.wrap_future(answer), why
        except TimeoutError:
            seconds = self.settings.timeout
            raise Refused(503, f"not answered within {seconds:g} seconds: try again", self._after()) from None

    async def predict(
        self, name: str, images: Sequence[Upload], top: int
    ) -> tuple[list[Any], dict[int, str]]:
        """The predictions of the readable images as documents, and what the others lack. Raises `Refused`."""
        if not self.bank.predicts(name):
            raise Refused(422, f"the mask {name!r} brings no head, so it cannot predict: embed, or search")
        x, why = await self.embed(name, images)
        if x is None:
            return [], why
        found = await self.aside(partial(self.bank.predict_features, top=top), x, name)
        return [one.document() for one in found], why

    async def search(
        self, name: str | None, images: Sequence[Upload], k: int
    ) -> tuple[Sequence[Any], dict[int, str]]:
        """The nearest images of the gallery for each readable image, and what the others lack. Raises `Refused`."""
        await self.aside(self.gallery.check, name)
        x, why = await self.embed(name, images)
        return ([] if x is None else await self.aside(self.gallery.search, name, x, k)), why

    async def aside(self, work: Callable[..., T], *given: Any) -> T:
        """`work(*given)` in a thread. Raises `Refused` for our errors."""
        with _refusing():
            return await asyncio.get_running_loop().run_in_executor(self._decoders, work, *given)

    def _full(self) -> Refused:
        return Refused(429, f"{self.queue.length} images wait already: try again later", self._after())

    def _after(self) -> int:
        return min(60, max(1, math.ceil(len(self.queue) * self.worker.counts.seconds)))


@contextmanager
def _refusing() -> Iterator[None]:
    """Our errors as what is answered for them."""
    try:
        yield
    except Refused:
        raise
    except MaskFileError as error:
        raise Refused(503, f"the mask cannot be used now: {error}") from error
    except SelfmaskError as error:
        raise Refused(422, str(error)) from error
