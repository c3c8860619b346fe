"""Threads for work in proportion to a request: few at a time, and callers take turns.

Python runs one thread at a time, so this work is no faster than on the event loop. But the event loop goes on sending
tokens beside it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TypeVar

Made = TypeVar("Made")


class FairThreads:
    """Runs functions on threads, ``at_once`` at a time. A caller's next one runs after one of each other caller."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        #: The functions that wait, of each caller; the first caller is the next one.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def run(self, caller: str, make: Callable[[], Made]) -> Made:
        """The result of ``make``, for this caller."""
        if self._free:
            self._free -= 1
        else:
            await self._turn(caller)
        try:
            return await asyncio.to_thread(make)
        finally:
            self._pass_on()

    async def _turn(self, caller: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()  # It was given the turn in the same moment.
            raise

    def _pass_on(self) -> None:
        """Give the turn to the next function that still waits."""
        while self._waiting:
            caller, turns = next(iter(self._waiting.items()))
            turn = turns.popleft()
            if turns:
                self._waiting.move_to_end(caller)
            else:
                del self._waiting[caller]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
