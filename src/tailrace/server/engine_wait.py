"""A request that waits for a model or its engine, as long as its client stays."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from tailrace.server.engine_client import EngineClient
from tailrace.server.served_model import ServedModel
from tailrace.server.streaming import cancelled_on_disconnect

Found = TypeVar("Found")


async def wait_for_engine(engine: EngineClient, receive: Receive) -> ServedModel:
    """The model, once an engine serves it. Raises EngineUnavailable when none is there in time, and ClientDisconnect
    when ``receive``, the request's, says that its client has gone.
    """
    if engine.is_ready:
        return await engine.ready()
    return await while_connected(engine.ready(), receive)


async def while_connected(wait: Coroutine[Any, Any, Found], receive: Receive) -> Found:
    """The result of ``wait``, which is cancelled when the client goes: then ClientDisconnect is raised."""
    waiting = _Waiting(asyncio.ensure_future(wait))
    async with cancelled_on_disconnect(waiting, receive):
        return await waiting.result()


class _Waiting(Generic[Found]):
    """A request that waits."""

    def __init__(self, task: asyncio.Future[Found]) -> None:
        self._task = task

    def cancel(self) -> None:
        """See ``Cancellable``."""
        self._task.cancel()

    async def result(self) -> Found:
        """What the task has found. Raises ClientDisconnect after ``cancel``."""
        await asyncio.wait([self._task])
        if self._task.cancelled():
            raise ClientDisconnect
        return self._task.result()
