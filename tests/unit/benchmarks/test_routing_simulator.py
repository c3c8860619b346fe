"""The simulator of routing, and how ours fares in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.routing.policies import POLICIES, by_chance, longest_prefix, round_robin
from benchmarks.routing.simulator import Machine, simulate
from benchmarks.routing.trace import Turn, generated, load, save
from tailrace.cluster_protocol.prefix_chain import BLOCK_TOKENS, pack_hashes

SHORT = Machine(slots=2, memory_tokens=4096, prefill_speed=1000.0)


def turn(conversation: int, blocks: list[int], pause: float = 0.0) -> Turn:
    tokens = len(blocks) * BLOCK_TOKENS
    return Turn(conversation=conversation, pause=pause, tokens=tokens, hashes=pack_hashes(blocks), reply_tokens=10)


def test_a_conversation_reads_its_new_tokens_alone_on_one_machine() -> None:
    found = simulate([turn(1, [1, 2, 3]), turn(1, [1, 2, 3, 4, 5], 1.0)], [SHORT], round_robin())
    assert (found.computed, found.known) == (5 * BLOCK_TOKENS, 0)
    assert found.requests == [2]
    assert found.first_tokens == pytest.approx([3 * BLOCK_TOKENS / 1000, 2 * BLOCK_TOKENS / 1000])


def test_turns_that_go_elsewhere_are_read_again() -> None:
    found = simulate([turn(1, [1, 2, 3]), turn(1, [1, 2, 3, 4, 5], 1.0)], [SHORT] * 2, round_robin())
    assert (found.computed, found.known) == (8 * BLOCK_TOKENS, 3 * BLOCK_TOKENS)


def test_a_cache_that_is_too_small_forgets_the_oldest() -> None:
    small = Machine(slots=1, memory_tokens=4 * BLOCK_TOKENS)
    turns = [turn(1, [1, 2, 3]), turn(2, [7, 8, 9], 1.0), turn(1, [1, 2, 3, 4], 2.0)]
    assert simulate(turns, [small], round_robin()).known == 3 * BLOCK_TOKENS


def test_requests_wait_for_slots_and_for_each_other_s_prompts() -> None:
    one = Machine(slots=1, prefill_speed=1000.0, step_seconds=0.1)
    found = simulate([turn(1, [1]), turn(2, [2])], [one], round_robin())
    assert found.first_tokens == pytest.approx([0.064, 0.064 + 1.0 + 0.064])


@given(seed=st.integers(0, 10_000), memory=st.integers(4_000, 40_000), speed=st.sampled_from([300.0, 1500.0, 8000.0]))
@settings(max_examples=20, deadline=None)
def test_ours_reads_less_than_chance(seed: int, memory: int, speed: float) -> None:
    trace = generated(seed, conversations=12, turns=4)
    machines = [Machine(memory_tokens=memory, prefill_speed=speed)] * 3
    ours, chance = simulate(trace, machines, longest_prefix()), simulate(trace, machines, by_chance(seed))
    assert ours.computed <= chance.computed
    assert sum(ours.requests) == len(trace) == len(ours.first_tokens)


def test_ours_reads_about_what_one_machine_with_all_memory_reads() -> None:
    trace, machine = generated(1), Machine()
    whole = simulate(trace, [machine.times(3)], round_robin())
    found = {name: simulate(trace, [machine] * 3, make()) for name, make in POLICIES.items()}
    assert found["longest prefix"].computed <= 1.1 * whole.computed
    assert found["round robin"].computed > 2 * whole.computed
    assert found["longest prefix"].balance < found["conversation's hash"].balance


def test_a_trace_comes_back_from_its_file(tmp_path: Path) -> None:
    trace = generated(3, conversations=4)
    save(tmp_path / "trace.ndjson", trace)
    assert load(tmp_path / "trace.ndjson") == trace
