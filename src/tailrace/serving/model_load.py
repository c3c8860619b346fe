"""One model as the load policy sees it: its memory, its phase, its requests, and until when it stays loaded.

Times are seconds of one clock, which the caller reads: nothing here has a clock. ``load_policy`` decides.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from dataclasses import dataclass, field

from tailrace.serving.control import ModelPhase

#: A loaded model whose memory another one waits for has a turn of this many of its swaps' durations.
TURN_SWAPS = 4.0
#: Bounds of a turn, in seconds.
MIN_TURN, MAX_TURN = 2.0, 30.0
#: Max seconds for which an idle model is kept for its next request. It is a swap's duration at most, so that waiting in
#: vain costs no more than the swap that it could have saved.
MAX_ANTICIPATION = 5.0
#: The same while the model has had one request, so that its pauses aren't known.
_FIRST_ANTICIPATION = 0.25
#: Seconds that are added to twice a pause.
_MARGIN = 0.1
#: The last pauses between requests, by which the policy judges when the next request comes.
_PAUSES = 2
#: Seconds until a model that couldn't load is tried again, for a new request; doubled at each failure in a row.
_FIRST_RETRY, _MAX_RETRY = 5.0, 300.0
#: Until a load is measured: seconds for starting a process, and bytes read in a second.
_START_SECONDS, _READ_SPEED = 1.0, 500e6


@dataclass
class ModelLoad:
    """See the module. ``need`` is planned from the file, until it is measured."""

    name: str
    need: int  #: bytes that it takes once it is loaded
    pinned: bool = False  #: it is never unloaded for another one, or because it is idle
    idle_seconds: float = math.inf  #: it is unloaded when it has been idle for so long, unless a request says otherwise
    workers: frozenset[str] = frozenset()  #: addresses of the workers that it has alone while it is loaded
    places: int = 0  #: requests that its engines run at a time; 0: any number
    phase: ModelPhase = "unloaded"
    used: int = 0  #: bytes that it takes now, as measured last; 0: ``need``
    running: int = 0  #: requests that have begun and haven't ended
    waiting: list[float] = field(default_factory=list)  #: arrivals of its requests that haven't begun, oldest first
    wanted_since: float = math.inf  #: when it was asked for without a request
    keep_alive: float | None = None  #: seconds of the last request that had the field, instead of ``idle_seconds``
    last_used: float = -math.inf
    serving_since: float = -math.inf
    idle_since: float = -math.inf  #: end of its last request, or of its load
    failures: int = 0  #: loads in a row that have failed
    reason: str = ""  #: why the last one has
    retry_at: float = -math.inf  #: no load is tried before
    _begun: float = -math.inf  #: when its load, or its end, was ordered
    _load_seconds: float = 0.0  #: as measured last; 0: never
    _unload_seconds: float = 0.0
    _pauses: deque[float] = field(default_factory=lambda: deque(maxlen=_PAUSES))

    # Facts

    @property
    def is_present(self) -> bool:
        """Whether it takes memory."""
        return self.phase in ("starting", "serving", "stopping")

    @property
    def taken(self) -> int:
        """The bytes that it takes now."""
        return (self.used or self.need) if self.is_present else 0

    @property
    def free_places(self) -> int:
        """How many of its requests may begin while another model waits for its memory."""
        return max(0, self.places - self.running) if self.places else len(self.waiting)

    @property
    def waits(self) -> bool:
        """Whether a request, or an order to load it, waits."""
        return bool(self.waiting) or self.wanted_since < math.inf

    @property
    def oldest(self) -> float:
        """Since when it is waited for; infinite where it isn't."""
        return min(self.wanted_since, self.waiting[0] if self.waiting else math.inf)

    @property
    def is_idle(self) -> bool:
        """Whether it could end without a loss."""
        return self.phase == "serving" and not self.running

    @property
    def swap_seconds(self) -> float:
        """How long it takes to load it and to end it, as measured or estimated."""
        load = self._load_seconds or _START_SECONDS + self.need / _READ_SPEED
        return load + self._unload_seconds

    @property
    def turn_seconds(self) -> float:
        """How long its own new requests still begin while another model waits for its memory."""
        return min(MAX_TURN, max(MIN_TURN, TURN_SWAPS * self.swap_seconds))

    @property
    def kept_until(self) -> float:
        """Until when an idle model is kept for its next request: twice the longest of its last pauses that were short
        enough for that.
        """
        longest = min(MAX_ANTICIPATION, self.swap_seconds)
        if not self._pauses:
            return self.idle_since + min(longest, _FIRST_ANTICIPATION)
        short = [pause for pause in self._pauses if pause <= longest]
        return self.idle_since + (min(longest, _MARGIN + 2 * max(short)) if short else 0.0)

    @property
    def expires_at(self) -> float:
        """When it is unloaded if no request comes; infinite where it stays, or isn't loaded, or has requests."""
        if self.pinned or not self.is_idle or self.waits:
            return math.inf
        return self.idle_since + (self.idle_seconds if self.keep_alive is None else self.keep_alive)

    def seconds_left(self, now: float) -> float:
        """Seconds until it is unloaded if no further request comes; infinite where it stays."""
        if self.pinned or not self.is_present:
            return math.inf
        kept = self.idle_seconds if self.keep_alive is None else self.keep_alive
        return kept if self.running or self.phase != "serving" else max(0.0, self.idle_since + kept - now)

    # Events

    def arrived(self, now: float) -> None:
        """A request has come; it waits until ``began``."""
        if not self.running and not self.waiting and self.idle_since > -math.inf:
            self._pauses.append(now - self.idle_since)
        bisect.insort(self.waiting, now)
        self.last_used = max(self.last_used, now)

    def left(self, arrival: float) -> None:
        """The waiting request that came at ``arrival`` waits no more: its client has gone, or it was refused."""
        self.waiting.remove(arrival)

    def began(self, arrival: float) -> None:
        """The waiting request that came at ``arrival`` runs from now on."""
        self.waiting.remove(arrival)
        self.running += 1

    def ended(self, now: float) -> None:
        """A running request has ended."""
        self.running -= 1
        self.last_used = now
        if not self.running:
            self.idle_since = now

    def wanted(self, now: float) -> None:
        """It is to be loaded, without a request."""
        if self.phase != "serving":
            self.wanted_since = min(self.wanted_since, now)

    def load_ordered(self, now: float) -> None:
        """Its engines are told to start."""
        self.phase, self._begun, self.used = "starting", now, 0

    def unload_ordered(self, now: float) -> None:
        """Its engines are told to end."""
        self.phase, self._begun = "stopping", now

    def measured(self, used: int) -> None:
        """Its engines take ``used`` bytes. What they take when they have loaded is what the next load needs."""
        if self.phase == "serving" and not self.used:
            self.need = used
        self.used = used

    def reported(self, phase: ModelPhase, now: float, *, reason: str = "") -> None:
        """Its engines are in this phase now.

        An engine that is started again keeps its model's memory: the model still serves, and its requests wait for it.
        """
        before = self.phase
        if phase == "starting" and before == "serving":
            return
        self.phase = phase
        if phase == "serving":
            if before != "serving":
                self._served(now, measured=before == "starting" and self._begun > -math.inf)
        elif phase == "failed":
            self._failed(now, reason)
        elif phase == "unloaded":
            if before == "stopping" and self._begun > -math.inf:
                self._unload_seconds = now - self._begun
            self._gone()

    def _served(self, now: float, *, measured: bool) -> None:
        if measured:
            self._load_seconds = max(now - self._begun, 1e-3)
        self.serving_since = self.idle_since = now
        self.last_used = max(self.last_used, now)
        self.wanted_since, self.failures = math.inf, 0

    def _failed(self, now: float, reason: str) -> None:
        self.failures += 1
        self.reason = reason
        self.retry_at = now + min(_MAX_RETRY, _FIRST_RETRY * 2 ** min(self.failures - 1, 10))
        self._gone()
        self.wanted_since = math.inf

    def _gone(self) -> None:
        self.used, self.keep_alive, self._begun = 0, None, -math.inf
