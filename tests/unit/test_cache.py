"""KV accounting and prefix reuse."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace.engine.cache import KVCache, common_prefix

tokens = st.lists(st.integers(0, 3), max_size=40)


@given(tokens, tokens)
def test_common_prefix_is_what_a_loop_finds(a: list[int], b: list[int]) -> None:
    expected = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        expected += 1
    assert common_prefix(a, b) == expected


def _fill(cache: KVCache, held: list[int]) -> int:
    """A sequence with these tokens runs and ends; its slot."""
    placement = cache.place(held)
    cache.occupy(placement)
    cache.append(placement.slot, held[placement.length :])
    cache.release(placement.slot)
    return placement.slot


def test_a_finished_sequence_is_found_again_in_place() -> None:
    cache = KVCache(slots=4, cells=100, limit=100)
    slot = _fill(cache, [1, 2, 3, 4])
    placement = cache.place([1, 2, 3, 4, 5, 6])
    assert (placement.slot, placement.length, placement.source) == (slot, 4, None)


def test_the_last_token_is_never_taken_as_ready() -> None:
    cache = KVCache(slots=2, cells=100, limit=100)
    _fill(cache, [1, 2, 3, 4])
    assert cache.place([1, 2, 3, 4]).length == 3


def test_a_running_sequence_is_copied_from_and_its_cells_are_shared() -> None:
    cache = KVCache(slots=2, cells=10, limit=10)
    first = cache.place([1, 2, 3, 4])
    cache.occupy(first)
    cache.append(first.slot, [1, 2, 3, 4])
    second = cache.place([1, 2, 3, 9])
    assert (second.length, second.keep, second.source) == (3, 0, first.slot)
    cache.occupy(second)
    cache.append(second.slot, [9])
    assert cache.used == 5
    cache.release(first.slot)
    assert cache.evict_oldest() == first.slot
    assert cache.used == 4, "the three shared cells live on in the copy"


def test_a_long_kept_prefix_is_not_thrown_away_for_a_short_match() -> None:
    cache = KVCache(slots=3, cells=100, limit=100)
    kept = _fill(cache, list(range(50)))
    placement = cache.place([0, 1, 2, 77, 78])
    assert placement.slot != kept
    assert placement.source == kept


def test_eviction_takes_the_oldest() -> None:
    cache = KVCache(slots=3, cells=100, limit=100)
    slots = [_fill(cache, [start, start + 1]) for start in (10, 20, 30)]
    assert [cache.evict_oldest() for _ in range(4)] == [*slots, None]
    assert cache.free == 100


def test_growth_doubles_up_to_the_limit() -> None:
    cache = KVCache(slots=1, cells=4, limit=10)
    assert cache.grow(7)
    assert cache.capacity == 8
    assert cache.grow(100)
    assert (cache.capacity, cache.free) == (10, 10)
    assert not cache.grow(100)


@given(st.lists(st.tuples(tokens.filter(bool), st.booleans()), max_size=30))
def test_cells_are_neither_lost_nor_doubled(sequences: list[tuple[list[int], bool]]) -> None:
    cache = KVCache(slots=4, cells=2000, limit=2000)
    for held, evict in sequences:
        _fill(cache, held)
        if evict:
            cache.evict_oldest()
        in_use = {cell for slot in cache.slots for cell in slot.cells}
        assert cache.used == len(in_use)
        assert all(len(slot.cells) == len(slot.tokens) for slot in cache.slots)
    while cache.evict_oldest() is not None:
        pass
    assert cache.free == 2000
