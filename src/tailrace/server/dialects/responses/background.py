"""Responses that are made while no client waits, until they are done or cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tailrace.server.dialects.responses.body import ResponseHead
from tailrace.server.dialects.responses.output import Output
from tailrace.server.generate import Generation

#: So many may run or wait at the same time: nobody else bounds what clients leave behind.
MOST = 256


class Background:
    """Those that run."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[Generation, asyncio.Task[None]]] = {}

    @property
    def full(self) -> bool:
        """Whether no more may begin."""
        return len(self._running) >= MOST

    def begin(
        self, head: ResponseHead, generation: Generation, output: Output, ended: Callable[[dict[str, Any]], None]
    ) -> None:
        """Let it run. ``ended`` is told the response."""
        generation.listen(output)
        task = asyncio.create_task(self._wait(head, generation, output, ended))
        self._running[head.id] = (generation, task)

    async def cancel(self, identity: str) -> None:
        """Stop it, if it runs, and return when ``ended`` has been told."""
        if (entry := self._running.get(identity)) is not None:
            generation, task = entry
            generation.cancel()
            await asyncio.wait([task])

    async def _wait(
        self, head: ResponseHead, generation: Generation, output: Output, ended: Callable[[dict[str, Any]], None]
    ) -> None:
        try:
            await generation.finished()
        finally:
            del self._running[head.id]
            ended(finished_body(head, output))


def finished_body(head: ResponseHead, output: Output) -> dict[str, Any]:
    """The response that has become of it; one without an end of its own was cancelled."""
    status = "cancelled" if output.status == "in_progress" else output.status
    return head.body(status, output.items(), output.usage, output.error)
