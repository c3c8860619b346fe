"""Admission: how many requests, and how many prompt tokens, may wait for the engine, and whose.

It counts what has been let in and hasn't ended, for each caller. A full queue refuses, and it refuses the callers that
have more than their share of it. It orders nothing and holds no request: those that wait are in the engine's queue,
which is shared between callers there.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from tailrace.errors import TooManyRequests

#: The queue may be this many times as long as its bound when many callers have less than their share each.
_MAX_FACTOR = 4
#: Ended requests from which the drain rate is measured, and for how long they count, in seconds.
_SAMPLES = 64
_SAMPLE_SECONDS = 60.0
#: Seconds of ``Retry-After``: without a measured rate, and at most. OpenAI's clients ignore more than a minute.
_RETRY_SECONDS = 5
_MAX_RETRY_SECONDS = 60


class AdmissionQueue:
    """See the module. All counts are of what has been let in and hasn't ended: it waits or runs."""

    def __init__(self, *, max_waiting: int, max_waiting_tokens: int, capacity: Callable[[], int]) -> None:
        """``max_waiting``: requests that may wait beside the ``capacity`` that run; ``max_waiting_tokens``: prompt
        tokens that may wait to be computed.
        """
        self.requests = 0
        self.parked = 0  #: of the requests, those that wait for a model to be loaded
        self.tokens = 0  #: prompt tokens that aren't computed yet
        self.refused = 0  #: requests that were refused since the start
        self._max_waiting = max_waiting
        self._max_tokens = max_waiting_tokens
        self._capacity = capacity
        self._callers: dict[str, _Caller] = {}
        self._drained_requests = _DrainRate()
        self._drained_tokens = _DrainRate()

    @property
    def waiting(self) -> int:
        """How many requests wait: those whose model isn't loaded, and those that are more than the engines run."""
        return self.parked + max(0, self.requests - self.parked - self._capacity())

    @property
    def _limit(self) -> int:
        return self._max_waiting + self._capacity()

    @property
    def callers(self) -> int:
        """How many callers have requests that wait or run."""
        return len(self._callers)

    def enter(self, caller: str) -> QueuePlace:
        """A place for one request of this caller, whose prompt isn't known yet. Raises TooManyRequests."""
        place = QueuePlace(self, caller)
        place.claim(1, 0)
        return place

    def _claim(self, place: QueuePlace, requests: int, tokens: int) -> None:
        """Change what the place has. Raises TooManyRequests where the queue is too full for more."""
        # A request that is larger than the queue is served when it is alone, and counts as much as fills the queue.
        requests, tokens = min(requests, self._limit), min(tokens, self._max_tokens)
        more_requests, more_tokens = requests - place.requests, tokens - place.tokens
        if more_requests > 0 or more_tokens > 0:
            self._check(place, more_requests, more_tokens)
        self._change(place, more_requests, more_tokens)

    def _park(self, place: QueuePlace) -> None:
        """Count the place's requests as waiting. Raises TooManyRequests where too many wait already."""
        # One may always wait: without it no model would be loaded where ``max_waiting`` is 0.
        limit = max(1, self._max_waiting)
        mine, callers = self._callers[place.caller], len(self._callers)
        excess = _excess(self.parked + place.requests, mine.parked + place.requests, limit, callers)
        if excess and self.parked:
            self._refuse(f"{self.waiting} requests wait already", self._drained_requests.seconds(excess))
        self._change_parked(place, place.requests)

    def _change_parked(self, place: QueuePlace, requests: int) -> None:
        for counts in (self, self._callers[place.caller], place):
            counts.parked += requests

    def _check(self, place: QueuePlace, requests: int, tokens: int) -> None:
        mine = self._callers.get(place.caller)
        own_requests, own_tokens = (mine.requests, mine.tokens) if mine is not None else (0, 0)
        callers = len(self._callers) + (mine is None)
        excess = _excess(self.requests + requests, own_requests + requests, self._limit, callers)
        if requests > 0 and excess:
            self._refuse(f"{self.waiting} requests wait already", self._drained_requests.seconds(excess))
        excess = _excess(self.tokens + tokens, own_tokens + tokens, self._max_tokens, callers)
        if tokens > 0 and excess:
            self._refuse(f"prompts of {self.tokens} tokens wait already", self._drained_tokens.seconds(excess))

    def _refuse(self, why: str, seconds: int) -> None:
        self.refused += 1
        raise TooManyRequests(f"The queue is full: {why}. Try again in {seconds} s.", retry_after=seconds)

    def _change(self, place: QueuePlace, requests: int, tokens: int) -> None:
        caller = self._callers.get(place.caller)
        if caller is None:
            caller = self._callers[place.caller] = _Caller()
        for counts in (self, caller, place):
            counts.requests += requests
            counts.tokens += tokens
        if not (caller.requests or caller.tokens):
            del self._callers[place.caller]

    def _give_back(self, place: QueuePlace, requests: int, tokens: int) -> None:
        self._change(place, -requests, -tokens)
        if requests:
            self._drained_requests.add(requests)
        if tokens:
            self._drained_tokens.add(tokens)


class QueuePlace:
    """What one HTTP request has in the queue: as many requests as it has replies, and the tokens of its prompts, but no
    more of either than the queue has room for.

    Its owner closes it once the request has ended, whatever the end; what is given back twice counts once.
    """

    __slots__ = ("_queue", "caller", "parked", "requests", "tokens")

    def __init__(self, queue: AdmissionQueue, caller: str) -> None:
        """Use ``AdmissionQueue.enter``."""
        self._queue = queue
        self.caller = caller
        self.requests = 0
        self.parked = 0
        self.tokens = 0

    def park(self) -> None:
        """The request waits for its model to be loaded. Raises TooManyRequests, and changes nothing, where too many
        wait.
        """
        if not self.parked and self.requests:
            self._queue._park(self)

    def unpark(self) -> None:
        """It has its model. Harmless where it wasn't parked."""
        if self.parked:
            self._queue._change_parked(self, -self.parked)

    def claim(self, requests: int, tokens: int) -> None:
        """Have so many requests and tokens instead of those so far. Raises TooManyRequests and changes nothing where
        the queue is too full for more.
        """
        self._queue._claim(self, requests, tokens)

    def give_back(self, requests: int = 0, tokens: int = 0) -> None:
        """So many of them have ended, or are computed."""
        self._queue._give_back(self, min(requests, self.requests), min(tokens, self.tokens))

    def correct(self, estimate: int, tokens: int) -> None:
        """A prompt that was claimed with an estimate has so many tokens."""
        if self.requests:
            self._queue._change(self, 0, max(-self.tokens, tokens - estimate))

    def close(self) -> None:
        """Everything has ended. Harmless when repeated."""
        self.unpark()
        if self.requests or self.tokens:
            self.give_back(self.requests, self.tokens)


class _Caller:
    """What one caller has in the queue."""

    __slots__ = ("parked", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = 0
        self.parked = 0
        self.tokens = 0


def _excess(total: int, own: int, limit: int, callers: int) -> int:
    """By how much ``total`` is over the limit; 0 where the caller has no more than its share."""
    if total <= limit or (own * callers <= limit and total <= _MAX_FACTOR * limit):
        return 0
    return total - limit


class _DrainRate:
    """How fast something drains."""

    def __init__(self) -> None:
        self._amount = 0  #: since the start
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)  #: times, and the amounts before them

    def add(self, amount: int) -> None:
        """So much has drained now."""
        self._samples.append((time.monotonic(), self._amount))
        self._amount += amount

    def seconds(self, amount: int) -> int:
        """How long ``amount`` will take at the measured rate, in whole seconds from 1 on."""
        now = time.monotonic()
        while self._samples and self._samples[0][0] < now - _SAMPLE_SECONDS:
            self._samples.popleft()
        if not self._samples:
            return _RETRY_SECONDS
        since, before = self._samples[0]
        seconds = amount * max(now - since, 0.001) / (self._amount - before)
        return min(_MAX_RETRY_SECONDS, max(1, math.ceil(seconds)))
