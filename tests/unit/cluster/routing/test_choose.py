"""The choice of a replica: what it never does, what makes a replica costlier, and ties."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tailrace.cluster.replica_view import ReplicaView
from tailrace.cluster.routing.choose import Choice, choose
from tailrace.cluster.routing.sent_requests import Prompt, SentRequests
from tailrace.cluster_protocol.prefix_chain import BLOCK_TOKENS
from tailrace.cluster_protocol.state import ModelLoad, ReplicaPhase, Tier

MODEL = "m"
PROMPT = Prompt(10 * BLOCK_TOKENS, tuple(range(100, 110)))

LOADS = st.builds(
    ModelLoad,
    name=st.just(MODEL),
    running=st.integers(0, 16),
    waiting=st.integers(0, 16),
    waiting_prompt_tokens=st.integers(0, 100_000),
    slots=st.integers(0, 8),
    free_tokens=st.none() | st.integers(0, 10_000),
    prefill_speed=st.sampled_from([0.0, 100.0, 3000.0]),
    decode_speed=st.sampled_from([0.0, 20.0, 900.0]),
)
TIERS: st.SearchStrategy[Tier] = st.sampled_from(["cells", "host", "disk"])
PHASES: st.SearchStrategy[ReplicaPhase] = st.sampled_from(["starting", "ready", "draining"])
HELD = st.dictionaries(st.sampled_from(list(PROMPT.chain)), TIERS)


def ready(name: str, load: ModelLoad | None = None, held: dict[int, Tier] | None = None) -> ReplicaView:
    load = load or ModelLoad(name=MODEL, slots=4)
    return ReplicaView(name, "127.0.0.1", 1, phase="ready", models={MODEL: load}, held=held or {})


def pick(*replicas: ReplicaView, sent: SentRequests | None = None, prompt: Prompt = PROMPT) -> Choice:
    choice = choose(MODEL, [prompt], replicas, sent or SentRequests())
    assert choice is not None
    return choice


def cost(replica: ReplicaView, sent: SentRequests | None = None) -> float:
    return pick(replica, sent=sent).seconds


@given(st.lists(st.tuples(LOADS, PHASES, st.booleans(), st.booleans(), HELD), max_size=6))
def test_nothing_goes_to_a_replica_that_takes_no_requests(
    states: list[tuple[ModelLoad, ReplicaPhase, bool, bool, dict[int, Tier]]],
) -> None:
    replicas = [
        ReplicaView(str(i), "h", 1, phase=phase, gone=gone, behind=behind, models={MODEL: load}, held=held)
        for i, (load, phase, gone, behind, held) in enumerate(states)
    ]
    able = [each for each in replicas if each.takes_requests and each.models[MODEL].slots]
    choice = choose(MODEL, [PROMPT], replicas, SentRequests())
    assert (choice is None) == (not able)
    assert choice is None or choice.replica in able
    assert choose("other", [PROMPT], replicas, SentRequests()) is None


@given(LOADS.filter(lambda load: load.slots > 0), HELD, st.sampled_from(list(PROMPT.chain)), TIERS)
def test_a_block_more_never_costs_more(load: ModelLoad, held: dict[int, Tier], block: int, tier: Tier) -> None:
    if held.get(block) in ("cells", "host"):
        tier = "cells"
    assert cost(ready("a", load, {**held, block: tier})) <= cost(ready("a", load, held)) + 1e-9


@given(LOADS.filter(lambda load: load.slots > 0), HELD, st.integers(0, 50_000), st.integers(0, 9), st.integers(0, 9))
def test_more_work_never_costs_less(
    load: ModelLoad, held: dict[int, Tier], tokens: int, running: int, waiting: int
) -> None:
    more = msgspec.structs.replace(
        load,
        waiting_prompt_tokens=load.waiting_prompt_tokens + tokens,
        running=load.running + running,
        waiting=load.waiting + waiting,
    )
    assert cost(ready("a", more, held)) >= cost(ready("a", load, held))


@given(LOADS.filter(lambda load: load.slots > 0), HELD, st.integers(1, 20_000))
def test_what_was_sent_never_makes_a_replica_cheaper_for_other_prompts(
    load: ModelLoad, held: dict[int, Tier], new_tokens: int
) -> None:
    sent = SentRequests()
    sent.sent(1, "a", MODEL, [Prompt(new_tokens, (1, 2, 3))], new_tokens)
    assert cost(ready("a", load, held), sent) >= cost(ready("a", load, held))


def test_the_longest_prefix_wins_while_the_load_is_equal() -> None:
    short, long = ready("a", held={100: "cells"}), ready("b", held={105: "cells"})
    choice = pick(short, long)
    assert choice.replica is long
    assert choice.new_tokens == 4 * BLOCK_TOKENS


def test_the_last_token_is_computed_in_any_case() -> None:
    assert pick(ready("a", held={109: "cells"})).new_tokens == 1


def test_waiting_work_outweighs_a_prefix() -> None:
    busy = ready("a", ModelLoad(name=MODEL, slots=4, waiting_prompt_tokens=5000), {109: "cells"})
    free = ready("b")
    assert pick(busy, free).replica is free


def test_a_full_replica_is_left_for_one_with_a_free_slot() -> None:
    full = ready("a", ModelLoad(name=MODEL, slots=2, running=2), {103: "cells"})
    free = ready("b", ModelLoad(name=MODEL, slots=2, running=1))
    assert pick(full, free).replica is free


def test_a_file_costs_its_reading_and_memory_does_not() -> None:
    assert cost(ready("a", held={109: "host"})) < cost(ready("a", held={109: "disk"})) < cost(ready("a"))


def test_a_slow_file_is_not_read() -> None:
    slow = ready("a", ModelLoad(name=MODEL, slots=4, prefill_speed=1000.0, disk_speed=10.0), {109: "disk"})
    assert pick(slow).new_tokens == PROMPT.tokens


def test_ties_go_to_the_fewest_running_then_to_the_emptiest() -> None:
    spread = ready("a", ModelLoad(name=MODEL, slots=4), {1: "cells"})
    assert pick(spread, ready("b")).replica.id == "b"
    assert pick(ready("b"), ready("a")).replica.id == "a"


def test_a_replica_that_has_to_drop_prefixes_is_left_for_one_that_has_not() -> None:
    full = ready("a", ModelLoad(name=MODEL, slots=4, free_tokens=0), {100: "cells"})
    empty = ready("b", ModelLoad(name=MODEL, slots=4, free_tokens=10_000))
    assert pick(full, empty).replica is empty


def test_a_new_replica_counts_as_fast_as_the_others() -> None:
    """Else it would get no request, and would never measure its speed."""
    measured = ModelLoad(name=MODEL, slots=4, prefill_speed=9000.0, decode_speed=900.0, reply_tokens=10.0)
    used, new = ready("a", measured, {1: "cells"}), ready("b")
    assert pick(used, new).replica is new
    assert cost(used) == pick(used, new).seconds


def test_a_chance_difference_of_speeds_decides_nothing_and_a_real_one_does() -> None:
    def at(speed: float) -> ModelLoad:
        return ModelLoad(name=MODEL, slots=4, prefill_speed=speed)

    held: dict[int, Tier] = {1: "cells"}
    assert pick(ready("a", at(1500.0), held), ready("b", at(1000.0))).replica.id == "b"
    assert pick(ready("a", at(9000.0), held), ready("b", at(100.0))).replica.id == "a"


def test_requests_of_one_moment_are_spread() -> None:
    replicas, sent = [ready("a"), ready("b"), ready("c")], SentRequests()
    for request in range(6):
        choice = pick(*replicas, sent=sent, prompt=Prompt(500, tuple(range(1000 * request, 1000 * request + 7))))
        sent.sent(request, choice.replica.id, MODEL, [], choice.new_tokens)
    assert [sent.of(each.id, MODEL).sequences for each in replicas] == [2, 2, 2]


def test_a_short_prefix_of_many_requests_is_soon_held_by_all() -> None:
    replicas, sent = [ready("a", held={100: "cells"}), ready("b"), ready("c")], SentRequests()
    for request in range(12):
        prompt = Prompt(2 * BLOCK_TOKENS, (100, 500 + request))
        choice = pick(*replicas, sent=sent, prompt=prompt)
        sent.sent(request, choice.replica.id, MODEL, [prompt], choice.new_tokens)
    assert min(sent.of(each.id, MODEL).sequences for each in replicas) >= 3


def test_a_conversation_comes_back_before_its_state_does() -> None:
    a, b, sent = ready("a"), ready("b"), SentRequests()
    sent.sent(1, "b", MODEL, [PROMPT], PROMPT.tokens)
    sent.begun(1)
    longer = replace(PROMPT, tokens=PROMPT.tokens + 10)
    assert pick(a, b, sent=sent, prompt=longer).replica is b


def test_what_has_ended_leaves_nothing() -> None:
    sent = SentRequests()
    sent.sent(1, "a", MODEL, [PROMPT], 5)
    sent.sent(2, "a", MODEL, [PROMPT], 7, sequences=3)
    sent.begun(1)
    assert (sent.of("a", MODEL).unbegun, sent.of("a", MODEL).unbegun_tokens) == (3, 7)
    sent.ended(1)
    sent.ended(1)
    assert (sent.of("a", MODEL).sequences, sent.of("a", MODEL).blocks[100]) == (3, 1)
    sent.ended(2)
    assert (sent.of("a", MODEL).sequences, dict(sent.of("a", MODEL).blocks)) == (0, {})
