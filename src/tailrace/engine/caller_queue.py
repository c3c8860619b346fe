"""Jobs that wait for a thread, fair between callers: a round for each caller, so that many jobs of one caller delay
another caller by one.

Within a caller the oldest job and the cheapest one take turns: a cheap job doesn't wait behind many costly ones, nor a
costly one for ever. It has no lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

J = TypeVar("J")


class _Waiting(Generic[J]):
    """One caller's jobs, oldest first."""

    __slots__ = ("cheapest_next", "jobs")

    def __init__(self) -> None:
        self.jobs: list[J] = []
        self.cheapest_next = True


class CallerQueue(Generic[J]):
    """See the module."""

    def __init__(self, cost: Callable[[J], int]) -> None:
        """``cost``: how long a job takes, in any unit."""
        self._cost = cost
        self._callers: dict[str, _Waiting[J]] = {}  #: whose turn comes first, is first; no list is empty

    def __len__(self) -> int:
        return sum(len(waiting.jobs) for waiting in self._callers.values())

    def __iter__(self) -> Iterator[J]:
        for waiting in self._callers.values():
            yield from waiting.jobs

    def add(self, caller: str, job: J) -> None:
        """Queue a job."""
        self._callers.setdefault(caller, _Waiting()).jobs.append(job)

    def remove(self, caller: str, job: J) -> bool:
        """Take out a job that isn't wanted any more. False where it isn't queued."""
        waiting = self._callers.get(caller)
        if waiting is None or job not in waiting.jobs:
            return False
        waiting.jobs.remove(job)
        if not waiting.jobs:
            del self._callers[caller]
        return True

    def take(self, allowed: Callable[[J], bool] = lambda job: True) -> J | None:
        """Take out the next job that is ``allowed`` now; None where there is none."""
        for caller, waiting in self._callers.items():
            able = [job for job in waiting.jobs if allowed(job)]
            if not able:
                continue
            job = min(able, key=self._cost) if waiting.cheapest_next else able[0]
            waiting.cheapest_next = not waiting.cheapest_next
            waiting.jobs.remove(job)
            del self._callers[caller]
            if waiting.jobs:
                self._callers[caller] = waiting  # Its next turn comes after the others'.
            return job
        return None

    def clear(self) -> None:
        """Drop all jobs."""
        self._callers.clear()
