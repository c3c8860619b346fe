"""The memory of all request bodies together, from their first byte until the engine has their prompts.

A body that would go beyond the limit waits, and its client with it, because its connection isn't read. One body may go
beyond it, so that bodies which wait for each other's memory end. A body that stands still while others wait is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tailrace.errors import ServerBusy

#: A body up to this size is read whatever the others take.
SMALL = 65_536
#: Max bodies that wait. Each has some bytes in its connection's buffers.
_MAX_WAITING = 64
#: While others wait, a body that gets nothing for so many seconds is refused.
_STALE_SECONDS = 2.0


class BodyMemory:
    """See the module. ``wait_seconds``: how long a body waits for memory before it is refused."""

    def __init__(self, limit: int, wait_seconds: float) -> None:
        self.limit = limit  #: bytes
        self.held = 0  #: bytes of all bodies
        self.released = 0  #: bytes of all bodies that have gone
        self._wait_seconds = wait_seconds
        self._reading: dict[BodyLease, None] = {}
        self._waiting: dict[BodyLease, asyncio.Future[None]] = {}
        self._first: BodyLease | None = None  #: it may go beyond the limit

    def lease(self, fail: Callable[[ServerBusy], None]) -> BodyLease:
        """The part of one request. ``fail`` ends its reading with an error."""
        return BodyLease(self, fail)

    def tick(self) -> None:
        """Refuse bodies that stand still, where others wait. Called about once a second."""
        if not self._waiting:
            return
        now = asyncio.get_running_loop().time()
        for lease in list(self._reading):
            if lease.size > SMALL and lease not in self._waiting and now - lease.read_at > _STALE_SECONDS:
                del self._reading[lease]
                lease.fail(_busy())

    async def wait(self, lease: BodyLease) -> None:
        """Return when ``lease`` may go on. Raises ServerBusy."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._wait_seconds
        while self.held > self.limit and lease.size > SMALL:
            if self._first is None:
                self._first = lease
            if self._first is lease:
                return
            if len(self._waiting) >= _MAX_WAITING:
                raise _busy()
            freed = self._waiting[lease] = loop.create_future()
            try:
                await asyncio.wait_for(freed, end - loop.time())
            except TimeoutError:
                raise _busy() from None
            finally:
                self._waiting.pop(lease, None)
        lease.read_at = loop.time()

    def change(self, lease: BodyLease, count: int) -> None:
        """A body has grown by ``count`` bytes, or has gone."""
        self.held += count
        if count > 0:
            self._reading[lease] = None
        elif self.held <= self.limit or self._first is None:
            for freed in self._waiting.values():
                if not freed.done():
                    freed.set_result(None)

    def forget(self, lease: BodyLease) -> None:
        """A body isn't read any more."""
        self._reading.pop(lease, None)

    def release(self, lease: BodyLease) -> None:
        """A body has gone."""
        self.forget(lease)
        if self._first is lease:
            self._first = None
        self.released += lease.size
        self.change(lease, -lease.size)


class BodyLease:
    """The memory of one request's body."""

    def __init__(self, memory: BodyMemory, fail: Callable[[ServerBusy], None]) -> None:
        self.size = 0  #: bytes
        self.read_at = asyncio.get_running_loop().time()  #: when bytes have come, by the event loop's clock
        self.fail = fail
        self._memory = memory

    @property
    def must_wait(self) -> bool:
        """Whether ``wait`` would wait."""
        return self._memory.held > self._memory.limit and self.size > SMALL

    def grow(self, count: int) -> None:
        """``count`` more bytes have come."""
        self.size += count
        self.read_at = asyncio.get_running_loop().time()
        self._memory.change(self, count)

    async def wait(self) -> None:
        """Return when more may be read. Raises ServerBusy."""
        await self._memory.wait(self)

    def read(self) -> None:
        """All of the body has come."""
        self._memory.forget(self)

    def release(self) -> None:
        """The body isn't needed any more. Harmless the second time."""
        self._memory.release(self)
        self.size = 0


def _busy() -> ServerBusy:
    return ServerBusy("The bodies of other requests take all the memory for bodies (--body-memory-mb); try again.")
