"""The waiting sequences, fair between callers: a round for each caller, so one caller's hundred requests delay another
caller by one. Within a caller the order is priority, then arrival.

It has the order alone. The scheduler decides which sequence starts.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, KeysView, Mapping
from heapq import heapify, heappop, heapreplace

from tailrace.engine.sequence import Sequence

#: Callers whose last turn is remembered. A forgotten caller comes before others with as many running sequences.
_MAX_REMEMBERED = 4096


def urgency(sequence: Sequence) -> tuple[int, int]:
    """Sort key within a caller: smaller priority first, then earlier arrival. Requests are numbered as they arrive."""
    return sequence.priority, sequence.id


class FairQueue:
    """Waiting sequences by caller."""

    def __init__(self) -> None:
        self._queues: dict[str, list[Sequence]] = {}  #: each caller's, most urgent first; no list is empty
        self._length = 0
        self._served: dict[str, int] = {}  #: when each caller had its last turn, counted in turns; oldest first
        self._turns = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Sequence]:
        return self.in_turn({})

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        insort(self._queues.setdefault(sequence.caller, []), sequence, key=urgency)
        self._length += 1

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out. Raises ValueError where it isn't queued."""
        queue = self._queues.get(sequence.caller, [])
        queue.remove(sequence)
        self._length -= 1
        if not queue:
            del self._queues[sequence.caller]

    def serve(self, sequence: Sequence) -> None:
        """Take out a sequence that starts: its caller has had its turn."""
        self.remove(sequence)
        self._turns += 1
        self._served.pop(sequence.caller, None)
        self._served[sequence.caller] = self._turns
        if len(self._served) > _MAX_REMEMBERED:
            del self._served[next(iter(self._served))]

    @property
    def callers(self) -> KeysView[str]:
        """Callers with a waiting sequence."""
        return self._queues.keys()

    def heads(self, running: Mapping[str, int]) -> list[Sequence]:
        """Each caller's most urgent sequence: first of the caller with the fewest in ``running``, then by turn."""
        served = self._served
        callers = sorted(self._queues, key=lambda caller: (running.get(caller, 0), served.get(caller, 0)))
        return [self._queues[caller][0] for caller in callers]

    def in_turn(self, running: Mapping[str, int]) -> Iterator[Sequence]:
        """All sequences as they start if places become free one by one. ``running``: sequences of each caller now.

        The caller with the fewest running sequences is next; of several, the one whose last turn is longest ago.
        """
        if len(self._queues) < 2:
            for queue in self._queues.values():
                yield from queue
            return
        turns = self._turns
        heap = [
            (running.get(caller, 0), self._served.get(caller, 0), caller, 0, queue)
            for caller, queue in self._queues.items()
        ]
        heapify(heap)
        while heap:
            count, _, caller, place, queue = heap[0]
            yield queue[place]
            turns += 1
            if place + 1 < len(queue):
                heapreplace(heap, (count + 1, turns, caller, place + 1, queue))
            else:
                heappop(heap)
