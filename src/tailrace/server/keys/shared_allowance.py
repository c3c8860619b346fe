"""What one key may still use, where all servers count its use together in PostgreSQL.

A request asks once, when its prompt's tokens are known. Tokens of running replies are written down afterwards. While
PostgreSQL is gone, this server applies the limits by itself, and writes down later what was used.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from tailrace.errors import TooManyRequests
from tailrace.server.keys.allowance import Allowance, too_many_running
from tailrace.server.keys.keys_file import KeyRecord
from tailrace.server.keys.postgres_keys import KeyUse
from tailrace.server.postgres.connection import DatabaseFailure

#: Seconds for which a refusal holds without asking again: other servers' requests may have ended meanwhile.
_REFUSED_SECONDS = 0.5

#: Asks PostgreSQL: the record, tokens used since the last time, requests that run, tokens of one that is to begin.
Ask = Callable[[KeyRecord, int, int, int | None], Awaitable[KeyUse]]


class SharedAllowance(Allowance):
    """See the module, and ``Allowance``. ``ask`` raises DatabaseFailure. ``changed`` is called when ``write_down`` has
    something to do: at once where its second argument is true.
    """

    def __init__(
        self,
        record: KeyRecord,
        ask: Ask,
        changed: Callable[[SharedAllowance, bool], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(record, self._use, clock=clock, now=now)
        self._ask = ask
        self._changed = changed
        self._turn = asyncio.Lock()  #: one question of a key at a time: each has absolute numbers
        self._unwritten = 0  #: tokens that PostgreSQL doesn't know
        self._begun = 0  #: running requests that it knows
        self._elsewhere = 0  #: requests that other servers ran when it was asked last
        self._refused_until = float("-inf")

    def check(self) -> None:
        """See ``Allowance``. PostgreSQL decides when it is asked; this refuses what it would refuse."""
        limit = self.record.concurrency
        if limit is not None and self.running >= limit:
            raise too_many_running(self.record, self.running)
        if self._clock() < self._refused_until:
            self.require(1)

    async def begin(self, tokens: int) -> int:
        """See ``Allowance``: the prompt's tokens are charged with the question."""
        if not self.record.has_limits:
            return 0
        async with self._turn:
            used, self._unwritten = self._unwritten, 0
            try:
                found = await self._ask(self.record, used, self._begun, tokens)
            except BaseException as error:
                # Where the answer was lost, the tokens count twice, and the place until the next writing.
                self._unwritten += used
                self._changed(self, False)
                if not isinstance(error, DatabaseFailure):
                    raise
                self.require(tokens)
                self._begun += 1
                return 0
            self._take(found)
        if found.refused:
            self._refuse(tokens)
        self._begun += 1
        return tokens

    def ended(self) -> None:
        """See ``Allowance``."""
        if self.record.has_limits:
            self._begun -= 1
            self._changed(self, True)  # The next request may come to another server.

    async def write_down(self) -> None:
        """Have other servers know what was used here. Raises DatabaseFailure; then it is to be done again."""
        async with self._turn:
            used, self._unwritten = self._unwritten, 0
            try:
                self._take(await self._ask(self.record, used, self._begun, None))
            except BaseException:
                self._unwritten += used
                raise

    def take_unwritten(self) -> int:
        """The tokens that PostgreSQL doesn't know; they count as written from now on."""
        used, self._unwritten = self._unwritten, 0
        return used

    @property
    def running_elsewhere(self) -> int:
        """See ``Allowance``."""
        return self._elsewhere

    def _use(self, day: str, tokens: int) -> None:
        self._unwritten += tokens
        self._changed(self, False)

    def _take(self, found: KeyUse) -> None:
        """Go on from what all servers have used."""
        self._elsewhere = found.elsewhere
        level = found.left_of_minute
        self.set_used(None if level is None else level - self._unwritten, found.used_today + self._unwritten)

    def _refuse(self, tokens: int) -> None:
        """Raise TooManyRequests for what PostgreSQL has refused."""
        limit = self.record.concurrency
        if limit is not None and self._elsewhere + self._begun >= limit:
            raise too_many_running(self.record, self._elsewhere + self._begun)
        self._refused_until = self._clock() + _REFUSED_SECONDS
        self.require(max(1, tokens))
        raise TooManyRequests(
            f"The key '{self.record.name}' has just enough tokens again. Try again.", code="rate_limit_exceeded"
        )
