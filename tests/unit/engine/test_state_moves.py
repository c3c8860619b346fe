"""States that leave slots and come back in pieces: replies are the same, and no step waits for a long move."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moving_states import PIECE, CountingBackend, Runner, alone, prompt_of
from tailrace.engine.kv_cache import state_moves
from tailrace.engine.scheduler import prefill_budget
from tailrace.machine import free_memory


@pytest.fixture(autouse=True)
def one_piece_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a step takes, one piece follows it."""
    monkeypatch.setattr(prefill_budget, "_MOVE_PART", 0.0)
    monkeypatch.setattr(prefill_budget, "_AWAITED_MOVE_PART", 0.0)
    monkeypatch.setattr(state_moves, "_AT_ONCE_SECONDS", 0.0)


def test_a_long_prefix_leaves_and_comes_back_beside_a_reply_in_pieces() -> None:
    backend = CountingBackend(parallel=2, kv_tokens=2048)
    runner = Runner(backend)
    first, second = prompt_of(1, 400), prompt_of(2, 300)
    runner.ask(1, first, 2)
    runner.until(1)
    runner.ask(2, prompt_of(3, 20), 1500)
    while not runner.said[2]:
        runner.step()
    runner.ask(3, second, 2)
    runner.until(3)
    runner.ask(4, [*first, 99, 100], 2)
    runner.until(4)
    assert runner.cached[4] >= 400
    assert len(backend.begun) == 3, "the first prefix left and came back, and the second left for it"
    assert runner.whole_beside == [], "each of these states has many pieces"
    assert runner.said[3] == alone(second, 2)
    assert runner.said[4] == alone([*first, 99, 100], 2)
    assert runner.said[2] == alone(prompt_of(3, 20), 1500)[: len(runner.said[2])]


def test_a_prefix_whose_cells_a_reply_will_need_is_copied_before() -> None:
    backend = CountingBackend(parallel=2, kv_tokens=512)
    runner = Runner(backend)
    runner.ask(1, prompt_of(1, 250), 2)
    runner.until(1)
    runner.ask(2, prompt_of(2, 20), 300)
    runner.until(2)
    assert runner.whole_beside == []
    runner.ask(3, [*prompt_of(1, 250), 99], 2)
    runner.until(3)
    assert runner.cached[3] >= 250, "it came back from host memory"


def test_prefixes_leave_partitions_in_pieces() -> None:
    backend = CountingBackend(parallel=4, kv_tokens=4096, always_shared=False)
    runner = Runner(backend)
    prompts = {identity: prompt_of(identity, 300 + 20 * identity) for identity in range(1, 5)}
    for identity, prompt in prompts.items():
        runner.ask(identity, prompt, 2)
        runner.until(identity)
    runner.ask(9, prompt_of(3, 20), 1500)
    while not runner.said[9]:
        runner.step()
    backend.saved.clear()
    backend.begun.clear()
    later = {identity: [*prompts[identity - 10][::-1], 97] for identity in range(11, 15)}
    for identity, prompt in later.items():
        runner.ask(identity, prompt, 2)
        runner.until(identity)
    assert not backend.layout.shared
    assert 9 not in runner.ended
    assert len(backend.begun) >= 3
    assert backend.saved == [], "no prefix was copied within a step"
    assert {identity: runner.said[identity] for identity in later} == {
        identity: alone(prompt, 2) for identity, prompt in later.items()
    }


def test_a_larger_partition_waits_until_old_prefixes_are_copied() -> None:
    backend = CountingBackend(parallel=4, kv_tokens=8192, always_shared=False)
    runner = Runner(backend)
    for identity in (1, 2, 3):
        runner.ask(identity, prompt_of(identity, 300), 2)
        runner.until(identity)
    runner.ask(9, prompt_of(3, 20), 1500)
    while not runner.said[9]:
        runner.step()
    backend.saved.clear()
    backend.begun.clear()
    cells = backend.layout.cells
    runner.ask(11, prompt_of(4, 900), 2)
    runner.until(11)
    assert backend.layout.cells > cells
    assert backend.saved == []
    assert len(backend.begun) >= 2
    assert runner.said[11] == alone(prompt_of(4, 900), 2)


def _partitions_with_an_old_prefix(*, parallel: int, kv_tokens: int) -> tuple[CountingBackend, Runner, list[int]]:
    """Request 9 decodes. The prompt that is returned is in host memory, and has left its slot."""
    backend = CountingBackend(parallel=parallel, kv_tokens=kv_tokens, always_shared=False)
    runner = Runner(backend)
    first = prompt_of(1, 400)
    runner.ask(1, first, 2)
    runner.until(1)
    runner.ask(9, prompt_of(3, 20), 1500)
    while not runner.said[9]:
        runner.step()
    for identity in range(2, 2 + parallel):
        runner.ask(identity, prompt_of(identity, 300 + identity), 2)
        runner.until(identity)
    assert not backend.layout.shared
    backend.begun.clear()
    runner.whole_beside.clear()
    return backend, runner, first


def test_a_prefix_comes_back_into_a_partition_in_pieces() -> None:
    backend, runner, first = _partitions_with_an_old_prefix(parallel=2, kv_tokens=4096)
    runner.ask(20, [*first, 99], 2)
    runner.until(20)
    assert runner.cached[20] == 400
    assert len(backend.begun) == 2, "one left for it"
    assert runner.whole_beside == []
    assert runner.said[20] == alone([*first, 99], 2)
    assert 9 not in runner.ended


def test_a_reply_outgrows_its_partition_while_a_state_is_loaded() -> None:
    backend, runner, first = _partitions_with_an_old_prefix(parallel=2, kv_tokens=4096)
    layout = backend.layout
    steps_of_moves = (300 + 400) // PIECE  # A prefix leaves first.
    while len(runner.said[9]) + 20 < layout.cells - steps_of_moves + 4:
        runner.step()
    runner.ask(20, [*first, 99], 2)
    while not runner.loop._cache.loading:
        runner.step()
    load = backend.begun[-1]
    while backend.layout == layout:
        assert not load.done
        runner.step()
    assert load.done
    assert not runner.loop._cache.loading
    runner.until(20)
    assert runner.cached[20] == 400
    assert runner.said[20] == alone([*first, 99], 2)
    runner.until(9)
    assert runner.said[9] == alone(prompt_of(3, 20), 1500)


def test_a_reply_goes_on_while_its_state_is_copied_for_another_caller() -> None:
    backend = CountingBackend(parallel=2, kv_tokens=2048)
    runner = Runner(backend)
    prompts = {1: prompt_of(1, 400), 2: prompt_of(2, 380)}
    for identity, prompt in prompts.items():
        runner.ask(identity, prompt, 300, caller="A")
        while not runner.said[identity]:
            runner.step()
    runner.ask(3, prompt_of(3, 20), 20, caller="B")
    before = len(runner.said[1]) + len(runner.said[2])
    while not runner.said[3]:
        runner.step()
    pieces = 380 // PIECE
    assert len(runner.said[1]) + len(runner.said[2]) > before + 2 * pieces, "both went on while one was copied"
    for identity in (3, 1, 2):
        runner.until(identity)
    assert runner.loop.heartbeat().counters.preemptions == 1
    assert runner.whole_beside == []
    assert {identity: runner.said[identity] for identity in (1, 2)} == {
        identity: alone(prompt, 300) for identity, prompt in prompts.items()
    }
    assert runner.said[3] == alone(prompt_of(3, 20), 20)


def test_a_state_that_another_caller_waits_for_has_more_of_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefill_budget, "_AWAITED_MOVE_PART", 1e6)
    runner = Runner(CountingBackend(parallel=2, kv_tokens=2048))
    for identity in (1, 2):
        runner.ask(identity, prompt_of(identity, 400), 300, caller="A")
        while not runner.said[identity]:
            runner.step()
    runner.ask(3, prompt_of(3, 20), 20, caller="B")
    steps = 0
    while not runner.said[3]:
        runner.step()
        steps += 1
    assert steps <= 3, "all its pieces were copied after one step"


@pytest.mark.parametrize("running", [1, 2])
def test_another_caller_s_first_request_waits_for_no_step_where_a_copy_takes_little_time(running: int) -> None:
    """Its place has a running sequence, or the prefix of one that has ended."""
    backend = CountingBackend(parallel=2, kv_tokens=2048)
    runner = Runner(backend)
    for identity in (1, 2):
        runner.ask(identity, prompt_of(identity, 400), 300 if identity <= running else 2, caller="A")
        while len(runner.said[identity]) < 2:
            runner.step()
    runner.loop._cache.pieces_at_once = 400 // PIECE
    runner.ask(3, prompt_of(3, 20), 20, caller="B")
    runner.step()
    assert runner.said[3], "it begins in the first step"
    assert len(runner.whole_beside) == 1
    for identity in (3, 1):
        runner.until(identity)
    assert runner.said[3] == alone(prompt_of(3, 20), 20)
    assert runner.said[1] == alone(prompt_of(1, 400), 300)


def test_the_rest_of_a_copy_that_another_caller_waits_for_is_made_at_once() -> None:
    runner = Runner(CountingBackend(parallel=2, kv_tokens=2048))
    for identity in (1, 2):
        runner.ask(identity, prompt_of(identity, 400), 300, caller="A")
        while not runner.said[identity]:
            runner.step()
    cache = runner.loop._cache
    cache.pieces_at_once = 0
    runner.ask(3, prompt_of(3, 20), 20, caller="B")
    while cache.leaving is None or cache.leaving.pieces < 4:
        runner.step()
    leaving = cache.leaving
    leaving, cache.pieces_at_once = cache.leaving, 400 // PIECE - 3
    runner.step()
    assert runner.said[3]
    assert not leaving.copied
    runner.until(3)
    for identity in (1, 2):
        runner.until(identity)
        assert runner.said[identity] == alone(prompt_of(identity, 400), 300)


def test_a_state_whose_pieces_take_long_is_never_copied_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        now, tick = 0.0, 0.0

        def monotonic(self) -> float:
            self.now += self.tick
            return self.now

    monkeypatch.setattr(state_moves, "_AT_ONCE_SECONDS", 0.015)
    clock = Clock()
    monkeypatch.setattr(state_moves, "time", clock)
    found: list[int] = []
    for clock.tick in (0.0004, 0.02):
        runner = Runner(CountingBackend(parallel=2, kv_tokens=2048))
        runner.ask(1, prompt_of(1, 20), 300)
        for identity in (2, 3):
            runner.ask(identity, prompt_of(identity, 400), 2)
            runner.until(identity)
        found.append(runner.loop._cache.pieces_at_once)
    assert found == [18, 0]


def test_a_sequence_that_is_paused_when_cells_run_out_was_copied_before() -> None:
    backend = CountingBackend(parallel=2, kv_tokens=1024)
    runner = Runner(backend)
    prompts = {1: prompt_of(1, 300), 2: prompt_of(2, 350)}
    for identity, prompt in prompts.items():
        runner.ask(identity, prompt, 250)
    for identity in prompts:
        runner.until(identity)
    assert runner.loop.heartbeat().counters.preemptions == 1
    assert runner.whole_beside == []
    for identity, prompt in prompts.items():
        assert runner.said[identity] == alone(prompt, 250)


def test_two_requests_share_a_prefix_that_only_begins_to_be_loaded() -> None:
    backend = CountingBackend(parallel=3, kv_tokens=2048)
    runner = Runner(backend)
    first = prompt_of(1, 400)
    runner.ask(1, first, 2)
    runner.until(1)
    runner.ask(2, prompt_of(3, 20), 1500)
    for identity, kind in ((3, 2), (4, 4)):
        runner.ask(identity, prompt_of(kind, 20), 2)
        runner.until(identity)
    runner.ask(5, prompt_of(0, 20), 2)
    runner.until(5)
    runner.ask(6, [*first, 99], 2)
    runner.ask(7, [*first, 98], 2)
    runner.until(6)
    runner.until(7)
    assert (runner.cached[6], runner.cached[7]) == (400, 400)
    for identity, last in ((6, 99), (7, 98)):
        assert runner.said[identity] == alone([*first, last], 2)


@pytest.mark.parametrize("when", ["it is being loaded", "another prefix leaves for it"])
def test_a_request_that_is_cancelled_while_states_move_leaves_nothing_behind(when: str) -> None:
    backend = CountingBackend(parallel=2, kv_tokens=2048)
    runner = Runner(backend)
    first, second = prompt_of(1, 400), prompt_of(2, 300)
    runner.ask(1, first, 2)
    runner.until(1)
    runner.ask(2, prompt_of(3, 20), 1500)
    while not runner.said[2]:
        runner.step()
    runner.ask(3, second, 2)
    if when == "it is being loaded":
        runner.until(3)
        runner.ask(4, [*first, 99], 2)
        moving = runner.loop._cache.loading
    for _ in range(500):
        runner.step()
        if when == "it is being loaded":
            if moving:
                break
        elif runner.loop._cache.leaving is not None:
            break
    else:
        raise AssertionError("nothing has moved")
    runner.cancel(4 if when == "it is being loaded" else 3)
    runner.ask(5, [*first, 98], 2)
    runner.until(5)
    assert runner.said[5] == alone([*first, 98], 2)
    assert not runner.loop._cache.loading


def test_without_memory_for_a_copy_the_prefix_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = CountingBackend(parallel=2, kv_tokens=2048)
    runner = Runner(backend)
    first = prompt_of(1, 400)
    runner.ask(1, first, 2)
    runner.until(1)
    runner.ask(2, prompt_of(3, 20), 1500)
    while not runner.said[2]:
        runner.step()
    with monkeypatch.context() as scarce:
        scarce.setattr(free_memory, "_GAUGE_SECONDS", 0.0)
        scarce.setattr(free_memory, "available_memory", lambda: 1000)
        runner.ask(3, prompt_of(2, 300), 2)
        runner.until(3)
    runner.ask(4, [*first, 99], 2)
    runner.until(4)
    assert runner.cached[4] < 32
    assert runner.said[4] == alone([*first, 99], 2)


def test_replies_are_the_same_whatever_moves() -> None:
    """Conversations that come and go, are cancelled and lack memory, through a cache that is too small for them."""
    moved = 0

    @settings(max_examples=80, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.integers(0, 3),
                st.one_of(st.sampled_from([250, 330, 380]), st.integers(1, 400)),
                st.integers(1, 80),
                st.integers(0, 60),
                st.integers(0, 9),
            ),
            min_size=4,
            max_size=9,
        ),
        st.integers(1, 3),
        st.sampled_from([512, 1024, 2048]),
        st.sampled_from([0, 300, 2000]),
        st.sampled_from([600, 1 << 30]),
        st.booleans(),
    )
    def run(
        requests: list[tuple[int, int, int, int, int]],
        parallel: int,
        cells: int,
        host_tokens: int,
        available: int,
        always_shared: bool,
    ) -> None:
        nonlocal moved
        # Partitions of more cells than there are fail at once.
        available = max(available, 512) if always_shared else 1 << 30
        backend = CountingBackend(parallel=parallel, kv_tokens=cells, available=available, always_shared=always_shared)
        runner = Runner(backend, host_tokens)
        asked: dict[int, tuple[list[int], int]] = {}
        for number in range(80):
            for identity, (kind, length, max_tokens, begins, cancel) in enumerate(requests):
                if begins == number:
                    asked[identity] = prompt_of(kind, min(length, 380)), max_tokens
                    runner.ask(identity, *asked[identity], caller="AAB"[(kind + length) % 3])
                if cancel == 0 and begins + 5 == number and identity not in runner.ended:
                    runner.cancel(identity)
            runner.step()
            moved += bool(runner.loop._cache.loading or runner.loop._cache.leaving)
        for identity, (prompt, max_tokens) in asked.items():
            runner.until(identity)
            expected = alone(prompt, max_tokens)
            said = runner.said[identity]
            assert said == expected[: len(said)]
            if requests[identity][4]:
                assert said == expected

    run()
    assert moved > 20, "something moves in pieces in many steps"
