"""The pace of one transfer: a body from a client, or a reply to one. A transfer that stands still, or that goes on and
on in drops, is stuck.
"""

from __future__ import annotations

#: Bytes a second that a transfer has to have on average, once its first seconds are over: that of a very slow phone.
MIN_RATE = 4_000


class TransferPace:
    """See the module. Times are of the event loop's clock, in seconds."""

    __slots__ = ("_began", "_bytes", "_moved_at", "_rate")

    def __init__(self) -> None:
        self.begin(0.0)

    def begin(self, now: float) -> None:
        """A new transfer."""
        self._began = self._moved_at = now
        self._bytes = 0
        self._rate = 0.0

    def move(self, now: float, count: int) -> None:
        """So many bytes have moved since the last call, at most a few seconds ago."""
        self._rate = (self._rate + count) / 2
        if count > 0:
            self._bytes += count
            self._moved_at = now

    def pause(self, seconds: float) -> None:
        """For so long the transfer stood still, and this end was the reason."""
        self._began += seconds
        self._moved_at += seconds

    def is_stuck(self, now: float, seconds: float) -> bool:
        """Whether nothing has moved for ``seconds``, or less than ``MIN_RATE`` since then."""
        return now - self._moved_at > seconds or now - self._began > seconds + self._bytes / MIN_RATE

    def seconds_left(self, now: float, count: int) -> float:
        """About how long ``count`` further bytes will take. 0 while that can't be told: in the first two seconds."""
        return 0.0 if now - self._began < 2.0 else count / max(1.0, self._rate)
