"""Finds cells for sequences: grows or changes the KV cache's layout, and evicts cached prefixes.

It adds the cache ops to the plan. It never pauses a sequence: that is the scheduler's decision.
"""

from __future__ import annotations

from typing import Literal

from tailrace.engine.kv_cache.cache import KVCache
from tailrace.engine.kv_cache.cache_ops import Placement
from tailrace.engine.kv_cache.layout import Layout
from tailrace.engine.scheduler.step_plan import Plan
from tailrace.engine.sequence import Sequence

#: A cached prefix with more tokens than this beyond the match is offloaded before its slot is reused.
MIN_SHARED_PREFIX = 32
#: Steps by which a prefix is copied earlier than its pieces take.
_SPARE_STEPS = 8
#: Part of the shared cells that partitions may take when the cache goes back to them; with more it would soon return.
_MAX_PARTITIONED_PART = 0.75


class CellAllocator:
    """Makes cells free in ``cache`` for the sequences in ``running``, which is the scheduler's own list."""

    def __init__(self, cache: KVCache, running: list[Sequence]) -> None:
        self._cache = cache
        self._running = running

    def ensure_free(self, plan: Plan, additions: list[tuple[int, int]]) -> Literal["free", "evicted", "full"]:
        """Have free cells for these pairs of slot and number of tokens, when the plan's ops are applied.

        ``evicted``: a prefix was evicted for them; call again. ``full``: only pausing a sequence can free cells.
        """
        cache = self._cache
        if cache.fits(additions):
            return "free"
        if cache.layout.shared and (cached := cache.cached_slots):
            plan.cache_ops.append(cache.evict(cached[0].index))
            return "evicted"
        layout = self._grown_layout()
        if layout is None:
            return "full"
        self._relayout(plan, layout, self._running)
        return "free"

    def allocate(
        self, plan: Plan, sequence: Sequence, placement: Placement | None, *, waits: bool, awaited: bool = False
    ) -> Placement | None:
        """A placement with cells for the waiting sequence's tokens, ready for use. None where there is none without
        pausing a running sequence.

        ``waits``: None also where a long prefix has to be copied before it is evicted, which is done beside steps.
        ``awaited``: fewer prefixes are long then, because the sequence's caller has nothing that runs. ``placement``:
        where the sequence's prefix is now; None: all slots are occupied.
        """
        cache = self._cache
        length = len(sequence.tokens) + 1
        needed = cache.required_cells(placement, length) if placement else length
        if not cache.layout.shared and (placement is None or needed > cache.layout.cells):
            # Where the whole offloaded state doesn't fit, the sequence goes without it.
            layout = self._layout_with(needed) or self._layout_with(length) or self._last_resort(length)
            pinned_key = placement.offload_key if placement else None
            if layout is None or (waits and not self._evict_copied(plan, pinned_key)):
                return None
            self._relayout(plan, layout, [*self._running, sequence], pinned_key)
        elif cache.always_shared and placement is not None and not self._will_fit(self._cells_for(sequence, placement)):
            layout = self._larger_shared(self._layout_with(needed) or self._last_resort(length))
            if layout is not None:
                self._relayout(plan, layout, [*self._running, sequence], placement.offload_key)
        placement = self._clear_slot(plan, sequence, waits=waits, awaited=awaited)
        if placement is None or not cache.layout.shared:
            return placement
        needed = self._cells_for(sequence, placement)
        for slot in cache.cached_slots:
            if cache.free_cells(slot.index) < needed and slot.index != placement.slot:
                if waits and not cache.can_leave(slot.index, awaited=awaited):
                    return None
                plan.cache_ops.append(cache.evict(slot.index, placement.offload_key))
        return placement if cache.free_cells(placement.slot) >= needed or not self._running else None

    def _evict_copied(self, plan: Plan, pinned_key: int | None) -> bool:
        """Evict all cached prefixes, each once its state is copied in pieces. Whether none is left."""
        cache = self._cache
        for slot in cache.cached_slots:
            if not cache.can_leave(slot.index):
                return False
            plan.cache_ops.append(cache.evict(slot.index, pinned_key))
        return True

    def copy_ahead(self, pausable: int | None) -> None:
        """Begin to copy the state that is evicted next, where running sequences will soon need its cells: that of a
        cached prefix, or of the slot ``pausable``, whose sequence is paused then.
        """
        index = self._next_to_leave(pausable)
        if index is not None and self._cache.free_cells(0) < self._taken_meanwhile(index):
            self._cache.can_leave(index)

    def steps_without_copy(self, pausable: int | None) -> int | None:
        """Steps with a token of each running sequence until ``copy_ahead`` has something to do; None: it has nothing to
        do.
        """
        cache = self._cache
        index = self._next_to_leave(pausable) if cache.leaving is None else None
        if index is None or not (taken := self._taken_meanwhile(index)):
            return None
        return max(0, (cache.free_cells(0) - taken) // len(self._running))

    def _next_to_leave(self, pausable: int | None) -> int | None:
        """The slot whose state is evicted when cells run out; None where states move whole, or cells can be added."""
        cache = self._cache
        if not (cache.piece_tokens and cache.always_shared):
            return None
        if cached := cache.cached_slots:
            return cached[0].index
        return pausable if len(self._running) > 1 and self._grown_layout() is None else None

    def _taken_meanwhile(self, index: int) -> int:
        """Cells that running sequences take while the slot is copied; 0 where its state is short."""
        cache = self._cache
        pieces = cache.pieces(index)
        return sum(sequence.pending + pieces + _SPARE_STEPS for sequence in self._running) if pieces else 0

    def return_to_partitions(self, plan: Plan) -> None:
        """Go from shared cells back to partitions if the running sequences fit well into them."""
        cache = self._cache
        layout = cache.choose_layout(self._lengths())
        if layout is not None and not layout.shared and layout.total <= _MAX_PARTITIONED_PART * cache.layout.total:
            self._relayout(plan, layout, self._running)

    def evict_one_prefix(self, plan: Plan) -> None:
        """Evict a cached prefix from shared cells, where attention visits the cells of all slots. One a step, because
        it takes milliseconds, and once it is copied in pieces.
        """
        cache = self._cache
        if not cache.always_shared and (cached := cache.cached_slots) and cache.can_leave(cached[0].index):
            plan.cache_ops.append(cache.evict(cached[0].index))

    # Layouts

    def _lengths(self) -> list[int]:
        """The tokens that each running sequence's slot must hold after the coming step."""
        return [len(sequence.tokens) + 1 + len(sequence.draft) for sequence in self._running]

    def _layout_with(self, length: int) -> Layout | None:
        return self._cache.choose_layout([*self._lengths(), length])

    def _last_resort(self, length: int) -> Layout | None:
        return None if self._running else self._cache.last_resort_layout(length)

    def _grown_layout(self) -> Layout | None:
        """A layout with cells for what the running sequences need next."""
        cache = self._cache
        lengths = self._lengths()
        layout = cache.choose_layout(lengths)
        if layout is None and len(lengths) == 1:
            layout = cache.last_resort_layout(lengths[0])
        # One sequence alone may leave shared cells that can't grow.
        in_place = cache.layout.shared and (cache.always_shared or len(lengths) > 1)
        return self._larger_shared(layout) if in_place else layout

    def _larger_shared(self, layout: Layout | None) -> Layout | None:
        """The layout where shared cells may grow in place, and grow by this; None otherwise."""
        cache = self._cache
        if layout is None or not cache.always_shared or layout.cells <= cache.layout.cells:
            return None
        # A state that is being loaded can't be moved.
        return None if cache.loading and not cache.grows_in_place(layout) else layout

    def _relayout(self, plan: Plan, layout: Layout, sequences: list[Sequence], pinned_key: int | None = None) -> None:
        """Change the layout for these sequences. Where state moves, evict all cached prefixes but the offloaded
        ``pinned_key``.
        """
        cache = self._cache
        if not cache.grows_in_place(layout):
            plan.cache_ops += [cache.evict(slot.index, pinned_key) for slot in cache.cached_slots]
        relayout = cache.relayout(layout)
        plan.cache_ops.append(relayout)
        if relayout.last_resort:
            plan.last_resorts.append((relayout, sequences[0]))
        slot_map = dict(relayout.slot_map)
        for sequence in self._running:
            sequence.slot = slot_map[sequence.slot]

    # Shared cells

    def _will_fit(self, cells: int) -> bool:
        """Whether so many cells are free, or are once all cached prefixes are evicted."""
        return cells <= self._cache.free_cells(0) or cells <= self._cache.evictable_cells

    def _cells_for(self, sequence: Sequence, placement: Placement) -> int:
        """Cells that must be free for the sequence to start and for the others to go on."""
        # A prefix that is shared with another slot, or is in the slot already, needs no free cells.
        reused = placement.prefix_len if placement.offload_key is None and placement.restored is None else 0
        needed = self._cache.required_cells(placement, len(sequence.tokens)) - reused
        return needed + sum(other.step_tokens for other in self._running)

    # Slots

    def _clear_slot(self, plan: Plan, sequence: Sequence, *, waits: bool, awaited: bool) -> Placement | None:
        """The sequence's placement. Its slot holds only the prefix; other content is offloaded first. ``waits``,
        ``awaited``: as in ``allocate``.
        """
        cache = self._cache
        placement = cache.match_prefix(sequence.tokens, reuse=sequence.reuse_prefix)
        if placement is None:
            return None
        target = cache.slots[placement.slot]
        if cache.reuses_own_slot(placement):
            if len(target.tokens) - placement.prefix_len > MIN_SHARED_PREFIX:
                # A short match must not cost a long conversation its prefix.
                if waits and not cache.can_leave(target.index, awaited=awaited):
                    return None
                plan.cache_ops.append(cache.offload(target.index))
        elif target.tokens:
            if waits and not cache.can_leave(target.index, awaited=awaited):
                return None
            plan.cache_ops.append(cache.evict(target.index, placement.offload_key))
        return placement
