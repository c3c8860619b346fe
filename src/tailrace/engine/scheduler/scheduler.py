"""Which sequences run in the next step, in which slots, and with how many tokens. Pure policy: no model, clock or I/O.

Rules, in this order:

1. Every sequence whose prompt is computed decodes one token, and its draft, in every step.
2. Waiting sequences are admitted as slots and free cells allow: a round for each caller, and within a caller by
   priority, then in order of arrival. Only tokens that exist need cells: max_tokens reserves nothing. A sequence whose
   prompt another one is computing waits for it and shares it. When there is no other place, a sequence takes one from
   a caller with more running sequences (``preemption``), or from a less urgent sequence of its own caller.
3. The rest of the step's tokens goes to prompts (``prompt_scheduler``): ``prefill_chunk`` tokens while no sequence
   decodes, else ``mixed_prefill_budget``, so a long prompt slows decoding down but doesn't stop it.
4. When cells run out, the layout grows or changes as far as it may; then cached prefixes are evicted; then a running
   sequence is paused, the least urgent, youngest one of the caller with the most: it returns to the queue, and its
   tokens stay in the prefix cache or are computed again. Nothing fails, unless one sequence alone needs more memory
   than there is.
5. In a partitioned cache decoding sequences stay in adjacent slots. In a shared one whose attention visits all cells,
   cached prefixes are evicted.
"""

from __future__ import annotations

from itertools import islice

from tailrace.engine.kv_cache.cache import KVCache
from tailrace.engine.kv_cache.cache_ops import Relayout
from tailrace.engine.kv_cache.prefix_store import common_prefix
from tailrace.engine.scheduler.cell_allocator import MIN_SHARED_PREFIX, CellAllocator
from tailrace.engine.scheduler.fair_queue import FairQueue
from tailrace.engine.scheduler.preemption import Preemption
from tailrace.engine.scheduler.prompt_scheduler import PromptScheduler
from tailrace.engine.scheduler.slot_compaction import compact
from tailrace.engine.scheduler.step_plan import Plan
from tailrace.engine.sequence import NO_SLOT, Sequence
from tailrace.protocol import EngineCounters

#: Sequences behind the queue's head that may start while the head waits for a prompt to share.
_LOOK_AHEAD = 16
#: Steps for which other callers may start sequences while a caller's next one lacks cells. Then cells are left to it.
_MAX_OVERTAKING_STEPS = 1000


class Scheduler:
    """The queue and the running sequences."""

    def __init__(self, cache: KVCache, *, parallel: int, max_batch: int, prefill_chunk: int) -> None:
        """``parallel``: running sequences, at most; ``max_batch``: tokens of a step, at most; ``prefill_chunk``: prompt
        tokens of a step in which no sequence decodes, at most.
        """
        self.waiting = FairQueue()
        self.running: list[Sequence] = []  #: in order of admission
        self.counters = EngineCounters()  #: prefix_queries, prefix_hits and preemptions
        self._cache = cache
        self._allocator = CellAllocator(cache, self.running)
        self._preemption = Preemption(cache, self.running, parallel)
        self._prompts = PromptScheduler(cache, self.running, max_batch=max_batch, prefill_chunk=prefill_chunk)
        self._parallel = parallel
        self._max_batch = max_batch
        self._step = 0  #: the last planned step's number; a step that reuses a plan counts, too
        #: Callers whose next sequence didn't fit. Looking again is useless, and takes a millisecond, until one leaves.
        self._lack_cells: set[str] = set()
        #: The step in which each caller's next sequence first didn't fit.
        self._lack_cells_since: dict[str, int] = {}
        #: Steps until a waiting sequence may take another caller's place; 0: no such step is known.
        self._pause_possible_in = 0
        #: Whether a waiting sequence gets its place when the state of a running one is copied.
        self.awaits_copy = False
        self._sequence_left = False  #: since partitions were last considered
        #: How many more steps would be planned just like the last one, unless a sequence is added, removed or has more
        #: than one token to compute.
        self._reusable_steps = 0

    @property
    def has_work(self) -> bool:
        """Whether any sequence runs or waits."""
        return bool(self.running or self.waiting)

    @property
    def decoding(self) -> list[Sequence]:
        """Running sequences whose prompt is computed, and that await neither their masks nor their prefixes."""
        loading = self._cache.loading
        return [
            sequence
            for sequence in self.running
            if sequence.decoding and not sequence.awaits_mask and sequence.slot not in loading
        ]

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self._reusable_steps = 0
        self.waiting.add(sequence)
        self._prompts.note_request(sequence.caller, self._step)

    def remove(self, sequence: Sequence) -> None:
        """A sequence has ended, running or waiting; its computed tokens stay in the prefix cache."""
        self._reusable_steps = 0
        self._lack_cells.clear()
        self._sequence_left = True
        if sequence.slot == NO_SLOT:
            self.waiting.remove(sequence)
            if sequence.caller not in self.waiting.callers:
                self._lack_cells_since.pop(sequence.caller, None)
        else:
            self.running.remove(sequence)
            self._cache.release(sequence.slot)
            sequence.slot = NO_SLOT
        if not self.has_work:
            self._cache.lift_limit()

    def mark_lost(self, slots: set[int]) -> None:
        """The content of these slots was lost while the last plan's ops were applied. Their tokens are computed again,
        and count as computed, not as found.
        """
        for sequence in self.running:
            if sequence.slot not in slots:
                continue
            self._cache.truncate(sequence.slot, 0)
            sequence.computed = 0
            sequence.draft = []
            self._plan_checkpoints(sequence)
            if sequence.cached_tokens and not sequence.generated:
                if sequence.admitted_at is None:
                    # The last plan admitted it. Later the counters have been read, and counters never fall.
                    self.counters.prefix_hits -= sequence.cached_tokens
                sequence.cached_tokens = 0

    def undo_relayout(self, plan: Plan, relayout: Relayout, lost: set[int]) -> tuple[Sequence | None, set[int]]:
        """There was no memory for the plan's new layout: go back to the one before. All sequences wait again, and find
        what they have computed in the prefix cache.

        ``lost``: slots of the layout before whose content is gone. Returns the sequence that can't run at all, if the
        layout was its last resort, and slots that have to be emptied in the model.
        """
        for sequence in [*self.running]:
            self._requeue(sequence)
            if sequence.admitted_at is None and sequence.cached_tokens is not None:
                # The plan that admitted it isn't carried out.
                self.counters.prefix_queries -= len(sequence.tokens) if sequence.reuse_prefix else 0
                self.counters.prefix_hits -= sequence.cached_tokens
                sequence.cached_tokens = None
            else:
                self.counters.preemptions += 1
        self._lack_cells.clear()
        dropped = self._cache.undo_relayout(relayout, lost)
        failed = next((sequence for failing, sequence in plan.last_resorts if failing is relayout), None)
        return failed, dropped

    def replan(self) -> None:
        """Whether a sequence awaits its mask has changed: the next step has to be planned."""
        self._reusable_steps = 0

    def note_move(self) -> None:
        """A state has moved, for which a sequence may wait: a prefix is loaded, or another one can be evicted."""
        self._reusable_steps = 0
        self._lack_cells.clear()

    def can_reuse_plan(self) -> bool:
        """Whether the coming step computes the same sequences as the last one, with no cache op: ``plan`` would give
        the same.

        So most steps aren't planned: planning takes 1 % of a step of 3 ms.
        """
        if not self._reusable_steps:
            return False
        for sequence in self.running:
            if len(sequence.tokens) - sequence.computed != 1 or sequence.draft:
                return False
        self._reusable_steps -= 1
        self._step += 1
        return True

    def plan(self, mixed_prefill_budget: int, last_chunk_budget: int = 0, first_prompt_budget: int = 0) -> Plan:
        """The next step. If any sequence decodes in it, it has up to ``mixed_prefill_budget`` prompt tokens, or up to
        ``last_chunk_budget`` where they bring prompts to their end. A caller's whole first prompt of up to
        ``first_prompt_budget`` tokens is computed without the replies.

        The cells that it needs are free when its cache ops have been applied. The plan is empty if nothing waits and
        all running sequences await their masks.
        """
        plan = Plan()
        self._step += 1
        self._return_to_partitions(plan)
        while not plan.scheduled and self.has_work:
            decoding = self.decoding
            if not self._ensure_free(plan, [(sequence.slot, sequence.step_tokens) for sequence in decoding]):
                continue
            plan.scheduled = self._schedule_decode(decoding)
            self._admit_waiting(plan)
            self._prompts.schedule(plan, self._step, mixed_prefill_budget, last_chunk_budget, first_prompt_budget)
            if not plan.scheduled:
                # Only prompts run and none has a free cell: the oldest goes on at the youngest's expense.
                able = [
                    sequence
                    for sequence in self.running
                    if sequence.pending > sequence.awaits_mask and sequence.slot not in self._cache.loading
                ]
                if not able:
                    break
                self._ensure_free(plan, [(able[0].slot, 1)])
        if plan.scheduled:
            if self._cache.layout.shared:
                self._allocator.evict_one_prefix(plan)
                self._allocator.copy_ahead(self._pausable_slot())
            else:
                compact(plan, self._cache, self.running)
        plan.scheduled.sort(key=lambda entry: (not entry[0].decoding, entry[0].slot))
        self._reusable_steps = self._count_reusable_steps(plan)
        return plan

    def _count_reusable_steps(self, plan: Plan) -> int:
        """How many times the plan holds again if each sequence goes on with a token a step: until cells run out, where
        it has no cache op and computes one token of each. Sequences that wait then wait for one to leave, and for no
        copy.
        """
        if plan.cache_ops or not plan.scheduled or self.awaits_copy:
            return 0
        if any(not sequence.pending == count == 1 for sequence, count in plan.scheduled):
            return 0
        cache = self._cache
        if cache.layout.shared:
            steps = cache.free_cells(0) // len(plan.scheduled) - 1
            if (until_copy := self._allocator.steps_without_copy(self._pausable_slot())) is not None:
                steps = min(steps, until_copy)
        else:
            steps = min(cache.free_cells(sequence.slot) for sequence, _ in plan.scheduled) - 1
        return min(steps, self._pause_possible_in - 1) if self._pause_possible_in else steps

    # Running sequences

    def _pausable_slot(self) -> int | None:
        """The slot of the sequence that is paused when cells run out."""
        return self._preemption.for_cells().slot if len(self.running) > 1 else None

    def _schedule_decode(self, decoding: list[Sequence]) -> list[tuple[Sequence, int]]:
        """Each sequence with its tokens. Where grammars append more jump-forward tokens than a batch has, some of them
        are computed in the next step.
        """
        spare = self._max_batch - sum(1 + len(sequence.draft) for sequence in decoding)
        scheduled: list[tuple[Sequence, int]] = []
        for sequence in decoding:
            jump_forward = min(sequence.jump_forward, max(0, spare))
            spare -= jump_forward
            # The draft is behind all jump-forward tokens.
            whole = jump_forward == sequence.jump_forward
            scheduled.append((sequence, sequence.step_tokens if whole else 1 + jump_forward))
        return scheduled

    def _ensure_free(self, plan: Plan, additions: list[tuple[int, int]]) -> bool:
        """Have free cells for so many tokens in these slots. False: something was given up for them; look again."""
        found = self._allocator.ensure_free(plan, additions)
        if found == "full":
            # There are at least two, because one sequence alone gets a layout of its own.
            self._pause(self._preemption.for_cells())
        return found == "free"

    def _pause(self, sequence: Sequence) -> None:
        """Return a running sequence to the queue. Its computed tokens become a cached prefix."""
        self._requeue(sequence)
        self.counters.preemptions += 1

    def _requeue(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._cache.release(sequence.slot)
        sequence.slot = NO_SLOT
        sequence.computed = 0
        sequence.draft = []
        sequence.jump_forward = 0
        self._reusable_steps = 0
        self.waiting.add(sequence)

    def _return_to_partitions(self, plan: Plan) -> None:
        """Go from shared cells back to partitions when the load has become smaller."""
        if self._sequence_left and self._cache.layout.shared and self.running and not self.waiting:
            self._sequence_left = False
            self._allocator.return_to_partitions(plan)

    # Waiting sequences

    def _admit_waiting(self, plan: Plan) -> None:
        """Start waiting sequences as slots, free cells and the callers' shares allow."""
        self._prompts.awaited.clear()
        self._pause_possible_in = 0
        self.awaits_copy = False
        full = len(self.running) >= self._parallel
        while self.waiting and (self._start_next(plan) or self._start_by_pausing(plan, by_priority=full)):
            full = False

    def _start_next(self, plan: Plan) -> bool:
        """Start the next sequence in turn for which there is a place."""
        if len(self.running) >= self._parallel or self.waiting.callers <= self._lack_cells:
            return False
        sequences = self.waiting.in_turn(self._preemption.counts())
        if self._lack_cells_since:
            since = min(self._lack_cells_since, key=self._lack_cells_since.__getitem__)
            if self._step - self._lack_cells_since[since] > _MAX_OVERTAKING_STEPS:
                sequences = (sequence for sequence in sequences if sequence.caller == since)
        able = (sequence for sequence in sequences if sequence.caller not in self._lack_cells)
        return any(self._admit(plan, sequence) for sequence in list(islice(able, _LOOK_AHEAD)))

    def _start_by_pausing(self, plan: Plan, *, by_priority: bool) -> bool:
        """Start a sequence at another one's expense: that of a caller with more running sequences, or ``by_priority`` a
        less urgent one of its own caller.
        """
        counts = self._preemption.counts()
        for sequence in self.waiting.heads(counts):
            victims, steps = self._preemption.for_caller(sequence, counts, self._step)
            if steps:
                self._pause_possible_in = min(steps, self._pause_possible_in or steps)
            if by_priority and not victims:
                least_urgent = self._preemption.for_urgent(sequence)
                victims = [] if least_urgent is None else [least_urgent]
            if not victims or self._waits_for_prefix(sequence, self._cache.cached_prefix_len(sequence.tokens)):
                continue
            if plan.scheduled and not self._cache.can_leave(victims[0].slot, awaited=True):
                self.awaits_copy = True
                return False  # It goes on while its state is copied in pieces.
            for victim in victims:
                self._pause(victim)
            self._lack_cells.clear()
            plan.scheduled = [entry for entry in plan.scheduled if entry[0].slot != NO_SLOT]
            return self._admit(plan, sequence, waits=False)
        return False

    def _admit(self, plan: Plan, sequence: Sequence, *, waits: bool = True) -> bool:
        """Start the sequence now, if it can. ``waits``: not before the state that leaves for it is copied in pieces,
        beside sequences that decode.
        """
        if sequence.caller in self._lack_cells:
            return False
        placement = self._cache.match_prefix(sequence.tokens, reuse=sequence.reuse_prefix)
        if self._waits_for_prefix(sequence, placement.prefix_len if placement else 0):
            return False  # Sequences behind it may start: they take nothing that it waits for.
        waits = waits and bool(plan.scheduled)
        awaited = all(other.caller != sequence.caller for other in self.running)
        placement = self._allocator.allocate(plan, sequence, placement, waits=waits, awaited=awaited)
        if placement is None:
            self.awaits_copy |= awaited and waits and self._cache.leaving is not None
            self._lack_cells.add(sequence.caller)
            self._lack_cells_since.setdefault(sequence.caller, self._step)
            return False
        self._cache.occupy(placement)
        self.waiting.serve(sequence)
        self._lack_cells_since.pop(sequence.caller, None)
        sequence.slot = placement.slot
        sequence.computed = placement.prefix_len
        self._plan_checkpoints(sequence)
        if sequence.cached_tokens is None:
            sequence.cached_tokens = placement.prefix_len
            self.counters.prefix_queries += len(sequence.tokens) if sequence.reuse_prefix else 0
            self.counters.prefix_hits += placement.prefix_len
        else:
            sequence.resumed_at_step = self._step
        self.running.append(sequence)
        plan.admitted.append(sequence)
        plan.cache_ops.append(placement)
        return True

    def _coming_prefix(self, running: Sequence, sequence: Sequence) -> int:
        """The length of the common prefix once ``running`` has computed it; 0 where that is so already.

        Without the cells' end being removable only the checkpoints in it can be shared.
        """
        common = common_prefix(running.tokens, sequence.tokens)
        if self._cache.rollback.by_checkpoints:
            return next((length for length in running.checkpoints_at if running.computed < length <= common), 0)
        return common if common > running.computed + MIN_SHARED_PREFIX else 0

    def _plan_checkpoints(self, sequence: Sequence) -> None:
        """Set where checkpoints of the sequence are taken. It has just started."""
        if self._cache.checkpoints is not None:
            sequence.checkpoints_at = self._cache.plan_checkpoints(sequence.tokens, sequence.computed)[::-1]
            sequence.pass_checkpoint(self._cache.checkpoints.interval(len(sequence.tokens)))

    def _waits_for_prefix(self, sequence: Sequence, cached: int) -> bool:
        """Whether a running sequence will soon have far more of this prompt computed than the ``cached`` tokens."""
        if not sequence.reuse_prefix:
            return False
        for other in self.running:
            if other.pending > 1 and self._coming_prefix(other, sequence) > cached + MIN_SHARED_PREFIX:
                if other.caller != sequence.caller:
                    self._prompts.awaited.setdefault(other.id, sequence.caller)
                return True
        return False
