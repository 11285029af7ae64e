"""A connection that waits for no client for ever: neither for a request's head, nor for an answer to be taken."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class PatientConnection(H11Protocol):
    """uvicorn's, but that it ends after `seconds` in which a client does not go on. Bodies have a limit of their own
    (see `Bodies`)."""

    seconds: ClassVar[float] = 30.0
    _head: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None
    _rest: asyncio.TimerHandle | None = None

    @classmethod
    def within(cls, seconds: float) -> type[PatientConnection]:
        """The same with this limit."""
        return type("PatientConnection", (cls,), {"seconds": seconds})

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # whatever is not taken yet is told to pause_writing
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._rest is not None and self.conn.their_state is not h11.SEND_BODY:
            self._rest.cancel()
            self._rest = None
        if self.conn.their_state is not h11.IDLE:
            self._cancel_head()
        else:
            self._await_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stuck is None:
            self._stuck = self.loop.call_later(self.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def on_response_complete(self) -> None:
        """A body that is still to come when its request has been answered has so long, and no longer."""
        super().on_response_complete()
        if self._rest is None and self.conn.their_state is h11.SEND_BODY:
            self._rest = self.loop.call_later(self.seconds, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._cancel_head()
        for timer in (self._stuck, self._rest):
            if timer is not None:
                timer.cancel()

    def _await_head(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(self.seconds, self.transport.abort)

    def _cancel_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None
