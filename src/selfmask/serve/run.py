"""`selfmask serve`: open the bank, listen, answer, and end when it is told to."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from selfmask._common.console import SafeConsole, tell
from selfmask.bank.bank import Bank
from selfmask.cluster.connection import connected
from selfmask.errors import MissingExtraError, SettingsError
from selfmask.run.process import use_threads
from selfmask.serve.opening import open_bank
from selfmask.serve.settings import ServeSettings

try:
    import uvicorn

    from selfmask.serve.access import token_of
    from selfmask.serve.app import make_app
    from selfmask.serve.connection import PatientConnection
    from selfmask.serve.front import Front
    from selfmask.serve.replicas import replicated
    from selfmask.serve.service import Service
except ImportError as error:
    raise MissingExtraError(
        f"serve needs packages that are not here ({error.name}, and maybe more): pip install 'selfmask[serve]', "
        "or in a checkout pip install -e '.[serve]'"
    ) from error


@dataclass(frozen=True)
class Served:
    """What was done until the end."""

    address: str
    masks: int
    images: int
    batches: int
    switches: int
    seconds: float

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        return asdict(self)


@dataclass(frozen=True)
class Live:
    """A service that listens."""

    address: str
    service: Front
    server: uvicorn.Server

    def stop(self) -> None:
        """Take nothing more, answer what was accepted, and end. From any thread."""
        self.server.should_exit = True


def run(settings: ServeSettings, console: Console | None = None) -> Served:
    """Serve until SIGINT or SIGTERM; then what was accepted is answered.

    Raises `SettingsError` for an address that cannot be had, or lets others in without a token.
    """
    console = console or SafeConsole(stderr=True)
    token = token_of(settings)
    use_threads(settings.threads)
    device = settings.device if settings.ray is None else "cpu"  # with Ray the network is at work in others
    with bound(settings.host, settings.port) as listener, open_bank(settings, device) as bank:
        for path, why in bank.refused.items():
            tell(console, f"left out: {path}: {why}")

        def started(live: Live) -> None:
            tell(console, f"{len(bank)} masks at {live.address} (Ctrl-C ends)")

        if settings.ray is None:
            return serve_bank(bank, settings, token, listener, started)
        with connected(settings.ray, settings.cores) as ray, replicated(ray, bank, settings) as service:
            return serve_bank(bank, settings, token, listener, started, service)


def serve_bank(
    bank: Bank,
    settings: ServeSettings,
    token: str | None,
    listener: socket.socket,
    started: Callable[[Live], None],
    service: Front | None = None,
) -> Served:
    """Serve an open bank on a bound socket until a signal or `Live.stop`; `started` is told when it listens.

    service: what does the work; None: this process.
    """
    begin = time.monotonic()
    service = Service(bank, settings) if service is None else service
    config = uvicorn.Config(
        make_app(service, token),
        http=PatientConnection.within(settings.timeout), ws="none", lifespan="off", log_config=None,
        access_log=False, server_header=False, timeout_graceful_shutdown=int(settings.timeout) + 5,
        timeout_keep_alive=max(1, min(5, int(settings.timeout))),
    )  # fmt: skip
    server = _Server(config)
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    service.start()
    try:
        server.when_listening = lambda: started(Live(address, service, server))
        server.run(sockets=[listener])
    finally:
        service.finish()
    counts = service.counts
    return Served(
        address, len(bank), counts.images, counts.batches, counts.switches, time.monotonic() - begin
    )


class _Server(uvicorn.Server):
    """uvicorn's, which tells when it listens; and a signal ends it, and is not raised again after its end."""

    when_listening: Callable[[], None] = staticmethod(lambda: None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.when_listening()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ends = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in ends}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises `SettingsError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"cannot listen at {host}, port {port}: {error}") from None
