"""The choice of a request's replica: by the prompt's cached prefix and by load."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace.server import replica_router
from tailrace.server.replica_router import ReplicaRouter

IDLE = {0: 0, 1: 0}
SYSTEM = "You are a careful assistant. " * 40


def conversation(name: str, turns: int) -> str:
    return "".join(f"user {name} says {turn} " + name * 3000 for turn in range(turns))


def test_unknown_prompts_go_where_least_is_to_do() -> None:
    router = ReplicaRouter()
    assert router.choose(conversation("a", 1), {0: 2, 1: 1, 2: 4}) == 1
    assert router.choose("short", {0: 2, 1: 1, 2: 4}) == 1
    assert router.choose([], IDLE) == 0


def test_a_conversation_stays_where_it_was_read() -> None:
    router = ReplicaRouter()
    assert router.choose(conversation("a", 1), {0: 4, 1: 0}) == 1
    for turn in range(2, 6):
        assert router.choose(conversation("a", turn), {0: 0, 1: 2}) == 1


def test_token_ids_are_known_again_too() -> None:
    router = ReplicaRouter()
    prompt = list(range(1000))
    assert router.choose(prompt, {0: 4, 1: 0}) == 1
    assert router.choose([*prompt, 5, 6, 7], {0: 0, 1: 2}) == 1
    assert router.choose([1, *prompt], {0: 0, 1: 2}) == 0, "it begins differently"


def test_a_free_replica_takes_over_what_a_full_one_has_read() -> None:
    router = ReplicaRouter()
    router.choose(conversation("a", 3), {0: 4, 1: 0})
    assert router.choose(conversation("a", 4), {0: 0, 1: 12}) == 0
    assert router.choose(conversation("a", 5), IDLE) == 0, "it has read more of it now"


def test_a_prompt_that_all_share_does_not_draw_all_to_one() -> None:
    """Streams with the same beginning, none of which ends."""
    router = ReplicaRouter()
    running = {0: 0, 1: 0}
    for number in range(16):
        running[router.choose(SYSTEM + f"Question {number}", running)] += 1
    assert running == {0: 8, 1: 8}


def test_a_replica_that_has_died_has_read_nothing() -> None:
    router = ReplicaRouter()
    router.choose(conversation("a", 1), {0: 4, 1: 0})
    router.forget(1)
    assert router.choose(conversation("a", 2), {0: 0, 1: 1}) == 0


def test_what_is_remembered_is_bounded() -> None:
    router = ReplicaRouter()
    block = replica_router._TOKEN_BLOCK
    router.choose([7] * block * 10, IDLE)
    router.choose(list(range(block * replica_router._MAX_BLOCKS)), IDLE)
    assert len(router._replicas) == replica_router._MAX_BLOCKS
    assert router.choose([7] * block * 10, {0: 4, 1: 0}) == 1, "the oldest is forgotten"


@given(
    st.lists(
        st.tuples(
            st.one_of(st.text(max_size=600), st.lists(st.integers(0, 3), max_size=200)),
            st.dictionaries(st.integers(0, 5), st.integers(0, 40), min_size=1),
        )
    )
)
def test_only_those_that_are_there_are_chosen(asked: list[tuple[str | list[int], dict[int, int]]]) -> None:
    router = ReplicaRouter()
    for prompt, loads in asked:
        assert router.choose(prompt, loads) in loads


def test_replies_to_one_prompt_are_spread_by_load() -> None:
    router = ReplicaRouter()
    loads = {0: [0, 1, 2, 3, 4], 1: [1, 2, 3, 4, 5]}
    assert router.spread("short", 5, loads) == {0: 3, 1: 2}
    assert router.spread(conversation("a", 1), 1, loads) == {0: 1}
    assert ReplicaRouter().spread("short", 1, {0: [3], 1: [0]}) == {1: 1}
