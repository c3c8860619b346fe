"""The interface of what turns a reply's events into one dialect's bytes."""

from __future__ import annotations

from typing import Protocol

from tailrace.server.events import Event


class Encoder(Protocol):
    """Turns events into one dialect's bytes; each returned piece is one event on the wire."""

    def start(self) -> list[bytes]:
        """The pieces before the first event."""
        ...

    def encode(self, event: Event) -> list[bytes]:
        """One event's pieces, often one."""
        ...

    def end(self) -> bytes:
        """The last piece; empty after a failure."""
        ...
