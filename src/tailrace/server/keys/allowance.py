"""What one key may still use: places for requests, tokens a minute, tokens a day.

Tokens are counted when they are known: a prompt's when the engine has read its text, a reply's as it grows. A running
reply isn't cut. What it takes beyond the limit is a debt, and the next request waits until that is paid.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tailrace.errors import TooManyRequests
from tailrace.server.keys.keys_file import KeyRecord

_MINUTE = 60.0
_CODE = "rate_limit_exceeded"


@dataclass(frozen=True)
class Limit:
    """A limit at this moment, for headers."""

    limit: int
    remaining: int
    reset: float  #: seconds until all of it is free


class Allowance:
    """See the module. ``used``: called with each count of tokens, for the day's record."""

    def __init__(
        self,
        record: KeyRecord,
        used: Callable[[str, int], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.record = record
        self._used = used
        self._clock = clock
        self._now = now
        self.running = 0  #: requests
        self._level = float(record.tokens_per_minute or 0)  #: tokens that are left of the minute's; negative: a debt
        self._level_at = clock()
        self._day = today(now())
        self._day_tokens = 0

    def replace(self, record: KeyRecord) -> None:
        """Apply the limits of the key's new record. What is used stays used."""
        before, after = self.record.tokens_per_minute or 0, record.tokens_per_minute or 0
        self._refill()
        self._level += after - before
        self.record = record

    def set_day(self, day: str, tokens: int) -> None:
        """``tokens`` is what the record of the day has, which may be of other servers too."""
        self._turn_day()
        if day == self._day:
            self._day_tokens = max(self._day_tokens, tokens)

    def set_used(self, level: float | None, day_tokens: int) -> None:
        """Go on from these counts: tokens that are left of the minute's, and those used today."""
        self._level, self._level_at = level or 0.0, self._clock()
        self._day, self._day_tokens = today(self._now()), day_tokens

    def check(self) -> None:
        """Raise TooManyRequests when no further request may begin."""
        record = self.record
        if record.concurrency is not None and self.running >= record.concurrency:
            raise too_many_running(record, self.running)
        self.require(1)

    async def begin(self, tokens: int) -> int:
        """A request begins, with so many prompt tokens: how many of them are charged already. Raises TooManyRequests
        when they aren't left.
        """
        if tokens:
            self.require(tokens)
        return 0

    def ended(self) -> None:
        """A request that has begun has ended, after ``running`` was counted down."""

    @property
    def running_elsewhere(self) -> int:
        """Requests of the key that other servers run."""
        return 0

    def require(self, tokens: int) -> None:
        """Raise TooManyRequests when so many tokens aren't left."""
        record = self.record
        if record.tokens_per_minute is not None:
            self._refill()
            if tokens > record.tokens_per_minute:
                raise TooManyRequests(
                    f"This request has {tokens} tokens, and the key '{record.name}' has {record.tokens_per_minute} a "
                    "minute. Send a shorter one.",
                    retry_after=int(_MINUTE),
                    code=_CODE,
                )
            if self._level < tokens:
                seconds = math.ceil((tokens - self._level) * _MINUTE / record.tokens_per_minute)
                raise TooManyRequests(
                    f"The key '{record.name}' has {record.tokens_per_minute} tokens a minute. "
                    f"Try again in {seconds} s.",
                    retry_after=seconds,
                    code=_CODE,
                )
        if record.tokens_per_day is not None:
            self._turn_day()
            if self._day_tokens + tokens > record.tokens_per_day:
                raise TooManyRequests(
                    f"The key '{record.name}' has {record.tokens_per_day} tokens a day and has used "
                    f"{self._day_tokens}. The next day begins at midnight, UTC.",
                    retry_after=math.ceil(self._seconds_of_day()),
                    code=_CODE,
                )

    def charge(self, tokens: int) -> None:
        """Count tokens."""
        if tokens <= 0:
            return
        self._refill()
        self._level -= tokens
        self._turn_day()
        self._day_tokens += tokens
        self._used(self._day, tokens)

    def requests(self) -> Limit | None:
        """The limit of concurrent requests, for headers."""
        limit = self.record.concurrency
        if limit is None:
            return None
        free = max(0, limit - self.running - self.running_elsewhere)
        return Limit(limit, free, 0.0 if free else 1.0)

    def tokens(self) -> Limit | None:
        """The limit of tokens that is reached first, for headers."""
        record, limits = self.record, []
        if record.tokens_per_minute is not None:
            self._refill()
            missing = record.tokens_per_minute - self._level
            limits.append(
                Limit(
                    record.tokens_per_minute,
                    max(0, int(self._level)),
                    missing * _MINUTE / record.tokens_per_minute,
                )
            )
        if record.tokens_per_day is not None:
            self._turn_day()
            left = max(0, record.tokens_per_day - self._day_tokens)
            limits.append(Limit(record.tokens_per_day, left, self._seconds_of_day()))
        return min(limits, key=lambda limit: limit.remaining, default=None)

    def _refill(self) -> None:
        """The minute's tokens come back evenly: a sixtieth of them a second."""
        if (most := self.record.tokens_per_minute) is None:
            self._level = 0.0
            return
        now = self._clock()
        self._level = min(float(most), self._level + (now - self._level_at) * most / _MINUTE)
        self._level_at = now

    def _turn_day(self) -> None:
        if (day := today(self._now())) != self._day:
            self._day, self._day_tokens = day, 0

    def _seconds_of_day(self) -> float:
        now = self._now()
        midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        return (midnight - now).total_seconds()


class Place:
    """A request's place among those that a key may have at the same time. It has several holders: the request, and its
    generation, which may outlive it in the background.
    """

    def __init__(self, allowance: Allowance) -> None:
        self.allowance = allowance
        self._holders = 0
        self._has_begun = False

    def enter(self) -> None:
        """Take it for the request. Raises TooManyRequests when a limit is reached."""
        self.allowance.check()
        self.allowance.running += 1
        self._holders = 1

    async def begin(self, tokens: int) -> int:
        """The request begins, with so many prompt tokens: how many of them are charged already. Raises TooManyRequests
        when a limit is reached.
        """
        if self._has_begun:  # It has asked the engine before, without a prompt of its own.
            self.allowance.require(tokens)
            return 0
        charged = await self.allowance.begin(tokens)
        self._has_begun = True
        return charged

    def hold(self) -> None:
        """One more holder."""
        self._holders += 1

    def release(self) -> None:
        """One holder less; the last one frees the place. Nothing happens where the request has none."""
        if self._holders:
            self._holders -= 1
            if not self._holders:
                self.allowance.running -= 1
                if self._has_begun:
                    self.allowance.ended()


def too_many_running(record: KeyRecord, running: int) -> TooManyRequests:
    """The key has as many requests as it may have at the same time."""
    return TooManyRequests(
        f"The key '{record.name}' has {running} of {record.concurrency} requests running. "
        "Try again when one of them has ended.",
        code=_CODE,
    )


def today(now: datetime) -> str:
    """The day of UTC."""
    return now.astimezone(UTC).date().isoformat()
