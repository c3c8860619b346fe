"""The one eviction policy: least recently used, in slots, in host memory and on the disk."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.engine.kv_cache.cache import KVCache
from tailrace.engine.kv_cache.eviction import LruIndex
from tailrace.engine.kv_cache.layout import Layout, LayoutPolicy


def test_the_least_recently_used_keys_leave_until_the_rest_fits() -> None:
    index: LruIndex[str] = LruIndex()
    for key, size in (("a", 3), ("b", 4), ("c", 5)):
        index.add(key, size)
    index.touch("a")
    assert list(index) == ["b", "c", "a"]
    assert index.victims(12) == []
    assert index.victims(11) == ["b"]
    assert index.victims(3) == ["b", "c"]
    index.remove("b")
    index.rename({"c": "d"})
    assert (list(index), index.total) == (["d", "a"], 8)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 20)), max_size=60), st.integers(0, 60))
def test_what_remains_is_what_was_used_last(uses: list[tuple[int, int]], limit: int) -> None:
    index: LruIndex[int] = LruIndex()
    sizes: dict[int, int] = {}
    order: list[int] = []
    for key, size in uses:
        if key in index:
            index.touch(key)
            order.remove(key)
        else:
            index.add(key, size)
            sizes[key] = size
        order.append(key)
    for key in index.victims(limit):
        index.remove(key)
    remaining = list(index)
    assert remaining == order[len(order) - len(remaining) :]
    assert index.total == sum(sizes[key] for key in remaining) <= limit


def _cache(slots: int, *, shared: bool) -> KVCache:
    policy = LayoutPolicy(slots, 1024, 1024, always_shared=shared)
    return KVCache(policy, policy.full_shared if shared else Layout(slots, 256), 1000)


def _use(cache: KVCache, tokens: list[int]) -> int:
    """A sequence with these tokens runs and ends; its slot."""
    placement = cache.match_prefix(tokens)
    assert placement is not None
    if cache.slots[placement.slot].tokens and not cache.reuses_own_slot(placement):
        cache.evict(placement.slot, placement.offload_key)
    cache.occupy(placement)
    cache.append(placement.slot, tokens[placement.prefix_len :])
    cache.release(placement.slot)
    return placement.slot


def test_cached_slots_are_in_the_order_of_their_last_use_and_not_of_their_numbers() -> None:
    cache = _cache(4, shared=True)
    slots = [_use(cache, [start] * 10) for start in range(3)]
    _use(cache, [0] * 12)
    assert [slot.index for slot in cache.cached_slots] == [slots[1], slots[2], slots[0]]


@pytest.mark.parametrize("shared", [False, True])
def test_a_new_sequence_takes_the_place_of_the_prefix_used_longest_ago_and_not_of_the_shortest(shared: bool) -> None:
    cache = _cache(2, shared=shared)
    long, short = _use(cache, [1] * 20), _use(cache, [2] * 10)
    slot = cache.pick_slot()
    assert slot is not None
    assert slot.index == long
    _use(cache, [1] * 21)
    slot = cache.pick_slot()
    assert slot is not None
    assert slot.index == short


def test_content_keeps_its_place_in_the_order_when_slots_are_swapped() -> None:
    cache = _cache(3, shared=False)
    one, two, three = (_use(cache, [start] * 10) for start in range(3))
    cache.swap(one, three)
    assert [slot.tokens[0] for slot in cache.cached_slots] == [0, 1, 2]
    assert [slot.index for slot in cache.cached_slots] == [three, two, one]
