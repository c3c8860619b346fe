"""How many replicas a model should have: from its work now, and from how long there has been more or less of it.

The work is counted in replicas: sequences against slots, and prompt tokens that wait against the tokens that a replica
computes within ``PREFILL_SECONDS``. It is an amount and no ratio, so replicas that still load don't raise it. Pure: it
reads no clock and asks no replica.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import msgspec

from tailrace.cluster.config import Replicas
from tailrace.cluster_protocol.state import ModelLoad

#: Seconds that prompt tokens may wait on each replica before there should be another one.
PREFILL_SECONDS = 4.0
#: Part of a replica that may be in use after a removal. The distance to 1 keeps the number from going up and down.
FILLED = 0.75
#: Slots of a replica, as long as no replica has said how many it has.
_SLOTS = 8


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """The work for one model now."""

    loads: tuple[ModelLoad, ...] = ()  #: of the replicas that take requests
    wanted: int = 0  #: requests that wait at the ingresses, because no replica takes them

    @property
    def is_idle(self) -> bool:
        """Whether there is no request at all."""
        return not self.wanted and not any(each.running or each.waiting for each in self.loads)


def work(demand: Demand) -> float:
    """The work in replicas: 1.0 fills one."""
    slots = max((load.slots for load in demand.loads), default=0) or _SLOTS
    sequences = demand.wanted + sum(load.running + load.waiting for load in demand.loads)
    speed = max((load.prefill_speed for load in demand.loads), default=0.0)
    tokens = sum(load.waiting_prompt_tokens for load in demand.loads)
    if not speed:  # It isn't measured yet.
        return sequences / slots
    return max(sequences / slots, tokens / (max(speed, 1.0) * PREFILL_SECONDS))


@dataclass(frozen=True)
class _Look:
    at: float
    work: float


class Scaler:
    """The number of replicas of one model over time. ``decide`` is called with a clock that never goes back."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._looks: deque[_Look] = deque()
        self._active_at: float | None = None  #: when there was a request, or when it was looked at first

    def decide(self, target: int, demand: Demand, now: float) -> int:
        """The number that there should be. ``target``: the number that there should be so far."""
        replicas = self._replicas
        if self._active_at is None or not demand.is_idle:
            self._active_at = now
        self._look(now, demand)
        floor = max(1, replicas.min_replicas)
        if target < floor:
            # A request that waits at the ingress has the first replica started at once.
            return floor if replicas.min_replicas or not demand.is_idle else target
        if not replicas.min_replicas and demand.is_idle and now - self._active_at >= replicas.idle_seconds:
            return 0
        more = min(math.ceil(least), replicas.max_replicas) if (least := self._least(now)) is not None else target
        if more > target:
            return more
        fewer = max(math.ceil(most / FILLED), floor) if (most := self._most(now)) is not None else target
        return min(target, max(fewer, 1), replicas.max_replicas)

    def _look(self, now: float, demand: Demand) -> None:
        self._looks.append(_Look(now, work(demand)))
        kept = max(self._replicas.scale_up_seconds, self._replicas.scale_down_seconds)
        # The oldest look is at least as old as the longest delay, so that the whole delay is known.
        while len(self._looks) > 1 and self._looks[1].at <= now - kept:
            self._looks.popleft()

    def _least(self, now: float) -> float | None:
        return min(found) if (found := self._since(now - self._replicas.scale_up_seconds)) else None

    def _most(self, now: float) -> float | None:
        return max(found) if (found := self._since(now - self._replicas.scale_down_seconds)) else None

    def _since(self, start: float) -> list[float]:
        """The work at all looks from ``start`` on, with the one that held then; none where that isn't known."""
        looks = list(self._looks)
        if not looks or looks[0].at > start:
            return []
        before = max((index for index, look in enumerate(looks) if look.at <= start), default=0)
        return [look.work for look in looks[before:]]
