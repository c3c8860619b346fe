"""Bounds how many log lines of a kind are written: a client that is refused a thousand times a second fills no disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import structlog

#: Lines of a kind that come at once, at most, and how many are let through a second after that.
BURST = 100
PER_SECOND = 5.0
#: Kinds that are counted one by one. Kinds are texts of the code, but some have a process's name in them.
_MAX_KINDS = 256


class LogLimit:
    """A processor of structlog's, and a filter of ``logging``'s. A kind is an event's text, and the status for a
    request's line; or the source of the lines where that is a library.

    Lines of requests that were served aren't bounded: the engine bounds those. Lines for debugging aren't either.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[object, _Kind] = {}

    def __call__(self, _: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """Let the line pass, or raise ``DropEvent``. A line that passes has ``suppressed``: those dropped before it."""
        status = event.get("status")
        if method == "debug" or (isinstance(status, int) and status < 400):
            return event
        suppressed = self._suppressed((event.get("source") or event.get("event"), status))
        if suppressed is None:
            raise structlog.DropEvent
        if suppressed:
            event["suppressed"] = suppressed
        return event

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a library's line passes. Its kind is the logger and the text before arguments are put in."""
        return self._suppressed((record.name, str(record.msg)[:200])) is not None

    def _suppressed(self, name: object) -> int | None:
        """How many lines of the kind were dropped before this one; None: this one is dropped too."""
        kind = self._kinds.get(name)
        if kind is None:
            kind = self._kinds.setdefault(name if len(self._kinds) < _MAX_KINDS else None, _Kind())
        now = self._clock()
        kind.allowance = min(BURST, kind.allowance + (now - kind.at) * PER_SECOND)
        kind.at = now
        if kind.allowance < 1.0:
            kind.suppressed += 1
            return None
        kind.allowance -= 1.0
        suppressed, kind.suppressed = kind.suppressed, 0
        return suppressed


class _Kind:
    __slots__ = ("allowance", "at", "suppressed")

    def __init__(self) -> None:
        self.allowance = float(BURST)
        self.at = 0.0
        self.suppressed = 0
