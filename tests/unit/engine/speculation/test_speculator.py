"""Speculation: when drafts are made, and that no reply changes by them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contexts import ContextBackend
from pricing import Price, PricedSpeculator, dear, free, slowly
from tailrace.engine.backends.base import Logits
from tailrace.engine.backends.fake import FakeBackend
from tailrace.engine.loop import EngineLoop
from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.acceptance import LEVELS, Acceptance
from tailrace.engine.speculation.draft_model import DraftModel
from tailrace.engine.speculation.pass_cost import PassCost
from tailrace.engine.speculation.prompt_lookup import LookupDrafter
from tailrace.engine.speculation.speculator import Speculator
from tailrace.engine.submission import prepare_sequence
from tailrace.errors import ConfigurationError
from tailrace.prompt_text import PromptText
from tailrace.protocol import EngineCounters, Finished, GenerationParams, Predicted, Sampling, Submit, TokenLogprobs


class Run:
    """A loop and what it said."""

    def __init__(self, backend: FakeBackend, speculator: Speculator | None) -> None:
        self.backend = backend
        self.loop = EngineLoop(
            backend, prefill_chunk=64, step_seconds=1.0, host_cache_tokens=1000, speculator=speculator
        )
        self.tokens: dict[int, list[int]] = {}
        self.logprobs: dict[int, list[TokenLogprobs]] = {}
        self.finished: dict[int, Finished] = {}
        self.predicted: list[Predicted] = []
        self.steps = 0

    def ask(self, submit: Submit) -> None:
        sequence = prepare_sequence(self.backend, submit)
        assert isinstance(sequence, Sequence)
        self.tokens[submit.id] = []
        self.logprobs[submit.id] = []
        self.loop.inbox.put(sequence)

    def step(self) -> None:
        self.loop.take()
        if (step := self.loop.step()) is None:
            return
        self.steps += 1
        for index, (identity, token) in enumerate(zip(step.ids, step.tokens, strict=True)):
            self.tokens[identity].append(token)
            if index in step.logprobs:
                self.logprobs[identity].append(step.logprobs[index])
        self.predicted += step.predicted
        for finished in step.finished:
            assert finished.id not in self.finished
            self.finished[finished.id] = finished

    def finish(self) -> EngineCounters:
        while self.loop.has_work:
            self.step()
        return self.loop.heartbeat().counters


def lookup(price: Price = free) -> Speculator:
    return PricedSpeculator(LookupDrafter(), price)


def contexts(**options: Any) -> ContextBackend:
    return ContextBackend(**{"ctx": 400, "parallel": 4, "kv_tokens": 0, "batch": 64, **options})


#: Each of those that have state, a history, or random numbers of their own.
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
        lambda prompt, most, temperature, penalty, stop, logprobs, samplers: {
            "prompt": [97 + letter for letter in prompt],
            "max_tokens": most,
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


@settings(max_examples=40, deadline=None)
@given(SUBMITS, st.sampled_from([free, dear]), st.integers(0, 30))
def test_every_reply_is_the_same_with_and_without_drafts(
    submits: list[dict[str, Any]], price: Price, cancelled_after: int
) -> None:
    plain, drafted = Run(contexts(), None), Run(contexts(), lookup(price))
    for run in (plain, drafted):
        for identity, fields in enumerate(submits):
            params = deepcopy(fields)
            run.ask(Submit(id=identity, prompt=params.pop("prompt"), params=GenerationParams(**params)))
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


@pytest.mark.parametrize("samplers", SAMPLERS, ids=str)
def test_right_guesses_leave_a_samplers_state_as_single_steps_do(samplers: dict[str, Any]) -> None:
    """Enough of them are right, at a low temperature, that the state goes on through rows of one pass."""
    plain, drafted = Run(contexts(ctx=600), None), Run(contexts(ctx=600), lookup())
    drawn = {"temperature": 0.2, "seed": 5, **samplers}
    for run in (plain, drafted):
        for identity in range(3):
            prompt = [97, 98, 99, 100 + identity] * 12
            run.ask(
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
    plain, drafted = Run(contexts(kv_tokens=kv_tokens), None), Run(contexts(kv_tokens=kv_tokens), lookup())
    for run in (plain, drafted):
        for identity in range(4):
            run.ask(
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


def echo(price: Price, *, streams: int = 1) -> tuple[Run, EngineCounters]:
    """A backend that says its prompt again."""
    run = Run(FakeBackend(ctx=2048, parallel=8, kv_tokens=0, batch=512), lookup(price))
    for identity in range(streams):
        text = "".join(f"line {number} of {identity}; " for number in range(30))
        run.ask(
            Submit(id=identity, prompt=PromptText(text), params=GenerationParams(sampling=Sampling(temperature=0.0)))
        )
    return run, run.finish()


def test_a_copy_takes_a_fraction_of_the_steps_and_is_counted() -> None:
    run, counters = echo(free)
    assert len(run.tokens[0]) > 400
    assert run.steps < len(run.tokens[0]) / 5
    assert counters.accepted_tokens > 0.8 * len(run.tokens[0])
    assert counters.accepted_tokens <= counters.draft_tokens <= 16 * counters.drafts
    assert counters.decode_tokens == len(run.tokens[0]) + 1


def test_nothing_is_drafted_where_tokens_cost_what_they_bring() -> None:
    _, counters = echo(dear)
    # What is unknown is tried: each length may be, once.
    assert counters.draft_tokens < 60


def test_all_copies_draft_together() -> None:
    run, counters = echo(free, streams=4)
    assert counters.accepted_tokens > 0.8 * sum(map(len, run.tokens.values()))


class Sure:
    """Guesses for the sequences with an even id, and is always right."""

    watches = True
    belief = (1.0,) * LEVELS

    def begin(self, sequence: Sequence) -> None: ...

    def prepare(self, sequence: Sequence) -> int | None:
        return 100 if sequence.id % 2 == 0 else None

    def draft(self, wanted: list[tuple[Sequence, int]]) -> None:
        for sequence, length in wanted:
            sequence.draft = [1] * length

    def seconds(self, drafting: int, length: int) -> float:
        return 0.0

    def learn(self, sequence: Sequence, chosen: list[int], acceptance: Acceptance) -> None: ...

    def end(self, sequence: Sequence) -> None: ...


def proposed(
    price: Price,
    running: int = 1,
    *,
    limit: int = 400,
    room: int = 300,
    total: int = 300,
    busy: bool = False,
    equal_split: bool = False,
    most: int = 16,
) -> list[int]:
    """The lengths of the drafts of so many sequences whose ids count from 0."""
    speculator = PricedSpeculator(Sure(), price, most=most)
    sequences = []
    for identity in range(running):
        sequence = Sequence(Submit(id=identity, prompt=[1]), [1] * 100, limit, frozenset())
        sequence.computed = 99
        speculator.begin(sequence)
        sequences.append(sequence)
    for tokens in (1, 2, 3, 4, 6, 8, 17, 33, 64):
        for _ in range(10):
            speculator.observe([tokens], 1, 0.0)
    speculator.propose(sequences, lambda _: room, total, busy=busy, equal_split=equal_split)
    return [len(sequence.draft) for sequence in sequences]


def test_a_draft_is_as_long_as_it_pays_and_fits() -> None:
    assert proposed(free) == [16]
    assert proposed(slowly) == [16]
    assert proposed(dear) == [0]
    assert proposed(free, limit=105) == [4], "the last token needs no draft"
    assert proposed(free, limit=101) == [0]
    assert proposed(free, room=3) == [3]
    assert proposed(free, total=5) == [4], "lengths are tried in steps"


def test_a_draft_risks_a_few_steps_time_at_most() -> None:
    def half_price(tokens: int) -> float:
        return 0.4 + 0.6 * tokens

    # 17 tokens would take 10.6 steps' time and bring 17, if all guesses are right.
    assert proposed(half_price) == [8]


def test_nobody_pays_for_another_one_s_drafts() -> None:
    assert proposed(free, 3) == [16, 0, 16]
    assert proposed(slowly, 3) == [0, 0, 0]
    assert proposed(slowly, busy=True) == [0], "nor does a prompt that is read or waits"
    assert proposed(free, busy=True) == [16]


def test_where_unequal_sequences_take_two_passes_only_equal_ones_draft() -> None:
    assert proposed(free, 3, equal_split=True) == [0, 0, 0]
    assert proposed(free, 1, equal_split=True) == [16]


def test_a_prediction_is_where_guesses_come_from() -> None:
    reply = "".join(chr(33 + (number * 37) % 90) for number in range(400))
    for prediction, least in ((None, 0), (reply[:200] + "~" + reply[201:], 150)):
        run = Run(FakeBackend(ctx=2048, parallel=1, kv_tokens=0, batch=512), lookup())
        # Written as escapes, so that the prompt doesn't contain the reply.
        script = "".join(f"\\x{ord(letter):02x}" for letter in reply)
        prompt = PromptText(f"<say>{script}</say>")
        run.ask(
            Submit(
                id=1, prompt=prompt, params=GenerationParams(prediction=prediction, sampling=Sampling(temperature=0.0))
            )
        )
        counters = run.finish()
        assert bytes(run.tokens[1]).decode() == reply
        # The alphabet comes again and again, so there are guesses from the reply itself too.
        told = sum(predicted.accepted for predicted in run.predicted)
        assert least <= told <= min(counters.accepted_tokens, 400 if prediction else 0)
        missed = sum(predicted.rejected for predicted in run.predicted)
        assert (missed > 0) == (prediction is not None), "where the one letter differs, a guess was wrong"
        assert all(predicted.id == 1 for predicted in run.predicted)


def test_a_draft_model_that_is_the_model_itself_is_always_right() -> None:
    plain = Run(contexts(), None)
    drafting = contexts()
    drafted = Run(contexts(), PricedSpeculator(DraftModel(drafting, drafting.vocabulary), free, most=8))
    for run in (plain, drafted):
        for identity in range(3):
            run.ask(
                Submit(
                    id=identity,
                    prompt=[97 + identity] * 90,
                    params=GenerationParams(max_tokens=120, sampling=Sampling(temperature=0.0), ignore_eos=True),
                )
            )
        run.finish()
    assert drafted.tokens == plain.tokens
    counters = drafted.loop.heartbeat().counters
    assert counters.accepted_tokens == counters.draft_tokens > 200
    assert drafted.steps < plain.steps / 3


def test_a_draft_model_that_is_always_wrong_is_left_alone() -> None:
    class Wrong(ContextBackend):
        def decode(
            self,
            tokens: list[int],
            positions: list[int],
            slots: list[int],
            outputs: list[int],
            n_decode_tokens: int = 0,
        ) -> Logits:
            return -super().decode(tokens, positions, slots, outputs, n_decode_tokens)

    plain, drafting = Run(contexts(), None), Wrong(ctx=400, parallel=4, kv_tokens=0, batch=64)
    drafted = Run(contexts(), PricedSpeculator(DraftModel(drafting, drafting.vocabulary), free, most=8))
    for run in (plain, drafted):
        for identity in range(8):
            run.ask(
                Submit(
                    id=identity,
                    prompt=[97] * 20,
                    params=GenerationParams(max_tokens=200, ignore_eos=True, sampling=Sampling(seed=3)),
                )
            )
        run.finish()
    assert drafted.tokens == plain.tokens
    assert drafted.loop.heartbeat().counters.accepted_tokens == 0
    assert drafted.loop.heartbeat().counters.draft_tokens < 0.25 * 8 * 200


def test_a_draft_model_with_another_vocabulary_is_refused() -> None:
    backend = contexts()
    with pytest.raises(ConfigurationError, match="the model's 260"):
        DraftModel(backend, backend.vocabulary[:-1])
    with pytest.raises(ConfigurationError, match="token 97"):
        DraftModel(backend, [b"?" if piece == b"a" else piece for piece in backend.vocabulary])


def test_a_pass_s_cost_is_learned_and_follows_the_machine() -> None:
    cost = PassCost()
    assert not cost.known
    for _ in range(50):
        cost.observe(1, 0.01)
        cost.observe(9, 0.03)
    assert cost.seconds(1) == pytest.approx(0.01, rel=0.01)
    assert cost.seconds(5) == pytest.approx(0.02, rel=0.05), "between two known sizes"
    assert 0.03 < cost.seconds(17) < 0.06, "beyond them a low guess"
    for _ in range(200):
        cost.observe(1, 0.02)
    assert cost.seconds(1) == pytest.approx(0.02, rel=0.01)
    assert cost.seconds(9) > 0.033, "what slows one size slows the others"
    cost.observe(1, 100.0)
    assert cost.seconds(1) < 0.04, "one step that lost its core says little"
