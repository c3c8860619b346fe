"""Who runs in the next step, where, and with how many tokens. Pure policy: no model, no clock, no I/O.

Rules, in this order:

1. Every sequence that has its prompt read decodes one token (and its draft) in every step.
2. Waiting sequences are admitted by priority, then in order, as slots and cells allow. Only cells for tokens that exist
   are asked for: max_tokens reserves nothing. A sequence whose prompt is just being read by another one waits for it
   and then shares it. One that is more urgent than somebody running takes that one's place when there is no other.
3. What is left of the step's tokens goes to prompts: ``chunk`` of them while nobody decodes, ``chunk_busy`` beside
   running streams, so that a long prompt slows the others but doesn't stop them, and somewhat more where that brings a
   prompt to its end. The oldest prompt and the one that is soonest read take turns, so that neither waits for the
   other.
4. When cells run out, the layout grows or changes as far as it may; then finished sequences' cells go; then the least
   urgent, youngest running sequence is paused: it goes back to the queue and what it has computed is kept outside, or
   computed again. Nothing fails.
5. In streams, sequences that decode stand side by side: llama.cpp computes a batch in one pass over the weights only as
   far as its sequences' slots have no gap between them. In a pool that everybody pays for, what has finished moves out.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from itertools import islice

from tailrace.engine.kv_cache.cache import KVCache, MoveOut, Placement, Relayout, Swap
from tailrace.engine.kv_cache.layout import Layout
from tailrace.engine.kv_cache.prefix_store import common_prefix
from tailrace.engine.sequence import NO_SLOT, Sequence
from tailrace.protocol import EngineCounters

#: A shared beginning shorter than this isn't worth waiting for.
_WORTH_SHARING = 32
#: How far behind the head of the queue somebody may be who starts while the head waits for a shared prompt.
_LOOK_AHEAD = 16
#: Part of the limit that streams may take when the pool is given up for them: there is room to grow, or they'd go back.
_ROOMY = 0.75

Move = Relayout | MoveOut | Swap | tuple[Sequence, Placement]


@dataclass(slots=True)
class Plan:
    """One step: first apply ``moves`` to the model's cache, in order, then decode ``chunks``."""

    moves: list[Move] = field(default_factory=list)
    chunks: list[tuple[Sequence, int]] = field(
        default_factory=list
    )  #: sequence, tokens to compute: those that decode, then those that read prompts, by rising slot each


def _urgency(sequence: Sequence) -> tuple[int, int]:
    """What comes first: the smaller priority, then whoever came first. Connections number requests as they come."""
    return sequence.priority, sequence.id


class Scheduler:
    """The queue and the running set. ``parallel`` bounds the running set, ``max_batch`` a step's tokens."""

    def __init__(self, cache: KVCache, *, parallel: int, max_batch: int, chunk: int) -> None:
        self.waiting: list[Sequence] = []  #: the most urgent first
        self.running: list[Sequence] = []  #: in order of admission
        self.counters = EngineCounters()
        self._cache = cache
        self._parallel = parallel
        self._max_batch = max_batch
        self._chunk = chunk
        #: The queue's head didn't fit: looking again is useless (and costs a millisecond) until somebody leaves.
        self._short_of_cells = False
        self._somebody_left = False
        self._oldest_first = False
        #: How many more steps are to be planned just like the last one, unless somebody comes, leaves or has anything
        #: but one token to compute.
        self._repeats = 0

    @property
    def has_work(self) -> bool:
        """Whether any sequence runs or waits."""
        return bool(self.running or self.waiting)

    @property
    def decoding(self) -> list[Sequence]:
        """Running sequences whose prompt has been read."""
        return [sequence for sequence in self.running if sequence.decoding]

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self._repeats = 0
        insort(self.waiting, sequence, key=_urgency)

    def remove(self, sequence: Sequence) -> None:
        """A sequence has ended, wherever it is; its computed tokens stay for reuse."""
        self._repeats = 0
        self._short_of_cells = False
        self._somebody_left = True
        if sequence.slot == NO_SLOT:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
            self._cache.release(sequence.slot)
            sequence.slot = NO_SLOT

    def lose(self, slots: set[int]) -> None:
        """What these slots should hold after the last plan's moves is gone: they hold nothing. Their tokens are
        computed again, and count as computed, not as found.
        """
        for sequence in self.running:
            if sequence.slot not in slots:
                continue
            self._cache.truncate(sequence.slot, 0)
            sequence.computed = 0
            sequence.draft = []
            if sequence.cached_tokens and not sequence.generated:
                if sequence.admitted_at is None:
                    # It has come with this plan. Later, the counters have been read, and never fall.
                    self.counters.prefix_hits -= sequence.cached_tokens
                sequence.cached_tokens = 0

    def again(self) -> bool:
        """Whether the last plan's chunks are the coming step's too, with nothing to move: ``plan`` would give the same.

        So most steps aren't planned: at 3 ms a step, with caches that the model has emptied, planning takes 1 % of it.
        """
        if not self._repeats:
            return False
        for sequence in self.running:
            if len(sequence.tokens) - sequence.computed != 1 or sequence.draft:
                return False
        self._repeats -= 1
        return True

    def plan(self, chunk_busy: int, finish: int = 0) -> Plan:
        """The next step, with up to ``chunk_busy`` prompt tokens if any sequence decodes in it, or up to ``finish`` if
        they bring prompts to their end.

        The cells that it needs are there when its moves have been applied.
        """
        plan = Plan()
        self._leave_pool(plan)
        while not plan.chunks and self.has_work:
            decoding = self.decoding
            if not self._make_room(plan, [(one.slot, one.step_tokens) for one in decoding]):
                continue
            plan.chunks = self._decode(decoding)
            self._admit_all(plan)
            self._add_prompts(plan, chunk_busy, finish)
            if not plan.chunks:
                # Only prompts run and none has a cell to go on with: the oldest goes on at the youngest's expense.
                self._make_room(plan, [(self.running[0].slot, 1)])
        if plan.chunks:
            self._tidy(plan)
        plan.chunks.sort(key=lambda chunk: (not chunk[0].decoding, chunk[0].slot))
        self._repeats = self._count_repeats(plan)
        return plan

    def _count_repeats(self, plan: Plan) -> int:
        """How many times the plan holds again if everybody goes on with a token a step: until cells run out, where it
        moves nothing and computes a token of each. Whoever waits then waits for somebody to leave.
        """
        if plan.moves or not plan.chunks or any(not one.pending == count == 1 for one, count in plan.chunks):
            return 0
        cache = self._cache
        if cache.layout.shared:
            return cache.room(0) // len(plan.chunks) - 1
        return min(cache.room(sequence.slot) for sequence, _ in plan.chunks) - 1

    def _decode(self, decoding: list[Sequence]) -> list[tuple[Sequence, int]]:
        """Everybody's tokens; where grammars have forced too many for one step, some of them come in the next."""
        spare = self._max_batch - sum(1 + len(sequence.draft) for sequence in decoding)
        chunks: list[tuple[Sequence, int]] = []
        for sequence in decoding:
            forced = min(sequence.jump_forward, max(0, spare))
            spare -= forced
            # The draft stands behind all that is forced.
            chunks.append((sequence, sequence.step_tokens if forced == sequence.jump_forward else 1 + forced))
        return chunks

    # Room

    def _lengths(self) -> list[int]:
        """What each running sequence has to be able to hold after the coming step."""
        return [len(sequence.tokens) + 1 + len(sequence.draft) for sequence in self.running]

    def _make_room(self, plan: Plan, additions: list[tuple[int, int]]) -> bool:
        """Have room for so many tokens in these slots. False: something else was given up for it; look again."""
        cache = self._cache
        if cache.fits(additions):
            return True
        if not cache.layout.shared:
            if layout := cache.larger(self._lengths()):
                self._relayout(plan, layout)
                return True
        elif idle := cache.idle:
            plan.moves.append(cache.move_out(idle[0].index))
            return False
        elif layout := cache.larger_pool(self._lengths()):
            self._relayout(plan, layout)
            return True
        # There are at least two, because one sequence's context is never larger than the cache.
        self._pause(max(self.running, key=_urgency))
        return False

    def _relayout(self, plan: Plan, layout: Layout, wanted: int | None = None) -> None:
        """Change the layout; finished sequences' tokens are moved out, except for the kept state ``wanted``."""
        cache = self._cache
        plan.moves += [cache.move_out(slot.index, wanted) for slot in cache.idle]
        relayout = cache.relayout(layout)
        plan.moves.append(relayout)
        new = dict(relayout.moves)
        for sequence in self.running:
            sequence.slot = new[sequence.slot]

    def _leave_pool(self, plan: Plan) -> None:
        """Go from the pool back to streams when the load has become smaller."""
        cache = self._cache
        if not (self._somebody_left and cache.layout.shared and self.running and not self.waiting):
            return
        self._somebody_left = False
        layout = cache.larger(self._lengths())
        if layout is not None and not layout.shared and layout.total <= _ROOMY * cache.layout.total:
            self._relayout(plan, layout)

    def _pause(self, sequence: Sequence) -> None:
        """Take a running sequence back into the queue. What it has computed lies idle, to be kept outside or reused."""
        self.running.remove(sequence)
        self._cache.release(sequence.slot)
        sequence.slot = NO_SLOT
        sequence.computed = 0
        sequence.draft = []
        sequence.jump_forward = 0
        self.add(sequence)
        self.counters.preemptions += 1

    # Prompts

    def _add_prompts(self, plan: Plan, chunk_busy: int, finish: int) -> None:
        """Give what is left of the step to prompts."""
        planned = sum(count for _, count in plan.chunks)
        budget = min(self._max_batch - planned, chunk_busy if planned else self._chunk)
        # Who has just come with a prompt that is known to its last token decodes already, but isn't planned yet.
        begun = {sequence.id for sequence, _ in plan.chunks}
        reading = sorted((sequence for sequence in self.running if sequence.id not in begun), key=_urgency)
        self._oldest_first = not self._oldest_first
        if not self._oldest_first:
            reading.sort(key=lambda sequence: (sequence.priority, sequence.pending))
        for sequence in reading:
            room = self._cache.room(sequence.slot) - (planned if self._cache.layout.shared else 0)
            # A prompt that can be brought to its end may take longer; a last token is no more than a reply's.
            wanted = sequence.pending if sequence.pending <= max(1, finish) else budget
            count = min(sequence.pending, max(budget, wanted), room, self._max_batch - planned)
            if count <= 0:
                continue
            plan.chunks.append((sequence, count))
            planned += count
            budget -= count
            finish -= count

    def _admit_all(self, plan: Plan) -> None:
        """Start as many waiting sequences as there is room for."""
        if self.waiting and len(self.running) >= self._parallel:
            least = max(self.running, key=_urgency)
            if self.waiting[0].priority < least.priority:
                self._pause(least)
                self._short_of_cells = False
                plan.chunks = [chunk for chunk in plan.chunks if chunk[0] is not least]
        while self.waiting and len(self.running) < self._parallel and not self._short_of_cells:
            if not any(self._admit(plan, sequence) for sequence in list(islice(self.waiting, _LOOK_AHEAD))):
                return

    def _admit(self, plan: Plan, sequence: Sequence) -> bool:
        """Start the sequence now, if it can."""
        if self._short_of_cells:
            return False
        cache = self._cache
        placement = cache.place(sequence.tokens, reuse=sequence.reuse_prefix)
        if self._is_being_read(sequence, placement.length if placement else 0):
            return False  # A later one may start: it doesn't take anything from this one.
        placement = self._find_room(plan, sequence, placement)
        if placement is None:
            self._short_of_cells = True
            return False
        cache.occupy(placement)
        self.waiting.remove(sequence)
        sequence.slot = placement.slot
        sequence.computed = placement.length
        if sequence.cached_tokens is None:
            sequence.cached_tokens = placement.length
            self.counters.prefix_queries += len(sequence.tokens) if sequence.reuse_prefix else 0
            self.counters.prefix_hits += placement.length
        self.running.append(sequence)
        plan.moves.append((sequence, placement))
        return True

    def _is_being_read(self, sequence: Sequence, ready: int) -> bool:
        """Whether a running sequence is about to have far more of this prompt ready than is ready now."""
        return sequence.reuse_prefix and any(
            common_prefix(other.tokens, sequence.tokens) > max(ready, other.computed) + _WORTH_SHARING
            for other in self.running
            if other.pending > 1
        )

    def _find_room(self, plan: Plan, sequence: Sequence, placement: Placement | None) -> Placement | None:
        """A place with cells for the sequence's tokens, ready for use; running sequences are left in peace."""
        cache = self._cache
        needed = cache.needs(placement, len(sequence.tokens) + 1) if placement else len(sequence.tokens) + 1
        if not cache.layout.shared and (placement is None or needed > cache.layout.cells):
            lengths = self._lengths()
            # Where there is no room for the whole of a kept state, the sequence goes without it.
            layout = cache.larger([*lengths, needed]) or cache.larger([*lengths, len(sequence.tokens) + 1])
            if layout is None:
                return None
            self._relayout(plan, layout, placement.kept if placement else None)
        elif cache.always_shared and placement is not None and not self._will_fit(self._cells_for(sequence, placement)):
            layout = cache.larger_pool([*self._lengths(), needed])
            if layout is not None:
                self._relayout(plan, layout, placement.kept)
        placement = self._empty_target(plan, sequence)
        if placement is None or not cache.layout.shared:
            return placement
        needed = self._cells_for(sequence, placement)
        for slot in cache.idle:
            if cache.room(slot.index) < needed and slot.index != placement.slot:
                plan.moves.append(cache.move_out(slot.index, placement.kept))
        return placement if cache.room(placement.slot) >= needed or not self.running else None

    def _will_fit(self, cells: int) -> bool:
        """Whether the pool has so many free cells, or has them once what is idle is gone."""
        return cells <= self._cache.room(0) or cells <= self._cache.room_without_idle

    def _cells_for(self, sequence: Sequence, placement: Placement) -> int:
        """Cells of the pool that have to be free for the sequence to come and for the others to go on."""
        # What is reused of another slot needs no cells, and what is reused of the slot itself has them.
        found = placement.length if placement.kept is None else 0
        needed = self._cache.needs(placement, len(sequence.tokens)) - found
        return needed + sum(other.step_tokens for other in self.running)

    def _empty_target(self, plan: Plan, sequence: Sequence) -> Placement | None:
        """Where the sequence goes, with nothing there but what it reuses; what was is kept first, if it is worth it."""
        cache = self._cache
        placement = cache.place(sequence.tokens, reuse=sequence.reuse_prefix)
        if placement is None:
            return None
        target = cache.slots[placement.slot]
        if cache.in_place(placement):
            if len(target.tokens) - placement.length > _WORTH_SHARING:
                # A short match doesn't cost a long conversation its own.
                plan.moves.append(cache.move_out(target.index))
                return self._empty_target(plan, sequence)
        elif target.tokens:
            plan.moves.append(cache.move_out(target.index, placement.kept))
        return placement

    # Order

    def _tidy(self, plan: Plan) -> None:
        """Leave nothing in the way of the sequences that decode."""
        cache = self._cache
        if cache.layout.shared:
            # Everybody who runs would attend past them. One a step: moving takes milliseconds.
            plan.moves += [cache.move_out(slot.index) for slot in cache.idle[:1] if not cache.always_shared]
            return
        at = {sequence.slot: sequence for sequence in self.running}
        decoding = sorted(sequence.slot for sequence, _ in plan.chunks if sequence.decoding)
        while decoding and decoding[-1] - decoding[0] >= len(decoding):
            low, high = decoding[0], decoding[-1]
            holes = [slot for slot in range(low, high) if slot not in decoding]
            # The shorter end moves: its state is copied.
            if len(cache.slots[high].tokens) <= len(cache.slots[low].tokens):
                end, hole = decoding.pop(), holes[0]
            else:
                end, hole = decoding.pop(0), holes[-1]
            insort(decoding, hole)
            plan.moves.append(cache.swap(hole, end))
            moved, other = at.pop(end), at.pop(hole, None)
            moved.slot, at[hole] = hole, moved
            if other is not None:
                other.slot, at[end] = end, other
