"""The same service by several processes, on one machine or on many: replicas of it, which Ray Serve starts and watches.

The command keeps what faces the callers: addresses, tokens, limits. Each replica is a whole `Service` on a bank of its
own, so requests wait, and are grouped by mask, in the replica. Which one a request goes to Ray decides: by the mask's
name, so that those of one mask come together, as long as that replica has room. (Ray's own multiplexing would hold a
model for each name; here it is told the names alone.)
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import xxhash
from torch import Tensor

from selfmask._common.escape import one_line
from selfmask.bank.bank import Bank
from selfmask.cluster.processes import Processes
from selfmask.errors import MissingExtraError, SettingsError
from selfmask.run.process import use_threads
from selfmask.serve.front import Front
from selfmask.serve.intake import Refused, Upload
from selfmask.serve.opening import open_bank
from selfmask.serve.service import Service
from selfmask.serve.settings import BASE, ServeSettings
from selfmask.serve.worker import Counts

_TRIES = 3
"""How often a request is sent, where the replica that had it dies. What is asked for changes nothing, so it may be."""
_KNOWN = 256
"""Names that a replica says it has; the least recently used is forgotten."""


@dataclass(frozen=True)
class _Answer:
    """What a replica sends. refused: status, words and seconds of a `Refused`. counts: of that replica, until now."""

    found: Any
    refused: tuple[int, str, int | None] | None
    replica: str
    counts: Counts


class _Replica:
    """One process: a bank, the queue before it and the thread that works on it."""

    def __init__(self, settings: ServeSettings, processes: Processes) -> None:
        serve = import_module("ray.serve")
        use_threads(processes.threads)
        self._opened = open_bank(settings, processes.device)
        self._service = Service(self._opened.__enter__(), settings)
        self._service.start()
        self._name = serve.get_replica_context().replica_id.unique_id
        self._own_name = serve.get_multiplexed_model_id

        async def known(name: str) -> None:
            """Has Ray know that requests for `name` come here."""

        self._known = serve.multiplexed(max_num_models_per_replica=_KNOWN)(known)

    async def ask(self, what: str, name: str | None, given: Sequence[Any]) -> _Answer:
        """`Service.embed`, `.predict` or `.search`."""
        service = self._service
        await self._known(self._own_name())
        found, refused = None, None
        try:
            if name is not None and name not in service.bank:  # the command has looked at the folder since
                await service.aside(service.bank.refresh)
            found = await getattr(service, what)(name, *given)
        except Refused as error:
            refused = (error.status, str(error), error.after)
        return _Answer(found, refused, self._name, replace(service.counts))

    async def check_health(self) -> None:
        """What Ray asks now and then; a replica that cannot work is replaced."""
        if not await self._service.alive():
            raise RuntimeError("the worker has ended")

    def __del__(self) -> None:
        if hasattr(self, "_service"):
            self._service.finish()
            self._opened.__exit__(None, None, None)


class Replicas(Front):
    """The side of the command: hands each request to one of `count` replicas, and to another one where that dies."""

    def __init__(self, bank: Bank, settings: ServeSettings, ray: Any, application: str, count: int) -> None:
        super().__init__(bank, settings, settings.queue * count)
        self._serve = import_module("ray.serve")
        self._application, self._count = application, count
        self._handle = self._serve.get_app_handle(application)
        self._gone = (ray.exceptions.RayActorError, import_module("ray.serve.exceptions").RayServeException)
        self._waiting = 0
        self._seen: dict[str, Counts] = {}
        self.metrics.follow(self)

    def start(self) -> None:
        """They run already."""

    async def alive(self) -> bool:
        return await self.aside(self._running) > 0

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def counts(self) -> Counts:
        each = list(self._seen.values())
        if not each:
            return Counts()
        return Counts(
            sum(one.images for one in each), sum(one.batches for one in each), sum(one.switches for one in each),
            sum(one.seconds for one in each) / len(each) / self._count,
        )  # fmt: skip

    async def embed(self, name: str | None, images: Sequence[Upload]) -> tuple[Tensor | None, dict[int, str]]:
        return await self._ask("embed", name, images)

    async def predict(
        self, name: str, images: Sequence[Upload], top: int
    ) -> tuple[Sequence[Any], dict[int, str]]:
        return await self._ask("predict", name, images, top)

    async def search(
        self, name: str | None, images: Sequence[Upload], k: int
    ) -> tuple[Sequence[Any], dict[int, str]]:
        return await self._ask("search", name, images, k)

    async def _ask(self, what: str, name: str | None, images: Sequence[Upload], *more: Any) -> Any:
        if self._waiting + len(images) > self.most_waiting:
            raise self._full()
        self._waiting += len(images)
        try:
            async with asyncio.timeout(self.settings.timeout):
                answer = await self._sent(what, name, (images, *more))
        except TimeoutError:
            raise self._late() from None
        finally:
            self._waiting -= len(images)
        seen = self._seen.get(answer.replica)
        if seen is None or seen.images <= answer.counts.images:
            self._seen[answer.replica] = answer.counts
        if answer.refused is not None:
            raise Refused(*answer.refused)
        self.metrics.bad_images(len(answer.found[1]))
        return answer.found

    async def _sent(self, what: str, name: str | None, given: Sequence[Any]) -> _Answer:
        for _ in range(_TRIES):
            sent = self._handle.options(multiplexed_model_id=name or BASE).ask.remote(what, name, given)
            try:
                return await sent
            except self._gone:
                continue
            except asyncio.CancelledError:
                sent.cancel()
                raise
        raise Refused(503, f"{_TRIES} processes that had the request have died: try again", after=5)

    def _running(self) -> int:
        found = self._serve.status().applications.get(self._application)
        deployments = () if found is None else found.deployments.values()
        return sum(one.replica_states.get("RUNNING", 0) for one in deployments)


@contextmanager
def replicated(ray: Any, bank: Bank, settings: ServeSettings) -> Iterator[Replicas]:
    """Inside, replicas run. bank: the command's own, which knows the masks.

    Raises `SettingsError` where the cluster has no room, or none gets ready.
    """
    try:
        serve = import_module("ray.serve")
    except ImportError as error:  # Ray alone, without what its Serve needs
        raise MissingExtraError(f"--ray needs {error.name}: pip install 'selfmask[ray]'") from error
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    processes = Processes.fitting(ray, settings.replicas, settings.threads, settings.device)
    quiet = {"log_level": "ERROR", "enable_access_log": False}
    settings = _from_anywhere(settings)
    # The same command again takes over what one that was killed has left on a cluster, and no other's: of another
    # machine, or of another process where each finds a port of its own.
    here = f"{ray.get_runtime_context().get_node_id()} {settings.port or os.getpid()}"
    where = f"{settings.masks} {settings.host} {here}".encode(errors="surrogateescape")
    application = f"selfmask-{xxhash.xxh3_64_hexdigest(where)}"
    deployment = serve.deployment(
        _Replica, name="replica", num_replicas=processes.count, ray_actor_options=processes.options,
        max_ongoing_requests=2 * settings.batch, graceful_shutdown_timeout_s=settings.timeout,
        health_check_period_s=2.0, max_constructor_retry_count=2, logging_config=quiet,
    )  # fmt: skip
    serve.start(proxy_location="Disabled", logging_config=quiet)  # requests come through the command alone
    try:
        try:
            serve.run(deployment.bind(settings, processes), name=application, route_prefix=None)
        except RuntimeError as error:
            raise SettingsError(
                f"no replica gets ready: {one_line(str(error))[:600]} (masks, weights and galleries have to lie in "
                "folders that all machines share)"
            ) from error
        yield Replicas(bank, settings, ray, application, processes.count)
    finally:
        serve.delete(application)


def _from_anywhere(settings: ServeSettings) -> ServeSettings:
    """On other machines, and in another folder of this one, a relative path means something else."""
    return replace(
        settings,
        masks=settings.masks.absolute(),
        weights=None if settings.weights is None else settings.weights.absolute(),
        gallery=tuple(path.absolute() for path in settings.gallery),
        token_file=None,
    )
