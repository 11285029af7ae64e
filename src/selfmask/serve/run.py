"""`selfmask serve`: open the bank, listen, answer, and end when it is told to."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from selfmask._common.console import SafeConsole, tell
from selfmask.backbones.backbone import Backbone
from selfmask.backbones.spec import backbone_of, build
from selfmask.bank.bank import Bank
from selfmask.bank.folder import is_folder_of_masks, masks_in
from selfmask.errors import MissingExtraError, SettingsError
from selfmask.run.process import device_named, use_threads
from selfmask.serve.settings import BASE, ServeSettings
from selfmask.tasks.opening import open_mask

try:
    import uvicorn

    from selfmask.serve.access import token_of
    from selfmask.serve.app import make_app
    from selfmask.serve.connection import PatientConnection
    from selfmask.serve.service import Service
except ImportError as error:
    raise MissingExtraError(
        f"serve needs packages that are not here ({error.name}): pip install 'selfmask[serve]'"
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
    service: Service
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
    with bound(settings.host, settings.port) as listener, _bank(settings) as bank:
        for path, why in bank.refused.items():
            tell(console, f"left out: {path}: {why}")

        def started(live: Live) -> None:
            tell(console, f"{len(bank)} masks at {live.address} (Ctrl-C ends)")

        return serve_bank(bank, settings, token, listener, started)


def serve_bank(
    bank: Bank,
    settings: ServeSettings,
    token: str | None,
    listener: socket.socket,
    started: Callable[[Live], None],
) -> Served:
    """Serve an open bank on a bound socket until a signal or `Live.stop`; `started` is told when it listens."""
    begin, service = time.monotonic(), Service(bank, settings)
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
    counts = service.worker.counts
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


@contextmanager
def _bank(settings: ServeSettings) -> Iterator[Bank]:
    backbone = _backbone(settings)
    backbone.module.to(device_named(settings.device))
    backbone.lay_out()
    with Bank(backbone, settings.masks, memory=settings.memory, watch=settings.watch) as bank:
        if BASE in bank:
            raise SettingsError(
                f"a mask is called {BASE!r}, which means the untouched backbone here: rename its file"
            )
        yield bank


def _backbone(settings: ServeSettings) -> Backbone:
    if settings.backbone is not None:
        return build(settings.backbone, weights=settings.weights)
    path: Path = settings.masks
    if is_folder_of_masks(path):
        found = masks_in(path)
        if not found:
            raise SettingsError(
                f"{path} holds no mask yet, so the backbone is not known: name it by --backbone"
            )
        path = found[0]
    return backbone_of(open_mask(path), None, settings.weights, download=settings.download)


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises `SettingsError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"cannot listen at {host}, port {port}: {error}") from None
