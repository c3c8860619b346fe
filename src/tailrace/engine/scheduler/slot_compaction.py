"""Keeps the decoding sequences of a partitioned KV cache in adjacent slots.

llama.cpp computes a batch in one pass over the weights only as far as its sequences' slots have no gap between them.
Four sequences in slots 0, 2, 4, 6 decode at little more than half the speed of 0 to 3.
"""

from __future__ import annotations

from bisect import insort

from tailrace.engine.kv_cache.cache import KVCache
from tailrace.engine.scheduler.step_plan import Plan
from tailrace.engine.sequence import Sequence


def compact(plan: Plan, cache: KVCache, running: list[Sequence]) -> None:
    """Add the swaps to ``plan`` that leave no gap between the slots of its decoding sequences."""
    by_slot = {sequence.slot: sequence for sequence in running}
    decoding = sorted(sequence.slot for sequence, _ in plan.scheduled if sequence.decoding)
    while decoding and decoding[-1] - decoding[0] >= len(decoding):
        low, high = decoding[0], decoding[-1]
        holes = [slot for slot in range(low, high) if slot not in decoding]
        # Of the two ends the shorter sequence moves: its state is copied.
        high_moves = len(cache.slots[high].tokens) <= len(cache.slots[low].tokens)
        end, hole = (high, holes[0]) if high_moves else (low, holes[-1])
        if hole in cache.loading:
            return  # Its state can't move before all of it is there.
        decoding.remove(end)
        insort(decoding, hole)
        plan.cache_ops.append(cache.swap(hole, end))
        moved, other = by_slot.pop(end), by_slot.pop(hole, None)
        moved.slot, by_slot[hole] = hole, moved
        if other is not None:
            other.slot, by_slot[end] = end, other
