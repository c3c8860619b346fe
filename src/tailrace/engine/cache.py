"""KV accounting and prefix reuse: which slot holds whose tokens, how many cells are left, what is kept outside.

Pure bookkeeping: it decides nothing about who runs (the scheduler does) and touches no model. The changes that the
model's cache must follow are returned, and the loop applies them.

What a finished sequence has computed is reused by whoever begins alike: the next turn of a conversation, a shared
system prompt, a second choice of the same prompt. While nothing else runs it stays where it is. Otherwise it is moved
out, as a state kept in host memory: every running sequence attends past all cells in use, so kept ones would slow
everybody (measured on the starter model: 2,800 of them cost 8 streams a third of their speed).
"""

from __future__ import annotations

from collections import OrderedDict
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


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a sequence goes, and what it finds: ``length`` positions are ready in ``slot`` after this.

    They are there already, or are copied from the slot ``source``, or come from the kept state ``kept``.
    """

    slot: int
    length: int
    source: int | None = None
    kept: int | None = None


@dataclass(frozen=True, slots=True)
class MoveOut:
    """Empty ``slot``, after keeping its state as ``key`` (None: it isn't worth keeping); then forget ``dropped``."""

    slot: int
    key: int | None
    dropped: tuple[int, ...]


class KVCache:
    """The slots and cells of one model's KV cache, and the states kept outside of it.

    Cells are reference-counted, because a copied prefix shares the cells of its source.
    """

    def __init__(self, slots: int, cells: int, limit: int, keep: int) -> None:
        """``cells``: how many there are; ``limit``: how many ``grow`` may make of them; ``keep``: tokens that may be
        kept outside.
        """
        self.capacity = cells
        self.slots = [Slot(index) for index in range(slots)]
        self._limit = limit
        self._keep = keep
        self._free = list(range(cells - 1, -1, -1))
        self._references = [0] * cells
        self._kept: OrderedDict[int, list[int]] = OrderedDict()  #: tokens of each kept state, least recently used first
        self._kept_tokens = 0
        self._keys = count(1)

    @property
    def free(self) -> int:
        """Cells that hold nothing."""
        return len(self._free)

    @property
    def used(self) -> int:
        """Cells that hold something, be it for a running sequence or for reuse."""
        return self.capacity - len(self._free)

    @property
    def idle(self) -> list[Slot]:
        """Slots that hold a finished sequence's tokens."""
        return [slot for slot in self.slots if slot.tokens and not slot.busy]

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
        """The best place for a sequence with these tokens: the longest prefix that is anywhere, short of the last token
        (its logits are needed). There must be a slot that isn't busy.
        """
        target = min((slot for slot in self.slots if not slot.busy), key=lambda slot: len(slot.tokens))
        best = Placement(target.index, 0)
        longest = len(tokens) - 1
        for key, held in self._kept.items():
            length = min(common_prefix(held, tokens), longest)
            if length > best.length:
                best = Placement(target.index, length, kept=key)
        for slot in self.slots:
            length = min(common_prefix(slot.tokens, tokens), longest)
            # At equal length what is in a slot is cheaper to have than what is kept outside.
            if length > best.length or (length == best.length > 0 and best.kept is not None):
                copied = Placement(target.index, length, source=slot.index)
                best = copied if slot.busy else Placement(slot.index, length)
        return best

    def in_place(self, placement: Placement) -> bool:
        """Whether what is reused are the slot's own tokens."""
        return placement.length > 0 and placement.source is None and placement.kept is None

    def occupy(self, placement: Placement) -> None:
        """Make ``placement`` true. Its slot must be empty unless its own tokens are what is reused."""
        slot = self.slots[placement.slot]
        slot.busy = True
        if placement.source is not None:
            source = self.slots[placement.source]
            slot.tokens = source.tokens[: placement.length]
            slot.cells = source.cells[: placement.length]
            for cell in slot.cells:
                self._references[cell] += 1
        elif placement.kept is not None:
            self._kept.move_to_end(placement.kept)
            self.append(slot.index, self._kept[placement.kept][: placement.length])
        else:
            self.truncate(slot.index, placement.length)

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
        self.slots[index].busy = False

    def truncate(self, index: int, length: int) -> None:
        """Forget the slot's tokens from ``length`` on."""
        slot = self.slots[index]
        for cell in slot.cells[length:]:
            self._references[cell] -= 1
            if not self._references[cell]:
                self._free.append(cell)
        del slot.cells[length:], slot.tokens[length:]

    def move_out(self, index: int, wanted: int | None = None) -> MoveOut:
        """Empty an idle slot; its tokens are kept outside if there is room and nothing longer covers them.

        The kept state ``wanted`` is about to be used and stays, at the cost of what would have taken its place.
        """
        tokens = self.slots[index].tokens[:]
        self.truncate(index, 0)
        covered = any(common_prefix(held, tokens) == len(tokens) for held in self._kept.values())
        room = self._keep - (len(self._kept[wanted]) if wanted is not None else 0)
        if covered or len(tokens) > room:
            return MoveOut(index, None, ())
        if wanted is not None:
            self._kept.move_to_end(wanted)
        # A conversation's next turn replaces the one before.
        dropped = [
            key for key, held in self._kept.items() if key != wanted and common_prefix(held, tokens) == len(held)
        ]
        for key in dropped:
            self._forget(key)
        while self._kept_tokens + len(tokens) > self._keep:
            oldest = next(iter(self._kept))
            self._forget(oldest)
            dropped.append(oldest)
        key = next(self._keys)
        self._kept[key] = tokens
        self._kept_tokens += len(tokens)
        return MoveOut(index, key, tuple(dropped))

    def _forget(self, key: int) -> None:
        self._kept_tokens -= len(self._kept.pop(key))
