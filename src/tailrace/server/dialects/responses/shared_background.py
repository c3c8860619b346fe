"""Keeps responses in the background in step with other servers: their events, their cancels, and servers that died."""

from __future__ import annotations

import asyncio

import structlog

from tailrace.errors import InternalError
from tailrace.server.dialects.responses.background import Background
from tailrace.server.dialects.responses.postgres_store import PostgresResponseStore, Progress
from tailrace.server.postgres.connection import DatabaseFailure
from tailrace.server.postgres.process_lease import RENEW_SECONDS

#: Seconds between two exchanges while a response runs in the background: other servers' readers and cancels wait so
#: long.
_EXCHANGE_SECONDS = 0.4


class SharedBackground:
    """The loop that does so. While nothing runs in the background, it renews the lease and looks for dead servers."""

    def __init__(self, background: Background, store: PostgresResponseStore) -> None:
        self._background = background
        self._store = store
        self._written: dict[str, int] = {}  #: events of each running response that are stored
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, on the running event loop."""
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        exchanged_at = float("-inf")
        while True:
            if self._background.recordings or loop.time() - exchanged_at >= RENEW_SECONDS:
                exchanged_at = loop.time()
                try:
                    await self._exchange()
                except DatabaseFailure:
                    pass  # The pool has logged it. Everything is tried again the next time.
                except Exception:
                    structlog.get_logger().exception("the exchange with other servers hit a defect")
            await asyncio.sleep(_EXCHANGE_SECONDS)

    async def _exchange(self) -> None:
        store, recordings = self._store, dict(self._background.recordings)
        self._written = {identity: self._written.get(identity, 0) for identity in recordings}
        running = {
            identity: Progress(self._written[identity], recording.pieces[self._written[identity] :])
            for identity, recording in recordings.items()
        }
        fates = await store.exchange(running)
        for identity, progress in running.items():
            fate = fates.get(identity)
            if fate is None or fate.wants_cancel or fate.status == "cancelled":
                self._background.cancel_soon(identity)
            elif fate.status != "in_progress":
                self._background.fail(
                    identity,
                    InternalError(
                        "This server couldn't reach what is stored for so long that another one has ended the response."
                    ),
                )
            else:
                self._written[identity] = progress.first + len(progress.pieces)
        await store.try_again()
        if ended := await store.fail_abandoned():
            structlog.get_logger().warning("another server has died: its responses have failed", responses=ended)
