"""A scripted engine at the other end of a real socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from model_load import Load
from tailrace import ipc
from tailrace.engine.backends.fake import FakeBackend
from tailrace.observe.metrics import Metrics, ModelMetrics
from tailrace.protocol import PROTOCOL_VERSION, FromEngine, Hello, Submit, ToEngine
from tailrace.server.engine_client import EngineClient
from tailrace.server.models.engine_hub import EngineHub

BACKEND = FakeBackend(ctx=100, parallel=4, kv_tokens=0, batch=16)


class Engine:
    """The engine's end of the socket; a test sends its messages."""

    def __init__(self, hub: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._hub = hub
        self._reader = reader
        self._writer = writer
        self._frames: ipc.FrameDecoder[ToEngine] = ipc.FrameDecoder(ToEngine)
        self._messages: list[ToEngine] = []
        self._successors: list[Engine] = []

    def say(self, *messages: FromEngine) -> None:
        """Send them in one piece."""
        self._writer.write(b"".join(ipc.frame(message) for message in messages))

    async def heard(self) -> ToEngine:
        """The next message from the HTTP process."""
        while not self._messages:
            data = await self._reader.read(65536)
            assert data, "the HTTP process has closed the connection"
            self._messages += self._frames.feed(data)
        return self._messages.pop(0)

    async def submitted(self) -> int:
        """The id of the next submit, which is of one reply."""
        (identity,) = await self.submitted_copies()
        return identity

    async def submitted_copies(self) -> list[int]:
        """The ids of the next submit's replies."""
        message = await self.heard()
        assert isinstance(message, Submit)
        return [*range(message.id, message.id + message.copies)]

    def die(self) -> None:
        """Close the connection, and those of its successors."""
        self._writer.close()
        for successor in self._successors:
            successor.die()

    async def replaced(self) -> Engine:
        """Die. The next engine, which has sent Hello to the same client."""
        self.die()
        self._successors.append(await _connect(self._hub))
        return self._successors[-1]


async def _connect(hub: socket.socket) -> Engine:
    reader, writer = await asyncio.open_unix_connection(sock=ipc.offer_connection(hub))
    engine = Engine(hub, reader, writer)
    info, vocabulary = BACKEND.info, BACKEND.vocabulary
    engine.say(Hello(PROTOCOL_VERSION, pid=1, replica=0, model=info, vocabulary=vocabulary, name="fake"))
    return engine


@asynccontextmanager
async def connected(
    folder: Path, prepare: Callable[[EngineClient], None] | None = None, *, wait_seconds: float = 5.0
) -> AsyncIterator[tuple[EngineClient, ModelMetrics, Engine]]:
    """A client with an engine that has sent Hello; ``prepare`` gets the client before it listens."""
    hub = EngineHub(silence_seconds=0.04)
    client = EngineClient("fake", hub.timer, wait_seconds=wait_seconds, hang_seconds=60.0)
    hub.add(client)
    if prepare is not None:
        prepare(client)
    http_hub, engine_hub = ipc.connection_hub()
    await hub.start(http_hub)
    with engine_hub:
        engine = await _connect(engine_hub)
        await client.ready()
        try:
            yield client, Metrics().add_model("fake", client, Load()), engine
        finally:
            engine.die()
            await hub.stop()
