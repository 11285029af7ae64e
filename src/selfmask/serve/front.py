"""What the addresses are answered from: a bank that knows the masks, and somebody who does the work."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor

from selfmask.bank.bank import Bank
from selfmask.errors import MaskFileError, SelfmaskError
from selfmask.images.sources import Reading
from selfmask.serve.gallery import Gallery
from selfmask.serve.intake import Refused, Upload
from selfmask.serve.metrics import Metrics
from selfmask.serve.settings import BASE, ServeSettings
from selfmask.serve.worker import Counts

T = TypeVar("T")


class Front(ABC):
    """A service, as far as it does not matter who works. `start` and `finish` are its ends.

    most_waiting: images that may wait, together.
    """

    def __init__(self, bank: Bank, settings: ServeSettings, most_waiting: int) -> None:
        self.bank, self.settings, self.most_waiting = bank, settings, most_waiting
        self.gallery = Gallery(bank, settings.gallery)
        self.metrics = Metrics()
        self._decoders = ThreadPoolExecutor(Reading().threads, "selfmask decoder")

    @abstractmethod
    def start(self) -> None:
        """Begin to work."""

    def finish(self) -> None:
        """Answer what was accepted, and end."""
        self._decoders.shutdown()

    @abstractmethod
    async def alive(self) -> bool:
        """Whether somebody works, or waits for work."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """Images that wait."""

    @property
    @abstractmethod
    def counts(self) -> Counts:
        """What was done."""

    @abstractmethod
    async def embed(self, name: str | None, images: Sequence[Upload]) -> tuple[Tensor | None, dict[int, str]]:
        """The features float32 (N, width) of the N readable images (None: there are none), and what the others lack.

        Raises `Refused`.
        """

    @abstractmethod
    async def predict(
        self, name: str, images: Sequence[Upload], top: int
    ) -> tuple[Sequence[Any], dict[int, str]]:
        """The predictions of the readable images as documents, and what the others lack. Raises `Refused`."""

    @abstractmethod
    async def search(
        self, name: str | None, images: Sequence[Upload], k: int
    ) -> tuple[Sequence[Any], dict[int, str]]:
        """The nearest images of the gallery for each readable image, and what the others lack. Raises `Refused`."""

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
        if self.waiting >= self.most_waiting:
            raise self._full()

    async def aside(self, work: Callable[..., T], *given: Any) -> T:
        """`work(*given)` in a thread. Raises `Refused` for our errors."""
        with refusing():
            return await asyncio.get_running_loop().run_in_executor(self._decoders, work, *given)

    def _full(self) -> Refused:
        return Refused(429, f"{self.most_waiting} images wait already: try again later", self._after())

    def _late(self) -> Refused:
        seconds = self.settings.timeout
        return Refused(503, f"not answered within {seconds:g} seconds: try again", self._after())

    def _after(self) -> int:
        return min(60, max(1, math.ceil(self.waiting * self.counts.seconds)))


@contextmanager
def refusing() -> Iterator[None]:
    """Our errors as what is answered for them."""
    try:
        yield
    except Refused:
        raise
    except MaskFileError as error:
        raise Refused(503, f"the mask cannot be used now: {error}") from error
    except SelfmaskError as error:
        raise Refused(422, str(error)) from error
