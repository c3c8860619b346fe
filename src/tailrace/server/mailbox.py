"""What the engine says to one request, on its way from the socket to the task that reads it.

Nothing here knows the socket: ``client`` puts letters in, ``generate`` takes them out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from tailrace.errors import RequestError
from tailrace.messages import Accepted, Finished, Refused, TokenLogprobs

#: One token for one choice of a mailbox: choice, token, probabilities. A plain tuple, because one is made for each
#: token.
Token = tuple[int, int, TokenLogprobs | None]


class End:
    """A choice's last message."""

    __slots__ = ("choice", "finished")

    def __init__(self, choice: int, finished: Finished) -> None:
        self.choice = choice
        self.finished = finished


class Begun:
    """A choice's first message: its prompt has been read."""

    __slots__ = ("cached_tokens", "choice")

    def __init__(self, choice: int, cached_tokens: int) -> None:
        self.choice = choice
        self.cached_tokens = cached_tokens


class Silence:
    """Nothing came for a while."""

    __slots__ = ()


Letter = Token | Begun | End | Silence | Accepted | Refused | RequestError


class Mailbox:
    """What the engine says to one request, waiting to be read by one task."""

    __slots__ = ("_bound", "_late", "_letters", "_waiter", "on_overflow", "overflowed", "silent_ticks")

    def __init__(self, bound: int) -> None:
        """``bound``: letters that may wait, while the reader is busy, from one tick to the next. Then ``overflowed``
        is set, ``on_overflow`` is called and nothing more is taken.
        """
        self._letters: deque[Letter] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._bound = bound
        self.on_overflow: Callable[[], None] | None = None
        self.overflowed = False
        self._late = False  #: more than the bound had waited at the last tick, and the reader hasn't come since
        #: Ticks of the client's one timer since the reader last had something to tell (it sets this back to 0: letters
        #: may bring nothing that can be told yet). Cheaper than the time of day at every token.
        self.silent_ticks = 0

    def put(self, letter: Letter) -> None:
        """Add a letter and wake the reader."""
        if not self.overflowed:
            self._letters.append(letter)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def take(self) -> list[Letter]:
        """All letters that wait, at least one."""
        if not self._letters:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._late = False
        letters = list(self._letters)
        self._letters.clear()
        return letters

    def tick(self) -> None:
        """See whether the reader keeps up. A burst from a fast engine isn't its fault: it gets a tick to read it."""
        if len(self._letters) <= self._bound or self.overflowed:
            return
        if self._late:
            self.overflowed = True
            if self.on_overflow is not None:
                self.on_overflow()
        self._late = True
