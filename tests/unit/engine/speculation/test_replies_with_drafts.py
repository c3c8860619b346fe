"""Speculation in the engine loop: no reply changes by drafts, and copies take fewer steps."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loop_runs import LoopRun, context_backend, lookup_speculator
from simulated_passes import PassSeconds, compute_bound, memory_bound
from tailrace.engine.backends.fake import FakeBackend
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.prompt_text import PromptText
from tailrace.protocol import EngineCounters, Submit

#: Every sampler that has state, a history, or random numbers of its own.
SAMPLERS: list[dict[str, Any]] = [
    {"dry_multiplier": 0.8, "dry_penalty_last_n": -1, "dry_sequence_breakers": ("ab", "f")},
    {"xtc_probability": 0.5, "xtc_threshold": 0.05},
    {"mirostat": 1, "mirostat_tau": 2.0},
    {"mirostat": 2, "mirostat_tau": 2.0, "mirostat_eta": 0.5},
    {"samplers": ("penalties", "min_p", "adaptive_p"), "adaptive_target": 0.3},
    {"dynatemp_range": 0.6, "typical_p": 0.9},
]

SUBMITS = st.lists(
    st.builds(
        lambda prompt, max_tokens, temperature, penalty, stop, logprobs, samplers: {
            "prompt": [97 + letter for letter in prompt],
            "max_tokens": max_tokens,
            "sampling": Sampling(
                temperature=temperature,
                seed=7,
                repeat_penalty=penalty,
                frequency_penalty=penalty - 1,
                **samplers,
            ),
            "stop_tokens": stop,
            "logprobs": logprobs,
        },
        st.lists(st.integers(0, 5), min_size=1, max_size=60),
        st.integers(1, 150),
        st.sampled_from([0.0, 0.0, 0.7]),
        st.sampled_from([1.0, 1.0, 1.3]),
        st.sampled_from([(), (ord("f"),)]),
        st.sampled_from([None, None, 2]),
        st.sampled_from([{}, {}, *SAMPLERS]),
    ),
    min_size=1,
    max_size=6,
)


#: Kinds of memory by how they drop rejected tokens: a cut, a checkpoint from before the step, snapshots of the last
#: tokens.
MEMORIES: list[dict[str, Any]] = [
    {},
    {"memory": "recurrent"},
    {"memory": "hybrid", "snapshots": 3},
    {"memory": "recurrent", "snapshots": 32},
]


@settings(max_examples=60, deadline=None)
@given(SUBMITS, st.sampled_from([memory_bound, compute_bound]), st.integers(0, 30), st.sampled_from(MEMORIES))
def test_every_reply_is_the_same_with_and_without_drafts(
    submits: list[dict[str, Any]], pass_seconds: PassSeconds, cancelled_after: int, memory: dict[str, Any]
) -> None:
    plain = LoopRun(context_backend(), None)
    drafted = LoopRun(context_backend(**memory), lookup_speculator(pass_seconds))
    for run in (plain, drafted):
        for identity, fields in enumerate(submits):
            params = deepcopy(fields)
            run.submit(Submit(id=identity, prompt=params.pop("prompt"), params=GenerationParams(**params)))
        for _ in range(cancelled_after):
            run.step()
        run.loop.inbox.put(0)
        run.finish()
    for identity in range(1, len(submits)):
        assert drafted.tokens[identity] == plain.tokens[identity]
        assert drafted.finished[identity] == plain.finished[identity]
        assert drafted.logprobs[identity] == plain.logprobs[identity]
    common = min(len(plain.tokens[0]), len(drafted.tokens[0]))
    assert drafted.tokens[0][:common] == plain.tokens[0][:common]


@pytest.mark.parametrize("memory", MEMORIES, ids=str)
def test_drafts_save_steps_with_each_kind_of_memory(memory: dict[str, Any]) -> None:
    prompt = [97 + place % 6 for place in range(60)]
    params = GenerationParams(max_tokens=150, ignore_eos=True, sampling=Sampling(temperature=0.0))
    runs = []
    for speculator in (None, lookup_speculator()):
        run = LoopRun(context_backend(**memory), speculator)
        run.submit(Submit(id=0, prompt=list(prompt), params=params))
        counters = run.finish()
        runs.append((run, counters))
    (plain, _), (drafted, counters) = runs
    assert drafted.tokens == plain.tokens
    assert 30 < counters.accepted_tokens < counters.draft_tokens
    # Without checkpoints every accepted token saves a step. With them, a rejected one costs no step either: the next
    # step computes the accepted tokens together with the new one.
    assert drafted.steps + counters.accepted_tokens == plain.steps


@pytest.mark.parametrize("samplers", SAMPLERS, ids=str)
def test_accepted_drafts_leave_a_samplers_state_as_single_steps_do(samplers: dict[str, Any]) -> None:
    """At a low temperature enough draft tokens are accepted that the state advances several times in one pass."""
    plain, drafted = LoopRun(context_backend(ctx=600), None), LoopRun(context_backend(ctx=600), lookup_speculator())
    drawn = {"temperature": 0.2, "seed": 5, **samplers}
    for run in (plain, drafted):
        for identity in range(3):
            prompt = [97, 98, 99, 100 + identity] * 12
            run.submit(
                Submit(
                    id=identity,
                    prompt=prompt,
                    params=GenerationParams(max_tokens=300, ignore_eos=True, sampling=Sampling(**drawn)),
                )
            )
    plain.finish()
    assert drafted.finish().accepted_tokens > 5
    assert drafted.tokens == plain.tokens


@pytest.mark.parametrize("kv_tokens", [400, 0])
def test_replies_stay_the_same_when_sequences_are_paused(kv_tokens: int) -> None:
    plain, drafted = (
        LoopRun(context_backend(kv_tokens=kv_tokens), None),
        LoopRun(context_backend(kv_tokens=kv_tokens), lookup_speculator()),
    )
    for run in (plain, drafted):
        for identity in range(4):
            run.submit(
                Submit(
                    id=identity,
                    prompt=[97, 98, 99 + identity] * 20,
                    params=GenerationParams(max_tokens=250, ignore_eos=True, sampling=Sampling(temperature=0.0)),
                )
            )
        run.finish()
    assert drafted.tokens == plain.tokens
    assert drafted.loop.heartbeat().counters.accepted_tokens > 0
    assert (drafted.loop.heartbeat().counters.preemptions > 0) == (kv_tokens == 400)


def echo(pass_seconds: PassSeconds, *, streams: int = 1) -> tuple[LoopRun, EngineCounters]:
    """The run of a backend that repeats its prompt."""
    run = LoopRun(FakeBackend(ctx=2048, parallel=8, kv_tokens=0, batch=512), lookup_speculator(pass_seconds))
    for identity in range(streams):
        text = "".join(f"line {number} of {identity}; " for number in range(30))
        run.submit(
            Submit(id=identity, prompt=PromptText(text), params=GenerationParams(sampling=Sampling(temperature=0.0)))
        )
    return run, run.finish()


def test_a_copy_takes_a_fraction_of_the_steps_and_is_counted() -> None:
    run, counters = echo(memory_bound)
    assert len(run.tokens[0]) > 400
    assert run.steps < len(run.tokens[0]) / 5
    assert counters.accepted_tokens > 0.8 * len(run.tokens[0])
    assert counters.accepted_tokens <= counters.draft_tokens <= 16 * counters.drafts
    assert counters.decode_tokens == len(run.tokens[0]) + 1


def test_nothing_is_drafted_if_tokens_cost_what_they_bring() -> None:
    _, counters = echo(compute_bound)
    # Each draft length may be tried once, because its cost is unknown.
    assert counters.draft_tokens < 60


def test_all_copies_draft_together() -> None:
    run, counters = echo(memory_bound, streams=4)
    assert counters.accepted_tokens > 0.8 * sum(map(len, run.tokens.values()))


def test_a_prediction_is_drafted() -> None:
    reply = "".join(chr(33 + (number * 37) % 90) for number in range(400))
    for prediction, min_accepted in ((None, 0), (reply[:200] + "~" + reply[201:], 150)):
        run = LoopRun(FakeBackend(ctx=2048, parallel=1, kv_tokens=0, batch=512), lookup_speculator())
        # Written as escapes, so that the prompt doesn't contain the reply.
        script = "".join(f"\\x{ord(letter):02x}" for letter in reply)
        prompt = PromptText(f"<say>{script}</say>")
        run.submit(
            Submit(
                id=1, prompt=prompt, params=GenerationParams(prediction=prediction, sampling=Sampling(temperature=0.0))
            )
        )
        counters = run.finish()
        assert bytes(run.tokens[1]).decode() == reply
        # The alphabet is repeated, so there are drafts from the reply itself, too.
        accepted = sum(predicted.accepted for predicted in run.predicted)
        assert min_accepted <= accepted <= min(counters.accepted_tokens, 400 if prediction else 0)
        rejected = sum(predicted.rejected for predicted in run.predicted)
        assert (rejected > 0) == (prediction is not None), "where the one letter differs, a draft token was rejected"
        assert all(predicted.id == 1 for predicted in run.predicted)
