"""The prefix store's accounting of offloaded states."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace.engine.kv_cache.prefix_store import OffloadResult, PrefixStore, common_prefix

tokens = st.lists(st.integers(0, 3), max_size=40)


@given(tokens, tokens)
def test_common_prefix_is_what_a_loop_finds(a: list[int], b: list[int]) -> None:
    expected = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        expected += 1
    assert common_prefix(a, b) == expected


def _key(result: OffloadResult) -> int:
    assert result.key is not None
    return result.key


def test_a_longer_state_supersedes_its_prefixes_and_no_others() -> None:
    store = PrefixStore(100)
    one, two = _key(store.offload([1, 2, 3])), _key(store.offload([1, 2, 9]))
    result = store.offload([1, 2, 3, 4])
    assert result.superseded == (one,)
    assert {key for key, _ in store.items()} == {two, _key(result)}


def test_a_covered_or_oversized_state_is_not_stored() -> None:
    store = PrefixStore(5)
    store.offload([1, 2, 3, 4])
    assert store.offload([1, 2, 3]) == OffloadResult(None)
    assert store.offload([9] * 6) == OffloadResult(None)
    assert [stored for _, stored in store.items()] == [[1, 2, 3, 4]]


def test_a_pinned_state_is_neither_evicted_nor_superseded() -> None:
    store = PrefixStore(10)
    pinned, other = _key(store.offload([1, 2, 3])), _key(store.offload([5, 5, 5, 5]))
    result = store.offload([7] * 6, pinned)
    assert result.evicted == ((other, [5, 5, 5, 5]),)
    assert store.offload([8] * 8, pinned) == OffloadResult(None), "it doesn't fit beside the pinned one"
    assert store.offload([1, 2, 3, 4], pinned).superseded == ()
    assert store[pinned] == [1, 2, 3]


@given(st.lists(tokens.filter(bool), max_size=30), st.integers(1, 60))
def test_the_store_never_holds_more_than_its_tokens_nor_a_state_that_another_covers(
    states: list[list[int]], max_tokens: int
) -> None:
    store = PrefixStore(max_tokens)
    stored: dict[int, list[int]] = {}
    for state in states:
        result = store.offload(state)
        for key in (*result.superseded, *(key for key, _ in result.evicted)):
            del stored[key]
        if result.key is not None:
            stored[result.key] = state
        assert dict(store.items()) == stored
        assert sum(map(len, stored.values())) <= max_tokens
        assert not any(a[: len(b)] == b for a in stored.values() for b in stored.values() if a is not b)
