"""The time between two tokens of a stream, for all streams of an engine: one call a step.

Most steps bring a token to the same streams as the step before. Then all gaps are equal, and one addition counts them.
Only a step with other streams than the last is looked at stream by stream.
"""

from __future__ import annotations

from tailrace.observe.buckets import TOKEN_SECONDS
from tailrace.observe.histogram import Histogram

#: Streams that may be remembered beyond twice the number of those that have got a token.
_SPARE = 64


class TokenGaps:
    """One engine's gaps. A stream that gets several tokens in a step has one gap, as in vLLM."""

    __slots__ = ("_at", "_ids", "_last", "_single", "seconds")

    def __init__(self) -> None:
        self.seconds = Histogram(TOKEN_SECONDS)
        self._ids: list[int] = []  #: the last step's
        self._single = True  #: no id is twice among them
        self._at = 0.0  #: when they came
        self._last: dict[int, float] = {}  #: the last token's time of streams that weren't in the last step

    def step(self, ids: list[int], now: float) -> None:
        """A step has brought tokens to the streams ``ids``, in any order. A step without any is none."""
        if not ids:
            return
        if ids == self._ids and self._single:
            self.seconds.observe(now - self._at, len(ids))
        else:
            self._compare(ids, now)
        self._at = now

    def clear(self) -> None:
        """Forget all streams: their engine is gone."""
        self._ids = []
        self._last.clear()

    def _compare(self, ids: list[int], now: float) -> None:
        last = self._last
        for identity in self._ids:
            last[identity] = self._at
        streams = dict.fromkeys(ids)
        for identity in streams:
            before = last.pop(identity, None)
            if before is not None:
                self.seconds.observe(now - before)
        # Those left have ended, or sit a step out. Ids rise, so the oldest ones are the first to go.
        if len(last) > 2 * len(streams) + _SPARE:
            for identity in sorted(last)[: len(last) - len(streams) - _SPARE // 2]:
                del last[identity]
        self._ids = ids
        self._single = len(streams) == len(ids)
