"""Which checkpoints are found, and which are dropped where space is short."""

from __future__ import annotations

import numpy as np

from tailrace.engine.backends.base import KVState
from tailrace.engine.kv_cache.checkpoints import Checkpoints

_SIZE = 100


def _state(number: int = 0) -> KVState:
    return np.full(_SIZE, number, np.uint8)


def _store(count: int) -> Checkpoints:
    return Checkpoints(count * _SIZE, _SIZE, frozenset())


def _lengths(store: Checkpoints, tokens: list[int]) -> list[int]:
    return [each.length for each in store.prefixes(tokens)]


def _text(start: int, length: int) -> list[int]:
    return list(range(start, start + length))


def test_those_that_are_prefixes_are_found_and_no_others() -> None:
    store = _store(10)
    one, two = _text(0, 100), [*_text(0, 50), *_text(900, 50)]
    for length in (20, 60, 100):
        store.add(one, length, _state(length))
    store.add(two, 70, _state())
    assert _lengths(store, one) == [20, 60, 100]
    assert _lengths(store, two) == [20, 70]
    assert _lengths(store, one[:59]) == [20]
    assert _lengths(store, [7, *one]) == []
    found = store.find(one, 60)
    assert found is not None
    assert found.state[0] == 60
    assert store.find(two, 60) is None


def test_one_that_is_there_is_not_taken_in_twice_and_one_too_large_not_at_all() -> None:
    store = _store(3)
    store.add(_text(0, 50), 50, _state(1))
    store.add(_text(0, 60), 50, _state(2))
    store.add(_text(0, 60), 60, np.zeros(4 * _SIZE, np.uint8))
    assert (len(store), store.used_bytes) == (1, _SIZE)


def test_a_long_conversation_keeps_its_latest_and_sparser_ones_before() -> None:
    store = _store(12)
    tokens = _text(0, 20_000)
    for length in range(100, 20_001, 100):
        store.add(tokens, length, _state())
    kept = _lengths(store, tokens)
    assert len(kept) == 12
    assert kept[-2:] == [19_900, 20_000]
    # The distance back to a checkpoint is a part of the distance from the end.
    for position in range(1000, 20_000, 500):
        before = max((length for length in kept if length <= position), default=0)
        assert position - before <= max(500, 0.7 * (20_000 - before)), (position, kept)
    assert kept[0] < 15_000


def test_a_system_prompt_that_new_chats_use_outlives_the_chats() -> None:
    store = _store(8)
    system = _text(0, 500)
    store.add(system, 500, _state())
    for chat in range(50):
        tokens = [*system, *_text(1000 * (chat + 1), 400)]
        store.touch(store.prefixes(tokens)[0])
        for length in (700, 900):
            store.add(tokens, length, _state())
    assert _lengths(store, system) == [500]
    assert store.used_bytes == 8 * _SIZE


def test_what_may_be_broken_is_forgotten() -> None:
    store = _store(5)
    tokens = _text(0, 100)
    for length in (30, 60, 90):
        store.add(tokens, length, _state())
    store.forget(tokens[:60])
    assert _lengths(store, tokens) == [90]
    assert store.prefixes(tokens)[0].saved == 90


def test_a_file_carries_the_first_and_the_last_ones_without_the_state_itself() -> None:
    store = _store(10)
    tokens = _text(0, 100)
    for length in range(10, 101, 10):
        store.add(tokens, length, _state())
    assert [length for length, _ in store.carried(tokens)] == [10, 70, 80, 90]


def test_checkpoints_of_a_long_text_are_farther_apart_where_space_is_short() -> None:
    assert _store(1000).interval(20_000) == 512
    assert _store(20).interval(20_000) == 4096
    assert _store(1).interval(20_000) >= 20_000


def test_space_is_made_by_dropping_the_least_useful_ones() -> None:
    store = _store(4)
    text = _text(0, 1000)
    for length in (100, 500, 520, 1000):
        store.add(text, length, _state())
    store.make_space(_SIZE)
    assert _lengths(store, text) == [100, 500, 1000]
    store.make_space(10 * _SIZE)
    assert len(store) == 0
