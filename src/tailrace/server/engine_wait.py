"""A request that waits for an engine, as long as its client stays."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from tailrace.server.engine_client import EngineClient
from tailrace.server.served_model import ServedModel
from tailrace.server.streaming import cancelled_on_disconnect


async def wait_for_engine(engine: EngineClient, receive: Receive) -> ServedModel:
    """The model, once an engine serves it. Raises EngineUnavailable when none is there in time, and ClientDisconnect
    when ``receive``, the request's, says that its client has gone.
    """
    if engine.is_ready:
        return await engine.ready()
    waiting = _Waiting(asyncio.ensure_future(engine.ready()))
    async with cancelled_on_disconnect(waiting, receive):
        return await waiting.model()


class _Waiting:
    """A request that waits."""

    def __init__(self, ready: asyncio.Future[ServedModel]) -> None:
        self._ready = ready

    def cancel(self) -> None:
        """See ``Cancellable``."""
        self._ready.cancel()

    async def model(self) -> ServedModel:
        """The engine's model. Raises ClientDisconnect after ``cancel``."""
        await asyncio.wait([self._ready])
        if self._ready.cancelled():
            raise ClientDisconnect
        return self._ready.result()
