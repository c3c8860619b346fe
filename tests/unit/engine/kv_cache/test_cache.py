"""KV accounting and prefix reuse."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace.engine.kv_cache.cache import KVCache
from tailrace.engine.kv_cache.cache_ops import Placement
from tailrace.engine.kv_cache.layout import Layout, LayoutPolicy

tokens = st.lists(st.integers(0, 3), max_size=40)


def _cache(slots: int = 4, cells: int = 100, host_tokens: int = 1000, *, partitioned: bool = False) -> KVCache:
    policy = LayoutPolicy(slots, slots * cells if partitioned else cells, cells)
    return KVCache(policy, Layout(slots, cells) if partitioned else policy.full_shared, host_tokens)


def _run(cache: KVCache, held: list[int]) -> int:
    """A sequence with these tokens starts; its slot."""
    placement = cache.match_prefix(held)
    assert placement is not None
    if cache.slots[placement.slot].tokens and not cache.reuses_own_slot(placement):
        cache.evict(placement.slot, placement.offload_key)
    cache.occupy(placement)
    cache.append(placement.slot, held[placement.prefix_len :])
    return placement.slot


def _fill(cache: KVCache, held: list[int]) -> int:
    """A sequence with these tokens runs and ends; its slot."""
    slot = _run(cache, held)
    cache.release(slot)
    return slot


def test_a_finished_sequence_s_prefix_is_found_in_its_slot() -> None:
    cache = _cache()
    slot = _fill(cache, [1, 2, 3, 4])
    placement = cache.match_prefix([1, 2, 3, 4, 5, 6])
    assert placement == Placement(slot, 4)
    assert placement is not None
    assert cache.reuses_own_slot(placement)


def test_the_last_token_is_never_part_of_the_prefix() -> None:
    cache = _cache()
    _fill(cache, [1, 2, 3, 4])
    placement = cache.match_prefix([1, 2, 3, 4])
    assert placement is not None
    assert placement.prefix_len == 3


def test_without_reuse_no_prefix_is_found_anywhere() -> None:
    """Not in a cached slot, not in an occupied one, not in host memory."""
    cached, running, offloaded = _cache(), _cache(), _cache()
    _fill(cached, [1, 2, 3, 4])
    _run(running, [1, 2, 3, 4])
    offloaded.evict(_fill(offloaded, [1, 2, 3, 4]))
    for cache in (cached, running, offloaded):
        assert cache.match_prefix([1, 2, 3, 4, 5]).prefix_len == 4  # type: ignore[union-attr]  # None would fail the test
        found = cache.match_prefix([1, 2, 3, 4, 5], reuse=False)
        assert found is not None
        assert (found.prefix_len, found.source_slot, found.offload_key) == (0, None, None)


def test_a_prefix_of_a_running_sequence_shares_its_cells() -> None:
    cache = _cache(slots=2, cells=10)
    first = _run(cache, [1, 2, 3, 4])
    assert cache.match_prefix([1, 2, 3, 9]) == Placement(1 - first, 3, source_slot=first)
    _run(cache, [1, 2, 3, 9])
    assert cache.used_cells == 5
    cache.release(first)
    cache.evict(first)
    assert cache.used_cells == 4, "the three shared cells live on in the copy"


def test_an_evicted_prefix_is_found_in_host_memory() -> None:
    cache = _cache()
    move = cache.evict(_fill(cache, [1, 2, 3, 4]))
    assert cache.used_cells == 0
    placement = cache.match_prefix([1, 2, 3, 9])
    assert placement is not None
    assert placement.offload_key == move.offload.key
    slot = _run(cache, [1, 2, 3, 9])
    assert cache.slots[slot].tokens == [1, 2, 3, 9]
    assert cache.used_cells == 4


def test_the_next_turn_supersedes_the_one_before_and_a_covered_prefix_is_not_stored_twice() -> None:
    cache = _cache()
    first = cache.evict(_fill(cache, [1, 2, 3]))
    assert first.offload.key is not None
    second = cache.evict(_fill(cache, [1, 2, 3, 4, 5]))
    assert second.offload.superseded == (first.offload.key,)
    assert cache.evict(_fill(cache, [1, 2, 3, 4])).offload.key is None


def test_host_memory_evicts_the_least_recently_used_state() -> None:
    cache = _cache(host_tokens=7)
    keys = [cache.evict(_fill(cache, [start, start, start])).offload.key for start in (1, 2)]
    _fill(cache, [1, 1, 1, 9])  # Uses the first one again.
    assert cache.evict(_fill(cache, [3, 3, 3])).offload.evicted == ((keys[1], [2, 2, 2]),)
    assert cache.evict(_fill(cache, [4] * 8)).offload.key is None, "larger than the whole store"


def test_a_new_sequence_fills_a_gap_between_slots_first() -> None:
    cache = _cache(partitioned=True)
    slots = [_run(cache, [start] * 3) for start in range(3)]
    assert slots == [0, 1, 2]
    cache.release(1)
    cache.evict(1)
    assert [_run(cache, [5]), _run(cache, [6])] == [1, 3]
    assert cache.match_prefix([7]) is None, "every slot is occupied"


def test_partitions_hold_their_own_tokens_and_can_be_swapped() -> None:
    cache = _cache(slots=2, cells=4, partitioned=True)
    one, other = _run(cache, [1, 2, 3]), _run(cache, [1, 2])
    assert (cache.fits([(one, 1), (other, 2)]), cache.fits([(one, 2)])) == (True, False)
    cache.swap(one, other)
    assert cache.slots[one].tokens == [1, 2]
    assert cache.fits([(one, 2)])
    assert cache.used_cells == 5, "nothing is shared between partitions"


def test_a_new_layout_moves_running_sequences_to_adjacent_slots() -> None:
    cache = _cache(slots=4, cells=8, partitioned=True)
    slots = [_run(cache, [start] * 3) for start in range(3)]
    cache.release(slots[1])
    cache.evict(slots[1])
    relayout = cache.relayout(Layout(2, 16))
    assert relayout.slot_map == ((0, 0), (2, 1))
    assert [slot.tokens for slot in cache.slots] == [[0, 0, 0], [2, 2, 2], [], []]
    cache.relayout(Layout(0, 32))
    assert cache.used_cells == 6


@given(st.lists(st.tuples(tokens.filter(bool), st.booleans()), max_size=30))
def test_no_cell_is_lost_or_used_twice(sequences: list[tuple[list[int], bool]]) -> None:
    cache = _cache(cells=2000, host_tokens=60)
    for held, out in sequences:
        slot = _fill(cache, held)
        assert cache.slots[slot].tokens == held
        if out:
            cache.evict(slot)
        in_use = {cell for slot in cache.slots for cell in slot.cells}
        assert cache.used_cells == len(in_use)
        assert all(len(slot.cells) == len(slot.tokens) for slot in cache.slots)
    for cached in cache.cached_slots:
        cache.evict(cached.index)
    assert (cache.used_cells, cache.free_cells(0)) == (0, 2000)
