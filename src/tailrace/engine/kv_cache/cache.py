"""KV accounting and prefix reuse: which slot holds whose tokens, what still fits, what is kept outside.

Pure bookkeeping: it decides nothing about who runs (the scheduler does) and touches no model. The changes that the
model's cache must follow are returned, and the loop applies them.

What a finished sequence has computed is reused by whoever begins alike: the next turn of a conversation, a shared
system prompt, a second choice of the same prompt. It stays in its slot as long as nobody else needs that. Otherwise it
is moved out, as a state kept in host memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tailrace.engine.kv_cache.layout import Layout, LayoutPolicy
from tailrace.engine.kv_cache.prefix_store import Kept, KeptStates, common_prefix


@dataclass(slots=True)
class Slot:
    """One row of the KV cache: ``tokens`` are computed and held. ``cells`` are theirs in the pool, one each; empty in
    streams, where a slot's cells are nobody else's.
    """

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
    """Empty ``slot``, after keeping its state as ``kept`` says."""

    slot: int
    kept: Kept


@dataclass(frozen=True, slots=True)
class Swap:
    """Exchange what two slots hold."""

    one: int
    other: int


@dataclass(frozen=True, slots=True)
class Relayout:
    """Cut the cache anew; slot ``moves[i][0]``'s content goes to slot ``moves[i][1]``, all others are empty."""

    layout: Layout
    moves: tuple[tuple[int, int], ...]


class KVCache:
    """The slots of one model's KV cache, and the states kept outside of it.

    In the pool, cells are reference-counted, because a copied prefix shares the cells of its source.
    """

    def __init__(self, policy: LayoutPolicy, layout: Layout, keep: int) -> None:
        """``layout``: how the model's cache is cut now; ``keep``: tokens that may be kept outside."""
        self.layout = layout
        self.slots = [Slot(index) for index in range(policy.slots)]
        self.kept = KeptStates(keep)
        self._policy = policy
        self._free: list[int] = []
        self._references: list[int] = []
        self._fill_pool()

    @property
    def used(self) -> int:
        """Cells that hold something, be it for a running sequence or for reuse."""
        if self.layout.shared:
            return self.layout.cells - len(self._free)
        return sum(len(slot.tokens) for slot in self.slots)

    @property
    def idle(self) -> list[Slot]:
        """Slots that hold a finished sequence's tokens."""
        return [slot for slot in self.slots if slot.tokens and not slot.busy]

    def fits(self, additions: Iterable[tuple[int, int]]) -> bool:
        """Whether so many tokens can be appended to each of these slots: pairs of slot and number."""
        if self.layout.shared:
            return sum(number for _, number in additions) <= len(self._free)
        cells = self.layout.cells
        return all(len(self.slots[index].tokens) + number <= cells for index, number in additions)

    def room(self, index: int) -> int:
        """Tokens that can be appended to the slot."""
        return len(self._free) if self.layout.shared else self.layout.cells - len(self.slots[index].tokens)

    @property
    def room_without_idle(self) -> int:
        """Tokens that can be appended in all, in the pool, when no finished sequence's are held any more."""
        return self.layout.cells - len({cell for slot in self.slots if slot.busy for cell in slot.cells})

    @property
    def always_shared(self) -> bool:
        """Nobody pays for others' cells, so there is a pool that grows."""
        return self._policy.always_shared

    def target(self) -> Slot | None:
        """The slot for a new sequence: near the busy ones, and with little in it; None when there is none."""
        reach = len(self.slots) if self.layout.shared else self.layout.partitions
        free = [slot for slot in self.slots[:reach] if not slot.busy]
        if not free or self.layout.shared:
            return min(free, key=lambda slot: len(slot.tokens), default=None)
        busy = [slot.index for slot in self.slots if slot.busy]
        if not busy:
            return min(free, key=lambda slot: len(slot.tokens))
        # Running sequences that stand side by side share one pass over the weights: a hole is filled first.
        low, high = min(busy), max(busy)
        return min(free, key=lambda slot: (max(low - slot.index, slot.index - high, 0), len(slot.tokens)))

    def place(self, tokens: list[int], *, reuse: bool = True) -> Placement | None:
        """The best place for a sequence with these tokens: the longest prefix that is anywhere, short of the last token
        (its logits are needed), or without ``reuse`` an empty one. None when every slot is busy.
        """
        target = self.target()
        if target is None:
            return None
        best = Placement(target.index, 0)
        if not reuse:
            return best
        longest = len(tokens) - 1
        for key, held in self.kept.items():
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

    def ready(self, tokens: list[int]) -> int:
        """Length of the longest beginning of ``tokens`` that is anywhere, in a slot or kept."""
        return max(self.kept.longest(tokens), *(common_prefix(slot.tokens, tokens) for slot in self.slots))

    def in_place(self, placement: Placement) -> bool:
        """Whether what is reused are the slot's own tokens."""
        return placement.length > 0 and placement.source is None and placement.kept is None

    def needs(self, placement: Placement, tokens: int) -> int:
        """Tokens that the slot must be able to hold: the sequence's, and at first the whole kept state's."""
        return max(tokens, len(self.kept[placement.kept]) if placement.kept is not None else 0)

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
            self.kept.touch(placement.kept)
            self.append(slot.index, self.kept[placement.kept][: placement.length])
        else:
            self.truncate(slot.index, placement.length)

    def append(self, index: int, tokens: list[int]) -> None:
        """Account for ``tokens`` computed into the slot. The caller has made sure that they fit."""
        slot = self.slots[index]
        slot.tokens += tokens
        if self.layout.shared:
            for _ in tokens:
                cell = self._free.pop()
                self._references[cell] = 1
                slot.cells.append(cell)

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

        The kept state ``wanted`` is about to be used and stays.
        """
        tokens = self.slots[index].tokens[:]
        self.truncate(index, 0)
        return MoveOut(index, self.kept.keep(tokens, wanted))

    def swap(self, one: int, other: int) -> Swap:
        """Exchange what two slots hold."""
        a, b = self.slots[one], self.slots[other]
        a.tokens, b.tokens = b.tokens, a.tokens
        a.cells, b.cells = b.cells, a.cells
        a.busy, b.busy = b.busy, a.busy
        return Swap(one, other)

    def larger(self, lengths: list[int]) -> Layout | None:
        """A layout in which sequences of these lengths, and nobody else, can run; None where there is none."""
        return self._policy.choose(lengths, self.layout)

    def larger_pool(self, lengths: list[int]) -> Layout | None:
        """The same, but only where there is a pool that may grow and grows by this."""
        layout = self._policy.choose(lengths, self.layout) if self._policy.always_shared else None
        return layout if layout is not None and layout.cells > self.layout.cells else None

    def relayout(self, layout: Layout) -> Relayout:
        """Cut the cache anew: busy slots' contents go to the first slots, in order. No slot may be idle."""
        held = [slot for slot in self.slots if slot.busy]
        moves = tuple((slot.index, index) for index, slot in enumerate(held))
        contents = [slot.tokens for slot in held]
        self.layout = layout
        self.slots = [Slot(index) for index in range(len(self.slots))]
        self._fill_pool()
        for index, tokens in enumerate(contents):
            self.slots[index].busy = True
            self.append(index, tokens)
        return Relayout(layout, moves)

    def _fill_pool(self) -> None:
        cells = self.layout.cells if self.layout.shared else 0
        self._free = list(range(cells - 1, -1, -1))
        self._references = [0] * cells
