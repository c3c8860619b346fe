"""Cache ops on a backend whose memory can't always follow: no slot may pass for one that holds a prefix."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import get_args

import pytest

from context_backend import ContextBackend
from loop_runs import LoopRun
from tailrace.engine.backends.base import KVState
from tailrace.engine.backends.fake import FakeBackend, Memory
from tailrace.engine.kv_cache.cache import KVCache
from tailrace.engine.kv_cache.cache_op_executor import CacheExecutor
from tailrace.engine.kv_cache.layout import Layout
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.machine import free_memory
from tailrace.protocol import Submit


class Losing(FakeBackend):
    """States are lost at each new layout, as those whose format llama.cpp has changed."""

    def kv_relayout(self, layout: Layout, slot_map: Seq[tuple[int, int]]) -> list[int]:
        """See ``Backend``."""
        self.reset()
        super().kv_relayout(layout, slot_map)
        return [new for _, new in slot_map]


class LosingContext(Losing, ContextBackend):
    """The same, and the replies show what is in the slots."""


class Machine:
    """A cache whose executor moves tokens of a fake backend."""

    def __init__(self, backend: type[FakeBackend] = FakeBackend) -> None:
        self.backend = backend(ctx=512, parallel=3, kv_tokens=0, batch=64)
        self.cache = KVCache(self.backend.layout_policy, self.backend.layout, 1000)
        self.executor = CacheExecutor(self.backend, self.cache, None, lambda fetched: None)

    def run(self, tokens: list[int]) -> int:
        """A sequence with these tokens starts and computes them; its slot."""
        placement = self.cache.match_prefix(tokens)
        assert placement is not None
        self.cache.occupy(placement)
        assert self.executor.apply([placement]).lost == set()
        new = tokens[placement.prefix_len :]
        self.backend.decode(new, list(range(placement.prefix_len, len(tokens))), [placement.slot] * len(new), [])
        self.cache.append(placement.slot, new)
        return placement.slot

    def held(self, slot: int) -> list[int]:
        """What the backend's slot really holds."""
        return self.backend.kv_save(slot).view("i4").tolist()  # type: ignore[no-any-return]  # NumPy's tolist has no type


def test_an_evicted_prefix_comes_back_from_host_memory() -> None:
    machine = Machine()
    slot = machine.run([1, 2, 3, 4])
    machine.cache.release(slot)
    assert machine.executor.apply([machine.cache.evict(slot)]).lost == set()
    assert machine.held(slot) == []
    again = machine.run([1, 2, 3, 9])
    assert machine.held(again) == [1, 2, 3, 9]


@pytest.mark.parametrize("how", ["the kernel has none", "the allocation fails"])
def test_a_prefix_for_which_there_is_no_memory_is_computed_again(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    slot = machine.run([1, 2, 3, 4])
    machine.cache.release(slot)

    def fail(slot: int) -> KVState:
        raise MemoryError

    if how == "the kernel has none":
        monkeypatch.setattr(free_memory, "available_memory", lambda: 1000)
    else:
        monkeypatch.setattr(machine.backend, "kv_save", fail)
    assert machine.executor.apply([machine.cache.evict(slot)]).lost == set()
    monkeypatch.undo()
    assert machine.cache.cached_prefix_len([1, 2, 3, 9]) == 0
    again = machine.run([1, 2, 3, 9])
    assert machine.held(again) == [1, 2, 3, 9]


def test_a_prefix_of_a_slot_that_was_lost_is_lost_too() -> None:
    machine = Machine(Losing)
    first = machine.run([1, 2, 3, 4])
    relayout = machine.cache.relayout(Layout(0, 1024))
    placement = machine.cache.match_prefix([1, 2, 3, 9])
    assert placement is not None
    assert placement.prefix_len == 3
    machine.cache.occupy(placement)
    assert machine.executor.apply([relayout, placement]).lost == {first, placement.slot}
    assert machine.held(placement.slot) == []


def test_a_lost_slot_is_not_offloaded_as_if_it_held_its_tokens() -> None:
    machine = Machine(Losing)
    slot = machine.run([1, 2, 3, 4])
    relayout = machine.cache.relayout(Layout(0, 1024))
    machine.cache.release(slot)
    evict = machine.cache.evict(slot)
    assert evict.offload.key is not None
    assert machine.executor.apply([relayout, evict]).lost == set()
    assert machine.cache.match_prefix([1, 2, 3, 4, 5]) is not None
    assert machine.cache.cached_prefix_len([1, 2, 3, 4, 5]) == 0


@pytest.mark.parametrize("memory", get_args(Memory))
def test_a_prompt_that_shares_a_prefix_lost_by_a_new_layout_is_computed_whole(memory: Memory) -> None:
    """The backend would fail if it were asked to continue a prefix that it doesn't hold."""
    small = LoopRun(LosingContext(ctx=512, parallel=8, kv_tokens=512, batch=64, memory=memory), None)
    large = LoopRun(ContextBackend(ctx=512, parallel=8, kv_tokens=0, batch=64), None)
    for run in (small, large):
        for identity in range(3):
            params = GenerationParams(max_tokens=8, sampling=Sampling(temperature=0.0), ignore_eos=True)
            run.submit(Submit(id=identity, prompt=[97] * 60 + [98 + identity] * 20, params=params))
        run.finish()
    assert small.tokens == large.tokens
