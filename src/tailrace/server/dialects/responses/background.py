"""Responses that are made while no client waits, until they are done or cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import structlog

from tailrace.errors import InternalError
from tailrace.server.dialects.responses.body import ResponseHead
from tailrace.server.dialects.responses.output import Output
from tailrace.server.events import Failure
from tailrace.server.generate import Generation

#: So many may run or wait at the same time: nobody else bounds what clients leave behind.
MOST = 256


class _Running(NamedTuple):
    generation: Generation
    task: asyncio.Task[None]
    over: Callable[[], None]


class Background:
    """Those that run."""

    def __init__(self) -> None:
        self._running: dict[str, _Running] = {}

    @property
    def full(self) -> bool:
        """Whether no more may begin."""
        return len(self._running) >= MOST

    def begin(
        self, head: ResponseHead, generation: Generation, output: Output, ended: Callable[[dict[str, Any]], None]
    ) -> None:
        """Let it run. ``ended`` is told the response, once."""
        generation.listen(output)

        def over() -> None:
            if self._running.pop(head.id, None) is not None:
                ended(finished_body(head, output))

        def done(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (defect := task.exception()) is not None:
                structlog.get_logger().error("a response in the background hit a defect", exc_info=defect)
                output.tell(Failure(InternalError("The server hit a defect of its own; its log has the details.")))
            over()

        task = asyncio.create_task(generation.finished())
        self._running[head.id] = _Running(generation, task, over)
        task.add_done_callback(done)

    async def cancel(self, identity: str) -> None:
        """Stop it, if it runs, and return when ``ended`` has been told."""
        if (running := self._running.get(identity)) is not None:
            running.generation.cancel()
            await asyncio.wait([running.task])
            running.over()

    def stop(self) -> None:
        """Cancel them all; ``ended`` has been told of each when this returns."""
        for running in list(self._running.values()):
            running.generation.cancel()
            running.over()


def finished_body(head: ResponseHead, output: Output) -> dict[str, Any]:
    """The response that has become of it; one without an end of its own was cancelled."""
    status = "cancelled" if output.status == "in_progress" else output.status
    return head.body(status, output.items(), output.usage, output.error)
