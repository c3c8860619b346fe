"""When a request is made again, after which pause, and when it is given up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from tailrace.errors import PullFailed

#: Failures in a row, without a byte of progress between them, after which a pull ends.
_MAX_FAILURES = 6
#: The same before anything was ever received: a name that isn't known, or a proxy that refuses, stays so.
_MAX_FIRST_FAILURES = 2
#: Seconds of the first pause without progress; each further one is twice as long.
_FIRST_PAUSE = 1.0
#: Seconds of the pause after a failure that came with progress.
_SHORT_PAUSE = 0.1
#: Max seconds that a server may have a pull wait (``Retry-After``).
_MAX_PAUSE = 300.0


class Interrupted(Exception):
    """A request has failed in a way that may pass: no connection, a cut one, silence, or a status that says so.

    ``retry_after``: seconds that the server wants between attempts; None where it doesn't say. ``answered``: whether
    the server was reached.
    """

    def __init__(
        self, message: str, *, reason: str = "network", retry_after: float | None = None, answered: bool = True
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after
        self.answered = answered


class Retries:
    """The failures of one file or of one question. ``report`` receives what is waited for, for people."""

    def __init__(self, report: Callable[[str], None], sleep: Callable[[float], None] = time.sleep) -> None:
        self._report = report
        self._sleep = sleep
        self._failures = 0
        self._reached = False

    def pause(self, why: Interrupted, *, progressed: bool) -> None:
        """Wait before the next attempt. Raises PullFailed where there should be none."""
        self._reached = self._reached or progressed or why.answered
        self._failures = 0 if progressed else self._failures + 1
        if self._failures >= (_MAX_FAILURES if self._reached else _MAX_FIRST_FAILURES):
            raise PullFailed(f"{why}. {self._remedy(why)}", reason=why.reason) from why
        if why.retry_after is not None and why.retry_after > _MAX_PAUSE:
            raise PullFailed(
                f"{why}. It asks for a pause of {why.retry_after:.0f} s; pull again then", reason=why.reason
            )
        seconds = why.retry_after
        if seconds is None:
            # A random part, so that many clients that were cut off together don't come back together.
            seconds = _FIRST_PAUSE * 2 ** (self._failures - 1) * random.uniform(0.75, 1.25)
            seconds = _SHORT_PAUSE if progressed else seconds
        if seconds >= 1.0:
            self._report(f"{why}; the next attempt is in {seconds:.0f} s")
        self._sleep(seconds)

    def _remedy(self, why: Interrupted) -> str:
        if why.reason == "busy":
            return "Pull again later: it goes on where it ended"
        if not self._reached:
            return "Check the network (behind a proxy set HTTPS_PROXY), then pull again"
        return "Pull again: it goes on where it ended"
