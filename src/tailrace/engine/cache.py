"""KV accounting and prefix reuse: which slot holds whose tokens, and how many cells are left.

Pure bookkeeping: it decides nothing about who runs (the scheduler does) and touches no model. The changes that the
model's cache must follow are returned, and the loop applies them.

A slot that no sequence runs in keeps its tokens until somebody needs the room: the next turn of a conversation, a
shared system prompt or a second choice of the same prompt finds them there. Cells are reference-counted, because a
copied prefix shares the cells of its source.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count


def common_prefix(a: list[int], b: list[int]) -> int:
    """Length of the longest common prefix, by bisection over slice comparisons (each runs in C)."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


@dataclass(slots=True)
class Slot:
    """One row of the KV cache: ``tokens`` are computed and held in ``cells`` (one each)."""

    index: int
    tokens: list[int] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    busy: bool = False
    used: int = 0  #: when it was last given up, for eviction of the oldest


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a sequence goes, and what it finds there.

    The model's cache must first empty ``slot`` down to ``keep`` positions, and when ``source`` is set, copy the first
    ``length`` positions of it over. ``length`` positions are then ready.
    """

    slot: int
    length: int
    keep: int
    source: int | None


class KVCache:
    """The slots and cells of one model's KV cache."""

    def __init__(self, slots: int, cells: int, limit: int) -> None:
        """``cells``: how many there are; ``limit``: how many ``grow`` may make of them."""
        self.capacity = cells
        self._limit = limit
        self.slots = [Slot(index) for index in range(slots)]
        self._free = list(range(cells - 1, -1, -1))
        self._references = [0] * cells
        self._clock = count(1)

    @property
    def free(self) -> int:
        """Cells that hold nothing."""
        return len(self._free)

    @property
    def used(self) -> int:
        """Cells that hold something, be it for a running sequence or for reuse."""
        return self.capacity - len(self._free)

    def grow(self, free: int) -> bool:
        """Double the capacity until so many cells are free, as far as the limit allows. True when it has grown."""
        before = self.capacity
        while self.free < free and self.capacity < self._limit:
            larger = min(self._limit, 2 * self.capacity)
            self._free[:0] = range(larger - 1, self.capacity - 1, -1)
            self._references += [0] * (larger - self.capacity)
            self.capacity = larger
        return self.capacity > before

    def place(self, tokens: list[int]) -> Placement:
        """The best place for a sequence with these tokens: the longest prefix that any slot holds, short of the last
        token (its logits are needed). There must be a slot that isn't busy.
        """
        best: Slot | None = None
        length = 0
        for slot in self.slots:
            shared = min(common_prefix(slot.tokens, tokens), len(tokens) - 1)
            if shared > length:
                best, length = slot, shared
        idle = [slot for slot in self.slots if not slot.busy]
        empty = next((slot for slot in idle if not slot.tokens), None)
        # Stay in place unless that would throw away most of what the slot holds while another one is empty.
        if best is not None and not best.busy and (empty is None or 2 * length >= len(best.tokens)):
            return Placement(best.index, length, length, None)
        target = empty or min(idle, key=lambda slot: slot.used)
        if best is None:
            return Placement(target.index, 0, 0, None)
        if target is best:
            return Placement(best.index, length, length, None)
        return Placement(target.index, length, 0, best.index)

    def occupy(self, placement: Placement) -> None:
        """Make ``placement`` true."""
        slot = self.slots[placement.slot]
        self.truncate(slot, placement.keep)
        if placement.source is not None:
            source = self.slots[placement.source]
            slot.tokens = source.tokens[: placement.length]
            slot.cells = source.cells[: placement.length]
            for cell in slot.cells:
                self._references[cell] += 1
        slot.busy = True

    def append(self, index: int, tokens: list[int]) -> None:
        """Account for ``tokens`` computed into the slot. The caller has made sure that there are free cells."""
        slot = self.slots[index]
        for token in tokens:
            cell = self._free.pop()
            self._references[cell] = 1
            slot.cells.append(cell)
            slot.tokens.append(token)

    def release(self, index: int) -> None:
        """The sequence in the slot is over; what it computed stays for reuse."""
        slot = self.slots[index]
        slot.busy = False
        slot.used = next(self._clock)

    def truncate(self, slot: Slot, length: int) -> None:
        """Forget the slot's tokens from ``length`` on."""
        for cell in slot.cells[length:]:
            self._references[cell] -= 1
            if not self._references[cell]:
                self._free.append(cell)
        del slot.cells[length:], slot.tokens[length:]

    def evictable(self, spare: int) -> int:
        """Cells that evicting every idle slot but ``spare`` would free: those that no other slot shares."""
        going = [slot for slot in self.slots if not slot.busy and slot.index != spare]
        staying = {cell for slot in self.slots if slot.busy or slot.index == spare for cell in slot.cells}
        return len({cell for slot in going for cell in slot.cells} - staying)

    def evict_oldest(self, spare: int | None = None) -> int | None:
        """Empty the idle slot (other than ``spare``) that was used longest ago; its index, or None if there is none."""
        idle = [slot for slot in self.slots if slot.tokens and not slot.busy and slot.index != spare]
        if not idle:
            return None
        oldest = min(idle, key=lambda slot: slot.used)
        self.truncate(oldest, 0)
        return oldest.index
