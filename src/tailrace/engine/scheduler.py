"""Who runs in the next step, and with how many tokens. Pure policy: no model, no clock, no I/O.

Rules, in this order:

1. Every sequence that has its prompt read decodes one token in every step.
2. What is left of the step's tokens goes to prompts, oldest first: ``chunk`` of them while nobody decodes,
   ``chunk_busy`` beside running streams, so that a long prompt slows the others but doesn't stop them.
3. Waiting sequences are admitted in order as slots and KV cells allow. Only cells for tokens that exist are asked for:
   max_tokens reserves nothing. A sequence whose prompt is just being read by another one waits for it and then shares
   it.
4. When cells run out, the cache grows as far as it may; then finished sequences' cells go; then the youngest running
   sequence is paused: it goes back to the head of the queue and what it has computed is kept outside, or computed
   again. Nothing fails.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice

from tailrace.engine.cache import KVCache, MoveOut, Placement, common_prefix
from tailrace.engine.sequence import NO_SLOT, Sequence

#: A shared beginning shorter than this isn't worth waiting for.
_WORTH_SHARING = 32
#: How far behind the head of the queue somebody may be who starts while the head waits for a shared prompt.
_LOOK_AHEAD = 16


@dataclass(frozen=True, slots=True)
class Growth:
    """Make the KV cache so many cells large."""

    cells: int


@dataclass(slots=True)
class Plan:
    """One step: first apply ``moves`` to the model's cache, in order, then decode ``chunks``."""

    moves: list[Growth | MoveOut | tuple[Sequence, Placement]] = field(default_factory=list)
    chunks: list[tuple[Sequence, int]] = field(default_factory=list)  #: sequence, tokens to compute; by rising slot


@dataclass(slots=True)
class Counters:
    """What the scheduler has done since the start."""

    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0


class Scheduler:
    """The queue and the running set. ``parallel`` bounds the running set, ``max_batch`` a step's tokens."""

    def __init__(self, cache: KVCache, *, parallel: int, max_batch: int, chunk: int) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  #: in order of admission
        self.counters = Counters()
        self._cache = cache
        self._parallel = parallel
        self._max_batch = max_batch
        self._chunk = chunk
        #: The queue's head didn't fit: looking again is useless (and costs a millisecond) until somebody leaves.
        self._short_of_cells = False

    @property
    def idle(self) -> bool:
        """Nothing to do until somebody submits."""
        return not self.running and not self.waiting

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """A sequence has ended, wherever it is; its computed tokens stay for reuse."""
        self._short_of_cells = False
        if sequence.slot == NO_SLOT:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
            self._cache.release(sequence.slot)
            sequence.slot = NO_SLOT

    def plan(self, chunk_busy: int) -> Plan:
        """The next step, with up to ``chunk_busy`` prompt tokens if any sequence decodes in it.

        The cells that it needs are free when it returns.
        """
        plan = Plan()
        while not plan.chunks and not self.idle:
            decoding = [sequence for sequence in self.running if sequence.pending == 1]
            if self._cache.free < len(decoding):
                self._make_room(plan, len(decoding))
                continue
            plan.chunks = [(sequence, 1) for sequence in decoding]
            self._add_prompts(plan, len(decoding), chunk_busy)
            if not plan.chunks:
                # Only prompts run and none has a cell to go on with: the oldest goes on at the youngest's expense.
                self._make_room(plan, 1)
        if plan.chunks:
            # Everybody who runs would attend past them. One a step: moving takes milliseconds.
            plan.moves += [self._cache.move_out(slot.index) for slot in self._cache.idle[:1]]
        plan.chunks.sort(key=lambda chunk: chunk[0].slot)
        return plan

    def _add_prompts(self, plan: Plan, planned: int, chunk_busy: int) -> None:
        """Give what is left of the step to prompts; ``planned`` tokens of it are taken."""
        budget = min(self._max_batch - planned, chunk_busy if planned else self._chunk)
        reading = deque(sequence for sequence in self.running if sequence.pending > 1)
        while budget > 0:
            sequence = reading.popleft() if reading else self._admit(plan, planned)
            if sequence is None:
                return
            count = min(sequence.pending, budget, self._cache.free - planned)
            if count <= 0:
                return
            plan.chunks.append((sequence, count))
            planned += count
            budget -= count

    def _grow(self, plan: Plan, free: int) -> bool:
        """Have so many cells free by growing, if possible; True when the cache has grown."""
        if not self._cache.grow(free):
            return False
        plan.moves.append(Growth(self._cache.capacity))
        return True

    def _make_room(self, plan: Plan, needed: int) -> None:
        """Free some cells: by growing, else a finished sequence's, else the youngest running sequence's."""
        if self._grow(plan, needed):
            return
        if idle := self._cache.idle:
            plan.moves.append(self._cache.move_out(idle[0].index))
            return
        # There are at least two, because one sequence's context is never larger than the cache.
        youngest = self.running.pop()
        self._cache.release(youngest.slot)
        youngest.slot = NO_SLOT
        youngest.computed = 0
        self.waiting.appendleft(youngest)
        self.counters.preemptions += 1

    def _admit(self, plan: Plan, reserved: int) -> Sequence | None:
        """The next waiting sequence that can start now, placed; ``reserved`` cells are spoken for in this step."""
        if len(self.running) >= self._parallel or self._short_of_cells:
            return None
        for position, sequence in enumerate(islice(self.waiting, _LOOK_AHEAD)):
            placement = self._place(plan, sequence)
            if self._is_being_read(sequence, placement.length):
                continue  # A later one may start: it doesn't take anything from this one.
            if not self._find_cells(plan, sequence, placement, reserved):
                self._short_of_cells = True
                return None
            del self.waiting[position]
            self._start(plan, sequence, placement)
            return sequence
        return None

    def _place(self, plan: Plan, sequence: Sequence) -> Placement:
        """Where the sequence goes. What it would overwrite of a slot is kept first, if it is worth keeping."""
        cache = self._cache
        placement = cache.place(sequence.tokens)
        beyond = len(cache.slots[placement.slot].tokens) - placement.length
        if cache.in_place(placement) and beyond > _WORTH_SHARING:
            plan.moves.append(cache.move_out(placement.slot))
            placement = cache.place(sequence.tokens)
        return placement

    def _is_being_read(self, sequence: Sequence, ready: int) -> bool:
        """Whether a running sequence is about to have far more of this prompt ready than is ready now."""
        return any(
            common_prefix(other.tokens, sequence.tokens) > max(ready, other.computed) + _WORTH_SHARING
            for other in self.running
            if other.pending > 1
        )

    def _find_cells(self, plan: Plan, sequence: Sequence, placement: Placement, reserved: int) -> bool:
        """Free the cells for the sequence's tokens; running sequences are left in peace.

        What is reused of another slot needs none, and what is reused of the slot itself has them.
        """
        cache = self._cache
        needed = len(sequence.tokens) + reserved - (placement.length if placement.kept is None else 0)
        target = cache.slots[placement.slot]
        if target.tokens and not cache.in_place(placement):
            plan.moves.append(cache.move_out(target.index, placement.kept))
        if cache.free < needed:
            self._grow(plan, needed)
        for slot in cache.idle:
            if cache.free < needed and slot is not target:
                plan.moves.append(cache.move_out(slot.index, placement.kept))
        return cache.free >= needed or not self.running

    def _start(self, plan: Plan, sequence: Sequence, placement: Placement) -> None:
        self._cache.occupy(placement)
        sequence.slot = placement.slot
        sequence.computed = placement.length
        if sequence.cached_tokens is None:
            sequence.cached_tokens = placement.length
            self.counters.prefix_queries += len(sequence.tokens)
            self.counters.prefix_hits += placement.length
        self.running.append(sequence)
        plan.moves.append((sequence, placement))
