"""The usual filters and penalties against llama.cpp's samplers, applied to the same rows through the binding."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.harness.llama_samplers import LlamaChain
from logits_ops_choice import IMPLEMENTATIONS, use_implementation
from tailrace.engine.sampling.sampler import Sampler
from tailrace.generation_params import Sampling

LogitsRow = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float64]

#: Beyond 3e8 llama.cpp's sort overflows. test_sampler has tests beyond it.
_HUGE = 1e7
#: llama.cpp computes probabilities in float32.
_TOLERANCE = 2e-5


@pytest.fixture(params=IMPLEMENTATIONS, scope="module", autouse=True)
def implementation(request: pytest.FixtureRequest) -> Iterator[None]:
    """All tests run with both implementations of ``logits_ops``."""
    with use_implementation(request.param):
        yield


def _row(seed: int, size: int, spread: float, levels: int, forbidden: float) -> LogitsRow:
    """A row of random logits: ``levels`` rounds them so that many are equal, ``forbidden`` of them are -inf."""
    random = np.random.default_rng(seed)
    row: LogitsRow = random.normal(0, spread, size).astype(np.float32)
    if levels:
        row = np.round(row * np.float32(levels / spread), out=row) / np.float32(levels / spread)
    row[random.random(size) < forbidden] = -np.inf
    row[random.integers(size)] = np.float32(spread)
    return row


rows = st.builds(
    _row,
    seed=st.integers(0, 2**32),
    size=st.sampled_from([1, 2, 3, 40, 41, 300, 5000, 16_384, 20_001]),
    spread=st.sampled_from([1e-3, 0.5, 3.0, 20.0, 1e4, _HUGE]),
    levels=st.sampled_from([0, 0, 2]),
    forbidden=st.sampled_from([0.0, 0.0, 0.3, 0.999]),
)
filters = st.builds(
    Sampling,
    temperature=st.sampled_from([0.1, 0.8, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 2, 40, 1500, 2**31 - 1]),
    top_p=st.sampled_from([0.0, 0.1, 0.5, 0.95, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.05, 0.5, 1.0]),
    seed=st.just(1),
)


def _tailrace(sampler: Sampler, row: LogitsRow) -> Probabilities:
    probabilities = np.zeros(len(row))
    ids, found = sampler.distribution(row)
    probabilities[ids] = found
    return probabilities


def _sampler(params: Sampling, prompt: Seq[int], reply: Seq[int], size: int) -> Sampler:
    """A sampler that has chosen ``reply``."""
    sampler = Sampler(params, prompt)
    certain = np.zeros(size, np.float32)
    for token in reply:
        certain[token] = 1e9
        assert sampler.sample(certain) == token
        certain[token] = 0.0
    return sampler


def _agree(params: Sampling, row: LogitsRow, computed: Probabilities, upstream: Probabilities) -> None:
    """Equal within float32's precision.

    If a filter's border falls between equal logits, or within rounding of it, it isn't defined which of them stay.
    Then the remaining tokens must be the best, and the probabilities equal if both have as many.
    """
    computed, upstream = np.sort(computed)[::-1], np.sort(upstream)[::-1]
    # Below that, llama.cpp's float32 probabilities lose their digits.
    counts = int((upstream > 1e-30).sum()), int((computed > 1e-30).sum())
    if counts[0] == counts[1]:
        assert computed == pytest.approx(upstream, rel=1e-3, abs=_TOLERANCE)
        return
    # float32 sums put the border elsewhere. Only top_p adds up. One token of any size may differ, or many tiny ones.
    assert params.top_p < 1.0, (counts, params)
    mass = np.exp(np.sort(row.astype(np.float64))[::-1] - np.max(row))
    if 0 < params.top_k < len(mass):
        mass = mass[: params.top_k]
    reached = np.cumsum(mass) / mass.sum()
    low, high = sorted(counts)
    assert reached[high - 2] - reached[low - 1] <= 50 * _TOLERANCE, (counts, params)
    assert np.abs(reached[low - 1 : high] - params.top_p).min() <= 50 * _TOLERANCE, (counts, params)


@settings(max_examples=150, deadline=None)
@given(rows, filters)
def test_filters_leave_llama_cpp_s_distribution(row: LogitsRow, params: Sampling) -> None:
    with LlamaChain(len(row), params) as chain:
        upstream = chain.distribution(row)
    _agree(params, row, _tailrace(Sampler(params, []), row), upstream)


@settings(max_examples=100, deadline=None)
@given(
    rows,
    st.sampled_from([0.5, 0.9, 1.0, 1.1, 3.0]),
    st.sampled_from([-1, 0, 1, 5, 64]),
    st.sampled_from([-2.0, 0.0, 0.5, 2.0]),
    st.sampled_from([-2.0, 0.0, 0.3]),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_penalties_and_bias_change_logits_as_llama_cpp_does(
    row: LogitsRow, repeat: float, last: int, frequency: float, presence: float, biased: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    tokens = random.integers(0, len(row), 60) % random.integers(1, len(row) + 1)
    prompt, reply = tokens[:30].tolist(), tokens[30:].tolist()
    params = Sampling(
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        repeat_penalty=repeat,
        repeat_last_n=last,
        frequency_penalty=frequency,
        presence_penalty=presence,
        logit_bias={int(token): float(random.normal(0, 5)) for token in tokens[::7]} if biased else {},
        seed=1,
    )
    with LlamaChain(len(row), params, [*prompt, *reply], reply) as chain:
        upstream = chain.distribution(row)
        greedy = int(np.argmax(upstream))
    computed = _tailrace(_sampler(params, prompt, reply, len(row)), row)
    assert computed == pytest.approx(upstream, rel=1e-3, abs=_TOLERANCE)
    best = _sampler(_greedy(params), prompt, reply, len(row)).sample(row)
    assert upstream[best] == pytest.approx(upstream[greedy], rel=1e-5), "another token must be as likely"


def _greedy(params: Sampling) -> Sampling:
    return Sampling(
        temperature=0.0,
        repeat_penalty=params.repeat_penalty,
        repeat_last_n=params.repeat_last_n,
        frequency_penalty=params.frequency_penalty,
        presence_penalty=params.presence_penalty,
        logit_bias=params.logit_bias,
    )


@pytest.mark.parametrize("size", [5, 9000, 40_000])
def test_each_part_of_the_random_numbers_draws_its_token(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The draw inverts the distribution: token t is drawn by exactly its share of [0, 1)."""
    row = _row(3, size, 2.0, 0, 0.5)
    sampler = Sampler(Sampling(top_k=0, top_p=1.0, min_p=0.0, temperature=1.0), [])
    expected = _tailrace(sampler, row)
    ends = np.cumsum(expected)

    class Scripted:
        number = 0.0

        def random(self) -> float:
            return self.number

    scripted = Scripted()
    monkeypatch.setattr(sampler, "_random", scripted)
    likely = np.flatnonzero(expected > 1e-6)
    for token in likely[:: max(1, len(likely) // 50)].tolist():
        scripted.number = float(ends[token] - expected[token] / 2)
        assert sampler.sample(row) == token
    scripted.number = float(np.nextafter(1.0, 0.0))
    assert expected[sampler.sample(row)] > 0
    scripted.number = 0.0
    assert sampler.sample(row) == int(np.flatnonzero(expected)[0])
