"""The streams that are being sent, and how far each client is behind: for the diagnosis of slow readers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import count
from typing import Protocol

from tailrace.diagnosis.server_sample import StreamSample
from tailrace.server.caller import Caller


class StreamBody(Protocol):
    """The body of a streamed response."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait for space in the operating system's buffers."""
        ...

    @property
    def written_bytes(self) -> int:
        """Bytes that were written so far, the waiting ones included."""
        ...


def client_name(caller: Caller) -> str:
    """The client as a finding names it: its address, and its key's name where it has one."""
    address = caller.address or "on a Unix socket"
    return address if caller.key_name is None else f"{address} with the key '{caller.key_name}'"


class OpenStreams:
    """See the module. Nothing is done for a piece of a stream."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._streams: dict[int, tuple[StreamBody, Caller]] = {}

    @contextlib.contextmanager
    def including(self, body: StreamBody, caller: Caller) -> Iterator[None]:
        """While inside, ``body`` is one of the streams."""
        number = next(self._numbers)
        self._streams[number] = (body, caller)
        try:
            yield
        finally:
            del self._streams[number]

    def behind(self) -> tuple[StreamSample, ...]:
        """The streams that wait for their clients."""
        return tuple(
            StreamSample(
                identity=number,
                client=client_name(caller),
                behind=waiting,
                moved=body.written_bytes - waiting,
            )
            for number, (body, caller) in self._streams.items()
            if (waiting := body.waiting_bytes) > 0
        )
