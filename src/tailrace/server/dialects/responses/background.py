"""Runs responses without a connected client, until they are done or cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import structlog

from tailrace.errors import InternalError, RequestError
from tailrace.server.dialects.responses.event_recording import Recorder, Recording
from tailrace.server.dialects.responses.stream import ResponsesStream
from tailrace.server.events import Failure
from tailrace.server.generation import Generation

#: Max responses that run or wait at a time. Nothing else bounds them, because no client has to stay connected.
MAX_RUNNING = 256


class _Running(NamedTuple):
    generation: Generation
    task: asyncio.Task[None]
    recorder: Recorder
    finish: Callable[[], None]
    owner: str  #: the id of the key that made it


class Background:
    """Those that run."""

    def __init__(self) -> None:
        self._running: dict[str, _Running] = {}

    @property
    def recordings(self) -> dict[str, Recording]:
        """The events of each one that runs, by its id."""
        return {identity: running.recorder.recording for identity, running in self._running.items()}

    @property
    def full(self) -> bool:
        """Whether no more may begin."""
        return len(self._running) >= MAX_RUNNING

    def run(
        self,
        identity: str,
        owner: str,
        generation: Generation,
        stream: ResponsesStream,
        recorded: Callable[[Recording], None],
    ) -> Recording:
        """Run the generation, for the key with the id ``owner``. Returns the recording of its events. ``recorded`` is
        called with it once it is complete, after the stream has reported its end.
        """
        recorder = Recorder(stream)
        generation.attach(recorder)

        def finish() -> None:
            if self._running.pop(identity, None) is not None:
                recorder.close()
                recorded(recorder.recording)

        def done(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (defect := task.exception()) is not None:
                structlog.get_logger().error("a response in the background hit a defect", exc_info=defect)
                recorder.emit(Failure(InternalError("The server hit a defect of its own; its log has the details.")))
            finish()

        task = asyncio.create_task(generation.finished())
        self._running[identity] = _Running(generation, task, recorder, finish, owner)
        task.add_done_callback(done)
        return recorder.recording

    def recording(self, identity: str, owner: str) -> Recording | None:
        """The events of one that runs."""
        running = self._of(identity, owner)
        return None if running is None else running.recorder.recording

    def cancel_soon(self, identity: str) -> None:
        """Stop it, if it runs, on this server or another one; its end is reported soon."""
        if (running := self._running.get(identity)) is not None:
            running.generation.cancel()

    def fail(self, identity: str, error: RequestError) -> None:
        """End it with this error, if it runs."""
        if (running := self._running.get(identity)) is not None:
            running.recorder.emit(Failure(error))
            running.generation.cancel()

    async def cancel(self, identity: str, owner: str) -> None:
        """Stop it, if it runs, and return when its end has been reported."""
        if (running := self._of(identity, owner)) is not None:
            running.generation.cancel()
            await asyncio.wait([running.task])
            running.finish()

    def _of(self, identity: str, owner: str) -> _Running | None:
        running = self._running.get(identity)
        return running if running is not None and running.owner == owner else None

    def stop(self) -> None:
        """Cancel them all; the end of each has been reported when this returns."""
        for running in list(self._running.values()):
            running.generation.cancel()
            running.finish()
