"""Connections of clients that are slow, or too many: uvicorn alone would wait for them for ever.

The guard bounds bodies; what comes before it is asked, the line and the headers of a request, and
what goes out after it has answered, is bounded here.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
"""Within so many seconds a request's headers have to arrive."""
READING_SECONDS = 120.0
"""Within so many seconds a client has to take an answer that waits for it."""
MOST_CONNECTIONS = 512
"""Connections at one time: with the files of the service, fewer than a process may usually open."""


class BoundedConnection(H11Protocol):
    """One connection; it is cut off when its client takes too long."""

    _cut: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
            return
        self._cut_after(HEADER_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Take on what has arrived; between two requests uvicorn's own patience is shorter."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._go_on()
        elif self._cut is None:
            self._cut_after(HEADER_SECONDS)

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        self._go_on()
        self._cut_after(READING_SECONDS)

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the connection."""
        self._go_on()
        super().connection_lost(exc)

    def _cut_after(self, seconds: float) -> None:
        self._cut = self.loop.call_later(seconds, self.transport.abort)

    def _go_on(self) -> None:
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None
