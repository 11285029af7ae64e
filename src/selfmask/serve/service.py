"""A service that does its work in its own process: views, the queue, the answer as a document."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from torch import Tensor

from selfmask.bank.bank import REPLACED, Bank
from selfmask.images.view_set import ViewSet
from selfmask.serve.front import Front, refusing
from selfmask.serve.intake import Refused, Upload, views_of
from selfmask.serve.queue import MaskQueue, QueueClosedError, QueueFullError
from selfmask.serve.settings import ServeSettings
from selfmask.serve.worker import Counts, Worker

T = TypeVar("T")


class Service(Front):
    """A bank, the queue before it and the thread that works on it."""

    def __init__(self, bank: Bank, settings: ServeSettings) -> None:
        super().__init__(bank, settings, settings.queue)
        self._decoding = 0
        self.queue: MaskQueue[ViewSet] = MaskQueue(settings.queue, settings.batch, settings.patience)
        self.worker = Worker(bank, self.queue, self.metrics.batch)
        self.metrics.follow(self)

    def start(self) -> None:
        self.worker.start()

    def finish(self) -> None:
        self.worker.finish()
        super().finish()

    async def alive(self) -> bool:
        return self.worker.alive

    @property
    def waiting(self) -> int:
        return len(self.queue) + self._decoding

    @property
    def counts(self) -> Counts:
        return self.worker.counts

    async def embed(self, name: str | None, images: Sequence[Upload]) -> tuple[Tensor | None, dict[int, str]]:
        return await self._of_one(name, partial(self._embed, name, images))

    async def _embed(
        self, name: str | None, images: Sequence[Upload]
    ) -> tuple[Tensor | None, dict[int, str]]:
        if self.waiting + len(images) > self.most_waiting:
            raise self._full()
        self._decoding += len(images)
        try:
            recipe = await self.aside(self.bank.preprocessing, name)
            views, why = await self.aside(views_of, images, recipe, self.settings.max_pixels)
        finally:
            self._decoding -= len(images)
        self.metrics.bad_images(len(why))
        if len(views) == 0:
            return None, why
        try:
            answer = self.queue.put(name, len(views), views)
        except QueueFullError:
            raise self._full() from None
        except QueueClosedError:
            raise Refused(503, "the service is ending", after=5) from None
        return await asyncio.wrap_future(answer), why

    async def predict(
        self, name: str, images: Sequence[Upload], top: int
    ) -> tuple[Sequence[Any], dict[int, str]]:
        with refusing():
            can = self.bank.predicts(name)
        if not can:
            raise Refused(422, f"the mask {name!r} brings no head, so it cannot predict: embed, or search")

        async def answer() -> tuple[Sequence[Any], dict[int, str]]:
            x, why = await self._embed(name, images)
            if x is None:
                return [], why
            found = await self.aside(partial(self.bank.predict_features, top=top), x, name)
            return [one.document() for one in found], why

        return await self._of_one(name, answer)

    async def search(
        self, name: str | None, images: Sequence[Upload], k: int
    ) -> tuple[Sequence[Any], dict[int, str]]:
        async def answer() -> tuple[Sequence[Any], dict[int, str]]:
            await self.aside(self.gallery.check, name)
            x, why = await self._embed(name, images)
            return ([] if x is None else await self.aside(self.gallery.search, name, x, k)), why

        return await self._of_one(name, answer)

    async def _of_one(self, name: str | None, answer: Callable[[], Awaitable[T]]) -> T:
        """What `answer` gives in time, asked anew where the mask was replaced in between: its parts are of one mask."""
        try:
            async with asyncio.timeout(self.settings.timeout):
                return await self._in_one_version(name, answer)
        except TimeoutError:
            raise self._late() from None

    async def _in_one_version(self, name: str | None, answer: Callable[[], Awaitable[T]]) -> T:
        for _ in range(REPLACED):
            version = self._version(name)
            found, refused = None, None
            try:
                with refusing():
                    found = await answer()
            except Refused as error:  # perhaps because its views were made for the one that is gone
                refused = error
            if self._version(name) != version:
                continue
            if refused is not None:
                raise refused
            return cast(T, found)
        raise Refused(503, f"the mask {name!r} was replaced each time that it was asked", after=1)

    def _version(self, name: str | None) -> Any:
        """Raises `Refused` (404) where the mask has gone."""
        return self.bank.version(None if name is None else self.named(name))
