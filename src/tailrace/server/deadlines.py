"""Deadlines of a request: its time in the queue, to the first token, and altogether.

The settings give each an upper bound, and a client can shorten them with headers. Waiting tasks and timers are
elsewhere: this module knows times and errors.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import NamedTuple

from tailrace.errors import DeadlineExceeded, InvalidRequest
from tailrace.settings import Settings

#: Headers with which a client shortens them, in seconds.
QUEUE_HEADER = "x-queue-timeout"
FIRST_TOKEN_HEADER = "x-first-token-timeout"
TOTAL_HEADER = "x-request-timeout"


class Deadlines(NamedTuple):
    """The times of one request, of the monotonic clock in seconds; ``inf`` where there is none."""

    begun: float  #: when the request arrived
    queue: float  #: when the engine has to have begun with it
    first_token: float
    total: float

    @property
    def start(self) -> float:
        """The earliest of them."""
        return min(self.queue, self.first_token, self.total)

    def late(self, now: float, *, queued: bool, waits_for_token: bool) -> DeadlineExceeded | None:
        """The error of the first one that has passed. ``queued``: the engine hasn't begun with the request."""
        if now >= self.total:
            return self._error("has taken longer than", self.total, TOTAL_HEADER, "request_timeout")
        if waits_for_token and now >= self.first_token:
            return self._error("has no first token after", self.first_token, FIRST_TOKEN_HEADER, "first_token_timeout")
        if queued and now >= self.queue:
            return self._error("has waited in the queue for", self.queue, QUEUE_HEADER, "queue_timeout")
        return None

    def _error(self, what: str, deadline: float, header: str, code: str) -> DeadlineExceeded:
        setting = {TOTAL_HEADER: "total_seconds", FIRST_TOKEN_HEADER: "first_token_seconds"}.get(
            header, "queue_seconds"
        )
        seconds = deadline - self.begun
        return DeadlineExceeded(
            f"The request {what} {seconds:g} s, the limit of '{header}' or of the server's {setting}.", code=code
        )


def deadlines_of(headers: Mapping[str, str], settings: Settings) -> Deadlines | None:
    """The deadlines of a request that arrives now; None where it has none. Raises InvalidRequest."""
    now = time.monotonic()
    found = Deadlines(
        now,
        now + _limit(headers, QUEUE_HEADER, settings.queue_seconds),
        now + _limit(headers, FIRST_TOKEN_HEADER, settings.first_token_seconds),
        now + _limit(headers, TOTAL_HEADER, settings.total_seconds),
    )
    return None if found.start == math.inf else found


def _limit(headers: Mapping[str, str], header: str, setting: float) -> float:
    """The shorter of the setting's seconds, of which 0 is none, and the header's."""
    limit = setting or math.inf
    given = headers.get(header)
    if given is None:
        return limit
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise InvalidRequest(f"The header '{header}' must be a number of seconds over 0.", param=header)
    return min(limit, seconds)
