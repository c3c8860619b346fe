"""The published prefixes are those that the cache can start a sequence with, whatever has happened to it."""

from __future__ import annotations

import random
import time
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.cluster_protocol.prefix_chain import BLOCK_TOKENS, chain_of, unpack_hashes
from tailrace.cluster_protocol.state import Tier
from tailrace.engine.backends.fake import START, FakeBackend, Memory
from tailrace.engine.kv_cache.disk_tier import DiskOptions
from tailrace.engine.kv_cache.held_prefixes import HeldPrefixes
from tailrace.engine.kv_cache.state_index import unpack
from tailrace.engine.loop import EngineLoop, Published
from tailrace.engine.sequence import Sequence
from tailrace.engine.submission import prepare_sequence
from tailrace.generation_params import GenerationParams
from tailrace.protocol import PrefixReport, Submit

MODEL = "m"


class Talks:
    """A loop on the fake backend, which conversations of up to ten blocks go through."""

    def __init__(
        self, seed: int, memory: Memory = "dense", folder: Path | None = None, *, shared: bool = True, host: int = 3000
    ) -> None:
        self._random = random.Random(seed)
        self._ids = count(1)
        self.backend = FakeBackend(ctx=1000, parallel=3, kv_tokens=1500, batch=256, memory=memory, always_shared=shared)
        self.loop = EngineLoop(
            self.backend,
            prefill_chunk=200,
            step_seconds=1.0,
            host_cache_tokens=host,
            checkpoint_bytes=40 * 400,
            disk=None if folder is None else DiskOptions(folder, 60_000, self.backend.rollback),
        )
        self.asked: list[list[int]] = []
        self.time = 0.0
        self.held = HeldPrefixes(self.loop.cache, MODEL, clock=lambda: self.time)
        self.published: dict[int, Tier] = {}

    def ask(self) -> None:
        """A new conversation, or a longer one; and sometimes an answer that is made anew."""
        start = self._random.choice([[], *self.asked]) if self.asked else []
        if self._random.random() < 0.3:
            start = start[: len(start) // 2]
        prompt = [*start, *self._random.choices(b"abcdefgh", k=self._random.randint(1, 200)), START][-900:]
        self.asked.append(prompt)
        submit = Submit(id=next(self._ids), prompt=prompt, params=GenerationParams(max_tokens=70, ignore_eos=True))
        sequence = prepare_sequence(self.backend, submit)
        assert isinstance(sequence, Sequence)
        self.loop.inbox.put(sequence)

    def step(self) -> None:
        self.loop.take()
        self.loop.step()

    def look(self) -> None:
        held, removed = self.held.look()
        assert not held.keys() & set(removed)
        assert set(removed) <= self.published.keys()
        assert all(self.published.get(block) != tier for block, tier in held.items())
        for block in removed:
            del self.published[block]
        self.published.update(held)

    def expected(self) -> dict[int, Tier]:
        """What a cache holds that can be cut anywhere."""
        cache, executor = self.loop.cache
        found: dict[int, Tier] = {}
        if executor.disk is not None:
            for name in executor.disk.index.names:
                found.update(dict.fromkeys(chain_of(MODEL, unpack(executor.disk.index.tokens(name))), "disk"))
        for _, tokens in cache.prefix_store.items():
            found.update(dict.fromkeys(chain_of(MODEL, tokens), "host"))
        for slot in cache.slots:
            found.update(dict.fromkeys(chain_of(MODEL, slot.tokens), "cells"))
        return found

    def longest(self, tokens: list[int]) -> int:
        """The published blocks that the text begins with."""
        chain = chain_of(MODEL, tokens)
        return max((number for number, block in enumerate(chain, 1) if block in self.published), default=0)


@given(seed=st.integers(0, 10_000), shared=st.booleans())
@settings(max_examples=25, deadline=None)
def test_after_each_step_exactly_what_is_held_is_published(seed: int, shared: bool) -> None:
    talks = Talks(seed, shared=shared)
    for number in range(60):
        if number % 4 == 0:
            talks.ask()
        talks.step()
        if number % 3 == 0:
            talks.look()
            assert talks.published == talks.expected()


def test_files_are_published_after_what_is_in_memory(tmp_path: Path) -> None:
    talks = Talks(7, folder=tmp_path, host=600)
    for _ in range(25):
        talks.ask()
        while talks.loop.has_work:
            talks.step()
        talks.look()
        assert talks.published == talks.expected()
    assert set(talks.published.values()) == {"cells", "host", "disk"}
    talks.loop.close()


def test_a_later_process_publishes_the_files_of_an_earlier_one(tmp_path: Path) -> None:
    first = Talks(8, folder=tmp_path, host=0)
    for _ in range(5):
        first.ask()
        while first.loop.has_work:
            first.step()
    assert first.loop.cache.executor.save(time.monotonic() + 60)[0] > 0
    again = Talks(9, folder=tmp_path)
    again.look()
    assert again.published
    assert set(again.published.values()) == {"disk"}
    again.loop.close()


@pytest.mark.parametrize("memory", ["hybrid", "recurrent", "sliding"])
@pytest.mark.parametrize("seed", range(8))
def test_memory_that_can_not_be_cut_is_published_where_it_is_of_use(memory: Memory, seed: int) -> None:
    talks = Talks(seed, memory, host=0)
    cache = talks.loop.cache.accounting
    compared = 0
    for _ in range(12):
        talks.ask()
        while talks.loop.has_work:
            talks.step()
            talks.time += 2.0
            talks.look()
        for slot in cache.slots:
            compared += len(slot.tokens) >= BLOCK_TOKENS
            assert talks.longest(slot.tokens) == cache.cached_prefix_len(slot.tokens) // BLOCK_TOKENS
    assert compared
    most = sum(len(chain_of(MODEL, slot.tokens)) for slot in cache.slots)
    assert memory == "recurrent" or len(talks.published) < most


def test_of_too_many_blocks_those_in_slots_stay() -> None:
    talks = Talks(3)
    talks.held = HeldPrefixes(talks.loop.cache, MODEL, max_blocks=25)
    for _ in range(12):
        talks.ask()
        while talks.loop.has_work:
            talks.step()
            talks.look()
            assert len(talks.published) <= 25
    tiers = list(talks.published.values())
    in_slots = {block for slot in talks.loop.cache.accounting.slots for block in chain_of(MODEL, slot.tokens)}
    assert tiers.count("cells") == len(in_slots)


def test_the_loop_reports_changes_at_most_every_tenth_of_a_second() -> None:
    backend = FakeBackend(ctx=1000, parallel=2, kv_tokens=2000, batch=256, step_seconds=0.002)
    loop = EngineLoop(backend, prefill_chunk=100, step_seconds=1.0, prefix_identity=MODEL)
    prompt = [*range(97, 100)] * 70
    submit = Submit(id=1, prompt=[*prompt], params=GenerationParams(max_tokens=300, ignore_eos=True))
    sequence = prepare_sequence(backend, submit)
    assert isinstance(sequence, Sequence)
    reports: list[PrefixReport] = []
    published: dict[int, int] = {}

    def publish(message: Published) -> None:
        if isinstance(message, PrefixReport):
            reports.append(message)
            for tier, packed in enumerate(message.held):
                published.update(dict.fromkeys(unpack_hashes(packed), tier))
        if reports and reports[-1].free_tokens == 2000 - len(prompt) - 299:
            loop.inbox.put(None)

    loop.inbox.put(sequence)
    loop.run(publish)
    # 300 steps of at least 2 ms: a report for each would be 300.
    assert 1 < len(reports) < 100
    assert reports[-1].waiting_prompt_tokens == 0
    assert reports[-1].decode_speed > 0
    assert set(chain_of(MODEL, prompt)) <= published.keys()
    assert len(published) == (len(prompt) + 299) // BLOCK_TOKENS


def test_without_a_cluster_nothing_is_reported() -> None:
    backend = FakeBackend(ctx=256, parallel=2, kv_tokens=0, batch=64)
    loop = EngineLoop(backend, prefill_chunk=64, step_seconds=1.0)
    submit = Submit(id=1, prompt=[97] * 100, params=GenerationParams(max_tokens=5))
    sequence = prepare_sequence(backend, submit)
    assert isinstance(sequence, Sequence)
    kinds: set[type] = set()

    def publish(message: Published) -> None:
        kinds.add(type(message))
        if not loop.has_work:
            loop.inbox.put(None)

    loop.inbox.put(sequence)
    loop.run(publish)
    assert PrefixReport not in kinds
