"""The gate of a server with several models: a model is loaded when a request asks for it."""

from __future__ import annotations

import asyncio
import time

from tailrace.errors import EngineUnavailable
from tailrace.server.models.model_service import ModelService
from tailrace.server.models.model_turn import ModelTurn

#: Seconds for which a model that can't be loaded isn't tried again.
_RETRY_SECONDS = 10.0


class LoadOnDemand:
    """See the module."""

    def __init__(self, *, wait_seconds: float) -> None:
        """``wait_seconds``: how long a request waits for its model."""
        self._wait_seconds = wait_seconds

    def is_open(self, turn: ModelTurn) -> bool:
        """See ``ModelGate``."""
        return turn.service.is_loaded

    async def enter(self, turn: ModelTurn) -> None:
        """See ``ModelGate``."""
        service = turn.service
        if service.phase == "failed" and time.monotonic() - service.failed_at < _RETRY_SECONDS:
            raise service.load_error()
        try:
            await asyncio.wait_for(_loaded(service), self._wait_seconds)
        except TimeoutError:
            raise EngineUnavailable(f"The model '{service.name}' is still loading; try again.") from None

    def leave(self, turn: ModelTurn) -> None:
        """See ``ModelGate``."""


async def _loaded(service: ModelService) -> None:
    """Return when the model is loaded. Raises ModelLoadFailed."""
    changed = asyncio.Event()

    def on_change(service: ModelService) -> None:
        changed.set()

    service.on_change.append(on_change)
    try:
        service.load()
        while not service.is_loaded:
            changed.clear()
            await changed.wait()
            if service.phase == "failed":
                raise service.load_error()
            service.load()
    finally:
        service.on_change.remove(on_change)
